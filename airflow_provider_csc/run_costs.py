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
    from collections.abc import Iterable

    from airflow_provider_csc.upstreams import Instance, RunName, States

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


def sum_up(costs: Iterable[TaskCost]) -> dict[str, Spent]:
    """Return what is spent of each unit; of what is not known the unit is not, either."""
    found: dict[str, Spent] = {}
    for cost in costs:
        unit = cost["unit"] or ""
        known = found.get(unit, Spent())
        found[unit] = Spent(
            units=known.units + cost["units"],
            expected=known.expected + cost["expected"],
            unknown=(*known.unknown, *cost["unknown"]),
        )
    return found


# In other states a task instance has not run, or will run again.
_HAS_RUN = frozenset({"running", "deferred", "success", "failed", "up_for_retry"})


def find_silent(states: States, costs: Iterable[TaskCost]) -> list[Instance]:
    """Return the task instances that have run and did not say what that cost."""
    told = {(cost["task_id"], cost["map_index"]) for cost in costs}
    return [
        instance
        for instances in states.values()
        for instance, state in sorted(instances.items())
        if state in _HAS_RUN and tuple(instance) not in told
    ]


def summarise(costs: Iterable[TaskCost], silent: Iterable[Instance]) -> dict[str, Any]:
    """Return what a DAG run cost, as plain JSON."""
    known, unknown = list(costs), [str(each) for each in silent]
    units: dict[str, dict[str, float | None]] = {}
    for unit in sorted({cost["unit"] for cost in known if cost["unit"]}):
        mine = [cost for cost in known if cost["unit"] == unit]
        actual = [None if cost["expected"] else cost["actual"] for cost in mine]
        is_known = None not in actual and not any(cost["unknown"] for cost in mine)
        units[unit] = {
            "actual": round(sum(filter(None, actual)), 4) if is_known else None,
            "at_most": round(sum(cost["units"] for cost in mine), 4),
        }
    unknown += [_name(cost) for cost in known if cost["unknown"] or not cost["unit"]]
    return {"units": units, "tasks": [dict(cost) for cost in known], "unknown": unknown}


def _name(cost: TaskCost) -> str:
    index = f"[{cost['map_index']}]" if cost["map_index"] >= 0 else ""
    return f"{cost['task_id']}{index}"


def render_costs(costs: Iterable[TaskCost]) -> str:
    """Return a table, one line for each task instance."""
    from airflow_provider_csc.slurm.accounting import render_columns  # noqa: PLC0415 - as above

    lines = [_cells(cost) for cost in costs]
    return render_columns([("task", "try", "job", "at most", "used", "unit"), *lines])


def _cells(cost: TaskCost) -> tuple[str, ...]:
    from airflow_provider_csc.sites.estimate import format_units  # noqa: PLC0415 - as above

    def told(units: float | None) -> str:
        return "?" if units is None else format_units(units)

    used = told(cost["actual"]) if not cost["expected"] else "running"
    return (
        _name(cost),
        str(cost["try_number"]),
        cost["job_id"] or "-",
        told(cost["estimated"]),
        used,
        cost["unit"] or "?",
    )
