"""Wait until the objects are there that a sensor asks for, or look once."""

from __future__ import annotations

import logging
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.allas.json_condition import MAX_DOCUMENT_BYTES
from airflow_provider_csc.client.listing import Away, PrefixPoller, listing_of
from airflow_provider_csc.errors import StoreAwayError
from airflow_provider_csc.slurm.events import Moment
from airflow_provider_csc.slurm.parking import Outage, Parking

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from airflow_provider_csc.allas.objects import ObjectFacts, StoredObject
    from airflow_provider_csc.allas.waiting import ObjectWait
    from airflow_provider_csc.client.listing import Log, Outcome
    from airflow_provider_csc.slurm.events import Note
    from airflow_provider_csc.transport.object_store import ObjectStore

_EFFECT = "The task waits: it uses up no retry, and its own time limits still hold."


@dataclass(frozen=True, slots=True)
class Found:
    """The objects that were waited for: the first of them, and how many there are."""

    count: int
    objects: list[ObjectFacts]


class ObjectWaiter:
    """Follows listings of one bucket for one who waits, and reads documents where that is asked."""

    def __init__(self, store: ObjectStore, bucket: str, wait: ObjectWait, log: Log) -> None:
        self._store = store
        self._bucket = bucket
        self._wait = wait
        self._log = log
        self._parking = Parking(source="object store", effect=_EFFECT)
        self._progress = ""

    async def follow(self, *, interval: float) -> Found:
        """Wait, with the listing that all share; an outage is told and outlasted."""
        poller = listing_of(self._store, self._bucket, self._wait.spec.pattern)
        async with aclosing(poller.watch(self._wait, interval=interval)) as outcomes:
            async for outcome in outcomes:
                if (found := await self._take(outcome)) is not None:
                    return found
        raise RuntimeError("the listing stopped before the objects were there")

    async def look(self) -> Found | None:
        """Look once, with a listing of its own."""
        poller = PrefixPoller(self._store, self._bucket, self._wait.spec.pattern.prefix)
        outcomes: AsyncGenerator[Outcome, None] = poller.watch(self._wait, interval=0)
        async with aclosing(outcomes):
            return await self._take(await anext(outcomes))

    async def _take(self, outcome: Outcome) -> Found | None:
        if isinstance(outcome, Away):
            self._tell(self._parking.park(Outage(reason=outcome.reason, since=_now())))
            return None
        try:
            await self._read(self._wait.end(clock=outcome.clock, steady=time.monotonic()))
        except StoreAwayError as error:
            self._tell(self._parking.park(Outage(reason=error.message, since=_now())))
            return None
        self._tell(self._parking.resume(_now()))
        is_met = self._wait.is_met
        if self._wait.progress != self._progress:
            self._progress = self._wait.progress
            self._log.log(logging.INFO, "%s", self._progress)
        if not is_met:
            return None
        objects = [each.to_facts(self._bucket) for each in self._wait.found]
        return Found(self._wait.count, objects)

    async def _read(self, unread: Sequence[StoredObject]) -> None:
        for each in unread:
            if each.size > MAX_DOCUMENT_BYTES:
                told = self._wait.refuse_large(each)
            else:
                document = await self._store.read(self._bucket, each.key, limit=MAX_DOCUMENT_BYTES)
                # Replaced since it was listed: the next listing shows what is there now.
                is_it = document is not None and document.etag == each.etag
                told = self._wait.judge(each, document.data if document and is_it else None)
            if told:
                self._log.log(logging.INFO, "%s", told)

    def _tell(self, notes: Sequence[Note]) -> None:
        for note in notes:
            self._log.log(note.level, "%s", note.text)


def _now() -> Moment:
    return Moment(wall=time.time(), steady=time.monotonic())
