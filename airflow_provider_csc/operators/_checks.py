"""What is checked of an operator's arguments while the DAG is parsed."""

from __future__ import annotations

from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG_CHOICES = ("failed", "all", "none")


def check_seconds(name: str, value: object) -> None:
    """Refuse what is no length of time."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    is_length = (
        isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < inf
    )
    if value is not None and not is_length:
        raise ConfigError(
            f"{name}: {value!r} is no length of time. Give seconds, or a timedelta, of 0 or more.",
            field=name,
            value=value,
        )


def check_names(given: Mapping[str, object]) -> None:
    """Refuse a name that Airflow keeps for itself, and a reader would take for this operator's."""
    if given.get("resources") is not None:
        raise ConfigError(
            f"resources: {given['resources']!r} would go to Airflow's own argument of that name, "
            "which means an executor's. Give it as job_resources.",
            field="resources",
            value=given["resources"],
        )


def check_array(array_logs: object, max_failed_tasks: object) -> None:
    """Refuse what cannot be said of a job array."""
    if array_logs not in _LOG_CHOICES:
        raise ConfigError(
            f"array_logs: {array_logs!r} is no choice. Write 'failed', 'all' or 'none'.",
            field="array_logs",
            value=array_logs,
        )
    if max_failed_tasks != 0:
        from airflow_provider_csc.slurm.array_record import check_failure_limit  # noqa: PLC0415

        check_failure_limit(max_failed_tasks)


def check_coalesce(
    *,
    deferrable: bool,
    wait_for_completion: bool,
    remote_script: object,
    depends_on: object,
    coalesce_seconds: object,
) -> None:
    """Refuse what cannot be said of a job that is submitted with others, from the triggerer."""
    check_seconds("coalesce_seconds", coalesce_seconds)
    problems = {
        "deferrable": (
            deferrable,
            not deferrable,
            "jobs are gathered in the triggerer. Say deferrable=True",
        ),
        "wait_for_completion": (
            wait_for_completion,
            not wait_for_completion,
            "the triggerer submits and waits in one go. Leave wait_for_completion=False out",
        ),
        "remote_script": (
            remote_script,
            remote_script is not None,
            "a script on the cluster is not read before. Give it as `script` or `command`",
        ),
        "depends_on": (
            depends_on,
            depends_on is not None,
            "the jobs of an array start as one. Let Airflow start them when the others are over",
        ),
    }
    for name, (value, is_problem, why) in problems.items():
        if is_problem:
            raise ConfigError(
                f"coalesce: it does not go together with {name}={value!r}, for {why}, or leave "
                "coalesce=True out.",
                field="coalesce",
                value=value,
            )


def check_policy(on_failure: object) -> None:
    """Refuse what is no retry policy."""
    from airflow_provider_csc.slurm.policy import SlurmRetryPolicy  # noqa: PLC0415

    if not isinstance(on_failure, SlurmRetryPolicy):
        raise ConfigError(
            f"on_failure: {on_failure!r} is no SlurmRetryPolicy. Make one, for example "
            "SlurmRetryPolicy(infrastructure=2), or read one with SlurmRetryPolicy.from_dict.",
            field="on_failure",
            value=on_failure,
        )


def seconds_of(limit: float | timedelta | None) -> float | None:
    """Return a length of time in seconds."""
    return limit.total_seconds() if isinstance(limit, timedelta) else limit
