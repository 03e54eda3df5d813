"""
One listing per store, bucket and prefix of an event loop, for all who wait for objects there.

What they wait for may differ: each is shown every page, keeps what concerns it, and decides for
itself, in its own task and so with its own log. The listing begins with the first and ends with the
last.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from airflow_provider_csc.client.pauses import backoff_seconds
from airflow_provider_csc.client.turns import Turns
from airflow_provider_csc.errors import StoreAwayError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from airflow_provider_csc.allas.objects import KeyPattern, StoredObject
    from airflow_provider_csc.transport.object_store import ObjectStore

_FLOOR_SECONDS = 1.0


class Log(Protocol):
    """What is needed of a logger, be it Airflow's or the standard library's."""

    def log(self, level: int, message: str, /, *args: object) -> object:
        """Log at a level of `logging`."""


class Look(Protocol):
    """One who waits: is shown listings, page by page, and never two at once."""

    @property
    def exact(self) -> str | None:
        """The one key that concerns it, if it is one."""

    def begin(self) -> None:
        """Begin with a listing; what was shown of one before counts no more."""

    def see(self, objects: Iterable[StoredObject]) -> None:
        """Take in a page."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A listing is complete; ``clock`` is the store's (seconds since 1970)."""

    clock: float


@dataclass(frozen=True, slots=True)
class Away:
    """The store was not there; it is tried again, after growing pauses."""

    reason: str


Outcome = Listed | Away


@dataclass(eq=False, slots=True)
class _Watcher:
    look: Look
    interval: float
    # While it is occupied with an outcome, there is no future.
    answer: asyncio.Future[Outcome] | None = None
    error: Exception | None = None

    @property
    def is_ready(self) -> bool:
        return self.answer is not None and not self.answer.done()

    def put(self, outcome: Outcome | Exception) -> None:
        if self.answer is None or self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


@dataclass(eq=False, slots=True)
class _Round:
    """The watchers of one listing, and what went wrong with showing it to some of them."""

    watchers: list[_Watcher]
    turns: Turns = field(default_factory=Turns)

    def begin(self) -> None:
        for watcher in self.watchers:
            self._call(watcher, watcher.look.begin)

    async def show(self, watchers: Iterable[_Watcher], objects: Sequence[StoredObject]) -> None:
        for watcher in watchers:
            self._call(watcher, partial(watcher.look.see, objects))
            if self.turns.is_over:
                await self.turns.give()

    def _call(self, watcher: _Watcher, method: Callable[[], None]) -> None:
        try:
            method()
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
            watcher.put(error)


class PrefixPoller:
    """Lists what begins with one prefix, once per interval, for all who wait."""

    def __init__(
        self,
        store: ObjectStore,
        bucket: str,
        prefix: str,
        *,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._prefix = prefix
        self._on_idle = on_idle
        self._watchers: list[_Watcher] = []
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._failures = 0
        self._away: Away | None = None
        # How many requests the listing took when it was last made as a whole.
        self._pages = 1

    async def watch(self, look: Look, *, interval: float) -> AsyncGenerator[Outcome, None]:
        """
        Yield what became of each listing, the first of which is made at once.

        A listing that is made while this generator is not asked for more is not shown to ``look``.
        Raises StoreRefusedError where asking again cannot help.
        """
        watcher = _Watcher(look, interval)
        self._watchers.append(watcher)
        try:
            # The next attempt may be minutes away.
            if self._away is not None:
                yield self._away
            while True:
                watcher.answer = asyncio.get_running_loop().create_future()
                self._start()
                outcome = await watcher.answer
                watcher.answer = None
                yield outcome
        finally:
            self._watchers.remove(watcher)
            if not self._watchers:
                await self._stop()

    def _start(self) -> None:
        self._wake.set()
        if self._task is None or self._task.done():
            # A context of its own: Airflow routes log records by context variables, and this task
            # belongs to no one trigger.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), context=contextvars.Context(), name="allas-prefix-poller"
            )

    async def _stop(self) -> None:
        self._on_idle()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        served: dict[_Watcher, float] = {}
        while self._watchers:
            self._wake.clear()
            now = time.monotonic()
            ready = [one for one in self._watchers if one.is_ready]
            due = min((served.get(one, 0.0) + one.interval for one in ready), default=None)
            if due is None or (due > now and not any(one not in served for one in ready)):
                await self._sleep(None if due is None else due - now)
                continue
            await self._round(ready)
            took = time.monotonic() - now
            served = dict.fromkeys(ready, now) | {
                one: at for one, at in served.items() if one in self._watchers and one not in ready
            }
            pause = backoff_seconds(self._failures, self._shortest) if self._failures else 0.0
            # Nobody who comes in between makes these shorter, or newcomers would have it listed
            # without end.
            await asyncio.sleep(max(pause, took, _FLOOR_SECONDS))

    @property
    def _shortest(self) -> float:
        return max(min((one.interval for one in self._watchers), default=0.0), _FLOOR_SECONDS)

    async def _sleep(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _round(self, watchers: list[_Watcher]) -> None:
        outcome: Outcome | Exception
        try:
            outcome = Listed(await self._list(_Round(watchers)))
            self._failures, self._away = 0, None
        except StoreAwayError as error:
            self._failures += 1
            outcome = self._away = Away(error.message)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
            outcome = error
        for watcher in watchers:
            watcher.put(outcome)

    async def _list(self, listing: _Round) -> float:
        """Show a listing to all of them; return the store's time before it began."""
        listing.begin()
        names = {one.look.exact for one in listing.watchers}
        if None not in names and len(names) <= self._pages:
            return await self._ask_singly(listing, [name for name in names if name is not None])
        clock, token, pages = None, None, 0
        while pages == 0 or token is not None:
            page = await self._store.list_page(self._bucket, self._prefix, token=token)
            clock = page.clock if clock is None else clock
            token, pages = page.next_token, pages + 1
            await listing.show(listing.watchers, page.objects)
        self._pages = pages
        return clock or 0.0

    async def _ask_singly(self, listing: _Round, names: Sequence[str]) -> float:
        """List the keys themselves, of which a listing's first would be the one that is meant."""
        clock = float("inf")
        for name in names:
            page = await self._store.list_page(self._bucket, name, limit=1)
            clock = min(clock, page.clock)
            concerned = (one for one in listing.watchers if one.look.exact == name)
            await listing.show(concerned, page.objects)
        return clock


_Key = tuple[str, str, str]
_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, PrefixPoller]] = (
    WeakKeyDictionary()
)


def listing_of(store: ObjectStore, bucket: str, pattern: KeyPattern) -> PrefixPoller:
    """Return the poller for a pattern on the running event loop; equal prefixes share one."""
    on_loop = _pollers.setdefault(asyncio.get_running_loop(), {})
    key = (store.identity, bucket, pattern.prefix)
    if key not in on_loop:

        def forget() -> None:
            # One that was used again after its end is not the one that is known by now.
            if on_loop.get(key) is poller:
                del on_loop[key]

        poller = PrefixPoller(store, bucket, pattern.prefix, on_idle=forget)
        on_loop[key] = poller
    return on_loop[key]
