"""An array is followed task by task, and told of in counts."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.slurm.array_record import ArrayRecord
from airflow_provider_csc.slurm.array_tracking import ArrayTracker, make_tracker
from airflow_provider_csc.slurm.arrays import array_of, format_array, parse_array
from airflow_provider_csc.slurm.events import LogLines, Note
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.parking import Outage
from airflow_provider_csc.slurm.tracking import JobTracker, WatchSpec
from tests.pure.slurm.evidence import (
    NO_ACCOUNTING,
    NO_CONTROLLER,
    NO_DATABASE,
    accounting_line,
    answer,
    exit_record,
    queue_line,
)
from tests.pure.slurm.story import RUN_DIR, Site, Story

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.answers import Answers
    from airflow_provider_csc.slurm.commands import LogRequest, PollRequest
    from airflow_provider_csc.slurm.result import JobResult

LOGS = f"{RUN_DIR}/stdout.%a.log"
SPEC = WatchSpec(
    job_ids=("123",), run_dir=RUN_DIR, stdout_path=LOGS, stderr_path=LOGS, array="0-9%2"
)


@dataclass
class ArraySite(Site):
    """
    A site with an array; ``records`` are the exit records of its tasks, by Slurm's ids.

    Of the logs that are ``put_off`` no bytes are sent, as where others filled the answer.
    """

    records: dict[int, bytes] = field(default_factory=dict)
    put_off: set[str] = field(default_factory=set)

    def answer(self, request: PollRequest, clock: int) -> Answers:
        answers = super().answer(request, clock)
        for name, _, indices in request.array_records:
            found = [self.records[index] for index in indices if index in self.records]
            answers.frames[name] = Frame(0 if found else 1, b"".join(found))  # type: ignore[index]
        return answers

    def _read(self, request: LogRequest) -> Frame:
        size = len(self.logs.get(request.path, b""))
        offset = request.offset if request.offset >= 0 else max(size + request.offset, 0)
        if request.path in self.put_off:
            return Frame(0, f"{size} {offset} -".encode())
        return super()._read(replace(request, offset=offset))

    def pending(self, text: str, **running: str) -> None:
        """Show what waits, and others by state: ``RUNNING="0,2"``."""
        rows = [queue_line(job_id=f"123_[{text}]", state="PENDING", nodes="")] if text else []
        rows += [
            queue_line(job_id=f"123_{index}", state=state)
            for state, spec in running.items()
            for index in parse_array(spec)
        ]
        self.squeue = answer(*rows)

    def accounted(self, **states: str) -> None:
        codes = {"COMPLETED": "0:0", "FAILED": "4:0"}
        self.sacct = answer(
            *(
                line
                for state, spec in states.items()
                for index in parse_array(spec)
                for line in (
                    accounting_line(
                        JobID=f"123_{index}", State=state, ExitCode=codes.get(state, "0:0")
                    ),
                    accounting_line(JobID=f"123_{index}.batch", State=state, JobName="batch"),
                )
            )
        )

    def leave_record(self, index: int, code: int = 0, **fields: Any) -> None:
        known = json.loads(exit_record(job_id=f"123_{index}", code=code)) | fields
        self.records[index] = json.dumps(known).encode() + b"\n"


def story_of(**changes: Any) -> tuple[Story, ArraySite]:
    site = ArraySite()
    return Story(replace(SPEC, **changes), site), site


def record_of(story: Story) -> ArrayRecord:
    return ArrayRecord.from_payload(result_of(story).array)


def result_of(story: Story) -> JobResult:
    assert story.ended is not None
    (result,) = story.ended.results
    return result


def written_by(story: Story, site: ArraySite) -> str:
    """What stands in the run directory of how far the logs were shown."""
    earlier = [pair for request in site.requests for pair in request.acknowledged]
    return [*earlier, *story.tracker.logs.acknowledge()][-1][1]


def states_of(story: Story) -> dict[str, str]:
    """The ids in each state."""
    ends = record_of(story).ends
    return {
        state: format_array(array_of(each for each, end in ends.items() if end.state == state))
        for state in record_of(story).counts
    }


def test_a_spec_with_an_array_gets_a_tracker_for_it() -> None:
    assert isinstance(make_tracker("w0", SPEC), ArrayTracker)
    assert type(make_tracker("w0", replace(SPEC, array=None))) is JobTracker


# ---- progress ----


def test_counts_are_told_when_they_change_and_once_per_round() -> None:
    story, site = story_of()
    site.pending("0-9%2")
    story.round()
    story.round(15)
    site.pending("2-9%2", RUNNING="0-1")
    story.round(15)
    site.pending("4-9%2", RUNNING="2-3")
    site.accounted(COMPLETED="0", FAILED="1")
    story.round(15)
    assert story.notes == [
        "Array 123: 10 tasks: 10 PENDING.",
        "Array 123: 10 tasks: 2 RUNNING, 8 PENDING.",
        "Array 123: 10 tasks: 1 COMPLETED, 1 FAILED, 2 RUNNING, 6 PENDING.",
    ]
    assert story.ended is None


def test_the_array_is_asked_for_as_one_and_sacct_only_for_what_is_over() -> None:
    story, site = story_of()
    site.pending("2-9%2", RUNNING="0-1")
    story.round()
    site.pending("3-9%2", RUNNING="1-2")
    site.accounted(COMPLETED="0")
    story.round(15)
    assert {request.queued for request in site.requests} <= {(), ("123",)}
    asked = [request for request in site.requests if request.accounted]
    assert [request.accounted for request in asked] == [("123_0",)]
    assert [records[2] for request in asked for records in request.array_records] == [(0,)]


def test_of_very_many_that_ended_at_once_each_gets_its_turn() -> None:
    story, site = story_of(array="0-999", stream_logs=False)
    site.pending("", RUNNING="0-999")
    story.round()
    site.pending("")
    site.accounted(COMPLETED="0-999")
    rounds = 0
    while story.ended is None:
        rounds += 1
        assert rounds < 10
        story.round(1)
        assert story.tracker.is_urgent
    assert rounds == 2
    assert record_of(story).counts == {"COMPLETED": 1000}
    assert max(len(each.array_records[0][2]) for each in site.requests if each.accounted) == 500


def test_a_task_that_sacct_does_not_know_yet_does_not_hold_up_the_others() -> None:
    story, site = story_of(array="0-999", stream_logs=False)
    site.pending("", RUNNING="0-999")
    story.round()
    site.pending("")
    site.accounted(COMPLETED="899-999")
    for _ in range(2):
        story.round(1)
    assert "101 COMPLETED" in story.notes[-1]


# ---- how tasks end ----


def test_each_task_ends_with_its_own_evidence() -> None:
    story, site = story_of(array="0-2")
    site.pending("", RUNNING="0-2")
    story.round()
    site.pending("")
    site.accounted(COMPLETED="0,2", FAILED="1")
    site.leave_record(1, 4)
    story.round(15)
    story.round(31)
    assert states_of(story) == {"COMPLETED": "0,2", "FAILED": "1"}
    result = result_of(story)
    assert (result.job_id, result.state, result.exit_code) == ("123", "FAILED", 4)
    assert result.noted == "FAILED\ncompleted 0,2"


def test_an_exit_record_beats_the_missing_of_rows() -> None:
    story, site = story_of(array="5-6")
    site.pending("", RUNNING="5-6")
    story.round()
    site.pending("")
    site.leave_record(5, 0)
    site.leave_record(6, 3)
    story.round(15)
    assert story.ended is None
    story.round(31)
    story.round(31)
    assert states_of(story) == {"COMPLETED": "5", "FAILED": "6"}


def test_the_record_of_one_task_is_no_evidence_of_another() -> None:
    story, site = story_of(array="5-6", array_logs="none")
    site.records[5] = exit_record(job_id="123")
    site.records[6] = exit_record(job_id="999_6")
    site.pending("")
    for _ in range(3):
        story.round(60)
    assert story.ended is None
    assert story.notes == ["Array 123: 2 tasks: 2 PENDING."]


def test_a_provisional_row_of_sacct_ends_nothing() -> None:
    story, site = story_of(array="0-1")
    site.pending("", RUNNING="0-1")
    story.round()
    site.pending("")
    site.sacct = answer(
        accounting_line(JobID="123_0"),
        accounting_line(JobID="123_1", JobName="allocation", ReqMem="16?"),
    )
    story.round(15)
    assert story.ended is None
    assert story.notes[-1] == "Array 123: 2 tasks: 1 COMPLETED, 1 COMPLETING."
    site.accounted(COMPLETED="0-1")
    story.round(15)
    assert states_of(story) == {"COMPLETED": "0-1"}


def test_a_task_that_nobody_knows_is_unknown_and_no_success() -> None:
    story, site = story_of(array="0-1", array_logs="none", missing_seconds=60)
    site.pending("", RUNNING="0-1")
    story.round()
    site.pending("")
    site.accounted(COMPLETED="0")
    for _ in range(4):
        story.round(31)
    assert states_of(story) == {"COMPLETED": "0", "UNKNOWN": "1"}
    assert result_of(story).state == "UNKNOWN"
    assert any("123_1 is in no queue any more" in note for note in story.notes)


def test_silence_of_the_controller_ends_nothing() -> None:
    story, site = story_of(array="0-1", array_logs="none", missing_seconds=60)
    site.pending("", RUNNING="0-1")
    story.round()
    site.squeue = NO_CONTROLLER
    for _ in range(20):
        story.round(600)
    assert story.ended is None
    assert story.tracker.is_parked


def test_silence_of_accounting_ends_nothing_that_left_no_record() -> None:
    story, site = story_of(array="0-1", array_logs="none")
    site.pending("", RUNNING="0-1")
    story.round()
    site.pending("")
    site.sacct = NO_DATABASE
    for _ in range(5):
        story.round(600)
    assert story.ended is None
    assert story.tracker.is_parked
    site.accounted(COMPLETED="0-1")
    story.round(15)
    assert states_of(story) == {"COMPLETED": "0-1"}


def test_tasks_cancelled_in_the_queue_share_a_row() -> None:
    story, site = story_of(array="0-9%2")
    site.pending("2-9%2", RUNNING="0-1")
    story.round()
    site.squeue = answer(
        queue_line(job_id="123_[2-9%2]", state="CANCELLED", nodes=""),
        *(queue_line(job_id=f"123_{index}", state="CANCELLED") for index in range(2)),
    )
    site.sacct = answer(
        *(accounting_line(JobID=f"123_{index}", State="CANCELLED by 1001") for index in range(2)),
        accounting_line(JobID="123_[2-9%2]", State="CANCELLED by 1001", NodeList="None assigned"),
    )
    story.round(15)
    story.round(31)
    assert states_of(story) == {"CANCELLED": "0-9"}
    # Asked for by their own ids, sacct would not know those.
    asked = (each.accounted for each in site.requests if each.accounted)
    assert next(asked) == ("123",)


def test_tasks_cancelled_in_the_queue_may_be_told_of_as_the_array() -> None:
    """As sacct did after ``scancel --state=PENDING``, on 22.05."""
    story, site = story_of(array="0-9%2", array_logs="none")
    site.pending("2-9%2", RUNNING="0-1")
    story.round()
    site.pending("")
    nameless = accounting_line(JobID="123", State="CANCELLED by 1001", NodeList="None assigned")
    site.sacct = answer(accounting_line(JobID="123_0"), nameless)
    # Of what has run the array's row says nothing, nor of what left a record.
    site.leave_record(5, 0)
    story.round(15)
    assert story.ended is None
    assert story.notes[-1].endswith("1 COMPLETED, 7 CANCELLED, 2 COMPLETING.")
    site.sacct = answer(*(accounting_line(JobID=f"123_{index}") for index in (0, 1, 5)), nameless)
    story.round(15)
    assert states_of(story) == {"COMPLETED": "0-1,5", "CANCELLED": "2-4,6-9"}


def test_a_requeued_task_is_followed_to_its_real_end() -> None:
    story, site = story_of(array="0-1")
    site.pending("", RUNNING="0-1")
    story.round()
    site.squeue = answer(
        queue_line(job_id="123_0", state="PENDING", submitted="2000", nodes=""),
        queue_line(job_id="123_1"),
    )
    site.accounted(FAILED="0")
    story.round(15)
    assert "Slurm has requeued tasks 0; they are followed to their real end." in story.notes
    assert story.notes[-1].endswith("1 RUNNING, 1 PENDING.")
    site.pending("")
    site.sacct = answer(
        accounting_line(JobID="123_0", Submit="2000", Start="2010", End="2020"),
        accounting_line(JobID="123_1"),
    )
    # What the first run left is no evidence of the second.
    site.leave_record(0, 9)
    story.round(15)
    assert states_of(story) == {"COMPLETED": "0-1"}


def test_a_node_failure_that_may_be_requeued_is_waited_for() -> None:
    story, site = story_of(array="0-1", array_logs="none")
    site.pending("", RUNNING="0-1")
    story.round()
    site.pending("")
    site.accounted(COMPLETED="0", NODE_FAIL="1")
    story.round(15)
    assert story.ended is None
    story.round(31)
    assert result_of(story).state == "NODE_FAIL"


def test_without_accounting_the_queue_and_the_records_tell() -> None:
    story, site = story_of(array="0-2", array_logs="none")
    site.sacct = NO_ACCOUNTING
    site.pending("", RUNNING="0-2")
    story.round()
    site.pending("", COMPLETED="0", FAILED="1", RUNNING="2")
    site.leave_record(0)
    site.leave_record(1, 2)
    story.round(15)
    site.pending("")
    site.leave_record(2)
    for _ in range(3):
        story.round(31)
    assert states_of(story) == {"COMPLETED": "0,2", "FAILED": "1"}


def test_a_stranger_with_the_same_id_is_none_of_ours() -> None:
    story, site = story_of(array="0-1", array_logs="none")
    site.squeue = answer(queue_line(job_id="123_0", name="other"))
    story.round()
    assert story.notes == ["Array 123: 2 tasks: 2 PENDING."]
    assert story.tracker.is_settling


def test_who_watches_next_is_told_whose_array_it_was() -> None:
    story, site = story_of()
    site.pending("0-9%2")
    story.round()
    story.round(15)
    notes = [text for request in site.requests for _, text in request.acknowledged]
    assert len(notes) == 1
    assert json.loads(notes[0].partition("\n")[2])["123"]["submitted"] == 1000


# ---- limits and cancelling ----


def test_a_run_limit_holds_for_each_task() -> None:
    story, site = story_of(array="0-3", run_timeout=50, array_logs="none")
    story.clock = 1020
    late = queue_line(job_id="123_3", started="1060", submitted="1000")
    site.squeue = answer(*(queue_line(job_id=f"123_{index}") for index in range(3)), late)
    story.round()
    assert story.to_cancel == []
    story.round(45)
    assert story.notes[-1] == "timeout of 50 s is reached; cancelling tasks 0-2."
    assert story.to_cancel == ["123_[0-2]"]
    assert story.tracker.marked_dirs == ()
    story.tracker.note_cancelled(story.now)
    assert story.to_cancel == []
    site.squeue = answer(late)
    site.accounted(CANCELLED="0-2")
    story.round(15)
    site.squeue = answer()
    site.accounted(CANCELLED="0-2", COMPLETED="3")
    story.round(15)
    assert states_of(story) == {"COMPLETED": "3", "CANCELLED": "0-2"}
    assert {end.failure for end in record_of(story).failed.values()} == {"task_limit"}


def test_a_queue_limit_holds_for_all_that_wait() -> None:
    story, site = story_of(queue_timeout=60)
    story.clock = 1000
    site.pending("2-9%2", RUNNING="0-1")
    story.round()
    story.round(61)
    assert story.to_cancel == ["123_[2-9]"]


def test_a_notice_for_some_tasks_leaves_no_mark_and_is_kept_for_each() -> None:
    story, site = story_of(array="0-1", run_timeout=50, kill_grace=20)
    story.clock = 1020
    first = queue_line(job_id="123_0")
    site.squeue = answer(first, queue_line(job_id="123_1", started="1040"))
    story.round(45)
    assert story.to_cancel == ["123_0"]
    notice = story.tracker.cancel_notice
    assert notice is not None
    assert notice.seconds == 20
    story.tracker.note_cancelled(story.now)
    story.round(28)
    # The second has its own notice, and the first is cancelled after that.
    assert story.to_cancel == ["123_1"]
    assert story.tracker.cancel_notice is not None
    story.tracker.note_cancelled(story.now)
    assert story.to_cancel == ["123_0"]
    assert story.tracker.cancel_notice is None


def test_the_deadline_cancels_the_array_as_one() -> None:
    story, site = story_of(deadline=900_010.0)
    site.pending("2-9%2", RUNNING="0-1")
    story.round()
    assert story.tracker.seconds_to_deadline(story.now) == 10
    story.round(15)
    assert story.notes.count("execution_timeout is reached; cancelling.") == 1
    assert story.to_cancel == ["123"]
    assert story.tracker.marked_dirs == (RUN_DIR,)
    story.tracker.note_cancelled(story.now)
    assert story.to_cancel == []
    story.pass_time(61)
    assert story.to_cancel == ["123"]


def test_a_parked_array_says_once_that_it_is_overdue() -> None:
    story, site = story_of(deadline=900_010.0)
    site.pending("0-9%2")
    story.round()
    story.pass_time(20)
    outage = Outage(reason="away", since=story.now)
    texts = [
        event.text for event in story.tracker.park(outage, story.now) if isinstance(event, Note)
    ]
    assert "execution_timeout is reached; job 123 will be cancelled" in texts[-1]


def test_an_array_that_is_held_as_a_whole_is_told_and_cancelled() -> None:
    story, site = story_of(cancel_held=True)
    row = queue_line(job_id="123_[0-9%2]", state="PENDING", reason="JobHeldUser", nodes="")
    site.squeue = answer(row)
    story.round()
    assert story.to_cancel == ["123"]
    site.sacct = answer(
        accounting_line(JobID="123_[0-9%2]", State="CANCELLED by 1001", NodeList="")
    )
    site.squeue = answer()
    story.round(15)
    assert result_of(story).limit == "held"


def test_of_an_array_each_reason_is_told_once_with_the_number_of_its_tasks() -> None:
    story, site = story_of()

    def waits(*groups: tuple[str, str]) -> None:
        rows = [
            queue_line(job_id=f"123_[{ids}]", state="PENDING", reason=reason, nodes="")
            for ids, reason in groups
        ]
        site.squeue = answer(*rows)
        story.round(15)

    waits(("0-9%2", "None"))
    waits(("0-9%2", "Priority"))
    waits(("0-8%2", "Priority"), ("9", "JobHeldUser"))
    waits(("0-7%2", "Priority"), ("8-9", "JobHeldUser"))
    told = [note.partition(": e")[0].partition(": it")[0] for note in story.notes]
    assert told == [
        "Array 123: 10 tasks: 10 PENDING.",
        "Array 123: 10 tasks wait (Priority)",
        "Array 123: 1 task waits (JobHeldUser)",
    ]
    assert "each waits while jobs of higher priority are served." in story.notes[1]
    assert "`scontrol release 123`" in story.notes[2]
    waits(("0-9%2", "JobHeldUser"))
    waits(("0-9%2", "Priority"))
    assert [note[:40] for note in story.notes[3:]] == ["Array 123: 10 tasks wait (Priority): eac"]
    site.squeue = answer()
    site.sacct = answer(
        accounting_line(JobID="123_[0-9%2]", State="CANCELLED by 1001", NodeList="")
    )
    story.round(15)
    assert result_of(story).pending_reasons == [
        {"reason": "None", "seconds": 0},
        {"reason": "Priority", "seconds": 60},
        {"reason": "JobHeldUser", "seconds": 45},
    ]


def test_of_an_array_the_start_of_the_next_task_is_told_with_the_reason() -> None:
    story, site = story_of()
    for started in ("109000", "105000"):
        row = queue_line(
            job_id="123_[0-9%2]", state="PENDING", reason="Priority", nodes="", started=started
        )
        site.squeue = answer(row)
        story.round()
    told = [note for note in story.notes if "expects" in note]
    assert len(told) == 1
    assert told[0].endswith(
        "Slurm expects the next to start at 1970-01-02 06:16 UTC (in 2 h 30 min)."
    )


# ---- logs ----


def test_the_end_of_the_log_of_what_failed_is_shown() -> None:
    story, site = story_of(array="0-2")
    site.pending("", RUNNING="0-2")
    site.logs = {
        f"{RUN_DIR}/stdout.0.log": b"good\n",
        f"{RUN_DIR}/stdout.1.log": b"".join(b"line %d\n" % n for n in range(10_000)),
    }
    story.round()
    site.pending("")
    site.accounted(COMPLETED="0,2", FAILED="1")
    size = len(site.logs[f"{RUN_DIR}/stdout.1.log"])
    site.leave_record(1, 4, stdout_bytes=size, stdout=f"{RUN_DIR}/stdout.1.log")
    story.round(15)
    story.round(1)
    assert story.ended is not None
    assert story.lines[0] == f"[1] [the end of {RUN_DIR}/stdout.1.log, 16384 of {size} bytes]"
    assert story.lines[-1] == "[1] line 9999"
    assert all(line.startswith("[1] line ") for line in story.lines[1:])
    assert b"good" not in " ".join(story.lines).encode()
    assert record_of(story).ends[1].log == f"{RUN_DIR}/stdout.1.log"


def test_the_end_of_a_log_that_is_seen_late_is_waited_for() -> None:
    story, site = story_of(array="0-1")
    site.pending("", RUNNING="0-1")
    story.round()
    site.pending("")
    site.accounted(FAILED="0-1")
    site.leave_record(0, 4, stdout_bytes=6, stdout=f"{RUN_DIR}/stdout.0.log")
    site.leave_record(1, 4, stdout_bytes=6, stdout=f"{RUN_DIR}/stdout.1.log")
    site.logs = {f"{RUN_DIR}/stdout.0.log": b"wh"}
    story.round(15)
    assert story.ended is None
    assert story.tracker.is_urgent
    site.logs = {f"{RUN_DIR}/stdout.0.log": b"whole\n"}
    story.round(5)
    assert story.lines[-1] == "[0] whole"
    assert story.ended is None
    story.round(31)
    assert story.lines[-1] == f"[1] [no log could be read at {RUN_DIR}/stdout.1.log]"
    assert story.ended is not None


def test_the_end_of_a_log_for_which_there_was_no_room_is_asked_for_again() -> None:
    story, site = story_of(array="0-1")
    site.pending("", RUNNING="0-1")
    site.logs = {f"{RUN_DIR}/stdout.{index}.log": b"oops\n" for index in (0, 1)}
    story.round()
    site.pending("")
    site.accounted(FAILED="0-1")
    site.put_off = {f"{RUN_DIR}/stdout.1.log"}
    for _ in range(4):
        story.round(15)
    assert [line for line in story.lines if line.endswith("oops")] == ["[0] oops"]
    assert story.ended is None
    site.put_off = set()
    story.round(15)
    assert story.lines[-1] == "[1] oops"
    assert story.ended is not None


def test_of_very_many_failures_some_logs_are_shown_and_the_others_named() -> None:
    story, site = story_of(array="0-49")
    site.pending("", RUNNING="0-49")
    site.logs = {f"{RUN_DIR}/stdout.{index}.log": b"oops\n" for index in range(50)}
    story.round()
    site.pending("")
    site.accounted(FAILED="0-49")
    for _ in range(3):
        story.round(10)
    assert len([line for line in story.lines if line.endswith("] oops")]) == 20
    assert story.lines[-1] == (
        f"[the logs of 30 more tasks that failed are not shown: 20-49, in {LOGS}]"
    )


def test_what_was_shown_is_not_shown_to_who_watches_next() -> None:
    story, site = story_of(array="0-3")
    site.logs = {f"{RUN_DIR}/stdout.{index}.log": b"oops\n" for index in range(4)}
    site.pending("", RUNNING="0-3")
    story.round()
    site.pending("", RUNNING="2-3")
    site.accounted(FAILED="0-1")
    for _ in range(2):
        story.round(10)
    again, other = story_of(array="0-3")
    other.progress = written_by(story, site)
    other.logs = site.logs
    other.pending("")
    other.accounted(FAILED="0-3")
    for _ in range(3):
        again.round(10)
    assert "Watching again; what was shown of the logs is not repeated." in again.notes
    assert [line for line in again.lines if line.endswith("oops")] == ["[2] oops", "[3] oops"]


def test_nothing_is_read_where_no_logs_are_wanted() -> None:
    for changes in ({"array_logs": "none"}, {"stream_logs": False}):
        story, site = story_of(array="0-1", **changes)
        site.pending("", RUNNING="0-1")
        story.round()
        site.pending("")
        site.accounted(FAILED="0-1")
        story.round(15)
        assert story.ended is not None
        assert not any(request.logs for request in site.requests)


def test_all_logs_are_followed_from_where_an_earlier_watcher_stopped() -> None:
    story, site = story_of(array="0-1", array_logs="all")
    site.pending("", RUNNING="0-1")
    site.logs = {f"{RUN_DIR}/stdout.0.log": b"a\n", f"{RUN_DIR}/stdout.1.log": b"b\nhal"}
    story.round()
    story.round(15)
    assert sorted(story.lines) == ["[0] a", "[1] b"]
    again, other = story_of(array="0-1", array_logs="all")
    other.progress = written_by(story, site)
    other.logs = {f"{RUN_DIR}/stdout.0.log": b"a\nc\n", f"{RUN_DIR}/stdout.1.log": b"b\nhalf\n"}
    other.pending("")
    other.accounted(COMPLETED="0-1")
    for _ in range(4):
        again.round(5)
    assert sorted(again.lines) == ["[0] c", "[1] half"]
    assert again.ended is not None


@pytest.mark.parametrize("size", [2, None])
def test_a_log_that_was_read_before_its_task_ended_is_left_at_the_end(size: int | None) -> None:
    story, site = story_of(array="0-1", array_logs="all")
    site.pending("", RUNNING="0-1")
    site.logs = {f"{RUN_DIR}/stdout.{index}.log": b"a\n" for index in (0, 1)}
    story.round()
    story.round(15)
    site.pending("")
    site.accounted(COMPLETED="0-1")
    for index in (0, 1) if size is not None else ():
        site.leave_record(index, 0, stdout_bytes=size, stdout=f"{RUN_DIR}/stdout.{index}.log")
    for _ in range(3):
        story.round(5)
    assert sorted(story.lines) == ["[0] a", "[1] a"]
    assert story.ended is not None


def test_the_limit_of_all_logs_is_one() -> None:
    story, site = story_of(array="0-9", array_logs="all", log_limit_bytes=30)
    site.pending("", RUNNING="0-9")
    site.logs = {f"{RUN_DIR}/stdout.{index}.log": b"0123456789\n" * 9 for index in range(10)}
    story.round()
    story.round(15)
    assert story.lines[-1] == f"[not shown: the rest of the logs of array 123, {LOGS}]"
    shown = len(story.lines)
    site.pending("")
    site.accounted(COMPLETED="0-9")
    story.round(15)
    assert story.ended is not None
    assert len(story.lines) == shown


def test_many_logs_are_read_in_turns() -> None:
    story, site = story_of(array="0-99", array_logs="all")
    site.pending("", RUNNING="0-99")
    site.logs = {f"{RUN_DIR}/stdout.{index}.log": b"x\n" for index in range(100)}
    for _ in range(8):
        story.round(5)
    assert len(story.lines) == 100
    assert max(len(request.logs) for request in site.requests) == 16


def test_shifted_tasks_are_shown_by_the_ids_of_the_author() -> None:
    story, site = story_of(array="1000-1001 shifted by 1000")
    site.pending("", RUNNING="0-1")
    site.logs = {f"{RUN_DIR}/stdout.1.log": b"oops\n"}
    story.round()
    site.pending("")
    site.accounted(COMPLETED="0", FAILED="1")
    story.round(15)
    story.round(15)
    assert story.lines[-1] == "[1001] oops"
    assert states_of(story) == {"COMPLETED": "1000", "FAILED": "1001"}
    assert record_of(story).to_xcom(parse_array("1000-1001"))["tasks"]["1001"]["job_id"] == "123_1"


def test_contradictions_of_many_tasks_are_not_told_for_each() -> None:
    story, site = story_of(array="0-9", array_logs="none")
    site.pending("", RUNNING="0-9")
    story.round()
    site.pending("")
    site.accounted(COMPLETED="0-9")
    for index in range(10):
        site.leave_record(index, 7)
    story.round(15)
    told = [
        event for event in story.events if isinstance(event, Note) and event.level > logging.INFO
    ]
    assert len(told) == 3
    assert states_of(story) == {"FAILED": "0-9"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"shown": "x", "begun": {}}', '{"begun": {"1": "a"}}']
)
def test_a_note_that_is_not_whole_is_not_believed(text: str) -> None:
    story, site = story_of(array="0-1")
    site.progress = text
    site.pending("", RUNNING="0-1")
    story.round()
    assert not any("Watching again" in note for note in story.notes)
    assert not [event for event in story.events if isinstance(event, LogLines)]
