"""
What the Slurm tasks of a DAG run cost together, as they say it themselves.

Each pushes one XCom, beside its result: right before it submits, with the most that it can cost,
and when its job has ended, with what that cost. One question to Airflow's API for each task tells
those of all its instances.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from airflow_provider_csc.sites.budget import Spent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_csc.upstreams import Instance, RunName

KEY = "slurm_cost"


class TaskCost(TypedDict):
    """
    What one task instance costs, in its present try and those before.

    ``units`` are what counts toward a limit: what its jobs have cost, or can have cost where that
    is not known, and the most that a job can cost which has not ended (``expected``). ``actual`` is
    what they have cost, where that is known. ``unknown`` are jobs of which nothing is known.
    """

    task_id: str
    map_index: int
    try_number: int
    job_id: str | None
    unit: str | None
    units: float
    expected: float
    estimated: float | None
    actual: float | None
    unknown: list[str]


def ask_costs(run: RunName, task_ids: Iterable[str]) -> list[TaskCost]:
    """Return what the instances of some tasks say they cost. It blocks."""
    from airflow.sdk.execution_time.xcom import XCom  # noqa: PLC0415 - costs seconds

    found: list[TaskCost] = []
    for task_id in sorted(set(task_ids)):
        values = XCom.get_all(key=KEY, dag_id=run.dag_id, run_id=run.run_id, task_id=task_id)
        found.extend(value for value in values or () if is_cost(value))
    return found


def is_cost(value: object) -> bool:
    """Whether an XCom is one that this module can read; of what others pushed nothing is read."""
    return isinstance(value, dict) and TaskCost.__required_keys__ <= value.keys()


def sum_up(costs: Iterable[TaskCost], *, but: Instance | None = None) -> dict[str, Spent]:
    """Return what is spent of each unit by all instances but one."""
    found: dict[str, Spent] = {}
    for cost in costs:
        if but is not None and (cost["task_id"], cost["map_index"]) == tuple(but):
            continue
        unit = cost["unit"] or ""
        known = found.get(unit, Spent())
        found[unit] = Spent(
            units=known.units + cost["units"],
            expected=known.expected + cost["expected"],
            unknown=(*known.unknown, *cost["unknown"]),
        )
    return found


def render_costs(costs: Iterable[TaskCost]) -> str:
    """Return a table, one line for each task instance."""
    from airflow_provider_csc.slurm.accounting import render_columns  # noqa: PLC0415 - as above

    lines = [_cells(cost) for cost in costs]
    return render_columns([("task", "try", "job", "at most", "used", "unit"), *lines])


def _cells(cost: Mapping[str, Any]) -> tuple[str, ...]:
    from airflow_provider_csc.sites.estimate import format_units  # noqa: PLC0415 - as above

    def told(units: float | None) -> str:
        return "?" if units is None else format_units(units)

    index = f"[{cost['map_index']}]" if cost["map_index"] >= 0 else ""
    used = told(cost["actual"]) if not cost["expected"] else "running"
    return (
        f"{cost['task_id']}{index}",
        str(cost["try_number"]),
        cost["job_id"] or "-",
        told(cost["estimated"]),
        used,
        cost["unit"] or "?",
    )
