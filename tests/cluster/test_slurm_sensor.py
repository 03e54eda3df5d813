"""SlurmJobSensor on the real cluster, with jobs this provider did not submit."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_csc.sensors.slurm import SlurmJobSensor
from tests.support.task import build_context, run_task

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]


def submit(command: str, *, options: str = "", user: str = "alice") -> str:
    done = subprocess.run(
        [
            "runuser",
            "-u",
            user,
            "--",
            "bash",
            "-c",
            f"cd ~; sbatch --parsable {options} --wrap='{command}'",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def sensor(**arguments: Any) -> SlurmJobSensor:
    return SlurmJobSensor(**{"task_id": "wait", "poke_interval": 1, "timeout": 60} | arguments)


@pytest.fixture(params=[True, False], ids=["deferrable", "poke"])
def deferrable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_it_waits_for_a_job_somebody_else_submitted(deferrable: bool) -> None:
    job_id = submit("sleep 2", user="bob")

    result = run_task(sensor(job_id=job_id, deferrable=deferrable))

    assert (result["job_id"], result["state"]) == (job_id, "COMPLETED")


def test_it_waits_for_several_jobs_and_returns_them_in_order(deferrable: bool) -> None:
    job_ids = [submit("sleep 3"), submit("true")]

    results = run_task(sensor(job_id=job_ids, deferrable=deferrable))

    assert [result["job_id"] for result in results] == job_ids


def test_ids_may_be_separated_by_commas() -> None:
    job_ids = [submit("true"), submit("true")]

    results = run_task(sensor(job_id=",".join(job_ids), deferrable=True))

    assert len(results) == 2


def test_a_job_array_is_waited_for_as_a_whole(deferrable: bool) -> None:
    job_id = submit("sleep 1; exit $((SLURM_ARRAY_TASK_ID == 2))", options="--array=1-3")

    with pytest.raises(AirflowFailException, match=f"Job {job_id} ended FAILED"):
        run_task(sensor(job_id=job_id, deferrable=deferrable))


def test_one_element_of_an_array_can_be_waited_for(deferrable: bool) -> None:
    job_id = submit("exit $((SLURM_ARRAY_TASK_ID == 2))", options="--array=1-3")

    assert run_task(sensor(job_id=f"{job_id}_3", deferrable=deferrable))["state"] == "COMPLETED"


def test_a_failed_job_fails_the_sensor_without_a_retry(deferrable: bool) -> None:
    job_id = submit("exit 4")

    with pytest.raises(AirflowFailException, match="exit code 4"):
        run_task(sensor(job_id=job_id, deferrable=deferrable))


def test_soft_fail_skips(deferrable: bool) -> None:
    task = sensor(job_id=submit("exit 4"), deferrable=deferrable, soft_fail=True)

    with pytest.raises(AirflowSkipException):
        run_sensor(task)


def test_a_job_that_does_not_exist_is_an_error_that_says_so(deferrable: bool) -> None:
    with pytest.raises(AirflowFailException, match=r"job_id.*99999999.*squeue.*sacct"):
        run_task(sensor(job_id="99999999", deferrable=deferrable))


@pytest.mark.parametrize("job_id", ["abc", "12;other", "1_[2-3]", "$(id)", "", "-1"])
def test_what_is_no_job_id_is_refused(job_id: str, deferrable: bool) -> None:
    with pytest.raises(AirflowFailException, match="job_id"):
        run_task(sensor(job_id=job_id, deferrable=deferrable))


def test_reschedule_mode_frees_the_slot_while_the_job_runs() -> None:
    job_id = submit("sleep 30")
    task = sensor(job_id=job_id, mode="reschedule", deferrable=False)
    context = build_context(task)
    context["ti"].get_first_reschedule_date = lambda _context: None

    # Airflow 3.1 and 3.3 keep this exception in different places.
    with pytest.raises(Exception, match=r"^$") as caught:
        task.execute(context)
    assert type(caught.value).__name__ == "AirflowRescheduleException"

    subprocess.run(["scancel", job_id], check=True)


def run_sensor(task: SlurmJobSensor) -> Any:
    """Resume as Airflow does: through `resume_execution`, which knows of soft_fail."""
    import asyncio

    from airflow.providers.common.compat.sdk import TaskDeferred

    from tests.support.task import first_event, stored

    context = build_context(task)
    try:
        return task.execute(context)
    except TaskDeferred as deferred:
        event = asyncio.run(first_event(stored(deferred.trigger)))
        return task.resume_execution(deferred.method_name, {"event": event}, context)
