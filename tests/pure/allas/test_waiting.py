"""When the objects a sensor waits for are there."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_csc.allas.json_condition import parse_condition
from airflow_provider_csc.allas.objects import KeyPattern, StoredObject
from airflow_provider_csc.allas.waiting import MAX_READS, ObjectWait, WaitSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stored(key: str, *, etag: str = "e", age: float = 100.0, size: int = 1) -> StoredObject:
    return StoredObject(key, size, etag, NOW - timedelta(seconds=age))


def show(wait: ObjectWait, *pages: Iterable[StoredObject], at: float = 0.0) -> list[StoredObject]:
    wait.begin()
    for page in pages:
        wait.see(page)
    return wait.end(clock=NOW.timestamp() + at, steady=at)


def waiting(pattern: str = "in/*", **spec: object) -> ObjectWait:
    return ObjectWait(WaitSpec(pattern=KeyPattern(pattern), **spec))


def test_one_object_is_enough_unless_more_are_asked_for() -> None:
    wait = waiting()
    show(wait, [])
    assert not wait.is_met
    assert wait.progress == "0 of 1 objects are there."
    show(wait, [stored("in/a"), stored("other")])
    assert wait.is_met
    assert [each.key for each in wait.found] == ["in/a"]


def test_a_count_is_counted_over_all_pages() -> None:
    wait = waiting(min_count=3)
    show(wait, [stored("in/a"), stored("in/b")], [])
    assert not wait.is_met
    show(wait, [stored("in/a"), stored("in/b")], [stored("in/c")])
    assert wait.is_met
    assert wait.count == 3


def test_of_very_many_only_so_many_are_kept() -> None:
    wait = waiting(min_count=50_000, max_results=10)
    tracemalloc.start()
    wait.begin()
    for page in range(50):
        wait.see(stored(f"in/{page:02}{number:03}", etag="e" * 32) for number in range(1000))
    wait.end(clock=NOW.timestamp(), steady=0.0)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert wait.is_met
    assert (wait.count, len(wait.found)) == (50_000, 10)
    assert peak < 100_000


def test_an_age_by_the_stores_clock_needs_no_waiting() -> None:
    wait = waiting(quiet_seconds=60)
    show(wait, [stored("in/a", age=61)])
    assert wait.is_met


def test_a_young_object_is_waited_for_until_it_is_old_enough() -> None:
    wait = waiting(quiet_seconds=60)
    show(wait, [stored("in/a", age=100), stored("in/b", age=10)])
    assert not wait.is_met
    assert wait.progress.endswith("Waiting until nothing has changed for 60 s.")
    show(wait, [stored("in/a", age=100), stored("in/b", age=10)], at=49)
    assert not wait.is_met
    show(wait, [stored("in/a", age=100), stored("in/b", age=10)], at=51)
    assert wait.is_met


def test_what_comes_goes_or_changes_begins_the_rest_anew() -> None:
    wait = waiting(quiet_seconds=60)
    a, b = stored("in/a", age=30), stored("in/b", age=30)
    for at, there in enumerate(([a, b], [a], [a, stored("in/b", age=500)])):
        show(wait, there, at=at * 50)
    # The last one is an old object that came late, as a copy that keeps its time does.
    assert not wait.is_met
    show(wait, [a, stored("in/b", age=500)], at=100 + 61)
    assert wait.is_met


def test_nothing_is_not_at_rest() -> None:
    wait = waiting(quiet_seconds=1)
    show(wait, [], at=1_000)
    assert not wait.is_met


CONDITION = parse_condition({"status": "done"})


def test_every_version_of_a_document_is_read_once() -> None:
    wait = waiting(condition=CONDITION)
    first = stored("in/a", etag="1")
    assert show(wait, [first]) == [first]
    told = wait.judge(first, b'{"status": "running"}')
    assert told == "in/a: status is the text 'running', not == the text 'done'."
    assert not wait.is_met
    assert show(wait, [first]) == []
    second = stored("in/a", etag="2")
    assert show(wait, [second]) == [second]
    wait.judge(second, b'{"status": "done"}')
    assert wait.is_met
    assert show(wait, [second]) == []
    assert wait.is_met


def test_a_document_that_was_replaced_meanwhile_is_read_again() -> None:
    wait = waiting(condition=CONDITION)
    one = stored("in/a")
    show(wait, [one])
    assert wait.judge(one, None) is None
    assert show(wait, [one]) == [one]


def test_what_is_no_json_or_too_large_does_not_meet_it_and_is_told_once() -> None:
    wait = waiting(condition=CONDITION)
    no_json, large = stored("in/a"), stored("in/b", size=2**30)
    show(wait, [no_json, large])
    assert "in/a: it is no JSON document" in str(wait.judge(no_json, b"\x00"))
    assert "1073741824 bytes" in str(wait.refuse_large(large))
    show(wait, [stored("in/a", etag="2"), large])
    assert wait.judge(stored("in/a", etag="2"), b"\x00") is None
    assert not wait.is_met


def test_of_several_so_many_must_meet_it_and_those_are_returned() -> None:
    wait = waiting(condition=CONDITION, min_count=2)
    rows = [stored(f"in/{name}") for name in "abc"]
    for row, status in zip(show(wait, rows), ("done", "running", "done"), strict=True):
        wait.judge(row, f'{{"status": "{status}"}}'.encode())
    assert wait.is_met
    assert [each.key for each in wait.found] == ["in/a", "in/c"]


def test_of_very_many_documents_some_are_read_after_each_listing() -> None:
    wait = waiting(condition=CONDITION, min_count=250)
    rows = [stored(f"in/{number:03}") for number in range(250)]
    read = []
    for _ in range(3):
        unread = show(wait, rows)
        read.append(len(unread))
        for row in unread:
            wait.judge(row, b'{"status": "done"}')
    assert read == [MAX_READS, MAX_READS, 50]
    assert wait.is_met
