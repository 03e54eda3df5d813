"""Which keys a pattern means, and how an object looks as JSON."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.allas.objects import KeyPattern, StoredObject, read_pattern
from airflow_provider_csc.notation import NotationError


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("in/a.csv", ["in/a.csv"], ["in/a.csv2", "in/a", "in/A.csv"]),
        ("in/*.csv", ["in/a.csv", "in/.csv", "in/å b.csv"], ["in/x/a.csv", "in/a.csv.gz", "in/"]),
        ("in/**.csv", ["in/a.csv", "in/x/y/a.csv"], ["a.csv"]),
        ("in/**/a.csv", ["in/a.csv", "in/x/a.csv", "in/x/y/a.csv"], ["in/xa.csv"]),
        ("**/a.csv", ["a.csv", "x/a.csv"], ["xa.csv"]),
        ("in/", ["in/a", "in/x/b"], ["in/", "in/x/", "inn/a"]),
        ("", ["a", "x/b"], ["x/", ".airflow-csc/cursors/x.json"]),
        ("**", ["a", "x/b"], ["x/", ".airflow-csc/cursors/x.json"]),
        ("a?c", ["abc", "a.c"], ["a/c", "ac"]),
        ("run-[0-9]", ["run-7"], ["run-x", "run-77"]),
        ("run-[!0-9]", ["run-x"], ["run-7", "run-/"]),
        ("[*]x", ["*x"], ["ax"]),
        ("a[[]b", ["a[b"], ["ab"]),
        ("a[b", ["a[b"], ["ab"]),
        ("x[]a]", ["x]", "xa"], ["xb"]),
        ("x[^a]", ["xb"], ["xa"]),
        ("x[!/]", ["xa"], ["x/"]),
        ("two\nlines*", ["two\nlines\nmore"], ["two"]),
        ("dot.*", ["dot.x"], ["dotxx"]),
        ("[a&&b]", ["&", "a"], ["c"]),
        ("[+--]", ["+", ",", "-"], ["."]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[]", ["[]"], ["a"]),
    ],
)
def test_a_pattern_means(pattern: str, fits: list[str], does_not: list[str]) -> None:
    meant = KeyPattern(pattern)
    assert [key for key in fits if not meant.matches(key)] == []
    assert [key for key in does_not if meant.matches(key)] == []


@pytest.mark.parametrize(
    ("pattern", "prefix", "exact"),
    [
        ("in/a.csv", "in/", "in/a.csv"),
        ("a.csv", "", "a.csv"),
        ("in/2024-*.csv", "in/2024-", None),
        ("in/[*]a/*.csv", "in/*a/", None),
        ("in/[*]a", "in/", "in/*a"),
        ("in/", "in/", None),
        ("**/x", "", None),
        ("in/x/**", "in/x/", None),
        ("", "", None),
    ],
)
def test_no_more_is_listed_than_a_pattern_can_mean(
    pattern: str, prefix: str, exact: str | None
) -> None:
    assert (KeyPattern(pattern).prefix, KeyPattern(pattern).exact) == (prefix, exact)


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_without_wildcards_a_key_means_itself(key: str) -> None:
    meant = KeyPattern(key, has_wildcards=False)
    assert meant.exact == key
    assert meant.matches(key)
    assert not meant.matches(key + "x")


@given(st.text(alphabet="ab/*?[]!^-\\.{}()|", max_size=12))
def test_whatever_is_given_is_a_pattern_or_refused(text: str) -> None:
    meant = KeyPattern(text)
    with contextlib.suppress(NotationError):
        prefix = meant.prefix
        assert all(key.startswith(prefix) for key in ("a", "a/b", text) if meant.matches(key))


@pytest.mark.parametrize(
    ("key", "bucket", "read"),
    [
        ("s3://my-bucket/in/*.csv", None, ("my-bucket", "in/*.csv")),
        ("s3://my-bucket", None, ("my-bucket", "")),
        ("in/*.csv", "my-bucket", ("my-bucket", "in/*.csv")),
        ("in/*.csv", None, (None, "in/*.csv")),
    ],
)
def test_bucket_and_pattern_come_as_two_or_as_a_uri(
    key: str, bucket: str | None, read: tuple[str | None, str]
) -> None:
    named, pattern = read_pattern(key, bucket)
    assert (named, pattern.text) == read


@pytest.mark.parametrize(
    ("key", "bucket", "said"),
    [
        ("s3://my-bucket/a", "other", "given twice"),
        ("http://my-bucket/a", None, "no URI of an object"),
        ("a", "no", "no name of a bucket"),
        ("k" * 1025, "my-bucket", "1025 bytes"),
        (None, "my-bucket", "no key"),
    ],
)
def test_what_means_nothing_is_refused(key: str, bucket: str | None, said: str) -> None:
    with pytest.raises(NotationError, match=said):
        read_pattern(key, bucket)


def test_a_whole_bucket_is_no_key_to_the_letter() -> None:
    with pytest.raises(NotationError, match="no key"):
        read_pattern("s3://my-bucket", has_wildcards=False)


def test_a_set_that_is_none_is_refused() -> None:
    with pytest.raises(NotationError, match="no set of characters"):
        KeyPattern("[z-a]").matches("b")


def test_an_object_is_plain_json() -> None:
    modified = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    facts = StoredObject("in/å.csv", 7, "abc-2", modified).to_facts("my-bucket")
    assert json.loads(json.dumps(facts)) == {
        "uri": "s3://my-bucket/in/å.csv",
        "key": "in/å.csv",
        "size": 7,
        "etag": "abc-2",
        "last_modified": "2026-01-02T03:04:05.678+00:00",
    }
