"""
One poller per site and event loop: one connection and one batched query serve all who wait.

Operators, sensors and whatever else waits in a process call `poller_for` and `SitePoller.watch`;
the poller starts with its first watcher and closes with its last.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    CscError,
    SlurmError,
    UnreadableOutputError,
)
from airflow_provider_csc.slurm.answers import Answers
from airflow_provider_csc.slurm.array_tracking import make_tracker
from airflow_provider_csc.slurm.commands import PollRequest
from airflow_provider_csc.slurm.events import Ended, Event, Moment, Note
from airflow_provider_csc.slurm.parking import Outage
from airflow_provider_csc.slurm.tracking import WatchSpec
from airflow_provider_csc.transport.ssh import SshTransport

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
        Sequence,
    )

    from airflow_provider_csc.slurm.tracking import JobTracker
    from airflow_provider_csc.transport.base import SiteSettings

_log = logging.getLogger(__name__)
# A tracker keeps its name when it goes on with another poller.
_names = (f"w{number}" for number in itertools.count())

_MAX_BACKOFF_SECONDS = 300.0
_MAX_FOLLOW_UPS = 200
_MAX_FOLLOW_UPS_RUNNING = 16
_WRITE_SECONDS = 10.0
# What merely begins an outage, or happens within one, beside what keeps the site away.
_PASSING = (ConnectionLostError, CommandTimeoutError, UnreadableOutputError)
# Long enough for every watcher on the loop to pass its lines on before they are acknowledged.
_DELIVERY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Source:
    """An Airflow connection, by its id, and how to read it; read anew, it may say otherwise."""

    conn_id: str
    read: Callable[[], Awaitable[SiteSettings]] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Moved:
    """The connection was changed during an outage: have these settings' poller go on with this."""

    settings: SiteSettings
    tracker: JobTracker


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events for one watcher, and how far its logs are shown once it has taken them."""

    events: Sequence[Event | Moved]
    offsets: str


@dataclass(slots=True)
class _Watcher:
    tracker: JobTracker
    interval: float
    source: Source | None = None
    batches: asyncio.Queue[_Batch | BaseException] = field(default_factory=asyncio.Queue)
    ended: Ended | None = None

    @property
    def verdict(self) -> tuple[tuple[str, str], ...]:
        """What to write down about the end that was taken, where there is a place for it."""
        run_dir = self.tracker.spec.run_dir
        # A job that was found by its name alone has none.
        if self.ended is None or not run_dir:
            return ()
        return ((run_dir, " ".join(result.noted for result in self.ended.results)),)

    def observe(self, answers: Answers) -> None:
        """Take in an answer; what goes wrong with it here is no other watcher's business."""
        try:
            self.deliver(self.tracker.observe(answers, _now()))
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
            self.batches.put_nowait(error)

    def deliver(self, events: list[Event]) -> None:
        """Hand events over; the watcher takes them in its own task and log context."""
        if events:
            self.batches.put_nowait(_Batch(events, self.tracker.logs.offsets))


class SitePoller:
    """Asks one site about all watched jobs, once per interval, over one connection."""

    def __init__(
        self,
        client: SlurmClient,
        *,
        floor: float,
        on_idle: Callable[[], None] = lambda: None,
        settings: SiteSettings | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._floor = floor
        self._on_idle = on_idle
        self._watchers: dict[str, _Watcher] = {}
        # Those who use the connection without watching; nobody may close it on them.
        self._holders = 0
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        # What is still to be written into the run directories of those who left.
        self._leaving = PollRequest()
        self._wake = asyncio.Event()
        self._failures = 0
        self._vain_rounds = 0
        self._outage: Outage | None = None

    @property
    def client(self) -> SlurmClient:
        """The client whose connection the watchers share."""
        return self._client

    async def watch(
        self, watched: WatchSpec | JobTracker, *, interval: float, source: Source | None = None
    ) -> AsyncGenerator[Event | Moved, None]:
        """
        Yield what happens to some jobs; the last event is `Ended`, or `Moved`.

        A tracker goes on where it was with another poller: what was shown is not shown again.

        ``interval`` (seconds) is how often at the least; the site's floor and the shortest interval
        of all watchers decide. ``source`` is read anew in an outage, for the connection may be what
        a person mends then. Leaving the iterator early affects nothing but this watcher.
        """
        name = next(_names)
        tracker = make_tracker(name, watched) if isinstance(watched, WatchSpec) else watched
        watcher = _Watcher(tracker, interval, source)
        self._watchers[name] = watcher
        if self._outage is not None:
            # The next attempt may be minutes away.
            watcher.deliver(watcher.tracker.park(self._outage, _now()))
        self._start()
        try:
            async for event in self._take(watcher):
                yield event
        finally:
            await self._detach(name, watcher)

    @staticmethod
    async def _take(watcher: _Watcher) -> AsyncIterator[Event | Moved]:
        while True:
            batch = await watcher.batches.get()
            if isinstance(batch, BaseException):
                raise batch
            for event in batch.events:
                if isinstance(event, Ended):
                    watcher.tracker.logs.confirm(batch.offsets)
                    watcher.ended = event
                    yield event
                    return
                yield event
            watcher.tracker.logs.confirm(batch.offsets)

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Keep the connection for somebody who asks over it himself; the last one out closes it."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._watchers and not self._holders:
                await self._stop()

    def _start(self) -> None:
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = _create_task(self._run(), "slurm-site-poller")

    async def _detach(self, name: str, watcher: _Watcher) -> None:
        """Forget a watcher; the last one out closes the connection."""
        is_moved = self._watchers.pop(name, None) is None
        async with self.hold():
            # The poller that goes on with a tracker also writes down what it has to say.
            if not is_moved:
                await self._take_leave(watcher)

    async def _take_leave(self, watcher: _Watcher) -> None:
        logs = watcher.tracker.logs
        last = PollRequest(
            acknowledged=logs.acknowledge() or logs.acknowledge_memo(), verdicts=watcher.verdict
        )
        self._leaving = merge([self._leaving, last])
        # A writer that is at work took what was there when it began.
        if self._writer is not None and not self._writer.done():
            await self._acknowledge()
        if last and self._leaving:
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        """Have it written down how far logs were shown, also if the caller is cancelled."""
        if self._writer is None or self._writer.done():
            self._writer = _create_task(self._write_down(), "slurm-site-writer")
        await asyncio.shield(self._writer)

    async def _write_down(self) -> None:
        """Write down how far everybody's logs were shown, and what ended, in one command."""
        await asyncio.sleep(_DELIVERY_SECONDS)
        logs = [watcher.tracker.logs for watcher in self._watchers.values()]
        shown = PollRequest(
            acknowledged=tuple(pair for each in logs for pair in each.acknowledge())
        )
        leaving, self._leaving = self._leaving, PollRequest()
        request = merge([leaving, shown])
        if not request:
            return
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await self._client.poll(request)
        except (CscError, TimeoutError):
            # An outage is the next round's to tell of; it is written down again then, also for
            # those who left, as long as anybody is there.
            self._leaving = merge([leaving, self._leaving])
            for each in logs:
                each.doubt_acknowledgement()

    async def _stop(self) -> None:
        """Be as new: whoever still holds this poller may watch again."""
        self._on_idle()
        self._leaving = PollRequest()
        tasks = [task for task in (self._task, self._writer) if task is not None]
        self._task = self._writer = None
        for task in tasks:
            task.cancel()
        try:
            await self._client.close()
        finally:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._watchers:
                self._wake.clear()
                started = asyncio.get_running_loop().time()
                await self._round()
                await self._pause(started)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - those who wait must hear of it, whatever it is
            for watcher in self._watchers.values():
                watcher.batches.put_nowait(error)

    async def _pause(self, started: float) -> None:
        """Wait until the next round; a newcomer is served at once, but never below the floor."""
        loop = asyncio.get_running_loop()
        urgent = any(watcher.tracker.is_urgent for watcher in self._watchers.values())
        shortest = min((watcher.interval for watcher in self._watchers.values()), default=0.0)
        delay = self._floor if urgent else max(self._floor, shortest)
        if self._failures:
            await self._back_off(started + backoff_seconds(self._failures, delay))
            return
        if self._vain_rounds:
            delay = backoff_seconds(self._vain_rounds, delay)
        with contextlib.suppress(TimeoutError):
            deadline = loop.time() + self._seconds_to_deadline()
            async with asyncio.timeout_at(min(started + delay, deadline)):
                await self._wake.wait()
        await asyncio.sleep(max(started + self._floor - loop.time(), 0))

    async def _back_off(self, until: float) -> None:
        """Leave the site alone; whose task has no more time hears of that meanwhile."""
        loop = asyncio.get_running_loop()
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, self._seconds_to_deadline()))
            if self._outage is not None:
                self._park(self._outage)

    def _seconds_to_deadline(self) -> float:
        """Return in how many seconds the next watcher's time is over."""
        now = _now()
        left = (one.tracker.seconds_to_deadline(now) for one in self._watchers.values())
        # A little later, for then it is over.
        return min((each + 0.01 for each in left if each is not None), default=float("inf"))

    async def _round(self) -> None:
        watchers = list(self._watchers.values())
        try:
            await self._ask(watchers, [watcher.tracker.ask() for watcher in watchers])
            await self._follow_up(watchers)
            await self._cancel(watchers)
            await self._acknowledge()
            self._failures, self._outage = 0, None
            # sshd is there, but none of those who wait is served: Slurm itself is away.
            is_vain = all(one.tracker.is_parked for one in watchers)
            self._vain_rounds = self._vain_rounds + 1 if is_vain and watchers else 0
        except CscError as error:
            self._failures += 1
            since = self._outage.since if self._outage else _now()
            self._outage = Outage(
                reason=error.message, since=since, is_passing=isinstance(error, _PASSING)
            )
            for watcher in watchers:
                watcher.tracker.logs.doubt_memo()
            self._park(self._outage)
            await self._reload()

    async def _reload(self) -> None:
        """Send the watchers of a connection that was changed meanwhile to the poller of that."""
        for source in {one.source for one in self._watchers.values() if one.source}:
            settings = await read_if_changed(source, self._settings)
            for name, watcher in list(self._watchers.items()):
                if settings is not None and watcher.source == source:
                    tracker = self._watchers.pop(name).tracker
                    moved = _Batch([Moved(settings, tracker)], tracker.logs.offsets)
                    watcher.batches.put_nowait(moved)

    def _park(self, outage: Outage) -> None:
        for watcher in self._watchers.values():
            watcher.deliver(watcher.tracker.park(outage, _now()))

    async def _ask(self, watchers: list[_Watcher], requests: list[PollRequest]) -> None:
        request = merge(requests)
        if not request:
            return
        answers = Answers(await self._client.poll(request))
        for watcher in watchers:
            watcher.observe(answers)

    async def _follow_up(self, watchers: list[_Watcher]) -> None:
        """Read the first lines of what started, and long logs; hear all about what is over."""
        for number in range(_MAX_FOLLOW_UPS):
            eager = [one for one in watchers if one.tracker.is_eager]
            if not eager:
                return
            await self._ask(eager, [watcher.tracker.follow_up() for watcher in eager])
            # A job that writes without end must not keep the others from their next round.
            is_last = number >= _MAX_FOLLOW_UPS_RUNNING
            watchers = [
                one
                for one in eager
                if one.tracker.logs.has_more and (one.tracker.is_settling or not is_last)
            ]

    async def _cancel(self, watchers: list[_Watcher]) -> None:
        for watcher in watchers:
            now, tracker = _now(), watcher.tracker
            if job_ids := tracker.jobs_to_cancel(now):
                try:
                    await self._client.cancel(
                        job_ids, notice=tracker.cancel_notice, run_dirs=tracker.marked_dirs
                    )
                    tracker.note_cancelled(now)
                except SlurmError as error:
                    watcher.deliver([Note(error.message, logging.WARNING)])


async def read_if_changed(source: Source, known: SiteSettings | None) -> SiteSettings | None:
    """Read a connection during an outage; None where it says what is known, or cannot be read."""
    try:
        # Airflow 3.1 reads its next answer wrongly when one is given up.
        settings = await asyncio.shield(asyncio.ensure_future(source.read()))
    except Exception:  # noqa: BLE001 - the outage is told already, and goes on
        _log.debug("Connection %s cannot be read.", source.conn_id, exc_info=True)
        return None
    return None if settings == known else settings


def _now() -> Moment:
    return Moment(wall=time.time(), steady=time.monotonic())


def _create_task(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    # A context of its own: Airflow routes log records by context variables, and this task belongs
    # to no one trigger.
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context(), name=name)


def backoff_seconds(failures: int, shortest: float) -> float:
    """Return the wait after some failures in a row: doubling, capped, with a quarter of jitter."""
    grown = min(shortest * 2.0 ** min(failures - 1, 16), _MAX_BACKOFF_SECONDS)
    return max(grown * random.uniform(0.75, 1.0), shortest)  # noqa: S311 - no secret hangs on it


def merge(requests: Iterable[PollRequest]) -> PollRequest:
    """Return one request that asks what all of them ask."""
    parts = list(requests)
    return PollRequest(
        queued=tuple(job for part in parts for job in part.queued),
        accounted=tuple(job for part in parts for job in part.accounted),
        detailed=tuple(job for part in parts for job in part.detailed),
        exit_records=tuple(record for part in parts for record in part.exit_records),
        array_records=tuple(record for part in parts for record in part.array_records),
        progress=tuple(pair for part in parts for pair in part.progress),
        logs=tuple(log for part in parts for log in part.logs),
        acknowledged=tuple(pair for part in parts for pair in part.acknowledged),
        verdicts=tuple(pair for part in parts for pair in part.verdicts),
    )


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[SiteSettings, SitePoller]] = (
    WeakKeyDictionary()
)


def poller_for(settings: SiteSettings) -> SitePoller:
    """Return the poller of a site on the running event loop; equal settings share one."""
    on_loop = _pollers.setdefault(asyncio.get_running_loop(), {})
    if settings not in on_loop:
        client = SlurmClient(SshTransport(settings.ssh), login_setup=settings.login_setup)

        def forget() -> None:
            # One that was used again after its end is not the one that is known by now.
            if on_loop.get(settings) is poller:
                del on_loop[settings]

        poller = SitePoller(
            client, floor=settings.poll_interval_floor, on_idle=forget, settings=settings
        )
        on_loop[settings] = poller
    return on_loop[settings]
