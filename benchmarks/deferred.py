"""Fifty deferred tasks through Airflow's real scheduler and triggerer: what they hold and use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks.airflow_stage import airflow
from benchmarks.figures import Case, Measured, Part, Row, Table, figure, list_figures, percent
from benchmarks.processes import family_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.airflow_stage import Stage
    from benchmarks.running import Bench
    from docker.lib.airflow_rest import Airflow

INTERVAL = 5
_START_SECONDS = 90.0
_DEFER_SECONDS = 600.0


def cases(bench: Bench) -> list[Case]:
    """Return the one case."""
    n = bench.settings.pick(50, 4)
    return [
        Case(
            name=f"{n} deferred tasks",
            subject="ours",
            n=n,
            measure=lambda: measure(bench, n),
            seconds=_START_SECONDS + 2 * n + 60 * bench.settings.windows,
        )
    ]


def measure(bench: Bench, n: int) -> Measured:
    """Run mapped tasks whose jobs are held, and look at them when all are deferred."""
    site, settings = bench.cluster, bench.settings
    seconds = settings.pick(60, 10)
    with site.jobs() as jobs, airflow(site, floor=INTERVAL) as stage:
        api = stage.api
        api.wait_for_dag("waiting")
        began = time.monotonic()
        run = api.trigger("waiting", {"jobs": n, "name": jobs.name})
        path = f"/dags/waiting/dagRuns/{run.run_id}/taskInstances?limit=1000"
        wait_until(lambda: states(api, path).count("deferred") == n, _DEFER_SECONDS)
        deferred_after = time.monotonic() - began
        time.sleep(2 * INTERVAL)
        windows = [window(stage, path, seconds) for _ in range(settings.windows)]
        still = states(api, path).count("deferred")
        if still != n:
            raise RuntimeError(f"{still} of {n} tasks are still deferred, though their jobs wait")
    figures = {
        name: figure([each[name] for each in windows], unit)
        for name, unit in (
            ("connections", "at most"),
            ("commands", "per minute"),
            ("running", "worker slots, at most"),
            ("cpu", "% of a core"),
        )
    }
    figures["until_deferred"] = figure(deferred_after, "s")
    return Measured(figures=figures, detail={"interval": INTERVAL})


def states(api: Airflow, path: str) -> list[str]:
    """Return the states of the tasks that have jobs."""
    tasks: list[dict[str, Any]] = api.get(path)["task_instances"]
    return [str(task["state"]) for task in tasks if task["task_id"] == "job"]


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for something; raises when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"the tasks were not all deferred after {seconds:.0f} s")
        time.sleep(1)


def window(stage: Stage, path: str, seconds: float) -> dict[str, float]:
    """Return what was held and used within some seconds."""
    node = stage.node
    used, commands = family_seconds(stage.triggerer), node.commands()
    began, connections, running = time.monotonic(), 0, 0
    while time.monotonic() < began + seconds:
        connections = max(connections, node.connections())
        running = max(running, states(stage.api, path).count("running"))
        time.sleep(2)
    passed = time.monotonic() - began
    return {
        "connections": connections,
        "running": running,
        "commands": (node.commands() - commands) * 60 / passed,
        "cpu": percent((family_seconds(stage.triggerer) - used) / passed),
    }


# The page


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each figure."""
    words = {
        "until_deferred": "from the trigger of the run to all deferred, s",
        "connections": "SSH connections of the triggerer, at most",
        "commands": "remote commands per minute",
        "running": "worker slots held, at most",
        "cpu": "processor time of the whole triggerer, % of a core",
    }
    n = rows[0].n if rows else 0
    return Table((f"{n} deferred tasks, interval {INTERVAL} s", ""), list_figures(rows, words))


# No headlines: nothing is compared here, `waiting` has the peers.
PART = Part(
    name="deferred",
    about="50 deferred tasks through the real scheduler and triggerer",
    cases=cases,
    table=table,
)
