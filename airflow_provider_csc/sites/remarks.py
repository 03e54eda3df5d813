"""What a check of a connection says of each thing that was looked at, and how that went."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING

from airflow_provider_csc.sites.estimate import format_units
from airflow_provider_csc.sites.preflight import (
    find_area,
    find_balance,
    find_balance_problems,
    find_disk_problems,
    find_local_problems,
    find_unknown,
)
from airflow_provider_csc.slurm.accounting import format_bytes
from airflow_provider_csc.slurm.findings import Finding, read_text
from airflow_provider_csc.slurm.preflight import (
    SHARED,
    describe_nodes,
    describe_period,
    find_account_problems,
    find_maintenance_problems,
    find_sharing_problems,
)
from airflow_provider_csc.slurm.preflight_partitions import (
    describe_partitions,
    find_partition_problems,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_csc.sites.balance import Balance
    from airflow_provider_csc.sites.model import SiteProfile
    from airflow_provider_csc.slurm.preflight_facts import PreflightFacts


class Result(Enum):
    """How a look at something went."""

    OK = "ok"
    WARNING = "warning"
    UNKNOWN = "unknown"
    """It could not be asked, or its answer not be read."""


@dataclass(frozen=True, slots=True)
class Remark:
    """What was looked at, how that went, and what was found, why it matters, what to do."""

    check: str
    result: Result
    what: str
    why: str = ""
    remedy: str = ""

    def to_row(self) -> dict[str, str]:
        """Return plain values, to be printed."""
        return {**asdict(self), "result": self.result.value}


def of_findings(
    check: str, findings: Iterable[Finding], *, well: str, unknown: str | None = None
) -> Iterator[Remark]:
    """
    Yield a remark for each finding; without any, that it is not known, or else that all is well.

    A finding that is certain is a warning.
    """
    found = [
        Remark(
            check,
            Result.WARNING if each.is_certain else Result.UNKNOWN,
            each.what,
            each.why,
            each.remedy,
        )
        for each in findings
    ]
    if unknown is not None:
        found.append(Remark(check, Result.UNKNOWN, unknown))
    yield from found or [Remark(check, Result.OK, well)]


def remark_on(
    options: Mapping[str, str | bool], facts: PreflightFacts, profile: SiteProfile | None
) -> Iterator[Remark]:
    """Yield what there is to say of a site to somebody whose jobs have these options."""
    why = facts.problems
    yield from of_findings(
        "account",
        find_account_problems(options, facts),
        well=_describe_accounts(facts),
        unknown=why.get("associations"),
    )
    if profile is not None and profile.commands.balance is not None:
        yield from _judge_balance(options, facts, profile)
    yield from of_findings(
        "maintenance",
        find_maintenance_problems(options, facts),
        well=_describe_maintenances(facts),
        unknown=why.get("reservations"),
    )
    yield from of_findings(
        "partition",
        find_partition_problems(options, facts),
        well=describe_partitions(options, facts),
        unknown=why.get("partitions"),
    )
    yield from _judge_disk(facts, profile)


def _describe_accounts(facts: PreflightFacts) -> str:
    if not facts.accounts:
        return "The cluster knows of no accounts."
    return f"{facts.user or 'This user'} may charge {', '.join(sorted(facts.accounts))}."


def _describe_maintenances(facts: PreflightFacts) -> str:
    left = [one for one in facts.maintenances or () if one.end > facts.asked_at]
    if not left:
        return "None is planned."
    following = min(left, key=lambda one: one.start)
    when = describe_period(following)
    return f"The next one ({following.name}), of {describe_nodes(following)}, is {when}."


def _judge_balance(
    options: Mapping[str, str | bool], facts: PreflightFacts, profile: SiteProfile
) -> Iterator[Remark]:
    balance = find_balance(options, facts, profile)
    purses = () if balance is None else balance.purses
    left = [
        f"{format_units(each.remaining)} {each.unit}"
        for each in purses
        if each.remaining is not None
    ]
    if read_text(options, "account") is None:
        unknown: str | None = "No account is named whose balance could be asked for."
    elif balance is not None and not left:
        unknown = f"The site does not say what {balance.project} has left."
    else:
        unknown = find_unknown(options, facts, profile).get("balance")
    findings = list(find_balance_problems(options, facts, profile))
    if balance is not None and not findings:
        findings = list(_find_overdrawn(balance))
    yield from of_findings(
        "balance",
        findings,
        well=f"{balance.project if balance else ''} has {', '.join(left)} left.",
        unknown=unknown,
    )


def _find_overdrawn(balance: Balance) -> Iterator[Finding]:
    over = [
        f"{format_units(-each.remaining)} {each.unit}"
        for each in balance.purses
        if each.remaining is not None and each.remaining < 0
    ]
    if over:
        yield Finding(
            f"{balance.project} is overdrawn by {', '.join(over)}.",
            "sbatch refuses jobs that are charged to them.",
            "Apply for more (MyCSC), or charge another account.",
        )


def _judge_disk(facts: PreflightFacts, profile: SiteProfile | None) -> Iterator[Remark]:
    yield from of_findings(
        "work_dir",
        find_disk_problems(facts),
        well=_describe_room(facts),
        unknown=facts.problems.get("room"),
    )
    unread = find_unknown({}, facts, profile).get("workspaces") if profile else None
    if unread is not None:
        yield Remark("quota", Result.UNKNOWN, unread)
    if facts.room is None:
        return
    local = find_local_problems(facts, profile) if profile else find_sharing_problems(facts)
    found = list(of_findings("shared", local, well=f"{facts.room.kind} is seen by all nodes."))
    # Of another file system than these only a job can tell whether its node sees it.
    if found[0].result is not Result.OK or facts.room.kind in SHARED:
        yield from found


def _describe_room(facts: PreflightFacts) -> str:
    area, room = find_area(facts), facts.room
    if area is not None:
        return (
            f"{format_bytes(area.used_bytes)} of {format_bytes(area.quota_bytes)} and "
            f"{_count(area.used_files)} of {_count(area.quota_files)} files are used at "
            f"{area.path}."
        )
    if room is None or room.free_bytes is None:
        return f"How much is left at {room.path if room else 'it'} is not told."
    files = f" and {room.free_files} files" if room.free_files is not None else ""
    return f"{format_bytes(room.free_bytes)}{files} are left at {room.path} ({room.kind})."


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)
