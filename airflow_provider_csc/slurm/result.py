"""What a finished job leaves to its task: plain data that fits into a trigger event and an XCom."""

from __future__ import annotations

import signal as signals
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.slurm.accounting import (
    compute_usage,
    find_share,
    format_bytes,
    render_table,
)
from airflow_provider_csc.slurm.array_record import ArrayRecord, format_note
from airflow_provider_csc.slurm.output import Answer, is_without_accounting
from airflow_provider_csc.slurm.states import parse_state
from airflow_provider_csc.slurm.verdict import Evidence, is_lost_late, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.batch import ExitRecord
    from airflow_provider_csc.slurm.output import AccountingRow, QueueRow


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """
    One ended job. Times are ISO 8601 in UTC; None is what no source told.

    ``limit`` names what made this task cancel the job, if it did: ``queue_timeout``, ``timeout``,
    ``execution_timeout``, ``held`` or ``dependency``. ``accounting`` is a table to read.
    ``contradiction`` says how Slurm and the job's own exit record differ, where they do.
    ``memory_bytes`` is the peak of the largest step, all its tasks together; ``restarts`` how often
    Slurm requeued the job. ``array`` is what became of each task of an array (see `ArrayRecord`);
    the rest is then of the task whose failure tells most, or of the job as a whole.
    ``pending_reasons`` says why it was seen to wait in the queue, and for how many seconds.
    ``shares`` is what it was given and for how long (see `tres.Share`), None where accounting does
    not say.
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
    contradiction: str | None = None
    without_accounting: bool = False
    restarts: int | None = None
    memory_bytes: int | None = None
    node_count: int | None = None
    cpus: int | None = None
    array: dict[str, Any] | None = None
    pending_reasons: list[dict[str, str | int]] = field(default_factory=list)
    memory_efficiency: float | None = None
    granted_memory_bytes: int | None = None
    shares: list[list[Any]] | None = None

    @property
    def noted(self) -> str:
        """What is written down about it: its state; of an array also which tasks completed."""
        if self.array is None:
            return self.state
        return f"{self.state}\n{format_note(ArrayRecord.from_payload(self.array))}"

    @property
    def is_success(self) -> bool:
        """Whether the evidence says COMPLETED; nothing else is success."""
        return self.state == "COMPLETED"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return parse_state(self.state).is_final

    @property
    def is_cancelled_by_task(self) -> bool:
        """
        Whether this task cancelled it, for its ``limit``.

        Where only the job's own exit record tells of its end, that looks like a signal.
        """
        signalled = self.state == "FAILED" and self.signal in {signals.SIGTERM, signals.SIGKILL}
        return self.limit is not None and (self.state == "CANCELLED" or signalled)

    @property
    def is_cancelled_for_its_dependency(self) -> bool:
        """
        Whether Slurm cancelled it because its dependency can never be satisfied.

        Then nobody is named, and squeue has the reason DependencyNeverSatisfied, sacct still
        Dependency (--kill-on-invalid-dep, seen on 22.05).
        """
        reasons = ("DependencyNeverSatisfied", "Dependency")
        is_unnamed = self.cancelled_by in {None, "0"} and self.limit is None
        return self.state == "CANCELLED" and is_unnamed and self.reason in reasons

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> JobResult:
        """Read what `to_payload` made, also when a newer version added fields to it."""
        known = {each.name for each in fields(cls)}
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
    "memory_efficiency",
    "max_rss_bytes",
    "run_dir",
    "stdout_path",
    "stderr_path",
    "pending_reasons",
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
    shares = find_share(rows)
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
        contradiction=_find_contradiction(job, queued, record) if verdict.is_final else None,
        without_accounting=is_without_accounting(evidence.accounting),
        restarts=record.restarts if record else None,
        memory_bytes=usage.memory_bytes,
        node_count=job.node_count if job else None,
        cpus=job.cpus if job else None,
        memory_efficiency=usage.memory_efficiency,
        granted_memory_bytes=usage.granted_memory_bytes,
        shares=None if shares is None else [list(each) for each in shares],
    )


def _find_contradiction(
    job: AccountingRow | None, queued: QueueRow | None, record: ExitRecord | None
) -> str | None:
    """
    Say how Slurm and the job's own exit record contradict each other, where they do.

    A job that Slurm ended (TIMEOUT, CANCELLED, a signal) may well have left a record of any code.
    """
    accounted = job if job and job.state.is_final and not job.is_provisional else None
    row = accounted or queued
    if record is None or row is None:
        return None
    own, failed = record.exit_code, row.state.name == "FAILED"
    is_end_disputed = (
        (row.state.is_success and own != 0)
        or (failed and own == 0)
        or is_lost_late(row.state, record)
    )
    if not is_end_disputed and not (accounted and failed and _is_other_code(accounted, own)):
        return None
    source = "sacct" if accounted else "squeue"
    code = f", exit code {accounted.exit_code}," if accounted and accounted.exit_code else ""
    return (
        f"{source} says {row.state.name}{code} but the job's own exit record says exit code {own}"
    )


def _is_other_code(row: AccountingRow, own: int) -> bool:
    """Compare exit codes; sacct takes 128 off one above 127 (src/sacct/print.c, 22.05)."""
    return not row.signal and row.exit_code is not None and row.exit_code not in {own, own - 128}


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
    beside = "".join(f" {each}" for each in _describe_circumstances(result))
    return f"Job {result.job_id} ended {result.state}{elapsed}: {ending}{beside}{where}"


def _describe_circumstances(result: JobResult) -> list[str]:
    """Return sentences on what made this end unusual."""
    told = []
    if result.contradiction and result.is_success:
        told.append(f"Its node was lost when its script had ended already: {result.contradiction}.")
    elif result.contradiction:
        told.append(
            f"Slurm and the job contradict each other: {result.contradiction}. Look at its log and "
            "its results before running it again; a shell's start-up or logout file may have "
            "changed the exit code."
        )
    if result.restarts:
        times = "once" if result.restarts == 1 else f"{result.restarts} times"
        told.append(f"Slurm had requeued it {times}.")
    if result.limit and (waits := _describe_waits(result)):
        told.append(waits)
    if result.without_accounting and not result.is_success:
        told.append(
            "This site keeps no accounting: what it used, and who cancelled it, cannot be known."
        )
    return told


def _describe_waits(result: JobResult) -> str:
    """Say what a job that this task gave up had waited for in the queue."""
    from airflow_provider_csc.slurm.parking import describe_seconds  # noqa: PLC0415 - rarely

    waits = [
        f"{each['reason']} ({describe_seconds(int(each['seconds']))})"
        for each in result.pending_reasons
        if each["reason"] != "None"
    ]
    return f"In the queue it waited for: {', '.join(waits)}." if waits else ""


# What slurmstepd ends with when it cannot set up the job's files (tried on 22.05).
NOT_STARTED = 53


def _describe_failed(result: JobResult) -> str:
    if result.is_cancelled_by_task:
        return _describe_limit(result)
    if result.signal == NOT_STARTED:
        return (
            "Slurm could not start it (0:53): most likely its output file could not be opened, or "
            "its directory not entered, on the compute node."
        )
    if result.signal:
        hint = _KILL_HINT if result.signal == signals.SIGKILL else ""
        return f"it was killed by signal {result.signal} ({_signal_name(result.signal)}).{hint}"
    if result.exit_code in (126, 127):
        return f"exit code {result.exit_code}: a command was not found or not executable."
    code = "unknown" if result.exit_code is None else result.exit_code
    return f"exit code {code}."


# So ends a job on a site that limits memory by sampling (docker/README.md).
_KILL_HINT = (
    " Where a site limits memory by sampling, one that used too much ends so; compare what it used "
    "with options['mem']."
)


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


# Below it, Linux numbers the accounts of services (login.defs(5), UID_MIN).
_FIRST_PERSON = 1000


def _describe_cancelled(result: JobResult) -> str:
    if result.limit:
        return _describe_limit(result)
    if result.is_cancelled_for_its_dependency:
        return f"Slurm cancelled it, because {_NEVER}"
    if result.cancelled_by is None:
        return "it was cancelled, not by this task."
    return f"it was cancelled by {_who(result.cancelled_by)}, not by this task."


def _who(user_id: str) -> str:
    if user_id == "0":
        return "user id 0 (root: an administrator, or Slurm itself)"
    if user_id.isdecimal() and int(user_id) < _FIRST_PERSON:
        # CSC's "Roihu disk areas": a refused burst buffer ends as CANCELLED by 350, without a log.
        return (
            f"user id {user_id} (a service of the site; a refused burst buffer, options['bb'], "
            "ends so too, without a log)"
        )
    return f"user id {user_id}"


_NEVER = (
    "its dependency can never be satisfied: a job it waits for ended otherwise than it asks. "
    "Correct options['dependency'], or see to that job first."
)


def _describe_limit(result: JobResult) -> str:
    if result.limit == "dependency":
        return f"this task cancelled it, because {_NEVER}"
    if result.limit == "held":
        return (
            f"this task cancelled it, because it was held (reason {result.reason or 'None'}), "
            "which only a person can undo. Find out who held it and why before running it again."
        )
    return f"this task cancelled it because {result.limit} was reached."


def _describe_lost_node(result: JobResult) -> str:
    return f"{_a_node(result)} failed. That is no fault of the job: run it again, elsewhere."


def _a_node(result: JobResult) -> str:
    nodes = result.nodes or ""
    several = "," in nodes or "[" in nodes
    return f"one of its nodes, {nodes}," if several else f"node {nodes}" if nodes else "a node"


def _describe_boot(result: JobResult) -> str:
    return f"{_a_node(result)} did not get ready for it. That is no fault of the job: run it again."


def _describe_preempted(_result: JobResult) -> str:
    return (
        "it made way for a job of higher priority. Run it again, with options['requeue'], or in a "
        "partition whose jobs are not preempted."
    )


def _describe_deadline(_result: JobResult) -> str:
    return "it could not end before its deadline. Give a later options['deadline'] or less 'time'."


def _describe_completed(_result: JobResult) -> str:
    return "exit code 0."


def _describe_unknown(result: JobResult) -> str:
    limit = f" This task had cancelled it because of {result.limit}." if result.limit else ""
    return (
        "squeue does not know it any more, sacct tells no end of it, and it left no exit record, "
        f"so what became of it is not known.{limit} Look for its output before running it again."
    )


def _describe_other(result: JobResult) -> str:
    return f"Slurm gave the reason {result.reason or 'None'}."


_ENDINGS = {
    "COMPLETED": _describe_completed,
    "FAILED": _describe_failed,
    "OUT_OF_MEMORY": _describe_memory,
    "TIMEOUT": _describe_timeout,
    "CANCELLED": _describe_cancelled,
    "NODE_FAIL": _describe_lost_node,
    "BOOT_FAIL": _describe_boot,
    "PREEMPTED": _describe_preempted,
    "DEADLINE": _describe_deadline,
    "UNKNOWN": _describe_unknown,
}
