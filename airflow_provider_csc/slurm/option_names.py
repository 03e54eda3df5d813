"""
The names of the options a user gives for a job, which are known while a DAG is parsed.

Their values may be templates then; ``options`` reads those, and is not loaded before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.slurm.option_table import ALIASES, OPTIONS, RESERVED, SHORT_FORMS

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_option_names(options: Mapping[str, object]) -> None:
    """
    Check only the names, which are known before templates are rendered.

    :raises ConfigError: for a name that is unknown, reserved, or given twice in two spellings.
    """
    canonical_names(options)


def canonical_names(options: Mapping[str, object]) -> dict[str, str]:
    """Map the long names of the options to the keys they were given by."""
    keys: dict[str, str] = {}
    for key, value in options.items():
        name = _canonical_name(key, value)
        if name in keys:
            problem = f"the option is given twice, also as {shown(keys[name])}"
            raise config_error(key, value, problem, "Leave one out.")
        keys[name] = key
    return keys


def override_options(
    options: Mapping[str, object], changes: Mapping[str, object]
) -> dict[str, object]:
    """Return the options with some of them replaced, however their names are spelled."""
    replaced = canonical_names(changes)
    kept = [key for name, key in canonical_names(options).items() if name not in replaced]
    return {**{key: options[key] for key in kept}, **changes}


def config_error(key: str, value: object, problem: str, remedy: str) -> ConfigError:
    """Return the error for one option as the user wrote it."""
    field = f"options[{shown(key)}]"
    given = "" if shown(value) in problem else f" (given {shown(value)})"
    message = f"{field}: {problem}{given}. {remedy}"
    return ConfigError(message, field=field, value=shown(value), remedy=remedy)


def _canonical_name(key: str, value: object) -> str:
    name = str(key).strip().removeprefix("--").replace("_", "-")
    name = ALIASES.get(name, name)
    if name in RESERVED:
        reason, remedy = RESERVED[name]
        raise config_error(key, value, f"--{name} cannot be set here: {reason}", remedy)
    if name not in OPTIONS:
        raise config_error(key, value, "sbatch has no such option", _suggestion(name))
    return name


def _suggestion(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only for a name that is wrong

    short = SHORT_FORMS.get(name.removeprefix("-"))
    longer = [each for each in OPTIONS if name and each.startswith(name)]
    near = [short] if short else longer[:3] or get_close_matches(name.lower(), OPTIONS)
    if not near:
        return "See sbatch(1) for the long options there are, such as 'partition' or 'time'."
    return f"Did you mean {' or '.join(map(repr, near))}?"
