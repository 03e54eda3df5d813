"""Sensor, triggers and the reading of events as Airflow handles them."""

from __future__ import annotations

import asyncio
import inspect
import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.sdk import Asset, AssetWatcher
from airflow.triggers.base import BaseEventTrigger

from airflow_provider_csc.allas.cursor import cursor_key
from airflow_provider_csc.allas.names import ObjectName
from airflow_provider_csc.allas.objects import KeyPattern
from airflow_provider_csc.assets.allas import read_objects
from airflow_provider_csc.client import listing
from airflow_provider_csc.client.object_watch import WatchSpec
from airflow_provider_csc.errors import ConfigError, StoreRefusedError
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.sensors.allas import AllasObjectSensor
from airflow_provider_csc.task_state import Standing
from airflow_provider_csc.triggers import _stored
from airflow_provider_csc.triggers.allas import AllasObjectsTrigger, AllasObjectTrigger
from tests.support.memory_store import MemoryStore
from tests.support.task import build_context, resume

if TYPE_CHECKING:
    from collections.abc import Iterator


def sensor(**arguments: Any) -> AllasObjectSensor:
    return AllasObjectSensor(**{"task_id": "wait", "key": "s3://my-bucket/in/*.csv"} | arguments)


def deferred(task: AllasObjectSensor) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(build_context(task))
    return caught.value


def test_every_argument_is_documented() -> None:
    for documented in (AllasObjectSensor, AllasObjectTrigger, AllasObjectsTrigger):
        names = set(inspect.signature(documented).parameters) - {"kwargs"}
        assert {
            name for name in names if f":param {name}:" not in (documented.__doc__ or "")
        } == set()


def test_what_a_user_may_want_to_template_is_templated() -> None:
    task = sensor(
        key="s3://{{ params.bucket }}/in",
        min_count="{{ params.count }}",
        inactivity_period="{{ params.seconds }}",
        json_condition={"run": "{{ params.run }}"},
        deferrable=True,
    )
    params = {"bucket": "my-bucket", "count": 3, "seconds": 2.5, "run": "r1"}
    task.render_template_fields({"params": params})
    trigger = deferred(task).trigger
    assert (trigger.bucket_name, trigger.key) == ("my-bucket", "in")
    assert (trigger.min_count, trigger.inactivity_period) == (3, 2.5)
    assert trigger.json_condition == {"run": "r1"}


def test_a_sensor_in_a_dag_costs_no_connection() -> None:
    # Nothing defines allas_default here, so any look at it would raise.
    sensor()
    AllasObjectsTrigger("s3://my-bucket/in/")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"key": "http://x/y"}, "no URI of an object"),
        ({"key": "s3://my-bucket/a", "bucket_name": "other"}, "given twice"),
        ({"min_count": 0}, "min_count is 0"),
        ({"min_count": "many"}, "min_count is 'many'"),
        ({"min_count": True}, "min_count is True"),
        ({"max_results": 0}, "max_results is 0"),
        ({"inactivity_period": -1}, "inactivity_period is -1"),
        ({"inactivity_period": "soon"}, "inactivity_period is 'soon'"),
        ({"inactivity_period": float("nan")}, "inactivity_period is nan"),
        ({"json_condition": {"a": {"in": 1}}}, "needs a list"),
        ({"json_condition": {}}, "is no condition"),
        ({"key": "s3://my-bucket", "wildcards": False}, "no key"),
    ],
)
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_wrong_argument_fails_the_task_at_once(
    arguments: dict[str, Any], said: str, deferrable: bool
) -> None:
    task = sensor(**arguments, deferrable=deferrable)
    with pytest.raises(AirflowFailException, match=said):
        task.execute(build_context(task))


def test_the_sensors_own_time_out_holds_while_it_is_deferred() -> None:
    assert deferred(sensor(timeout=600, deferrable=True)).timeout == timedelta(seconds=600)
    limited = sensor(execution_timeout=timedelta(seconds=300), timeout=600, deferrable=True)
    assert deferred(limited).timeout == timedelta(seconds=300)


def test_the_stored_form_of_the_triggers_is_that_of_the_first_release() -> None:
    # Tasks that wait hold it: arguments may be added with a default, never renamed or taken away.
    trigger = AllasObjectTrigger(allas_conn_id="c", bucket_name=None, key="a")
    assert trigger.serialize() == (
        "airflow_provider_csc.triggers.allas.AllasObjectTrigger",
        {
            "allas_conn_id": "c",
            "bucket_name": None,
            "key": "a",
            "wildcards": True,
            "min_count": 1,
            "inactivity_period": 0.0,
            "json_condition": None,
            "max_results": 1000,
            "poll_interval": 60.0,
        },
    )
    # A watcher's arguments are its identity: a new one would begin again, though with its cursor.
    assert AllasObjectsTrigger("s3://my-bucket/a").serialize() == (
        "airflow_provider_csc.triggers.allas.AllasObjectsTrigger",
        {
            "key": "s3://my-bucket/a",
            "bucket_name": None,
            "allas_conn_id": "allas_default",
            "objects_per_event": 100,
            "include_existing": False,
            "rewritten": True,
            "metadata": False,
            "cursor": None,
            "poll_interval": 60.0,
        },
    )


@pytest.mark.parametrize(
    "trigger",
    [
        AllasObjectTrigger(
            allas_conn_id=None, bucket_name="b-b", key="k", wildcards=False, min_count=2,
            inactivity_period=1.5, json_condition={"a": 1}, max_results=3, poll_interval=4.5,
        ),
        AllasObjectsTrigger(
            "k", bucket_name="b-b", allas_conn_id=None, objects_per_event=1, include_existing=True,
            rewritten=False, metadata=True, cursor="mine", poll_interval=4.5,
        ),
    ],
    ids=lambda trigger: type(trigger).__name__,
)  # fmt: skip
def test_a_trigger_survives_being_stored(trigger: Any) -> None:
    path, arguments = trigger.serialize()
    again = type(trigger)(**json.loads(json.dumps(arguments)))
    assert again.serialize() == (path, arguments)
    assert set(arguments) == set(inspect.signature(type(trigger)).parameters)


def test_equal_watchers_are_one_trigger_and_others_are_not() -> None:
    def identity(**arguments: Any) -> int:
        path, kwargs = AllasObjectsTrigger("s3://my-bucket/in/", **arguments).serialize()
        return BaseEventTrigger.hash(path, json.loads(json.dumps(kwargs)))

    assert identity() == identity(poll_interval=60.0)
    assert identity() != identity(objects_per_event=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"key": "http://x/y"}, "no URI"),
        ({"key": "a", "objects_per_event": 0}, "objects_per_event is 0"),
        ({"key": "a", "cursor": "s3://x/y"}, "no name of a bucket"),
    ],
)
def test_a_wrong_argument_of_a_watcher_is_an_error_of_the_dag_file(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(NotationError, match=said):
        AllasObjectsTrigger(**arguments)


def test_an_asset_of_the_watched_uri_takes_the_watcher() -> None:
    trigger = AllasObjectsTrigger("s3://my-bucket/in/*.csv")
    asset = Asset("in", uri="s3://my-bucket/in", watchers=[AssetWatcher(name="w", trigger=trigger)])
    assert asset.uri == "s3://my-bucket/in"


class _Store(MemoryStore):
    """Takes the place of RGW behind the hook."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store = _Store()

    async def opened(_conn_id: object, bucket_name: str | None) -> tuple[MemoryStore, str]:
        return store, bucket_name or "default"

    monkeypatch.setattr("airflow_provider_csc.hooks._object_store.aopen_store", opened)
    monkeypatch.setattr(
        "airflow_provider_csc.hooks._object_store.open_store",
        lambda _conn_id, bucket_name: (store, bucket_name or "default"),
    )
    monkeypatch.setattr(listing, "_FLOOR_SECONDS", 0.0)
    return store


@pytest.mark.parametrize("deferrable", [True, False])
def test_the_sensor_returns_what_it_found(store: MemoryStore, deferrable: bool) -> None:
    store.put("in/a.csv")
    store.put("in/b.txt")
    task = sensor(deferrable=deferrable, poke_interval=0)
    context = build_context(task)
    (found,) = resume(task, context, lambda: task.execute(context))
    assert set(found) == {"uri", "key", "size", "etag", "last_modified"}
    assert found["uri"] == "s3://my-bucket/in/a.csv"


@pytest.mark.parametrize("deferrable", [True, False])
def test_what_no_waiting_mends_is_a_failure_without_a_retry(
    store: MemoryStore, deferrable: bool
) -> None:
    def refuse(_request: str) -> None:
        raise StoreRefusedError("NoSuchBucket: no bucket of that name exists.")

    store.before = refuse
    task = sensor(deferrable=deferrable)
    context = build_context(task)
    with pytest.raises(AirflowFailException, match="NoSuchBucket"):
        resume(task, context, lambda: task.execute(context))


def test_what_was_found_is_told_to_airflows_lineage(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    collector = SimpleNamespace(add_input_asset=lambda *, context, uri: told.append(uri))
    monkeypatch.setattr(
        "airflow.providers.common.compat.lineage.hook.get_hook_lineage_collector",
        lambda: collector,
    )
    task = sensor(deferrable=True)
    task.execute_complete({}, {"count": 1, "objects": [{"uri": "s3://my-bucket/in/a.csv"}]})
    assert told == ["s3://my-bucket/in/a.csv"]


def test_before_airflow_3_3_an_event_counts_as_stored_after_three_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(
        [Standing.UNKNOWN, Standing.ENDED, Standing.UNKNOWN, Standing.ENDED, Standing.ENDED]
    )
    monkeypatch.setattr(_stored, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(_stored, "ask_standing", lambda *_args, **_kwargs: next(answers))
    asyncio.run(_stored.until_stored())
    assert list(answers) == []


def test_the_next_event_comes_when_the_last_one_is_stored(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_stored: list[asyncio.Event] = []

    async def until_stored() -> None:
        is_stored.append(asyncio.Event())
        await is_stored[-1].wait()

    monkeypatch.setattr("airflow_provider_csc.triggers.allas.until_stored", until_stored)
    store.put("in/a.csv")
    store.put("in/b.csv")
    trigger = AllasObjectsTrigger(
        "s3://my-bucket/in/*", include_existing=True, objects_per_event=1, poll_interval=0
    )

    async def follow() -> list[str]:
        async with aclosing(trigger.run()) as events:
            first = await anext(events)
            second = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.1)
            assert not second.done()
            is_stored[0].set()
            both = [first.payload, (await second).payload]
        return [each["key"] for event in both for each in event["objects"]]

    assert asyncio.run(follow()) == ["in/a.csv", "in/b.csv"]


@pytest.mark.skipif(
    find_spec("airflow.triggers.shared_stream") is None,
    reason="Airflow says since 3.3 when an event is stored",
)
def test_airflow_itself_says_when_an_event_is_stored(store: MemoryStore) -> None:
    """With Airflow's own manager of shared streams: what is not stored holds the next one up."""
    import structlog
    from airflow.triggers.shared_stream import SharedStreamManager

    store.put("in/a.csv")
    store.put("in/b.csv")
    trigger = AllasObjectsTrigger(
        "s3://my-bucket/in/*", include_existing=True, objects_per_event=1, poll_interval=0
    )
    key = trigger.shared_stream_key()

    async def follow() -> None:
        manager = SharedStreamManager(
            log=structlog.get_logger(),
            max_subscriber_queue=10,
            ack_timeout=60,
            cohort_grace_period=0,
        )
        stream = manager.subscribe(trigger_id=1, trigger=trigger, key=key)
        events = trigger.filter_shared_stream(stream)
        assert (await anext(events)).payload["objects"][0]["key"] == "in/a.csv"
        seq = manager.bind_pending_event(trigger_id=1, key=key)
        second = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.1)
        assert not second.done()
        assert seq is not None
        manager.confirm_persisted([seq])
        event = await asyncio.wait_for(second, 5)
        assert event.payload["objects"][0]["key"] == "in/b.csv"
        assert event.payload["is_repeat"] is False
        await events.aclose()
        await manager.unsubscribe(1, key)

    asyncio.run(follow())
    # The second one was not stored.
    cursor = next(held.data for name, held in store.objects.items() if name.startswith(".airflow"))
    assert json.loads(cursor)["pending"]["objects"][0]["key"] == "in/b.csv"


def test_the_cursor_lies_in_the_watched_bucket_or_where_it_is_named(store: MemoryStore) -> None:
    def cursor_of(**arguments: Any) -> ObjectName:
        _store, spec = asyncio.run(
            AllasObjectsTrigger("s3://my-bucket/in/*", **arguments)._connect()
        )
        assert isinstance(spec, WatchSpec)
        assert (spec.bucket, spec.pattern) == ("my-bucket", KeyPattern("in/*"))
        return spec.cursor

    by_default = cursor_of()
    assert by_default.bucket == "my-bucket"
    assert by_default == cursor_of(poll_interval=5.0, objects_per_event=7)
    assert cursor_of(cursor="mine") == ObjectName("my-bucket", cursor_key("mine"))
    assert cursor_of(cursor="s3://other/c.json") == ObjectName("other", "c.json")


# What a task reads.

INBOX = Asset("inbox", uri="s3://my-bucket/in")
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def event(
    event_id: str, *keys: str, seconds: int = 0, is_repeat: bool = False, planned: int = 0
) -> Any:
    payload = {
        "id": event_id,
        "planned_at": (MOMENT + timedelta(seconds=planned)).isoformat(),
        "is_repeat": is_repeat,
        "objects": [{"key": key} for key in keys],
    }
    return SimpleNamespace(
        extra={"from_trigger": True, "payload": payload},
        timestamp=MOMENT + timedelta(seconds=seconds),
    )


class _Accessor(list[Any]):
    """The record of events as Airflow offers it since 3.2; before, it is a list."""

    def after(self, moment: str) -> _Accessor:
        assert datetime.fromisoformat(moment) < MOMENT
        return self

    def before(self, moment: str) -> _Accessor:
        last = datetime.fromisoformat(moment)
        return _Accessor(each for each in self if each.timestamp <= last)


class _OfInbox:
    """Events by their asset, as Airflow's context has them: in 3.1 an asset is no key of a dict."""

    def __init__(self, events: list[Any] | None) -> None:
        self._events = events

    def __getitem__(self, asset: Asset) -> list[Any]:
        if asset != INBOX or self._events is None:
            raise KeyError(asset)
        return self._events


@pytest.fixture(params=[list, _Accessor])
def kind(request: pytest.FixtureRequest) -> Iterator[Any]:
    return request.param


def read(started_by: list[Any], stored: list[Any], inlets: Any = (INBOX,)) -> list[str]:
    context: Any = {
        "task": SimpleNamespace(inlets=list(inlets)),
        "triggering_asset_events": _OfInbox(started_by),
        "inlet_events": _OfInbox(stored),
    }
    return [each["key"] for each in read_objects(INBOX, context)]


def test_the_objects_of_all_events_are_read_in_their_order(kind: Any) -> None:
    first, second = event("x-1", "a", "b"), event("x-2", "c", seconds=1)
    assert read([second, first], kind([first, second])) == ["a", "b", "c"]


def test_a_repeat_of_what_is_stored_is_left_out(kind: Any) -> None:
    first, again = event("x-1", "a"), event("x-1", "a", seconds=9, is_repeat=True)
    assert read([again], kind([first, again])) == []
    assert read([first, again], kind([first, again])) == ["a"]
    # The run of the first one reads it, also when it is cleared later.
    assert read([first], kind([first, again])) == ["a"]


def test_numbers_that_began_anew_make_no_repeat(kind: Any) -> None:
    first = event("x-1", "a")
    again = event("x-1", "b", seconds=9, is_repeat=True, planned=8)
    assert read([again], kind([first, again])) == ["b"]


def test_a_repeat_of_what_was_not_stored_is_read_once(kind: Any) -> None:
    again = event("x-1", "a", seconds=9, is_repeat=True)
    third = event("x-1", "a", seconds=19, is_repeat=True)
    assert read([again], kind([again, third])) == ["a"]
    assert read([third], kind([again, third])) == []


def test_what_others_tell_of_the_asset_is_no_object(kind: Any) -> None:
    others = [
        SimpleNamespace(extra=extra, timestamp=MOMENT)
        for extra in (None, {}, {"payload": "text"}, {"payload": {"id": 1}})
    ]
    assert read([*others, event("x-1", "a")], kind(others)) == ["a"]


def test_a_run_that_no_event_started_has_no_objects() -> None:
    context: Any = {
        "task": SimpleNamespace(inlets=[INBOX]),
        "triggering_asset_events": _OfInbox(None),
        "inlet_events": _OfInbox(None),
    }
    assert read_objects(INBOX, context) == []


def test_a_task_without_the_inlet_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"inlets=\[…\]"):
        read([event("x-1", "a")], [], inlets=())
