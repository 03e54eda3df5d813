"""What becomes of what the store says, and the file of URLs that a job reads."""

from __future__ import annotations

import pytest

from airflow_provider_csc.allas.plan import Item
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.staging.commands import read_look
from airflow_provider_csc.staging.declarations import read_declared
from airflow_provider_csc.staging.manifest import (
    Get,
    Put,
    certificates_in,
    render_manifest,
    render_refusal,
)
from airflow_provider_csc.staging.plan import MARGIN_SECONDS, Fetch, plan_fetches, url_seconds
from airflow_provider_csc.staging.receipts import Moved, parse_receipts

MD5 = "0" * 32


def test_a_tree_becomes_files_and_its_empty_directories_nothing() -> None:
    (tree,) = read_declared("inputs", [{"url": "s3://bkt/top/", "path": "data/"}])
    items = [Item("top/", 0, etag=MD5), Item("top/a/b", 3, etag=MD5), Item("top/c", 0, etag=MD5)]

    found = plan_fetches([(tree, items)], in_run_dir=True)

    assert [(each.path, each.steps) for each in found] == [("data/a/b", (0,)), ("data/c", (0,))]


@pytest.mark.parametrize(
    ("etag", "told", "steps"),
    [(MD5, None, (0,)), (f"{MD5}-2", 7_000_000, 7_000_000), ("sse-c", None, ())],
)
def test_an_etag_tells_how_its_object_is_verified(
    etag: str, told: int | None, steps: object
) -> None:
    (one,) = read_declared("inputs", ["s3://bkt/x"])

    (found,) = plan_fetches(
        [(one, [Item("x", 12_000_000, etag=etag)])],
        in_run_dir=True,
        told_sizes={"bkt/x": told} if told else {},
    )

    assert found.steps == steps or found.steps[0] == steps


@pytest.mark.parametrize(
    ("keys", "words"), [(("a", "a"), "both become"), (("a", "a/b"), "no file")]
)
def test_objects_that_cannot_be_files_side_by_side_are_refused(
    keys: tuple[str, str], words: str
) -> None:
    entries = [{"url": f"s3://bkt/{n}/", "path": "d/"} for n in range(2)]
    declared = read_declared("inputs", entries)
    found = [
        (each, [Item(f"{n}/{key}", 1, etag=MD5)])
        for n, (each, key) in enumerate(zip(declared, keys, strict=True))
    ]

    with pytest.raises(ConfigError, match=words):
        plan_fetches(found, in_run_dir=True)


@pytest.mark.parametrize("name", ["script", "staging.urls", "a\nb"])
def test_a_tree_replaces_no_file_of_the_run_directory(name: str) -> None:
    (tree,) = read_declared("inputs", [{"url": "s3://bkt/t/", "path": "./"}], in_run_dir=True)

    with pytest.raises(ConfigError):
        plan_fetches([(tree, [Item(f"t/{name}", 1, etag=MD5)])], in_run_dir=True)


@pytest.mark.parametrize(
    ("left", "seconds"), [(0, MARGIN_SECONDS), (7200, 10_800), (None, 604_800), (10**9, 604_800)]
)
def test_urls_live_as_long_as_the_job_may_run(left: int | None, seconds: int) -> None:
    assert url_seconds(left) == seconds


def test_the_file_of_urls_has_no_empty_field_and_is_not_shown() -> None:
    (tree,) = read_declared("outputs", [{"url": "s3://bkt/", "path": "./"}])
    get = Get(fetch=Fetch("bkt", "k", "a b", 3, "e"), url="http://secret")
    put = Put(declared=tree, url="http://secret", form={"policy": "secret"})

    text = render_manifest("7.0", [get], [put])

    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("csc-staging 1 7.0", "end")
    assert "get\t./a b\t3\te\t-\thttp://secret" in lines
    assert "tree\t./\t0\thttp://secret\t-" in lines
    assert "\t\t" not in text
    assert "secret" not in repr([get, put])


def test_of_a_file_of_certificates_nothing_else_is_sent() -> None:
    one = b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n"
    two = b"-----BEGIN TRUSTED CERTIFICATE-----\nBBB\n-----END TRUSTED CERTIFICATE-----\n"
    key = b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"

    assert certificates_in(b"# ours\n" + key + one + b"Subject: x\n\n" + two + key) == one + two
    assert certificates_in(key) == b""


def test_a_refusal_is_one_line() -> None:
    assert render_refusal("7.0", "a\n b\tc").splitlines()[1] == "error\ta b c"


def test_receipts_are_read_as_far_as_they_are_whole() -> None:
    data = (
        b"epoch\t7.1\nfetched\t2\t30\t4\t1\nput\t0\t3\t" + MD5.encode() + b"\nparts\t1\t10\t6\n"
        b"part\t1\t2\t4\tb\npart\t1\t1\t6\ta\nfile\t2\t5\tc\tx y/\xc3\xbc\nmissing\t3\nnews\t1\n"
        b"part\t1\tx\ndelivered\t9\t9"
    )

    found = parse_receipts(data)

    assert (found.epoch, found.fetched, found.delivered) == ("7.1", Moved(2, 30, 4), None)
    assert found.of(0).is_whole
    assert found.of(1).parts == {1: (6, "a"), 2: (4, "b")}
    assert found.of(1).is_whole
    assert found.of(2).files == {"x y/ü": (5, "c")}
    assert found.of(3).is_missing
    assert not found.of(3).is_whole


@pytest.mark.parametrize(("restarts", "wanted"), [("0", "7.0"), ("1", ""), ("", "7.0")])
def test_what_a_start_before_a_requeue_wants_is_not_wanted_any_more(
    restarts: str, wanted: str
) -> None:
    frames = {
        "wanted": Frame(0, b"7.0"),
        "issued": Frame(0, b'{"epoch": "7.0"}'),
        "job": Frame(0, f"1-00:00:10   {restarts}".encode()),
    }

    look = read_look(frames)

    assert look.wanted == wanted
    assert look.is_served is bool(wanted)
    assert look.left == (86_410 if restarts else None)


@pytest.mark.parametrize(
    ("status", "text", "left", "is_told"),
    [
        (0, "1-00:00:10 0", 86_410, True),
        (0, "10:00 0", 600, True),
        (0, "UNLIMITED 0", None, True),
        # More than a year, or less than nothing.
        (0, "INVALID 0", None, True),
        (0, "NOT_SET 0", None, False),
        (0, "", None, False),
        (1, "slurm_load_jobs error: Unable to contact slurm controller", None, False),
        (1, "Invalid user", None, False),
    ],
)
def test_no_limit_is_told_from_no_answer(
    status: int, text: str, left: int | None, is_told: bool
) -> None:
    frames = {name: Frame(1, b"x: No such file or directory") for name in ("wanted", "issued")}

    look = read_look({**frames, "job": Frame(status, text.encode())})

    assert (look.left, look.is_told) == (left, is_told)
