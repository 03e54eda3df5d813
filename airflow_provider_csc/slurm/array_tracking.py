"""
Follow a job array as one job: each task to its own end, with its own evidence.

Only what differs from a single job is here. The whole array is asked for by its base id; what is
said of it is said of counts, once per round and only when they changed.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.array_logs import ArrayLogs
from airflow_provider_csc.slurm.array_parts import name_task, parse_part
from airflow_provider_csc.slurm.array_record import ArrayRecord, TaskEnd, describe_counts
from airflow_provider_csc.slurm.array_result import sum_up
from airflow_provider_csc.slurm.array_rows import rows_by_task, rows_of_array
from airflow_provider_csc.slurm.arrays import array_of, format_array
from airflow_provider_csc.slurm.batch import parse_exit_records
from airflow_provider_csc.slurm.cancel_commands import read_notice
from airflow_provider_csc.slurm.commands import PollRequest
from airflow_provider_csc.slurm.endings import complete_result
from airflow_provider_csc.slurm.events import Event, Moment, Note
from airflow_provider_csc.slurm.failures import failure_of
from airflow_provider_csc.slurm.limits import QueuedRow
from airflow_provider_csc.slurm.output import (
    AccountingRow,
    Answer,
    QueueRow,
)
from airflow_provider_csc.slurm.ownership import own_rows, write_memories
from airflow_provider_csc.slurm.pending import (
    PendingReason,
    describe_start,
    explain_reason,
    is_news,
    report_waits,
)
from airflow_provider_csc.slurm.result import build_result
from airflow_provider_csc.slurm.states import Phase
from airflow_provider_csc.slurm.tracking import (
    JobTracker,
    WatchSpec,
    _Job,
)
from airflow_provider_csc.slurm.verdict import Evidence, is_revoked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.answers import Answers
    from airflow_provider_csc.slurm.cancel_commands import Notice
    from airflow_provider_csc.slurm.result import JobResult


# Of so many tasks that are over the end is asked for at once, each in its turn; of more than the
# second number it is cheaper to hear of the whole array.
_MAX_BATCH = 500
_MAX_NAMED = 50
# So many tasks are named one by one when something is odd about them.
_MAX_NOTES = 3

_NOT_SEEN, _ENDING = "PENDING", "COMPLETING"


def make_tracker(name: str, spec: WatchSpec) -> JobTracker:
    """Return the tracker of some jobs, or of one array."""
    return JobTracker(name, spec) if spec.array is None else ArrayTracker(name, spec)


class ArrayTracker(JobTracker):
    """
    Follow one job array to the end of its last task.

    Its one result has the record of all tasks. ``queue_timeout`` and ``timeout`` hold for each.
    """

    def __init__(self, name: str, spec: WatchSpec) -> None:
        super().__init__(name, spec)
        part = parse_part(spec.array or "")
        (self._base,) = spec.job_ids
        self._shift = part.shift
        # By Slurm's ids; those who read see the others.
        self._left = {
            each - part.shift: _Job(name_task(self._base, each, part.shift)) for each in part.spec
        }
        self._over: dict[int, _Job] = {}
        self._batch: tuple[int, ...] = ()
        # What holds for the array as such: whose it is, why it waits, that it is cancelled.
        (self._whole,) = self._jobs
        self._ends: dict[int, TaskEnd] = {}
        self._results: list[JobResult] = []
        self._told: dict[str, int] = {}
        # Which reasons to wait were told and still hold, how long each did, and when that was seen.
        self._reasons: frozenset[str] = frozenset()
        self._waits: dict[str, int] = {}
        self._waits_clock = 0
        self._has_told = self._is_revoked_told = False
        self._odd = 0
        self._runs = False
        self.logs = self._logs = ArrayLogs(
            name,
            [path for path in dict.fromkeys((spec.stdout_path, spec.stderr_path)) if path],
            which=spec.array_logs if spec.stream_logs else "none",
            job_id=self._base,
            shift=part.shift,
            run_dir=spec.run_dir,
            limit_bytes=spec.log_limit_bytes,
        )

    @property
    def _open(self) -> list[_Job]:
        return list(self._left.values())

    @property
    def _is_running(self) -> bool:
        return self._runs

    @property
    def is_settling(self) -> bool:
        """Whether some task is over for squeue."""
        return bool(self._over)

    @property
    def is_urgent(self) -> bool:
        """Whether its next round should not wait: something ends, or is being cancelled."""
        is_ending = bool(self._whole.limit) or not self._left
        return super().is_urgent or (is_ending and not self.is_parked)

    @property
    def is_done(self) -> bool:
        """Whether every task has its result, and its log was read."""
        return not self._left and self._logs.is_finished

    @property
    def _waiting(self) -> list[str]:
        return [self._base] if len(self._over) < len(self._left) else []

    # ---- cancelling ----

    @property
    def _is_wholly_unwanted(self) -> bool:
        return bool(self.limit or self._whole.limit)

    def _to_cancel(self, now: Moment) -> list[_Job]:
        """Return the tasks to be cancelled now; those that were not asked to end before, first."""
        if self._is_wholly_unwanted:
            candidates = [self._whole]
        else:
            candidates = [job for job in self._open if job.limit]
        due = [job for job in candidates if job.is_to_cancel(now)]
        return [job for job in due if job.cancelled_at is None] or due

    def jobs_to_cancel(self, now: Moment) -> list[str]:
        """Return the array, or those of its tasks that a limit of their own wants gone."""
        jobs = self._to_cancel(now)
        if len(jobs) <= 1:
            return [job.job_id for job in jobs]
        ids = array_of(int(job.job_id.rpartition("_")[2]) for job in jobs)
        return [f"{self._base}_[{format_array(ids)}]"]

    @property
    def marked_dirs(self) -> tuple[str, ...]:
        """The run directory, unless only some tasks are cancelled: the mark holds for all."""
        return super().marked_dirs if self._is_wholly_unwanted else ()

    @property
    def cancel_notice(self) -> Notice | None:
        """What `jobs_to_cancel` are told first; None where they are cancelled at once."""
        jobs = [self._whole] if self._is_wholly_unwanted else self._open
        is_first = any(job.cancelled_at is None and (job.limit or self.limit) for job in jobs)
        return read_notice(self.spec.kill_grace, self.spec.kill_signal) if is_first else None

    # ---- asking ----

    def ask(self) -> PollRequest:
        """Return what a regular round asks: squeue, and the logs."""
        self._has_told = False
        self._batch = ()
        self._asked_accounting = ()
        queued, owned = self._ask_queue()
        return PollRequest(
            queued=queued,
            owned=owned,
            progress=self.logs.progress_request(),
            logs=self.logs.requests(),
            acknowledged=self.logs.acknowledge_memo(),
        )

    def follow_up(self) -> PollRequest:
        """Return what to ask besides, in the same round; of what is over, each in its turn."""
        if not self._over:
            self._batch = ()
            self._asked_queue = self._asked_accounting = ()
            return PollRequest(logs=self.logs.requests())
        self._batch = tuple(islice(self._over, _MAX_BATCH))
        for index in self._batch:
            self._over[index] = self._over.pop(index)
        run_dir = self.spec.run_dir
        queued, owned = self._ask_queue()
        self._asked_accounting = self._accounted()
        return PollRequest(
            queued=queued,
            owned=owned,
            accounted=self._asked_accounting,
            detailed=(self._base,) if self._has_no_accounting else (),
            array_records=((self._exit_name, run_dir, self._batch),) if run_dir else (),
            logs=self.logs.requests(),
        )

    def _ask_queue(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return whom squeue is asked for by id, and whom among the user's own jobs."""
        self._asked_queue = (self._base,) if self._left else ()
        if self.spec.run_dir and not self._whole.is_by_id:
            return (), self._asked_queue
        return self._asked_queue, ()

    def _accounted(self) -> tuple[str, ...]:
        """
        Return what sacct is asked about.

        Of tasks that were cancelled in the queue it tells only as part of the array.
        """
        jobs = [self._over[index] for index in self._batch]
        if len(jobs) > _MAX_NAMED or not all(map(_has_row, jobs)):
            return (self._base,)
        return tuple(job.job_id for job in jobs)

    # ---- observing ----

    def _observe_queue(self, answers: Answers, now: Moment) -> list[Event]:
        rows = self._own(self._whole, answers.queue_of(self._base).rows)
        self._whole.queue = Answer(rows)
        self._whole.is_by_id = self._whole.is_by_id or not rows
        live = self._whole.live_rows
        if live:
            self._note_identity(live)
        shown = rows_by_task(rows)
        nameless = rows_of_array(rows, self._base)
        nothing: Answer[QueueRow] = Answer(())
        requeued: list[int] = []
        waiting: dict[str, _Waiting] = {}
        self._runs = any(row.state.phase is Phase.RUNNING for row in live)
        for index, job in self._left.items():
            own = shown.get(index, nothing if _has_row(job) else nameless)
            job.queue = own
            if job.ends or any(row.state.is_final for row in own.rows):
                job.queue = Answer((*own.rows, *self._remember_ends(job, own.rows)))
            if job.is_live:
                if self._observe_live_task(index, job, answers.clock):
                    requeued.append(index + self._shift)
                _count_waiting(job, waiting)
            elif job.settling_since is None:
                job.settling_since = now.steady
                self._over[index] = job
        self.logs.memo = write_memories({self._base: self._whole.memory})
        return [
            *_describe_requeued(requeued),
            *self._note_revoked(rows),
            *self._tell_reasons(waiting, answers.clock),
            *(self._give_up(self._whole) if live else ()),
        ]

    def _tell_reasons(self, waiting: Mapping[str, _Waiting], clock: int) -> list[Event]:
        """Say why tasks wait, once for each reason and not for each task."""
        found = {explain_reason(text): group for text, group in waiting.items()}
        passed = max(clock - self._waits_clock, 0) if self._waits_clock else 0
        self._waits_clock = clock
        events: list[Event] = []
        for reason, group in found.items():
            self._waits[reason.code] = self._waits.get(reason.code, 0) + passed
            # Every job has no reason at first; the counts tell that it waits.
            if reason.code not in self._reasons and group.row.reason:
                events.append(self._tell_reason(reason, group, clock))
        self._reasons = frozenset(reason.code for reason in found)
        return events

    def _tell_reason(self, reason: PendingReason, group: _Waiting, clock: int) -> Note:
        tasks = "1 task waits" if group.count == 1 else f"{group.count} tasks wait"
        text = f"Array {self._base}: {tasks} ({reason.code}): "
        text += reason.explain(self._base, "it" if group.count == 1 else "each")
        start = None if group.row.nodes else group.row.started
        if is_news(None, start, clock) and start is not None:
            text += f" Slurm expects the next to start at {describe_start(start, clock)}."
        return Note(text, logging.WARNING if reason.is_hopeless else logging.INFO)

    def _note_identity(self, live: Sequence[QueueRow]) -> None:
        """Keep by what the array is known again; a requeue of one task is none of the array."""
        memory = self._whole.memory
        times = [row.submitted for row in live if row.submitted]
        memory.name = live[0].name
        memory.submitted = min(times, default=memory.submitted)

    def _observe_live_task(self, index: int, job: _Job, clock: int) -> bool:
        """Note how a task lives; whether it was requeued since the last round."""
        if job.settling_since is not None:
            job.settling_since = job.forgotten_since = None
            self._over.pop(index, None)
        row = job.live_rows[0]
        job.last_seen = row, clock
        if row.state.phase is Phase.RUNNING:
            self._logs.begin(index + self._shift)
        is_own = row.job_id == job.job_id and row.state.name != "COMPLETING"
        if not is_own or not job.memory.note_row(row):
            return False
        self._logs.note_requeued(index + self._shift)
        return True

    def _note_revoked(self, rows: Sequence[QueueRow]) -> list[Event]:
        if self._is_revoked_told or not any(is_revoked(row.state) for row in rows):
            return []
        self._is_revoked_told = True
        return [
            Note(
                f"Tasks of array {self._base} are REVOKED: another cluster of the federation runs "
                "them, and only accounting, where the clusters share it, or their exit records "
                "will tell their end."
            )
        ]

    def _check_limits(self, now: Moment) -> list[Event]:
        if self.limit is not None or self._clock is None or not self._whole.is_live:
            return []
        if self._limits.is_past_deadline(now):
            self.limit = "execution_timeout"
            return [Note("execution_timeout is reached; cancelling.", logging.WARNING)]
        found: dict[tuple[str, float | None], list[int]] = {}
        told: dict[tuple[int, int], tuple[str, float | None] | None] = {}
        for index, job in self._left.items():
            if job.limit or not job.is_live:
                continue
            row, before = job.live_rows[0], job.memory.queued_before
            # Those that wait share one row.
            key = id(row), before
            if key not in told:
                told[key] = self._limits.find([QueuedRow(row, before)], self._clock, now)
            if reached := told[key]:
                job.limit = reached[0]
                found.setdefault(reached, []).append(index + self._shift)
        return [
            Note(
                f"{name} of {seconds or 0:.0f} s is reached; cancelling tasks "
                f"{format_array(array_of(indices))}.",
                logging.WARNING,
            )
            for (name, seconds), indices in found.items()
        ]

    def _describe_progress(self) -> list[Event]:
        is_waiting = bool(self._over) and not self._asked_accounting
        if self._has_told or is_waiting:
            return []
        counts = Counter(end.state for end in self._ends.values())
        for job in self._left.values():
            counts[_live_name(job)] += 1
        if counts == self._told:
            return []
        self._told = dict(counts)
        self._has_told = True
        return [Note(describe_counts(self._base, counts))]

    # ---- ending ----

    def _settle(self, answers: Answers, now: Moment) -> list[Event]:
        accounting = answers.accounting_about(self._asked_accounting)
        frame = answers.frames.get(self._exit_name)
        records = parse_exit_records(frame.data) if frame else {}
        events = self._note_missing_accounting(accounting)
        own = answers.accounting_of(self._base) if isinstance(accounting, Answer) else accounting
        accounted: dict[int, Answer[AccountingRow]] = {}
        nameless: Answer[AccountingRow] = Answer(())
        if isinstance(own, Answer):
            rows = own.rows
            if self.spec.token:
                rows = own_rows(rows, self.spec.token, self._whole.memory)
            accounted, nameless = rows_by_task(rows), rows_of_array(rows, self._base)
        controller = answers.controller_of(self._base)
        detailed = rows_by_task(controller.rows) if isinstance(controller, Answer) else {}
        for index in self._batch:
            job = self._over.get(index)
            if job is None:
                continue
            record = records.get(job.job_id)
            rest = Answer(()) if record or _has_row(job) else nameless
            evidence = Evidence(
                queue=job.queue,
                accounting=accounted.get(index, rest) if isinstance(own, Answer) else own,
                exit_record=record,
                controller=detailed.get(index, Answer(()))
                if isinstance(controller, Answer)
                else controller,
            ).without_old_record()
            if self._is_settled(job, evidence, now):
                events += self._finish(index, job, evidence, now)
        return [*events, *self._explain_wait(accounting, now)]

    def _finish(self, index: int, job: _Job, evidence: Evidence, now: Moment) -> list[Event]:
        shown_id, record = index + self._shift, evidence.exit_record
        paths = self._logs.paths_of(shown_id, record)
        result = build_result(
            job.job_id,
            evidence,
            run_dir=self.spec.run_dir,
            stdout_path=paths[0] if paths else None,
            stderr_path=paths[-1] if paths else None,
            limit=self.limit or self._whole.limit or job.limit,
        )
        result = complete_result(result, evidence, job.last_seen)
        failure = failure_of(result)
        self._ends[index] = TaskEnd(
            job_id=self._base,
            shift=self._shift,
            state=result.state,
            exit_code=result.exit_code,
            signal=result.signal,
            reason=result.reason if failure else None,
            nodes=result.nodes if failure else None,
            log=result.stdout_path if failure else None,
            failure=str(failure) if failure else None,
        )
        # The table of what its steps used is for the reader of a single job.
        self._results.append(replace(result, accounting=""))
        self._left.pop(index)
        self._over.pop(index)
        # Of a task that never ran there is no log to wait for.
        if evidence.has_run:
            self._logs.end(shown_id, record, is_success=failure is None, now=now.steady)
        return self._describe_oddity(result)

    def _describe_oddity(self, result: JobResult) -> list[Event]:
        """Say what a reader should know of a single task; of few tasks, for all may be alike."""
        if result.contradiction:
            text = f"The sources contradict each other about {result.job_id}: "
            text += f"{result.contradiction}."
        elif not result.is_final:
            text = (
                f"{result.job_id} is in no queue any more, sacct tells no end of it, and it left "
                "no exit record. What became of it is not known."
            )
        else:
            return []
        self._odd += 1
        if self._odd > _MAX_NOTES:
            return []
        more = " (Of further ones it is not said.)" if self._odd == _MAX_NOTES else ""
        return [Note(text + more, logging.WARNING)]

    def _sum_up(self) -> list[JobResult]:
        record = ArrayRecord({index + self._shift: end for index, end in self._ends.items()})
        result = sum_up(
            self._base,
            self._results,
            record,
            run_dir=self.spec.run_dir,
            stdout_path=self.spec.stdout_path,
            stderr_path=self.spec.stderr_path,
        )
        return [replace(result, pending_reasons=report_waits(self._waits.items()))]


@dataclass(slots=True)
class _Waiting:
    """How many tasks wait for one reason, and how squeue shows the first of them."""

    row: QueueRow
    count: int = 0


def _count_waiting(job: _Job, waiting: dict[str, _Waiting]) -> None:
    row = job.last_seen[0] if job.last_seen else None
    if row is None or row.state.phase is not Phase.QUEUED:
        return
    if row.reason not in waiting:
        waiting[row.reason] = _Waiting(row)
    waiting[row.reason].count += 1


def _has_row(job: _Job) -> bool:
    """Whether squeue has shown a task by itself, so that it ran or could not be put back."""
    return job.last_seen is not None and job.last_seen[0].job_id == job.job_id


def _live_name(job: _Job) -> str:
    """Return how a task was seen last; over for squeue, its end is still to be proven."""
    if job.last_seen is None:
        return _NOT_SEEN
    return job.last_seen[0].state.name if job.settling_since is None else _ENDING


def _describe_requeued(indices: Sequence[int]) -> list[Event]:
    if not indices:
        return []
    return [
        Note(
            f"Slurm has requeued tasks {format_array(array_of(indices))}; they are followed to "
            "their real end."
        )
    ]
