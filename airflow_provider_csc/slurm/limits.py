"""The limits that a task sets its jobs, each measured by the clock it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.states import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_csc.slurm.events import Moment
    from airflow_provider_csc.slurm.output import QueueRow


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A row of squeue, and how many seconds its job had queued before it was last requeued."""

    row: QueueRow
    queued_before: int = 0


@dataclass(slots=True, kw_only=True)
class Limits:
    """
    How long jobs may queue and run (seconds), and until when the task may take (since 1970).

    The first two are the cluster's own times, by the cluster's own clock, as it was when such a
    time was first seen; from then on this machine counts on. So a clock of the cluster that is
    wrong, or is set, changes nothing. The deadline is this machine's alone.
    """

    queue_timeout: float | None = None
    run_timeout: float | None = None
    deadline: float | None = None
    # Made when it is needed, for thousands of waiting tasks have one each.
    _seen: dict[tuple[Phase, int], tuple[float, float]] | None = None

    def is_past_deadline(self, now: Moment) -> bool:
        """Whether the task may not take any longer."""
        return self.deadline is not None and now.wall > self.deadline

    def are_set(self, now: Moment) -> bool:
        """Whether `find` can find anything, whatever the rows are."""
        has_times = self.queue_timeout is not None or self.run_timeout is not None
        return has_times or self.is_past_deadline(now)

    def find(
        self, rows: Iterable[QueuedRow], clock: int, now: Moment
    ) -> tuple[str, float | None] | None:
        """Return name and seconds of a limit that is reached; ``clock`` is the cluster's."""
        longest = dict.fromkeys((Phase.QUEUED, Phase.RUNNING), 0.0)
        for each in rows:
            phase = each.row.state.phase
            is_queued = phase is Phase.QUEUED
            since = each.row.submitted if is_queued else each.row.started
            if since is not None and phase in longest:
                elapsed = self._elapsed(phase, since, clock, now)
                before = each.queued_before if is_queued else 0
                longest[phase] = max(longest[phase], elapsed + before)
        if self.queue_timeout is not None and longest[Phase.QUEUED] > self.queue_timeout:
            return "queue_timeout", self.queue_timeout
        if self.run_timeout is not None and longest[Phase.RUNNING] > self.run_timeout:
            return "timeout", self.run_timeout
        return ("execution_timeout", None) if self.is_past_deadline(now) else None

    def _elapsed(self, phase: Phase, since: int, clock: int, now: Moment) -> float:
        first = (max(clock - since, 0), now.steady)
        self._seen = {} if self._seen is None else self._seen
        elapsed, steady = self._seen.setdefault((phase, since), first)
        return elapsed + now.steady - steady
