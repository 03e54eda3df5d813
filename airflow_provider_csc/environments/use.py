"""What a task says of the environment that its job is to run in."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

# What says how one is built: arguments of `PythonEnvironmentOperator`.
BUILD_FIELDS = (
    *("recipe", "prefix", "config", "options", "job_resources", "architecture", "cache_dir"),
)
# With one of these it is built.
_MADE_OF = ("recipe", "config")


def is_to_be_built(environment: object) -> bool:
    """Whether it says how an environment is built, rather than where one is."""
    return isinstance(environment, Mapping) and not environment.keys().isdisjoint(_MADE_OF)


def read_build(environment: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return arguments of `PythonEnvironmentOperator`.

    :raises ConfigError: for a field that it does not have, or lacks.
    """
    for name in environment:
        if name not in BUILD_FIELDS:
            near = difflib.get_close_matches(str(name), BUILD_FIELDS, n=1)
            hint = (
                f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(BUILD_FIELDS)}."
            )
            raise _refusal(name, "is no field", hint)
    if not environment.get("prefix") and not environment.get("config"):
        raise _refusal("prefix", "is missing", "Name the directory that environments go to.")
    return dict(environment)


def take_environment(
    environment: Mapping[str, Any], modules: Sequence[str] | None
) -> tuple[str, list[str]]:
    """
    Return the path and the modules of what `PythonEnvironmentOperator` returned.

    Its modules come first, because the task's own may build on them; none is loaded twice.

    :raises ConfigError: for a dict that is something else.
    """
    path, needed = environment.get("path"), environment.get("modules") or ()
    if not isinstance(path, str) or not isinstance(needed, (list, tuple)):
        raise ConfigError(
            f"environment: {shown(dict(environment))} names no environment. Give a path, what "
            "PythonEnvironmentOperator returned, or {'recipe': ..., 'prefix': ...}.",
            field="environment",
            value=dict(environment),
        )
    return path, [*needed, *(each for each in modules or () if each not in needed)]


def _refusal(name: object, problem: str, remedy: str) -> ConfigError:
    return ConfigError(f"environment: {name!r} {problem}. {remedy}", field="environment")
