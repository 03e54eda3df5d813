"""Whether it was the staging of files that a job failed of, and what may be mended by waiting."""

from __future__ import annotations

from airflow_provider_csc.errors import (
    AllasError,
    CscError,
    JobStagingError,
    SlurmError,
    TransportError,
)
from airflow_provider_csc.slurm.failures import FailureReason
from airflow_provider_csc.slurm.result import JobResult, to_xcom

EXIT_CODES = (74, 75)
"""The helper's own: what could not be done (EX_IOERR), and what may be possible later."""

_SERVER_FAULT = 500
_DONE = {"in": "its inputs could not be fetched", "out": "its outputs were not all delivered"}


def error_of(result: JobResult, *, problem: str, phase: str) -> JobStagingError | None:
    """
    Return the error for a job whose files could not be staged, ready to be raised.

    None where it ended for another reason, whatever became of its files then.
    """
    is_own_end = result.is_success or result.exit_code in EXIT_CODES
    if not is_own_end or (result.is_success and phase == "in"):
        return None
    what = _DONE.get(phase, "its files could not be staged")
    where = f" Its log: {result.stdout_path}." if result.stdout_path else ""
    return JobStagingError(
        f"Job {result.job_id} ended {result.state}: {what}: {problem.rstrip('.')}.{where}",
        **to_xcom(result),
        failure=str(FailureReason.EXIT_CODE),
        limit=result.limit,
        restarts=result.restarts,
        problem=problem,
        phase=phase,
    )


def is_passing(error: CscError) -> bool:
    """Whether a site or a store may do later what it did not do now."""
    if not isinstance(error, AllasError):
        return isinstance(error, (TransportError, SlurmError))
    if error.details.get("is_passing"):
        return True
    if "status" not in error.details:
        return False
    status = error.details["status"]
    return not isinstance(status, int) or status >= _SERVER_FAULT
