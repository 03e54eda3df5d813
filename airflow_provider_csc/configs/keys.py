"""
The keys of a job's configuration, which are known while a DAG is parsed.

The models, which say what may stand there, are not loaded for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeGuard

FILE_SUFFIXES = (".yaml", ".yml")
JOB_KEYS = (
    *("modules", "venv", "command", "script", "remote_script", "options", "env", "environment"),
    *("work_dir", "job_name", "inputs", "outputs", "resources"),
)


def is_file_name(source: object) -> TypeGuard[str]:
    """Whether a configuration is the name of a file that holds it: one line with such a suffix."""
    return isinstance(source, str) and source.endswith(FILE_SUFFIXES) and "\n" not in source


def check_keys(config: Mapping[str, object]) -> None:
    """
    Check only the names, which no template changes.

    :raises ConfigError: for a key that is unknown, with the nearest one.
    """
    for key, value in config.items():
        if key not in JOB_KEYS:
            raise ConfigError(
                f"config: {describe_unknown(key, JOB_KEYS)}", field=f"config.{key}", value=value
            )
    if isinstance(options := config.get("options"), dict):
        from airflow_provider_csc.slurm.option_names import check_option_names  # noqa: PLC0415

        check_option_names(options)


def describe_unknown(key: object, known: Iterable[str]) -> str:
    """Say that a key is unknown, and which was meant."""
    names = list(known)
    near = nearest(str(key), names)
    hint = f"Did you mean {near!r}?" if near else f"Known are {', '.join(names)}."
    return f"there is no key {shown(key)}. {hint}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like one that is not."""
    from difflib import get_close_matches  # noqa: PLC0415 - only for a name that is wrong

    found = get_close_matches(name.lower().replace("-", "_"), list(known), n=1)
    return found[0] if found else None
