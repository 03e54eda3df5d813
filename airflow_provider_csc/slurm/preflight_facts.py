"""
What a site says of itself that matters to a job before it is submitted.

Maintenance reservations, the user's accounts, and the room that is left where run directories are:
one remote command, whose answer holds for any job for a while.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.slurm.framing import Frame, quote
from airflow_provider_csc.slurm.shell import PLACE, SLURM

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_RESERVATIONS = "No reservations in the system"
_ROOM = r"""
room_of() {
  local path
  place path "$1"
  while [ ! -e "$path" ]; do path=$(dirname -- "$path"); done
  printf '%s\n' "$path"
  df --output=avail --block-size=1 -- "$path" | tail -n 1
  df --output=iavail -- "$path" | tail -n 1
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A maintenance, as scontrol(1) shows its reservation. Times: seconds since 1970."""

    name: str
    start: int
    end: int
    nodes: str
    is_of_all_nodes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a file system can still take; None where it does not tell."""

    path: str
    free_bytes: int | None
    free_files: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightFacts:
    """
    The answers, and when they were given (seconds since 1970, the site's clock).

    None is what could not be asked, which is told in ``problems``. ``accounts`` maps each account
    the user may charge to the partitions it is open in; empty: any.
    """

    asked_at: int
    user: str = ""
    maintenances: tuple[Reservation, ...] | None = None
    accounts: Mapping[str, tuple[str, ...]] | None = None
    room: Room | None = None
    problems: tuple[str, ...] = ()

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> PreflightFacts:
        """Read what `to_payload` made, as JSON brought it back."""
        maintenances, accounts, room = (
            payload[name] for name in ("maintenances", "accounts", "room")
        )
        return cls(
            asked_at=payload["asked_at"],
            user=payload["user"],
            maintenances=None
            if maintenances is None
            else tuple(Reservation(**each) for each in maintenances),
            accounts=None
            if accounts is None
            else {name: tuple(partitions) for name, partitions in accounts.items()},
            room=None if room is None else Room(**room),
            problems=tuple(payload["problems"]),
        )


def build_preflight(base_dir: str) -> str:
    """Ask for everything, each question so that the others are answered when it is not."""
    associations = "sacctmgr --noheader --parsable2 show associations format=account,partition"
    return (
        f"{PLACE}{SLURM}{_ROOM}\n"
        "ask clock date +%s\n"
        "ask user id -un\n"
        "user=$answer\n"
        "ask reservations slurm timeout 30 scontrol --oneliner show reservation\n"
        f'ask associations slurm timeout 30 {associations} "user=$user"\n'
        f"ask room room_of {quote(base_dir)}\n"
    )


def parse_preflight(frames: Mapping[str, Frame]) -> PreflightFacts:
    """Read the answers; what Slurm did not answer is not known, and no reason to fail."""
    problems = [
        f"{what}: {frames[name].complaint or f'status {frames[name].status}'}"
        for name, what in (
            ("reservations", "scontrol show reservation"),
            ("associations", "sacctmgr show associations"),
            ("room", "df"),
        )
        if frames[name].status != 0
    ]
    clock = frames["clock"].text
    return PreflightFacts(
        asked_at=int(clock) if clock.isdecimal() else 0,
        user=frames["user"].text if frames["user"].status == 0 else "",
        maintenances=_parse_maintenances(frames["reservations"]),
        accounts=_parse_accounts(frames["associations"]),
        room=_parse_room(frames["room"]),
        problems=tuple(problems),
    )


def _parse_maintenances(frame: Frame) -> tuple[Reservation, ...] | None:
    if frame.status != 0:
        return None
    lines = frame.text.splitlines()
    if frame.text == _NO_RESERVATIONS:
        return ()
    found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
    return tuple(
        Reservation(
            name=each.get("ReservationName", ""),
            start=int(each["StartTime"]),
            end=int(each["EndTime"]),
            nodes=each.get("Nodes", ""),
            is_of_all_nodes="ALL_NODES" in each.get("Flags", "").split(","),
        )
        for each in found
        if "MAINT" in each.get("Flags", "").split(",")
        and each.get("StartTime", "").isdecimal()
        and each.get("EndTime", "").isdecimal()
    )


def _parse_accounts(frame: Frame) -> dict[str, tuple[str, ...]] | None:
    if frame.status != 0:
        return None
    found: dict[str, tuple[str, ...]] = {}
    for line in frame.text.splitlines():
        account, bar, partition = line.partition("|")
        if not bar or not account:
            return None
        known = found.get(account)
        # An association without a partition holds in all of them.
        is_any = not partition or known == ()
        found[account] = () if is_any else (*(known or ()), partition)
    return found


def _parse_room(frame: Frame) -> Room | None:
    lines = frame.text.splitlines()
    if frame.status != 0 or len(lines) != 3:  # noqa: PLR2004 - path, bytes, files
        return None
    path, free, files = (line.strip() for line in lines)
    return Room(
        path=path,
        free_bytes=int(free) if free.isdecimal() else None,
        # A file system that counts no files says 0 or -.
        free_files=int(files) if files.isdecimal() and files != "0" else None,
    )
