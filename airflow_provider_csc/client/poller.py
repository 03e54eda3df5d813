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
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow_provider_csc.client.meter import NoMeter
from airflow_provider_csc.client.pauses import backoff_seconds
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.client.turns import Turns
from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConfigError,
    ConnectionLostError,
    CscError,
    SlurmError,
    UnreadableOutputError,
)
from airflow_provider_csc.slurm.answers import Answers
from airflow_provider_csc.slurm.array_tracking import make_tracker
from airflow_provider_csc.slurm.commands import PollRequest
from airflow_provider_csc.slurm.events import Ended, Event, Moment, Note
from airflow_provider_csc.slurm.output import RowMemo
from airflow_provider_csc.slurm.parking import Outage
from airflow_provider_csc.slurm.tracking import TRACKED_STATES, WatchSpec
from airflow_provider_csc.transport.certificates import read_certificate
from airflow_provider_csc.transport.ssh import SshTransport

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from airflow_provider_csc.client.meter import Meter
    from airflow_provider_csc.slurm.framing import Frame
    from airflow_provider_csc.slurm.output import QueueRow
    from airflow_provider_csc.slurm.tracking import JobTracker
    from airflow_provider_csc.transport.base import SiteSettings, SshSettings
    from airflow_provider_csc.transport.certificates import Certificate

_log = logging.getLogger(__name__)
# A tracker keeps its name when it goes on with another poller.
_names = (f"w{number}" for number in itertools.count())

_MAX_FOLLOW_UPS = 200
_MAX_FOLLOW_UPS_RUNNING = 16
# While nothing changes for anybody, the pauses grow to a twentieth of how long that is so, and to
# this (seconds): whatever comes then is seen late by at most five per cent of its own time.
_MAX_QUIET_SECONDS = 60.0
_QUIET_SHARE = 20
# How many batches may wait for a watcher that does not take them, before its log is read less.
_MANY_BATCHES = 4
# So long at least a round may go on reading the logs of what runs; otherwise until the next is due.
_LEAST_READING_SECONDS = 1.0
# How many files are written in one command; each takes a process on the log-in node.
_MAX_NOTES = 400
_WRITE_SECONDS = 10.0
# What merely begins an outage, or happens within one, beside what keeps the site away.
_PASSING = (ConnectionLostError, CommandTimeoutError, UnreadableOutputError)
# How often it is looked whether the certificate of the connection will expire, or was renewed.
_CERTIFICATE_SECONDS = 60.0
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


@dataclass(slots=True, eq=False)
class Watcher:
    """
    One who waits; its box is a list, because a queue of asyncio takes 3 kB for each.

    ``wake`` is called whenever something is left in the box; who has none awaits `arrival`.
    """

    name: str
    tracker: JobTracker
    interval: float
    source: Source | None = None
    wake: Callable[[], None] | None = None
    ended: Ended | None = None
    # When it was first heard of its jobs, by the cluster's clock.
    seen_since: int = 0
    box: list[_Batch | BaseException] = field(default_factory=list)
    _arrival: asyncio.Future[None] | None = None

    @property
    def is_behind(self) -> bool:
        """Whether it does not take what it is given."""
        return len(self.box) >= _MANY_BATCHES

    def put(self, batch: _Batch | BaseException) -> None:
        """Leave something for the watcher, which takes it in its own task and log context."""
        self.box.append(batch)
        if self.wake is not None:
            self.wake()
        elif self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        self._arrival = None

    def arrival(self) -> asyncio.Future[None]:
        """Return what ends when something is left in the box."""
        self._arrival = asyncio.get_running_loop().create_future()
        return self._arrival

    def take(self) -> Iterator[Event | Moved]:
        """
        Yield what is in the box and empty it; lines are confirmed when more is asked for.

        Nothing of it is held here afterwards: of a log that may be a lot.
        """
        while self.box:
            batch = self.box.pop(0)
            if isinstance(batch, BaseException):
                raise batch
            for event in batch.events:
                if isinstance(event, Ended):
                    self.tracker.logs.confirm(batch.offsets)
                    self.ended = event
                    yield event
                    return
                yield event
            self.tracker.logs.confirm(batch.offsets)

    @property
    def verdict(self) -> tuple[tuple[str, str], ...]:
        """What to write down about the end that was taken, where there is a place for it."""
        run_dir = self.tracker.spec.run_dir
        # A job that was found by its name alone has none.
        if self.ended is None or not run_dir:
            return ()
        return ((run_dir, " ".join(result.noted for result in self.ended.results)),)

    def observe(self, answers: Answers, now: Moment) -> list[Event]:
        """Take in an answer; what goes wrong with it here is no other watcher's business."""
        try:
            events = self.tracker.observe(answers, now)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
            self.put(error)
            return []
        self.deliver(events)
        return events

    def deliver(self, events: list[Event]) -> None:
        """Hand events over."""
        if events:
            self.put(_Batch(events, self.tracker.logs.offsets))


class SitePoller:
    """Asks one site about all watched jobs, once per interval, over one connection."""

    def __init__(
        self,
        client: SlurmClient,
        *,
        floor: float,
        on_idle: Callable[[], None] = lambda: None,
        settings: SiteSettings | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._client = client
        self.meter = meter or NoMeter()
        self._tags = {"site": settings.ssh.target.host if settings else "unknown"}
        self.settings = settings
        self._floor = floor
        self._on_idle = on_idle
        self._watchers: dict[str, Watcher] = {}
        # Those who use the connection without watching; nobody may close it on them.
        self._holders = 0
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        # What is still to be written into the run directories of those who left.
        self._leaving: list[PollRequest] = []
        self._wake = asyncio.Event()
        # Squeue's rows of the last round, and when there was last something new for anybody.
        self._rows: Mapping[str, QueueRow] = {}
        self._changed = time.monotonic()
        self._failures = 0
        self._vain_rounds = 0
        self._outage: Outage | None = None
        self._certificate: Certificate | None = None
        self._looked = float("-inf")

    @property
    def is_connected(self) -> bool:
        """Whether somebody waits and the site lets us in."""
        return bool(self._watchers) and self._outage is None

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
        watcher = self.attach(watched, interval=interval, source=source)
        event: Event | Moved | None
        try:
            while watcher.ended is None:
                if not watcher.box:
                    await watcher.arrival()
                for event in watcher.take():
                    yield event
                # Or the last one would be held as long as nothing else happens.
                event = None
        finally:
            await self.detach(watcher)

    def attach(
        self,
        watched: WatchSpec | JobTracker,
        *,
        interval: float,
        source: Source | None = None,
        wake: Callable[[], None] | None = None,
    ) -> Watcher:
        """
        Begin to watch as `watch` does, for whoever has no task that waits.

        ``wake`` is called when there is something to take. Who attached it detaches the watcher.
        """
        name = next(_names)
        tracker = make_tracker(name, watched) if isinstance(watched, WatchSpec) else watched
        watcher = self._watchers[name] = Watcher(name, tracker, interval, source, wake)
        self._changed = time.monotonic()
        if self._outage is not None:
            # The next attempt may be minutes away.
            watcher.deliver(watcher.tracker.park(self._outage, _now()))
        self._start()
        return watcher

    async def detach(self, watcher: Watcher) -> None:
        """Forget a watcher; the last one out closes the connection."""
        is_moved = self._watchers.pop(watcher.name, None) is None
        self._changed = time.monotonic()
        async with self.hold():
            # The poller that goes on with a tracker also writes down what it has to say.
            if not is_moved:
                await self._take_leave(watcher)

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

    async def _take_leave(self, watcher: Watcher) -> None:
        logs = watcher.tracker.logs
        last = PollRequest(
            acknowledged=logs.acknowledge() or logs.acknowledge_memo(), verdicts=watcher.verdict
        )
        if last:
            self._leaving.append(last)
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
        everybody = [watcher.tracker.logs for watcher in self._watchers.values()]
        shown = [(logs, pairs) for logs in everybody if (pairs := logs.acknowledge())]
        leaving, self._leaving = self._leaving, []
        request = merge([*leaving, *(PollRequest(acknowledged=pairs) for _, pairs in shown)])
        try:
            # As a rule there is one part.
            for part in _split_notes(request):
                async with asyncio.timeout(_WRITE_SECONDS):
                    await self._client.poll(part)
        except (CscError, TimeoutError):
            # An outage is the next round's to tell of; it is written down again then, also for
            # those who left, as long as anybody is there.
            self._leaving = [*leaving, *self._leaving]
            for logs, _ in shown:
                logs.doubt_acknowledgement()

    async def _stop(self) -> None:
        """Be as new: whoever still holds this poller may watch again."""
        self._on_idle()
        self._report()
        self._leaving, self._rows = [], {}
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
                await self._pause(await self._round())
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - those who wait must hear of it, whatever it is
            for watcher in self._watchers.values():
                watcher.put(error)

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
        elif not urgent:
            delay = quiet_seconds(time.monotonic() - self._changed, delay)
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
        timed = (one.tracker for one in self._watchers.values() if one.tracker.spec.deadline)
        left = (tracker.seconds_to_deadline(now) for tracker in timed)
        # A little later, for then it is over.
        return min((each + 0.01 for each in left if each is not None), default=float("inf"))

    async def _round(self) -> float:
        """Ask about everything once; return when that began, by the event loop's clock."""
        started = asyncio.get_running_loop().time()
        watchers = list(self._watchers.values())
        try:
            memo = RowMemo(self._rows)
            await self._ask(watchers, lambda tracker: tracker.ask(), memo)
            self._rows = memo.now
            await self._follow_up(watchers, started)
            await self._cancel(watchers)
            await self._acknowledge()
            self._failures, self._outage = 0, None
            await self._warn_of_expiry()
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
        self._report()
        return started

    def _report(self) -> None:
        """Tell how many wait, in which states, and over how many connections of this process."""
        trackers = [watcher.tracker for watcher in self._watchers.values()]
        states = Counter(state for tracker in trackers for state in tracker.states)
        for state in TRACKED_STATES:
            self.meter.gauge(f"slurm.poller.jobs.{state}", states[state], self._tags)
        parked = sum(tracker.is_parked for tracker in trackers)
        self.meter.gauge("slurm.poller.parked", parked, self._tags)
        if self._certificate is not None and self._certificate.expires:
            left = self._certificate.valid_before - time.time()
            self.meter.gauge("slurm.poller.certificate_seconds", left, self._tags)
        pollers = _pollers.get(asyncio.get_running_loop(), {}).values()
        self.meter.gauge("slurm.poller.connections", sum(map(_is_connected, pollers)), {})

    async def _warn_of_expiry(self) -> None:
        """Tell each watcher once of a certificate that will expire too early for it."""
        if self.settings is None:
            return
        now = _now()
        if now.steady - self._looked >= _CERTIFICATE_SECONDS:
            self._looked = now.steady
            await self._read_certificate(self.settings.ssh, now)
        certificate = self._certificate
        if certificate is None:
            return
        for watcher in self._watchers.values():
            tracker = watcher.tracker
            if tracker.is_done or tracker.told_expiry == certificate.valid_before:
                continue
            if text := certificate.warn(now.wall, tracker.ends_by):
                tracker.told_expiry = certificate.valid_before
                watcher.deliver([Note(text, logging.WARNING)])

    async def _read_certificate(self, ssh: SshSettings, now: Moment) -> None:
        try:
            self._certificate = await read_certificate(ssh)
        except ConfigError:
            # It is the next log-in that needs it, and complains.
            self._certificate = None
            return
        # One that stands in the connection may be renewed there already.
        if ssh.certificate and self._certificate and self._certificate.is_short(now.wall):
            await self._reload()

    async def _reload(self) -> None:
        """Send the watchers of a connection that was changed meanwhile to the poller of that."""
        for source in {one.source for one in self._watchers.values() if one.source}:
            settings = await read_if_changed(source, self.settings)
            for name, watcher in list(self._watchers.items()):
                if settings is not None and watcher.source == source:
                    tracker = self._watchers.pop(name).tracker
                    moved = _Batch([Moved(settings, tracker)], tracker.logs.offsets)
                    watcher.put(moved)

    def _park(self, outage: Outage) -> None:
        for watcher in self._watchers.values():
            watcher.deliver(watcher.tracker.park(outage, _now()))

    async def _ask(
        self,
        watchers: list[Watcher],
        question: Callable[[JobTracker], PollRequest],
        memo: RowMemo,
    ) -> None:
        turns = Turns()
        requests = []
        for watcher in watchers:
            asked = question(watcher.tracker)
            # What nobody takes must not pile up.
            requests.append(replace(asked, logs=()) if watcher.is_behind else asked)
            if turns.is_over:
                await turns.give()
        request = merge(requests)
        if not request:
            return
        await turns.give()
        sent = time.monotonic()
        frames = await self._client.poll(request)
        await turns.give()
        self._count(frames, time.monotonic() - sent)
        answers = Answers(frames, request, memo)
        now = _now()
        for watcher in watchers:
            if turns.is_over:
                await turns.give()
                now = _now()
            began = watcher.seen_since = watcher.seen_since or answers.clock
            for event in watcher.observe(answers, now):
                self._changed = now.steady
                if isinstance(event, Ended):
                    clock = answers.clock + now.steady - sent
                    self._measure(event, began=began, clock=clock)

    def _count(self, frames: Mapping[str, Frame], seconds: float) -> None:
        size = sum(len(frame.data) for frame in frames.values())
        self.meter.timing("slurm.poller.query_duration", seconds, self._tags)
        self.meter.incr("slurm.poller.bytes", size, self._tags)

    def _measure(self, ended: Ended, *, began: float, clock: float) -> None:
        """Tell how long ago jobs ended, by the cluster's clock, that were seen alive."""
        ends = [datetime.fromisoformat(one.end_time) for one in ended.results if one.end_time]
        last = max((end.timestamp() for end in ends), default=0.0)
        if last > began:
            self.meter.timing("slurm.poller.detection_latency", max(clock - last, 0.0), self._tags)

    async def _follow_up(self, watchers: list[Watcher], started: float) -> None:
        """Read the first lines of what started, and long logs; hear all about what is over."""
        now = asyncio.get_running_loop().time
        shortest = min((watcher.interval for watcher in watchers), default=0.0)
        until = max(started + shortest, now() + max(self._floor, _LEAST_READING_SECONDS))
        for number in range(_MAX_FOLLOW_UPS):
            eager = [one for one in watchers if one.tracker.is_eager]
            if not eager:
                return
            await self._ask(eager, lambda tracker: tracker.follow_up(), RowMemo(self._rows))
            # A job that writes without end must not keep the others from their next round.
            is_last = number >= _MAX_FOLLOW_UPS_RUNNING or now() > until
            watchers = [
                one
                for one in eager
                if one.tracker.logs.has_more
                and not one.is_behind
                and (one.tracker.is_settling or not is_last)
            ]

    async def _cancel(self, watchers: list[Watcher]) -> None:
        now = _now()
        for watcher in watchers:
            tracker = watcher.tracker
            if job_ids := tracker.jobs_to_cancel(now):
                try:
                    await self._client.cancel(
                        job_ids, notice=tracker.cancel_notice, run_dirs=tracker.marked_dirs
                    )
                    tracker.note_cancelled(now)
                    now = _now()
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


def quiet_seconds(quiet: float, interval: float) -> float:
    """
    Return the pause between two rounds when nothing has changed for so long (all in seconds).

    It is never shorter than the interval, and an interval beyond the cap stays.
    """
    return max(interval, min(quiet / _QUIET_SHARE, _MAX_QUIET_SECONDS))


def merge(requests: Iterable[PollRequest]) -> PollRequest:
    """Return one request that asks what all of them ask."""
    parts = list(requests)
    joined: dict[str, Any] = {
        name: tuple(chain.from_iterable(getattr(part, name) for part in parts))
        for name in (field.name for field in fields(PollRequest))
    }
    if logs := joined["logs"]:
        # Where the room is short, the first ones have the best of it.
        first = random.randrange(len(logs))  # noqa: S311 - no secret hangs on it
        joined["logs"] = logs[first:] + logs[:first]
    return PollRequest(**joined)


def _split_notes(request: PollRequest) -> Iterator[PollRequest]:
    """Yield a request that only writes something down in parts that one command has time for."""
    notes = [
        *((False, note) for note in request.acknowledged),
        *((True, note) for note in request.verdicts),
    ]
    for first in range(0, len(notes), _MAX_NOTES):
        part = notes[first : first + _MAX_NOTES]
        yield PollRequest(
            acknowledged=tuple(note for is_verdict, note in part if not is_verdict),
            verdicts=tuple(note for is_verdict, note in part if is_verdict),
        )


def _is_connected(poller: SitePoller) -> bool:
    return poller.is_connected


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[SiteSettings, SitePoller]] = (
    WeakKeyDictionary()
)


def poller_for(settings: SiteSettings, meter: Meter | None = None) -> SitePoller:
    """
    Return the poller of a site on the running event loop; equal settings share one.

    ``meter`` is told its figures from now on; without it, whoever was told before.
    """
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
    if meter is not None:
        on_loop[settings].meter = meter
    return on_loop[settings]
