"""What a trigger finds at once it tells only when the scheduler knows that its task waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.triggers import _settling
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from airflow_provider_csc.triggers.slurm_dependency import SlurmDependencyTrigger
from airflow_provider_csc.triggers.slurm_queue import SlurmQueueTrigger
from airflow_provider_csc.triggers.slurm_submit import SlurmSubmitTrigger

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that were asked for; a minute passes with the work."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    clock = iter([1000.0, 1060.0])
    monkeypatch.setattr(_settling.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(_settling.asyncio, "sleep", sleep)
    return pauses


async def find() -> str:
    return "ended"


@pytest.mark.parametrize(("least", "pause"), [(70.0, 10.0), (60.0, 0.0), (10.0, -50.0)])
def test_an_event_waits_for_the_rest_of_the_first_seconds(
    least: float, pause: float, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_settling, "SETTLE_SECONDS", least)
    coroutine = _settling.settled(find)
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    assert caught.value.value == "ended"
    assert slept == [pause]


def test_what_cannot_be_found_out_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_settling, "SETTLE_SECONDS", 1e6)

    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(_settling.settled(fail))


TRIGGERS = [
    SlurmJobTrigger(slurm_conn_id="c", job_ids=["1"]),
    SlurmSiteTrigger(slurm_conn_id="c"),
    SlurmQueueTrigger(slurm_conn_id="c"),
    SlurmSubmitTrigger(slurm_conn_id="c", plan={}, watch={}),
    SlurmDependencyTrigger(dag_id="d", run_id="r", links=[]),
]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: type(trigger).__name__)
def test_no_trigger_brings_its_task_back_at_once(
    trigger: BaseTrigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def follow(*_: object) -> Any:
        found.set()
        return {}

    async def look() -> None:
        run = asyncio.ensure_future(anext(trigger.run()))
        await found.wait()
        await asyncio.sleep(0.05)
        assert not run.done()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await trigger.cleanup()

    found = asyncio.Event()
    monkeypatch.setattr(_settling, "SETTLE_SECONDS", 1e6)
    monkeypatch.setattr(trigger, "_follow", follow)
    monkeypatch.setattr(trigger, "wait", follow, raising=False)
    asyncio.run(look())
