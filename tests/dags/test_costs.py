"""In a real Airflow tasks of a run know of each other's costs, and keep within a common limit."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.dags.cost_dags.cost import WORST
from tests.support.bad_input import build_connection

if TYPE_CHECKING:
    from docker.lib.airflow_rest import Airflow, DagRun

pytestmark = pytest.mark.cluster

RUN_SECONDS = 240
# What of the runs before `last` the longest jobs can have cost, far from what they could have.
SPENT_AT_MOST = 10


@pytest.fixture(scope="module")
def airflow(cluster: dict[str, Any], airflow: Airflow) -> Airflow:
    connection = build_connection(cluster, site="priced")
    extra = json.dumps(connection.pop("extra"))
    airflow.set_connection({"connection_id": "slurm_priced", "extra": extra, **connection})
    airflow.wait_for_dag("cost")
    return airflow


def finished(run: DagRun) -> DagRun:
    end = time.monotonic() + RUN_SECONDS
    while run.state() not in ("success", "failed") and time.monotonic() < end:
        time.sleep(0.5)
    return run


def states(run: DagRun) -> dict[str, str]:
    return {f"{each['task_id']}[{each['map_index']}]": each["state"] for each in run.tasks()}


def text_of(run: DagRun, task_id: str) -> str:
    return "\n".join(json.dumps(line) for line in run.log(task_id))


def test_a_run_is_added_up_with_what_failed_and_what_is_mapped(airflow: Airflow) -> None:
    run = finished(airflow.trigger("cost", {"units": 200}))
    assert states(run) == {
        "first[-1]": "success",
        "fails[-1]": "failed",
        "many[0]": "success",
        "many[1]": "success",
        "last[-1]": "success",
        "total[-1]": "success",
    }, text_of(run, "last")
    found = run.xcom("total")
    costs = {(each["task_id"], each["map_index"]): each for each in found["tasks"]}
    assert set(costs) == {("first", -1), ("fails", -1), ("many", 0), ("many", 1), ("last", -1)}
    sums = found["units"]["core-minutes"]
    assert found["unknown"] == []
    together = sum(each["actual"] for each in costs.values())
    assert sums["actual"] == pytest.approx(together, abs=1e-3)
    # Two cores for the five seconds it sleeps, and some more.
    assert 10 / 60 <= costs["first", -1]["actual"] < 1
    assert costs["fails", -1]["actual"] > 0
    assert costs["first", -1]["estimated"] == WORST
    assert run.xcom("first")["billing_units"]["actual"] == pytest.approx(
        costs["first", -1]["actual"], abs=1e-3
    )


def test_a_run_that_would_exceed_its_limit_stops_before_the_job_that_would(
    airflow: Airflow,
) -> None:
    """Two of 8 at most at once, and then 120 for the last: 60 are enough for all but that."""
    run = finished(airflow.trigger("cost", {"units": 60}))
    assert states(run)["last[-1]"] == "failed"
    said = text_of(run, "last")
    assert "max_billing_units_per_run: 60 is the limit, and other jobs of this DAG run" in said
    assert "Nothing was submitted." in said
    sums = run.xcom("total")["units"]["core-minutes"]
    assert 0 < sums["actual"] < SPENT_AT_MOST
