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
    assert follower.requests() == ()
    # There may be a memo.
    assert follower.progress_request() == (("w7.progress", "/run"),)
    assert not follower.has_more
    assert not follower.is_unread
    assert follower.is_whole(now=100, over_since=0, is_late=False)
    assert follower.read({}, now=0) == follower.last_lines() == []


def test_each_file_is_read_on_from_its_own_place() -> None:
    follower = follow("/out", "/err")
    assert follower.is_unread
    lines = follower.read({"w7.log0": part(b"one\nt"), "w7.log1": part(b"err\n", size=9)}, now=0)
    assert lines == ["one", "err"]
    assert follower.requests() == (
        # While it has that size, nothing need be said of it.
        LogRequest(name="w7.log0", path="/out", offset=5, limit=10**6 - 5, known=5),
        LogRequest(name="w7.log1", path="/err", offset=4, limit=10**6 - 4),
    )
    assert (follower.offsets, follower.has_more, follower.is_unread) == ("4 4", True, False)


def test_a_log_for_which_there_was_no_room_is_there_and_can_be_read() -> None:
    follower = follow("/out")
    assert follower.read({"w7.log0": Frame(0, b"9 0 -")}, now=0) == []
    assert (follower.has_more, follower.is_unread) == (True, False)
    # One that cannot be read is not waited for when it is late.
    assert not follower.is_whole(now=100, over_since=0, is_late=True)
    assert [request.known for request in follower.requests()] == [-1]
    assert follower.read({"w7.log0": part(b"one\n", size=9)}, now=1) == ["one"]
    follower.read({"w7.log0": Frame(0, b"9 4 -")}, now=2)
    assert follower.read({"w7.log0": part(b"five\n", offset=4)}, now=3) == ["five"]
    assert not follower.has_more


@pytest.mark.parametrize(
    "frame", [Frame(1, b""), part(b"", size=9), part(b"o", size=9), Frame(0, b"9 0 -")]
)
def test_a_log_is_asked_for_in_full_until_it_was_read_to_its_end(frame: Frame) -> None:
    follower = follow("/out")
    assert [request.known for request in follower.requests()] == [-1]
    follower.read({"w7.log0": frame}, now=0)
    assert [request.known for request in follower.requests()] == [-1]


def test_a_log_that_became_shorter_is_asked_for_in_full() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\ntwo\n")}, now=0)
    assert [request.known for request in follower.requests()] == [8]
    follower.read({"w7.log0": part(b"", size=4, offset=4)}, now=1)
    assert [request.known for request in follower.requests()] == [-1]
    follower.read({"w7.log0": part(b"", size=8, offset=8)}, now=2)
    assert [request.known for request in follower.requests()] == [8]


def test_frames_of_others_are_not_read() -> None:
    assert follow("/out").read({"w8.log0": part(b"one\n")}, now=0) == []


def test_nothing_is_read_before_it_is_known_how_far_an_earlier_watcher_came() -> None:
    follower = follow("/out", run_dir="/run")
    assert follower.requests() == ()
    assert follower.progress_request() == (("w7.progress", "/run"),)
    assert follower.resume({}) is None
    assert follower.resume({"w7.progress": NOTHING}) is None
    assert follower.progress_request() == ()
    assert [request.offset for request in follower.requests()] == [0]


def test_an_earlier_watcher_is_taken_over_once() -> None:
    follower = follow("/out", "/err", run_dir="/run")
    assert follower.resume({"w7.progress": Frame(0, b"12 0\nmemo")}) == "memo"
    assert follower.is_resumed
    assert follower.resume({"w7.progress": Frame(0, b"99 99")}) is None
    assert [request.offset for request in follower.requests()] == [12, 0]
    assert follower.acknowledge() == ()


@pytest.mark.parametrize("text", [b"", b"5", b"5 x", b"1 2 3", b"0 0"])
def test_progress_that_does_not_fit_the_files_is_passed_over(text: bytes) -> None:
    follower = follow("/out", "/err", run_dir="/run")
    assert follower.resume({"w7.progress": Frame(0, text)}) == ""
    assert not follower.is_resumed
    assert [request.offset for request in follower.requests()] == [0, 0]


def test_only_whole_lines_that_arrived_are_acknowledged() -> None:
    follower = follow("/out", run_dir="/run")
    follower.resume({"w7.progress": NOTHING})
    follower.read({"w7.log0": part(b"one\ntw")}, now=0)
    assert follower.acknowledge() == ()
    follower.confirm(follower.offsets)
    assert follower.acknowledge() == (("/run", "4"),)
    assert follower.acknowledge() == ()


def test_a_last_line_without_an_end_is_acknowledged_with_the_others() -> None:
    follower = follow("/out", run_dir="/run")
    follower.resume({"w7.progress": NOTHING})
    assert follower.read({"w7.log0": part(b"one\ntwo")}, now=0) == ["one"]
    assert follower.last_lines() == ["two"]
    follower.confirm(follower.offsets)
    assert follower.acknowledge() == (("/run", "7"),)


def test_an_acknowledgement_in_doubt_is_given_again() -> None:
    follower = follow("/out", run_dir="/run")
    follower.read({"w7.log0": part(b"one\n")}, now=0)
    follower.confirm(follower.offsets)
    assert follower.acknowledge() == (("/run", "4"),)
    follower.doubt_acknowledgement()
    assert follower.acknowledge() == (("/run", "4"),)


def test_without_a_run_directory_nothing_is_acknowledged() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\n")}, now=0)
    follower.confirm(follower.offsets)
    assert follower.acknowledge() == ()


def test_a_line_without_an_end_does_not_hold_the_acknowledgement_up_for_ever() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"x" * 60_000)}, now=0)
    assert follower.offsets == "0"
    follower.read({"w7.log0": part(b"x" * 60_000, offset=60_000)}, now=0)
    assert follower.offsets == "120000"


def test_a_file_that_cannot_be_read_further_is_waited_for_only_until_it_is_late() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\n", size=100)}, now=0)
    assert follower.has_more
    follower.read({"w7.log0": part(b"", size=100, offset=4)}, now=0)
    assert not follower.has_more
    assert not follower.is_whole(now=100, over_since=0, is_late=False)
    assert follower.is_whole(now=100, over_since=0, is_late=True)
    assert follower.last_lines() == ["[/out could not be read behind byte 4]"]


def test_a_file_that_never_was_is_not_waited_for() -> None:
    follower = follow("/out")
    assert follower.read({"w7.log0": NOTHING}, now=0) == []
    assert follower.is_unread
    assert follower.is_whole(now=100, over_since=0, is_late=False)
    assert follower.last_lines() == []


def test_a_file_beyond_its_limit_is_not_asked_for_again() -> None:
    follower = follow("/out", limit_bytes=4)
    lines = follower.read({"w7.log0": part(b"one\ntwo", size=1000)}, now=0)
    assert lines == [
        "one",
        "two",
        "[not shown: the rest of /out, of which 1000 bytes exist so far]",
    ]
    assert follower.requests() == ()
    assert follower.is_whole(now=100, over_since=0, is_late=False)


def test_no_more_is_read_than_is_shown_and_not_all_at_once() -> None:
    """The whole limit may be more than a command should send."""
    assert [request.limit for request in follow("/out", limit_bytes=10**9).requests()] == [2**20]
    follower = follow("/out", limit_bytes=4)
    assert [request.limit for request in follower.requests()] == [4]
    assert follower.read({"w7.log0": part(b"one\n")}, now=0) == ["one"]
    # Nothing was left out so far: only one more byte would tell.
    assert [request.limit for request in follower.requests()] == [1]
    lines = follower.read({"w7.log0": part(b"t", size=6, offset=4)}, now=0)
    assert lines == ["t", "[not shown: the rest of /out, of which 6 bytes exist so far]"]


def test_a_file_that_shrank_is_read_from_its_beginning_when_it_stays_so() -> None:
    """Another log-in node may not have seen the file's end yet: its lines were shown twice."""
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\ntw")}, now=0)
    short = {"w7.log0": part(b"", size=3, offset=6)}
    assert follower.read(short, now=10) == follower.read(short, now=39) == []
    assert not follower.has_more
    assert not follower.is_whole(now=39, over_since=30, is_late=False)
    assert follower.read(short, now=40) == [
        "tw",
        "[/out was truncated; reading it from its beginning]",
    ]
    assert follower.offsets == "0"
    assert [request.offset for request in follower.requests()] == [0]


def test_a_file_that_was_short_for_a_moment_is_read_on() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\ntwo\n")}, now=0)
    for now in (10, 45):
        assert follower.read({"w7.log0": part(b"", size=3, offset=8)}, now=now) == []
        assert follower.read({"w7.log0": part(b"x\n", offset=8)}, now=now + 5) in (["x"], [])
        follower = follow("/out")
        follower.read({"w7.log0": part(b"one\ntwo\n")}, now=now + 6)


def test_a_file_of_a_requeued_job_that_shrank_is_read_from_its_beginning_at_once() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\n")}, now=0)
    follower.expect_anew()
    lines = follower.read({"w7.log0": part(b"", size=3, offset=4)}, now=10)
    assert lines == ["[/out was truncated; reading it from its beginning]"]


def test_a_file_longer_than_its_job_wrote_is_of_an_earlier_run() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"the first run\n")}, now=0)
    follower.expect({"/out": 4})
    follower.read({"w7.log0": part(b"", size=4, offset=14)}, now=1)
    follower.read({"w7.log0": part(b"two\n")}, now=1)
    assert follower.is_whole(now=1, over_since=1, is_late=False)


# ---- the end of a file ----


def test_a_file_whose_length_is_known_is_whole_when_so_much_was_read() -> None:
    follower = follow("/out", "/err")
    follower.expect({"/out": 8, "/err": 0, "/other": 9})
    follower.read({"w7.log0": part(b"one\n"), "w7.log1": NOTHING}, now=0)
    assert not follower.is_whole(now=29, over_since=0, is_late=False)
    follower.read({"w7.log0": part(b"two\n", offset=4)}, now=29)
    assert follower.is_whole(now=29, over_since=0, is_late=False)


def test_a_file_whose_length_is_known_and_that_cannot_be_seen_yet_is_waited_for() -> None:
    follower = follow("/out")
    follower.expect({"/out": 4})
    follower.read({"w7.log0": NOTHING}, now=0)
    assert not follower.is_whole(now=29, over_since=0, is_late=False)
    assert follower.is_whole(now=30, over_since=0, is_late=True)
    assert follower.last_lines() == [
        (
            "[the job wrote 4 bytes to /out, of which 0 could be seen from the log-in node in time; "
            "look there for the rest]"
        )
    ]


def test_a_file_of_unknown_length_is_whole_when_it_was_still_for_a_while() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\n")}, now=0)
    assert not follower.is_whole(now=103, over_since=100, is_late=False)
    follower.read({"w7.log0": part(b"two\n", offset=4)}, now=103)
    assert not follower.is_whole(now=106, over_since=100, is_late=False)
    assert follower.is_whole(now=107, over_since=100, is_late=False)


def test_a_file_that_never_stops_growing_is_not_waited_for_without_end() -> None:
    follower = follow("/out")
    follower.read({"w7.log0": part(b"one\n")}, now=130)
    assert follower.is_whole(now=130, over_since=100, is_late=True)


def test_what_a_job_wrote_is_not_expected_of_its_next_run() -> None:
    follower = follow("/out")
    follower.expect({"/out": 100})
    follower.forget_expectations()
    follower.read({"w7.log0": part(b"one\n")}, now=0)
    assert follower.is_whole(now=10, over_since=0, is_late=False)


# ---- the memo ----


def test_a_memo_is_written_once_and_with_what_was_shown() -> None:
    follower = follow("/out", run_dir="/run")
    follower.memo = "early"
    assert follower.acknowledge_memo() == ()  # Not before it is known what stands there.
    follower.resume({"w7.progress": NOTHING})
    assert follower.acknowledge() == ()
    assert follower.acknowledge_memo() == (("/run", "0\nearly"),)
    assert follower.acknowledge_memo() == ()
    follower.doubt_memo()
    assert follower.acknowledge_memo() == (("/run", "0\nearly"),)
    follower.confirm("4")
    assert follower.acknowledge() == (("/run", "4\nearly"),)


def test_a_memo_is_taken_over_without_files_too() -> None:
    follower = follow(run_dir="/run")
    assert follower.resume({"w7.progress": Frame(0, b"\nmemo")}) == "memo"
    assert follower.acknowledge_memo() == ()
