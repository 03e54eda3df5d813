"""Async work from code that is not async: what ends the one ends the other."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.sync import run_sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Expired(BaseException):
    """As Airflow's AirflowTaskTimeout, raised in a signal handler."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise Expired

    before = signal.signal(signal.SIGUSR1, expire)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.asyncio
async def test_it_returns_what_the_work_returns_also_while_a_loop_runs() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("of the caller")

    async def work() -> str:
        await asyncio.sleep(0)
        return variable.get()

    assert run_sync(work()) == "of the caller"


def test_it_raises_what_the_work_raises() -> None:
    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_sync(work())


@pytest.mark.usefixtures("alarm")
def test_a_timeout_is_never_lost_in_a_callback_of_the_loop() -> None:
    """An event loop logs what its callbacks raise, whatever it is, and goes on."""
    seen: list[str] = []

    def ring() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        # The signal comes out of whatever the main thread executes: the loop, if it ran there.
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass

    async def work() -> None:
        asyncio.get_running_loop().call_soon(ring)
        try:
            await asyncio.sleep(10)
            seen.append("to its end")
        finally:
            seen.append("cleaned up")

    with pytest.raises(Expired):
        run_sync(work())
    assert seen == ["cleaned up"]
