"""One listing for all who wait for objects below one prefix."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.allas.objects import KeyPattern
from airflow_provider_csc.allas.waiting import ObjectWait, WaitSpec
from airflow_provider_csc.client import listing
from airflow_provider_csc.client.listing import Away, PrefixPoller, listing_of
from airflow_provider_csc.client.object_wait import ObjectWaiter
from airflow_provider_csc.errors import StoreAwayError, StoreRefusedError
from tests.support.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_csc.client.object_wait import Found

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_FLOOR_SECONDS", 0.01)


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, _level: int, message: str, /, *args: object) -> None:
        self.lines.append(message % args)


@pytest.fixture
def log() -> Iterator[Lines]:
    return Lines()


def waiter(
    store: MemoryStore, pattern: str, log: Lines | None = None, **spec: object
) -> ObjectWaiter:
    wait = ObjectWait(WaitSpec(pattern=KeyPattern(pattern), **spec))
    return ObjectWaiter(store, "bucket", wait, log or Lines())


async def follow(store: MemoryStore, pattern: str, **spec: object) -> Found:
    return await waiter(store, pattern, **spec).follow(interval=0.02)


async def eventually(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_whatever_they_wait_for_one_listing_serves_them_all() -> None:
    store = MemoryStore()
    waits = [
        asyncio.create_task(follow(store, "in/*.csv", min_count=2)),
        asyncio.create_task(follow(store, "in/*.done")),
        asyncio.create_task(follow(store, "in/**", min_count=4, quiet_seconds=0)),
        *(asyncio.create_task(follow(store, f"in/{number}")) for number in range(100)),
    ]
    await eventually(lambda: len(store.requests) >= 5)
    seen = len(store.requests)
    await asyncio.sleep(0.2)
    # The floor and the interval allow ten listings; a hundred who wait would ask a thousand times.
    assert len(store.requests) - seen <= 15
    assert set(store.requests) == {"list in/ 1000"}
    for key in ("in/a.csv", "in/b.csv", "in/all.done", *(f"in/{number}" for number in range(100))):
        store.put(key)
    found = await asyncio.gather(*waits)
    assert [each["key"] for each in found[0].objects] == ["in/a.csv", "in/b.csv"]
    assert found[2].count == 103
    assert found[3].objects[0]["key"] == "in/0"


async def test_one_key_is_asked_for_alone_however_full_its_directory_is() -> None:
    store = MemoryStore()
    for number in range(3000):
        store.put(f"in/{number:04}")
    wait = asyncio.create_task(follow(store, "in/9999"))
    await eventually(lambda: len(store.requests) >= 3)
    assert set(store.requests) == {"list in/9999 1"}
    store.put("in/9999")
    assert (await wait).count == 1


async def test_a_key_that_others_begin_with_is_not_found_by_them() -> None:
    store = MemoryStore()
    store.put("in/a.part")
    assert await waiter(store, "in/a").look() is None
    store.put("in/a")
    found = await waiter(store, "in/a").look()
    assert found is not None
    assert found.objects[0]["key"] == "in/a"


async def test_several_keys_are_asked_for_as_is_cheaper() -> None:
    store = MemoryStore(page_size=10)
    for number in range(100):
        store.put(f"in/{number:03}")
    waits = [asyncio.create_task(follow(store, f"in/x{number}")) for number in range(3)]
    await eventually(lambda: "list in/x0 1" in store.requests)
    # Once as a whole, which took ten requests; from then on one for each of the three.
    assert store.requests.count("list in/ 1000") == 10
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def test_a_newcomer_is_served_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    store.put("in/b.csv")
    patient = asyncio.create_task(waiter(store, "in/a*").follow(interval=3600))
    await eventually(lambda: store.requests)
    async with asyncio.timeout(1):
        assert (await waiter(store, "in/b*").follow(interval=3600)).count == 1
    patient.cancel()


async def test_an_outage_is_told_once_and_outlasted(log: Lines) -> None:
    store = MemoryStore()

    def away(_request: str) -> None:
        raise StoreAwayError(f"it refused the connection after {len(store.requests)} s.")

    store.before = away
    wait = asyncio.create_task(waiter(store, "in/*", log).follow(interval=0.01))
    await eventually(lambda: len(store.requests) >= 4)
    (line,) = log.lines
    assert line.startswith("No answer from the object store since")
    assert "it uses up no retry, and its own time limits still hold" in line
    store.before = lambda _request: None
    store.put("in/a")
    async with asyncio.timeout(5):
        await wait
    assert log.lines[1].startswith("The object store answers again after")
    assert log.lines[2:] == ["1 of 1 object is there."]


async def test_the_pauses_grow_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = []

    def backoff(count: int, shortest: float) -> float:
        failures.append(count)
        return 0.0

    monkeypatch.setattr(listing, "backoff_seconds", backoff)
    store = MemoryStore()

    def away(_request: str) -> None:
        raise StoreAwayError("away")

    store.before = away
    wait = asyncio.create_task(follow(store, "in/*"))
    await eventually(lambda: len(failures) >= 3)
    assert failures[:3] == [1, 2, 3]
    wait.cancel()


async def test_who_comes_during_an_outage_hears_of_it_at_once() -> None:
    store = MemoryStore()

    def away(_request: str) -> None:
        raise StoreAwayError("away")

    store.before = away
    poller = listing_of(store, "bucket", KeyPattern("in/*"))
    first = poller.watch(ObjectWait(WaitSpec(pattern=KeyPattern("in/*"))), interval=60)
    second = poller.watch(ObjectWait(WaitSpec(pattern=KeyPattern("in/*"))), interval=60)
    async with aclosing(first), aclosing(second):
        assert await anext(first) == Away("away")
        asked = len(store.requests)
        assert await anext(second) == Away("away")
        assert len(store.requests) == asked


async def test_what_no_waiting_mends_is_raised_for_all_at_once() -> None:
    store = MemoryStore()

    def refuse(_request: str) -> None:
        raise StoreRefusedError("NoSuchBucket: no bucket of that name exists.")

    store.before = refuse
    async with asyncio.timeout(5):
        results = await asyncio.gather(
            follow(store, "in/*"), follow(store, "in/a"), return_exceptions=True
        )
    assert [type(result) for result in results] == [StoreRefusedError] * 2


async def test_a_listing_that_breaks_off_counts_for_nobody() -> None:
    store = MemoryStore(page_size=2)
    for name in "abcd":
        store.put(f"in/{name}")
    breaks = iter([False, True])

    def away_once(_request: str) -> None:
        if next(breaks, False):
            raise StoreAwayError("it broke off")

    store.before = away_once
    found = await follow(store, "in/*", min_count=4)
    assert found.count == 4
    assert len(store.requests) == 4


async def test_a_document_is_read_when_it_changes_and_only_then() -> None:
    from airflow_provider_csc.allas.json_condition import parse_condition

    store, log = MemoryStore(), Lines()
    store.put("in/status.json", b'{"status": "running"}')
    condition = parse_condition({"status": "done"})
    wait = asyncio.create_task(
        waiter(store, "in/status.json", log, condition=condition).follow(interval=0.01)
    )
    await eventually(lambda: len(store.requests) >= 6)
    assert store.requests.count("read in/status.json") == 1
    store.put("in/status.json", b'{"status": "done"}')
    async with asyncio.timeout(5):
        assert (await wait).count == 1
    assert "in/status.json: status is the text 'running', not == the text 'done'." in log.lines


async def test_who_looks_once_reads_all_documents() -> None:
    from airflow_provider_csc.allas.json_condition import parse_condition
    from airflow_provider_csc.allas.waiting import MAX_READS

    store = MemoryStore()
    for number in range(MAX_READS + 20):
        store.put(f"in/{number:04}", b'{"status": "done"}')
    wanted = {"condition": parse_condition({"status": "done"}), "min_count": MAX_READS + 20}
    assert await waiter(store, "in/*", **wanted).look() is None
    found = await waiter(store, "in/*", **wanted, max_reads=None).look()
    assert found is not None
    assert found.count == MAX_READS + 20


async def test_the_last_one_ends_it_and_another_begins_it_again() -> None:
    store = MemoryStore()
    store.put("in/a")
    for _ in range(2):
        assert (await follow(store, "in/*")).count == 1
        assert listing._pollers[asyncio.get_running_loop()] == {}
        assert [t for t in asyncio.all_tasks() if t.get_name() == "allas-prefix-poller"] == []


async def test_what_goes_wrong_for_one_is_no_others_business() -> None:
    class Broken:
        exact = None

        def begin(self) -> None:
            pass

        def see(self, objects: object) -> None:
            raise ZeroDivisionError

    store = MemoryStore()
    store.put("in/a")
    poller = PrefixPoller(store, "bucket", "in/")
    broken = poller.watch(Broken(), interval=0)
    well = poller.watch(ObjectWait(WaitSpec(pattern=KeyPattern("in/*"))), interval=0)
    async with aclosing(broken), aclosing(well):
        results = await asyncio.gather(anext(broken), anext(well), return_exceptions=True)
    assert isinstance(results[0], ZeroDivisionError)
    assert not isinstance(results[1], Exception)
