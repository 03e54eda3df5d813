"""Decide from the evidence what became of a job. Absence of information decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.output import AccountingRow, Answer, NoAnswer, QueueRow
from airflow_provider_csc.slurm.states import STATES, JobState, Phase

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.batch import ExitRecord

UNKNOWN = JobState("UNKNOWN", "", Phase.UNKNOWN, "is known to no source that could be asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the sources said of one job; None for a source that was not asked."""

    queue: Answer[QueueRow] | NoAnswer | None = None
    accounting: Answer[AccountingRow] | NoAnswer | None = None
    exit_record: ExitRecord | None = None

    @property
    def is_denied(self) -> bool:
        """Whether squeue and sacct both answered, and neither knows the job."""
        return self.queue == Answer(()) and self.accounting == Answer(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The state the evidence supports; it ends a wait only when ``is_final``."""

    state: JobState
    exit_code: int | None = None
    signal: int | None = None

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
    return Verdict(state=queued or UNKNOWN)


def _live_state(queue: Answer[QueueRow] | NoAnswer | None) -> JobState | None:
    """Return the state that keeps an (array) job going; running counts before queued."""
    rows = queue.rows if isinstance(queue, Answer) else ()
    live = [row.state for row in rows if not row.state.is_final]
    return min(live, key=lambda state: state.phase is not Phase.RUNNING, default=None)


def _final_state(queue: Answer[QueueRow] | NoAnswer | None) -> JobState | None:
    rows = queue.rows if isinstance(queue, Answer) else ()
    return _worst([row.state for row in rows])


def _worst(states: list[JobState]) -> JobState | None:
    """Return the one state of several elements that tells most: a failure before a success."""
    return min(states, key=lambda state: state.is_success, default=None)


def _final_row(accounting: Answer[AccountingRow] | NoAnswer | None) -> AccountingRow | None:
    rows = accounting.rows if isinstance(accounting, Answer) else ()
    jobs = [row for row in rows if row.step is None]
    if not jobs or any(not row.state.is_final or row.is_provisional for row in jobs):
        return None
    return min(jobs, key=lambda row: row.state.is_success)


def _from_accounting(row: AccountingRow, record: ExitRecord | None) -> Verdict:
    """
    Take the state from accounting, and the exit code from the job itself where it left one.

    sacct takes 128 off an exit code above 127 (src/sacct/print.c, 22.05), so ``exit 137`` and
    ``exit 9`` look alike there; and a job that Slurm ended is accounted as 0.
    """
    if record is not None and (record.exit_code or row.state.is_success):
        code, signal = split_exit_code(record.exit_code)
        return Verdict(state=_agreed(row.state, record), exit_code=code, signal=signal)
    return Verdict(state=row.state, exit_code=row.exit_code, signal=row.signal)


def _from_exit_record(record: ExitRecord, queued: JobState | None) -> Verdict:
    code, signal = split_exit_code(record.exit_code)
    state = _agreed(queued or STATES["COMPLETED"], record)
    return Verdict(state=state, exit_code=code, signal=signal)


def _agreed(state: JobState, record: ExitRecord) -> JobState:
    """
    Return the state Slurm tells, unless it is a success of which the job itself knows nothing.

    Slurm sees the wrapper's exit code only; a site's profile may end that shell with another one.
    """
    return STATES["FAILED"] if state.is_success and record.exit_code else state


def split_exit_code(code: int) -> tuple[int, int | None]:
    """Return exit code and signal; as in every shell, 128 + n means killed by signal n."""
    signal = code - 128
    return (code, signal) if 0 < signal < 65 else (code, None)  # noqa: PLR2004
