"""Sum up the results of an array's tasks into the one its task concludes with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_csc import errors
from airflow_provider_csc.slurm.array_record import (
    COMPLETED,
    ArrayRecord,
    FailureLimit,
    describe_counts,
    describe_failures,
)
from airflow_provider_csc.slurm.failures import ERRORS, FailureReason, failure_of
from airflow_provider_csc.slurm.result import JobResult, to_xcom

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

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


def _rank(result: JobResult) -> tuple[int, int]:
    """Return how telling a failure is; of those for want of memory, the largest."""
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
    limit: str | None,
) -> JobResult:
    """
    Return one result for all tasks of a job.

    State, exit code, reason and nodes are those of the most telling failure; times are from the
    first submission to the last end, memory is that of the largest task.
    """
    failed = [result for result in results if not result.is_success]
    telling = min(failed, key=_rank, default=None)
    base = telling or results[0]
    measured = [each for each in (one.max_rss_bytes for one in results) if each is not None]
    return replace(
        base,
        job_id=job_id,
        nodes=base.nodes if telling or len({one.nodes for one in results}) == 1 else None,
        submit_time=_first(one.submit_time for one in results),
        start_time=_first(one.start_time for one in results),
        end_time=max((one.end_time for one in results if one.end_time), default=None),
        elapsed_seconds=None if telling is None and len(results) > 1 else base.elapsed_seconds,
        cpu_efficiency=base.cpu_efficiency if len(results) == 1 else None,
        max_rss_bytes=max(measured, default=None),
        run_dir=run_dir,
        stdout_path=stdout_path,
        stderr_path=stderr_path,
        accounting="",
        limit=limit if telling is None else base.limit,
        array=record.to_payload(),
    )


def _first(times: Iterable[str | None]) -> str | None:
    return min((each for each in times if each), default=None)


def conclude(result: JobResult, record: ArrayRecord) -> JobResult:
    """Return the result of the last job as one over all jobs of an array."""
    is_complete = not record.failed
    if is_complete and not result.is_success:
        return replace(result, state=COMPLETED, exit_code=0, signal=None, reason=None)
    return replace(result, array=record.to_payload())


def error_for_array(
    result: JobResult, record: ArrayRecord, whole: ArraySpec, limit: FailureLimit
) -> errors.JobFailedError:
    """Return the exception for an array of which too many tasks failed."""
    failure = _failure_of(result, record)
    message = (
        f"{describe_counts(result.job_id, record.counts)} "
        f"{describe_failures(record, limit, len(whole))}"
    )
    details: dict[str, Any] = to_xcom(result) | {"array": record.to_xcom(whole)}
    return ERRORS[failure](message, **details, limit=result.limit, failure=str(failure))


def _failure_of(result: JobResult, record: ArrayRecord) -> FailureReason:
    """Return the most telling failure; that of an earlier job where the last one had none."""
    own = failure_of(result)
    if own is not None:
        return own
    known = {end.failure for end in record.failed.values()}
    return next((each for each in _TELLING if str(each) in known), FailureReason.UNKNOWN)
