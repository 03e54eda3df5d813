"""What one try of a task remembers from one job to the next, as plain JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.slurm.policy import PastSubmission


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """
    Which job of a try this is.

    ``resubmission`` counts the jobs that a retry policy submitted within the try; ``changes`` are
    the sbatch options it set, ``asked`` the options of the present job, ``history`` one dict for
    each job before it (see `policy`). ``deadline`` is when ``execution_timeout`` is reached
    (seconds since 1970, Airflow's clock). ``is_resumed`` is set once the try had to wait before it
    could submit.

    Running tasks hold it: never rename, add only with a default.
    """

    resubmission: int = 0
    changes: Mapping[str, str] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    history: tuple[PastSubmission, ...] = ()
    deadline: float | None = None
    is_resumed: bool = False

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
