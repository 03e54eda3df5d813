"""Waits that have an end, so that what hangs is a failure; none of them says what is fast enough."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Value = TypeVar("Value")

HANG_SECONDS = 120.0


def wait_until(
    condition: Callable[[], object], seconds: float = HANG_SECONDS, *, pause: float = 0.2
) -> None:
    """Look again and again until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(pause)


def as_soon_as(condition: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Do something in a thread when something is so."""

    def wait() -> None:
        wait_until(condition, pause=0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def unless_it_hangs(work: Callable[[], Value], seconds: float = HANG_SECONDS) -> Value:
    """Return what ``work`` returns, or raise what it raises; it is done in a thread."""
    done: Future[Value] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(seconds)


@dataclass
class Heartbeat:
    """
    An event loop's, by which other threads see that it comes round while they work.

    ``met`` are the names of the works it was seen beside, ``missed`` of those that kept it waiting.
    """

    met: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    _count: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beat on the running loop."""
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beating.cancel()

    def beside(self, name: str, work: Callable[..., Value]) -> Callable[..., Value]:
        """Return ``work`` as it ends only when the loop has come round thrice beside it."""

        @functools.wraps(work)
        def do(*arguments: Any, **more: Any) -> Value:
            value = work(*arguments, **more)
            (self.met if self._goes_on() else self.missed).add(name)
            return value

        return do

    async def _beat(self) -> None:
        while True:
            with self._changed:
                self._count += 1
                self._changed.notify_all()
            await asyncio.sleep(0.01)

    def _goes_on(self) -> bool:
        with self._changed:
            end = self._count + 3
            # On the loop's own thread this is in vain.
            return self._changed.wait_for(lambda: self._count >= end, timeout=20)
