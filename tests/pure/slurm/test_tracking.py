"""A wait ends with evidence, hears of every change once, and shows each line of the log once."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.answers import Answers
from airflow_provider_csc.slurm.commands import PollRequest
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.output import RowMemo
from airflow_provider_csc.slurm.parking import Outage
from airflow_provider_csc.slurm.pending import explain_reason
from airflow_provider_csc.slurm.result import describe_result
from airflow_provider_csc.slurm.states import STATES, Phase
from airflow_provider_csc.slurm.tracking import (
    Ended,
    JobTracker,
    LogLines,
    Moment,
    Note,
    WatchSpec,
)
from tests.pure.slurm.evidence import (
    NO_ACCOUNTING,
    NO_CONTROLLER,
    NO_DATABASE,
    accounting_line,
    answer,
    exit_record,
    queue_line,
    recorded,
)
from tests.pure.slurm.story import LOG, RUN_DIR, Site, Story

NOW = Moment(wall=5000, steady=50)
BEGIN_TIME = explain_reason("BeginTime").explain("123")
SPEC = WatchSpec(job_ids=("123",), run_dir=RUN_DIR, stdout_path=LOG, stderr_path=LOG)

# ---- when a wait ends, and with which state ----

QUEUE = {
    "running": answer(queue_line(state="RUNNING")),
    "completing": answer(queue_line(state="COMPLETING")),
    "new state": answer(queue_line(state="DREAMING")),
    "completed": answer(queue_line(state="COMPLETED")),
    "failed": answer(queue_line(state="FAILED")),
    "absent": answer(),
    "silent": NO_CONTROLLER,
}
ACCOUNTING = {
    "running": answer(accounting_line(State="RUNNING")),
    "requeued": answer(accounting_line(State="REQUEUED")),
    "new state": answer(accounting_line(State="DREAMING")),
    "completed": answer(accounting_line(State="COMPLETED", ExitCode="0:0")),
    "failed": answer(accounting_line(State="FAILED", ExitCode="3:0")),
    # As slurmdbd shows a short job whose beginning has not arrived yet.
    "half": answer(accounting_line(State="COMPLETED", JobName="allocation", ReqMem="16?")),
    "absent": answer(),
    "silent": NO_DATABASE,
    "disabled": NO_ACCOUNTING,
}
RECORDS = {
    "none": None,
    "0": exit_record(code=0),
    "3": exit_record(code=3),
    # Of another job, which must not speak for this one.
    "other": exit_record(job_id="999", code=0),
    "cut": exit_record(code=0)[:30],
}

# After how many seconds without the job in squeue's live rows the wait ends: "-" for never, at once,
# 4 s (the log's length is recorded nowhere), 30 s (what slurmdbd may lag behind), 600 s
# (missing_seconds, when squeue denies the job and nobody tells its end).
_TRUTH = """
squeue      sacct       none           0              3              other          cut
running     *           -              -              -              -              -
completing  *           -              -              -              -              -
new state   *           -              -              -              -              -
silent      *           -              -              -              -              -
completed   running     COMPLETED@30   COMPLETED@30   FAILED@30      COMPLETED@30   COMPLETED@30
completed   requeued    COMPLETED@30   COMPLETED@30   FAILED@30      COMPLETED@30   COMPLETED@30
completed   new state   COMPLETED@30   COMPLETED@30   FAILED@30      COMPLETED@30   COMPLETED@30
completed   completed   COMPLETED@4    COMPLETED@0    FAILED@0       COMPLETED@4    COMPLETED@4
completed   failed      FAILED@4       FAILED@0       FAILED@0       FAILED@4       FAILED@4
completed   half        COMPLETED@30   COMPLETED@30   FAILED@30      COMPLETED@30   COMPLETED@30
completed   absent      COMPLETED@30   COMPLETED@30   FAILED@30      COMPLETED@30   COMPLETED@30
completed   silent      COMPLETED@30   COMPLETED@30   FAILED@30      COMPLETED@30   COMPLETED@30
completed   disabled    COMPLETED@4    COMPLETED@0    FAILED@0       COMPLETED@4    COMPLETED@4
failed      running     FAILED@30      FAILED@30      FAILED@30      FAILED@30      FAILED@30
failed      requeued    FAILED@30      FAILED@30      FAILED@30      FAILED@30      FAILED@30
failed      new state   FAILED@30      FAILED@30      FAILED@30      FAILED@30      FAILED@30
failed      completed   COMPLETED@4    COMPLETED@0    FAILED@0       COMPLETED@4    COMPLETED@4
failed      failed      FAILED@4       FAILED@0       FAILED@0       FAILED@4       FAILED@4
failed      half        FAILED@30      FAILED@30      FAILED@30      FAILED@30      FAILED@30
failed      absent      FAILED@30      FAILED@30      FAILED@30      FAILED@30      FAILED@30
failed      silent      FAILED@30      FAILED@30      FAILED@30      FAILED@30      FAILED@30
failed      disabled    FAILED@4       FAILED@0       FAILED@0       FAILED@4       FAILED@4
absent      running     UNKNOWN@600    COMPLETED@30   FAILED@30      UNKNOWN@600    UNKNOWN@600
absent      requeued    UNKNOWN@600    COMPLETED@30   FAILED@30      UNKNOWN@600    UNKNOWN@600
absent      new state   UNKNOWN@600    COMPLETED@30   FAILED@30      UNKNOWN@600    UNKNOWN@600
absent      completed   COMPLETED@4    COMPLETED@0    FAILED@0       COMPLETED@4    COMPLETED@4
absent      failed      FAILED@4       FAILED@0       FAILED@0       FAILED@4       FAILED@4
absent      half        UNKNOWN@600    COMPLETED@30   FAILED@30      UNKNOWN@600    UNKNOWN@600
absent      absent      UNKNOWN@600    COMPLETED@30   FAILED@30      UNKNOWN@600    UNKNOWN@600
absent      silent      -              COMPLETED@30   FAILED@30      -              -
absent      disabled    UNKNOWN@600    COMPLETED@0    FAILED@0       UNKNOWN@600    UNKNOWN@600
"""


def read_truth() -> list[tuple[str, str, str, str]]:
    head, *rows = [line for line in _TRUTH.splitlines() if line]
    columns = {name: head.index(f" {name}") + 1 for name in RECORDS}
    cases = []
    for row in rows:
        queue, accounting = row[:12].strip(), row[12:24].strip()
        for each in ACCOUNTING if accounting == "*" else [accounting]:
            for name, at in columns.items():
                cases.append((queue, each, name, row[at:].split()[0]))
    return cases


def live_through(story: Story) -> str:
    """Return state and second of the end, or "-" when a day passes without one."""
    for second, passed in [
        (0, 0),
        (1, 1),
        (4, 3),
        (29, 25),
        (30, 1),
        (599, 569),
        (600, 1),
        (86_400, 85_800),
    ]:
        story.round(passed)
        if story.ended:
            return f"{story.ended.results[0].state}@{second}"
    return "-"


@pytest.mark.parametrize(("queue", "accounting", "record", "expected"), read_truth())
def test_a_wait_ends_only_with_evidence(
    queue: str, accounting: str, record: str, expected: str
) -> None:
    site = Site(squeue=QUEUE[queue], sacct=ACCOUNTING[accounting], record=RECORDS[record])
    assert live_through(Story(SPEC, site)) == expected


def test_the_table_is_whole() -> None:
    assert len(set(read_truth())) == len(QUEUE) * len(ACCOUNTING) * len(RECORDS)


# What another cluster of a federation runs is neither live here nor over.
LIVE = [name for name, state in STATES.items() if not state.is_final and name != "REVOKED"]


@pytest.mark.parametrize("accounting", ACCOUNTING)
@pytest.mark.parametrize("state", LIVE)
def test_no_live_state_ever_ends_a_wait(state: str, accounting: str) -> None:
    site = Site(answer(queue_line(state=state)), ACCOUNTING[accounting], exit_record())
    assert live_through(Story(SPEC, site)) == "-"


@pytest.mark.parametrize("state", [name for name, state in STATES.items() if state.is_final])
def test_every_final_state_ends_a_wait_as_itself(state: str) -> None:
    """What squeue says is confirmed by sacct, or by nothing for half a minute."""
    code = "0:0" if state == "COMPLETED" else "1:0"
    site = Site(
        answer(queue_line(state=state)), answer(accounting_line(State=state, ExitCode=code))
    )
    late = {"NODE_FAIL": 30, "PREEMPTED": 30, "BOOT_FAIL": 30}.get(state, 4)
    assert live_through(Story(SPEC, site)) == f"{state}@{late}"
    assert live_through(Story(SPEC, Site(answer(queue_line(state=state))))) == f"{state}@30"


def test_a_job_whose_node_died_behind_its_script_has_succeeded_when_slurm_does_not_requeue_it() -> (
    None
):
    lost, row = answer(queue_line(state="NODE_FAIL")), answer(accounting_line(State="NODE_FAIL"))
    story = Story(SPEC, Site(lost, row, exit_record(signals=0)))
    assert live_through(story) == "COMPLETED@30"
    said = "sacct says NODE_FAIL but the job's own exit record says exit code 0."
    assert f"The sources contradict each other about job 123: {said}" in story.notes
    assert story.ended is not None
    (result,) = story.ended.results
    assert f"Its node was lost when its script had ended already: {said}" in describe_result(result)


@pytest.mark.parametrize("accounting", ACCOUNTING)
def test_a_job_that_another_cluster_runs_ends_when_accounting_says_so(accounting: str) -> None:
    site = Site(answer(queue_line(state="REVOKED")), ACCOUNTING[accounting])
    ends = {"completed": "COMPLETED@4", "failed": "FAILED@4"}
    story = Story(SPEC, site)
    assert live_through(story) == ends.get(accounting, "-")
    assert sum("another cluster of the federation runs it" in note for note in story.notes) == 1


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x1f\n"), max_size=20))
def test_a_state_in_no_table_waits(state: str) -> None:
    word = (state.split() or [""])[0].rstrip("+")
    if word in STATES or word in {each.code for each in STATES.values()}:
        return
    site = Site(answer(queue_line(state=state)), answer(accounting_line()), exit_record())
    assert live_through(Story(SPEC, site)) == "-"


def test_a_job_that_was_never_seen_is_unknown_after_its_time() -> None:
    spec = WatchSpec(job_ids=("123",), missing_seconds=30)
    story = Story(spec)
    story.round()
    story.round(29)
    assert story.ended is None
    story.round(1)
    assert story.ended is not None
    (result,) = story.ended.results
    assert (result.state, result.is_final, result.is_success) == ("UNKNOWN", False, False)


def test_the_time_of_a_missing_job_begins_anew_when_it_is_seen() -> None:
    story = Story(WatchSpec(job_ids=("123",)))
    for _ in range(5):
        story.site.squeue = answer()
        story.round(500)
        story.round(500)
        story.site.squeue = QUEUE["running"]
        story.round(1)
    assert story.ended is None


def test_a_silence_in_between_is_no_denial() -> None:
    """Both denied at the beginning; from then on one of them says nothing."""
    story = Story(WatchSpec(job_ids=("123",)))
    story.round()
    story.site.sacct = NO_DATABASE
    for _ in range(10):
        story.round(600)
    assert story.ended is None


def test_a_job_that_ends_and_is_requeued_goes_on() -> None:
    """Between its two runs sacct shows the first one's end, and so does the exit record."""
    story = Story(SPEC, Site(QUEUE["running"]))
    story.round()
    story.site.squeue = answer(queue_line(state="FAILED"))
    story.site.sacct = answer(accounting_line(State="REQUEUED"))
    story.round(15)
    story.site.squeue = answer(queue_line(state="PENDING", reason="BeginTime", nodes=""))
    story.site.sacct = answer(accounting_line(State="NODE_FAIL"))
    story.site.record = exit_record(code=1)
    story.round(1000)
    story.site.squeue = answer(queue_line(started="5000"))
    story.round(15)
    assert story.ended is None
    assert f"Job 123 is PENDING (BeginTime) in small: {BEGIN_TIME}" in story.notes
    story.site.squeue, story.site.sacct = answer(), answer(accounting_line(Start="5000"))
    story.site.record = exit_record(started=5000, ended=5010)
    story.round(15)
    assert story.ended is not None
    (result,) = story.ended.results
    assert (result.state, result.exit_code) == ("COMPLETED", 0)
    assert result.start_time == "1970-01-01T01:23:20+00:00"


def test_a_requeue_is_waited_out_as_it_was_recorded() -> None:
    job_id = recorded("squeue-requeued").job_id
    site = Site(recorded("squeue-requeued").frame, recorded("sacct-requeued").frame)
    assert live_through(Story(WatchSpec(job_ids=(job_id,)), site)) == "-"
    site.squeue = answer()
    assert live_through(Story(WatchSpec(job_ids=(job_id,)), site)) == "UNKNOWN@600"


# ---- several jobs ----


def test_several_jobs_end_together() -> None:
    story = Story(WatchSpec(job_ids=("1", "2")))
    story.site.squeue = answer(queue_line(job_id="2"))
    story.site.sacct = answer(accounting_line(JobID="1", State="TIMEOUT"))
    story.round()
    assert story.ended is None
    assert story.site.requests[-1].accounted == ("1",)
    story.round(15)
    assert story.site.requests[-1].queued == ("2",)
    story.site.squeue = answer()
    story.site.sacct = answer(accounting_line(JobID="2"))
    story.round(15)
    assert story.ended is not None
    found = [(result.job_id, result.state) for result in story.ended.results]
    assert found == [("1", "TIMEOUT"), ("2", "COMPLETED")]


def test_one_silent_job_does_not_hold_up_what_is_known_of_another() -> None:
    story = Story(WatchSpec(job_ids=("1", "2"), missing_seconds=30))
    story.site.sacct = answer(accounting_line(JobID="1"))
    story.round()
    story.round(30)
    assert story.ended is not None
    assert [result.state for result in story.ended.results] == ["COMPLETED", "UNKNOWN"]


def array_site(**accounting: str) -> Site:
    rows = [
        accounting_line(JobID=f"123_{index}", State=state) for index, state in accounting.items()
    ]
    return Site(sacct=answer(*rows))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("COMPLETED", "COMPLETED"), "COMPLETED@0"),
        (("COMPLETED", "FAILED"), "FAILED@0"),
        (("CANCELLED by 1001", "COMPLETED"), "CANCELLED@0"),
        (("COMPLETED", "RUNNING"), "UNKNOWN@600"),
        (("COMPLETED", "PENDING"), "UNKNOWN@600"),
    ],
)
def test_an_array_ends_with_its_last_element_and_as_its_worst(
    states: tuple[str, ...], expected: str
) -> None:
    rows = [accounting_line(JobID=f"123_{n}", State=state) for n, state in enumerate(states)]
    story = Story(WatchSpec(job_ids=("123",)), Site(sacct=answer(*rows)))
    assert live_through(story) == expected


def test_an_array_is_running_while_one_element_is() -> None:
    rows = [queue_line(job_id="123_1", state="COMPLETED"), queue_line(job_id="123_2")]
    story = Story(WatchSpec(job_ids=("123",)), Site(answer(*rows)))
    assert live_through(story) == "-"
    assert story.notes == ["Job 123 is RUNNING on c1 in small."]


def test_an_array_is_not_a_success_by_the_elements_that_squeue_still_remembers() -> None:
    """Squeue forgets what ended first: element 1 may have failed a day before element 2 ended."""
    site = Site(answer(queue_line(job_id="123_2", state="COMPLETED")), NO_DATABASE)
    story = Story(WatchSpec(job_ids=("123",)), site)
    assert live_through(story) == "-"
    story.site.sacct = answer(
        accounting_line(JobID="123_1", State="FAILED"), accounting_line(JobID="123_2")
    )
    story.round(15)
    assert story.ended is not None
    assert story.ended.results[0].state == "FAILED"


def test_an_element_is_told_apart_from_its_siblings() -> None:
    rows = [
        queue_line(job_id="123_2", state="FAILED"),
        queue_line(job_id="123_10"),
        queue_line(job_id="123_[3-9]", state="PENDING"),
        queue_line(job_id="1234_1", state="FAILED"),
    ]
    sacct = answer(accounting_line(JobID="123_1"), accounting_line(JobID="123_1.batch"))
    assert live_through(Story(WatchSpec(job_ids=("123_1",)), Site(answer(*rows), sacct))) == (
        "COMPLETED@0"
    )
    assert live_through(Story(WatchSpec(job_ids=("123_5",)), Site(answer(*rows), sacct))) == "-"


# ---- silence ----

SLURM_AWAY = (
    "squeue gave no answer: slurm_load_jobs error: Unable to contact slurm controller (connect "
    "failure). The Slurm controller is the site's to mend; see its status page"
)
DATABASE_AWAY = (
    "sacct gave no answer: sacct: error: Problem talking to the database: Connection refused. "
    "Slurm's accounting, which knows how the job ended, is the site's to mend; see its status page"
)
WAITS = (
    "The task waits: it uses up no retry, its own limits still hold, and the job is not affected."
)


def test_silence_is_said_once_and_its_end_too() -> None:
    story = Story(SPEC, Site(QUEUE["running"]))
    story.round()
    story.site.squeue = NO_CONTROLLER
    for _ in range(5):
        story.round(15)
    story.site.squeue = QUEUE["running"]
    story.round(15)
    story.round(15)
    assert story.notes == [
        "Job 123 is RUNNING on c1 in small.",
        f"No answer from the site since 1970-01-11 10:00:15 UTC: {SLURM_AWAY}. {WAITS}",
        "The site answers again after 1 min 15 s.",
    ]
    warning = next(
        event for event in story.events if isinstance(event, Note) and "No answer" in event.text
    )
    assert warning.level == logging.WARNING


def test_an_outage_that_becomes_another_is_said_with_its_new_reason_once() -> None:
    story = Story(SPEC, Site(NO_CONTROLLER))
    lost = Outage(reason="The connection was lost.", since=story.now, is_passing=True)
    expired = Outage(reason="Its certificate EXPIRED at /c; renew it.", since=story.now)
    said = story.tracker.park(lost, story.now)
    for _ in range(3):
        said += story.tracker.park(expired, story.now)
        said += story.tracker.park(lost, story.now)
    assert [note.text for note in said if isinstance(note, Note)] == [
        f"No answer from the site since 1970-01-11 10:00:00 UTC: The connection was lost. {WAITS}",
        (
            "Still no answer from the site (since 1970-01-11 10:00:00 UTC), now for another reason: "
            "Its certificate EXPIRED at /c; renew it."
        ),
    ]
    story.round()
    assert [SLURM_AWAY in note for note in story.notes] == [True]


def test_a_silent_database_is_said_once_a_job_is_over() -> None:
    """Squeue answers all the while, so it was said again and again in every round."""
    story = Story(SPEC, Site(QUEUE["running"], NO_DATABASE))
    story.round()
    story.site.squeue = answer()
    for _ in range(6):
        story.round(15)
    assert story.notes[1:] == [
        f"No answer from the site since 1970-01-11 10:00:45 UTC: {DATABASE_AWAY}. {WAITS}"
    ]
    story.site.sacct = answer(accounting_line())
    story.round(15)
    assert story.notes[2:] == ["The site answers again after 1 min 0 s."]
    assert story.ended is not None


def test_a_silent_database_is_forgotten_when_the_job_lives_again() -> None:
    story = Story(SPEC, Site(answer(), NO_DATABASE))
    story.round()
    story.round(30)
    story.site.squeue = answer(queue_line(state="PENDING", reason="BeginTime", nodes=""))
    story.round(15)
    assert story.notes[1:] == [
        "The site answers again after 15 s.",
        f"Job 123 is PENDING (BeginTime) in small: {BEGIN_TIME}",
    ]


def test_what_was_not_asked_is_not_denied() -> None:
    """One answer serves all trackers: this one asked for its log, another one for its own job."""
    tracker = JobTracker("w0", WatchSpec(job_ids=("123",), stdout_path=LOG, missing_seconds=0))
    site = Site(QUEUE["running"])
    tracker.observe(site.answer(tracker.ask(), 1000), NOW)
    assert tracker.is_starting
    request = tracker.follow_up()
    assert request.queued == request.accounted == ()
    merged = PollRequest(queued=("7",), accounted=("7",), logs=request.logs)
    site.squeue = site.sacct = answer()
    assert tracker.observe(site.answer(merged, 1000), NOW) == []
    assert not tracker.is_settling


# ---- what is told of changes ----


def test_changes_are_told_and_nothing_twice() -> None:
    story = Story(WatchSpec(job_ids=("123",)))
    for line in [
        queue_line(state="PENDING", reason="Priority", nodes=""),
        queue_line(state="PENDING", reason="Priority", nodes=""),
        queue_line(state="PENDING", reason="Resources", nodes=""),
        queue_line(state="CONFIGURING", reason="None", nodes="c1"),
        queue_line(),
        queue_line(),
        queue_line(state="SUSPENDED"),
        queue_line(state="COMPLETING"),
        queue_line(state="DREAMING"),
    ]:
        story.site.squeue = answer(line)
        story.round(15)
    assert story.notes == [
        f"Job 123 is PENDING (Priority) in small: {explain_reason('Priority').explain('123')}",
        f"Job 123 is PENDING (Resources) in small: {explain_reason('Resources').explain('123')}",
        "Job 123 is CONFIGURING in small: it has nodes, which are getting ready.",
        "Job 123 is RUNNING on c1 in small.",
        "Job 123 is SUSPENDED on c1 in small: it is suspended and gave its processors up.",
        "Job 123 is COMPLETING on c1 in small: it is ending; its exit code is not final yet.",
        "Job 123 is DREAMING (c1) in small: it is not a state we know.",
    ]


def waiting(reason: str, started: str = "N/A") -> Frame:
    return answer(queue_line(state="PENDING", reason=reason, nodes="", started=started))


def test_why_a_job_waits_is_told_when_it_changes_and_only_then() -> None:
    story = Story(SPEC, Site())
    for reason in ("Priority", "Priority", "Resources", "Priority", "SomethingNew", "SomethingNew"):
        story.site.squeue = waiting(reason)
        story.round(15)
    told = [note.partition(": it ")[0] for note in story.notes]
    assert told == [
        f"Job 123 is PENDING ({reason}) in small"
        for reason in ("Priority", "Resources", "Priority", "SomethingNew")
    ]
    assert "has no explanation" in story.notes[-1]


def test_what_a_person_must_do_is_a_warning_and_the_rest_is_not() -> None:
    levels = {}
    for reason in ("Priority", "PartitionDown", "PartitionTimeLimit", "JobHeldAdmin"):
        story = Story(WatchSpec(job_ids=("123",)), Site(waiting(reason)))
        (note,) = [event for event in story.round() if isinstance(event, Note)]
        levels[reason] = note.level
    assert levels == {
        "Priority": logging.INFO,
        "PartitionDown": logging.INFO,
        "PartitionTimeLimit": logging.WARNING,
        "JobHeldAdmin": logging.WARNING,
    }


def test_a_state_that_says_something_itself_is_told_beside_the_reason() -> None:
    row = queue_line(state="REQUEUE_HOLD", reason="JobHeldUser", nodes="")
    story = Story(WatchSpec(job_ids=("123",)), Site(answer(row)))
    story.round()
    (note,) = story.notes
    assert note.startswith(
        "Job 123 is REQUEUE_HOLD (JobHeldUser) in small: it was requeued and is held until "
        "released. It is held by its user or an account coordinator. It will not start"
    )


def test_nodes_that_come_and_go_in_a_reason_are_no_news() -> None:
    story = Story(SPEC, Site())
    for nodes in ("c1", "c[1-2]", "c2"):
        story.site.squeue = waiting(f"ReqNodeNotAvail, UnavailableNodes:{nodes}")
        story.round(15)
    (note,) = story.notes
    assert note.startswith("Job 123 is PENDING (ReqNodeNotAvail, UnavailableNodes) in small: it ")
    assert "(c1)" in note


def test_an_estimated_start_is_told_and_told_again_when_it_moves_in_earnest() -> None:
    story = Story(SPEC, Site())
    story.clock = 1795330000
    for started in ("N/A", "1795342500", "1795342530", "1795338900", "N/A", "1795338930"):
        story.site.squeue = waiting("Priority", started)
        story.round()
    assert story.notes[1:] == [
        "Slurm expects job 123 to start at 2026-11-22 10:15 UTC (in 3 h 28 min).",
        "Slurm now expects job 123 to start at 2026-11-22 09:15 UTC (in 2 h 28 min).",
    ]


def test_the_start_of_a_job_that_has_nodes_is_no_estimate() -> None:
    story = Story(SPEC, Site())
    row = queue_line(state="CONFIGURING", reason="None", started="999999")
    story.site.squeue = answer(row)
    story.round()
    assert not any("expects" in note for note in story.notes)


def test_the_result_says_why_the_job_waited_and_how_long() -> None:
    story = Story(SPEC, Site())
    for reason in ("Priority", "Resources", "Priority"):
        story.site.squeue = waiting(reason)
        story.round(30)
    story.site.squeue = QUEUE["running"]
    story.round(30)
    story.site.squeue, story.site.sacct = answer(), answer(accounting_line())
    story.site.record = exit_record()
    story.round(15)
    assert story.ended is not None
    # It began before the last look: 1010 by the cluster's clock, which is long ago here.
    assert story.ended.results[0].pending_reasons == [
        {"reason": "Priority", "seconds": 30},
        {"reason": "Resources", "seconds": 30},
    ]


def test_a_job_that_never_ran_waited_until_it_was_last_seen() -> None:
    story = Story(SPEC, Site(waiting("JobHeldUser")))
    story.round()
    story.round(90)
    story.site.squeue = answer()
    story.site.sacct = answer(accounting_line(State="CANCELLED by 1001", Start="Unknown"))
    for _ in range(4):
        story.round(15)
    assert story.ended is not None
    assert story.ended.results[0].pending_reasons == [{"reason": "JobHeldUser", "seconds": 90}]


def test_a_job_that_was_never_seen_waiting_waited_for_nothing_we_know() -> None:
    story = Story(SPEC, Site(QUEUE["running"]))
    story.round()
    story.site.squeue, story.site.sacct = answer(), answer(accounting_line())
    story.site.record = exit_record()
    story.round(15)
    assert story.ended is not None
    assert story.ended.results[0].pending_reasons == []


# ---- what is asked ----


def test_a_waiting_job_costs_one_question_a_round() -> None:
    story = Story(SPEC, Site(answer(queue_line(state="PENDING"))))
    story.round()
    assert story.site.requests == [
        PollRequest(owned=("123",), progress=(("w0.progress", RUN_DIR),))
    ]
    story.round(15)
    # What identifies the job, for whoever watches it next, goes along once.
    (later,) = story.site.requests[1:]
    assert replace(later, acknowledged=()) == PollRequest(owned=("123",))
    assert [run_dir for run_dir, _ in later.acknowledged] == [RUN_DIR]
    story.round(15)
    assert story.site.requests[2:] == [PollRequest(owned=("123",))]


def test_an_element_that_was_cancelled_with_its_array_is_looked_for_there() -> None:
    """Tried on 22.05: sacct --jobs=7_4 tells nothing of it, --jobs=7 has one row for all."""
    site = Site(answer(queue_line(job_id="7_[0-9]", state="CANCELLED")), answer())
    story = Story(replace(SPEC, job_ids=("7_4",)), site)
    story.round()
    assert site.requests[-1].accounted == ("7_4",)
    site.sacct = answer(accounting_line(JobID="7_[0-9]", State="CANCELLED by 1001", NodeList=""))
    story.round(5)
    assert site.requests[-1].accounted == ("7",)
    assert story.ended is not None
    assert [(each.job_id, each.state) for each in story.ended.results] == [("7_4", "CANCELLED")]


def test_what_is_not_among_our_own_jobs_is_asked_for_by_its_id_before_it_is_given_up() -> None:
    """As when the connection logs in as somebody else by now."""
    site = Site(answer(), answer(accounting_line(State="RUNNING")))
    story = Story(SPEC, site)
    story.round()
    assert (site.requests[-1].queued, site.requests[-1].owned) == ((), ("123",))
    site.squeue = answer(queue_line(state="RUNNING"))
    before = len(site.requests)
    story.round(5)
    assert (site.requests[before].queued, site.requests[before].owned) == (("123",), ())
    assert not story.tracker.is_settling
    story.round(900)
    assert story.ended is None


def test_a_row_that_did_not_change_is_passed_over_and_the_clocks_go_on() -> None:
    memo = RowMemo()
    tracker = JobTracker("w0", replace(SPEC, queue_timeout=60.0))
    frames = {"squeue": answer(queue_line(state="PENDING", submitted="1000"))}
    told: list[str] = []
    for clock in (1000, 1030, 1061):
        tracker.ask()
        known = frames | {"clock": Frame(0, str(clock).encode())}
        memo = RowMemo(memo.now)
        now = Moment(wall=clock, steady=clock)
        events = tracker.observe(Answers(known, memo=memo), now)
        told += [each.text for each in events if isinstance(each, Note)]
    assert len(told) == 2
    assert told[0].startswith("Job 123 is PENDING")
    assert told[1] == "queue_timeout of 60 s is reached; cancelling."
    assert tracker.states == ["queued"]
    memo = RowMemo(memo.now)
    tracker.ask()
    gone = {"squeue": answer(), "clock": Frame(0, b"1062")}
    tracker.observe(Answers(gone, memo=memo), Moment(wall=1062, steady=1062))
    assert (tracker.is_settling, tracker.states) == (True, ["ending"])
    # Back again with the very same row, as after an answer that came too early.
    tracker.follow_up()
    known = frames | {"clock": Frame(0, b"1063")}
    tracker.observe(Answers(known, memo=RowMemo(memo.before)), Moment(wall=1063, steady=1063))
    assert (tracker.is_settling, tracker.states) == (False, ["queued"])


def test_a_running_job_costs_one_question_a_round_once_its_log_is_there() -> None:
    story = Story(SPEC, Site(QUEUE["running"], logs={LOG: b"hi\n"}))
    story.round()
    assert len(story.site.requests) == 2
    story.round(15)
    assert len(story.site.requests) == 3
    assert [log.offset for log in story.site.requests[-1].logs] == [3]


def test_the_database_is_asked_only_about_what_is_over() -> None:
    story = Story(WatchSpec(job_ids=("1", "2")), Site(answer(queue_line(job_id="1"))))
    story.round()
    assert [request.accounted for request in story.site.requests] == [(), ("2",)]


def test_without_a_run_directory_no_file_is_asked_for() -> None:
    story = Story(WatchSpec(job_ids=("123",)))
    story.round()
    for request in story.site.requests:
        assert request.exit_records == request.progress == request.logs == ()


@pytest.mark.parametrize(
    ("stdout", "stderr", "streams", "paths"),
    [
        ("/a", "/a", True, ("/a",)),
        ("/a", "/b", True, ("/a", "/b")),
        ("/a", None, True, ("/a",)),
        (None, None, True, ()),
        ("/a", "/b", False, ()),
    ],
)
def test_the_logs_of_a_watch_are_its_different_files(
    stdout: str | None, stderr: str | None, *, streams: bool, paths: tuple[str, ...]
) -> None:
    spec = WatchSpec(job_ids=("1",), stdout_path=stdout, stderr_path=stderr, stream_logs=streams)
    assert spec.log_paths == paths


# ---- logs ----


def test_lines_are_shown_as_they_come_and_the_last_at_the_end() -> None:
    story = Story(SPEC, Site(QUEUE["running"], logs={LOG: b"one\ntw"}))
    story.round()
    assert story.lines == ["one"]
    story.site.logs[LOG] += b"o\nthree"
    story.round(15)
    assert story.lines == ["one", "two"]
    story.site.squeue, story.site.sacct = answer(), answer(accounting_line())
    story.site.logs[LOG] += b"!"
    story.round(15)
    story.round(5)
    assert story.lines == ["one", "two", "three!"]
    assert isinstance(story.events[-1], Ended)


def test_a_long_log_is_read_to_its_end_before_the_wait_ends() -> None:
    log = b"".join(b"line %06d\n" % number for number in range(200_000))
    record = exit_record(stdout_bytes=len(log))
    story = Story(SPEC, Site(answer(), answer(accounting_line()), record, logs={LOG: log}))
    story.round()
    assert story.ended is not None
    assert len(story.lines) == 200_000
    assert story.lines[-1] == "line 199999"


def test_standard_error_in_a_file_of_its_own_is_shown_too() -> None:
    spec = WatchSpec(job_ids=("123",), run_dir=RUN_DIR, stdout_path=LOG, stderr_path="/err")
    story = Story(spec, Site(QUEUE["running"], logs={LOG: b"out\n", "/err": b"err\n"}))
    story.round()
    assert story.lines == ["out", "err"]
    assert story.tracker.logs.offsets == "4 4"


def test_a_log_beyond_its_limit_is_pointed_to() -> None:
    spec = WatchSpec(job_ids=("123",), stdout_path=LOG, log_limit_bytes=10)
    log = b"0123456789\n" * 50_000
    story = Story(spec, Site(QUEUE["running"], logs={LOG: log}))
    story.round()
    assert story.lines[-1] == f"[not shown: the rest of {LOG}, of which 550000 bytes exist so far]"
    shown = len(story.lines)
    story.site.logs[LOG] += b"more\n"
    story.round(15)
    story.site.squeue, story.site.sacct = answer(), answer(accounting_line())
    story.round(15)
    assert len(story.lines) == shown
    assert story.ended is not None


def test_a_log_of_just_its_limit_is_shown_whole() -> None:
    spec = WatchSpec(job_ids=("123",), stdout_path=LOG, log_limit_bytes=10)
    story = Story(spec, Site(QUEUE["running"], logs={LOG: b"123456789\n"}))
    story.round()
    story.round(15)
    assert story.lines == ["123456789"]


def test_a_truncated_log_is_read_from_its_beginning() -> None:
    story = Story(SPEC, Site(QUEUE["running"], logs={LOG: b"first run\nunfinis"}))
    story.round()
    story.site.logs[LOG] = b"again\n"
    for _ in range(4):
        story.round(15)
    assert story.lines == [
        *("first run", "unfinis"),
        *(f"[{LOG} was truncated; reading it from its beginning]", "again"),
    ]
    assert story.tracker.logs.offsets == "6"


def test_a_truncated_log_without_a_newline_is_not_resumed_behind_its_end() -> None:
    story = Story(SPEC, Site(QUEUE["running"], logs={LOG: b"first run\n"}))
    story.round()
    story.site.logs[LOG] = b"bar"
    for _ in range(4):
        story.round(15)
    assert story.tracker.logs.offsets == "0"


def test_a_log_that_is_gone_holds_the_end_up_for_half_a_minute_only() -> None:
    """It had never ended: what was known to be in the file was waited for, and asked 200 times."""
    log = b"line\n" * 400_000
    story = Story(SPEC, Site(QUEUE["running"], logs={LOG: log}))
    story.round()
    assert story.tracker.logs.has_more
    del story.site.logs[LOG]
    story.site.squeue, story.site.sacct = answer(), answer(accounting_line())
    asked = len(story.site.requests)
    story.round(15)
    assert story.ended is None
    assert len(story.site.requests) == asked + 2
    story.round(30)
    assert story.ended is not None
    assert story.lines[-1] == f"[{LOG} could not be read behind byte 1048576]"


def test_a_log_that_cannot_be_read_to_its_end_holds_the_end_up_for_half_a_minute_only() -> None:
    """As with an input/output error in its middle."""
    story = Story(SPEC, Site(QUEUE["running"], logs={LOG: b"one\ntwo\n"}, readable={LOG: 4}))
    story.round()
    assert story.lines == ["one"]
    story.site.squeue, story.site.sacct = answer(), answer(accounting_line())
    story.round(15)
    story.round(29)
    assert story.ended is None
    asked = len(story.site.requests)
    story.round(1)
    assert len(story.site.requests) == asked + 2
    assert story.ended is not None
    assert story.lines == ["one", f"[{LOG} could not be read behind byte 4]"]


def test_a_log_that_was_gone_for_a_moment_is_read_on() -> None:
    story = Story(SPEC, Site(QUEUE["running"], logs={LOG: b"one\n"}))
    story.round()
    log = story.site.logs.pop(LOG)
    story.round(15)
    story.site.logs[LOG] = log + b"two\n"
    story.round(15)
    assert story.lines == ["one", "two"]


def test_a_log_that_never_was_holds_nothing_up() -> None:
    row = accounting_line(State="CANCELLED by 1001", NodeList="None assigned", Start="None")
    story = Story(SPEC, Site(answer(), answer(row)))
    story.round()
    assert story.ended is not None
    assert story.lines == []


# ---- going on after a restart ----


def test_a_new_watcher_goes_on_where_the_last_one_stopped() -> None:
    site = Site(QUEUE["running"], logs={LOG: b"one\ntwo\nthr"})
    first = Story(SPEC, site)
    first.round()
    ((where, offsets),) = first.tracker.logs.acknowledge()
    assert (where, offsets.partition("\n")[0]) == (RUN_DIR, "8")
    site.progress = offsets
    site.logs[LOG] += b"ee\n"
    second = Story(SPEC, site)
    second.round()
    assert first.lines + second.lines == ["one", "two", "three"]
    assert "Watching again; the log goes on behind byte 8." in second.notes


@given(st.data())
def test_restarts_lose_and_double_no_line(data: st.DataObject) -> None:
    lines = [f"line {number}" for number in range(data.draw(st.integers(1, 30)))]
    log = "".join(f"{line}\n" for line in lines).encode()
    site = Site(QUEUE["running"], logs={LOG: b""})
    shown: list[str] = []
    position = 0
    while position < len(log):
        story = Story(SPEC, site)
        for _ in range(data.draw(st.integers(1, 3))):
            position += data.draw(st.integers(1, 40))
            site.logs[LOG] = log[:position]
            story.round()
            for _, offsets in story.tracker.logs.acknowledge():
                site.progress = offsets
        shown += story.lines
    assert shown == lines


def test_only_what_was_shown_is_acknowledged() -> None:
    tracker = JobTracker("w0", SPEC)
    site = Site(QUEUE["running"], logs={LOG: b"one\n"})
    tracker.observe(site.answer(tracker.ask(), 1000), NOW)
    tracker.observe(site.answer(tracker.follow_up(), 1000), NOW)
    assert tracker.logs.acknowledge() == ()
    tracker.logs.confirm(tracker.logs.offsets)
    ((where, text),) = tracker.logs.acknowledge()
    assert (where, text.partition("\n")[0]) == (RUN_DIR, "4")
    assert tracker.logs.acknowledge() == ()


@pytest.mark.parametrize("progress", ["", "x", "1 2", "-5", "0", "4 x", "{}"])
def test_progress_that_does_not_fit_is_ignored(progress: str) -> None:
    story = Story(SPEC, Site(QUEUE["running"], progress=progress, logs={LOG: b"one\n"}))
    story.round()
    assert story.lines == ["one"]


def test_the_limit_of_a_log_counts_what_was_shown_before_a_restart() -> None:
    spec = WatchSpec(job_ids=("123",), run_dir=RUN_DIR, stdout_path=LOG, log_limit_bytes=300_000)
    log = b"x" * 99 + b"\n"
    site = Site(QUEUE["running"], progress="290000", logs={LOG: log * 10_000})
    story = Story(spec, site)
    story.round()
    assert story.lines[-1].startswith("[not shown: the rest of")


# ---- a site without accounting ----

SCONTROL = (
    b"JobId=123 JobName=a b UserId=alice(1001) JobState=FAILED Reason=NonZeroExitCode Requeue=1 "
    b"Restarts=2 BatchFlag=1 ExitCode=3:0 RunTime=00:00:00 TimeLimit=01:00:00 TimeMin=N/A "
    b"NodeList=c1 NumNodes=1 NumCPUs=4 NumTasks=1 Comment= ExitCode=0:0"
)


def test_without_accounting_the_controller_is_asked_how_a_job_ended() -> None:
    story = Story(WatchSpec(job_ids=("123",)), Site(QUEUE["failed"], NO_ACCOUNTING))
    story.site.scontrol = Frame(0, SCONTROL)
    story.round()
    assert story.ended is None
    story.round(5)
    assert story.ended is not None
    (result,) = story.ended.results
    assert (result.state, result.exit_code, result.restarts) == ("FAILED", 3, 2)
    assert (result.time_limit_minutes, result.cpus, result.node_count) == (60, 4, 1)
    assert result.without_accounting
    assert sum("keeps no accounting" in note for note in story.notes) == 1


def test_without_accounting_an_element_that_squeue_forgot_still_counts() -> None:
    """Else the array was a success by the elements that ended last."""
    story = Story(WatchSpec(job_ids=("123",)), Site(sacct=NO_ACCOUNTING))
    story.site.squeue = answer(
        queue_line(job_id="123_1", state="FAILED"), queue_line(job_id="123_2")
    )
    story.round()
    story.site.squeue = answer(queue_line(job_id="123_2"))
    story.round(400)
    story.site.squeue = answer(queue_line(job_id="123_2", state="COMPLETED"))
    for _ in range(4):
        story.round(15)
    assert story.ended is not None
    assert story.ended.results[0].state == "FAILED"


def test_without_accounting_an_end_that_squeue_forgot_meanwhile_still_counts() -> None:
    """A node failure is waited on for half a minute; MinJobAge may be less."""
    story = Story(SPEC, Site(answer(queue_line(state="NODE_FAIL")), NO_ACCOUNTING))
    story.round()
    story.site.squeue = answer()
    story.round(15)
    assert story.ended is None
    story.round(15)
    assert story.ended is not None
    assert story.ended.results[0].state == "NODE_FAIL"


def test_without_accounting_a_job_that_came_back_is_not_over() -> None:
    story = Story(SPEC, Site(answer(queue_line(state="NODE_FAIL")), NO_ACCOUNTING))
    story.round()
    story.site.squeue = answer(queue_line(state="PENDING"))
    story.round(15)
    story.site.squeue = answer()
    story.round(60)
    assert story.ended is None


def test_without_accounting_nobody_waits_for_it() -> None:
    story = Story(SPEC, Site(answer(), NO_ACCOUNTING))
    assert live_through(story) == "UNKNOWN@600"
    assert not [note for note in story.notes if "No answer" in note]


# ---- what is forgotten ----


def test_a_database_that_comes_back_is_given_its_time_to_tell_the_end() -> None:
    """It was asked once: what had not arrived yet in that second was lost for ever."""
    story = Story(SPEC, Site(answer(), NO_DATABASE))
    for _ in range(10):
        story.round(600)
    story.site.sacct = answer(accounting_line(State="RUNNING"))
    story.round(15)
    story.round(599)
    assert story.ended is None
    story.site.sacct = answer(accounting_line())
    story.round(15)
    assert story.ended is not None
    assert story.ended.results[0].state == "COMPLETED"


def test_a_job_that_sacct_still_tells_of_is_not_missing_yet() -> None:
    """A sensor gives up a job that nobody knows after 30 s; an end that slurmdbd lacks comes."""
    spec = WatchSpec(job_ids=("123",), missing_seconds=30)
    story = Story(spec, Site(answer(), answer(accounting_line(State="RUNNING"))))
    story.round()
    story.round(300)
    assert story.ended is None
    story.site.sacct = answer(accounting_line())
    story.round(15)
    assert story.ended is not None
    assert story.ended.results[0].state == "COMPLETED"


def test_a_controller_that_is_away_denies_nothing() -> None:
    story = Story(SPEC, Site())
    story.round()
    for _ in range(5):
        story.site.squeue = NO_CONTROLLER
        story.round(500)
        story.site.squeue = answer()
        story.round(15)
        story.round(500)
    assert story.ended is None


def test_the_clock_of_the_cluster_ends_nothing() -> None:
    story = Story(SPEC, Site())
    story.round()
    story.clock += 10**6
    story.round(15)
    assert story.ended is None


def test_an_unknown_end_says_all_that_is_known() -> None:
    story = Story(SPEC, Site(QUEUE["running"]))
    story.round()
    story.site.squeue = answer()
    story.site.sacct = answer(accounting_line(State="RUNNING"))
    story.round(15)
    story.round(600)
    assert story.ended is not None
    (result,) = story.ended.results
    assert (result.state, result.nodes, result.partition) == ("UNKNOWN", "c1", "small")
    assert story.notes[-1] == (
        "Job 123 is in no queue since 600 s, sacct says RUNNING, and there is no exit record of "
        "it. It was last seen RUNNING on c1 in small at 1970-01-02T03:46:40+00:00 (submitted "
        "1970-01-01T00:16:40+00:00). What became of it is not known."
    )


def test_a_contradiction_of_the_sources_is_told() -> None:
    site = Site(QUEUE["completed"], ACCOUNTING["completed"], exit_record(code=3))
    story = Story(SPEC, site)
    story.round()
    assert story.ended is not None
    assert story.ended.results[0].state == "FAILED"
    assert [note for note in story.notes if "contradict each other about job 123" in note]


def test_the_record_of_a_run_before_the_requeue_is_none_of_this_one() -> None:
    """It was cancelled in the queue; its first run, a success, was not its end."""
    cancelled = {"submitted": "2000", "started": "2100", "ended": "2100", "nodes": ""}
    site = Site(answer(queue_line(state="CANCELLED", **cancelled)), answer(), exit_record())
    assert live_through(Story(SPEC, site)) == "CANCELLED@30"
    site = Site(
        answer(),
        answer(accounting_line(State="CANCELLED by 0", Submit="2000", NodeList="None assigned")),
        exit_record(),
    )
    assert live_through(Story(SPEC, site)) == "CANCELLED@0"


def test_a_requeue_is_told() -> None:
    story = Story(SPEC, Site(QUEUE["running"]))
    story.round()
    story.site.squeue = answer(queue_line(state="PENDING", submitted="2000", nodes=""))
    story.round(15)
    story.round(15)
    text = "Slurm has requeued job 123; it is followed to its real end."
    assert story.notes.count(text) == 1


# ---- the end of the log ----


def test_the_end_of_a_log_that_is_seen_late_is_waited_for() -> None:
    site = Site(QUEUE["completed"], ACCOUNTING["completed"], exit_record(stdout_bytes=8))
    site.logs[LOG] = b"one\n"
    story = Story(SPEC, site)
    story.round()
    story.round(20)
    assert story.ended is None
    site.logs[LOG] += b"two\n"
    story.round(5)
    assert story.ended is not None
    assert story.lines == ["one", "two"]


def test_the_end_of_a_log_that_never_comes_is_told_of() -> None:
    site = Site(QUEUE["completed"], ACCOUNTING["completed"], exit_record(stdout_bytes=8))
    site.logs[LOG] = b"one\n"
    story = Story(SPEC, site)
    story.round()
    story.round(30)
    assert story.ended is not None
    assert story.lines[0] == "one"
    assert story.lines[1].startswith(f"[the job wrote 8 bytes to {LOG}, of which 4 could be seen")


# ---- limits ----


def queue_at(state: str, *, submitted: int = 0, started: int = 0) -> Frame:
    line = queue_line(state=state, submitted=str(submitted or "N/A"), started=str(started or "N/A"))
    return answer(line)


def test_a_time_in_the_queue_is_limited_and_running_does_not_count() -> None:
    story = Story(WatchSpec(job_ids=("123",), queue_timeout=60, run_timeout=1000))
    story.site.squeue = queue_at("PENDING", submitted=story.clock)
    story.round(60)
    assert story.tracker.limit is None
    story.site.squeue = queue_at("RUNNING", submitted=story.clock - 60, started=story.clock)
    story.round(999)
    assert story.tracker.limit is None
    story.round(2)
    assert story.tracker.limit == "timeout"
    assert story.notes[-1] == "timeout of 1000 s is reached; cancelling."


def test_a_job_too_long_in_the_queue_is_cancelled_until_it_is_gone() -> None:
    story = Story(WatchSpec(job_ids=("123",), queue_timeout=60))
    story.site.squeue = queue_at("PENDING", submitted=story.clock)
    story.round(61)
    assert story.notes[-1] == "queue_timeout of 60 s is reached; cancelling."
    assert story.to_cancel == ["123"]
    story.round(15)
    assert story.to_cancel == ["123"]
    story.site.squeue = answer()
    story.site.sacct = answer(accounting_line(State="CANCELLED by 1001"))
    story.round(15)
    assert story.to_cancel == []
    assert story.ended is not None
    assert story.ended.results[0].limit == "queue_timeout"


def test_a_deadline_cancels_whatever_the_job_does() -> None:
    for state in ("PENDING", "RUNNING", "SUSPENDED", "DREAMING"):
        story = Story(WatchSpec(job_ids=("123",), deadline=900_010))
        story.site.squeue = queue_at(state)
        story.round(10)
        assert story.tracker.limit is None
        story.round(1)
        assert story.tracker.limit == "execution_timeout"
        assert story.notes[-1] == "execution_timeout is reached; cancelling."


def test_a_limit_that_passes_when_the_job_is_over_cancels_nothing() -> None:
    """While its accounting was waited for, the job was said to have been cancelled by its task."""
    story = Story(WatchSpec(job_ids=("123",), deadline=900_010))
    story.site.squeue = QUEUE["completed"]
    story.round()
    story.round(20)
    story.site.sacct = answer(accounting_line())
    story.round(1)
    assert story.ended is not None
    assert story.ended.results[0].limit is None
    assert story.notes == []


def test_no_limit_is_reached_while_the_site_is_silent() -> None:
    story = Story(WatchSpec(job_ids=("123",), queue_timeout=60, deadline=900_060))
    story.site.squeue = queue_at("PENDING", submitted=story.clock)
    story.round()
    story.site.squeue = NO_CONTROLLER
    story.round(1000)
    assert story.tracker.limit is None


def test_without_limits_nothing_is_ever_cancelled() -> None:
    story = Story(WatchSpec(job_ids=("123",)))
    story.site.squeue = queue_at("RUNNING", submitted=1, started=1)
    story.round(10**9)
    assert story.tracker.limit is None
    assert story.to_cancel == []


def test_a_deadline_that_passes_while_the_site_is_away_is_told_and_kept() -> None:
    story = Story(WatchSpec(job_ids=("123",), deadline=900_060), Site(QUEUE["running"]))
    story.round()
    story.site.squeue = NO_CONTROLLER
    for _ in range(10):
        story.round(15)
    overdue = (
        "execution_timeout is reached; job 123 will be cancelled as soon as the site answers, "
        "unless it has ended by itself."
    )
    assert story.notes.count(overdue) == 1
    assert story.tracker.limit is None
    story.site.squeue = QUEUE["running"]
    story.round(15)
    assert story.tracker.limit == "execution_timeout"
    assert story.to_cancel == ["123"]


def test_a_deadline_that_passes_while_the_site_is_away_spares_a_job_that_ended() -> None:
    story = Story(WatchSpec(job_ids=("123",), deadline=900_060), Site(QUEUE["running"]))
    story.round()
    story.site.squeue = NO_CONTROLLER
    story.round(100)
    story.site.squeue, story.site.sacct = answer(), ACCOUNTING["completed"]
    story.round(15)
    assert story.ended is not None
    (result,) = story.ended.results
    assert (result.state, result.limit) == ("COMPLETED", None)


def test_a_deadline_does_not_ask_the_clusters_clock() -> None:
    story = Story(WatchSpec(job_ids=("123",), deadline=900_060), Site(QUEUE["running"]))
    story.clock += 10**7
    story.round(15)
    assert story.tracker.limit is None
    assert story.tracker.seconds_to_deadline(story.now) == 45


def test_a_job_is_cancelled_again_only_when_that_did_not_help() -> None:
    story = Story(WatchSpec(job_ids=("123",), run_timeout=0), Site(queue_at("RUNNING", started=1)))
    story.round()
    assert story.to_cancel == ["123"]  # Scancel failed, so nobody noted it.
    story.round(15)
    assert story.to_cancel == ["123"]
    story.tracker.note_cancelled(story.now)
    story.round(60)
    assert story.to_cancel == []
    story.round(1)
    assert story.to_cancel == ["123"]
    story.site.squeue = answer(queue_line(state="COMPLETING"))
    story.round(1)
    assert story.to_cancel == []


# ---- what can never start ----


def pending(reason: str) -> Frame:
    return answer(queue_line(state="PENDING", reason=reason, nodes="", started="N/A"))


def test_a_job_that_can_never_start_is_cancelled() -> None:
    story = Story(SPEC, Site(pending("DependencyNeverSatisfied")))
    story.round()
    assert story.to_cancel == ["123"]
    assert story.notes[-1].endswith("This task cancels it.")
    story.site.squeue = answer()
    story.site.sacct = answer(
        accounting_line(State="CANCELLED by 1001", NodeList="None assigned", Start="None")
    )
    story.round(15)
    assert story.ended is not None
    assert story.ended.results[0].limit == "dependency"


def test_somebody_elses_job_that_can_never_start_is_left_alone() -> None:
    story = Story(WatchSpec(job_ids=("123",)), Site(pending("DependencyNeverSatisfied")))
    story.round()
    assert story.to_cancel == []
    (note,) = story.notes
    assert "It can never start." in note


def test_a_held_job_is_waited_for_and_told_of_once() -> None:
    story = Story(SPEC, Site(pending("JobHeldUser")))
    for _ in range(3):
        story.round(15)
    assert story.to_cancel == []
    assert [note for note in story.notes if "scontrol release 123" in note] == [story.notes[-1]]
    story.site.squeue = pending("Priority")
    story.round(15)
    story.site.squeue = pending("JobHeldUser")
    story.round(15)
    assert len([note for note in story.notes if "scontrol release 123" in note]) == 2


def test_a_held_job_is_cancelled_when_asked() -> None:
    spec = replace(SPEC, cancel_held=True)
    story = Story(spec, Site(pending("JobHeldAdmin")))
    story.round()
    assert story.to_cancel == ["123"]
    story.site.squeue = pending("Priority")
    story.round(15)
    assert story.to_cancel == ["123"]


def test_an_array_of_which_some_elements_can_never_start_is_not_cancelled() -> None:
    rows = [
        queue_line(job_id="123_1", state="PENDING", reason="DependencyNeverSatisfied", nodes=""),
        queue_line(job_id="123_2"),
    ]
    story = Story(SPEC, Site(answer(*rows)))
    story.round()
    assert story.to_cancel == []


# ---- whose job it is ----


def test_a_job_that_was_renamed_is_still_ours_after_a_restart() -> None:
    site = Site(QUEUE["running"], logs={LOG: b""})
    first = Story(SPEC, site)
    first.round()
    ((_, site.progress),) = first.tracker.ask().acknowledged
    site.squeue = answer(queue_line(name="renamed"))
    second = Story(SPEC, site)
    second.round()
    assert not second.tracker.is_settling
    third = Story(SPEC, Site(site.squeue))
    third.round()
    assert third.tracker.is_settling, "without what was noted it is a stranger"


def test_the_time_in_the_queue_is_known_after_a_restart() -> None:
    spec = replace(SPEC, queue_timeout=60)
    site = Site(queue_at("PENDING", submitted=100_000))
    first = Story(spec, site)
    first.round()
    site.squeue = answer(queue_line(state="PENDING", submitted="100050", nodes="", started="N/A"))
    first.round(51)
    ((_, site.progress),) = first.tracker.ask().acknowledged
    second = Story(spec, site)
    second.clock = first.clock
    second.round(5)
    assert second.tracker.limit is None
    second.round(5)
    assert second.tracker.limit == "queue_timeout"


def test_a_stranger_with_the_same_id_is_not_followed() -> None:
    """A slurmctld that was killed gives the ids of the newest jobs out again (seen on 22.05)."""
    stranger = queue_line(name="stranger", user="bob", submitted="50000")
    story = Story(SPEC, Site(QUEUE["running"]))
    story.round()
    story.site.squeue = answer(stranger)
    story.site.sacct = answer(accounting_line(JobName="stranger", Submit="50000"))
    story.round(15)
    assert story.ended is None
    assert story.tracker.is_settling
    story.round(600)
    assert story.ended is not None
    assert story.ended.results[0].state == "UNKNOWN"


def test_a_job_that_was_renamed_is_still_ours() -> None:
    story = Story(SPEC, Site(QUEUE["running"]))
    story.round()
    story.site.squeue = answer(queue_line(name="renamed"))
    story.round(15)
    assert not story.tracker.is_settling
    story.site.squeue, story.site.sacct = answer(), answer(accounting_line(JobName="renamed"))
    story.round(15)
    story.round(5)
    assert story.ended is not None


def test_of_others_jobs_the_id_is_all_there_is() -> None:
    site = Site(answer(queue_line(name="anything", user="bob")))
    assert live_through(Story(WatchSpec(job_ids=("123",)), site)) == "-"


def test_every_live_phase_is_covered() -> None:
    assert {state.phase for state in STATES.values()} == set(Phase)
    assert LogLines([]) == LogLines([])
