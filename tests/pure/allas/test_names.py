"""Names that can be, names that cannot, and what each object becomes on a disk."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.allas.names import (
    NameConflictError,
    ObjectName,
    check_bucket,
    check_key,
    check_new_bucket,
    check_tree,
    parse_uri,
    path_for,
)
from airflow_provider_csc.notation import NotationError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("s3://2001234-data/a/b", ObjectName("2001234-data", "a/b")),
        ("s3://2001234-data", ObjectName("2001234-data")),
        ("s3://2001234-data/", ObjectName("2001234-data")),
        ("s3://2001234-puhti-SCRATCH/a", ObjectName("2001234-puhti-SCRATCH", "a")),
        ("s3://abc//a//../b?x=1#y%20 ü\n", ObjectName("abc", "/a//../b?x=1#y%20 ü\n")),
        ("s3a://abc/a", ObjectName("abc", "a")),
        ("s3://465000001:data/a:b", ObjectName("465000001:data", "a:b")),
    ],
)
def test_a_uri_is_taken_to_the_letter(text: str, name: ObjectName) -> None:
    assert parse_uri(text) == name


@pytest.mark.parametrize(
    "text", ["", "abc/a", "s3:/abc/a", "s3:///a", "http://a3s.fi/abc", "s3://a b/c"]
)
def test_what_is_no_uri_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(NotationError) as caught:
        parse_uri(text)
    assert repr(text) in str(caught.value) or "name of a bucket" in str(caught.value)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{2,40}", fullmatch=True), st.text(min_size=1))
def test_a_name_comes_back_from_its_uri(bucket: str, key: str) -> None:
    name = ObjectName(bucket, key)
    try:
        check_key(key)
    except NotationError:
        with pytest.raises(NotationError):
            parse_uri(str(name))
    else:
        assert parse_uri(str(name)) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ab", "2 characters"),
        ("a" * 64, "64 characters"),
        ("2001234-Data", "capital letters"),
        ("2001234_data", "other characters"),
        ("-abc", "one of these at an end"),
        ("abc.", "one of these at an end"),
        ("a..b", "side by side"),
        ("a.-b", "side by side"),
        ("192.168.1.1", "IP address"),
        ("dätä", "other characters"),
        ("abc\n", "other characters"),
        ("465000001:data", "other characters"),
    ],
)
def test_a_new_bucket_needs_a_host_name(name: str, why: str) -> None:
    with pytest.raises(NotationError, match=why) as caught:
        check_new_bucket(name)
    assert repr(name)[:20] in str(caught.value)


@pytest.mark.parametrize("name", ["abc", "2001234-data", "a.b-c", "a" * 63, "1.2.3"])
def test_other_names_are_right(name: str) -> None:
    assert check_new_bucket(name) == check_bucket(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("ab", "a/b", "a b", "", "a\nbc", "abc\n", "..a", "a" * 256),
        *(":abc", "465:ab", "465:a/b", "4-6:abc", "465:abc:def", "465:abc\n"),
    ],
)
def test_no_bucket_has_such_a_name(name: str) -> None:
    with pytest.raises(NotationError, match="no name of a bucket"):
        check_bucket(name)


@pytest.mark.parametrize("key", ["", "a" * 1025, "ü" * 513, "a\0b", "\udcff"])
def test_no_object_has_such_a_key(key: str) -> None:
    with pytest.raises(NotationError):
        check_key(key)


@pytest.mark.parametrize(
    ("key", "prefix", "path"),
    [
        ("a/b c/ü", "", "a/b c/ü"),
        ("runs/1/x", "runs/1/", "x"),
        ("runs/10", "runs/1", "0"),
        ("a/...", "", "a/..."),
        ("-rf", "", "-rf"),
        ("a\nb", "", "a\nb"),
    ],
)
def test_an_object_becomes_a_file_of_its_name(key: str, prefix: str, path: str) -> None:
    assert path_for(key, prefix) == path


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("/etc/passwd", ""),
        ("../x", ""),
        ("a/../../x", ""),
        ("a//b", ""),
        ("a/./b", ""),
        ("a/", ""),
        ("data//x", "data/"),
        ("data/", "data/"),
        ("other", "data/"),
        ("a/" + "x" * 256, ""),
        ("a\0b", ""),
    ],
)
def test_what_cannot_be_a_file_below_the_directory_is_refused(key: str, prefix: str) -> None:
    with pytest.raises(NotationError):
        path_for(key, prefix)


@given(st.text(alphabet="./a\0é", min_size=1, max_size=12))
def test_nothing_leads_out_and_no_two_become_one(key: str) -> None:
    try:
        path = path_for(key)
    except NotationError:
        return
    assert path == key == str(PurePosixPath(path))
    assert not PurePosixPath(path).is_absolute()
    assert ".." not in PurePosixPath(path).parts


@pytest.mark.parametrize("paths", [["a", "a/b"], ["x/y/z", "x"], ["a/b/c", "a/b", "c"]])
def test_no_file_is_a_directory_too(paths: list[str]) -> None:
    with pytest.raises(NameConflictError) as caught:
        check_tree(paths)
    assert set(caught.value.keys) <= set(paths)


def test_names_that_only_begin_alike_are_no_conflict() -> None:
    check_tree(["a", "ab/c", "a.b", "b/a", "a-b/c"])
