"""Leases against a little store whose clock is set as one likes."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import LeaseError, LeaseHeldError, LeaseLostError
from airflow_provider_csc.store.change import change
from airflow_provider_csc.store.leases import Lease
from airflow_provider_csc.store.target import DELETE, Options, Target, read_clock
from tests.support.cutting import CuttingProxy, Fault

if TYPE_CHECKING:
    from tests.support.little_store import LittleStore

KEY = "leases/one"


def target(store: LittleStore, **options: Any) -> Target:
    return Target(
        client=store.client(),
        bucket="bucket",
        key=KEY,
        writer="me",
        options=Options(**options),
    )


def lease(store: LittleStore, owner: str = "one", **settings: Any) -> Lease:
    return Lease(lambda: target(store), owner=owner, **settings)


def test_a_lease_is_one_holders_until_it_is_given_back(store: LittleStore) -> None:
    with lease(store) as one:
        assert one.is_held
        with pytest.raises(LeaseHeldError, match="held by one until") as caught:
            lease(store, "two").acquire()
        assert caught.value.holder == "one"
        dt.datetime.fromisoformat(caught.value.expires)
    assert not one.is_held
    with lease(store, "two") as two:
        assert two.is_held


def test_numbers_grow_with_each_holder_also_over_a_deletion(store: LittleStore) -> None:
    tokens = []
    for turn in range(6):
        with lease(store, f"h{turn}") as held:
            tokens.append(held.token)
        if turn % 2:
            change(target(store), lambda _: DELETE)
    assert tokens == sorted(set(tokens))


def test_who_waits_looks_once_more_at_the_end(store: LittleStore) -> None:
    """The pause before that is as long as there is time left, and the holder leaves meanwhile."""
    first = lease(store)
    first.acquire()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        first.release()

    place = replace(target(store), sleep=sleep, draw=lambda: 1.0)
    with Lease(lambda: place, owner="two", wait_seconds=2) as two:
        assert two.is_held
    assert len(slept) == 1
    assert 0 < slept[0] <= 2


def test_nobody_waits_longer_than_was_asked(store: LittleStore) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    place = replace(target(store), sleep=sleep)
    with lease(store), pytest.raises(LeaseHeldError):
        Lease(lambda: place, owner="two").acquire(wait_seconds=1)
    assert 0 < sum(slept) <= 1


def test_a_holder_that_vanished_is_waited_for_by_the_stores_clock(store: LittleStore) -> None:
    """Not by any machine's; and a moment longer, for the store's own clocks may differ."""
    store.stands_at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    vanished = lease(store, seconds=60)
    vanished.acquire()
    assert vanished._holding is not None
    vanished._holding._has_ended.set()  # no renewal any more
    store.ahead = dt.timedelta(seconds=62)
    with pytest.raises(LeaseHeldError):
        lease(store, "two").acquire()
    store.ahead = dt.timedelta(seconds=63)
    with lease(store, "two") as two:
        assert two.token > 1


def test_a_holder_that_was_overtaken_is_told_by_all_ways(store: LittleStore) -> None:
    told: list[LeaseLostError] = []
    heard = threading.Event()

    def hear(error: LeaseLostError) -> None:
        told.append(error)
        heard.set()

    with pytest.raises(LeaseLostError), lease(store, seconds=600, on_lost=hear) as held:  # noqa: PT012
        token = held.token
        store.ahead = dt.timedelta(hours=1)
        with lease(store, "two") as two:
            assert held._holding is not None
            held._holding._renew()
            assert heard.wait(600)
            with pytest.raises(LeaseLostError, match="held by two now") as caught:
                held.check()
            next_token = two.token
            assert caught.value.token == token < next_token
            assert not held.is_held
    assert [each.reason for each in told] == ["it is held by two now"]
    value = json.loads(store.objects[KEY].body)
    assert (value["token"], value["holder"]) == (next_token, None)


def test_who_gives_it_back_during_a_renewal_has_not_lost_it(store: LittleStore) -> None:
    told: list[LeaseLostError] = []
    held = lease(store, on_lost=told.append)
    held.acquire()
    holding = held._holding
    assert holding is not None
    held.release()
    holding._renew()  # it finds that nobody holds it
    holding._watch()
    assert told == []


def test_a_lease_that_took_too_long_to_take_is_lost_and_given_back(store: LittleStore) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Each look at the clock finds it a minute later.
        clock = itertools.count(step=60.0)
        patch.setattr("airflow_provider_csc.store.leases.read_clock", lambda: next(clock))
        patch.setattr("airflow_provider_csc.store.effort.read_clock", lambda: 0.0)
        late = lease(store, seconds=5)
        with pytest.raises(LeaseLostError, match="not renewed in time"):
            late.acquire()
    assert json.loads(store.objects[KEY].body)["holder"] is None
    with late:
        assert late.is_held


def test_a_lease_that_is_lost_is_not_given_back_from_under_the_next(store: LittleStore) -> None:
    first = lease(store, seconds=60)
    first.acquire()
    store.ahead = dt.timedelta(minutes=2)
    with lease(store, "two"):
        first.release()
        assert json.loads(store.objects[KEY].body)["holder"] is not None


def test_it_is_renewed_for_as_long_as_the_context_lasts(store: LittleStore) -> None:
    """Past the time at which it would have ended."""
    with lease(store, seconds=5) as held:
        token = held.token
        first = ends(store)
        while store.now() <= first:
            assert held.check() == token
            time.sleep(0.1)
        assert ends(store) > first


def ends(store: LittleStore) -> dt.datetime:
    return dt.datetime.fromisoformat(json.loads(store.objects[KEY].body)["expires"])


def test_a_holder_that_cannot_renew_is_told_before_another_may_begin(store: LittleStore) -> None:
    """Also when a renewal hangs: the store takes it, and does not answer."""
    is_hung = threading.Event()
    host, port = store.url.removeprefix("http://").split(":")
    with CuttingProxy(
        (host, int(port)), lambda *_: Fault.SILENT if is_hung.is_set() else Fault.NONE
    ) as proxy:
        direct, store.url = store.url, proxy.url
        through = store.client(read_timeout=600)
        store.url = direct
        place = Target(client=through, bucket="bucket", key=KEY, writer="me")
        lost = threading.Event()
        held = Lease(lambda: place, owner="one", seconds=5, on_lost=lambda _: lost.set())
        held.acquire()
        acquired = read_clock()
        is_hung.set()
        assert lost.wait(600)
        with pytest.raises(LeaseLostError, match="not renewed in time"):
            held.check()
        assert held._holding is not None
        # By then nobody else may have it: in the record it ends later.
        assert held._holding._until <= acquired + 5
        held._holding._has_ended.set()
        assert json.loads(store.objects[KEY].body)["holder"] is not None


def test_a_lease_that_cannot_be_given_back_ends_by_itself(
    store: LittleStore, caplog: pytest.LogCaptureFixture
) -> None:
    with lease(store):
        store.interrupt = lambda _method, _key: 403
    assert "was not given back" in caplog.text


def test_an_error_of_the_context_is_not_hidden_by_the_loss(store: LittleStore) -> None:
    with pytest.raises(ZeroDivisionError), lease(store, seconds=60) as held:  # noqa: PT012
        assert held._holding is not None
        held._holding._lose("it is a test")
        raise ZeroDivisionError


def test_what_is_not_held_is_no_lease(store: LittleStore) -> None:
    one = lease(store)
    with pytest.raises(LeaseError, match="not acquired"):
        one.check()
    one.release()
    with one, pytest.raises(LeaseError, match="acquired already"):
        one.acquire()


def test_a_forked_child_does_not_hold_what_its_parent_holds(store: LittleStore) -> None:
    with lease(store) as held:
        assert held._holding is not None
        held._holding._pid = os.getppid()
        with pytest.raises(LeaseLostError, match="forked"):
            held.check()
        held._holding._pid = os.getpid()
        assert held.is_held


def test_another_object_is_not_taken_for_a_lease(store: LittleStore) -> None:
    change(target(store), lambda _: {"n": 1})
    with pytest.raises(LeaseError, match="something else than a lease"):
        lease(store).acquire()


def test_a_store_without_a_clock_has_no_leases(store: LittleStore) -> None:
    store.tells_time = False
    with pytest.raises(LeaseError, match="does not say what time it is"):
        lease(store).acquire()


def test_a_lease_has_a_least_length(store: LittleStore) -> None:
    with pytest.raises(ValueError, match="a lease lasts 5 or more"):
        lease(store, seconds=4)


def test_many_who_want_it_get_it_one_after_the_other(store: LittleStore) -> None:
    inside: list[int] = []
    tokens: list[int] = []

    def work(number: int) -> None:
        with lease(store, f"h{number}", wait_seconds=None) as held:
            inside.append(number)
            tokens.append(held.token)
            assert len(inside) == 1
            time.sleep(0.02)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 3
