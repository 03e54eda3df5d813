"""Events of new and changed objects: none is lost, and one that is told twice says so."""

from __future__ import annotations

import asyncio
import contextlib
import random
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.allas.cursor import cursor_key, decode_cursor
from airflow_provider_csc.allas.names import ObjectName
from airflow_provider_csc.allas.objects import KeyPattern
from airflow_provider_csc.client import listing, object_watch
from airflow_provider_csc.client.object_watch import ObjectWatch, WatchSpec
from airflow_provider_csc.errors import (
    CursorTakenError,
    StoreAwayError,
    StoreRefusedError,
)
from tests.clients.test_listing import Lines, eventually
from tests.support.memory_store import MemoryStore

if TYPE_CHECKING:
    from airflow_provider_csc.allas.cursor import ObjectsEvent

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_FLOOR_SECONDS", 0.0)
    monkeypatch.setattr(object_watch, "backoff_seconds", lambda _failures, _shortest: 0.0)


CURSOR = ObjectName("bucket", cursor_key("test"))


@dataclass
class Watcher:
    """A triggerer with one watch; its database is a list that outlives it."""

    store: MemoryStore
    stored: list[ObjectsEvent] = field(default_factory=list)
    log: Lines = field(default_factory=Lines)
    spec: dict[str, Any] = field(default_factory=dict)
    is_confirming: bool = True
    watch: ObjectWatch | None = None

    def build(self) -> ObjectWatch:
        async def connect() -> tuple[MemoryStore, WatchSpec]:
            pattern = KeyPattern(self.spec.get("pattern", "in/*"))
            rest = {key: value for key, value in self.spec.items() if key != "pattern"}
            spec = {"interval": 0.0, "batch_size": 2, "cursor": CURSOR} | rest
            return self.store, WatchSpec(bucket="bucket", pattern=pattern, **spec)

        return ObjectWatch(connect, self.log, interval=0.0)

    async def run(self) -> None:
        self.watch = self.build()
        async with aclosing(self.watch.events()) as events:
            async for event in events:
                self.stored.append(event)
                await asyncio.sleep(0)
                if self.is_confirming:
                    self.watch.confirm(event["id"])

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.run())

    @property
    def told(self) -> list[str]:
        return [each["key"] for event in self.stored for each in event["objects"]]


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def begin(store: MemoryStore, **spec: Any) -> tuple[Watcher, asyncio.Task[None]]:
    """Start a watcher and wait until it has its baseline."""
    watcher = Watcher(store, spec=spec)
    task = watcher.start()
    await eventually(lambda: CURSOR.key in store.objects)
    return watcher, task


async def test_each_new_and_changed_object_is_told_once() -> None:
    store = MemoryStore()
    store.put("in/old")
    watcher, task = await begin(store)
    store.put("in/a")
    store.put("in/b")
    store.put("in/c")
    store.put("elsewhere/d")
    await eventually(lambda: len(watcher.told) >= 3)
    store.put("in/a", b"other")
    await eventually(lambda: len(watcher.told) >= 4)
    await asyncio.sleep(0.05)
    await stop(task)
    assert sorted(watcher.told) == ["in/a", "in/a", "in/b", "in/c"]
    ids = [event["id"] for event in watcher.stored]
    assert ids == [f"test-{number + 1}" for number in range(len(ids))]
    last = watcher.stored[-1]
    assert last["objects"][0]["change"] == "changed"
    assert last["is_repeat"] is False


async def test_an_event_is_written_down_before_it_is_told() -> None:
    store = MemoryStore()
    watcher, task = await begin(store)
    watcher.is_confirming = False
    store.put("in/a")
    await eventually(lambda: watcher.told)
    assert b'"id": "test-1"' in store.objects[CURSOR.key].data
    store.put("in/b")
    await asyncio.sleep(0.05)
    # Nothing more is told while nobody says that the first is stored.
    assert watcher.told == ["in/a"]
    await stop(task)


async def test_an_event_that_was_not_confirmed_is_told_again_as_a_repeat() -> None:
    store = MemoryStore()
    watcher, task = await begin(store)
    watcher.is_confirming = False
    store.put("in/a")
    await eventually(lambda: watcher.told)
    await stop(task)
    store.put("in/b")
    watcher.is_confirming = True
    task = watcher.start()
    await eventually(lambda: "in/b" in watcher.told)
    await stop(task)
    first, again, last = watcher.stored
    assert again == {**first, "is_repeat": True}
    assert (last["id"], last["is_repeat"]) == ("test-2", False)
    assert any("told again" in line for line in watcher.log.lines)


async def test_an_event_that_was_confirmed_is_not_told_again_when_its_note_failed() -> None:
    store = MemoryStore()
    watcher, task = await begin(store)
    asked = 0

    def away(request: str) -> None:
        nonlocal asked
        # The first write is the event's, the second one its note.
        asked += request.startswith("write")
        if asked == 2:
            asked += 1
            raise StoreAwayError("away")

    store.before = away
    store.put("in/a")
    await eventually(lambda: asked >= 4)
    store.put("in/b")
    await eventually(lambda: "in/b" in watcher.told)
    await stop(task)
    assert watcher.told == ["in/a", "in/b"]
    assert [event["is_repeat"] for event in watcher.stored] == [False, False]


async def test_a_lost_answer_to_a_write_is_no_other_watcher() -> None:
    store = MemoryStore()
    watcher, task = await begin(store)
    losses = iter([True, False])

    def lose() -> None:
        if next(losses, False):
            raise StoreAwayError("the answer was lost")

    store.after_write = lose
    store.put("in/a")
    store.put("in/b")
    await eventually(lambda: len(watcher.told) >= 2)
    await asyncio.sleep(0.05)
    assert not task.done()
    await stop(task)
    # The event that was written and not told is what a restart finds.
    assert set(watcher.told) == {"in/a", "in/b"}


async def test_who_loses_the_cursor_stops_and_says_why() -> None:
    store = MemoryStore()
    first, first_task = await begin(store)
    second = Watcher(store)
    second_task = second.start()
    # It has taken the cursor over when it has written it.
    await eventually(
        lambda: second.watch and second.watch._owner.encode() in store.objects[CURSOR.key].data
    )
    store.put("in/a")
    with pytest.raises(CursorTakenError, match="Another watcher goes on with the cursor"):
        await first_task
    await eventually(lambda: second.told == ["in/a"])
    await stop(second_task)
    assert first.told == []


async def test_who_lost_the_cursor_during_an_outage_does_not_take_it_back() -> None:
    store = MemoryStore()
    _first, first_task = await begin(store)

    def be_away(_request: str) -> None:
        raise StoreAwayError("away")

    store.before = be_away
    asked = len(store.requests)
    await eventually(lambda: len(store.requests) > asked)
    cursor = decode_cursor(store.objects[CURSOR.key].data, str(CURSOR))
    cursor.owner = "other"
    store.put(CURSOR.key, cursor.encode())
    store.before = lambda _request: None
    with pytest.raises(CursorTakenError, match="Another watcher goes on with the cursor"):
        await first_task
    assert decode_cursor(store.objects[CURSOR.key].data, str(CURSOR)).owner == "other"


async def test_a_wrong_key_or_bucket_is_told_once_and_outlasted() -> None:
    store = MemoryStore()

    def refuse(_request: str) -> None:
        raise StoreRefusedError("NoSuchBucket: no bucket of that name exists.")

    store.before = refuse
    watcher = Watcher(store)
    task = watcher.start()
    await eventually(lambda: len(store.requests) > 3)
    store.before = lambda _request: None
    await eventually(lambda: CURSOR.key in store.objects)
    store.put("in/a")
    await eventually(lambda: watcher.told == ["in/a"])
    await stop(task)
    assert [line.split(":")[0] for line in watcher.log.lines if "NoSuchBucket" in line] != []
    assert len([line for line in watcher.log.lines if "NoSuchBucket" in line]) == 1
    assert "The object store answers again" in watcher.log.lines[1]


async def test_a_store_that_ignores_conditions_is_refused() -> None:
    store = MemoryStore(honours_conditions=False)
    watcher = Watcher(store, spec={"includes_existing": True})
    store.put("in/a")
    task = watcher.start()
    await eventually(lambda: store.requests.count(f"write {CURSOR.key}") > 5)
    await stop(task)
    assert watcher.told == []
    [line] = watcher.log.lines
    assert line.startswith("No usable answer from the object store since")
    assert "ignores the condition of a conditional write" in line


async def test_a_cursor_that_was_moved_to_such_a_store_is_refused_as_well() -> None:
    store = MemoryStore()
    _watcher, task = await begin(store)
    await stop(task)
    there, store.honours_conditions = store.objects[CURSOR.key].data, False
    store.put("in/a")
    watcher = Watcher(store)
    task = watcher.start()
    await eventually(lambda: store.requests.count(f"write {CURSOR.key}") > 5)
    await stop(task)
    assert watcher.told == []
    assert store.objects[CURSOR.key].data == there


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"pattern": "out/*"}, "is of a watch of"), ({"by_content": True}, "`rewritten`")],
)
async def test_a_cursor_of_another_watch_is_not_used(changed: dict[str, Any], said: str) -> None:
    store = MemoryStore()
    _watcher, task = await begin(store)
    await stop(task)
    other = Watcher(store, spec=changed)
    task = other.start()
    await eventually(lambda: other.log.lines)
    await stop(task)
    assert said in other.log.lines[0]


async def test_metadata_comes_with_the_object_it_belongs_to() -> None:
    store = MemoryStore()
    watcher, task = await begin(store, with_metadata=True)
    store.put("in/a", station="Hyytiälä")
    await eventually(lambda: watcher.told)
    assert watcher.stored[0]["objects"][0]["metadata"] == {"station": "Hyytiälä"}

    def replace(request: str) -> None:
        if request == "head in/b":
            store.before = lambda _request: None
            store.put("in/b", b"second", version="2")

    store.before = replace
    store.put("in/b", b"first", version="1")
    await eventually(lambda: "in/b" in watcher.told)
    await stop(task)
    (event,) = watcher.stored[1:]
    assert event["objects"][0]["metadata"] == {"version": "2"}


async def test_what_is_there_before_is_told_where_that_is_wanted() -> None:
    store = MemoryStore()
    for name in "abc":
        store.put(f"in/{name}")
    watcher = Watcher(store, spec={"includes_existing": True})
    task = watcher.start()
    await eventually(lambda: len(watcher.told) == 3)
    await stop(task)
    assert watcher.told == ["in/a", "in/b", "in/c"]


async def test_a_cursor_may_be_deleted_to_begin_anew() -> None:
    store = MemoryStore()
    watcher, task = await begin(store)
    del store.objects[CURSOR.key]
    store.put("in/a")
    with pytest.raises(CursorTakenError):
        await task
    task = watcher.start()
    await eventually(lambda: CURSOR.key in store.objects)
    store.put("in/b")
    await eventually(lambda: "in/b" in watcher.told)
    await stop(task)
    # It may have been told before the cursor was missed; afterwards it was there already.
    assert watcher.told in (["in/b"], ["in/a", "in/b"])


class Killed(BaseException):
    """The process ends here."""


async def live_and_be_killed(chance: random.Random, store: MemoryStore, stored: list[Any]) -> None:
    """Run until a random request, which fails before or after it took effect."""
    left = chance.randrange(1, 12)

    def kill(_request: str = "") -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    watcher = Watcher(store, stored=stored)
    if chance.random() < 0.3:
        # What is told now, Airflow has no time to store.
        watcher = Watcher(store, is_confirming=False)
    if chance.random() < 0.5:
        store.before = kill
    else:
        store.after_write = kill
    task = watcher.start()
    await asyncio.wait([task], timeout=0.02)
    store.before, store.after_write = (lambda _request: None), (lambda: None)
    task.cancel()
    with contextlib.suppress(Killed, asyncio.CancelledError):
        await task
    # What is left of a process that was killed.
    listing._pollers.clear()


@pytest.mark.parametrize("seed", range(60))
async def test_wherever_it_is_killed_all_is_told_and_repeats_are_recognised(seed: int) -> None:
    """The rule by which a reader drops repeats leaves each version of an object exactly once."""
    chance = random.Random(seed)
    store = MemoryStore()
    first, task = await begin(store)
    await stop(task)
    stored, versions = first.stored, set()
    for _ in range(8):
        for _ in range(chance.randrange(4)):
            key = f"in/{chance.choice('abcdef')}"
            versions.add((key, store.put(key, chance.randbytes(4))))
        await live_and_be_killed(chance, store, stored)
    watcher = Watcher(store, stored=stored)
    task = watcher.start()
    versions.add(("in/last", store.put("in/last")))
    await eventually(lambda: "in/last" in watcher.told)
    await stop(task)

    kept = read_once(stored)
    assert len(kept) == len(set(kept)), "told twice"
    # A version that was replaced before it was ever listed cannot be told of.
    final = {(key, held.etag) for key, held in store.objects.items() if key.startswith("in/")}
    assert final <= set(kept), "not told"
    assert set(kept) <= versions


def read_once(stored: list[ObjectsEvent]) -> list[tuple[str, str]]:
    """Read events as `assets.allas.read_objects` does."""
    known: set[str] = set()
    kept = []
    for event in stored:
        if not (event["is_repeat"] and event["id"] in known):
            kept += [(each["key"], each["etag"]) for each in event["objects"]]
        known.add(event["id"])
    return kept
