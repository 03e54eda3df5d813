"""Where a job's script comes from, and what of that can be checked while a DAG is parsed."""

from __future__ import annotations

from typing import TypeGuard

from airflow_provider_csc.errors import ConfigError

# A `script` that ends with one of these is the name of a file.
TEMPLATE_EXTENSIONS = (".sh", ".sbatch", ".slurm")


def check_source(
    *, command: object = None, script: object = None, remote_script: object = None
) -> None:
    """
    Check that exactly one of command, script and remote_script is given.

    :raises ConfigError: naming those that are, and the remedy.
    """
    sources = {"command": command, "script": script, "remote_script": remote_script}
    given = [name for name, value in sources.items() if value is not None]
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
