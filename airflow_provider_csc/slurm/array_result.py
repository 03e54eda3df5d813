"""Sum up the results of an array's tasks into the one its task concludes with."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.slurm.array_record import (
    COMPLETED,
    ArrayRecord,
    FailureLimit,
    describe_counts,
    describe_failures,
    is_tolerable,
)
from airflow_provider_csc.slurm.failures import ERRORS, FailureReason, failure_of
from airflow_provider_csc.slurm.result import JobResult, to_xcom
from airflow_provider_csc.slurm.tres import Share, merge_shares

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow_provider_csc.errors import JobFailedError
    from airflow_provider_csc.slurm.arrays import ArraySpec

# What another submission can mend comes first, then what is no fault of the job, then the rest.
_TELLING = (
    FailureReason.OUT_OF_MEMORY,
    FailureReason.TIME_LIMIT,
    FailureReason.NODE_FAILURE,
    FailureReason.BOOT_FAILURE,
    FailureReason.LAUNCH_FAILURE,
    FailureReason.PREEMPTED,
    FailureReason.CONTRADICTION,
    FailureReason.SIGNAL,
    FailureReason.EXIT_CODE,
    FailureReason.DEADLINE,
    FailureReason.TASK_LIMIT,
    FailureReason.DEPENDENCY,
    FailureReason.HELD,
    FailureReason.CANCELLED,
    FailureReason.UNKNOWN,
)
# For these the array was cancelled as a whole; no number of failed tasks makes that a success.
_WHOLE_LIMITS = frozenset({"execution_timeout", "held", "dependency"})


def most_telling(results: Iterable[JobResult]) -> JobResult | None:
    """Return the failure that decides what to do about all of them; None where none failed."""
    return min((one for one in results if not one.is_success), key=_rank, default=None)


def _rank(result: JobResult) -> tuple[int, int]:
    """Order failures; of those for want of memory the largest comes first."""
    failure = failure_of(result)
    place = _TELLING.index(failure) if failure in _TELLING else len(_TELLING)
    return place, -(result.memory_bytes or result.max_rss_bytes or 0)


def sum_up(
    job_id: str,
    results: Sequence[JobResult],
    record: ArrayRecord,
    *,
    run_dir: str | None,
    stdout_path: str | None,
    stderr_path: str | None,
) -> JobResult:
    """
    Return one result for all tasks of a job.

    State, exit code, reason, limit and nodes are those of the most telling failure. Times are from
    the first submission and start to the last end; memory is that of the largest task, and
    ``shares`` are those of all.
    """
    telling = most_telling(results)
    base = telling or results[0]
    is_alike = telling is not None or len({one.nodes for one in results}) == 1
    start, end = _times(results, "start_time"), _times(results, "end_time")
    efficiencies = [one.memory_efficiency for one in results if one.memory_efficiency is not None]
    measured = [one.max_rss_bytes for one in results if one.max_rss_bytes is not None]
    return replace(
        base,
        job_id=job_id,
        nodes=base.nodes if is_alike else None,
        submit_time=min(_times(results, "submit_time"), default=None),
        start_time=min(start, default=None),
        end_time=max(end, default=None),
        elapsed_seconds=_seconds_between(min(start), max(end)) if start and end else None,
        cpu_efficiency=base.cpu_efficiency if len(results) == 1 else None,
        max_rss_bytes=max(measured, default=None),
        run_dir=run_dir,
        stdout_path=stdout_path,
        stderr_path=stderr_path,
        accounting="",
        array=record.to_payload(),
        memory_efficiency=max(efficiencies, default=None),
        shares=_add_shares(results),
    )


def _add_shares(results: Sequence[JobResult]) -> list[list[Any]] | None:
    """Return what all tasks were given; None where of one that ran nobody says all."""
    unknown = (one.shares is None and not _never_ran(one) for one in results)
    if any(unknown) or any(one.restarts for one in results):
        return None
    found = (Share(*share) for one in results for share in one.shares or ())
    return [list(each) for each in merge_shares(found)]


def _never_ran(result: JobResult) -> bool:
    """Whether it was cancelled in the queue, of which accounting may keep no trace."""
    return result.state == "CANCELLED" and result.start_time is None


def _times(results: Sequence[JobResult], name: str) -> list[str]:
    # All of them are ISO 8601 in UTC, whose order is that of the text.
    return [time for time in (getattr(one, name) for one in results) if time]


def _seconds_between(start: str, end: str) -> int:
    return int((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())


def is_wholly_cancelled(telling: JobResult | None) -> bool:
    """Whether this task cancelled the array as such, not single tasks of it."""
    return telling is not None and telling.limit in _WHOLE_LIMITS


def is_success(
    telling: JobResult | None, record: ArrayRecord, whole: ArraySpec, limit: FailureLimit
) -> bool:
    """Whether an array succeeded, as far as its author asks; ``telling`` is its worst failure."""
    return not is_wholly_cancelled(telling) and is_tolerable(record, whole, limit)


def as_success(result: JobResult) -> JobResult:
    """Return the result of an array whose failures are allowed."""
    return replace(result, state=COMPLETED, exit_code=0, signal=None, reason=None)


def error_for_array(
    telling: JobResult, record: ArrayRecord, whole: ArraySpec, limit: FailureLimit
) -> JobFailedError:
    """Return the exception for an array of which too many tasks failed."""
    failure = failure_of(telling) or FailureReason.UNKNOWN
    message = (
        f"{describe_counts(telling.job_id, record.counts)} "
        f"{describe_failures(record, limit, len(whole))}"
    )
    if is_wholly_cancelled(telling):
        message += f" This task cancelled the array because of {telling.limit}."
    details: dict[str, Any] = to_xcom(telling) | {"array": record.to_xcom(whole)}
    return ERRORS[failure](message, **details, limit=telling.limit, failure=str(failure))
