"""Asking Airflow which jobs other tasks have: what is asked, how often, and what is made of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync

from airflow_provider_csc import upstreams
from airflow_provider_csc.errors import UpstreamFailedError
from airflow_provider_csc.slurm.dependencies import Link, Upstream
from airflow_provider_csc.triggers.slurm_dependency import SlurmDependencyTrigger
from airflow_provider_csc.upstreams import (
    Instance,
    RunName,
    UpstreamWatch,
    Waiter,
    look_once,
    read_states,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

RUN = RunName("dag", "run")


class FakeAirflow:
    """States and jobs of task instances, and what was asked for."""

    def __init__(self) -> None:
        self.states: dict[str, str | None] = {}
        self.jobs: dict[Instance, str] = {}
        self.asked_states: list[set[str]] = []
        self.asked_jobs: list[Instance] = []
        self.faults = 0

    def set(
        self, task_id: str, state: str | None, job_id: str | None = None, index: int = -1
    ) -> None:
        self.states[task_id if index < 0 else f"{task_id}_{index}"] = state
        if job_id:
            self.jobs[Instance(task_id, index)] = job_id

    def ask_states(self, _run: RunName, task_ids: Iterable[str]) -> upstreams.States:
        if self.faults:
            self.faults -= 1
            raise RuntimeError("the API server is away")
        self.asked_states.append(set(task_ids))
        return read_states(
            {k: v for k, v in self.states.items() if any(k.startswith(name) for name in task_ids)},
            set(task_ids),
        )

    def ask_job_id(self, _run: RunName, instance: Instance) -> str | None:
        self.asked_jobs.append(instance)
        return self.jobs.get(instance)


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> FakeAirflow:
    fake = FakeAirflow()
    monkeypatch.setattr(upstreams, "ask_states", fake.ask_states)
    monkeypatch.setattr(upstreams, "ask_job_id", fake.ask_job_id)
    return fake


def waiter(*task_ids: str, kind: str = "afterok", **replaced: str) -> Waiter:
    old = {name.removeprefix("job"): state for name, state in replaced.items()}
    return Waiter(run=RUN, links=[Link(kind, task_id=name) for name in task_ids], replaced=old)


def jobs(found: list[Upstream] | None) -> list[str] | None:
    return None if found is None else [each.job_id for each in found]


def test_a_mapped_task_is_all_its_instances() -> None:
    answer = {"a_0": "success", "a_11": None, "b": "deferred", "a_x": "failed"}
    assert read_states(answer, {"a", "b"}) == {
        "a": {Instance("a", 0): "success", Instance("a", 11): None},
        "b": {Instance("b", -1): "deferred"},
    }


def test_a_task_whose_name_looks_like_an_instance_is_asked_for_by_itself() -> None:
    assert upstreams._unambiguous({"a", "a_1", "b_2"}) == [{"a", "b_2"}, {"a_1"}]


def test_what_is_known_at_once_is_not_waited_for(airflow: FakeAirflow) -> None:
    airflow.set("a", "deferred", "5")
    airflow.set("b", "success", "6")
    assert jobs(look_once(waiter("a", "b"))) == ["5", "6"]


def test_a_task_that_has_not_submitted_is_waited_for(airflow: FakeAirflow) -> None:
    airflow.set("a", "deferred")
    airflow.set("b", "scheduled", "6")
    assert look_once(waiter("a")) is None
    assert look_once(waiter("b")) is None
    assert Instance("b", -1) not in airflow.asked_jobs


def test_all_instances_of_a_mapped_task_are_waited_for(airflow: FakeAirflow) -> None:
    for index in range(3):
        airflow.set("a", "deferred", f"{index + 5}" if index else None, index)
    assert look_once(waiter("a")) is None
    airflow.set("a", "deferred", "9", 0)
    assert jobs(look_once(waiter("a"))) == ["9", "6", "7"]


def test_a_task_that_is_not_in_the_run_is_an_error(airflow: FakeAirflow) -> None:
    with pytest.raises(UpstreamFailedError, match="a has no task instance in this DAG run"):
        look_once(waiter("a"))


def test_a_running_task_is_believed_after_a_while(
    airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "STEADY_SECONDS", 0.05)
    airflow.set("a", "running", "5")
    one = waiter("a")
    states = airflow.ask_states(RUN, {"a"})
    assert one.judge(states, {Instance("a", -1): "5"}) is None
    time.sleep(0.1)
    assert one.judge(states, {Instance("a", -1): "6"}) is None
    assert jobs(one.judge(states, {Instance("a", -1): "5"})) == ["5"]


async def rounds(watch: UpstreamWatch, *waiters: Waiter) -> list[Any]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*(watch.wait(one) for one in waiters), return_exceptions=True)


@pytest.mark.asyncio
async def test_many_who_wait_for_one_task_ask_once(airflow: FakeAirflow) -> None:
    airflow.set("a", "deferred")
    watch = UpstreamWatch(interval=0.01)
    waiting = asyncio.gather(*(watch.wait(waiter("a")) for _ in range(500)))
    while len(airflow.asked_jobs) < 3:
        await asyncio.sleep(0.01)
    airflow.set("a", "deferred", "5")
    async with asyncio.timeout(10):
        found = await waiting
    assert [jobs(each) for each in found] == [["5"]] * 500
    assert len(airflow.asked_jobs) == len(airflow.asked_states) <= 10


@pytest.mark.asyncio
async def test_a_large_mapped_task_is_asked_for_in_parts(
    airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "_ASKS_PER_ROUND", 10)
    for index in range(35):
        airflow.set("a", "deferred", str(index + 1), index)
    ((*found,),) = await rounds(UpstreamWatch(interval=0.01), waiter("a"))
    assert [each.job_id for each in found] == [str(index + 1) for index in range(35)]
    assert len(airflow.asked_states) == 4


@pytest.mark.asyncio
async def test_an_airflow_that_is_away_is_asked_again(airflow: FakeAirflow) -> None:
    airflow.set("a", "deferred", "5")
    airflow.faults = 3
    (found,) = await rounds(UpstreamWatch(interval=0.01), waiter("a"))
    assert jobs(found) == ["5"]


@pytest.mark.asyncio
async def test_one_that_can_never_be_ends_only_the_wait_of_who_needs_it(
    airflow: FakeAirflow,
) -> None:
    airflow.set("a", "failed", "5")
    airflow.set("b", "deferred", "6")
    watch = UpstreamWatch(interval=0.01)
    never, known, cleaner = await rounds(
        watch, waiter("a", job5="FAILED"), waiter("b"), waiter("a", kind="afternotok")
    )
    assert isinstance(never, UpstreamFailedError)
    assert never.message.startswith("task a ended failed, its job 5 FAILED; this task is to run")
    assert (jobs(known), jobs(cleaner)) == (["6"], ["5"])


@pytest.mark.asyncio
async def test_who_is_cancelled_leaves_the_others_alone(airflow: FakeAirflow) -> None:
    airflow.set("a", "deferred")
    watch = UpstreamWatch(interval=0.01)
    gone = asyncio.ensure_future(watch.wait(waiter("a")))
    stays = asyncio.ensure_future(watch.wait(waiter("a")))
    await asyncio.sleep(0.05)
    gone.cancel()
    await asyncio.wait([gone])
    airflow.set("a", "deferred", "5")
    async with asyncio.timeout(10):
        assert jobs(await stays) == ["5"]


@pytest.mark.asyncio
async def test_a_run_that_cannot_be_asked_about_keeps_no_other_waiting(
    airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow.set("a", "deferred", "5")
    lost = RunName("dag", "lost")

    def ask(run: RunName, task_ids: Iterable[str]) -> upstreams.States:
        if run == lost:
            raise RuntimeError("lost")
        return airflow.ask_states(run, task_ids)

    monkeypatch.setattr(upstreams, "ask_states", ask)
    watch = UpstreamWatch(interval=0.01)
    stuck = Waiter(run=lost, links=[Link("afterok", task_id="a")], replaced={})
    waiting = asyncio.ensure_future(watch.wait(stuck))
    (found,) = await rounds(watch, waiter("a"))
    assert jobs(found) == ["5"]
    assert "lost" in watch.problem
    waiting.cancel()
    await asyncio.wait([waiting])


# ---- the trigger ----


class Log(list[str]):
    def info(self, message: str, /, *args: object) -> None:
        self.append(message % args)

    def log(self, _level: int, message: str, /, *args: object) -> None:
        self.append(message % args)


def trigger(**arguments: Any) -> SlurmDependencyTrigger:
    given = {"dag_id": "dag", "run_id": "run", "links": [("afterok", "a")], "since": 1.0}
    made = SlurmDependencyTrigger(**given | arguments)
    path, kwargs = made.serialize()
    assert path == "airflow_provider_csc.triggers.slurm_dependency.SlurmDependencyTrigger"
    again = SlurmDependencyTrigger(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)
    return again


@pytest.mark.asyncio
async def test_the_trigger_fires_with_the_jobs(airflow: FakeAirflow) -> None:
    airflow.set("a", "deferred", "5")
    log = Log()
    event = await trigger().wait(log)
    assert event == {
        "status": "known",
        "upstreams": [{"kind": "afterok", "name": "a", "job_id": "5", "state": "deferred"}],
    }
    assert log[0] == "Waiting until these tasks have submitted their jobs: a (afterok)."


@pytest.mark.asyncio
async def test_the_trigger_says_what_can_never_be(airflow: FakeAirflow) -> None:
    airflow.set("a", "failed")
    event = await trigger().wait(Log())
    assert event["status"] == "never"
    assert "task a ended failed, without a job" in event["reason"]
    assert trigger().look() == event


@pytest.mark.asyncio
async def test_the_trigger_ends_at_the_deadline(airflow: FakeAirflow) -> None:
    airflow.set("a", "deferred")
    assert await trigger(deadline=time.time() + 0.05).wait(Log()) == {"status": "deadline"}


def test_a_run_that_is_played_says_that_the_wait_would_have_no_end(
    airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.execution_time import task_runner

    class InProcessSupervisorComms:
        pass

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", InProcessSupervisorComms(), raising=False)
    airflow.set("a", None)
    with pytest.raises(RuntimeError, match=r"dag\.test\(\) runs one task after the other"):
        trigger().look()


class TriggererComms:
    """The channel of a triggerer, which only its own event loop may use (as in Airflow 3.1)."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.lock = asyncio.Lock()
        self.asked: list[Any] = []

    def send(self, message: Any) -> Any:
        return async_to_sync(self.asend)(message)

    async def asend(self, message: Any) -> Any:
        from airflow.sdk.execution_time import comms

        async with self.lock:
            assert asyncio.get_running_loop() is self.loop
            await asyncio.sleep(0.01)
            self.asked.append(message)
        if isinstance(message, comms.GetTaskStates):
            return comms.TaskStatesResult(task_states={"run": {"a_0": "deferred"}})
        return comms.XComResult(key="job_id", value="5")


@pytest.mark.asyncio
async def test_airflow_is_asked_over_the_channel_of_its_triggerer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.sdk.execution_time import task_runner

    channel = TriggererComms()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", channel, raising=False)
    (found,) = await rounds(UpstreamWatch(interval=0.01), waiter("a"))
    assert found == [Upstream(kind="afterok", name="a[0]", job_id="5", state="deferred")]
    states, job = channel.asked
    assert (states.task_ids, states.run_ids, states.dag_id) == (["a"], ["run"], "dag")
    assert (job.key, job.task_id, job.run_id, job.map_index) == ("job_id", "a", "run", 0)
