"""
What a job waits for inside Slurm: read ``depends_on``, follow the tasks it names, write the option.

A task is named by its id and stands for the job it has submitted. Whether a job that is over counts
is decided here, by its accounting: Slurm itself forgets jobs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError, SlurmError, UpstreamFailedError
from airflow_provider_csc.notation import NotationError, shown
from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.identity import build_job_name, parse_token
from airflow_provider_csc.slurm.shell import SLURM
from airflow_provider_csc.slurm.specs import parse_job_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_provider_csc.slurm.framing import Frame
    from airflow_provider_csc.slurm.result import JobResult

AFTER_OK, AFTER_ANY, AFTER_NOT_OK, AFTER_CORR = "afterok", "afterany", "afternotok", "aftercorr"
KINDS = (AFTER_OK, AFTER_ANY, AFTER_NOT_OK, AFTER_CORR)
SINGLETON = "singleton"

_REMEDY = (
    "Give a Slurm task or its id, a job's id, a list of these, or a dict with the keys "
    f"{', '.join(KINDS)}, for example {{'afterok': [prepare], 'afterany': ['warm_up']}}."
)
_JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Link:
    """
    One thing to wait for: a task, or a job, by its id; ``kind`` is Slurm's word.

    A ``singleton`` has neither: it waits for the user's earlier jobs of the same name.
    """

    kind: str
    task_id: str = ""
    job_id: str = ""


def read_depends_on(value: object) -> tuple[Link, ...]:
    """
    Read ``depends_on`` with its templates rendered: text, a list, or a dict of these by kind.

    Text of digits, ``123`` or ``123_4``, is a job's id, ``singleton`` what it is to Slurm, and
    other text a task's id.

    :raises ConfigError: names the value and the remedy.
    """
    by_kind = value if isinstance(value, Mapping) else {AFTER_OK: value}
    links: list[Link] = []
    for kind, given in by_kind.items():
        if kind not in KINDS:
            raise _error(f"{shown(kind)} is no kind of dependency", value)
        links += [_read_link(str(kind), each) for each in as_list(given)]
    return tuple(dict.fromkeys(links))


def as_list(value: object) -> list[object]:
    """Return what is in a list or stands alone; nothing of None."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]


def _read_link(kind: str, value: object) -> Link:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise _error(f"{shown(value)} names neither a task nor a job", value)
    text = value.strip()
    if text == SINGLETON:
        return Link(SINGLETON)
    if not _JOB_ID.fullmatch(text):
        return Link(kind, task_id=text)
    try:
        return Link(kind, job_id=parse_job_id(text))
    except NotationError as error:
        raise _error(error.problem, value) from error


def _error(problem: str, value: object) -> ConfigError:
    return ConfigError(
        f"depends_on: {problem}. {_REMEDY}", field="depends_on", value=shown(value), remedy=_REMEDY
    )


def find_cycle(start: str, before: Callable[[str], Iterable[str]]) -> list[str]:
    """Return a way from a task back to itself through what has to come ``before`` each; or none."""
    ways, seen = [[start]], set[str]()
    while ways:
        way = ways.pop()
        for task_id in sorted(before(way[-1])):
            if task_id == start:
                return [*way, start]
            if task_id not in seen:
                seen.add(task_id)
                ways.append([*way, task_id])
    return []


# ---- What Airflow says of the tasks ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """
    One task instance, or one job, that is waited for, and what is known of it.

    ``name`` is for people, and empty for a job that was named by its id. ``job_id`` is empty where
    there is none to wait for. ``state`` is that of the task, empty where no task is known.

    Tasks that wait hold it as JSON: never rename, add only with a default.
    """

    kind: str
    name: str
    job_id: str = ""
    state: str = ""

    def to_payload(self) -> dict[str, str]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Upstream:
        """Read what `to_payload` made."""
        return cls(**{name: payload[name] for name in cls.__slots__ if name in payload})


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one submission is to wait for inside Slurm."""

    upstreams: tuple[Upstream, ...]

    @property
    def job_ids(self) -> tuple[str, ...]:
        """Return the jobs, each once."""
        return tuple(sorted({each.job_id for each in self.upstreams if each.job_id}))

    @property
    def is_singleton(self) -> bool:
        """Whether it waits for earlier jobs of its own name."""
        return any(each.kind == SINGLETON for each in self.upstreams)

    @property
    def is_by_element(self) -> bool:
        """Whether each element of an array waits for the same one of another."""
        return any(each.kind == AFTER_CORR for each in self.upstreams)


@dataclass(frozen=True, slots=True)
class NotYet:
    """An upstream task whose job is not known yet; ``why`` is its state, to read."""

    why: str


_OVER = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})
# Whose job id is sure to be of the present try: while a task starts, that of the try before is
# still there for some seconds.
_TOLD = frozenset({"deferred", "success", "failed"})


def judge_upstream(
    kind: str,
    name: str,
    *,
    state: str | None,
    job_id: str | None,
    replaced: Mapping[str, str],
    is_steady: bool,
) -> Upstream | NotYet:
    """
    Tell what is known of one upstream task instance.

    ``state`` is Airflow's, ``job_id`` its XCom; ``replaced`` maps jobs that did not end as asked to
    their states: a task that has no other yet may be about to try again. ``is_steady`` tells that a
    task has been running with this id for so long that it cannot be of an earlier try.

    :raises UpstreamFailedError: when it can never be as asked.
    """
    found = job_id if job_id and job_id not in replaced else ""
    if found and not _JOB_ID.fullmatch(found):
        raise UpstreamFailedError(
            f"the XCom 'job_id' of task {name} is {shown(found)}, which is no job's id, so that "
            f"nothing can be run {kind} it.",
            upstream=name,
            kind=kind,
            is_lasting=True,
        )
    if state not in _OVER:
        is_told = state in _TOLD or (state == "running" and is_steady)
        if found and is_told:
            return Upstream(kind=kind, name=name, job_id=found, state=state or "")
        return NotYet(f"{name} ({state or 'not started'}{_of_job(job_id, replaced)})")
    _check_ended(kind, name, state, job_id, replaced)
    return Upstream(kind=kind, name=name, job_id=found, state=state)


def _check_ended(
    kind: str, name: str, state: str, job_id: str | None, replaced: Mapping[str, str]
) -> None:
    wants_success, wants_failure = kind in (AFTER_OK, AFTER_CORR), kind == AFTER_NOT_OK
    is_never = (wants_success and state != "success") or (
        wants_failure and state in ("skipped", "removed")
    )
    # Of a task that submitted, its job tells, and this is how a job that did not fail was found.
    if wants_failure and state == "success":
        is_never = not job_id or job_id in replaced
    if not is_never:
        return
    job = _of_job(job_id, replaced) or ", without a job"
    raise UpstreamFailedError(
        f"task {name} ended {state}{job}; this task is to run {kind} it, which can never be. "
        f"Clear {name} and this task to run both again.",
        upstream=name,
        upstream_state=state,
        job_id=job_id,
        kind=kind,
        is_lasting=True,
    )


def _of_job(job_id: str | None, replaced: Mapping[str, str]) -> str:
    if not job_id:
        return ""
    return f", its job {job_id}" + (f" {replaced[job_id]}" if job_id in replaced else "")


# ---- What the site says of the jobs ----

# Slurm starts no job before: long enough to look whether another of its name came in between.
SINGLETON_BEGIN = "--begin=now+15"


def build_own_queue() -> str:
    """Ask for the user's jobs that are not over; see `read_same_name`."""
    return f"{SLURM}ask queue slurm squeue --me --noheader '--format=%F %j'\n"


def read_same_name(frame: Frame, label: str) -> list[str]:
    """
    Return the jobs whose names have the same readable part, in the order they were submitted.

    :raises SlurmError: when squeue gave no answer.
    """
    if frame.status != 0:
        raise SlurmError(f"squeue gave no answer: {frame.complaint}")
    found: set[int] = set()
    for line in frame.text.splitlines():
        job_id, _, name = line.partition(" ")
        token = parse_token(name)
        if token and name == build_job_name(label, token):
            found.add(int(job_id))
    return [str(job_id) for job_id in sorted(found)]


def build_depend(job_id: str, dependency: str) -> str:
    """Let a job that has not started wait for others."""
    words = f"{quote(f'JobId={job_id}')} {quote(f'Dependency={dependency}')}"
    return f"{SLURM}ask update slurm scontrol update {words}\n"


def join_dependencies(*texts: str) -> str:
    """Return dependencies that all have to be satisfied."""
    return ",".join(filter(None, texts))


def build_dependency(needs: Needs, jobs: Mapping[str, JobResult]) -> str:
    """
    Return the text of ``--dependency``; empty where nothing is left to wait for.

    ``jobs`` is what squeue and sacct say of them; one that neither knows is left out.

    :raises UpstreamFailedError: naming the jobs that ended otherwise than is asked.
    """
    wrong = [each for each in needs.upstreams if _is_never(each, jobs.get(each.job_id))]
    if wrong:
        raise _wrong(wrong, jobs)
    by_kind: dict[str, list[str]] = {}
    for each in needs.upstreams:
        if each.job_id and _is_open(each, jobs.get(each.job_id)):
            by_kind.setdefault(each.kind, []).append(each.job_id)
    return ",".join(f"{kind}:{':'.join(dict.fromkeys(ids))}" for kind, ids in by_kind.items())


def _is_never(upstream: Upstream, job: JobResult | None) -> bool:
    if not upstream.job_id:
        return False
    if job is None:
        return not upstream.state or (upstream.kind == AFTER_NOT_OK and upstream.state == "success")
    if not job.is_final or upstream.kind == AFTER_ANY:
        return False
    # Which elements of an array that is over did not succeed Slurm may have forgotten: aftercorr
    # is then what afterok is. A user may mark a task as he likes it.
    is_success = job.is_success or upstream.state == "success"
    return is_success is (upstream.kind == AFTER_NOT_OK)


def _is_open(upstream: Upstream, job: JobResult | None) -> bool:
    """Whether Slurm still has something to wait for."""
    if job is None:
        return upstream.state not in _OVER
    return not job.is_final


def _wrong(wrong: Sequence[Upstream], jobs: Mapping[str, JobResult]) -> UpstreamFailedError:
    states = {each.job_id: jobs[each.job_id].state if each.job_id in jobs else "" for each in wrong}
    told = "; ".join(
        f"job {each.job_id}{f' of {each.name}' if each.name else ''} ended "
        f"{states[each.job_id]}, and this one is to run {each.kind} it"
        if states[each.job_id]
        else f"job {each.job_id} is not known to this site"
        for each in wrong
    )
    return UpstreamFailedError(
        f"What this job depends on cannot be any more: {told}. Nothing was submitted.",
        jobs={job_id: state or "UNKNOWN" for job_id, state in states.items()},
        # A job that was named as such has no task that could try again.
        is_lasting=any(not each.state for each in wrong),
    )
