"""What can be said of inputs and outputs, and what is refused with a remedy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.staging.declarations import is_template, read_declared
from airflow_provider_csc.staging.plan import Staging


@pytest.mark.parametrize(
    ("entry", "url", "path"),
    [
        ("s3://bkt/a/b.csv", "s3://bkt/a/b.csv", "b.csv"),
        ("s3://bkt/a/b/", "s3://bkt/a/b/", "b/"),
        ({"url": "s3://bkt/a/b.csv", "path": "x/y"}, "s3://bkt/a/b.csv", "x/y"),
        ({"url": "s3://bkt/a/b.csv", "path": "x//./y/"}, "s3://bkt/a/b.csv", "x/y/b.csv"),
        ({"url": "s3://bkt/a/b/", "path": "x"}, "s3://bkt/a/b/", "x/"),
        ({"url": "s3://bkt/", "path": "./"}, "s3://bkt/", ""),
        ({"url": "s3://bkt/a ü", "path": "-x"}, "s3://bkt/a ü", "-x"),
    ],
)
def test_an_input_goes_where_it_is_meant(entry: Any, url: str, path: str) -> None:
    (found,) = read_declared("inputs", [entry])

    assert (str(found.name), found.path) == (url, path)


@pytest.mark.parametrize(
    ("entry", "url", "path"),
    [
        ("s3://bkt/a/b.csv", "s3://bkt/a/b.csv", "b.csv"),
        ({"url": "s3://bkt/a/", "path": "b.csv"}, "s3://bkt/a/b.csv", "b.csv"),
        ({"url": "s3://bkt/a", "path": "results/"}, "s3://bkt/a/", "results/"),
        ("s3://bkt/a/results/", "s3://bkt/a/results/", "results/"),
    ],
)
def test_an_output_comes_from_where_it_is_meant(entry: Any, url: str, path: str) -> None:
    (found,) = read_declared("outputs", [entry])

    assert (str(found.name), found.path) == (url, path)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (3, "neither a URL nor a dict"),
        ("http://bkt/a", "no URI of an object"),
        ("s3://x/a", "no name of a bucket"),
        ("s3://bkt/", "Say where it goes"),
        ("s3://bkt/a\nb", "control character"),
        ({"path": "x"}, "is no URL"),
        ({"url": "s3://bkt/a", "paht": "x"}, "Did you mean 'path'"),
        ({"url": "s3://bkt/a", "optional": "yes"}, "neither True nor False"),
        ({"url": "s3://bkt/a", "path": "/x"}, "not relative"),
        ({"url": "s3://bkt/a", "path": "~/x"}, "not relative"),
        ({"url": "s3://bkt/a", "path": "x/../../y"}, "leads out"),
        ({"url": "s3://bkt/a/..", "path": None}, "leads out"),
        ({"url": "s3://bkt/a", "path": "x\ty"}, "control character"),
        ({"url": "s3://bkt/a", "path": "x" * 256}, "more than 255 bytes"),
        ({"url": "s3://bkt/a", "path": 5}, "is not text"),
        ({"url": "s3://bkt/a", "path": "\udcff"}, "not Unicode"),
    ],
)
@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_what_cannot_be_is_refused_by_its_place(field: Any, entry: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_declared(field, ["s3://bkt/fine", entry])

    assert caught.value.message.startswith(f"{field}[1]")


@pytest.mark.parametrize("entries", ["s3://bkt/a", {"url": "s3://bkt/a"}, 7, {"s3://bkt/a"}])
def test_what_is_no_list_is_refused(entries: Any) -> None:
    with pytest.raises(ConfigError, match=r"inputs: .*is no list"):
        read_declared("inputs", entries)


@pytest.mark.parametrize(
    ("field", "entries"),
    [
        ("inputs", ["s3://bkt/a/x", "s3://bkt/b/x"]),
        ("inputs", ["s3://bkt/x", {"url": "s3://bkt/y", "path": "x/y"}]),
        ("inputs", ["s3://bkt/x", {"url": "s3://bkt/y/", "path": "x"}]),
        ("outputs", ["s3://bkt/x", "s3://bkt/x"]),
        ("outputs", ["s3://bkt/a/", {"url": "s3://bkt/a/x", "path": "y"}]),
        ("outputs", ["s3://bkt/a/", {"url": "s3://bkt/a/b/", "path": "y/"}]),
    ],
)
def test_two_that_would_be_one_are_refused(field: Any, entries: list[Any]) -> None:
    with pytest.raises(ConfigError, match="would write one"):
        read_declared(field, entries)


def test_trees_may_share_a_directory() -> None:
    entries = [{"url": f"s3://bkt/{name}/", "path": "data/"} for name in "ab"]

    assert [each.path for each in read_declared("inputs", entries)] == ["data/", "data/"]


@pytest.mark.parametrize("path", ["script", "stdout.log", "staging.urls", "exit.json", "cancel"])
@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_the_files_of_a_run_directory_stay(field: Any, path: str) -> None:
    entries = [{"url": "s3://bkt/a", "path": path}]

    with pytest.raises(ConfigError, match="is followed"):
        read_declared(field, entries, in_run_dir=True)
    assert read_declared(field, entries)[0].path == path


def test_a_whole_run_directory_is_no_output() -> None:
    with pytest.raises(ConfigError, match="whole run directory"):
        read_declared("outputs", [{"url": "s3://bkt/a/", "path": "./"}], in_run_dir=True)


def test_what_is_stored_is_read_back() -> None:
    staging = Staging(
        conn_id="allas_default",
        inputs=tuple(read_declared("inputs", ["s3://bkt/a", {"url": "s3://bkt/", "path": "./"}])),
        outputs=tuple(read_declared("outputs", [{"url": "s3://bkt/é/", "optional": True}])),
        on_failure=True,
        timeout=60,
        in_run_dir=False,
        is_patient=True,
    )

    assert Staging.from_payload(json.loads(json.dumps(staging.to_payload()))) == staging


def test_only_what_will_be_rendered_is_left_for_later() -> None:
    assert is_template(["s3://bkt/{{ ds }}"])
    assert is_template([{"url": "s3://bkt/a", "path": "{% if 1 %}"}])
    assert not is_template(["s3://bkt/a", {"url": "s3://bkt/b", "optional": True}])
    assert not is_template(None)
