"""Run async work from code that is not async."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from contextvars import copy_context
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

Value = TypeVar("Value")

_START_SECONDS = 5
_LOOK_SECONDS = 0.001
_LONGEST_LOOK_SECONDS = 0.05


def run_sync(work: Coroutine[Any, Any, Value]) -> Value:
    """
    Run a coroutine in an event loop of a thread of its own, also while a loop runs (a notebook).

    Airflow raises ``AirflowTaskTimeout`` in a signal handler. In the main thread that could come
    out of any callback of the loop, which swallows it; here it finds a thread that only waits.
    Whatever ends the wait cancels the coroutine.
    """
    loop = _LoopThread(work)
    try:
        loop.start()
        loop.wait()
    except BaseException:
        loop.cancel()
        raise
    return loop.result()


class _LoopThread(Thread, Generic[Value]):
    """Its results are plain lists, which nobody who is interrupted can leave locked."""

    def __init__(self, work: Coroutine[Any, Any, Value]) -> None:
        super().__init__(name="slurm", daemon=True)
        self._work = work
        self._context = copy_context()
        self._entered: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
        self._values: list[Value] = []
        self._errors: list[BaseException] = []

    def run(self) -> None:
        """Run the coroutine, in the context of who made this."""
        try:
            self._values.append(self._context.run(asyncio.run, self._enter()))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            self._errors.append(error)

    async def _enter(self) -> Value:
        if task := asyncio.current_task():
            self._entered.append((asyncio.get_running_loop(), task))
        return await self._work

    def wait(self) -> None:
        """Wait until it is over."""
        pause = _LOOK_SECONDS
        while not (self._values or self._errors):
            # Not `join`: where a signal handler raises out of it, the thread counts as stopped
            # (bpo-45274); and a signal that another thread is given does not wake it.
            time.sleep(pause)  # noqa: TID251
            pause = min(2 * pause, _LONGEST_LOOK_SECONDS)

    def result(self) -> Value:
        """Return what the coroutine returned, or raise what it raised."""
        if self._errors:
            raise self._errors[0]
        return self._values[0]

    def cancel(self) -> None:
        """Cancel it and wait for its end; perhaps its start was interrupted."""
        end = time.monotonic() + _START_SECONDS
        while not (self._entered or self._errors) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)  # noqa: TID251 - as above
        if not self._entered:
            self._work.close()
            return
        ((loop, task),) = self._entered
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(task.cancel)
        self.wait()
