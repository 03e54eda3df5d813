"""What a DAG author asks for, and what of that can be checked at once while a DAG is parsed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeGuard

from airflow_provider_csc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A `script` that ends with one of these is the name of a file.
TEMPLATE_EXTENSIONS = (".sh", ".sbatch", ".slurm")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What a DAG author asked for; exactly one of the first three is given."""

    command: str | Sequence[str] | None = None
    script: str | None = None
    remote_script: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    env: Mapping[str, object] | None = None
    modules: Sequence[str] | None = None
    environment: str | None = None
    work_dir: str | None = None
    job_name: str | None = None
    array_logs: str = "failed"


def check_source(spec: JobSpec) -> None:
    """
    Check that exactly one of command, script and remote_script is given.

    :raises ConfigError: naming those that are, and the remedy.
    """
    sources = ("command", "script", "remote_script")
    given = [name for name in sources if getattr(spec, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise ConfigError(
            f"Give exactly one of command, script and remote_script; given: {found}.",
            field="command",
            value=given,
        )


def is_template_file(script: object) -> TypeGuard[str]:
    """Whether a `script` is the name of a file rather than a script."""
    return isinstance(script, str) and "\n" not in script and script.endswith(TEMPLATE_EXTENSIONS)


def check_template_file(script: str) -> None:
    """
    Refuse a `script` that is still the name of a file.

    :raises ConfigError: naming it, and where such files are looked for.
    """
    if is_template_file(script):
        raise ConfigError(
            f"script: the template file {script!r} was not found. Its path is relative to the DAG "
            "file's directory, or to one in the DAG's template_searchpath.",
            field="script",
            value=script,
        )
