"""
Jobs of many task instances that are submitted as one array: which can be, and what came of it.

Each task instance keeps its own run directory, job id (``123_7``), log, exit record and marks, as
if it had been submitted alone; the array has a directory of its own, which holds what they share.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import SiteUnavailableError, SubmitKilledError, SubmitRejectedError
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.identity import TaskIdentity, build_array_token, build_job_name
from airflow_provider_csc.slurm.output import parse_job_id
from airflow_provider_csc.slurm.submission import (
    Claimed,
    Killed,
    NoVerdict,
    Submission,
    adopt,
    check_directories,
    given_up,
    read_group,
    read_refusal,
)
from airflow_provider_csc.slurm.submit_commands import GIVEN_UP, SubmitRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# slurm.conf(5), MaxArraySize: 1001 by default, so that 1000 is the highest index.
MAX_ELEMENTS = 1000
# What is sent at once; a script may have 4 MiB.
_MAX_BYTES = 16 * 1024 * 1024
_JOB_NAME = "--job-name="


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """
    One task instance's submission, ready to be made: alone, or together with others.

    ``label`` is the readable part of its job's name, ``since`` (seconds since 1970, Airflow's
    clock) when its DAG run began. ``is_fresh`` is true where nothing can have been submitted
    before.
    """

    request: SubmitRequest
    identity: TaskIdentity
    label: str
    since: int
    is_fresh: bool = False

    @property
    def token(self) -> str:
        """What names this submission."""
        return self.request.token

    @property
    def can_coalesce(self) -> bool:
        """
        Whether it can be an element of an array at all.

        Not where the user chose where the output goes: its patterns mean other things in an array,
        and Slurm replaces none in a path with a backslash.
        """
        request = self.request
        is_shared = bool(request.exports) and request.own_output and not request.asks_paths
        return is_shared and "\\" not in request.base_dir

    @property
    def group(self) -> tuple[object, ...]:
        """What must be equal among the elements of an array: all but variables and script."""
        request, identity = self.request, self.identity
        return (
            *(identity.deployment, identity.dag_id, identity.run_id, identity.task_id),
            *(identity.run_started, self.since, request.base_dir, request.work_dir, request.batch),
            *(option for option in request.options if not option.startswith(_JOB_NAME)),
        )

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values."""
        request = {**asdict(self.request)}
        for name in ("options", "asked"):
            request[name] = list(request[name])
        identity = asdict(self.identity)
        return {
            "request": request,
            "identity": identity,
            "label": self.label,
            "since": self.since,
            "is_fresh": self.is_fresh,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Member:
        """Read what `to_payload` made, also when another version added fields to it."""
        request = _known(SubmitRequest, payload["request"])
        for name in ("options", "asked"):
            request[name] = tuple(request.get(name, ()))
        return cls(
            request=SubmitRequest(**request),
            identity=TaskIdentity(**_known(TaskIdentity, payload["identity"])),
            label=payload["label"],
            since=payload["since"],
            is_fresh=payload.get("is_fresh", False),
        )


def _known(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in given.items() if name in names}


def group_members(members: Iterable[Member], most: int = MAX_ELEMENTS) -> list[list[Member]]:
    """
    Return who can be submitted together, in the order of map indices; what cannot, in a list alone.

    An array has at most ``most`` elements.
    """
    groups: dict[tuple[object, ...], list[Member]] = {}
    for number, member in enumerate(members):
        key = member.group if member.can_coalesce else (number,)
        groups.setdefault(key, []).append(member)
    return [part for group in groups.values() for part in _parts(group, most)]


def _parts(group: Sequence[Member], most: int) -> Iterable[list[Member]]:
    part: list[Member] = []
    size = 0
    for member in sorted(group, key=lambda one: one.identity.map_index):
        own = len(member.request.script) + len(member.request.exports)
        if part and (len(part) >= most or size + own > _MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(member)
        size += own
    if part:
        yield part


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArray:
    """
    Members that are one array; the index of each is its place.

    ``token`` names the array's directory and ends its name; it is new for each attempt.
    """

    token: str
    members: tuple[Member, ...]

    @classmethod
    def of(cls, members: Sequence[Member], nonce: str) -> TaskArray:
        """Return an array of members that `group_members` put together."""
        token = build_array_token([member.token for member in members], nonce)
        return cls(token=token, members=tuple(members))

    @property
    def shared(self) -> SubmitRequest:
        """The request of which everything but variables and script holds for all."""
        return self.members[0].request

    @property
    def name(self) -> str:
        """The job's name: what the user called them, if they are called alike."""
        labels = {member.label for member in self.members}
        identity = self.members[0].identity
        label = labels.pop() if len(labels) == 1 else f"{identity.dag_id}.{identity.task_id}"
        return build_job_name(label, self.token)

    @property
    def options(self) -> tuple[str, ...]:
        """The options of sbatch, but for the array's own."""
        others = (one for one in self.shared.options if not one.startswith(_JOB_NAME))
        return (*others, f"{_JOB_NAME}{self.name}")

    def identity_of(self, index: int) -> str:
        """Return a member's identity with its place, by which its job is found (JSON, one line)."""
        own = self.members[index].request.identity.removesuffix("}")
        return f'{own}, "group": "{self.token}", "index": {index}}}'


# Refusals that a smaller array may be spared.
_TOO_MANY = re.compile(
    r"Invalid job array|(QOS|Assoc)\w*(Max|Grp)\w*(Jobs?|Submit)\w*Limit|MaxSubmitJobsPer\w+"
    r"|violates accounting/QOS policy|Unable to create job record"
)


def is_too_many(error: Exception) -> bool:
    """Whether Slurm refused an array that may only have been too large."""
    if not isinstance(error, (SubmitRejectedError, SiteUnavailableError)):
        return False
    return _TOO_MANY.search(str(error.details.get("stderr", ""))) is not None


# What became of one member. Claimed: its run directory was made before, and holds no id that is
# known to be its own; it has to be looked for.
Outcome = Submission | Claimed | Killed | SubmitKilledError

_NO_FRAME = Frame(0, b"")


def read_array_answer(
    frames: Mapping[str, Frame], array: TaskArray, *, log_name: str
) -> list[Outcome] | NoVerdict:
    """
    Read what the submission of an array did, for each member.

    :raises ConfigError: for a directory that cannot be used; nothing was submitted.
    :raises SiteUnavailableError: for one that is full just now; nothing was submitted.
    :raises SubmitRejectedError: when sbatch refused; no job exists, the claims still do.
    """
    shared = array.shared
    check_directories(frames, work_dir=shared.work_dir, base_dir=shared.base_dir)
    if "members" not in frames:
        new_base = frames.get("new_base", _NO_FRAME).data.decode(errors="replace")
        run_dir = frames["run_dir"].text
        return read_refusal(frames.get("sbatch", _NO_FRAME), run_dir, new_base)
    is_cancelled = frames.get("killed", _NO_FRAME).status == 0
    rows = [line.split("|", 5) for line in frames["members"].text.splitlines()]
    found = {int(row[0]): row[1:] for row in rows}
    base = frames["base_dir"].text
    return [
        _read_member(
            found[index],
            f"{base}/{member.token}",
            member,
            log_name=log_name,
            is_cancelled=is_cancelled,
        )
        for index, member in enumerate(array.members)
    ]


def _read_member(
    row: Sequence[str], run_dir: str, member: Member, *, log_name: str, is_cancelled: bool
) -> Outcome:
    how, mark, run_started, place, first = row
    is_new = how == "new"
    job_id = parse_job_id(first)
    if first.startswith(GIVEN_UP):
        return given_up(first, run_dir)
    if mark and (is_cancelled or not job_id):
        return Killed(run_dir=run_dir, job_id=job_id)
    # A DAG run of the same id that was deleted may have left it.
    if job_id is None or (not is_new and run_started != member.identity.run_started):
        return Claimed(run_dir=run_dir)
    element = read_group(place)
    return replace(
        adopt(job_id, run_dir, recorded="", log_name=log_name),
        is_adopted=not is_new,
        asked=member.request.asked,
        array_token=element.token_of(job_id) if element else None,
    )
