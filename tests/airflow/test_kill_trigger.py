"""What a trigger does when it is cancelled: by a user, by a stop, once and again."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.task_state import (
    WANTED_OF_TRIGGER,
    WANTED_OF_WORKER,
    Standing,
    TaskName,
    read_standing,
)
from airflow_provider_csc.triggers import slurm as triggers
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger

if TYPE_CHECKING:
    from collections.abc import Coroutine

TASK = TaskName(dag_id="d", run_id="r", task_id="t", map_index=-1)
MAPPED = TaskName(dag_id="d", run_id="r", task_id="t", map_index=3)


@pytest.mark.parametrize(
    ("states", "task", "standing"),
    [
        ({"r": {"t": "deferred"}}, TASK, Standing.LIVE),
        ({"r": {"t": "failed"}}, TASK, Standing.ENDED),
        ({"r": {"t": None}}, TASK, Standing.ENDED),
        ({"r": {}}, TASK, Standing.ENDED),
        ({}, TASK, Standing.ENDED),
        ({"other": {"t": "deferred"}}, TASK, Standing.ENDED),
        ({"r": {"t_3": "deferred", "t_2": "failed"}}, MAPPED, Standing.LIVE),
        ({"r": {"t_3": "failed", "t_2": "deferred"}}, MAPPED, Standing.ENDED),
    ],
)
def test_a_task_stands_as_its_state_says(
    states: dict[str, dict[str, str | None]], task: TaskName, standing: Standing
) -> None:
    assert read_standing(states, task, live=WANTED_OF_TRIGGER) is standing


def test_a_task_whose_scheduler_died_is_not_ended() -> None:
    """Another scheduler takes its state away, and its job belongs to its next try."""
    assert read_standing({"r": {"t": None}}, TASK, live=WANTED_OF_WORKER) is Standing.LIVE
    assert read_standing({"r": {}}, TASK, live=WANTED_OF_WORKER) is Standing.ENDED


class Kills(SlurmJobTrigger):
    """Waits for ever, and notes what it kills."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(slurm_conn_id="c", job_ids=["1"], run_dir="/r", task_key=TASK, **arguments)
        self.killed = 0
        self.is_slow = False

    async def run(self) -> Any:
        yield await self._wait_for(asyncio.Event().wait)

    async def _get_settings(self) -> Any:
        return None

    async def _kill(self, settings: object, patience: float) -> None:
        if self.is_slow:
            await asyncio.sleep(0.3)
        self.killed += 1


@pytest.fixture
def trigger() -> Kills:
    return Kills()


@pytest.fixture(params=[True, False], ids=["with on_kill", "without"])
def has_on_kill(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(triggers, "_HAS_ON_KILL", request.param)
    return bool(request.param)


def answer(monkeypatch: pytest.MonkeyPatch, standing: Standing) -> None:
    monkeypatch.setattr(triggers, "ask_standing", lambda _task, *, live: standing)


async def as_airflow_does(trigger: Kills, *, has_on_kill: bool) -> None:
    """Run a trigger as the triggerer of either kind does."""
    try:
        async for _event in trigger.run():
            raise AssertionError("it fired")
    except asyncio.CancelledError:
        if has_on_kill:
            await asyncio.wait_for(trigger.on_kill(), 30)
        raise
    finally:
        await trigger.cleanup()


def run_and_cancel(work: Coroutine[Any, Any, None], *, times: int = 1) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(work)
        await asyncio.sleep(0.05)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.05)
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_a_user_who_ended_the_task_kills_once(
    trigger: Kills, has_on_kill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, Standing.ENDED)

    run_and_cancel(as_airflow_does(trigger, has_on_kill=has_on_kill))

    assert trigger.killed == 1


def test_a_kill_goes_on_when_the_trigger_is_cancelled_again(
    trigger: Kills, has_on_kill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Airflow's supervisor repeats the cancellation every second (3.3.2).
    answer(monkeypatch, Standing.ENDED)
    trigger.is_slow = True

    run_and_cancel(as_airflow_does(trigger, has_on_kill=has_on_kill), times=4)

    assert trigger.killed == 1


@pytest.mark.parametrize("standing", [Standing.LIVE, Standing.UNKNOWN])
def test_nothing_is_killed_unless_the_task_was_ended(
    trigger: Kills, has_on_kill: bool, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, standing)

    run_and_cancel(as_airflow_does(trigger, has_on_kill=has_on_kill))

    assert trigger.killed == 0


def test_the_end_of_the_triggerer_kills_nothing_and_asks_nobody(
    trigger: Kills, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "_HAS_ON_KILL", False)
    asked: list[str] = []

    def ask(_task: TaskName, *, live: str) -> Standing:
        asked.append(live)
        return Standing.ENDED

    monkeypatch.setattr(triggers, "ask_standing", ask)

    async def main() -> None:
        task = asyncio.ensure_future(as_airflow_does(trigger, has_on_kill=False))
        await asyncio.sleep(0.05)
        assert not task.done()

    # asyncio.run cancels what is left, as a triggerer does that is told to stop.
    asyncio.run(main())

    assert (trigger.killed, asked) == (0, [])


def test_who_watches_foreign_jobs_has_none_to_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Standing.ENDED)
    trigger = Kills()
    trigger.run_dir = None

    asyncio.run(trigger.on_kill())

    assert trigger.killed == 0


class KillsSubmission(SlurmSiteTrigger):
    """Notes whether it kills."""

    killed = 0

    async def _get_settings(self) -> Any:
        return None

    async def _kill(self, settings: object, patience: float) -> None:
        self.killed += 1


@pytest.mark.parametrize(
    ("state", "killed"),
    [("deferred", 0), ("scheduled", 0), ("queued", 0), ("running", 0), ("failed", 1), (None, 1)],
)
def test_a_submission_that_another_triggerer_woke_is_left_to_its_task(
    state: str | None, killed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A triggerer that was away takes the loss of its triggers for a user's deed (3.3.2)."""

    def ask(task: TaskName, *, live: frozenset[str]) -> Standing:
        return read_standing({"r": {"t": state}}, task, live=live)

    monkeypatch.setattr(triggers, "ask_standing", ask)
    trigger = KillsSubmission(slurm_conn_id="c", token="af0.1", task_key=TASK)

    asyncio.run(trigger.on_kill())

    assert trigger.killed == killed


def test_a_connection_that_cannot_be_read_fails_no_task_that_waits_for_a_site(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its submission may have become a job; and the database may be back in a second."""
    answers: list[Any] = [RuntimeError("the database is away"), "settings"]

    async def read(_hook: object) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def up(_trigger: object, settings: object, _log: object) -> dict[str, object]:
        return {"status": settings}

    monkeypatch.setattr(triggers, "_READ_PAUSES", (0.01,))
    monkeypatch.setattr(triggers.SlurmHook, "aget_settings", read)
    monkeypatch.setattr(SlurmSiteTrigger, "wait", up)

    event = asyncio.run(anext(SlurmSiteTrigger(slurm_conn_id="c", token="af0.1").run()))

    assert event.payload == {"status": "settings"}


def test_the_site_trigger_survives_being_stored() -> None:
    trigger = SlurmSiteTrigger(
        slurm_conn_id="c",
        deadline=1.5,
        reason="away",
        poll_interval=2.0,
        base_dir="/b",
        token="af0.1",
        since=3.0,
        task_key=TASK,
    )

    where, arguments = trigger.serialize()
    again = SlurmSiteTrigger(**json.loads(json.dumps(arguments)))

    assert where == "airflow_provider_csc.triggers.slurm.SlurmSiteTrigger"
    assert again.serialize() == (where, arguments)
    assert set(arguments) == set(inspect.signature(SlurmSiteTrigger).parameters)


def test_a_site_trigger_remembers_since_when_it_waits() -> None:
    first = SlurmSiteTrigger(slurm_conn_id="c")

    assert SlurmSiteTrigger(**first.serialize()[1]).since == first.since
