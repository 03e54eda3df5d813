"""
A thousand mapped tasks through Airflow's real scheduler and triggerer, coalesced into arrays.

BENCH_AT_END may hold a command that is run with Airflow's description while it is still there, as
docs/screenshots/take.py needs it for its pictures.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from benchmarks.airflow_stage import airflow
from benchmarks.figures import Case, Measured, Part, Row, Table, figure, list_figures, percent
from benchmarks.processes import family_seconds
from docker.lib.airflow_rest import FINAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.airflow_stage import Stage
    from benchmarks.running import Bench
    from benchmarks.site import Jobs, Site
    from docker.lib.airflow_rest import Airflow, DagRun

INTERVAL = 5
_START_SECONDS = 90.0
_SECONDS_EACH = 0.6
_PAGE = 100
_LOOK_SECONDS = 5
_SUBMISSION = "REQUEST_SUBMIT_BATCH_JOB"


def cases(bench: Bench) -> list[Case]:
    """Return the one case."""
    n = bench.settings.pick(1000, 12)
    return [
        Case(
            name=f"{n} mapped tasks",
            subject="ours",
            n=n,
            measure=lambda: measure(bench.cluster, n),
            seconds=_START_SECONDS + _SECONDS_EACH * n,
        )
    ]


def measure(site: Site, n: int) -> Measured:
    """Run them to their end; raises unless every task and every job came to a good one."""
    with site.jobs() as jobs, airflow(site, floor=INTERVAL) as stage:
        stage.api.wait_for_dag("mapped")
        requests, used = site.requests_of_user(), family_seconds(stage.triggerer)
        commands, began = stage.node.commands(), time.monotonic()
        run = stage.api.trigger("mapped", {"jobs": n, "name": jobs.name})
        most = follow(stage, run, _START_SECONDS + 20 * _SECONDS_EACH * n)
        passed = time.monotonic() - began
        after = site.requests_of_user()
        figures = {
            "seconds": figure(passed, "s"),
            "connections": figure(most["connections"], "at most"),
            "deferred": figure(most["deferred"], "at most"),
            "commands": figure(stage.node.commands() - commands),
            "cpu": figure(percent((family_seconds(stage.triggerer) - used) / passed), "%"),
            "requests": figure(after["user"] - requests["user"]),
        }
        submissions = after.get(_SUBMISSION, 0) - requests.get(_SUBMISSION, 0)
        figures["submissions"] = figure(submissions)
        figures["arrays"] = figure(count_arrays(site, jobs, n, since=passed + 60))
        if command := os.environ.get("BENCH_AT_END"):
            # A picture that could not be taken is no reason to measure again.
            subprocess.run([*shlex.split(command), str(stage.description)], check=False)
        finished = instances(stage.api, run)
    if finished != {"success": n}:
        raise RuntimeError(f"of {n} mapped tasks there are: {dict(finished)}")
    changed = {name: count - requests.get(name, 0) for name, count in after.items()}
    detail = {
        "interval": INTERVAL,
        "sdiag": {name: count for name, count in changed.items() if count},
    }
    return Measured(figures=figures, detail=detail)


def follow(stage: Stage, run: DagRun, seconds: float) -> Counter[str]:
    """Wait for the run's end; return the most connections and deferred tasks there were."""
    most: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while (state := run.state()) not in FINAL:
        if time.monotonic() > end:
            raise RuntimeError(f"the run is {state} after {seconds:.0f} s")
        most["connections"] = max(most["connections"], stage.node.connections())
        most["deferred"] = max(most["deferred"], instances(stage.api, run)["deferred"])
        time.sleep(_LOOK_SECONDS)  # Airflow is asked over REST, which tells nobody of an end
    if state != "success":
        raise RuntimeError(f"the run is {state}: {dict(instances(stage.api, run))}")
    return most


def instances(api: Airflow, run: DagRun) -> Counter[str]:
    """Return how many of the mapped tasks are in each state."""
    counts: Counter[str] = Counter()
    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances?task_id=job&limit={_PAGE}"
    total, offset = 1, 0
    while offset < total:
        answer: dict[str, Any] = api.get(f"{path}&offset={offset}")
        counts.update(str(each["state"]) for each in answer["task_instances"])
        total, offset = answer["total_entries"], offset + _PAGE
    return counts


def count_arrays(site: Site, jobs: Jobs, n: int, *, since: float) -> int:
    """Return how many jobs were submitted; raises unless they ran ``n`` elements, each once."""
    text = site.run(
        "sacct", "--allocations", "--noheader", "--parsable2", f"--starttime=now-{since:.0f}seconds",
        "--format=JobID,JobName%100,State",
    )  # fmt: skip
    rows = [line.split("|") for line in text.splitlines()]
    states = {job_id: state for job_id, name, state in rows if name.startswith(jobs.name)}
    if Counter(states.values()) != {"COMPLETED": n}:
        raise RuntimeError(f"of {n} jobs there are: {dict(Counter(states.values()))}")
    return len({job_id.partition("_")[0] for job_id in states})


# The page


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each figure."""
    words = {
        "seconds": "from the trigger of the run to its success, s",
        "deferred": "tasks deferred at a time, at most",
        "arrays": "Slurm jobs and arrays they were submitted as",
        "connections": "SSH connections of the triggerer, at most",
        "commands": "remote commands",
        "requests": "requests of the user to slurmctld",
        "submissions": "of them submissions",
        "cpu": "processor time of the whole triggerer, % of a core",
    }
    n = rows[0].n if rows else 0
    return Table((f"{n} mapped tasks, interval {INTERVAL} s", ""), list_figures(rows, words))


# No headlines: nothing is compared here, `submit` has the peers.
PART = Part(
    name="mapped",
    about="1,000 coalesced mapped tasks through the real scheduler and triggerer",
    cases=cases,
    table=table,
)
