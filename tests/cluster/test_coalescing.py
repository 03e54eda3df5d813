"""Mapped instances become one array on the real cluster, and stay tasks of their own."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_csc.errors import JobExitCodeError
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.triggers import slurm as triggers
from tests.support.instances import Instances, run_all
from tests.support.task import first_event

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

COUNT = 50


def states_of(job_ids: list[str]) -> Counter[str]:
    return Counter(one.state for one in SlurmHook().query(job_ids).values())


def test_fifty_instances_are_one_array_and_two_that_are_cleared_another() -> None:
    run_id = f"fifty {uuid4()}"
    fails = '[ "$ME" != 7 ] && [ "$ME" != 31 ] || exit 4; echo "I am $ME"'
    options = {"time": 5, "mem": "20M"}
    instances = Instances(COUNT, run_id=run_id, command=fails, options=options)

    results = instances.complete(run_all(instances.defer()))

    job_ids = [context["ti"].xcoms["job_id"] for context in instances.contexts]
    (array,) = {job_id.partition("_")[0] for job_id in job_ids}
    assert job_ids == [f"{array}_{index}" for index in range(COUNT)]
    failed = [index for index, one in enumerate(results) if isinstance(one, JobExitCodeError)]
    assert failed == [7, 31]
    assert all(results[index].exit_code == 4 for index in failed)
    done = [one for one in results if isinstance(one, dict)]
    assert {one["state"] for one in done} == {"COMPLETED"}
    assert len({one["run_dir"] for one in done}) == COUNT - 2
    for index in (0, 49):
        assert Path(results[index]["stdout_path"]).read_text() == f"I am {index}\n"
        assert results[index]["elapsed_seconds"] is not None

    again = Instances(
        COUNT, run_id=run_id, try_number=2, command='echo "again $ME"', options=options
    )
    again.keep(failed)
    repeated = again.complete(run_all(again.defer()))

    (second,) = {one["job_id"].partition("_")[0] for one in repeated}
    assert second != array
    assert [one["job_id"] for one in repeated] == [f"{second}_0", f"{second}_1"]
    assert [Path(one["stdout_path"]).read_text() for one in repeated] == ["again 7\n", "again 31\n"]


def test_a_kill_ends_one_element_whether_it_waits_or_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triggers, "_HAS_ON_KILL", True)
    instances = Instances(
        6,
        run_id=f"kill {uuid4()}",
        command='trap "echo bye; exit 1" TERM; sleep 600 & wait',
        options={"time": 15, "mem": "20M", "begin": "now"},
    )
    held = Instances(3, run_id=f"held {uuid4()}", command="true", options={"hold": True, "time": 5})
    made = instances.defer() + held.defer()

    async def main() -> dict[str, Any]:
        running = [asyncio.ensure_future(first_event(trigger)) for trigger in made]
        try:
            async with asyncio.timeout(120):
                while not all(trigger._job for trigger in made):
                    await asyncio.sleep(0.2)
            job_ids = [trigger._job.job_ids[0] for trigger in made if trigger._job]
            async with asyncio.timeout(60):
                while (await asyncio.to_thread(states_of, job_ids[:6]))["RUNNING"] < 6:
                    await asyncio.sleep(1)
            for number in (2, 7):
                running[number].cancel()
                await asyncio.gather(running[number], return_exceptions=True)
                await made[number].on_kill()
            async with asyncio.timeout(60):
                while len(states := await asyncio.to_thread(SlurmHook().query, job_ids)) < 9 or (
                    not all(states[job_ids[number]].is_final for number in (2, 7))
                ):
                    await asyncio.sleep(1)
            return {job_id: states[job_id].state for job_id in job_ids}
        finally:
            bases = {trigger._job.job_ids[0].partition("_")[0] for trigger in made if trigger._job}
            await asyncio.to_thread(SlurmHook().cancel, sorted(bases))
            for trigger, one in zip(made, running, strict=True):
                one.cancel()
                await trigger.cleanup()
            await asyncio.gather(*running, return_exceptions=True)

    states = list(asyncio.run(main()).values())

    assert states[:6] == ["RUNNING", "RUNNING", "CANCELLED", "RUNNING", "RUNNING", "RUNNING"]
    assert states[6:] == ["PENDING", "CANCELLED", "PENDING"]


def test_a_limit_that_cancels_an_element_that_waits_is_told_as_such() -> None:
    instances = Instances(
        3,
        run_id=f"limit {uuid4()}",
        command="true",
        options={"hold": True, "time": 5},
        queue_timeout=2,
    )

    results = instances.complete(run_all(instances.defer()))

    assert [getattr(one, "limit", one) for one in results] == ["queue_timeout"] * 3


def test_the_user_may_look_at_an_element_as_at_any_job() -> None:
    """What Slurm's own programs are told of it: its name, and where it writes to."""
    instances = Instances(2, run_id=f"look {uuid4()}", command="true", options={"time": 5})
    results = instances.complete(run_all(instances.defer()))

    command = (
        f"sacct --noheader --parsable2 --allocations --format=JobName -j {results[1]['job_id']}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("test_dag.work.af")
