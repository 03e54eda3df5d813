"""
Follow one waiting task's jobs from round to round: what to ask next, what to tell, when to stop.

A tracker does no I/O. The poller asks it what it wants to know (`ask`, `follow_up`), hands it the
answers (`observe`), and passes on the events.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from operator import is_
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.batch import parse_exit_record
from airflow_provider_csc.slurm.cancel_commands import Notice, read_notice
from airflow_provider_csc.slurm.commands import PollRequest
from airflow_provider_csc.slurm.endings import complete_result, describe_forgotten
from airflow_provider_csc.slurm.events import Ended, Event, LogLines, Moment, Note, Started
from airflow_provider_csc.slurm.limits import Limits, QueuedRow
from airflow_provider_csc.slurm.logfollow import LogFollower
from airflow_provider_csc.slurm.output import (
    AccountingRow,
    Answer,
    NoAnswer,
    QueueRow,
    base_of,
    is_without_accounting,
)
from airflow_provider_csc.slurm.ownership import Memory, own_rows, read_memories, write_memories
from airflow_provider_csc.slurm.parking import (
    Outage,
    Parking,
    accounting_outage,
    controller_outage,
)
from airflow_provider_csc.slurm.pending import (
    PendingReason,
    Waiting,
    describe_start,
    explain_reason,
    is_news,
    report_waits,
)
from airflow_provider_csc.slurm.result import JobResult, build_result
from airflow_provider_csc.slurm.states import Phase
from airflow_provider_csc.slurm.verdict import Evidence, is_live, is_revoked, judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.slurm.answers import Answers
    from airflow_provider_csc.slurm.batch import ExitRecord

__all__ = ["Ended", "Event", "JobTracker", "LogLines", "Moment", "Note", "WatchSpec"]

# How long an ended job waits for its accounting row and for the end of its log (seconds).
_SETTLE_SECONDS = 30
# How long sacct may go on telling of a job as not ended that squeue does not know any more, before
# it is taken for one that slurmctld forgot: what it could not send to slurmdbd it sends later.
_LAG_SECONDS = 600
# What a job may come back from: for a moment it looks as if it were over, then Slurm requeues it.
_MAY_RETURN = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL"})
# A job that scancel took on needs KillWait (30 s by default, slurm.conf(5)) to end.
_CANCEL_AGAIN_SECONDS = 60
# For figures about many jobs.
TRACKED_STATES = ("queued", "running", "ending", "unknown")
_PLAIN_ID = re.compile(r"[0-9]+(_[0-9]+)?")
# Of most jobs, as long as they are waited for; one for all takes no memory for each.
_NO_ENDS: Mapping[str, QueueRow] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSpec:
    """
    What to follow.

    With a run directory, its exit record is evidence, and how far the logs were shown is noted
    there. ``missing_seconds`` is how long all who keep books must deny a job before it is given up
    as UNKNOWN; one that sacct still tells of gets ten minutes at least. The limits are in seconds,
    ``deadline`` since 1970 by this machine's clock.
    ``array_token`` is what the name of a job ends with that is one of an array of several tasks'.
    ``cancel_held`` ends a job that waits for somebody to release it. ``kill_grace`` (seconds) is
    what a job gets between the signal of ``kill_signal`` (its ``--signal`` option) and its
    cancellation.

    ``array`` says of the one job that it is an array, and which tasks it runs (see
    `array_parts.format_part`); its log paths are then patterns, and ``array_logs`` says which of
    them are shown: ``failed``, ``all`` or ``none``. `make_tracker` makes the tracker of either.
    With ``tells_start`` there is an event whenever the job starts.
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
    cancel_held: bool = False
    kill_grace: float = 0.0
    kill_signal: str | None = None
    array: str | None = None
    array_logs: str = "failed"
    array_token: str | None = None
    tells_start: bool = False

    @property
    def log_paths(self) -> tuple[str, ...]:
        """The files to stream: stdout and, where it is another file, stderr."""
        paths = (self.stdout_path, self.stderr_path) if self.stream_logs else ()
        return tuple(dict.fromkeys(path for path in paths if path))

    @property
    def token(self) -> str | None:
        """What the names of this provider's own jobs end with."""
        own = self.run_dir.rpartition("/")[2] if self.run_dir else None
        return self.array_token or own


@dataclass(slots=True)
class _Job:
    """What is known of one job so far; times in seconds of this machine's steady clock."""

    job_id: str
    memory: Memory = field(default_factory=Memory)
    queue: Answer[QueueRow] | None = None
    last_seen: tuple[QueueRow, int] | None = None
    ends: Mapping[str, QueueRow] = field(default_factory=lambda: _NO_ENDS)
    shown: tuple[str, str] | None = None
    # Why it waits in the queue, once it was seen to.
    waiting: Waiting | None = None
    settling_since: float | None = None
    forgotten_since: float | None = None
    limit: str | None = None
    cancelled_at: float | None = None
    cancel_again: float = 0.0
    result: JobResult | None = None
    # What squeue said of it last, before it was weighed.
    rows: tuple[QueueRow, ...] = ()
    # When it was last told to have started.
    told_start: tuple[int | None, int | None] | None = None
    # Squeue is asked for it by its id, since it was not among the jobs of the user we log in as.
    is_by_id: bool = False
    # An element that was cancelled in the queue with its array: sacct tells of the array alone.
    is_by_array: bool = False

    @property
    def accounted_id(self) -> str:
        """What sacct is asked about it by."""
        return base_of(self.job_id) if self.is_by_array else self.job_id

    @property
    def is_live(self) -> bool:
        """Whether squeue shows it as not ended."""
        return is_live(self.queue)

    @property
    def tracked_state(self) -> str:
        """Where it is as far as is known: one of `TRACKED_STATES`."""
        if self.settling_since is not None:
            return "ending"
        if self.last_seen is None:
            return "unknown"
        phase = self.last_seen[0].state.phase
        return phase.value if phase in (Phase.QUEUED, Phase.RUNNING) else "unknown"

    @property
    def live_rows(self) -> list[QueueRow]:
        """What squeue shows of it as not ended."""
        rows = self.queue.rows if self.queue else ()
        return [row for row in rows if not (row.state.is_final or is_revoked(row.state))]

    @property
    def is_ending(self) -> bool:
        """Whether Slurm is at work on its end, so that it needs no further signal."""
        return bool(self.live_rows) and all(
            row.state.name == "COMPLETING" for row in self.live_rows
        )

    def is_to_cancel(self, now: Moment) -> bool:
        """
        Whether scancel is due, if it is to be cancelled at all.

        Again only where scancel failed or did not help: a second signal may end the script's own
        cleaning up.
        """
        is_due = self.cancelled_at is None or now.steady - self.cancelled_at > self.cancel_again
        return is_due and self.is_live and not self.is_ending


class JobTracker:
    """Follow the jobs of one `WatchSpec`; ``name`` makes its frames unique in an answer."""

    __slots__ = (
        "_asked_accounting",
        "_asked_queue",
        "_clock",
        "_has_ended",
        "_has_no_accounting",
        "_is_overdue_told",
        "_jobs",
        "_lacks_accounting",
        "_limits",
        "_name",
        "_parking",
        "limit",
        "logs",
        "spec",
        "told_expiry",
    )

    def __init__(self, name: str, spec: WatchSpec) -> None:
        self.spec = spec
        self._name = name
        self._jobs = [_Job(job_id) for job_id in spec.job_ids]
        self.logs = LogFollower(
            name, spec.log_paths, run_dir=spec.run_dir, limit_bytes=spec.log_limit_bytes
        )
        self._limits = Limits(
            queue_timeout=spec.queue_timeout, run_timeout=spec.run_timeout, deadline=spec.deadline
        )
        self._parking = Parking()
        self._lacks_accounting = False
        self._has_no_accounting = False
        self._has_ended = False
        self._is_overdue_told = False
        # Whom squeue and sacct were asked about last.
        self._asked_queue: tuple[str, ...] = ()
        self._asked_accounting: tuple[str, ...] = ()
        self._clock: int | None = None
        self.limit: str | None = None
        # Of which certificate, by its end, the task was told that it will expire.
        self.told_expiry: int | None = None

    @property
    def ends_by(self) -> int | None:
        """When the last of its jobs reaches its time limit, by the cluster's clock, if known."""
        seen = (job.last_seen[0].ends_by for job in self._open if job.last_seen)
        return max(filter(None, seen), default=None)

    @property
    def is_settling(self) -> bool:
        """Whether some job is over for squeue, so that the other sources must be asked."""
        return any(job.settling_since is not None for job in self._open)

    @property
    def is_urgent(self) -> bool:
        """Whether its next round should not wait: something ends, or is being cancelled."""
        return not self.is_parked and (
            self.is_settling or any(job.limit or self.limit for job in self._open)
        )

    @property
    def is_parked(self) -> bool:
        """Whether it waits for a source that is away."""
        return self._parking.is_parked

    @property
    def states(self) -> list[str]:
        """Which of `TRACKED_STATES` each of its jobs is in."""
        return [job.tracked_state for job in self._open]

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
    def _open(self) -> list[_Job]:
        return [job for job in self._jobs if job.result is None]

    @property
    def _waiting(self) -> list[str]:
        return [job.job_id for job in self._open if job.settling_since is None]

    def _to_cancel(self, now: Moment) -> list[_Job]:
        return [job for job in self._open if (self.limit or job.limit) and job.is_to_cancel(now)]

    def jobs_to_cancel(self, now: Moment) -> list[str]:
        """Return what a limit wants gone, that is still there and should be cancelled now."""
        return [job.job_id for job in self._to_cancel(now)]

    @property
    def marked_dirs(self) -> tuple[str, ...]:
        """The run directories in which a notice leaves its mark, for the jobs that get it."""
        return (self.spec.run_dir,) if self.spec.run_dir else ()

    @property
    def cancel_notice(self) -> Notice | None:
        """What `jobs_to_cancel` are told first; None where they are cancelled at once."""
        is_first = all(job.cancelled_at is None for job in self._open)
        return read_notice(self.spec.kill_grace, self.spec.kill_signal) if is_first else None

    def note_cancelled(self, now: Moment) -> None:
        """Note that scancel took on what `jobs_to_cancel` returned for this moment."""
        notice = self.cancel_notice
        for job in self._to_cancel(now):
            job.cancelled_at = now.steady
            job.cancel_again = notice.seconds if notice else _CANCEL_AGAIN_SECONDS

    def seconds_to_deadline(self, now: Moment) -> float | None:
        """Return in how many seconds something must be done or said because of the deadline."""
        is_done = self.limit is not None or self._is_overdue_told or not self._waiting
        if self.spec.deadline is None or is_done:
            return None
        return max(self.spec.deadline - now.wall, 0)

    def ask(self) -> PollRequest:
        """Return what a regular round asks: squeue, and the logs of what runs."""
        queued, owned = self._ask_queue()
        self._asked_accounting = ()
        return PollRequest(
            queued=queued,
            owned=owned,
            progress=self.logs.progress_request(),
            logs=self.logs.requests() if self._is_running else (),
            acknowledged=self.logs.acknowledge_memo(),
        )

    def follow_up(self) -> PollRequest:
        """
        Return what to ask besides, in the same round.

        That is the first lines of a job that just started, and all sources about one that squeue
        shows as ended, or not at all.
        """
        if not self.is_settling:
            self._asked_queue = self._asked_accounting = ()
            return PollRequest(logs=self.logs.requests())
        ending = [job for job in self._open if job.settling_since is not None]
        over = tuple(job.job_id for job in ending)
        has_controller = self._has_no_accounting
        queued, owned = self._ask_queue()
        self._asked_accounting = over
        return PollRequest(
            queued=queued,
            owned=owned,
            accounted=tuple(job.accounted_id for job in ending),
            detailed=tuple(filter(_PLAIN_ID.fullmatch, over)) if has_controller else (),
            exit_records=((self._exit_name, self.spec.run_dir),) if self.spec.run_dir else (),
            logs=self.logs.requests(),
        )

    def _ask_queue(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return whom squeue is asked for by id, and whom among the user's own jobs."""
        jobs = self._open
        job_ids = tuple(job.job_id for job in jobs)
        # As long as none has ended that is the same tuple for all rounds.
        self._asked_queue = job_ids = self.spec.job_ids if job_ids == self.spec.job_ids else job_ids
        if not self.spec.run_dir:
            return job_ids, ()
        by_id = tuple(job.job_id for job in jobs if job.is_by_id)
        if not by_id:
            return (), job_ids
        return by_id, tuple(job.job_id for job in jobs if not job.is_by_id)

    @property
    def _exit_name(self) -> str:
        return f"{self._name}.exit"

    def observe(self, answers: Answers, now: Moment) -> list[Event]:
        """
        Take in one answer of the site and return what follows from it.

        It answers the requests of other trackers as well: what was not asked is not denied.
        """
        self._clock = answers.clock
        queued, accounted = self._asked_queue, self._asked_accounting
        queue = answers.queue_about(queued) if queued else None
        accounting = answers.accounting_about(accounted) if accounted else None
        events = self._read_logs(answers, now)
        if isinstance(queue, NoAnswer):
            self._doubt_denials()
            return [*events, *self.park(controller_outage(queue.reason, now), now)]
        if queue is not None:
            changes = self._observe_queue(answers, now)
            events = [*self._resume(accounting, now), *changes, *events]
        if accounting is not None:
            events += self._settle(answers, now)
        return [*events, *self._describe_progress(), *self._check_limits(now), *self._end()]

    def _read_logs(self, answers: Answers, now: Moment) -> list[Event]:
        events: list[Event] = []
        memo = self.logs.resume(answers.frames)
        if memo is not None:
            memories = read_memories(memo)
            for job in self._jobs:
                job.memory = memories.get(job.job_id, job.memory)
        if memo is not None and self.logs.is_resumed:
            events.append(Note(f"Watching again; {self.logs.whence}."))
        lines = self.logs.read(answers.frames, now=now.steady)
        return [*events, LogLines(lines)] if lines else events

    def park(self, outage: Outage, now: Moment) -> list[Event]:
        """Note that a source gave no answer; each reason is said once, however long it lasts."""
        events: list[Event] = [*self._parking.park(outage)]
        is_new = self.limit is None and not self._is_overdue_told
        if self._waiting and is_new and self._limits.is_past_deadline(now):
            self._is_overdue_told = True
            text = (
                f"execution_timeout is reached; job {', '.join(self._waiting)} will be cancelled "
                "as soon as the site answers, unless it has ended by itself."
            )
            events.append(Note(text, logging.WARNING))
        return events

    def _doubt_denials(self) -> None:
        for job in self._open:
            job.forgotten_since = None

    def _resume(
        self, accounting: Answer[AccountingRow] | NoAnswer | None, now: Moment
    ) -> list[Note]:
        lacks = self._lacks_accounting and not isinstance(accounting, Answer)
        if lacks and self.is_settling:
            return []
        self._lacks_accounting = False
        return self._parking.resume(now)

    def _observe_queue(self, answers: Answers, now: Moment) -> list[Event]:
        events: list[Event] = []
        is_changed = False
        for job in self._open:
            said = answers.queue_of(job.job_id).rows
            # It was alive when it was last seen, and nothing about it has changed.
            if job.last_seen and job.settling_since is None and _are_same(said, job.rows):
                job.last_seen = job.last_seen[0], answers.clock
                continue
            is_changed, job.rows = True, said
            rows = self._own(job, said)
            ended = self._remember_ends(job, rows)
            job.queue = Answer((*rows, *ended) if ended else rows)
            if job.is_live:
                job.settling_since = job.forgotten_since = None
                self.logs.forget_expectations()
                events += self._observe_live(job, answers.clock)
            elif job.settling_since is None:
                job.settling_since = now.steady
                events += _describe_revoked(job)
        if is_changed:
            self.logs.memo = write_memories({job.job_id: job.memory for job in self._jobs})
        return events

    def _own(self, job: _Job, rows: tuple[QueueRow, ...]) -> tuple[QueueRow, ...]:
        return own_rows(rows, self.spec.token, job.memory) if self.spec.token else rows

    def _remember_ends(self, job: _Job, rows: tuple[QueueRow, ...]) -> list[QueueRow]:
        """
        Return what ended and squeue has forgotten since: elements of an array, or the job itself.

        It counts only where no accounting will ever tell of it. A job that was requeued is shown.
        """
        current = {row.job_id: row for row in rows}
        ends = {
            name: row
            for name, row in {**job.ends, **current}.items()
            if current.get(name, row).state.is_final
        }
        job.ends = ends or _NO_ENDS
        shown = {job.job_id, *current} if current else set()
        forgotten = [row for name, row in job.ends.items() if name not in shown]
        return forgotten if self._has_no_accounting else []

    def _observe_live(self, job: _Job, clock: int) -> list[Event]:
        events: list[Event] = []
        row = _telling_row(job.live_rows)
        job.last_seen = row, clock
        if row.job_id == job.job_id and row.state.name != "COMPLETING" and job.memory.note_row(row):
            self.logs.expect_anew()
            text = f"Slurm has requeued job {job.job_id}; it is followed to its real end."
            events.append(Note(text))
        if self.spec.tells_start and row.state.phase is Phase.RUNNING:
            events += self._tell_start(job, row)
        return [*events, *self._describe_change(job, row, clock)]

    def _tell_start(self, job: _Job, row: QueueRow) -> list[Event]:
        if job.told_start == (row.submitted, row.started):
            return []
        job.told_start = row.submitted, row.started
        return [Started(job.job_id)]

    def _describe_change(self, job: _Job, row: QueueRow, clock: int) -> list[Event]:
        """Say how a job's state has changed; of one that waits why, and when it may start."""
        if row.state.phase is not Phase.QUEUED:
            if job.waiting is not None:
                job.waiting.leave(min(clock, row.started or clock))
            return _tell_state(job, row)
        reason = explain_reason(row.reason)
        waiting = job.waiting = job.waiting or Waiting()
        waiting.enter(reason.code, clock)
        told = _tell_waiting(job, row, reason)
        start = None if row.nodes else row.started
        if start is not None and is_news(waiting.told_start, start, clock):
            told += [_tell_estimate(job.job_id, waiting, start, clock)]
        return [*told, *self._give_up(job)]

    def _give_up(self, job: _Job) -> list[Event]:
        """Have a job of ours cancelled that can never start, or only when somebody releases it."""
        rows = job.live_rows
        kinds = {explain_reason(row.reason).kind for row in rows}
        # What holds for some elements of an array only is no reason to cancel the others.
        is_all = len(kinds) == 1 and all(row.state.phase is Phase.QUEUED for row in rows)
        if not is_all or job.limit is not None or not self.spec.run_dir:
            return []
        kind = kinds.pop()
        if kind == "never":
            job.limit = "dependency"
        elif kind == "held" and self.spec.cancel_held:
            job.limit = "held"
        else:
            return []
        why = "can never start" if kind == "never" else "is held"
        return [Note(f"Job {job.job_id} {why}. This task cancels it.", logging.WARNING)]

    def _check_limits(self, now: Moment) -> list[Event]:
        if self.limit is not None or self._clock is None or not self._limits.are_set(now):
            return []
        live = [job for job in self._open if job.is_live]
        # Where nothing is left that could be cancelled, a job's own end counts.
        if not live:
            return []
        rows = [QueuedRow(row, job.memory.queued_before) for job in live for row in job.live_rows]
        found = self._limits.find(rows, self._clock, now)
        if found is None:
            return []
        self.limit, seconds = found
        length = "" if seconds is None else f" of {seconds:.0f} s"
        return [Note(f"{self.limit}{length} is reached; cancelling.", logging.WARNING)]

    def _describe_progress(self) -> list[Event]:
        """Return what is to be said of all jobs together; each one's changes are said already."""
        return []

    def _settle(self, answers: Answers, now: Moment) -> list[Event]:
        accounting = answers.accounting_about(self._asked_accounting)
        frame = answers.frames.get(self._exit_name)
        record = parse_exit_record(frame.data) if frame else None
        events = self._note_missing_accounting(accounting)
        for job in self._open:
            if job.settling_since is None or job.job_id not in self._asked_accounting:
                continue
            evidence = self._gather(job, answers, record)
            if self._is_settled(job, evidence, now):
                job.result = self._build_result(job, evidence)
                events += self._describe_result(job, evidence)
        return [*events, *self._explain_wait(accounting, now)]

    def _gather(self, job: _Job, answers: Answers, record: ExitRecord | None) -> Evidence:
        accounting = answers.accounting_of(job.job_id)
        if isinstance(accounting, Answer) and self.spec.token:
            accounting = Answer(own_rows(accounting.rows, self.spec.token, job.memory))
        evidence = Evidence(
            queue=job.queue,
            accounting=accounting,
            exit_record=record if record and record.job_id == job.job_id else None,
            controller=answers.controller_of(job.job_id),
        ).without_old_record()
        if own := evidence.exit_record:
            sizes = {
                self.spec.stderr_path: own.stderr_bytes,
                self.spec.stdout_path: own.stdout_bytes,
            }
            self.logs.expect({path: size for path, size in sizes.items() if path and size >= 0})
        return evidence

    def _note_missing_accounting(
        self, accounting: Answer[AccountingRow] | NoAnswer | None
    ) -> list[Event]:
        if self._has_no_accounting or not is_without_accounting(accounting):
            return []
        self._has_no_accounting = True
        return [
            Note(
                "This site keeps no accounting. How the job ended is taken from its exit record "
                "and from what the controller still remembers; what it used, and who cancelled "
                "it, cannot be known."
            )
        ]

    def _is_settled(self, job: _Job, evidence: Evidence, now: Moment) -> bool:
        since = now.steady if job.settling_since is None else job.settling_since
        is_late = now.steady - since >= _SETTLE_SECONDS
        job.is_by_array = job.is_by_array or evidence.accounting == Answer(())
        if not evidence.is_forgotten:
            job.forgotten_since = None
        elif job.forgotten_since is None:
            job.forgotten_since = now.steady
            job.is_by_id = True
        verdict = judge(evidence)
        if not verdict.is_final:
            start, patience = job.forgotten_since, self.spec.missing_seconds
            if not evidence.is_denied:
                patience = max(patience, _LAG_SECONDS)
            return start is not None and now.steady - start >= patience
        if (verdict.disputed or verdict.state).name in _MAY_RETURN and not is_late:
            return False
        # Of a job that never ran there is no log to wait for.
        if evidence.has_run and not self.logs.is_whole(
            now=now.steady, over_since=since, is_late=is_late
        ):
            return False
        return evidence.is_told_best or (is_late and evidence.is_told_as_a_whole(job.job_id))

    def _explain_wait(
        self, accounting: Answer[AccountingRow] | NoAnswer | None, now: Moment
    ) -> list[Event]:
        """Park when a job is over for squeue, and the source that knows how is away."""
        stuck = any(
            job.settling_since is not None and now.steady - job.settling_since >= _SETTLE_SECONDS
            for job in self._open
        )
        is_away = isinstance(accounting, NoAnswer) and not is_without_accounting(accounting)
        if stuck and is_away and isinstance(accounting, NoAnswer):
            self._lacks_accounting = True
            return self.park(accounting_outage(accounting.reason, now), now)
        return []

    def _build_result(self, job: _Job, evidence: Evidence) -> JobResult:
        result = build_result(
            job.job_id,
            evidence,
            run_dir=self.spec.run_dir,
            stdout_path=self.spec.stdout_path,
            stderr_path=self.spec.stderr_path,
            limit=self.limit or job.limit,
        )
        result = complete_result(result, evidence, job.last_seen)
        return replace(result, pending_reasons=self._report_waits(job)) if job.waiting else result

    @staticmethod
    def _report_waits(job: _Job) -> list[dict[str, str | int]]:
        """Return why a job was seen to wait; one that never ran waited until it was last seen."""
        if job.waiting is None or job.last_seen is None:
            return []
        job.waiting.leave(job.last_seen[1])
        return report_waits(job.waiting.earlier)

    def _describe_result(self, job: _Job, evidence: Evidence) -> list[Event]:
        result = job.result
        if result is None:
            return []
        events: list[Event] = []
        if result.contradiction:
            text = f"The sources contradict each other about job {job.job_id}: "
            events.append(Note(f"{text}{result.contradiction}.", logging.WARNING))
        if not result.is_final:
            text = describe_forgotten(
                job.job_id, evidence, job.last_seen, self.spec.missing_seconds
            )
            events.append(Note(text, logging.WARNING))
        return events

    def _end(self) -> list[Event]:
        if not self.is_done or self._has_ended:
            return []
        self._has_ended = True
        rest = self.logs.last_lines()
        ended = Ended(self._sum_up())
        return [LogLines(rest), ended] if rest else [ended]

    def _sum_up(self) -> list[JobResult]:
        """Return the results, in the order of the jobs."""
        return [job.result for job in self._jobs if job.result is not None]


def _are_same(rows: tuple[QueueRow, ...], others: tuple[QueueRow, ...]) -> bool:
    """Whether these are the very same objects: a row that did not change is not read again."""
    return bool(rows) and len(rows) == len(others) and all(map(is_, rows, others))


def _telling_row(rows: list[QueueRow]) -> QueueRow:
    return min(rows, key=lambda each: each.state.phase is not Phase.RUNNING)


def _describe_revoked(job: _Job) -> list[Event]:
    rows = job.queue.rows if job.queue else ()
    if not any(is_revoked(row.state) for row in rows):
        return []
    return [
        Note(
            f"Job {job.job_id} is REVOKED: another cluster of the federation runs it, and only "
            "accounting, where the clusters share it, or its exit record will tell its end."
        )
    ]


def _tell_state(job: _Job, row: QueueRow) -> list[Event]:
    if not _is_new(job, row.state.name, row.nodes):
        return []
    is_running = row.state.phase is Phase.RUNNING
    about = f" on {row.nodes}" if is_running else f" ({row.nodes})"
    meaning = "" if row.state.name == "RUNNING" else f": it {row.state.meaning}"
    text = f"Job {job.job_id} is {row.state.name}{about if row.nodes else ''} in {row.partition}"
    return [Note(f"{text}{meaning}.")]


def _tell_waiting(job: _Job, row: QueueRow, reason: PendingReason) -> list[Event]:
    if not _is_new(job, row.state.name, reason.code):
        return []
    told = []
    if row.state.name != "PENDING":
        told.append(f"it {row.state.meaning}.")
    # Slurm gives a reason to those that wait, and to some that are about to.
    if row.reason or not told:
        told.append(reason.explain(job.job_id, "It" if told else "it"))
    about = f" ({reason.code})" if row.reason else ""
    text = f"Job {job.job_id} is {row.state.name}{about} in {row.partition}: {' '.join(told)}"
    return [Note(text, logging.WARNING if reason.is_hopeless else logging.INFO)]


def _is_new(job: _Job, name: str, detail: str) -> bool:
    """Whether this was not what was told last; what is told of it does not change with a list."""
    shown, job.shown = job.shown, (name, detail)
    return shown != job.shown


def _tell_estimate(job_id: str, waiting: Waiting, start: int, clock: int) -> Note:
    again = "" if waiting.told_start is None else "now "
    waiting.told_start = start
    return Note(f"Slurm {again}expects job {job_id} to start at {describe_start(start, clock)}.")
