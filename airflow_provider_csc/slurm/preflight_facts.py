"""
What a site says of itself that matters to a job before it is submitted.

Maintenance reservations, the user's accounts, partitions, and the room that is left where run
directories are: one remote command, whose answer holds for any job for a while.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.slurm.framing import Frame, quote
from airflow_provider_csc.slurm.shell import PLACE, SLURM
from airflow_provider_csc.slurm.site_facts import (
    NO_ACCOUNTING,
    UNREADABLE,
    PartitionFacts,
    parse_partitions,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_RESERVATIONS = "No reservations in the system"
_ROOM = r"""
room_of() {
  local path said
  place path "$1"
  while [ ! -e "$path" ]; do path=$(dirname -- "$path"); done
  said=$(timeout 10 df --block-size=1 --output=avail,iavail,fstype,target -- "$path" 2>&1) ||
    { printf "%s" "$said"; return 1; }
  printf '%s\n%s\n' "$path" "${said##*$'\n'}"
}
"""
_ROOM_FIELDS = 4
# One line of its many.
_CLUSTER = r"""
cluster_name() {
  slurm timeout 20 scontrol show config | grep -E '^ClusterName[ =]'
  return "${PIPESTATUS[0]}"
}
"""
_ASSOCIATIONS = (
    "sacctmgr --noheader --parsable2 show associations format=cluster,account,partition,maxsubmit"
)
_ASSOCIATION_FIELDS = 4
_COMMANDS = {
    "reservations": "scontrol show reservation",
    "associations": "sacctmgr show associations",
    "partitions": "scontrol show partition",
    "room": "df",
}
_OWN = ("clock", "user", "cluster", *_COMMANDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A maintenance, as scontrol(1) shows its reservation. Times: seconds since 1970."""

    name: str
    start: int
    end: int
    nodes: str
    is_of_all_nodes: bool
    node_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """
    What a file system can still take; None where it does not tell.

    ``kind`` is its type, ``mount`` where it is mounted on the log-in node.
    """

    path: str
    free_bytes: int | None
    free_files: int | None
    kind: str = ""
    mount: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightFacts:
    """
    The answers, and when they were given (seconds since 1970, the site's clock).

    None is what could not be asked, for which ``problems`` has the reason, by question.
    ``accounts`` maps each account the user may charge to the partitions it is open in; empty: any.
    ``closed`` are those of them, and likewise their partitions, in which no job may be submitted.
    ``further`` are the answers to questions that are not Slurm's.
    """

    asked_at: int
    user: str = ""
    maintenances: tuple[Reservation, ...] | None = None
    accounts: Mapping[str, tuple[str, ...]] | None = None
    closed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    partitions: Mapping[str, PartitionFacts] | None = None
    room: Room | None = None
    further: Mapping[str, Frame] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def default_partition(self) -> str | None:
        """Where Slurm puts a job that names no partition."""
        known = (self.partitions or {}).values()
        return next((each.name for each in known if each.is_default), None)

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values."""
        partitions = self.partitions
        return {
            **asdict(self),
            "partitions": None
            if partitions is None
            else {name: _to_payload(each) for name, each in partitions.items()},
            "further": {name: [each.status, each.text] for name, each in self.further.items()},
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> PreflightFacts:
        """Read what `to_payload` made, as JSON brought it back."""
        maintenances, accounts, partitions, room = (
            payload[name] for name in ("maintenances", "accounts", "partitions", "room")
        )
        return cls(
            asked_at=payload["asked_at"],
            user=payload["user"],
            maintenances=None
            if maintenances is None
            else tuple(Reservation(**each) for each in maintenances),
            accounts=None if accounts is None else _as_tuples(accounts),
            closed=_as_tuples(payload["closed"]),
            partitions=None
            if partitions is None
            else {name: _from_payload(each) for name, each in partitions.items()},
            room=None if room is None else Room(**room),
            further={
                name: Frame(status, text.encode())
                for name, (status, text) in payload["further"].items()
            },
            problems=dict(payload["problems"]),
        )


def _to_payload(partition: PartitionFacts) -> dict[str, Any]:
    accounts = partition.accounts
    return {
        **asdict(partition),
        "accounts": None if accounts is None else sorted(accounts),
        "denied": sorted(partition.denied),
    }


def _from_payload(payload: Mapping[str, Any]) -> PartitionFacts:
    accounts = payload["accounts"]
    known = {
        **payload,
        "accounts": None if accounts is None else frozenset(accounts),
        "denied": frozenset(payload["denied"]),
    }
    return PartitionFacts(**known)


def _as_tuples(payload: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in payload.items()}


def build_preflight(base_dir: str, further: str = "") -> str:
    """
    Ask for everything, each question so that the others are answered when it is not.

    ``further`` are lines that ask what is not Slurm's.
    """
    return (
        f"{PLACE}{SLURM}{_ROOM}{_CLUSTER}\n"
        "ask clock date +%s\n"
        "ask user id -un\n"
        "user=$answer\n"
        "ask reservations slurm timeout 20 scontrol --oneliner show reservation\n"
        "ask cluster cluster_name\n"
        f'ask associations slurm timeout 20 {_ASSOCIATIONS} "user=$user"\n'
        "ask partitions slurm timeout 20 scontrol --all --oneliner show partition\n"
        f"ask room room_of {quote(base_dir)}\n{further}"
    )


def parse_preflight(frames: Mapping[str, Frame]) -> PreflightFacts:
    """Read the answers; what Slurm did not answer is not known, and no reason to fail."""
    maintenances = _parse_maintenances(frames["reservations"])
    accounts, closed = _parse_associations(frames["associations"], _parse_cluster(frames))
    partitions, room = _parse_partitions(frames["partitions"]), _parse_room(frames["room"])
    told = zip(_COMMANDS, (maintenances, accounts, partitions, room), strict=True)
    clock = frames["clock"].text
    user = frames["user"].text if frames["user"].status == 0 else ""
    problems = {
        name: f"{_COMMANDS[name]}: {describe_failure(frames[name])}"
        for name, value in told
        if value is None
    }
    if accounts == {} and not _is_without_accounting(frames["associations"]):
        # Not the same as a cluster that has none.
        accounts = None
        problems["associations"] = (
            f"{_COMMANDS['associations']}: it names no association of {user or 'this user'} here"
        )
    return PreflightFacts(
        asked_at=int(clock) if clock.isdecimal() else 0,
        user=user,
        maintenances=maintenances,
        accounts=accounts,
        closed=closed,
        partitions=partitions,
        room=room,
        further={name: frame for name, frame in frames.items() if name not in _OWN},
        problems=problems,
    )


def describe_failure(frame: Frame) -> str:
    """Say why an answer tells nothing."""
    if frame.status == 0:
        return "the answer cannot be read"
    return frame.complaint or f"status {frame.status}"


def _parse_maintenances(frame: Frame) -> tuple[Reservation, ...] | None:
    if frame.status != 0:
        return None
    if frame.text == _NO_RESERVATIONS:
        return ()
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in frame.text.splitlines()]
    found = [row for row in rows if "ReservationName" in row]
    if not found:
        return None
    return tuple(
        Reservation(
            name=each["ReservationName"],
            start=int(each["StartTime"]),
            end=int(each["EndTime"]),
            nodes=each.get("Nodes", ""),
            is_of_all_nodes="ALL_NODES" in each.get("Flags", "").split(","),
            node_count=int(each["NodeCnt"]) if each.get("NodeCnt", "").isdecimal() else None,
        )
        for each in found
        if "MAINT" in each.get("Flags", "").split(",")
        and each.get("StartTime", "").isdecimal()
        and each.get("EndTime", "").isdecimal()
    )


def _parse_cluster(frames: Mapping[str, Frame]) -> str | None:
    frame = frames["cluster"]
    match = re.search(r"^ClusterName\s*=\s*(\S+)", frame.text, re.MULTILINE)
    return match[1] if match and frame.status == 0 else None


def _is_without_accounting(frame: Frame) -> bool:
    return NO_ACCOUNTING in frame.text


def _parse_associations(
    frame: Frame, cluster: str | None
) -> tuple[dict[str, tuple[str, ...]] | None, dict[str, tuple[str, ...]]]:
    """
    Return the user's accounts here, and those of them in which no job may be submitted.

    A slurmdbd may have several clusters. Where the name of this one is not known, the accounts are
    those of all, and none is closed.
    """
    if _is_without_accounting(frame):
        return {}, {}
    if frame.status != 0:
        return None, {}
    open_in: dict[str, tuple[str, ...]] = {}
    is_closed: dict[tuple[str, str], bool] = {}
    for line in frame.text.splitlines():
        fields = line.split("|")
        if len(fields) != _ASSOCIATION_FIELDS or not fields[1]:
            return None, {}
        where, account, partition, limit = fields
        if cluster is not None and where.lower() != cluster.lower():
            continue
        known = open_in.get(account)
        # An association without a partition holds in all of them.
        is_any = not partition or known == ()
        open_in[account] = () if is_any else (*(known or ()), partition)
        is_closed[account, partition] = limit == "0"
    return open_in, {} if cluster is None else _closed(is_closed)


def _closed(associations: Mapping[tuple[str, str], bool]) -> dict[str, tuple[str, ...]]:
    """Return partitions by account; that for all only where no other association is open."""
    found: dict[str, tuple[str, ...]] = {}
    for (account, partition), is_so in associations.items():
        others = [each for (name, _), each in associations.items() if name == account]
        if is_so and (partition or all(others)):
            found[account] = (*found.get(account, ()), partition)
    return found


def _parse_partitions(frame: Frame) -> dict[str, PartitionFacts] | None:
    if frame.status != 0:
        return None
    try:
        return parse_partitions(frame.text)
    except UNREADABLE:
        return None


def _parse_room(frame: Frame) -> Room | None:
    path, _, said = frame.text.partition("\n")
    values = said.split(maxsplit=_ROOM_FIELDS - 1)
    if frame.status != 0 or len(values) != _ROOM_FIELDS:
        return None
    free, files, kind, mount = values
    return Room(
        path=path.strip(),
        free_bytes=int(free) if free.isdecimal() else None,
        # A file system that counts no files says 0 or -.
        free_files=int(files) if files.isdecimal() and files != "0" else None,
        kind=kind,
        mount=mount.strip(),
    )
