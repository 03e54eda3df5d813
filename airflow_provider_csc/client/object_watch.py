"""
Tell of new and changed objects, each once, and go on after any crash where that happened.

The order is what this is about: an event is written into the cursor, then told, then known to be
stored by who was told, and only then do its objects count as told. Who finds an event in the cursor
that he has not told himself tells that very one again.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_csc.allas.cursor import (
    Cursor,
    ObjectsEvent,
    Survey,
    batched,
    decode_cursor,
    describe,
)
from airflow_provider_csc.allas.names import ObjectName
from airflow_provider_csc.client.listing import Away, listing_of
from airflow_provider_csc.client.pauses import backoff_seconds
from airflow_provider_csc.errors import (
    ConfigError,
    CscError,
    CursorTakenError,
    ObjectChangedError,
    StoreAwayError,
    StoreRefusedError,
)
from airflow_provider_csc.slurm.events import Moment
from airflow_provider_csc.slurm.parking import Outage, Parking

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from airflow_provider_csc.allas.cursor import ChangedObject, News
    from airflow_provider_csc.allas.objects import KeyPattern
    from airflow_provider_csc.client.listing import Log
    from airflow_provider_csc.transport.object_store import ObjectStore

_EFFECT = "No event is lost: what is there when it answers again is told then."
# An ETag that no object has.
_NO_ETAG = "0" * 32


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchSpec:
    """
    What is watched, where the cursor is, and what is told.

    ``by_content``: an object that is written again with the same content has not changed.
    ``includes_existing``: what is there before the first look counts as new.
    """

    bucket: str
    pattern: KeyPattern
    cursor: ObjectName
    interval: float
    batch_size: int
    by_content: bool = False
    includes_existing: bool = False
    with_metadata: bool = False

    @property
    def watched(self) -> str:
        """What is watched, as a URI."""
        return str(ObjectName(self.bucket, self.pattern.text))


@dataclass(slots=True)
class _Delivery:
    """What this process knows of an event that no store needs to tell it."""

    stored: asyncio.Event = field(default_factory=asyncio.Event)
    event_id: str = ""


class ObjectWatch:
    """
    Yields events for ever; the next one comes after `confirm` of the one before.

    ``connect`` is called anew after each failure, so that a connection can be mended meanwhile.
    Only another one who takes the cursor ends it (CursorTakenError).
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[tuple[ObjectStore, WatchSpec]]],
        log: Log,
        *,
        interval: float,
    ) -> None:
        self._connect = connect
        self._log = log
        self._interval = interval
        self._owner = uuid.uuid4().hex
        self._parking = Parking(source="object store", effect=_EFFECT)
        self._delivery = _Delivery()
        self._has_had_cursor = False
        self._failures = 0

    def confirm(self, event_id: str) -> None:
        """Note that an event is stored for good by who was told."""
        if event_id == self._delivery.event_id:
            self._delivery.stored.set()

    async def events(self) -> AsyncGenerator[ObjectsEvent, None]:
        """Yield events."""
        while True:
            try:
                store, spec = await self._connect()
                book = _Book(store, spec, self._owner)
                async with aclosing(self._follow(book)) as events:
                    async for event in events:
                        yield event
            except (StoreAwayError, StoreRefusedError, ConfigError) as error:
                self._failures += 1
                self._tell_failure(error)
            await asyncio.sleep(backoff_seconds(self._failures, self._interval))

    async def _follow(self, book: _Book) -> AsyncGenerator[ObjectsEvent, None]:
        cursor = await book.open(has_had_it=self._has_had_cursor)
        self._has_had_cursor = True
        if cursor.pending is not None:
            # Told by this very process, and stored: only the note of that was not written.
            if not (
                self._delivery.stored.is_set() and cursor.pending["id"] == self._delivery.event_id
            ):
                repeat = cursor.pending.copy()
                repeat["is_repeat"] = True
                self._log.log(
                    logging.WARNING,
                    "Event %s was begun before a restart and perhaps not stored; it is told again, "
                    "as a repeat.", repeat["id"],
                )  # fmt: skip
                yield self._hand_over(repeat)
                await self._delivery.stored.wait()
            await book.finish()
        survey = book.survey()
        poller = listing_of(book.store, book.spec.bucket, book.spec.pattern)
        async with aclosing(poller.watch(survey, interval=book.spec.interval)) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, Away):
                    raise StoreAwayError(outcome.reason)
                self._tell_resumed()
                news, is_changed = survey.end()
                if is_changed and not news:
                    await book.save()
                for batch in batched(news, book.spec.batch_size):
                    event = await book.begin(batch)
                    if event is None:
                        continue
                    yield self._hand_over(event)
                    await self._delivery.stored.wait()
                    await book.finish()

    def _hand_over(self, event: ObjectsEvent) -> ObjectsEvent:
        self._delivery = _Delivery(event_id=event["id"])
        return event

    def _tell_failure(self, error: CscError) -> None:
        is_answer = not isinstance(error, StoreAwayError)
        outage = Outage(reason=error.message, since=_now(), is_answer=is_answer)
        for note in self._parking.park(outage):
            self._log.log(note.level, "%s", note.text)

    def _tell_resumed(self) -> None:
        self._failures = 0
        for note in self._parking.resume(_now()):
            self._log.log(note.level, "%s", note.text)


class _Book:
    """The cursor in the store, as this watcher has written it last."""

    def __init__(self, store: ObjectStore, spec: WatchSpec, owner: str) -> None:
        self.store = store
        self.spec = spec
        self._owner = owner
        self._cursor = Cursor(spec.watched, owner, spec.by_content)
        self._etag: str | None = None

    async def open(self, *, has_had_it: bool) -> Cursor:
        """
        Take the cursor over from whoever had it; where there is none, it is made by `save`.

        Who ``has_had_it`` before an outage does not take it back from one that took it meanwhile.
        """
        where = self.spec.cursor
        document = await self.store.read(where.bucket, where.key)
        if document is None:
            return self._cursor
        self._cursor = decode_cursor(document.data, str(where))
        if has_had_it and self._cursor.owner != self._owner:
            raise self._build_taken()
        if self._cursor.watched != self.spec.watched:
            raise ConfigError(
                f"The cursor {where} is of a watch of {self._cursor.watched}, and not of "
                f"{self.spec.watched}. Give each watcher a cursor of its own.",
                uri=str(where),
            )
        if self._cursor.by_content != self.spec.by_content:
            raise ConfigError(
                f"The cursor {where} was begun with the other value of `rewritten`, so that it "
                "cannot tell what is new. Name another cursor, or set `rewritten` back.",
                uri=str(where),
            )
        self._etag = document.etag
        # It may have been moved here from a store that is another one.
        await self._check_conditions(document.data)
        self._cursor.owner = self._owner
        await self.save()
        return self._cursor

    def survey(self) -> Survey:
        """Return what compares listings with the cursor."""
        is_baseline = self._etag is None and not self.spec.includes_existing
        return Survey(self._cursor, self.spec.pattern, is_baseline=is_baseline)

    async def begin(self, batch: Sequence[News]) -> ObjectsEvent | None:
        """Write an event down before it is told; None where nothing is left to tell."""
        described = [await self._describe(each) for each in batch]
        objects = [each for each in described if each is not None]
        if not objects:
            return None
        number = self._cursor.number + 1
        event = ObjectsEvent(
            id=f"{self.spec.cursor.key.rpartition('/')[2].removesuffix('.json')}-{number}",
            watched=self.spec.watched,
            planned_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            is_repeat=False,
            objects=objects,
        )
        self._cursor.number, self._cursor.pending = number, event
        await self.save()
        return event

    async def finish(self) -> None:
        """Note the objects of the pending event as told."""
        self._cursor.finish()
        await self.save()

    async def save(self) -> None:
        """Write the cursor, if nobody else has."""
        where = self.spec.cursor
        # In a thread, for of very many objects it takes a while.
        data = await asyncio.to_thread(self._cursor.encode)
        try:
            if self._etag is None:
                self._etag = await self.store.replace(where.bucket, where.key, data, etag=None)
                await self._check_conditions(data)
                return
            self._etag = await self.store.replace(where.bucket, where.key, data, etag=self._etag)
        except ObjectChangedError as error:
            # An answer may have been lost on its way, and this is what was written then.
            document = await self.store.read(where.bucket, where.key)
            if document is None or document.data != data:
                raise self._build_taken() from error
            self._etag = document.etag

    def _build_taken(self) -> CursorTakenError:
        where = self.spec.cursor
        return CursorTakenError(
            f"Another watcher goes on with the cursor {where}, or it was deleted. After a change "
            "of triggerers or to begin anew that is as it should be; otherwise two watchers with "
            "different arguments share it: give one of them another `cursor`.",
            uri=str(where),
        )

    async def _check_conditions(self, data: bytes) -> None:
        """Make sure that the store refuses a conditional write whose condition does not hold."""
        where = self.spec.cursor
        try:
            await self.store.replace(where.bucket, where.key, data, etag=_NO_ETAG)
        except ObjectChangedError:
            return
        raise StoreRefusedError(
            "The object store ignores the condition of a conditional write (If-Match), so that two "
            "triggerers could tell the same objects twice. Use a store that honours it (Ceph 16 or "
            "later)."
        )

    async def _describe(self, news: News) -> ChangedObject | None:
        described = describe(news, self.spec.bucket)
        if not self.spec.with_metadata:
            return described
        found = await self.store.read_metadata(self.spec.bucket, news.object.key)
        # Replaced or deleted since it was listed: the next listing shows what is there now.
        if found is None or found[0] != news.object.etag:
            return None
        described["metadata"] = dict(found[1])
        return described


def _now() -> Moment:
    return Moment(wall=time.time(), steady=time.monotonic())
