"""What can be known to go wrong with a job before it is submitted, and how to mend it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import SubmitRejectedError
from airflow_provider_csc.slurm.accounting import format_bytes
from airflow_provider_csc.slurm.findings import (
    Finding,
    name_partitions,
    read_nodes,
    read_text,
    read_time,
)
from airflow_provider_csc.slurm.framing import assignments, words
from airflow_provider_csc.slurm.preflight_partitions import find_partition_problems
from airflow_provider_csc.slurm.rejections import find_remedy
from airflow_provider_csc.slurm.shell import SLURM
from airflow_provider_csc.slurm.values import format_time_limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame
    from airflow_provider_csc.slurm.preflight_facts import PreflightFacts, Reservation

LEAST_BYTES = 100 * 2**20
LEAST_FILES = 100
"""With less no job should begin: its log, and some ten files."""
_MINUTE = 60
_IN_MEMORY = ("tmpfs", "ramfs")
# As df(1) calls them.
SHARED = ("lustre", "nfs", "nfs4", "gpfs", "beegfs", "ceph", "panfs", "wekafs", "glusterfs")
"""File systems that are made to be shared by many machines."""


def find_problems(options: Mapping[str, str | bool], facts: PreflightFacts) -> Iterator[Finding]:
    """
    Yield what is wrong with a job of these options (parsed, by long name) at a site.

    What could not be asked is no finding; nor is what only Slurm can tell.
    """
    yield from find_account_problems(options, facts)
    yield from find_maintenance_problems(options, facts)
    yield from find_partition_problems(options, facts)
    yield from find_room_problems(facts)
    yield from find_sharing_problems(facts)


def find_account_problems(
    options: Mapping[str, str | bool], facts: PreflightFacts
) -> Iterator[Finding]:
    """Yield what is wrong with the account that a job is charged to."""
    account, accounts = read_text(options, "account"), facts.accounts
    if not accounts:
        # A cluster without accounting has none; whether that is so, sbatch knows.
        return
    known = ", ".join(sorted(accounts))
    user = facts.user or "This user"
    if account is None:
        if len(accounts) > 1:
            yield Finding(
                "No account is named.",
                f"{user} has several ({known}), and Slurm charges the default one, or refuses.",
                "Give options={'account': ...}, or set it in the connection.",
            )
            return
        (account,) = accounts
    # Slurm keeps the names of accounts in small letters, and takes any.
    account = next((each for each in accounts if each.casefold() == account.casefold()), account)
    if account not in accounts:
        yield Finding(
            f"{user} is no member of account {account!r} here.",
            "sbatch refuses such a job.",
            f"There are: {known}. A project's members need the service of this machine, and have "
            "to accept its terms (MyCSC).",
        )
        return
    names = name_partitions(options, facts)
    if names and accounts[account] and not set(names) & set(accounts[account]):
        yield Finding(
            f"Account {account!r} is not open to {user} in partition "
            f"{', '.join(map(repr, names))}.",
            "sbatch refuses such a job.",
            f"It is in: {', '.join(accounts[account])}.",
        )
        return
    closed = facts.closed.get(account, ())
    if "" in closed or (names and set(names) <= set(closed)):
        where = "" if "" in closed else f" in partition {', '.join(map(repr, names))}"
        yield Finding(
            f"{user} may submit no job for account {account!r}{where}: MaxSubmitJobs is 0.",
            "sbatch refuses such a job.",
            "At CSC that is how a project is closed that has no billing units left, or has not "
            "applied for the partition (MyCSC); else ask the site.",
        )


def find_maintenance_problems(
    options: Mapping[str, str | bool], facts: PreflightFacts
) -> Iterator[Finding]:
    """Yield the maintenances that a job would have to wait for."""
    asked = read_time(options, "time")
    limit = asked.seconds if asked else None
    for one in facts.maintenances or ():
        if _leaves_enough(one, options, facts):
            continue
        until, where = describe_period(one), describe_nodes(one)
        if one.start <= facts.asked_at < one.end:
            yield Finding(
                f"A maintenance ({one.name}) of {where} goes on, {until}.",
                "Jobs that need them start when it is over.",
            )
        elif limit and facts.asked_at < one.start < facts.asked_at + limit:
            yield _before_maintenance(one, limit, where, until, one.start - facts.asked_at)


def _leaves_enough(
    one: Reservation, options: Mapping[str, str | bool], facts: PreflightFacts
) -> bool:
    """Whether a partition that a job names has as many nodes more as the job asks for."""
    if one.is_of_all_nodes or one.node_count is None or "nodelist" in options:
        return False
    needed, _ = read_nodes(options) or (1, 1)
    known = facts.partitions or {}
    found = [known[name].nodes or 0 for name in name_partitions(options, facts) if name in known]
    return any(nodes - one.node_count >= needed for nodes in found)


def describe_period(one: Reservation) -> str:
    """Say from when to when it lasts."""
    return f"from {_moment(one.start)} to {_moment(one.end)}"


def describe_nodes(one: Reservation) -> str:
    """Say of which nodes it is."""
    return "all nodes" if one.is_of_all_nodes else f"the nodes {one.nodes}"


def _before_maintenance(one: Reservation, limit: int, where: str, until: str, left: int) -> Finding:
    longest = left // _MINUTE * _MINUTE
    return Finding(
        f"A maintenance ({one.name}) of {where} is {until}.",
        f"A job of {format_time_limit(limit)} cannot end before it begins, so that Slurm starts it "
        "when it is over.",
        f"With a time of less than {format_time_limit(longest)} it may start before."
        if longest
        else "",
    )


def find_room_problems(facts: PreflightFacts) -> Iterator[Finding]:
    """Yield what is missing on the file system of the run directories."""
    room = facts.room
    if room is None:
        return
    if room.free_bytes is not None and room.free_bytes < LEAST_BYTES:
        yield Finding(
            f"There are {format_bytes(room.free_bytes)} left at {room.path}.",
            "The job's log and files go there.",
            "Delete what is not needed, or set another work_dir in the connection.",
        )
    if room.free_files is not None and room.free_files < LEAST_FILES:
        yield Finding(
            f"Only {room.free_files} more files can be made at {room.path}.",
            "A job has some ten of them.",
            "Delete what is not needed, or set another work_dir in the connection.",
        )


def find_sharing_problems(facts: PreflightFacts) -> Iterator[Finding]:
    """Yield that compute nodes cannot see the run directories, where that is certain."""
    room = facts.room
    if room is not None and room.kind in _IN_MEMORY:
        yield Finding(
            f"The run directories are on {room.mount}, a {room.kind} in the log-in node's memory.",
            "Compute nodes do not see it: a job finds neither its script nor a place for its log.",
            "Set a work_dir in the connection that all nodes share.",
        )


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """
    What ``sbatch --test-only`` expects of a job: when it starts (seconds since 1970), and where.

    It considers all that wait before it; other jobs that come may be served first.
    """

    start: int | None
    nodes: str
    partition: str
    said: str


_TO_START = re.compile(
    r"to start at (?P<start>\S+) using \d+ processors on nodes (?P<nodes>\S+) "
    r"in partition (?P<partition>\S+)"
)
_TEST = """
test_only() {
  cd -- "$HOME" && exec timeout 60 sbatch --test-only "${options[@]}" <<<"$batch"
}
"""


def build_test_only(options: Sequence[str], batch: str) -> str:
    """Ask what would become of a job, without submitting it (sbatch(1), ``--test-only``)."""
    return (
        f"{SLURM}{_TEST}options=({words(options)})\n{assignments({'batch': batch})}\n"
        "ask test slurm test_only\n"
    )


def parse_test_only(frame: Frame) -> Forecast:
    """
    Read sbatch's answer.

    :raises SubmitRejectedError: with the cause and a remedy, for what it would refuse.
    """
    found = _TO_START.search(frame.text)
    if frame.status != 0 or not found:
        raise SubmitRejectedError(
            f"Slurm would refuse the job: {frame.complaint}\n{find_remedy(frame.text)} Nothing was "
            "submitted.",
            stderr=frame.text,
            exit_status=frame.status,
        )
    start = found["start"]
    return Forecast(
        start=int(start) if start.isdecimal() else None,
        nodes=found["nodes"],
        partition=found["partition"],
        said=frame.text,
    )


def describe_forecast(found: Forecast) -> str:
    """Say when a job would start."""
    when = "some time" if found.start is None else _moment(found.start)
    return (
        f"Submitted now, it would start at {when} in partition {found.partition} "
        f"({found.nodes}), as Slurm sees it."
    )


def to_value(found: Forecast, asked: Sequence[str]) -> dict[str, Any]:
    """Return what a dry run returns: options, and the start (ISO 8601), partition and nodes."""
    start = found.start and datetime.fromtimestamp(found.start, UTC).isoformat()
    return {
        "options": list(asked),
        "start_time": start,
        "partition": found.partition,
        "nodes": found.nodes,
    }
