"""Wait in the triggerer for objects: for a sensor's, or for whatever is new in a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

from airflow_provider_csc.allas.cursor import cursor_key, default_cursor_name
from airflow_provider_csc.allas.json_condition import parse_condition
from airflow_provider_csc.allas.names import ObjectName, parse_uri
from airflow_provider_csc.allas.objects import read_pattern
from airflow_provider_csc.allas.waiting import MAX_READS, ObjectWait, WaitSpec
from airflow_provider_csc.errors import AllasError, ConfigError, CscError, StoreAwayError
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.triggers._settling import settled
from airflow_provider_csc.triggers._stored import until_stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow.triggers.shared_stream import SharedStreamProducer

    from airflow_provider_csc.client.object_wait import Found
    from airflow_provider_csc.client.object_watch import ObjectWatch, WatchSpec
    from airflow_provider_csc.transport.object_store import ObjectStore


class AllasObjectTrigger(BaseTrigger):
    """
    Fire one event when the objects are there that a sensor waits for.

    All triggers of a process that wait for objects of one bucket below one prefix share one listing
    per interval. An object store that gives no answer is told of once, and outlasted. What no
    waiting can mend (a wrong key, somebody else's bucket) is an event too, ``{"error": …}``.

    The argument names are a stored format: running tasks hold them.

    :param allas_conn_id: the connection.
    :param bucket_name: the bucket; None for the connection's own.
    :param key: the key or pattern, without the bucket.
    :param wildcards: whether the key may be a pattern.
    :param min_count: how many objects there must be.
    :param inactivity_period: for how many seconds nothing may have changed.
    :param json_condition: what their content must say.
    :param max_results: how many of the objects the event lists, at the most.
    :param poll_interval: seconds between two listings, at the most.
    """

    def __init__(  # noqa: PLR0913 - one argument for each thing that is stored
        self,
        *,
        allas_conn_id: str | None,
        bucket_name: str | None,
        key: str,
        wildcards: bool = True,
        min_count: int = 1,
        inactivity_period: float = 0.0,
        json_condition: dict[str, Any] | None = None,
        max_results: int = 1000,
        poll_interval: float = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        self.allas_conn_id = allas_conn_id
        self.bucket_name = bucket_name
        self.key = key
        self.wildcards = wildcards
        self.min_count = min_count
        self.inactivity_period = inactivity_period
        self.json_condition = json_condition
        self.max_results = max_results
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and plain JSON arguments."""
        return f"{__name__}.{type(self).__qualname__}", {
            "allas_conn_id": self.allas_conn_id,
            "bucket_name": self.bucket_name,
            "key": self.key,
            "wildcards": self.wildcards,
            "min_count": self.min_count,
            "inactivity_period": self.inactivity_period,
            "json_condition": self.json_condition,
            "max_results": self.max_results,
            "poll_interval": self.poll_interval,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield ``{"count": …, "objects": […]}``, or ``{"error": …}``."""
        yield TriggerEvent(await settled(self._follow))

    async def _follow(self) -> dict[str, Any]:
        try:
            found = await self._wait()
        except (ConfigError, AllasError) as error:
            return {"error": error.to_payload()}
        return {"count": found.count, "objects": found.objects}

    async def _wait(self) -> Found:
        from airflow_provider_csc.client.object_wait import ObjectWaiter  # noqa: PLC0415 - heavy
        from airflow_provider_csc.hooks._object_store import aopen_store  # noqa: PLC0415 - heavy

        store, bucket = await aopen_store(self.allas_conn_id, self.bucket_name)
        waiter = ObjectWaiter(store, bucket, self.build_wait(), self.log)
        return await waiter.follow(interval=self.poll_interval)

    def build_wait(self, *, max_reads: int | None = MAX_READS) -> ObjectWait:
        """
        Return what decides, reading so many documents after one listing.

        Raises NotationError for arguments that mean nothing.
        """
        _bucket, pattern = read_pattern(self.key, has_wildcards=self.wildcards)
        condition = None if self.json_condition is None else parse_condition(self.json_condition)
        return ObjectWait(
            WaitSpec(
                pattern=pattern,
                min_count=self.min_count,
                quiet_seconds=self.inactivity_period,
                condition=condition,
                max_results=self.max_results,
                max_reads=max_reads,
            )
        )


class AllasObjectsTrigger(BaseEventTrigger):
    """
    Fire an event for new and changed objects, for an ``AssetWatcher``.

    What was told is noted in a cursor, a small object in a bucket, so that a restarted triggerer
    goes on where the last one stopped: no object is left out, and an event that was perhaps stored
    before a crash is told again with the same ``id`` and ``is_repeat``, by which
    ``airflow_provider_csc.assets.allas.read_objects`` recognises it. docs/allas-events.md says what
    that amounts to.

    The payload of an event is ``{"id", "watched", "planned_at", "is_repeat", "objects": [{"uri",
    "key", "size", "etag", "last_modified", "change", "metadata"}]}``; ``change`` is "new" or
    "changed", and ``metadata`` is there if it was asked for.

    A store that gives no answer, a wrong key or a missing bucket end nothing: they are told once in
    the triggerer's log, and the connection is read again at each further attempt.

    :param key: what is watched: ``s3://bucket/in/*.csv``, a key, a pattern, or a prefix that ends
        with a slash; ``*`` stands for what is no slash, ``**`` for anything.
    :param bucket_name: the bucket, where the key is no URI; by default the connection's own.
    :param allas_conn_id: the connection.
    :param objects_per_event: so many objects are told in one event, at the most; 1 makes an event
        of each.
    :param include_existing: whether objects that are there before the first look are new.
    :param rewritten: whether an object that is written again with the same content has changed.
    :param metadata: whether to fetch the metadata that writers gave their objects, with a request
        for each.
    :param cursor: the name of the cursor, or a URI (``s3://bucket/some/key.json``) where the
        watched bucket cannot be written. By default it is named after what is watched; give one
        where the same is watched with different arguments.
    :param poll_interval: seconds between two listings.
    """

    def __init__(  # noqa: PLR0913 - one argument for each thing that is stored
        self,
        key: str,
        *,
        bucket_name: str | None = None,
        allas_conn_id: str | None = "allas_default",
        objects_per_event: int = 100,
        include_existing: bool = False,
        rewritten: bool = True,
        metadata: bool = False,
        cursor: str | None = None,
        poll_interval: float = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        # A DAG file is the place to hear of a mistake: nobody reads a triggerer's log.
        read_pattern(key, bucket_name)
        if cursor is not None and "://" in cursor:
            parse_uri(cursor)
        if objects_per_event < 1:
            raise NotationError(f"objects_per_event is {objects_per_event}", "Give 1 or more.")
        self.key = key
        self.bucket_name = bucket_name
        self.allas_conn_id = allas_conn_id
        self.objects_per_event = objects_per_event
        self.include_existing = include_existing
        self.rewritten = rewritten
        self.metadata = metadata
        self.cursor = cursor
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and plain JSON arguments."""
        return f"{__name__}.{type(self).__qualname__}", {
            "key": self.key,
            "bucket_name": self.bucket_name,
            "allas_conn_id": self.allas_conn_id,
            "objects_per_event": self.objects_per_event,
            "include_existing": self.include_existing,
            "rewritten": self.rewritten,
            "metadata": self.metadata,
            "cursor": self.cursor,
            "poll_interval": self.poll_interval,
        }

    def shared_stream_key(self) -> tuple[str, ...]:
        """Ask Airflow 3.3 to say when an event is stored, which it does for shared streams."""
        _path, kwargs = self.serialize()
        return (type(self).__qualname__, *map(repr, kwargs.values()))

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Return what yields the events and hears of each when it is stored (Airflow 3.3)."""
        from airflow_provider_csc.triggers._acknowledged import WatchProducer  # noqa: PLC0415 - 3.3

        return WatchProducer(cls(**kwargs).build_watch())

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[Any]
    ) -> AsyncIterator[TriggerEvent]:
        """Make an event of each (Airflow 3.3)."""
        async for event in shared_stream:
            yield TriggerEvent(event)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the events where Airflow does not say when one is stored (before 3.3)."""
        watch = self.build_watch()
        async for event in watch.events():
            yield TriggerEvent(event)
            await until_stored()
            watch.confirm(event["id"])

    def build_watch(self) -> ObjectWatch:
        """Return what follows the listings."""
        from airflow_provider_csc.client.object_watch import ObjectWatch  # noqa: PLC0415 - heavy

        return ObjectWatch(self._connect, self.log, interval=self.poll_interval)

    async def _connect(self) -> tuple[ObjectStore, WatchSpec]:
        from airflow_provider_csc.client.object_watch import WatchSpec  # noqa: PLC0415 - heavy
        from airflow_provider_csc.deployment import deployment_name  # noqa: PLC0415 - heavy
        from airflow_provider_csc.hooks._object_store import aopen_store  # noqa: PLC0415 - heavy

        named, pattern = read_pattern(self.key, self.bucket_name)
        try:
            store, bucket = await aopen_store(self.allas_conn_id, named)
        except CscError:
            raise
        except Exception as error:  # a secrets backend that is away raises anything
            # Nobody would see a trigger that ends, and Airflow starts it again every second.
            problem = f"The connection {self.allas_conn_id!r} cannot be read: {error}"
            raise StoreAwayError(problem, conn_id=self.allas_conn_id) from error
        name = self.cursor or default_cursor_name(deployment_name(), bucket, pattern)
        cursor = parse_uri(name) if "://" in name else ObjectName(bucket, cursor_key(name))
        return store, WatchSpec(
            bucket=bucket,
            pattern=pattern,
            cursor=cursor,
            interval=self.poll_interval,
            batch_size=self.objects_per_event,
            by_content=not self.rewritten,
            includes_existing=self.include_existing,
            with_metadata=self.metadata,
        )
