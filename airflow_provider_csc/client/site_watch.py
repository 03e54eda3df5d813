"""
Wait until a site can take jobs again: one who asks, for all that wait in a process.

It asks over the connection of the site's poller, so that connecting is tried once at a time,
however many tasks are parked.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_provider_csc.client.pauses import backoff_seconds
from airflow_provider_csc.errors import CscError
from airflow_provider_csc.slurm.site_commands import build_site_probe, read_site_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_csc.client.poller import SitePoller, Source
    from airflow_provider_csc.transport.base import SiteSettings

# Looked at more often than a site that does not answer at all: a full directory is made room in.
_FULL_SECONDS = 60.0


@dataclass(eq=False, slots=True)
class _Waiter:
    base_dir: str
    interval: float
    source: Source | None = None
    answer: asyncio.Future[SiteSettings | None] = field(default_factory=asyncio.Future)


class SiteWatch:
    """
    Asks one site until everybody who waits was told that it can take their job.

    The pauses grow while the site is away; while it answers, they are those of who is waiting.
    """

    def __init__(self, poller: Callable[[], SitePoller], settings: SiteSettings) -> None:
        self._poller = poller
        self._settings = settings
        self._waiters: list[_Waiter] = []
        self._task: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()
        self.problem = ""

    async def wait(
        self, base_dir: str, *, interval: float, source: Source | None = None
    ) -> SiteSettings | None:
        """
        Return None when sshd, Slurm and its accounting answer and ``base_dir`` can be written.

        ``source`` is read anew as long as they do not; where it says otherwise by now, that is
        returned: wait on with the watch of these settings.
        """
        async with self._poller().hold():
            waiter = _Waiter(base_dir, interval, source)
            self._waiters.append(waiter)
            self._joined.set()
            if self._task is None or self._task.done():
                # A context of its own: it belongs to no one trigger.
                self._task = asyncio.get_running_loop().create_task(
                    self._run(), context=contextvars.Context(), name="slurm-site-watch"
                )
            try:
                return await waiter.answer
            finally:
                self._waiters.remove(waiter)
                if not self._waiters and self._task is not None:
                    self._task.cancel()
                    self._task = None

    async def _run(self) -> None:
        away = full = 0
        try:
            while waiters := self._waiting():
                self._joined.clear()
                is_well = await self._ask(waiters)
                await self._reload()
                left = self._waiting()
                shortest = min(one.interval for one in left or waiters)
                if not is_well:
                    away, full = away + 1, 0
                    await asyncio.sleep(backoff_seconds(away, shortest))
                    continue
                away, full = 0, 1 if len(left) < len(waiters) else full + 1
                shortest = min(shortest, _FULL_SECONDS)
                longest = min(backoff_seconds(full, shortest), _FULL_SECONDS)
                if await self._rest(shortest, longest):
                    full = 0
        except Exception as error:  # noqa: BLE001 - those who wait must hear of it, whatever it is
            for waiter in self._waiting():
                waiter.answer.set_exception(error)

    def _waiting(self) -> list[_Waiter]:
        return [one for one in self._waiters if not one.answer.done()]

    async def _rest(self, shortest: float, longest: float) -> bool:
        """Pause while the site is well; one who joins shortens it. Tell whether anybody did."""
        await asyncio.sleep(shortest)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest - shortest):
                await self._joined.wait()
        return self._joined.is_set()

    async def _ask(self, waiters: Sequence[_Waiter]) -> bool:
        """Answer those whose wait is over; tell whether the site itself is well."""
        base_dirs = sorted({waiter.base_dir for waiter in waiters})
        try:
            frames = await self._poller().client.ask(build_site_probe(base_dirs))
        except CscError as error:
            self.problem = error.message
            return False
        answer = read_site_probe(frames, base_dirs)
        problems = {path: answer.problem_with(path) for path in base_dirs}
        self.problem = "; ".join(sorted(set(filter(None, problems.values()))))
        for waiter in waiters:
            if not problems[waiter.base_dir] and not waiter.answer.done():
                waiter.answer.set_result(None)
        return not answer.slurm

    async def _reload(self) -> None:
        """Send those who still wait to the watch of their connection, where that was changed."""
        from airflow_provider_csc.client.poller import read_if_changed

        waiting = self._waiting()
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
    from airflow_provider_csc.client.poller import poller_for

    on_loop = _watches.setdefault(asyncio.get_running_loop(), {})
    if settings not in on_loop:
        # Asked for anew each time: a poller that nobody used any more was forgotten.
        on_loop[settings] = SiteWatch(lambda: poller_for(settings), settings)
    return on_loop[settings]
