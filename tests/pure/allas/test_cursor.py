"""What is news, and what a cursor remembers of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.allas.cursor import (
    MAX_NEWS,
    Cursor,
    ObjectsEvent,
    Survey,
    batched,
    decode_cursor,
    default_cursor_name,
    describe,
)
from airflow_provider_csc.allas.objects import KeyPattern, StoredObject
from airflow_provider_csc.errors import ConfigError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stored(key: str, etag: str = "e", age: float = 0.0) -> StoredObject:
    return StoredObject(key, 1, etag, NOW - timedelta(seconds=age))


def new_cursor(**changes: Any) -> Cursor:
    return Cursor(**({"watched": "s3://bucket/*", "owner": "me"} | changes))


def look(cursor: Cursor, *rows: StoredObject, is_baseline: bool = False) -> list[tuple[str, str]]:
    """Take in one listing and tell all that is new; return what that was."""
    survey = Survey(cursor, KeyPattern("*"), is_baseline=is_baseline)
    survey.begin()
    survey.see(rows)
    news, _changed = survey.end()
    cursor.pending = event(*(describe(each, "bucket") for each in news))
    cursor.finish()
    return [(each.object.key, each.change) for each in news]


def event(*objects: Any) -> ObjectsEvent:
    return ObjectsEvent(
        id="x-1", watched="s3://bucket/*", planned_at="", is_repeat=False, objects=list(objects)
    )


def test_what_is_there_at_first_is_no_news() -> None:
    cursor = new_cursor()
    assert look(cursor, stored("a"), is_baseline=True) == []
    assert look(cursor, stored("a"), stored("b")) == [("b", "new")]


def test_what_is_there_at_first_is_news_where_that_is_wanted() -> None:
    assert look(new_cursor(), stored("a")) == [("a", "new")]


def test_every_version_is_news_once() -> None:
    cursor = new_cursor()
    assert look(cursor, stored("a", "1")) == [("a", "new")]
    assert look(cursor, stored("a", "1")) == []
    assert look(cursor, stored("a", "2")) == [("a", "changed")]
    assert look(cursor, stored("a", "2")) == []


def test_the_same_content_written_again_is_news_unless_only_content_counts() -> None:
    """A marker file that is written every night has the same content every time."""
    for by_content, news in ((False, [("a", "changed")]), (True, [])):
        cursor = new_cursor(by_content=by_content)
        look(cursor, stored("a", age=60))
        assert look(cursor, stored("a", age=0)) == news


def test_what_is_deleted_and_comes_back_is_new() -> None:
    cursor = new_cursor(by_content=True)
    look(cursor, stored("a"))
    assert look(cursor) == []
    assert cursor.seen == {}
    assert look(cursor, stored("a")) == [("a", "new")]


def test_a_listing_that_broke_off_changes_nothing() -> None:
    cursor = new_cursor()
    look(cursor, stored("a"), stored("b"))
    survey = Survey(cursor, KeyPattern("*"))
    survey.begin()
    survey.see([stored("a")])
    survey.begin()
    survey.see([stored("a")])
    survey.see([stored("b")])
    assert survey.end() == ([], False)


def test_what_was_not_told_yet_is_news_again() -> None:
    cursor = new_cursor()
    for _ in range(2):
        survey = Survey(cursor, KeyPattern("*"))
        survey.see([stored("a")])
        news, _changed = survey.end()
        assert [each.object.key for each in news] == ["a"]


def test_the_oldest_is_told_first_and_in_portions() -> None:
    survey = Survey(new_cursor(), KeyPattern("*"))
    survey.see([stored("a", age=1), stored("b", age=3), stored("c", age=2)])
    news, _changed = survey.end()
    portions = [[each.object.key for each in batch] for batch in batched(news, 2)]
    assert portions == [["b", "c"], ["a"]]


def test_so_much_news_is_taken_at_a_time_and_none_is_left_out() -> None:
    cursor = new_cursor()
    rows = [stored(f"{number:05}") for number in range(2 * MAX_NEWS + 1)]
    told = [look(cursor, *rows) for _ in range(4)]
    assert [len(each) for each in told] == [MAX_NEWS, MAX_NEWS, 1, 0]
    assert len({key for each in told for key, _ in each}) == len(rows)


def test_what_the_pattern_does_not_mean_is_no_news() -> None:
    survey = Survey(new_cursor(), KeyPattern("*.csv"))
    survey.see([stored("a.csv"), stored("b.txt"), stored(".airflow-csc/cursors/x.json")])
    news, _changed = survey.end()
    assert [each.object.key for each in news] == ["a.csv"]


def test_a_restart_goes_on_with_what_was_written_down() -> None:
    cursor = new_cursor()
    look(cursor, stored("a"), stored("b"))
    survey = Survey(cursor, KeyPattern("*"))
    survey.see([stored("a"), stored("b"), stored("c", age=1.234)])
    (news,), _changed = survey.end()
    cursor.number, cursor.pending = 2, event(describe(news, "bucket"))
    again = decode_cursor(cursor.encode(), "here")
    assert again == cursor
    assert again.pending is not None
    again.finish()
    assert look(again, stored("a"), stored("b"), stored("c", age=1.234)) == []


@given(st.dictionaries(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), max_size=30))
def test_a_cursor_is_read_as_it_was_written(seen: dict[int, int]) -> None:
    cursor = new_cursor(seen=seen, number=7)
    assert decode_cursor(cursor.encode(), "here") == cursor


def test_a_cursor_of_very_many_objects_is_small() -> None:
    cursor = new_cursor()
    Survey(cursor, KeyPattern("*"))
    rows = [stored(f"some/where/in/a/tree/{number:06}.parquet") for number in range(50_000)]
    survey = Survey(cursor, KeyPattern("**"), is_baseline=True)
    survey.see(rows)
    survey.end()
    assert len(cursor.encode()) < 22 * len(rows)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"format": 2}', b"\xff", json.dumps({"format": 1, "seen": "x"}).encode()],
)
def test_what_is_no_cursor_is_refused_with_a_remedy(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"s3://b/c\.json is no cursor.*Delete it"):
        decode_cursor(data, "s3://b/c.json")


def test_a_cursor_is_named_after_what_is_watched_and_for_whom() -> None:
    names = {
        default_cursor_name(deployment, bucket, pattern)
        for deployment in ("one", "other")
        for bucket in ("a", "b")
        for pattern in (KeyPattern("*"), KeyPattern("**"), KeyPattern("*", has_wildcards=False))
    }
    assert len(names) == 12
