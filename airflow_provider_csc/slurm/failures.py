"""
Why a job failed: one reason for each kind of end, and the exception that stands for it.

The table of all of them is docs/states.md, which `tests.support.state_tables` writes from here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_provider_csc import errors
from airflow_provider_csc.slurm.result import NOT_STARTED, describe_result, to_xcom

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.result import JobResult


class FailureReason(StrEnum):
    """Why a job did not end with success; the values are a stored format."""

    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    NODE_FAILURE = "node_failure"
    BOOT_FAILURE = "boot_failure"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    TASK_LIMIT = "task_limit"
    DEPENDENCY = "dependency"
    HELD = "held"
    LAUNCH_FAILURE = "launch_failure"
    DEADLINE = "deadline"
    CONTRADICTION = "contradiction"
    UNKNOWN = "unknown"
    REJECTED = "rejected"


_BY_STATE = {
    "OUT_OF_MEMORY": FailureReason.OUT_OF_MEMORY,
    "TIMEOUT": FailureReason.TIME_LIMIT,
    "NODE_FAIL": FailureReason.NODE_FAILURE,
    "BOOT_FAIL": FailureReason.BOOT_FAILURE,
    "PREEMPTED": FailureReason.PREEMPTED,
    "DEADLINE": FailureReason.DEADLINE,
}

_BY_LIMIT = {"held": FailureReason.HELD, "dependency": FailureReason.DEPENDENCY}


def failure_of(result: JobResult) -> FailureReason | None:
    """Return why a job failed; None for a success. What is in no table is UNKNOWN."""
    match result.state:
        case "COMPLETED":
            return None
        case "CANCELLED":
            return _why_cancelled(result)
        case "FAILED":
            return _why_failed(result)
        case state:
            return _BY_STATE.get(state, FailureReason.UNKNOWN)


def _why_cancelled(result: JobResult) -> FailureReason:
    if result.limit:
        return _by_limit(result.limit)
    if result.is_cancelled_for_its_dependency:
        return FailureReason.DEPENDENCY
    return FailureReason.CANCELLED


def _why_failed(result: JobResult) -> FailureReason:
    if result.contradiction:
        return FailureReason.CONTRADICTION
    if result.limit and result.is_cancelled_by_task:
        return _by_limit(result.limit)
    if result.signal == NOT_STARTED:
        return FailureReason.LAUNCH_FAILURE
    return FailureReason.SIGNAL if result.signal else FailureReason.EXIT_CODE


def _by_limit(limit: str) -> FailureReason:
    return _BY_LIMIT.get(limit, FailureReason.TASK_LIMIT)


ERRORS: dict[FailureReason, type[errors.JobFailedError]] = {
    FailureReason.EXIT_CODE: errors.JobExitCodeError,
    FailureReason.SIGNAL: errors.JobSignalError,
    FailureReason.OUT_OF_MEMORY: errors.JobOutOfMemoryError,
    FailureReason.TIME_LIMIT: errors.JobTimeLimitError,
    FailureReason.NODE_FAILURE: errors.JobNodeFailureError,
    FailureReason.BOOT_FAILURE: errors.JobBootFailureError,
    FailureReason.PREEMPTED: errors.JobPreemptedError,
    FailureReason.CANCELLED: errors.JobCancelledError,
    FailureReason.TASK_LIMIT: errors.JobTaskLimitError,
    FailureReason.DEPENDENCY: errors.JobDependencyError,
    FailureReason.HELD: errors.JobHeldError,
    FailureReason.LAUNCH_FAILURE: errors.JobLaunchFailureError,
    FailureReason.DEADLINE: errors.JobDeadlineError,
    FailureReason.CONTRADICTION: errors.JobContradictionError,
    FailureReason.UNKNOWN: errors.JobUnknownError,
}
"""The exception of each reason; REJECTED has none here, for then there never was a job."""


def error_for(result: JobResult, **details: object) -> errors.JobFailedError:
    """
    Return the exception that stands for a failed job, ready to be raised.

    It carries what the result tells and ``details`` (such as the history of resubmissions).

    :raises ValueError: for a success, which no exception stands for.
    """
    failure = failure_of(result)
    if failure is None:
        raise ValueError(f"job {result.job_id} ended {result.state}, which is no failure")
    return ERRORS[failure](
        describe_result(result), **(to_xcom(result) | _data(result) | details), failure=str(failure)
    )


_MORE = (
    *("limit", "cancelled_by", "requested_memory", "memory_bytes", "time_limit_minutes"),
    *("contradiction", "without_accounting", "restarts"),
)


def _data(result: JobResult) -> dict[str, object]:
    return {name: getattr(result, name) for name in _MORE}
