"""Files are followed from where they were left, and only what arrived is written down."""

from __future__ import annotations

from base64 import b64encode

import pytest

from airflow_provider_csc.slurm.commands import LogRequest
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.logfollow import LogFollower

NOTHING = Frame(1, b"")


def part(data: bytes, *, size: int | None = None, offset: int = 0) -> Frame:
    whole = offset + len(data) if size is None else size
    return Frame(0, f"{whole} {offset} ".encode() + b64encode(data))


def follow(*paths: str, run_dir: str | None = None, limit_bytes: int = 10**6) -> LogFollower:
    return LogFollower("w7", paths, run_dir=run_dir, limit_bytes=limit_bytes)


def test_without_files_there_is_nothing_to_do() -> None:
    follower = follow(run_dir="/run")
    assert follower.requests() == follower.progress_request() == ()
    assert not follower.has_more
    assert not follower.is_unread
    assert follower.is_drained(is_late=False)
    assert follower.read({}) == follower.last_lines() == []


def test_each_file_is_read_on_from_its_own_place() -> None:
    follower = follow("/out", "/err")
    assert follower.is_unread
    lines = follower.read({"w7.log0": part(b"one\nt"), "w7.log1": part(b"err\n", size=9)})
    assert lines == ["one", "err"]
    assert follower.requests() == (
        LogRequest(name="w7.log0", path="/out", offset=5, limit=256 * 1024),
        LogRequest(name="w7.log1", path="/err", offset=4, limit=256 * 1024),
    )
    assert (follower.offsets, follower.has_more, follower.is_unread) == ("4 4", True, False)


def test_frames_of_others_are_not_read() -> None:
    assert follow("/out").read({"w8.log0": part(b"one\n")}) == []


def test_nothing_is_read_before_it_is_known_how_far_an_earlier_watcher_came() -> None:
    follower = follow("/out", run_dir="/run")
    assert follower.requests() == ()
    assert follower.progress_request() == (("w7.progress", "/run"),)
    assert follower.resume({}) is False
    assert follower.resume({"w7.progress": NOTHING}) is False
    assert follower.progress_request() == ()
    assert [request.offset for request in follower.requests()] == [0]


def test_an_earlier_watcher_is_taken_over_once() -> None:
    follower = follow("/out", "/err", run_dir="/run")
    assert follower.resume({"w7.progress": Frame(0, b"12 0")}) is True
    assert follower.resume({"w7.progress": Frame(0, b"99 99")}) is False
    assert [request.offset for request in follower.requests()] == [12, 0]
    assert follower.acknowledge() == ()


@pytest.mark.parametrize("text", [b"", b"5", b"5 x", b"1 2 3", b"0 0"])
def test_progress_that_does_not_fit_the_files_is_passed_over(text: bytes) -> None:
    follower = follow("/out", "/err", run_dir="/run")
    assert follower.resume({"w7.progress": Frame(0, text)}) is False
    assert [request.offset for request in follower.requests()] == [0, 0]


def test_only_whole_lines_that_arrived_are_acknowledged() -> None:
    follower = follow("/out", run_dir="/run")
    follower.resume({"w7.progress": NOTHING})
    follower.read({"w7.log0": part(b"one\ntw")})
    assert follower.acknowledge() == ()
    follower.confirm(follower.offsets)
    assert follower.acknowledge() == (("/run", "4"),)
    assert follower.acknowledge() == ()


def test_an_acknowledgement_in_doubt_is_given_again() -> None:
    follower = follow("/out", run_dir="/run")
    follower.read({"w7.log0": part(b"one\n")})
    follower.confirm(follower.offsets)
    assert follower.acknowledge() == (("/run", "4"),)
    follower.doubt_acknowledgement()
    assert follower.acknowledge() == (("/run", "4"),)


def test_without_a_run_directory_nothing_is_acknowledged() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\n")})
    follower.confirm(follower.offsets)
    assert follower.acknowledge() == ()


def test_a_line_without_an_end_does_not_hold_the_acknowledgement_up_for_ever() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"x" * 60_000)})
    assert follower.offsets == "0"
    follower.read({"w7.log0": part(b"x" * 60_000, offset=60_000)})
    assert follower.offsets == "120000"


def test_a_file_that_cannot_be_read_further_is_waited_for_only_until_it_is_late() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\n", size=100)})
    assert follower.has_more
    follower.read({"w7.log0": part(b"", size=100, offset=4)})
    assert not follower.has_more
    assert not follower.is_drained(is_late=False)
    assert follower.is_drained(is_late=True)
    assert follower.last_lines() == ["[/out could not be read behind byte 4]"]


def test_a_file_that_never_was_is_not_waited_for() -> None:
    follower = follow("/out")
    assert follower.read({"w7.log0": NOTHING}) == []
    assert follower.is_unread
    assert follower.is_drained(is_late=False)
    assert follower.last_lines() == []


def test_a_file_beyond_its_limit_is_not_asked_for_again() -> None:
    follower = follow("/out", limit_bytes=4)
    lines = follower.read({"w7.log0": part(b"one\ntwo", size=1000)})
    assert lines == [
        "one",
        "two",
        "[not shown: the rest of /out, of which 1000 bytes exist so far]",
    ]
    assert follower.requests() == ()
    assert follower.is_drained(is_late=False)


def test_a_file_that_shrank_is_read_from_its_beginning() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\ntw")})
    assert follower.read({"w7.log0": part(b"", size=3, offset=6)}) == [
        "tw",
        "[/out was truncated; reading it from its beginning]",
    ]
    assert follower.offsets == "0"
    assert [request.offset for request in follower.requests()] == [0]
