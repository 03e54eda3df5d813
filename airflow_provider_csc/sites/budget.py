"""Refuse what would cost more than its author allows, with what would fit instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.sites.billing import Quantity
from airflow_provider_csc.sites.estimate import Estimate, Unknown, format_units
from airflow_provider_csc.sites.limits import RUN_FIELD, TASK_FIELD
from airflow_provider_csc.slurm.values import format_elapsed

# Of sums of many small parts the last digits are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """
    What jobs have cost so far.

    ``units`` are a bound where not all of it is known, and ``unknown`` says of what nothing is;
    ``expected`` are a part of it: what jobs that still run may cost.
    """

    units: float = 0.0
    expected: float = 0.0
    unknown: tuple[str, ...] = ()


def check_task(limit: float, estimate: Estimate | Unknown, spent: Spent) -> None:
    """
    Check that a try stays within its limit when it submits one job more.

    :raises ConfigError: names both, and what would fit.
    """
    known = _known(TASK_FIELD, limit, estimate)
    if spent.unknown:
        raise _refusal(
            TASK_FIELD,
            limit,
            f"what job {', '.join(spent.unknown)} of this try has cost is not known, so that the "
            "next one cannot be allowed",
            "Leave the limit out, or on_failure.",
        )
    before = (
        f"this try has spent {_told(spent.units, known.unit)} already, and " if spent.units else ""
    )
    _check(TASK_FIELD, limit, known, spent.units, before)


def check_run(
    limit: float | Mapping[str, float], estimate: Estimate | Unknown, spent: Mapping[str, Spent]
) -> None:
    """
    Check that a DAG run stays within its limit; ``spent`` is what it has cost, by unit.

    :raises ConfigError: names both; it ``is_temporary`` where only jobs that still run stand in
        the way, which may cost less than they could.
    """
    known = _known(RUN_FIELD, limit, estimate)
    allowed = limit.get(known.unit) if isinstance(limit, Mapping) else limit
    if allowed is None:
        return
    mine = spent.get(known.unit, Spent())
    unknown = [*mine.unknown, *spent.get("", Spent()).unknown]
    if unknown:
        raise _refusal(
            RUN_FIELD,
            limit,
            f"what {', '.join(unknown)} costs is not known",
            "See to it that its cost is known, or leave the limit out.",
        )
    expected = f" ({_told(mine.expected, known.unit)} of it by jobs that still run)"
    before = (
        f"other jobs of this DAG run take up to {_told(mine.units, known.unit)}"
        f"{expected if mine.expected else ''}, and "
        if mine.units
        else ""
    )
    fits_later = mine.units - mine.expected + known.units <= allowed * (1 + _ROUNDING)
    _check(RUN_FIELD, allowed, known, mine.units, before, is_temporary=fits_later)


def _known(field: str, limit: object, estimate: Estimate | Unknown) -> Estimate:
    if isinstance(estimate, Unknown):
        raise _refusal(
            field, limit, f"what this job can cost is not known: {estimate.why}",
            "Without it the limit cannot be kept.",
        )  # fmt: skip
    return estimate


def _check(
    field: str,
    limit: float,
    estimate: Estimate,
    spent: float,
    before: str,
    *,
    is_temporary: bool = False,
) -> None:
    if spent + estimate.units <= limit * (1 + _ROUNDING):
        return
    problem = f"{before}this job costs {estimate}, which is more than {_told(limit, estimate.unit)}"
    later = " A retry may find that they cost less." if is_temporary else ""
    remedy = describe_what_fits(estimate, limit - spent) + later
    raise _refusal(field, limit, problem, remedy, is_temporary=is_temporary)


def describe_what_fits(estimate: Estimate, left: float) -> str:
    """Say what of a job could be smaller for it to cost no more than what is left."""
    if left <= 0:
        return "Nothing is left: raise the limit."
    part = left / estimate.units
    minutes = int(estimate.seconds * part // 60)
    ways = [f"options['time'] of at most {format_elapsed(minutes * 60)}"] if minutes else []
    ways += _smaller(estimate, left)
    if estimate.tasks > 1 and (tasks := int(estimate.tasks * part)):
        ways.append(f"an array of at most {tasks} tasks")
    return f"It would fit with {' or '.join(ways) or 'less'}; or raise the limit."


_NAMES = {
    Quantity.NODES: "nodes",
    Quantity.CORES: "cores",
    Quantity.MEMORY_GIB: "GiB of memory",
    Quantity.GPUS: "GPUs",
    Quantity.LOCAL_DISK_GIB: "GiB of local disk",
}


def _smaller(estimate: Estimate, left: float) -> list[str]:
    """Return how much of what the job is billed by would fit in the same time."""
    billing, allocation = estimate.billing, estimate.allocation
    per_hour = left / estimate.tasks * 3600 / estimate.seconds
    room = (per_hour - sum(term.amount(allocation) for term in billing.plus)) / billing.factor
    told = []
    for term in billing.highest_of:
        if term.amount(allocation) <= room:
            continue
        parts = math.floor(room / term.factor) if term.round_up else room / term.factor
        count = math.floor(parts * term.per + _ROUNDING)
        if count < 1:
            return []
        name = _NAMES[term.of]
        told.append(f"{count} {name.removesuffix('s') if count == 1 else name}")
    return [f"at most {' and '.join(told)}"] if told else []


def _told(units: float, unit: str) -> str:
    return f"{format_units(units)} {unit}"


def _refusal(
    field: str, limit: object, problem: str, remedy: str, **details: object
) -> ConfigError:
    amount = f"{limit:.15g}" if isinstance(limit, float) else repr(limit)
    return ConfigError(
        f"{field}: {amount} is the limit, and {problem}. {remedy} Nothing was submitted.",
        field=field,
        value=limit,
        **details,
    )
