"""Decide from the evidence what became of a job. Absence of information decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.output import (
    AccountingRow,
    Answer,
    ControllerRow,
    NoAnswer,
    QueueRow,
    is_without_accounting,
)
from airflow_provider_csc.slurm.states import STATES, JobState, Phase

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.batch import ExitRecord

UNKNOWN = JobState("UNKNOWN", "", Phase.UNKNOWN, "is known to no source that could be asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """
    What the sources said of one job; None for a source that was not asked.

    ``controller`` is what scontrol says; it is asked only where accounting is off.
    """

    queue: Answer[QueueRow] | NoAnswer | None = None
    accounting: Answer[AccountingRow] | NoAnswer | None = None
    exit_record: ExitRecord | None = None
    controller: Answer[ControllerRow] | NoAnswer | None = None

    @property
    def is_denied(self) -> bool:
        """Whether all who keep books on this site answered, and none knows the job."""
        return self.queue == Answer(()) and (
            self.accounting == Answer(()) or is_without_accounting(self.accounting)
        )

    @property
    def is_forgotten(self) -> bool:
        """
        Whether squeue denies the job, and sacct has answered but does not tell its end.

        So it is for a moment when a job ends; and for ever when a slurmctld that was killed forgot
        a job, which stays PENDING, RUNNING or REQUEUED in sacct (seen on 22.05).
        """
        return self.is_denied or (
            self.queue == Answer(())
            and isinstance(self.accounting, Answer)
            and not judge(self).is_final
        )

    @property
    def has_run(self) -> bool:
        """Whether some source says that it was given nodes; else it cannot have written any."""
        queue = self.queue.rows if isinstance(self.queue, Answer) else ()
        rows = self.accounting.rows if isinstance(self.accounting, Answer) else ()
        nodes = [*(row.nodes for row in queue), *(row.nodes for row in rows)]
        return self.exit_record is not None or any(nodes)

    @property
    def is_told_best(self) -> bool:
        """Whether the source that knows most has told the end, so that no other need be heard."""
        accounted = isinstance(self.accounting, Answer) and _final_row(self.accounting) is not None
        is_asked = self.controller is not None or self.exit_record is not None
        return accounted or (is_asked and is_without_accounting(self.accounting))

    def is_told_as_a_whole(self, job_id: str) -> bool:
        """
        Whether a job that is over can be judged without sacct.

        Of an array (or a job of components) squeue forgets those that ended first.
        """
        rows = self.queue.rows if isinstance(self.queue, Answer) else ()
        return self.exit_record is not None or all(row.job_id == job_id for row in rows)

    def without_old_record(self) -> Evidence:
        """Leave out the exit record of a run that ended before Slurm requeued the job."""
        record = self.exit_record
        final = _final_row(self.accounting)
        queue = self.queue.rows if isinstance(self.queue, Answer) else ()
        # The start is no use here: squeue gives a job that is cancelled in the queue one, too.
        times = [row.submitted for row in queue if row.state.is_final]
        latest = max((time or 0 for time in [*times, final and final.submitted]), default=0)
        return replace(self, exit_record=None) if record and record.ended < latest else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    The state the evidence supports; it ends a wait only when ``is_final``.

    ``disputed`` is what Slurm says, where the job's own exit record proves it wrong.
    """

    state: JobState
    exit_code: int | None = None
    signal: int | None = None
    disputed: JobState | None = None

    @property
    def is_final(self) -> bool:
        """Whether the evidence proves that the job has ended."""
        return self.state.is_final


def judge(evidence: Evidence) -> Verdict:
    """
    Weigh the sources, the nearest to the truth first.

    A live row of squeue beats everything (a requeued job has an old accounting row); a final
    accounting row knows why the job ended; the job's own exit record is proof without Slurm.
    """
    live = _live_state(evidence.queue)
    if live is not None:
        return Verdict(state=live)
    accounted = _final_row(evidence.accounting)
    if accounted is not None:
        return _from_accounting(accounted, evidence.exit_record)
    queued = _final_state(evidence.queue)
    if evidence.exit_record is not None:
        return _from_exit_record(evidence.exit_record, queued)
    if queued is None:
        return Verdict(state=UNKNOWN)
    code, number = _controller_code(evidence.controller)
    return Verdict(state=queued, exit_code=code, signal=number)


def is_live(queue: Answer[QueueRow] | NoAnswer | None) -> bool:
    """Whether squeue shows the job, or some part of it, as not ended."""
    return _live_state(queue) is not None


def _controller_code(
    controller: Answer[ControllerRow] | NoAnswer | None,
) -> tuple[int | None, int | None]:
    rows = controller.rows if isinstance(controller, Answer) else ()
    worst = min(rows, key=lambda row: row.state.is_success, default=None)
    return (worst.exit_code, worst.signal) if worst and worst.state.is_final else (None, None)


def _live_state(queue: Answer[QueueRow] | NoAnswer | None) -> JobState | None:
    """Return the state that keeps an (array) job going; running counts before queued."""
    rows = queue.rows if isinstance(queue, Answer) else ()
    live = [row.state for row in rows if not (row.state.is_final or is_revoked(row.state))]
    return min(live, key=lambda state: state.phase is not Phase.RUNNING, default=None)


def is_revoked(state: JobState) -> bool:
    """Whether a row is only what is left of a job that another cluster of a federation runs."""
    return state.name == "REVOKED"


def _final_state(queue: Answer[QueueRow] | NoAnswer | None) -> JobState | None:
    rows = queue.rows if isinstance(queue, Answer) else ()
    return _worst([row.state for row in rows if not is_revoked(row.state)])


def _worst(states: list[JobState]) -> JobState | None:
    """Return the one state of several elements that tells most: a failure before a success."""
    return min(states, key=lambda state: state.is_success, default=None)


def _final_row(accounting: Answer[AccountingRow] | NoAnswer | None) -> AccountingRow | None:
    rows = accounting.rows if isinstance(accounting, Answer) else ()
    jobs = [row for row in rows if row.step is None and not is_revoked(row.state)]
    if not jobs or any(not row.state.is_final or row.is_provisional for row in jobs):
        return None
    return min(jobs, key=lambda row: row.state.is_success)


def _from_accounting(row: AccountingRow, record: ExitRecord | None) -> Verdict:
    """
    Take the state from accounting, and the exit code from the job itself where it left one.

    sacct takes 128 off an exit code above 127 (src/sacct/print.c, 22.05), so ``exit 137`` and
    ``exit 9`` look alike there; and a job that Slurm ended is accounted as 0.
    """
    if record is None:
        return Verdict(state=row.state, exit_code=row.exit_code, signal=row.signal)
    found = _from_exit_record(record, row.state)
    if record.exit_code or found.state.is_success:
        return found
    return replace(found, exit_code=row.exit_code, signal=row.signal)


def _from_exit_record(record: ExitRecord, told: JobState | None) -> Verdict:
    code, signal = split_exit_code(record.exit_code)
    state = STATES["COMPLETED"] if told is None or is_lost_late(told, record) else told
    if state.is_success and record.exit_code:
        # Slurm sees the wrapper's exit code only; a site's profile may end that shell with another.
        state = STATES["FAILED"]
    return Verdict(
        state=state, exit_code=code, signal=signal, disputed=told if told != state else None
    )


def is_lost_late(told: JobState, record: ExitRecord) -> bool:
    """
    Whether a job lost its node when its script had come to its end already.

    The record is the batch shell's last act; then slurmstepd tells slurmctld, and a node that dies
    in between makes the job a NODE_FAIL. Where a node of several dies, Slurm ends the script on the
    others by signals: then an exit code of 0 proves nothing.
    """
    return told.name == "NODE_FAIL" and record.exit_code == 0 and record.signals == 0


def split_exit_code(code: int) -> tuple[int, int | None]:
    """Return exit code and signal; as in every shell, 128 + n means killed by signal n."""
    signal = code - 128
    return (code, signal) if 0 < signal < 65 else (code, None)  # noqa: PLR2004
