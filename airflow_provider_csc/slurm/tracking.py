"""
Follow one waiting task's jobs from round to round: what to ask next, what to tell, when to stop.

A tracker does no I/O. The poller asks it what it wants to know (`ask`, `follow_up`), hands it the
answers (`observe`), and passes on the events.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.batch import parse_exit_record
from airflow_provider_csc.slurm.commands import PollRequest
from airflow_provider_csc.slurm.logfollow import LogFollower
from airflow_provider_csc.slurm.output import (
    AccountingRow,
    Answer,
    NoAnswer,
    QueueRow,
    is_without_accounting,
)
from airflow_provider_csc.slurm.result import JobResult, build_result
from airflow_provider_csc.slurm.states import JobState, Phase
from airflow_provider_csc.slurm.verdict import Evidence, judge

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.answers import Answers, Row

# How long an ended job waits for its accounting row and for the end of its log (seconds).
_SETTLE_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSpec:
    """
    What to follow.

    With a run directory, its exit record is evidence, and how far the logs were shown is noted
    there. ``missing_seconds`` is how long squeue and sacct must both deny a job before it is given
    up as UNKNOWN. The limits are in seconds, ``deadline`` since 1970.
    """

    job_ids: tuple[str, ...]
    run_dir: str | None = None
    stdout_path: str | None = None
    stderr_path: str | None = None
    stream_logs: bool = True
    log_limit_bytes: int = 10 * 1024 * 1024
    missing_seconds: int = 600
    queue_timeout: float | None = None
    run_timeout: float | None = None
    deadline: float | None = None

    @property
    def log_paths(self) -> tuple[str, ...]:
        """The files to stream: stdout and, where it is another file, stderr."""
        paths = (self.stdout_path, self.stderr_path) if self.stream_logs else ()
        return tuple(dict.fromkeys(path for path in paths if path))


@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines the job wrote."""

    lines: list[str]


@dataclass(frozen=True, slots=True)
class Note:
    """Something a reader of the task log should know; ``level`` as in `logging`."""

    text: str
    level: int = logging.INFO


@dataclass(frozen=True, slots=True)
class Ended:
    """Every job has ended, with evidence."""

    results: list[JobResult]


Event = LogLines | Note | Ended


@dataclass(slots=True)
class _Job:
    """What is known of one job so far."""

    job_id: str
    submitted: int | None = None
    queue: Answer[QueueRow] | None = None
    accounting: Answer[AccountingRow] | NoAnswer | None = None
    shown: tuple[str, str] | None = None
    settling_since: int | None = None
    result: JobResult | None = None


class JobTracker:
    """Follow the jobs of one `WatchSpec`; ``name`` makes its frames unique in an answer."""

    def __init__(self, name: str, spec: WatchSpec) -> None:
        self.spec = spec
        self._name = name
        self._jobs = [_Job(job_id) for job_id in spec.job_ids]
        self.logs = LogFollower(
            name, spec.log_paths, run_dir=spec.run_dir, limit_bytes=spec.log_limit_bytes
        )
        self._parked: str | None = None
        self._lacks_accounting = False
        self._asked = PollRequest()
        self._clock: int | None = None
        self.limit: str | None = None

    @property
    def is_settling(self) -> bool:
        """Whether some job is over for squeue, so that the other sources must be asked."""
        return any(job.settling_since is not None for job in self._open)

    @property
    def is_done(self) -> bool:
        """Whether every job has its result."""
        return not self._open

    @property
    def is_starting(self) -> bool:
        """Whether the logs should be read at once rather than in the next round."""
        return self.logs.is_unread and self._is_running

    @property
    def is_eager(self) -> bool:
        """Whether it has a question that should not wait for the next round."""
        return self.is_settling or self.is_starting or (self.logs.has_more and self._is_running)

    @property
    def _is_running(self) -> bool:
        rows = [row for job in self._open if job.queue for row in job.queue.rows]
        return any(row.state.phase is Phase.RUNNING for row in rows)

    @property
    def jobs_to_cancel(self) -> list[str]:
        """The jobs that a limit of the task wants gone and that are still there."""
        return [job.job_id for job in self._open if self._is_live(job)] if self.limit else []

    @property
    def _open(self) -> list[_Job]:
        return [job for job in self._jobs if job.result is None]

    def ask(self) -> PollRequest:
        """Return what a regular round asks: squeue, and the logs of what runs."""
        self._asked = PollRequest(
            queued=tuple(job.job_id for job in self._open),
            progress=self.logs.progress_request(),
            logs=self.logs.requests() if self._is_running else (),
        )
        return self._asked

    def follow_up(self) -> PollRequest:
        """
        Return what to ask besides, in the same round.

        That is the first lines of a job that just started, and all sources about one that squeue
        shows as ended, or not at all.
        """
        if not self.is_settling:
            self._asked = PollRequest(logs=self.logs.requests())
            return self._asked
        over = tuple(job.job_id for job in self._open if job.settling_since is not None)
        self._asked = PollRequest(
            queued=tuple(job.job_id for job in self._open),
            accounted=over,
            exit_records=((self._exit_name, self.spec.run_dir),) if self.spec.run_dir else (),
            logs=self.logs.requests(),
        )
        return self._asked

    @property
    def _exit_name(self) -> str:
        return f"{self._name}.exit"

    def observe(self, answers: Answers) -> list[Event]:
        """
        Take in one answer of the site and return what follows from it.

        It answers the requests of other trackers as well: what was not asked is not denied.
        """
        self._clock = answers.clock
        queue = answers.queue if self._asked.queued else None
        accounting = answers.accounting if self._asked.accounted else None
        events = self._read_logs(answers)
        if isinstance(queue, NoAnswer):
            return [*events, *self.park(f"squeue gave no answer: {queue.reason}")]
        if queue is not None:
            changes = self._observe_queue(answers)
            events = [*self._resume(accounting), *changes, *events]
        if accounting is not None:
            events += self._settle(answers)
        return [*events, *self._check_limits()]

    def _read_logs(self, answers: Answers) -> list[Event]:
        events: list[Event] = []
        if self.logs.resume(answers.frames):
            events.append(Note(f"Watching again; the log goes on behind byte {self.logs.offsets}."))
        lines = self.logs.read(answers.frames)
        return [*events, LogLines(lines)] if lines else events

    def park(self, reason: str) -> list[Event]:
        """Note that the site gave no answer; said once, however long it lasts."""
        if self._parked is not None:
            return []
        self._parked = reason
        waits = "The task waits without a limit and uses up no retry; the job is not affected."
        return [Note(f"No answer from the site: {reason.rstrip('.')}. {waits}", logging.WARNING)]

    def _resume(self, accounting: Answer[AccountingRow] | NoAnswer | None) -> list[Event]:
        lacks = self._lacks_accounting and not isinstance(accounting, Answer)
        if self._parked is None or (lacks and self.is_settling):
            return []
        self._parked = None
        self._lacks_accounting = False
        return [Note("The site answers again.")]

    def _observe_queue(self, answers: Answers) -> list[Event]:
        events: list[Event] = []
        for job in self._open:
            job.queue = self._own(job, answers.queue_of(job.job_id))
            if self._is_live(job):
                job.settling_since = None
                job.accounting = None
                events += _describe_change(job)
            elif job.settling_since is None:
                job.settling_since = self._clock
        return events

    @staticmethod
    def _is_live(job: _Job) -> bool:
        return job.queue is not None and any(not row.state.is_final for row in job.queue.rows)

    def _own(self, job: _Job, answer: Answer[Row]) -> Answer[Row]:
        """
        Leave out rows of a stranger that was given the same id.

        A slurmctld that was killed gives the ids of the newest jobs out again (seen on 22.05).
        What this provider submitted bears its token in its name; once seen so, its time of
        submission identifies it, should somebody rename it.
        """
        if self.spec.run_dir is None:
            return answer
        token = self.spec.run_dir.rpartition("/")[2]
        jobs = [row for row in answer.rows if not getattr(row, "step", None)]
        if any(row.name.endswith(token) for row in jobs):
            job.submitted = max(row.submitted or 0 for row in jobs)
            return answer
        is_known = any(row.submitted and row.submitted == job.submitted for row in jobs)
        is_provisional = any(getattr(row, "is_provisional", False) for row in jobs)
        return answer if is_known or is_provisional else Answer(())

    def _check_limits(self) -> list[Event]:
        if self.limit is not None or self._clock is None:
            return []
        if not any(self._is_live(job) for job in self._open):
            return []  # Nothing is left that could be cancelled.
        for name, since, seconds in self._limits():
            if seconds is not None and since is not None and self._clock - since > seconds:
                self.limit = name
                length = f" of {seconds:.0f} s" if seconds else ""
                return [Note(f"{name}{length} is reached; cancelling.", logging.WARNING)]
        return []

    def _limits(self) -> list[tuple[str, float | None, float | None]]:
        rows = [row for job in self._open if job.queue for row in job.queue.rows]
        queued = [row.submitted for row in rows if row.state.phase is Phase.QUEUED]
        running = [row.started for row in rows if row.state.phase is Phase.RUNNING]
        return [
            ("queue_timeout", _earliest(queued), self.spec.queue_timeout),
            ("timeout", _earliest(running), self.spec.run_timeout),
            ("execution_timeout", self.spec.deadline, 0 if self.spec.deadline else None),
        ]

    def _settle(self, answers: Answers) -> list[Event]:
        frame = answers.frames.get(self._exit_name)
        record = parse_exit_record(frame.data) if frame else None
        for job in self._open:
            if job.settling_since is None or job.job_id not in self._asked.accounted:
                continue
            accounting = answers.accounting_of(job.job_id)
            if isinstance(accounting, Answer):
                accounting = self._own(job, accounting)
            job.accounting = accounting
            own = record if record and record.job_id == job.job_id else None
            evidence = Evidence(queue=job.queue, accounting=job.accounting, exit_record=own)
            if self._is_settled(job, evidence):
                job.result = self._build_result(job, evidence)
        return [*self._explain_wait(answers.accounting), *self._end()]

    def _is_settled(self, job: _Job, evidence: Evidence) -> bool:
        waited = (self._clock or 0) - (job.settling_since or 0)
        if judge(evidence).is_final:
            accounted = (
                isinstance(job.accounting, Answer)
                and judge(Evidence(accounting=job.accounting)).is_final
            )
            whole = accounted or is_without_accounting(job.accounting)
            is_late = waited >= _SETTLE_SECONDS
            drained = self.logs.is_drained(is_late=is_late)
            return drained and (whole or (is_late and _is_told_as_a_whole(job, evidence)))
        return evidence.is_denied and waited >= self.spec.missing_seconds

    def _explain_wait(self, accounting: Answer[AccountingRow] | NoAnswer | None) -> list[Event]:
        """Park when a job is over for squeue, and the source that knows how is away."""
        stuck = any(
            job.settling_since is not None
            and (self._clock or 0) - job.settling_since >= _SETTLE_SECONDS
            for job in self._open
        )
        if stuck and isinstance(accounting, NoAnswer):
            self._lacks_accounting = True
            return self.park(f"sacct gave no answer: {accounting.reason}")
        return []

    def _build_result(self, job: _Job, evidence: Evidence) -> JobResult:
        return build_result(
            job.job_id,
            evidence,
            run_dir=self.spec.run_dir,
            stdout_path=self.spec.stdout_path,
            stderr_path=self.spec.stderr_path,
            limit=self.limit,
        )

    def _end(self) -> list[Event]:
        if not self.is_done:
            return []
        rest = self.logs.last_lines()
        ended = Ended([job.result for job in self._jobs if job.result is not None])
        return [LogLines(rest), ended] if rest else [ended]


def _is_told_as_a_whole(job: _Job, evidence: Evidence) -> bool:
    """
    Whether a job that is over can be judged without sacct.

    Of an array (or a job of components) squeue forgets those that ended first.
    """
    rows = job.queue.rows if job.queue else ()
    return evidence.exit_record is not None or all(row.job_id == job.job_id for row in rows)


def _earliest(times: list[int | None]) -> int | None:
    return min((time for time in times if time), default=None)


def _describe_change(job: _Job) -> list[Event]:
    rows = job.queue.rows if job.queue else ()
    row = min(
        (row for row in rows if not row.state.is_final),
        key=lambda each: each.state.phase is not Phase.RUNNING,
    )
    # A state's name alone would say "still PENDING" again for each element of an array.
    detail = row.reason if row.state.phase is Phase.QUEUED else row.nodes
    seen = (row.state.phase.value, f"{row.state.name} {detail}")
    if job.shown == seen:
        return []
    job.shown = seen
    return [Note(_describe_row(job.job_id, row.state, row, detail))]


def _describe_row(job_id: str, state: JobState, row: QueueRow, detail: str) -> str:
    about = f" on {detail}" if state.phase is Phase.RUNNING else f" ({detail})"
    usual = state.name in ("PENDING", "RUNNING")
    meaning = "" if usual else f": it {state.meaning}"
    return f"Job {job_id} is {state.name}{about if detail else ''} in {row.partition}{meaning}."
