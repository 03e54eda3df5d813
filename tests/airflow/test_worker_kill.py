"""A worker's SIGTERM: a kill when somebody ended the task, and nothing when it is merely stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_csc import worker_kill
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.task_state import Standing, TaskName
from airflow_provider_csc.worker_kill import KillOrder, await_kill, kill_from_worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

TASK = TaskName(dag_id="d", run_id="r", task_id="t", map_index=-1)
ORDER = KillOrder(conn_id="slurm_default", task=TASK, job_id="1")
LOG = logging.getLogger("test")


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    orders: list[object] = []

    async def note(self: worker_kill._WorkerKill, _settings: object) -> None:
        orders.append(self.order)

    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", "slurm://somewhere")
    monkeypatch.setattr(worker_kill._WorkerKill, "_carry_out", note)
    return orders


@pytest.fixture
def handler() -> Iterator[None]:
    """SIGTERM is handled, as in a worker: its handler may be what calls."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


def answer(monkeypatch: pytest.MonkeyPatch, standing: Standing) -> None:
    monkeypatch.setattr(worker_kill, "ask_standing", lambda _task, *, live: standing)


def test_a_click_kills(monkeypatch: pytest.MonkeyPatch, killed: list[object]) -> None:
    answer(monkeypatch, Standing.ENDED)

    assert kill_from_worker(ORDER, LOG) is Standing.ENDED
    assert killed == [ORDER]


def test_a_worker_that_is_stopped_leaves_the_job_alone(
    monkeypatch: pytest.MonkeyPatch, killed: list[object]
) -> None:
    answer(monkeypatch, Standing.LIVE)

    assert kill_from_worker(ORDER, LOG) is Standing.LIVE
    assert killed == []


def test_an_airflow_that_does_not_answer_leaves_the_job_alone(
    monkeypatch: pytest.MonkeyPatch, killed: list[object]
) -> None:
    answer(monkeypatch, Standing.UNKNOWN)

    assert kill_from_worker(ORDER, LOG) is Standing.UNKNOWN

    assert killed == []


@pytest.mark.usefixtures("handler")
def test_a_task_that_sees_its_job_end_leaves_the_kill_its_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    confirmed = threading.Event()
    said: list[str] = []

    async def confirm(_self: worker_kill._WorkerKill, _settings: object) -> None:
        await asyncio.to_thread(confirmed.wait, 10)
        said.append("confirmed")

    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", "slurm://somewhere")
    monkeypatch.setattr(worker_kill._WorkerKill, "_carry_out", confirm)
    monkeypatch.setattr(worker_kill, "_LOCKED_SECONDS", 0.05)
    monkeypatch.setattr(worker_kill, "_WORK_SECONDS", 0.05)
    answer(monkeypatch, Standing.ENDED)
    assert kill_from_worker(ORDER, LOG) is Standing.ENDED

    await_kill("2")
    await_kill(None)
    assert not said
    threading.Timer(0.2, confirmed.set).start()
    await_kill("1")
    assert said == ["confirmed"]
    await_kill("1")


def expire() -> None:
    raise AirflowTaskTimeout


def test_execution_timeout_kills_a_task_that_counts_as_running(
    monkeypatch: pytest.MonkeyPatch, killed: list[object]
) -> None:
    answer(monkeypatch, Standing.LIVE)

    try:
        expire()
    except AirflowTaskTimeout:
        assert kill_from_worker(ORDER, LOG) is Standing.ENDED

    assert killed == [ORDER]


def test_before_there_is_anything_to_kill_nothing_is_known(killed: list[object]) -> None:
    """The task goes on, and asks again when it has a name for its submission."""
    order = KillOrder(conn_id="slurm_default")

    assert kill_from_worker(order, LOG) is Standing.UNKNOWN
    assert killed == []


@pytest.mark.usefixtures("handler")
def test_a_timeout_kills_beside_a_question_that_is_still_open(
    monkeypatch: pytest.MonkeyPatch, killed: list[object]
) -> None:
    answered = threading.Event()

    def ask(_task: TaskName, *, live: str) -> Standing:
        answered.wait(10)
        return Standing.LIVE

    monkeypatch.setattr(worker_kill, "ask_standing", ask)
    monkeypatch.setattr(worker_kill, "_LOCKED_SECONDS", 0.05)
    assert kill_from_worker(ORDER, LOG) is Standing.UNKNOWN

    try:
        expire()
    except AirflowTaskTimeout:
        assert kill_from_worker(ORDER, LOG) is Standing.ENDED
    answered.set()

    assert killed == [ORDER]


@pytest.mark.usefixtures("handler")
def test_a_slow_machine_does_not_cut_the_kill_that_execution_timeout_asks_for(
    monkeypatch: pytest.MonkeyPatch, killed: list[object]
) -> None:
    """The process ends when on_kill returns, and with it a thread that nobody waits for."""

    def slowly(_hook: SlurmHook) -> None:
        time.sleep(0.5)

    monkeypatch.setattr(SlurmHook, "get_settings", slowly)
    monkeypatch.setattr(worker_kill, "_LOCKED_SECONDS", 0.05)

    try:
        expire()
    except AirflowTaskTimeout:
        assert kill_from_worker(ORDER, LOG) is Standing.ENDED

    assert killed == [ORDER]


@pytest.mark.usefixtures("handler")
def test_a_lock_that_the_main_thread_holds_does_not_stop_both(
    monkeypatch: pytest.MonkeyPatch, killed: list[object]
) -> None:
    lock = threading.Lock()

    def ask(_task: TaskName, *, live: str) -> Standing:
        with lock:
            return Standing.ENDED

    monkeypatch.setattr(worker_kill, "ask_standing", ask)
    monkeypatch.setattr(worker_kill, "_LOCKED_SECONDS", 0.2)

    with lock:
        assert kill_from_worker(ORDER, LOG) is Standing.UNKNOWN
        assert killed == []
    end = time.monotonic() + 10
    while not killed:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_task_at_its_end_waits_for_a_kill_that_was_kept_waiting(
    monkeypatch: pytest.MonkeyPatch, killed: list[object]
) -> None:
    """It would exit, and the kill with it."""
    lock = threading.Lock()
    calls: list[Standing] = []

    def ask(_task: TaskName, *, live: str) -> Standing:
        with lock:
            return Standing.ENDED

    async def slowly(self: worker_kill._WorkerKill, _settings: object) -> None:
        await asyncio.sleep(0.5)
        killed.append(self.order)

    def on_kill(_signal: int, _frame: FrameType | None) -> None:
        calls.append(kill_from_worker(ORDER, LOG))

    monkeypatch.setattr(worker_kill, "ask_standing", ask)
    monkeypatch.setattr(worker_kill, "_LOCKED_SECONDS", 0.1)
    monkeypatch.setattr(worker_kill._WorkerKill, "_carry_out", slowly)
    before = signal.signal(signal.SIGTERM, on_kill)
    try:
        with lock:
            os.kill(os.getpid(), signal.SIGTERM)
            assert set(calls) == {Standing.UNKNOWN}
        time.sleep(0.2)  # what a task still does; it is called back within this time
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (calls[-1], killed) == (Standing.ENDED, [ORDER])
