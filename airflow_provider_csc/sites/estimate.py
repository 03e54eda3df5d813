"""
What a job costs at the most, and what it cost: a formula of the site over what it was given.

What is not known stays unknown, with the reason; nothing is guessed. Where Slurm may choose, as
with ``--nodes=1-4``, the dearest choice counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.sites.billing import Allocation, Quantity
from airflow_provider_csc.sites.request import Unclear, read_allocation
from airflow_provider_csc.slurm.arrays import parse_array
from airflow_provider_csc.slurm.findings import read_time
from airflow_provider_csc.slurm.tres import Share, parse_granted
from airflow_provider_csc.slurm.values import format_elapsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_csc.sites.billing import Billing
    from airflow_provider_csc.sites.model import Partition, SiteProfile
    from airflow_provider_csc.slurm.tres import Granted


@dataclass(frozen=True, slots=True)
class Unknown:
    """A cost that nobody can tell; ``why`` is a sentence without its full stop."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """
    What a job costs if it runs for the whole of its time limit.

    ``allocation`` and ``seconds`` are of one task where it is an array of several ``tasks``.
    """

    billing: Billing
    allocation: Allocation
    seconds: int
    tasks: int = 1

    @property
    def unit(self) -> str:
        """What the site calls its units."""
        return self.billing.unit

    @property
    def units(self) -> float:
        """What it costs at the most, all tasks together."""
        return self.tasks * self.billing.cost(self.allocation, self.seconds)

    def __str__(self) -> str:
        """Say it, as in ``at most 12.4 CPU BU, if it runs for its whole 02:00:00``."""
        each = f"each of its {self.tasks} tasks" if self.tasks > 1 else "it"
        told = f"if {each} runs for its whole {format_elapsed(self.seconds)}"
        return f"at most {format_units(self.units)} {self.unit}, {told}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What jobs cost."""

    units: float
    unit: str

    def __str__(self) -> str:
        """Say it, as in ``3.1 CPU BU``."""
        return f"{format_units(self.units)} {self.unit}"


_ENOUGH_DIGITS = 100


def format_units(units: float) -> str:
    """Return units to read: ``0.04``, ``12.4``, ``1234``, ``-1234``."""
    if units < 0:
        return f"-{format_units(-units)}"
    if units >= _ENOUGH_DIGITS:
        return f"{units:.0f}"
    return f"{units:.1f}".removesuffix(".0") if units >= 1 else f"{units:.2g}"


def estimate_worst_case(
    options: Mapping[str, str | bool], profile: SiteProfile
) -> Estimate | Unknown:
    """
    Return what a job costs at the most.

    ``options`` are all that it is submitted with, those of its script too, parsed (see
    `slurm.options`).
    """
    text = options.get("partition")
    if not isinstance(text, str):
        return Unknown(
            "no partition is named, and which one Slurm takes then is not known; give "
            "options['partition']"
        )
    found = [_estimate_in(name.strip(), options, profile) for name in text.split(",")]
    unknown = next((each for each in found if isinstance(each, Unknown)), None)
    known = [each for each in found if isinstance(each, Estimate)]
    if unknown is not None:
        return unknown
    if len({each.unit for each in known}) > 1:
        return Unknown(f"the partitions {text} are billed in different units; name one of them")
    return max(known, key=lambda each: each.units)


def _estimate_in(
    name: str, options: Mapping[str, str | bool], profile: SiteProfile
) -> Estimate | Unknown:
    partition, billing = profile.partitions.get(name), profile.billing_of(name)
    if partition is None:
        known = ", ".join(profile.partitions) or "none"
        return Unknown(f"site {profile.name!r} has no partition {name!r} (it has: {known})")
    if billing is None:
        return Unknown(f"what partition {name!r} costs is not known")
    try:
        seconds = _limit_seconds(options, partition)
        requested = read_allocation(options, partition, needed=billing.quantities)
        tasks = _count_tasks(options)
    except (Unclear, NotationError) as error:
        return Unknown(str(error))
    estimate = Estimate(billing=billing, allocation=requested, seconds=seconds, tasks=tasks)
    if not estimate.units:
        return Unknown(f"the job asks for nothing that partition {name!r} counts")
    return estimate


def _limit_seconds(options: Mapping[str, str | bool], partition: Partition) -> int:
    asked = read_time(options, "time")
    if asked and asked.problem:
        raise Unclear(asked.problem.removesuffix("."))
    seconds = (asked and asked.seconds) or partition.max_time
    if seconds is None:
        raise Unclear("the job has no time limit; give options['time']")
    return seconds


def _count_tasks(options: Mapping[str, str | bool]) -> int:
    text = options.get("array")
    return len(parse_array(text)) if isinstance(text, str) else 1


def compute_cost(
    shares: Iterable[Share] | None,
    profile: SiteProfile,
    asked: Mapping[str, str | bool] | None = None,
) -> Cost | Unknown:
    """
    Return what jobs cost by what accounting says they were given, and for how long.

    What a site does not record, such as GPUs where ``AccountingStorageTRES`` does not name them, is
    taken from what was ``asked`` for.
    """
    if shares is None:
        return Unknown("the site's accounting does not say what it was given, and for how long")
    total, unit = 0.0, None
    for share in shares:
        billing = profile.billing_of(share.partition)
        partition = profile.partitions.get(share.partition)
        if billing is None or partition is None:
            return Unknown(f"what partition {share.partition!r} costs is not known")
        try:
            given = _as_given(share, partition, billing, asked)
        except Unclear as error:
            return Unknown(str(error))
        if unit not in {None, billing.unit}:
            return Unknown(f"it is billed partly in {unit}, partly in {billing.unit}")
        total, unit = total + billing.cost(given, share.seconds), billing.unit
    return Cost(units=total, unit=unit or _unit_of(asked, profile))


def _unit_of(asked: Mapping[str, str | bool] | None, profile: SiteProfile) -> str:
    """Name the unit of a job that used nothing."""
    billing = profile.billing_of(str((asked or {}).get("partition")))
    return billing.unit if billing else "units"


def _as_given(
    share: Share,
    partition: Partition,
    billing: Billing,
    asked: Mapping[str, str | bool] | None,
) -> Allocation:
    granted = parse_granted(share.tres)
    values = _allocation_fields(granted, partition.threads_per_core)
    missing = {each for each in billing.quantities if values[_FIELDS[each]] is None}
    if missing:
        if asked is None:
            raise Unclear(f"accounting does not say how many {_name(missing)} it was given")
        requested = read_allocation(asked, partition, needed=missing)
        for each in missing:
            values[_FIELDS[each]] = getattr(requested, _FIELDS[each])
    return Allocation(**{name: value or 0 for name, value in values.items()})


_FIELDS = {
    Quantity.NODES: "nodes",
    Quantity.CORES: "cores",
    Quantity.MEMORY_GIB: "memory_bytes",
    Quantity.GPUS: "gpus",
    Quantity.LOCAL_DISK_GIB: "local_disk_bytes",
}


def _allocation_fields(granted: Granted, threads_per_core: int) -> dict[str, int | None]:
    cpus = granted.cpus
    return {
        "nodes": granted.nodes,
        "cores": None if cpus is None else math.ceil(cpus / threads_per_core),
        "memory_bytes": granted.memory_bytes,
        "gpus": granted.gpus,
        "local_disk_bytes": granted.local_disk_bytes,
    }


def _name(quantities: Iterable[Quantity]) -> str:
    return " or ".join(sorted(each.value.removesuffix("_gib") for each in quantities))
