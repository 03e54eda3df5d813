"""The rules of leases: who may take one when, and which number it gets."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.allas.leases import SKEW, Term, parse_term, release, renew, take

NOW = dt.datetime(2026, 11, 21, 12, 0, 0, tzinfo=dt.UTC)


def term(**changes: object) -> Term:
    known = {"token": 4, "owner": "one", "holder": "h1", "expires": NOW}
    return Term(**{**known, **changes})  # type: ignore[arg-type]


def after(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def test_a_term_comes_back_as_it_went() -> None:
    for one in (term(), term(holder=None)):
        assert parse_term(one.to_value()) == one
    assert parse_term(None) is None


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "x",
        {"token": "4", "owner": "a", "holder": "b", "expires": "2026-11-21T12:00:00Z"},
        {"token": 4, "owner": "a", "holder": "b", "expires": "noon"},
        {"token": 4, "owner": "a", "holder": "b", "expires": "2026-11-21T12:00:00"},
    ],
)
def test_another_value_is_no_term(value: object) -> None:
    with pytest.raises(ValueError):
        parse_term(value)


def test_it_is_free_when_given_back_or_past_its_end() -> None:
    assert term(holder=None).is_free(NOW)
    assert not term().is_free(NOW)
    assert not term().is_free(NOW + SKEW)
    assert term().is_free(NOW + SKEW + dt.timedelta(seconds=1))


def test_a_new_holder_gets_a_higher_number() -> None:
    def taken(before: Term | None, version: int) -> Term:
        return take(before, version, NOW, owner="two", holder="h2", seconds=60)

    assert taken(None, 0).token == 1
    assert taken(term(), 2).token == 5
    assert taken(term(), 9).token == 10
    assert taken(None, 9).token == 10, "the lease was deleted"
    assert taken(None, 0).expires == after(60)


def test_only_its_holder_renews_and_releases_it() -> None:
    assert renew(term(), "h2", NOW, 60) is None
    assert release(term(), "h2", NOW) is None
    assert renew(None, "h1", NOW, 60) is None
    assert release(None, "h1", NOW) is None
    assert renew(term(), "h1", NOW, 60) == term(expires=after(60))
    assert release(term(), "h1", NOW) == term(holder=None)


def test_a_renewal_never_shortens() -> None:
    assert renew(term(expires=after(90)), "h1", NOW, 60) == term(expires=after(90))


@given(
    asked=st.floats(0, 1e6),
    answered_after=st.floats(0, 100),
    seconds=st.floats(5, 1000),
    skews=st.tuples(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9)),
    looked_after=st.floats(0, 2000),
)
def test_nobody_may_take_it_while_its_holder_thinks_it_has_it(
    asked: float,
    answered_after: float,
    seconds: float,
    skews: tuple[float, float],
    looked_after: float,
) -> None:
    """
    True time in seconds; the store's gateways differ from it, and tell only whole seconds.

    The holder counts from when it asked; the next looks at any time.
    """

    def store_time(true: float, skew: float) -> dt.datetime:
        return NOW + dt.timedelta(seconds=int(true + skew + 1))

    mine = take(
        None, 0, store_time(asked + answered_after, skews[0]), owner="", holder="h", seconds=seconds
    )
    looked = asked + looked_after
    if mine.is_free(store_time(looked, skews[1])):
        assert looked > asked + seconds
