"""A watcher's events as Airflow 3.3 takes them: it says of each when it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from airflow_provider_csc.allas.cursor import ObjectsEvent
    from airflow_provider_csc.client.object_watch import ObjectWatch


class WatchProducer(SharedStreamProducer):
    """Hands a watch's events over; the next one follows when the last one is stored."""

    def __init__(self, watch: ObjectWatch) -> None:
        self._watch = watch

    async def open_stream(self) -> AsyncIterator[tuple[ObjectsEvent, str]]:
        """Yield events for ever."""
        async for event in self._watch.events():
            yield event, event["id"]

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Note what is stored; what is not, whoever opens the stream next tells again."""
        for item in batch:
            if item.outcome.is_clean:
                self._watch.confirm(item.broker_payload)
