"""Changes of records, against a little store that does what a real one cannot be made to do."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.allas.records import parse_metadata
from airflow_provider_csc.errors import (
    RecordConflictError,
    RecordError,
    RecordInvalidError,
    RecordUnguardedError,
    RecordUnknownError,
)
from airflow_provider_csc.store import change as changing
from airflow_provider_csc.store import conditions
from airflow_provider_csc.store.change import change
from airflow_provider_csc.store.effort import read
from airflow_provider_csc.store.history import read_history
from airflow_provider_csc.store.purge import purge
from airflow_provider_csc.store.target import DELETE, KEEP, Options, Snapshot, Target
from tests.support.cutting import CuttingProxy, Fault
from tests.support.little_store import LittleStore, Stored, serve_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "state/counter.json"


@pytest.fixture(scope="module")
def served() -> Iterator[LittleStore]:
    with serve_store() as served:
        yield served


@pytest.fixture
def store(served: LittleStore) -> LittleStore:
    """An empty one, at one address for all tests: to make a client takes long."""
    served.begin_anew()
    conditions._known.clear()
    return served


@cache
def client_of(url: str) -> Any:
    return LittleStore(url=url).client()


def target(store: LittleStore, key: str = KEY, client: Any = None, **options: Any) -> Target:
    return Target(
        client=client or client_of(store.url),
        bucket="bucket",
        key=key,
        writer="me",
        options=Options(**options),
        sleep=lambda _seconds: None,
    )


def count(present: Any) -> dict[str, int]:
    value = present.snapshot.value or {"n": 0}
    return {"n": value["n"] + 1}


def put(store: LittleStore, value: bytes, key: str = KEY) -> None:
    """Write as another program does, that knows of no stamps."""
    store.objects[key] = Stored(value, {}, store.now())


def versions(store: LittleStore, prefix: str = "") -> list[str]:
    return sorted(key for key in store.objects if key.startswith(prefix))


# What a change writes


def test_a_record_is_plain_json_with_version_and_writer_in_its_metadata(store: LittleStore) -> None:
    first = change(target(store), count)
    second = change(target(store), count)
    assert (first.value, first.version, first.is_changed) == ({"n": 1}, 1, True)
    assert (second.value, second.version, second.writer) == ({"n": 2}, 2, "me")
    stored = store.objects[KEY]
    assert json.loads(stored.body) == {"n": 2}
    assert stored.metadata["csc-version"] == "2"
    assert stored.metadata["csc-writer"] == "me"
    assert versions(store) == [KEY], "the object on which conditions were tried out is gone"
    assert second.modified is not None
    assert read(target(store)).snapshot == Snapshot(
        value={"n": 2}, version=2, writer="me", modified=second.modified
    )


def test_the_same_content_has_another_etag_each_time(store: LittleStore) -> None:
    seen = set()
    for value in (1, 2, 1, 2, 1):
        change(target(store), lambda _, value=value: value)
        seen.add(store.objects[KEY].etag)
    assert len(seen) == 5


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: KEEP,
        lambda _: None,
        lambda present: present.snapshot.value,
        lambda _: {"b": [1, 2.5, None, True], "a": "x"},
    ],
)
def test_nothing_is_written_for_nothing_or_an_equal_value(
    store: LittleStore, answer: Callable[[Any], object]
) -> None:
    before = {"a": "x", "b": [1, 2.5, None, True]}
    change(target(store), lambda _: before)
    written = store.count("PUT", KEY)
    found = change(target(store), answer)
    assert (found.value, found.version, found.is_changed) == (before, 1, False)
    assert store.count("PUT", KEY) == written


def test_true_is_not_one(store: LittleStore) -> None:
    change(target(store), lambda _: {"a": 1})
    assert change(target(store), lambda _: {"a": True}).is_changed


def test_a_forgotten_return_is_no_quiet_loss(store: LittleStore) -> None:
    change(target(store), lambda _: {"n": 1})
    with pytest.raises(RecordInvalidError, match="changed its argument and returned None"):
        change(target(store), lambda present: present.snapshot.value.update(n=2))
    assert json.loads(store.objects[KEY].body) == {"n": 1}


def test_a_value_may_be_changed_in_place_and_returned(store: LittleStore) -> None:
    change(target(store), lambda _: {"n": 1})

    def compute(present: Any) -> Any:
        present.snapshot.value["n"] = 5
        return present.snapshot.value

    assert change(target(store), compute).is_changed
    assert json.loads(store.objects[KEY].body) == {"n": 5}


def test_what_the_function_raises_passes_and_nothing_is_written(store: LittleStore) -> None:
    change(target(store), count)
    with pytest.raises(ZeroDivisionError):
        change(target(store), lambda present: present.snapshot.value["n"] / 0)
    assert read(target(store)).snapshot.version == 1


@pytest.mark.parametrize(
    "value",
    [float("nan"), {1: 2}, {"a": {1, 2}}, b"x", {"a": object()}, "\ud800"],
    ids=["nan", "number as key", "set", "bytes", "object", "half a character"],
)
def test_what_json_does_not_have_is_refused(store: LittleStore, value: object) -> None:
    with pytest.raises(RecordInvalidError, match="is not JSON") as caught:
        change(target(store), lambda _: value)
    assert (caught.value.bucket, caught.value.key, caught.value.attempts) == ("bucket", KEY, 1)
    assert KEY not in store.objects


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a": NaN}', b'{"a":1,"a":2}', b"1e999", b"\xff", b"[" * 100_000]
)
def test_what_is_no_strict_json_is_not_overwritten(store: LittleStore, body: bytes) -> None:
    put(store, body)
    with pytest.raises(RecordInvalidError, match="is no record"):
        change(target(store), lambda _: 1)
    assert store.objects[KEY].body == body


def test_sizes_are_bounded_both_ways(store: LittleStore) -> None:
    with pytest.raises(RecordInvalidError, match=r"the new value has 2,068 bytes.* has 2,000 at"):
        change(target(store, max_bytes=2_000), lambda _: "x" * 2_000)
    put(store, json.dumps("x" * 3_000).encode())
    with pytest.raises(RecordInvalidError, match="has 3,002 bytes"):
        change(target(store, max_bytes=2_000), lambda _: 1)
    assert change(target(store, max_bytes=4_000), lambda _: 1).version == 1


def test_values_of_other_programs_are_taken_over_and_counted_from_one(store: LittleStore) -> None:
    put(store, b'{"n": 41}')
    before = read(target(store)).snapshot
    assert (before.value, before.version, before.writer) == ({"n": 41}, 0, None)
    assert change(target(store), count).version == 1
    assert change(target(store), count).version == 2
    put(store, b'{"n": 7}')
    assert change(target(store), count).version == 1
    assert json.loads(store.objects[KEY].body) == {"n": 8}


def test_metadata_that_was_copied_onto_another_content_is_not_believed(store: LittleStore) -> None:
    change(target(store), count)
    store.objects[KEY].body = b'{"n": 9}'
    assert read(target(store)).snapshot.version == 0


# Deletion


def test_a_deletion_leaves_null_and_the_versions_go_on(store: LittleStore) -> None:
    change(target(store), count)
    gone = change(target(store), lambda _: DELETE)
    assert (gone.value, gone.version, gone.is_changed) == (None, 2, True)
    assert json.loads(store.objects[KEY].body) is None
    assert change(target(store), lambda _: DELETE).is_changed is False
    assert change(target(store), count) == read_changed(store, {"n": 1}, 3)


def read_changed(store: LittleStore, value: object, version: int) -> Snapshot:
    found = read(target(store)).snapshot
    assert (found.value, found.version) == (value, version)
    return Snapshot(
        value=value, version=version, writer="me", modified=found.modified, is_changed=True
    )


def test_a_deleted_record_is_removed_later_where_the_store_guards_that(store: LittleStore) -> None:
    store.guards_delete = True
    change(target(store), count)
    assert purge(target(store)) is False, "it holds a value"
    change(target(store), lambda _: DELETE)
    with pytest.raises(RecordError, match="less than 15 minutes ago"):
        purge(target(store))
    store.ahead = dt.timedelta(minutes=16)
    assert purge(target(store)) is True
    assert versions(store) == []
    assert purge(target(store)) is False


def test_a_deleted_record_stays_where_the_store_deletes_blindly(store: LittleStore) -> None:
    change(target(store), count)
    change(target(store), lambda _: DELETE)
    store.ahead = dt.timedelta(minutes=16)
    with pytest.raises(RecordUnguardedError, match="without looking at If-Match"):
        purge(target(store))
    assert versions(store) == [KEY]


# Conditions


@pytest.mark.parametrize("wants", ["quoted", "bare", "any"])
def test_the_form_the_server_wants_is_found_out_once(store: LittleStore, wants: str) -> None:
    store.wants = wants
    for _ in range(3):
        change(target(store), count)
    assert read(target(store)).snapshot.value == {"n": 3}
    assert sum(method == "DELETE" for method, *_ in store.log) == 1


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ({"wants": None}, "If-Match: an object was overwritten that had changed"),
        ({"guards_creation": False}, "If-None-Match: an object was created twice"),
        ({"wants": "none"}, "taken neither in quotes nor bare"),
    ],
)
def test_a_store_that_ignores_conditions_is_refused(
    store: LittleStore, ways: dict[str, Any], said: str
) -> None:
    for name, value in ways.items():
        setattr(store, name, value)
    with pytest.raises(RecordUnguardedError, match=said):
        change(target(store), count)
    assert versions(store) == []
    again = change(target(store, allow_unguarded=True), count)
    assert again.value == {"n": 1}
    assert change(target(store, allow_unguarded=True), count).value == {"n": 2}


def test_a_refused_experiment_is_told_from_a_refused_change(store: LittleStore) -> None:
    store.interrupt = lambda method, key: 403 if method == "PUT" and key != KEY else None
    with pytest.raises(RecordError, match="whether the store honours conditions"):
        change(target(store), count)


def test_a_disturbed_experiment_is_repeated(store: LittleStore) -> None:
    left = [503, None, 500]
    store.interrupt = lambda method, _: left.pop() if method == "PUT" and left else None
    assert change(target(store), count).value == {"n": 1}


def test_a_server_that_becomes_another_is_tried_out_anew(store: LittleStore) -> None:
    change(target(store), count)
    store.wants = "bare"
    assert change(target(store), count).value == {"n": 2}


# Other writers


def interfere(store: LittleStore, times: int, value: bytes | None = None) -> Callable[[Any], Any]:
    """Count, with another writer between the read and the write, some times."""
    left = [None] * times

    def compute(present: Any) -> Any:
        if left:
            left.pop()
            if value is None:
                change(target(store), count)
            else:
                put(store, value)
        return count(present)

    return compute


def test_who_was_slower_computes_again(store: LittleStore) -> None:
    done = change(target(store), interfere(store, 3))
    assert (done.value, done.version) == ({"n": 4}, 4)


def test_who_is_slower_each_time_is_told_so(store: LittleStore) -> None:
    with pytest.raises(RecordConflictError, match="in 5 attempts") as caught:
        change(target(store, attempts=5), interfere(store, 9))
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.bucket, error.key, error.attempts) == ("bucket", KEY, 5)
    assert read(target(store)).snapshot.value == {"n": 5}, "those of the others"


def test_time_is_a_limit_too(store: LittleStore) -> None:
    with pytest.raises(RecordConflictError):
        change(target(store, timeout_seconds=0.2), interfere(store, 10**6))


def test_a_write_of_another_program_is_not_overwritten_either(store: LittleStore) -> None:
    change(target(store), count)
    assert change(target(store), interfere(store, 1, b'{"n": 70}')).value == {"n": 71}


def test_threads_share_a_client_and_lose_nothing(store: LittleStore) -> None:
    one = target(store)

    def work() -> None:
        for _ in range(4):
            change(one, count)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert read(one).snapshot.value == {"n": 24}
    assert read(one).snapshot.version == 24


# Lost answers


@pytest.fixture
def faults() -> list[Fault]:
    """What becomes of the next writes of the record, in order; nothing afterwards."""
    return []


@pytest.fixture
def proxy(store: LittleStore, faults: list[Fault]) -> Iterator[CuttingProxy]:
    def choose(method: str, path: str) -> Fault:
        return faults.pop(0) if faults and method == "PUT" and path.endswith(KEY) else Fault.NONE

    host, port = store.url.removeprefix("http://").split(":")
    with CuttingProxy((host, int(port)), choose) as cutting:
        yield cutting


def through(
    proxy: CuttingProxy, store: LittleStore, read_timeout: float = 30, **options: Any
) -> Target:
    direct, store.url = store.url, proxy.url
    try:
        return target(store, client=store.client(read_timeout=read_timeout), **options)
    finally:
        store.url = direct


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(
    "lost",
    [
        [Fault.LOSE_ANSWER],
        [Fault.LOSE_REQUEST],
        [Fault.SILENT],
        [Fault.LOSE_REQUEST, Fault.LOSE_REQUEST, Fault.LOSE_ANSWER],
        [Fault.LATE, Fault.LATE, Fault.LOSE_ANSWER],
    ],
    ids=str,
)
def test_a_lost_answer_makes_no_second_change(
    store: LittleStore, proxy: CuttingProxy, faults: list[Fault], lost: list[Fault], is_there: bool
) -> None:
    if is_there:
        change(target(store), count)
    faults += lost
    patience = 2 if Fault.SILENT in lost else 30
    done = change(through(proxy, store, read_timeout=patience), count)
    assert (done.value, done.version, done.is_changed) == (
        {"n": 1 + is_there},
        1 + is_there,
        True,
    )
    proxy.deliver()
    assert read(target(store)).snapshot.value == {"n": 1 + is_there}
    assert not faults


def test_a_request_that_arrives_late_is_refused_by_its_condition(
    store: LittleStore, proxy: CuttingProxy, faults: list[Fault]
) -> None:
    """Also when the value is what it was before: the ETag is not."""
    change(target(store), lambda _: 5)
    faults.append(Fault.LATE)
    change(through(proxy, store), lambda _: 6)
    change(target(store), lambda _: 5)
    assert [b"412" in line for line in proxy.deliver()] == [True]
    assert read(target(store)).snapshot.value == 5


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.LOSE_REQUEST])
@pytest.mark.parametrize("others", [1, 101])
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "old"])
def test_a_lost_write_is_found_below_those_of_others(
    store: LittleStore, fault: Fault, others: int, is_there: bool
) -> None:
    """Further writes of one session take one place in the metadata, however many they are."""
    if is_there:
        change(target(store), count)
    busy = target(store)

    def choose(method: str, path: str) -> Fault:
        if method != "PUT" or not path.endswith(KEY) or proxy.count(fault):
            return Fault.NONE
        return fault

    host, port = store.url.removeprefix("http://").split(":")
    with CuttingProxy((host, int(port)), choose) as proxy:
        slow = through(proxy, store)
        rest = threading.Event()

        def interrupt(method: str, key: str) -> None:
            # The others write between the lost write and the look that follows it.
            if method == "GET" and key == KEY and proxy.count(fault) and not rest.is_set():
                rest.set()
                store.interrupt = lambda _method, _key: None
                store.lock.release()
                for _ in range(others):
                    change(busy, count)
                store.lock.acquire()

        store.interrupt = interrupt
        done = change(slow, count)
    assert done.is_changed
    assert read(target(store)).snapshot.value == {"n": 1 + is_there + others}


def test_a_write_that_cannot_be_told_from_those_of_others_is_an_error(
    store: LittleStore, proxy: CuttingProxy, faults: list[Fault]
) -> None:
    """Another program writes without a stamp over what may have been ours."""
    change(target(store), count)
    faults.append(Fault.LOSE_ANSWER)
    written = []

    def interrupt(method: str, key: str) -> None:
        # The first look after the write whose answer was lost.
        if method == "GET" and key == KEY and not faults and not written:
            written.append(key)
            put(store, b'{"n": 100}')

    store.interrupt = interrupt
    with pytest.raises(RecordUnknownError, match="may have been changed, or not") as caught:
        change(through(proxy, store), count)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.writer == "me"
    assert (error.bucket, error.key) == ("bucket", KEY)
    assert error.write_id in str(error)
    assert read(target(store)).snapshot.value == {"n": 100}


def test_an_answer_that_stays_away_is_an_error_that_says_so(
    store: LittleStore, proxy: CuttingProxy, faults: list[Fault]
) -> None:
    faults += [Fault.LOSE_REQUEST] * 9
    with pytest.raises(RecordUnknownError, match="in 3 attempts"):
        change(through(proxy, store, attempts=3), count)


def test_a_store_that_is_away_is_no_unknown_write(store: LittleStore) -> None:
    store.interrupt = lambda _method, _key: 503
    with pytest.raises(RecordError, match="could not be used in 3 attempts") as caught:
        change(target(store, attempts=3), count)
    assert type(caught.value) is RecordError


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_after_the_write_is_looked_into(store: LittleStore, status: int) -> None:
    change(target(store), count)
    left = [status]
    store.afterwards = lambda method, _: left.pop() if method == "PUT" and left else None
    assert change(target(store), count).value == {"n": 2}
    assert read(target(store)).snapshot.value == {"n": 2}
    assert not left


def test_botocores_own_second_try_that_is_refused_is_not_a_conflict(store: LittleStore) -> None:
    """The first try was stored and answered 500; the second is answered 412."""
    change(target(store), count)
    left = [500]
    store.afterwards = lambda method, _: left.pop() if method == "PUT" and left else None
    assert change(target(store, client=store.client(attempts=3)), count).version == 2
    assert read(target(store)).snapshot.value == {"n": 2}
    assert [status for method, key, status in store.log if (method, key) == ("PUT", KEY)] == [
        "200",
        "500",
        "412",
    ]


def test_a_refused_change_is_refused_at_once(store: LittleStore) -> None:
    change(target(store), count)
    store.interrupt = lambda method, _: 403 if method == "PUT" else None
    with pytest.raises(RecordError, match="was not changed") as caught:
        change(target(store), count)
    assert caught.value.attempts == 1


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_bucket_is_no_missing_record(store: LittleStore, status: int) -> None:
    change(target(store), count)
    store.interrupt = lambda _method, _key: status
    with pytest.raises(RecordError, match="cannot be read"):
        read(target(store))
    with pytest.raises(RecordError, match="cannot be read"):
        change(target(store), count)


def test_what_a_proxy_says_to_a_write_is_no_conflict(store: LittleStore) -> None:
    change(target(store), count)
    store.interrupt = lambda method, _key: 404 if method == "PUT" else None
    with pytest.raises(RecordError, match="was not changed") as caught:
        change(target(store), count)
    assert caught.value.attempts == 1


# History


def test_versions_that_are_replaced_are_kept_in_order(store: LittleStore) -> None:
    kept = target(store, history_prefix="old/", history_keep=5)
    put(store, b'{"n": 4}')
    put(store, b"not ours", "old/note.txt")
    for _ in range(8):
        change(kept, count)
    found = list(read_history(kept))
    assert [each.value["n"] for each in found] == [7, 8, 9, 10, 11]
    assert [each.version for each in found] == [3, 4, 5, 6, 7]
    assert {each.writer for each in found} == {"me"}
    assert store.objects["old/note.txt"].body == b"not ours"


def test_the_value_of_another_program_is_kept_too(store: LittleStore) -> None:
    kept = target(store, history_prefix="old/")
    put(store, b'{"n": 4}')
    change(kept, count)
    change(kept, lambda _: DELETE)
    change(kept, lambda _: "again")
    found = list(read_history(kept))
    assert [(each.version, each.value) for each in found] == [
        (0, {"n": 4}),
        (1, {"n": 5}),
        (2, None),
    ]


def test_a_version_is_kept_before_it_is_replaced(store: LittleStore) -> None:
    """So that who is killed between the two leaves no gap."""
    change(target(store), count)
    order: list[str] = []
    store.interrupt = lambda method, key: order.append(key) if method == "PUT" else None
    change(target(store, history_prefix="old/"), count)
    assert order[0].startswith("old/")
    assert order[1:] == [KEY]


def test_a_change_is_not_made_where_its_history_cannot_be_written(store: LittleStore) -> None:
    change(target(store), count)
    store.interrupt = lambda _, key: 403 if key.startswith("old/") else None
    with pytest.raises(RecordError, match="its history is not written"):
        change(target(store, history_prefix="old/"), count)
    assert read(target(store)).snapshot.version == 1


def test_a_record_without_history_has_none(store: LittleStore) -> None:
    change(target(store), count)
    assert list(read_history(target(store))) == []


# Sessions


def test_many_writes_of_few_writers_take_little_room(store: LittleStore) -> None:
    for _ in range(30):
        change(target(store), count)
    stamp = parse_metadata(store.objects[KEY].metadata, store.objects[KEY].body)
    assert stamp is not None
    assert len(stamp.recent) == 1


def test_a_session_whose_write_may_be_under_way_is_not_used_again(
    store: LittleStore, proxy: CuttingProxy, faults: list[Fault]
) -> None:
    changing._sessions.clear()
    faults += [Fault.LATE] * 2
    with pytest.raises(RecordUnknownError):
        change(through(proxy, store, attempts=1), count)
    assert changing._sessions == []


@pytest.mark.parametrize("name", ["attempts", "max_bytes", "history_keep"])
def test_options_that_cannot_be_meant_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be 1 or more"):
        Options(**{name: 0})
    with pytest.raises(ValueError, match="history_prefix is empty"):
        Options(history_prefix="")
