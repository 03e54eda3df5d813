"""What one try of a task remembers from one job to the next, as plain JSON."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.slurm.dependencies import Needs, Upstream
from airflow_provider_csc.slurm.queue_limits import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.policy import PastSubmission
    from airflow_provider_csc.slurm.result import JobResult

_SHORTEST_PAUSE, _LONGEST_PAUSE = 30.0, 600.0
# So many last longer than it takes until a claim that was left behind is given up.
_EQUAL_PAUSES = 12
# Between a refusal and the look at the queue jobs may have ended; not so again and again.
_REFUSALS_WITH_ROOM = 2
# About an hour, with the pauses there are between them.
_REFUSALS_UNKNOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """
    Which job of a try this is.

    ``resubmission`` counts the jobs that were submitted again within the try; ``changes`` are the
    sbatch options that a retry policy set, ``asked`` the options of the present job, ``history``
    one dict for each job before it (see `policy`). ``deadline`` is when ``execution_timeout`` is
    reached (seconds since 1970, Airflow's clock). ``waits`` is how often the try had to wait before
    it could submit, ``looks`` how often of these because the fate of a submission was open.

    ``upstreams`` is what the present job depends on (see `dependencies.Upstream`), None as long as
    that is not known; ``replaced`` are jobs that it was to depend on and that ended otherwise, with
    their states; ``unsatisfied`` those of which Slurm said that they never will be as asked.

    ``refusals`` counts how often in a row the queue was full, ``queued_since`` tells since when
    (seconds since 1970, Airflow's clock).

    ``array`` is what is known of a job array that takes several jobs (see `array_attempt`).

    ``site`` names the profile of the site, where the connection names one. ``costs`` are the
    billing units of each job of the try that has ended: their number, and whether it is what the
    job cost (1) or only what it can have cost at the most (0); None is not known at all.

    ``uploads`` were begun in an object store that was away when they were to be aborted: bucket,
    key and upload_id of each.

    ``is_building`` while the job is the one that builds the environment of the task's own;
    ``environment`` is what came of that.

    Running tasks hold it: never rename, add only with a default.
    """

    resubmission: int = 0
    changes: Mapping[str, str] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    history: tuple[PastSubmission, ...] = ()
    deadline: float | None = None
    waits: int = 0
    looks: int = 0
    upstreams: tuple[Mapping[str, str], ...] | None = None
    replaced: Mapping[str, str] = field(default_factory=dict)
    unsatisfied: tuple[str, ...] = ()
    refusals: int = 0
    queued_since: float | None = None
    array: Mapping[str, Any] | None = None
    site: str | None = None
    costs: Mapping[str, Sequence[float] | None] = field(default_factory=dict)
    uploads: tuple[Mapping[str, str], ...] = ()
    is_building: bool = False
    environment: Mapping[str, Any] | None = None

    @property
    def is_resumed(self) -> bool:
        """Whether the try had to wait before, so that it may have submitted already."""
        return self.waits > 0

    @property
    def seconds_left(self) -> float | None:
        """How long it is until ``execution_timeout`` is reached; None where there is none."""
        return None if self.deadline is None else max(self.deadline - time.time(), 0.0)

    @property
    def pause_seconds(self) -> float:
        """How long a submission whose fate is open is left alone before it is looked at again."""
        longer = 2.0 ** min(max(self.looks - _EQUAL_PAUSES, 0), 10)
        return min(_SHORTEST_PAUSE * longer, _LONGEST_PAUSE)

    @property
    def refusal_pause_seconds(self) -> float:
        """How long to wait after a refusal for a limit that nobody can read."""
        return min(_SHORTEST_PAUSE * 2.0 ** min(self.refusals, 10), _LONGEST_PAUSE)

    def resumed(self) -> Attempt:
        """Return the attempt as it goes on after a wait."""
        return replace(self, waits=self.waits + 1)

    def left_open(self) -> Attempt:
        """Return the attempt as it waits because the fate of its submission is open."""
        return replace(self, looks=self.looks + 1)

    @property
    def needs(self) -> Needs | None:
        """What the job is to wait for inside Slurm."""
        if self.upstreams is None:
            return None
        upstreams = tuple(Upstream.from_payload(each) for each in self.upstreams)
        return Needs(upstreams=upstreams)

    def followed(self, *, changes: Mapping[str, str], history: Sequence[PastSubmission]) -> Attempt:
        """Return the next job's attempt, by the same task in the same try."""
        return Attempt(
            resubmission=self.resubmission + 1,
            changes=changes,
            history=tuple(history),
            deadline=self.deadline,
            upstreams=self.upstreams,
            replaced=self.replaced,
            unsatisfied=self.unsatisfied,
            array=self.array,
            site=self.site,
            costs=self.costs,
            is_building=self.is_building,
            environment=self.environment,
        )

    def refused(self, refusal: Refusal) -> Attempt:
        """Return the attempt after a refusal for a full queue; its place in the line stays."""
        in_a_row = 0 if refusal is Refusal.FULL else self.refusals + 1
        since = time.time() if self.queued_since is None else self.queued_since
        return replace(self, refusals=in_a_row, queued_since=since)

    def is_refused_for_good(self, refusal: Refusal) -> bool:
        """Whether a limit cannot be the reason: there was room each time, and in no time."""
        return refusal is Refusal.ROOM and self.refusals >= _REFUSALS_WITH_ROOM

    def is_refused_too_often(self, refusal: Refusal) -> bool:
        """Whether a wait for a limit that nobody can read has to end some time."""
        return refusal is Refusal.UNKNOWN and self.refusals >= _REFUSALS_UNKNOWN

    def unlinked(self, result: JobResult) -> Attempt | None:
        """
        Return the attempt after Slurm said that this job's dependency can never be satisfied.

        Which of the jobs is to blame is found out before the next submission; None when that has
        been tried with these very jobs, or when the task named none.
        """
        needs = self.needs
        if needs is None or not needs.job_ids or needs.job_ids == self.unsatisfied:
            return None
        entry: PastSubmission = {
            "job_id": result.job_id,
            "state": result.state,
            "reason": "dependency",
            "nodes": None,
            "changed": {},
            "why": f"job {', '.join(needs.job_ids)} did not end as this one asks; if the task "
            "tries again, this job is submitted again behind its new one.",
        }
        following = self.followed(changes=self.changes, history=(*self.history, entry))
        return replace(following, unsatisfied=needs.job_ids)

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any] | None) -> Attempt:
        """Read what `to_payload` made, also when another version added fields to it."""
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in (payload or {}).items() if name in known}
        for name, value in given.items():
            given[name] = tuple(value) if isinstance(value, list) else value
        return cls(**given)
