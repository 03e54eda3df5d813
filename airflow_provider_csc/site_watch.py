"""
Wait until a site can take jobs again: one who asks, for all that wait in a process.

It asks over the connection of the site's poller, so that connecting is tried once at a time,
however many tasks are parked.
"""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_provider_csc.errors import CscError
from airflow_provider_csc.slurm.site_commands import build_site_probe, read_site_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_csc.poller import SitePoller, Source
    from airflow_provider_csc.transport.base import SiteSettings


@dataclass(eq=False, slots=True)
class _Waiter:
    base_dir: str
    interval: float
    source: Source | None = None
    answer: asyncio.Future[SiteSettings | None] = field(default_factory=asyncio.Future)


class SiteWatch:
    """Asks one site, with growing pauses, until it answers everybody who waits."""

    def __init__(self, poller: Callable[[], SitePoller], settings: SiteSettings) -> None:
        self._poller = poller
        self._settings = settings
        self._waiters: list[_Waiter] = []
        self._task: asyncio.Task[None] | None = None
        self.problem = ""

    async def wait(
        self, base_dir: str, *, interval: float, source: Source | None = None
    ) -> SiteSettings | None:
        """
        Return None when sshd, Slurm and its accounting answer and ``base_dir`` can be written.

        ``source`` is read anew as long as they do not; where it says otherwise by now, that is
        returned: wait on with the watch of these settings.
        """
        waiter = _Waiter(base_dir, interval, source)
        self._waiters.append(waiter)
        if self._task is None or self._task.done():
            # A context of its own: it belongs to no one trigger.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), context=contextvars.Context(), name="slurm-site-watch"
            )
        try:
            return await waiter.answer
        finally:
            self._waiters.remove(waiter)
            # The poller's connection is left to the poller: the last who watches jobs closes it.
            if not self._waiters and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        from airflow_provider_csc.poller import backoff_seconds

        failures = 0
        try:
            while waiters := [one for one in self._waiters if not one.answer.done()]:
                if failures:
                    shortest = min(waiter.interval for waiter in waiters)
                    await asyncio.sleep(backoff_seconds(failures, shortest))
                await self._ask(list(self._waiters))
                await self._reload()
                failures += 1
        except Exception as error:  # noqa: BLE001 - those who wait must hear of it, whatever it is
            for waiter in self._waiters:
                if not waiter.answer.done():
                    waiter.answer.set_exception(error)

    async def _ask(self, waiters: Sequence[_Waiter]) -> None:
        base_dirs = sorted({waiter.base_dir for waiter in waiters})
        try:
            frames = await self._poller().client.ask(build_site_probe(base_dirs))
        except CscError as error:
            self.problem = error.message
            return
        problems = read_site_probe(frames, base_dirs)
        self.problem = "; ".join(sorted(set(filter(None, problems.values()))))
        for waiter in waiters:
            if not problems[waiter.base_dir] and not waiter.answer.done():
                waiter.answer.set_result(None)

    async def _reload(self) -> None:
        """Send those who still wait to the watch of their connection, where that was changed."""
        from airflow_provider_csc.poller import read_if_changed

        waiting = [one for one in self._waiters if not one.answer.done()]
        for source in {one.source for one in waiting if one.source}:
            settings = await read_if_changed(source, self._settings)
            for waiter in waiting:
                if settings is not None and waiter.source == source and not waiter.answer.done():
                    waiter.answer.set_result(settings)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[SiteSettings, SiteWatch]] = (
    WeakKeyDictionary()
)


def watch_for(settings: SiteSettings) -> SiteWatch:
    """Return the watch of a site on the running event loop; equal settings share one."""
    from airflow_provider_csc.poller import poller_for

    on_loop = _watches.setdefault(asyncio.get_running_loop(), {})
    if settings not in on_loop:
        # Asked for anew each time: a poller that nobody used any more was forgotten.
        on_loop[settings] = SiteWatch(lambda: poller_for(settings), settings)
    return on_loop[settings]
