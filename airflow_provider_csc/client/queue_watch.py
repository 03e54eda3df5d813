"""
Wait until there is room in the queue: one who asks, for all of a process that wait for one limit.

Those who wait are let go in the order in which they came, and only as many as fit: who was let go
counts as queued until its job is seen, or some time has passed.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_provider_csc.client.pauses import backoff_seconds
from airflow_provider_csc.errors import CscError
from airflow_provider_csc.slurm.queue_limits import (
    build_queue_probe,
    find_room,
    read_limits,
    read_tokens,
    relevant_limits,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_csc.client.poller import SitePoller, Source
    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.slurm.queue_limits import QueueLimit, QueueScope
    from airflow_provider_csc.transport.base import SiteSettings

# From being let go to the job's being in the queue: the scheduler, a worker, a log-in.
_COMING_SECONDS = 120.0
# Not all who were let go log in in the same instant (seconds).
_JITTER_SECONDS = 3.0


async def ask_limits(client: SlurmClient, scope: QueueScope) -> tuple[QueueLimit, ...]:
    """
    Return the limits on jobs in the queue that hold for a submission, with what is queued.

    :raises TransportError: when the site cannot be reached.
    """
    return read_limits(await client.ask(build_queue_probe(scope)), scope)


@dataclass(eq=False, slots=True)
class _Waiter:
    since: float
    needed: int
    token: str
    interval: float
    source: Source | None = None
    answer: asyncio.Future[SiteSettings | None] = field(default_factory=asyncio.Future)


@dataclass(frozen=True, slots=True)
class _Coming:
    """One who was let go, and of whose job nothing is known yet."""

    token: str
    needed: int
    until: float


class QueueWatch:
    """Asks one site about one limit until everybody who waits was let go."""

    def __init__(
        self, poller: Callable[[], SitePoller], settings: SiteSettings, scope: QueueScope
    ) -> None:
        self._poller = poller
        self._settings = settings
        self._scope = scope
        self._waiters: list[_Waiter] = []
        self._coming: list[_Coming] = []
        self._task: asyncio.Task[None] | None = None
        self.problem = ""
        self.last: QueueLimit | None = None

    async def wait(
        self,
        *,
        since: float,
        needed: int,
        token: str,
        interval: float,
        source: Source | None = None,
    ) -> SiteSettings | None:
        """
        Return None when there is room and it is one's turn; settings where they were changed.

        ``since`` (seconds since 1970) is one's place in the line, ``token`` what the name of the
        job will end with, ``interval`` the least seconds between two questions.
        """
        async with self._poller().hold():
            waiter = _Waiter(since, needed, token, interval, source)
            self._waiters.append(waiter)
            self._waiters.sort(key=lambda one: one.since)
            if self._task is None or self._task.done():
                # A context of its own: it belongs to no one trigger.
                self._task = asyncio.get_running_loop().create_task(
                    self._run(), context=contextvars.Context(), name="slurm-queue-watch"
                )
            try:
                changed = await waiter.answer
                if changed is None:
                    await asyncio.sleep(random.uniform(0, min(_JITTER_SECONDS, interval)))  # noqa: S311 - no secret
                return changed
            finally:
                self._waiters.remove(waiter)
                if not self._waiting() and self._task is not None:
                    self._task.cancel()
                    self._task = None

    def place_of(self, token: str) -> int:
        """Return how many wait before one."""
        tokens = [one.token for one in self._waiting()]
        return tokens.index(token) if token in tokens else 0

    def _waiting(self) -> list[_Waiter]:
        return [one for one in self._waiters if not one.answer.done()]

    async def _run(self) -> None:
        still = 0
        try:
            while waiters := self._waiting():
                is_known = await self._ask(waiters)
                left = self._waiting()
                await self._reload(left)
                still = 0 if is_known and len(left) < len(waiters) else still + 1
                shortest = min(one.interval for one in waiters)
                # What fills a queue are jobs: room comes at any time, but rarely at once.
                grown = backoff_seconds(max(still, 1), shortest)
                await asyncio.sleep(grown if not is_known else min(grown, 4 * shortest))
        except Exception as error:  # noqa: BLE001 - those who wait must hear of it, whatever it is
            for waiter in self._waiting():
                waiter.answer.set_exception(error)

    async def _ask(self, waiters: Sequence[_Waiter]) -> bool:
        """Let go who fits; tell whether the site told how many those are."""
        now = time.monotonic()
        self._coming = [one for one in self._coming if one.until > now]
        tokens = [one.token for one in self._coming]
        program = build_queue_probe(self._scope, tokens, self._settings.work_dir)
        try:
            frames = await self._poller().client.ask(program)
        except CscError as error:
            self.problem = error.message
            return False
        seen = read_tokens(frames)
        self._coming = [one for one in self._coming if one.token not in seen]
        limits = read_limits(frames, self._scope)
        room = find_room(self._scope, limits, sum(one.needed for one in self._coming))
        self.problem = "" if room is not None else "the site does not tell how full its queue is"
        self.last = min(
            (one for one in relevant_limits(limits, self._scope.code) if one.queued is not None),
            key=lambda one: one.room(0) or 0,
            default=None,
        )
        # Where nothing is known one at a time finds out.
        self._let_go(waiters, waiters[0].needed if room is None else room)
        return room is not None

    def _let_go(self, waiters: Sequence[_Waiter], room: int) -> None:
        until = time.monotonic() + _COMING_SECONDS
        for waiter in waiters:
            if waiter.answer.done():
                continue
            if waiter.needed > room:
                return
            room -= waiter.needed
            self._coming.append(_Coming(waiter.token, waiter.needed, until))
            waiter.answer.set_result(None)

    async def _reload(self, waiting: Sequence[_Waiter]) -> None:
        """Send those who still wait to the watch of their connection, where that was changed."""
        from airflow_provider_csc.client.poller import read_if_changed

        if not self.problem:
            return
        for source in {one.source for one in waiting if one.source}:
            settings = await read_if_changed(source, self._settings)
            for waiter in waiting:
                if settings is not None and waiter.source == source and not waiter.answer.done():
                    waiter.answer.set_result(settings)


_Key = tuple["SiteSettings", "QueueScope"]
_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, QueueWatch]] = WeakKeyDictionary()


def queue_watch_for(settings: SiteSettings, scope: QueueScope) -> QueueWatch:
    """Return the watch of a site's limit on the running event loop; equal ones share it."""
    from airflow_provider_csc.client.poller import poller_for

    on_loop = _watches.setdefault(asyncio.get_running_loop(), {})
    # How much one of them needs is no matter of the limit.
    key = settings, replace(scope, needed=1)
    if key not in on_loop:
        on_loop[key] = QueueWatch(lambda: poller_for(settings), settings, key[1])
    return on_loop[key]
