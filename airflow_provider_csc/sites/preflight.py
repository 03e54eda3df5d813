"""
What a site's profile lets be asked and found before a job is submitted.

What its project has left, its quota of disk, disks that each node has for itself, and what its
nodes are built of.
"""

from __future__ import annotations

import math
import posixpath
import re
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import UnreadableOutputError
from airflow_provider_csc.sites.balance import (
    build_ask_balance,
    build_ask_workspaces,
    read_balance,
    read_workspaces,
)
from airflow_provider_csc.sites.estimate import Estimate, estimate_worst_case, format_units
from airflow_provider_csc.sites.model import WorkspaceCommand
from airflow_provider_csc.slurm.accounting import format_bytes
from airflow_provider_csc.slurm.findings import Finding, name_partitions, read_text
from airflow_provider_csc.slurm.preflight import (
    LEAST_BYTES,
    LEAST_FILES,
    SHARED,
    find_account_problems,
    find_maintenance_problems,
    find_room_problems,
    find_sharing_problems,
)
from airflow_provider_csc.slurm.preflight_partitions import find_partition_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_provider_csc.sites.balance import Balance, Purse, Workspace
    from airflow_provider_csc.sites.model import SiteProfile
    from airflow_provider_csc.slurm.preflight_facts import PreflightFacts

_SECONDS = 15
_VARIABLE = re.compile(r"\$\{?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}?")
# CSC's guide, hpc-billing.md: without units of that kind every submission is refused.
_STORAGE = "Storage BU"


def build_questions(profile: SiteProfile, options: Mapping[str, str | bool]) -> str:
    """Ask what only a site of this profile can tell, for the account that a job names."""
    commands, account = profile.commands, read_text(options, "account")
    asked = []
    if commands.balance is not None and account:
        asked.append(build_ask_balance(commands.balance, account, seconds=_SECONDS))
    if commands.workspaces is WorkspaceCommand.CSC_WORKSPACES:
        asked.append(build_ask_workspaces(seconds=_SECONDS))
    if names := _local_variables(profile):
        values = " ".join(f'"{name}=${{{name}-}}"' for name in names)
        asked.append(f"ask local_disks printf '%s\\n' {values}\n")
    return "".join(asked)


def find_problems(
    options: Mapping[str, str | bool],
    facts: PreflightFacts,
    profile: SiteProfile,
    architecture: str | None = None,
) -> Iterator[Finding]:
    """
    Yield what is wrong with a job of these options (parsed, by long name) at a site.

    ``architecture`` is what its environment is built for. What could not be asked is no finding.
    """
    yield from find_account_problems(options, facts)
    yield from find_balance_problems(options, facts, profile)
    yield from find_maintenance_problems(options, facts)
    yield from find_partition_problems(options, facts)
    yield from _find_architecture(options, facts, profile, architecture)
    yield from find_disk_problems(facts)
    yield from find_local_problems(facts, profile)


def find_unknown(
    options: Mapping[str, str | bool], facts: PreflightFacts, profile: SiteProfile
) -> dict[str, str]:
    """Return why something is not known that was asked, by question."""
    questions: dict[str, Callable[[], object]] = {
        "balance": lambda: _read_balance(options, facts, profile),
        "workspaces": lambda: _read_areas(facts),
    }
    found = {}
    for name, read in questions.items():
        try:
            read()
        except UnreadableOutputError as error:
            found[name] = error.message
    return found


def _read_balance(
    options: Mapping[str, str | bool], facts: PreflightFacts, profile: SiteProfile
) -> Balance | None:
    frame, command = facts.further.get("balance"), profile.commands.balance
    account = read_text(options, "account")
    if frame is None or command is None or account is None:
        return None
    return read_balance(frame, command, account)


def find_balance(
    options: Mapping[str, str | bool], facts: PreflightFacts, profile: SiteProfile
) -> Balance | None:
    """Return what the account of a job has left; None where that was not asked, or not told."""
    try:
        return _read_balance(options, facts, profile)
    except UnreadableOutputError:
        return None


def find_balance_problems(
    options: Mapping[str, str | bool], facts: PreflightFacts, profile: SiteProfile
) -> Iterator[Finding]:
    """Yield what the account of a job lacks: units of storage, any, or enough of its own."""
    balance = find_balance(options, facts, profile)
    if balance is None:
        return
    storage = balance.find(_STORAGE)
    if storage and _is_empty(storage):
        yield _nothing_left(balance, storage, "sbatch refuses every job of the project.")
    partitions = ",".join(name_partitions(options, facts))
    units = {billing.unit for billing in map(profile.billing_of, partitions.split(",")) if billing}
    asked = units or {each.unit for each in profile.billing.values()}
    purses = [purse for purse in map(balance.find, sorted(asked)) if purse]
    if purses and all(map(_is_empty, purses)):
        for purse in purses:
            yield _nothing_left(balance, purse, "sbatch refuses jobs that are charged to it.")
        return
    estimate = estimate_worst_case({**options, "partition": partitions}, profile)
    if not isinstance(estimate, Estimate):
        return
    own = balance.find(estimate.unit)
    if own and own.remaining is not None and estimate.units > own.remaining:
        yield Finding(
            f"The job costs {estimate}, and {balance.project} has "
            f"{format_units(own.remaining)} {own.unit} left.",
            "It can use up what other jobs of the project need.",
            "Ask for less, or apply for more (MyCSC).",
        )


def _is_empty(purse: Purse) -> bool:
    return purse.remaining is not None and purse.remaining <= 0


def _nothing_left(balance: Balance, purse: Purse, why: str) -> Finding:
    return Finding(
        f"{balance.project} has no {purse.unit} left.",
        why,
        "Apply for more (MyCSC), or charge another account.",
    )


def _find_architecture(
    options: Mapping[str, str | bool],
    facts: PreflightFacts,
    profile: SiteProfile,
    architecture: str | None,
) -> Iterator[Finding]:
    named = [profile.partitions.get(name) for name in name_partitions(options, facts)]
    # Of a partition that the profile does not have nothing is known.
    found = [each.architecture or profile.architecture if each else None for each in named]
    known = {each.value for each in found if each}
    if architecture is None or not known or None in found or architecture in known:
        return
    yield Finding(
        f"The environment is built for {architecture}, and the nodes of partition "
        f"{', '.join(name_partitions(options, facts))} are {', '.join(sorted(known))}, as the "
        f"profile {profile.name!r} says.",
        "The job ends when it activates it.",
        "Build it by a job in that partition, or take another partition.",
    )


def find_area(facts: PreflightFacts) -> Workspace | None:
    """Return the disk area with a quota that the run directories are in, if the site tells it."""
    try:
        areas = _read_areas(facts)
    except UnreadableOutputError:
        return None
    path = facts.room.path if facts.room else ""
    inside = [each for each in areas if each.quota_bytes and _is_below(path, each.path)]
    return max(inside, key=lambda each: len(each.path), default=None)


def _read_areas(facts: PreflightFacts) -> list[Workspace]:
    frame = facts.further.get("workspaces")
    return read_workspaces(frame) if frame else []


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def find_disk_problems(facts: PreflightFacts) -> Iterator[Finding]:
    """Yield what is missing for a job's files: of the quota, or where that is not known, at all."""
    area = find_area(facts)
    if area is None:
        yield from find_room_problems(facts)
        return
    remedy = "Delete what is not needed, apply for more (MyCSC), or set another work_dir."
    size, size_left = format_bytes(area.quota_bytes), _left(area.used_bytes, area.quota_bytes)
    if size_left < LEAST_BYTES:
        yield Finding(
            _nearly(area, size)
            if size_left >= 0
            else f"{format_bytes(area.used_bytes)} are used of the quota of {area.path}, {size}.",
            "The job's log and files go there.",
            remedy,
        )
    files_left = _left(area.used_files, area.quota_files)
    if files_left < LEAST_FILES:
        yield Finding(
            _nearly(area, f"{area.quota_files} files")
            if files_left >= 0
            else f"{area.used_files} files are used of the quota of {area.path}, "
            f"{area.quota_files}.",
            "A job has some ten of them.",
            remedy,
        )
    if 0 <= size_left < LEAST_BYTES or 0 <= files_left < LEAST_FILES:
        yield from find_room_problems(facts)


def _left(used: int | None, quota: int | None) -> float:
    """Return what is left by numbers that are rounded; infinite where that is not told."""
    return math.inf if used is None or quota is None else quota - used


def _nearly(area: Workspace, quota: str) -> str:
    return (
        f"The quota of {area.path}, {quota}, is nearly used up, as far as csc-workspaces says, "
        "which rounds."
    )


def find_local_problems(facts: PreflightFacts, profile: SiteProfile) -> Iterator[Finding]:
    """Yield that compute nodes cannot see the run directories, where that is certain."""
    in_memory = list(find_sharing_problems(facts))
    yield from in_memory
    if in_memory or (facts.room and facts.room.kind in SHARED):
        return
    path = facts.room.path if facts.room else ""
    own = next((each for each in _local_paths(facts, profile) if _is_below(path, each)), None)
    if own:
        yield Finding(
            f"The run directories are below {own}, which each node of {profile.title} has for "
            "itself.",
            "Compute nodes do not see it: a job finds neither its script nor a place for its log.",
            "Set a work_dir in the connection that all nodes share.",
        )


def _local_paths(facts: PreflightFacts, profile: SiteProfile) -> list[str]:
    """Return the paths of disks that nodes have for themselves, variables as the log-in node's."""
    frame = facts.further.get("local_disks")
    lines = frame.text.split("\n") if frame and frame.status == 0 else []
    known = {name: value for name, _, value in (line.partition("=") for line in lines)}
    found = []
    for path in _declared_paths(profile):
        match = _VARIABLE.match(path)
        value = known.get(match["name"], "") if match else ""
        if match and not value:
            # Only a job has it: what is left of the path is another one.
            continue
        whole = f"{value}{path[match.end() :]}" if match else path
        if whole.startswith("/") and posixpath.normpath(whole) != "/":
            found.append(posixpath.normpath(whole))
    return found


def _declared_paths(profile: SiteProfile) -> list[str]:
    disks = [each.local_disk for each in profile.partitions.values()]
    return sorted({disk.path for disk in disks if disk})


def _local_variables(profile: SiteProfile) -> list[str]:
    matches = map(_VARIABLE.match, _declared_paths(profile))
    return sorted({match["name"] for match in matches if match})
