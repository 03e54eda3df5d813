"""What a finished job leaves to its task: plain data that fits into a trigger event and an XCom."""

from __future__ import annotations

import signal as signals
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.slurm.accounting import compute_usage, format_bytes, render_table
from airflow_provider_csc.slurm.output import Answer
from airflow_provider_csc.slurm.states import parse_state
from airflow_provider_csc.slurm.verdict import Evidence, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """
    One ended job. Times are ISO 8601 in UTC; None is what no source told.

    ``limit`` names the limit of the task that made us cancel the job (``queue_timeout``,
    ``timeout`` or ``execution_timeout``), if one did. ``accounting`` is a table to read.
    """

    job_id: str
    state: str
    name: str | None = None
    cluster: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    partition: str | None = None
    nodes: str | None = None
    submit_time: str | None = None
    start_time: str | None = None
    end_time: str | None = None
    elapsed_seconds: int | None = None
    cpu_efficiency: float | None = None
    max_rss_bytes: int | None = None
    run_dir: str | None = None
    stdout_path: str | None = None
    stderr_path: str | None = None
    limit: str | None = None
    cancelled_by: str | None = None
    requested_memory: str | None = None
    time_limit_minutes: int | None = None
    accounting: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the evidence says COMPLETED; nothing else is success."""
        return self.state == "COMPLETED"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return parse_state(self.state).is_final

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> JobResult:
        """Read what `to_payload` made, also when a newer version added fields to it."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in payload.items() if name in known})


_XCOM_FIELDS = (
    "job_id",
    "name",
    "cluster",
    "state",
    "exit_code",
    "signal",
    "reason",
    "partition",
    "nodes",
    "submit_time",
    "start_time",
    "end_time",
    "elapsed_seconds",
    "cpu_efficiency",
    "max_rss_bytes",
    "run_dir",
    "stdout_path",
    "stderr_path",
)


def to_xcom(result: JobResult) -> dict[str, Any]:
    """Return what a task returns: the documented fields of a result."""
    payload = result.to_payload()
    return {name: payload[name] for name in _XCOM_FIELDS}


def build_result(
    job_id: str,
    evidence: Evidence,
    *,
    run_dir: str | None = None,
    stdout_path: str | None = None,
    stderr_path: str | None = None,
    limit: str | None = None,
) -> JobResult:
    """Put together what the sources said of a job; accounting speaks before squeue."""
    verdict = judge(evidence)
    rows = evidence.accounting.rows if isinstance(evidence.accounting, Answer) else ()
    queue = evidence.queue.rows if isinstance(evidence.queue, Answer) else ()
    job = next((row for row in rows if row.step is None), None)
    queued = queue[0] if queue else None
    usage = compute_usage(rows)
    record = evidence.exit_record
    # The sources, the one that knows best first.
    told = [source for source in (job, queued, record) if source is not None]
    return JobResult(
        job_id=job_id,
        state=verdict.state.name,
        exit_code=verdict.exit_code,
        signal=verdict.signal,
        # slurmdbd changes quotes, and letters its character set lacks, into others.
        name=_first([queued, job], "name"),
        cluster=_first(told, "cluster"),
        reason=None if verdict.state.is_success else _first([queued, job], "reason"),
        partition=_first(told, "partition"),
        nodes=_first(told, "nodes"),
        submit_time=_iso(_first(told, "submitted")),
        start_time=_iso(_first(told, "started")),
        end_time=_iso(_first(told, "ended")),
        elapsed_seconds=_elapsed(usage.elapsed_seconds, evidence),
        cpu_efficiency=usage.cpu_efficiency,
        max_rss_bytes=usage.max_rss_bytes,
        run_dir=run_dir,
        stdout_path=stdout_path,
        stderr_path=stderr_path,
        limit=limit,
        cancelled_by=job.cancelled_by if job else None,
        requested_memory=job.requested_memory if job else None,
        time_limit_minutes=job.time_limit_minutes if job else None,
        accounting=render_table(rows) if rows else "",
    )


def _first(sources: Sequence[object], name: str) -> Any:
    """Return what the first source that has it says."""
    return next(filter(None, (getattr(source, name, None) for source in sources)), None)


def _iso(seconds: int | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None


def _elapsed(accounted: int | None, evidence: Evidence) -> int | None:
    record = evidence.exit_record
    if accounted is None and record is not None:
        return record.ended - record.started
    return accounted


def describe_result(result: JobResult) -> str:
    """Say in one or two sentences how a job ended, and what a person can do where it failed."""
    ending = _ENDINGS.get(result.state, _describe_other)(result)
    where = f" Its log: {result.stdout_path}." if result.stdout_path else ""
    elapsed = f" after {result.elapsed_seconds} s" if result.elapsed_seconds is not None else ""
    return f"Job {result.job_id} ended {result.state}{elapsed}: {ending}{where}"


# What slurmstepd ends with when it cannot set up the job's files (tried on 22.05).
_NOT_STARTED = 53


def _describe_failed(result: JobResult) -> str:
    if result.signal == _NOT_STARTED:
        return (
            "Slurm could not start it (0:53): most likely its output file could not be opened, or "
            "its directory not entered, on the compute node."
        )
    if result.signal:
        return f"it was killed by signal {result.signal} ({_signal_name(result.signal)})."
    if result.exit_code in (126, 127):
        return f"exit code {result.exit_code}: a command was not found or not executable."
    code = "unknown" if result.exit_code is None else result.exit_code
    return f"exit code {code}."


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return "unnamed"


def _describe_memory(result: JobResult) -> str:
    used = f" It was seen to use {format_bytes(result.max_rss_bytes)} in one task."
    return (
        f"it used more memory than the {result.requested_memory or 'amount'} it asked for."
        f"{used if result.max_rss_bytes else ''} Raise options['mem'] or ['mem-per-cpu']."
    )


def _describe_timeout(result: JobResult) -> str:
    limit = result.time_limit_minutes
    asked = f" of {limit} minutes" if limit else ""
    return f"it reached its time limit{asked}. Raise options['time'], or let the script checkpoint."


def _describe_cancelled(result: JobResult) -> str:
    if result.limit:
        return f"this task cancelled it because {result.limit} was reached."
    who = f" by user id {result.cancelled_by}" if result.cancelled_by else ""
    return f"it was cancelled{who}, not by this task."


def _describe_completed(_result: JobResult) -> str:
    return "exit code 0."


def _describe_unknown(_result: JobResult) -> str:
    return (
        "neither squeue nor sacct know it any more and it left no exit record, so what became of "
        "it is not known. Look for its output before running it again."
    )


def _describe_other(result: JobResult) -> str:
    return f"Slurm gave the reason {result.reason or 'None'}."


_ENDINGS = {
    "COMPLETED": _describe_completed,
    "FAILED": _describe_failed,
    "OUT_OF_MEMORY": _describe_memory,
    "TIMEOUT": _describe_timeout,
    "CANCELLED": _describe_cancelled,
    "UNKNOWN": _describe_unknown,
}
