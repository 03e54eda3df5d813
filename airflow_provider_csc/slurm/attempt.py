"""What one try of a task remembers from one job to the next, as plain JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.slurm.policy import PastSubmission

_SHORTEST_PAUSE, _LONGEST_PAUSE = 30.0, 600.0
# So many last longer than it takes until a claim that was left behind is given up.
_EQUAL_PAUSES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """
    Which job of a try this is.

    ``resubmission`` counts the jobs that a retry policy submitted within the try; ``changes`` are
    the sbatch options it set, ``asked`` the options of the present job, ``history`` one dict for
    each job before it (see `policy`). ``deadline`` is when ``execution_timeout`` is reached
    (seconds since 1970, Airflow's clock). ``waits`` is how often the try had to wait before it
    could submit. ``array`` is what is known of a job array that takes several jobs (see
    `array_attempt`).

    Running tasks hold it: never rename, add only with a default.
    """

    resubmission: int = 0
    changes: Mapping[str, str] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    history: tuple[PastSubmission, ...] = ()
    deadline: float | None = None
    waits: int = 0
    array: Mapping[str, Any] | None = None

    @property
    def is_resumed(self) -> bool:
        """Whether the try had to wait before, so that it may have submitted already."""
        return self.waits > 0

    @property
    def pause_seconds(self) -> float:
        """How long a submission whose fate is open is left alone before it is looked at again."""
        longer = 2.0 ** min(max(self.waits - _EQUAL_PAUSES, 0), 10)
        return min(_SHORTEST_PAUSE * longer, _LONGEST_PAUSE)

    def resumed(self) -> Attempt:
        """Return the attempt as it goes on after a wait."""
        return replace(self, waits=self.waits + 1)

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "asked": list(self.asked), "history": list(self.history)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any] | None) -> Attempt:
        """Read what `to_payload` made, also when another version added fields to it."""
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in (payload or {}).items() if name in known}
        for name in ("asked", "history"):
            given[name] = tuple(given.get(name, ()))
        return cls(**given)
