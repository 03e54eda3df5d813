"""What one trivial job takes longer through Airflow than as a bare ``sbatch --wait``."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from benchmarks.airflow_stage import airflow
from benchmarks.figures import Case, Figure, Headline, Measured, Part, Row, Table, figure, show
from docker.lib.airflow_rest import FINAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.running import Bench
    from benchmarks.site import Site
    from docker.lib.airflow_rest import Airflow

_DAGS = {
    "bash": "overhead_bash",
    "deferred": "overhead_deferred",
    "in_worker": "overhead_in_worker",
}
_WORDS = {
    "raw": "`sbatch --wait` on the log-in node",
    "bash": "BashOperator in Airflow, no job",
    "in_worker": "our task, waiting in its worker",
    "deferred": "our task, deferred",
}
_START_SECONDS = 90.0
_TURN_SECONDS = 40.0
_PATIENCE = 300.0


def cases(bench: Bench) -> list[Case]:
    """Return the one case: all ways in turn."""
    turns = bench.settings.pick(8, 1)
    return [
        Case(
            name="one trivial job",
            subject="ours",
            measure=lambda: measure(bench, turns),
            seconds=_START_SECONDS + _TURN_SECONDS * (turns + 1),
        )
    ]


def measure(bench: Bench, turns: int) -> Measured:
    """Run each way in turn; the first of each is not counted, for Airflow loads much then."""
    seconds: dict[str, list[float]] = {name: [] for name in _WORDS}
    with airflow(bench.cluster, floor=1) as stage:
        api = stage.api
        for dag_id in _DAGS.values():
            api.wait_for_dag(dag_id)
        for turn in range(turns + 1):
            found = {"raw": run_raw(bench.cluster)}
            found |= {name: run_in_airflow(api, dag_id) for name, dag_id in _DAGS.items()}
            if turn:
                for name, each in found.items():
                    seconds[name].append(each)
    figures = {name: figure(each, "s") for name, each in seconds.items()}
    return Measured(figures=figures, detail={"interval": 5, "floor": 1})


def run_raw(site: Site) -> float:
    """Return the seconds of a bare job."""
    began = time.perf_counter()
    site.run("sbatch", "--wait", "--mem=10M", "--ntasks=1", "--output=/dev/null", "--wrap=true")
    return time.perf_counter() - began


def run_in_airflow(api: Airflow, dag_id: str) -> float:
    """Return the seconds from the queueing of a run to the end of its one task."""
    run = api.trigger(dag_id)
    end = time.monotonic() + _PATIENCE
    while (state := run.state()) not in FINAL:
        if time.monotonic() > end:
            raise RuntimeError(f"{dag_id} is {state} after {_PATIENCE:.0f} s")
        time.sleep(0.5)
    if state != "success":
        raise RuntimeError(f"{dag_id}: {state}")
    (task,) = run.tasks()
    queued = api.get(f"/dags/{dag_id}/dagRuns/{quote(run.run_id)}")["queued_at"]
    begun, ended = (datetime.fromisoformat(text) for text in (queued, task["end_date"]))
    return (ended - begun).total_seconds()


# The page


def added(row: Row, name: str) -> Figure:
    """Return what a way takes more than a bare job, turn by turn."""
    pairs = zip(row.figures[name].samples, row.figures["raw"].samples, strict=True)
    return figure([mine - raw for mine, raw in pairs], "s")


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each way."""
    lines = [
        [words, show(row.figures[name]), show(added(row, name)) if name != "raw" else ""]
        for row in rows
        for name, words in _WORDS.items()
    ]
    return Table(
        ("one trivial job", "from queued to success, s", "more than the bare job, s"), lines
    )


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """Return both of our ways against the bare job."""
    return [
        Headline(
            f"one trivial job, {_WORDS[name]}, s",
            show(row.figures[name]),
            f"{_WORDS['raw']}: {show(row.figures['raw'])}; {_WORDS['bash']}: "
            f"{show(row.figures['bash'])}",
            f"+ {show(added(row, name))} s",
        )
        for row in rows
        for name in ("deferred", "in_worker")
    ]


PART = Part(
    name="overhead",
    about="one trivial job through the scheduler, against a bare one",
    cases=cases,
    table=table,
    headlines=headlines,
)
