"""How squeue and sacct are asked about many jobs, and what becomes of a call that failed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.answers import Answers
from airflow_provider_csc.slurm.commands import (
    ALL_JOBS_FRAME,
    PollRequest,
    accounting_questions,
    build_poll,
    group_elements,
    queue_questions,
)
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.output import Answer, NoAnswer, RowMemo, belongs_to
from airflow_provider_csc.slurm.shell import id_list, split_ids
from tests.pure.slurm.evidence import (
    NO_CONTROLLER,
    NO_DATABASE,
    accounting_line,
    answer,
    queue_line,
)

CLOCK = {"clock": Frame(0, b"1000")}
MANY = tuple(str(number) for number in range(1_000_000_000, 1_000_020_000))
# Linux takes no argument over 128 KiB.
LONGEST_ARGUMENT = 128 * 1024


@given(st.sets(st.integers(1, 10**9).map(str)))
def test_ids_are_split_and_none_is_lost_or_doubled(job_ids: set[str]) -> None:
    chunks = list(split_ids(job_ids))
    assert [job_id for chunk in chunks for job_id in chunk] == sorted(job_ids)


def test_no_list_of_ids_is_longer_than_an_argument_may_be() -> None:
    chunks = list(split_ids(MANY))
    assert len(chunks) == 3
    assert all(len(f"--jobs={id_list(chunk)}") < LONGEST_ARGUMENT for chunk in chunks)


def test_ids_that_fit_cost_one_call() -> None:
    request = PollRequest(queued=MANY[:5000], accounted=MANY[:5000])
    assert [each.frame for each in queue_questions(request)] == ["squeue"]
    assert [each.frame for each in accounting_questions(request)] == ["sacct"]


def test_each_call_has_a_frame_of_its_own() -> None:
    request = PollRequest(queued=MANY, accounted=MANY)
    program = build_poll(request)
    frames = [each.frame for each in (*queue_questions(request), *accounting_questions(request))]
    assert frames == ["squeue", "squeue.1", "squeue.2", "sacct", "sacct.1", "sacct.2"]
    assert all(program.count(f"ask {frame} ") == 1 for frame in frames)


def test_of_our_own_jobs_slurmctld_sends_no_others() -> None:
    (question,) = queue_questions(PollRequest(owned=("7", "8")))
    assert question.frame == "squeue.mine"
    assert " --me --jobs=7,8" in question.command


def test_of_a_single_job_slurmctld_sends_nothing_else_whosever_it_is() -> None:
    for request in (PollRequest(owned=("7",)), PollRequest(queued=("7",))):
        (question,) = queue_questions(request)
        assert question.command.endswith(" --jobs=7")
        assert "--me" not in question.command


def test_squeue_need_not_compare_thousands_of_ids_with_thousands_of_jobs() -> None:
    (question,) = queue_questions(PollRequest(owned=MANY))
    assert question.command.endswith(" --me --all")
    assert len(question.job_ids) == len(MANY)


def test_jobs_of_others_are_asked_for_by_id_beside_ours() -> None:
    request = PollRequest(queued=("5", "6"), owned=("7", "8"))
    plain, mine = queue_questions(request)
    assert (plain.frame, mine.frame) == ("squeue", "squeue.mine")
    assert "--me" not in plain.command
    assert plain.command.endswith("--jobs=5,6")


def test_a_job_that_two_wait_for_is_asked_for_once() -> None:
    request = PollRequest(queued=("5", "9"), owned=("5", "7", "8", "9_3"))
    _, mine = queue_questions(request)
    assert mine.job_ids == ["7", "8"]


def test_of_an_array_squeue_is_asked_once() -> None:
    elements = [f"7_{index}" for index in range(1000)]
    assert group_elements(elements) == ["7"]
    assert group_elements(["7_1", "8_1", "8_2", "9"]) == ["7_1", "8", "9"]
    assert group_elements(["7", "7_1", "7+1"]) == ["7"]
    assert group_elements([]) == []


@given(
    st.sets(
        st.one_of(
            st.integers(1, 9).map(str),
            st.tuples(st.integers(1, 9), st.integers(0, 9)).map("{0[0]}_{0[1]}".format),
            st.integers(1, 9).map("{}+1".format),
        )
    )
)
def test_grouping_leaves_no_job_out(job_ids: set[str]) -> None:
    asked = group_elements(job_ids)
    assert len(asked) == len(set(asked)) <= len(job_ids)
    assert all(any(belongs_to(job_id, each) for each in asked) for job_id in job_ids)


def test_sacct_is_asked_for_no_more_elements_than_ended() -> None:
    """It would tell of a thousand others, and of the steps of each."""
    (question,) = accounting_questions(PollRequest(accounted=("7_1", "7_2")))
    assert question.command.endswith("--jobs=7_1,7_2")


# ---- answers in several parts ----


def test_the_parts_of_an_answer_are_one_answer() -> None:
    frames = CLOCK | {
        "squeue": answer(queue_line(job_id="1")),
        "squeue.1": answer(queue_line(job_id="2")),
        "squeue.mine": answer(queue_line(job_id="3"), queue_line(job_id="2")),
    }
    answers = Answers(frames)
    assert isinstance(answers.queue, Answer)
    assert [row.job_id for row in answers.queue.rows] == ["1", "2", "3"]
    assert [len(answers.queue_of(job_id).rows) for job_id in "1234"] == [1, 1, 1, 0]


def test_a_call_that_failed_denies_nothing_and_hides_nothing() -> None:
    request = PollRequest(queued=MANY, accounted=MANY)
    first, second, third = queue_questions(request)
    frames = CLOCK | {
        "squeue": answer(),
        "squeue.1": NO_CONTROLLER,
        "squeue.2": answer(queue_line(job_id=third.job_ids[0])),
        "sacct": NO_DATABASE,
        "sacct.1": answer(),
        "sacct.2": answer(accounting_line(JobID=third.job_ids[0])),
    }
    answers = Answers(frames, request)
    assert answers.queue_about(first.job_ids[:1]) == answers.queue_about(third.job_ids[:1])
    assert isinstance(answers.queue_about(first.job_ids[:1]), Answer)
    assert isinstance(answers.queue_about(second.job_ids[-1:]), NoAnswer)
    assert isinstance(answers.queue_about([third.job_ids[0], second.job_ids[0]]), NoAnswer)
    assert len(answers.queue_of(third.job_ids[0]).rows) == 1
    assert isinstance(answers.accounting_of(first.job_ids[0]), NoAnswer)
    assert answers.accounting_of(second.job_ids[0]) == Answer(())
    assert isinstance(answers.accounting, NoAnswer)
    assert isinstance(answers.queue, NoAnswer)


def test_elements_of_an_array_share_the_fate_of_its_call() -> None:
    request = PollRequest(queued=("3",), owned=("7_1", "7_2", "8"))
    answers = Answers(CLOCK | {"squeue": answer(), "squeue.mine": NO_CONTROLLER}, request)
    assert isinstance(answers.queue_about(["7_2"]), NoAnswer)
    assert isinstance(answers.queue_about(["3"]), Answer)


def test_without_knowing_who_was_asked_for_a_failure_is_everybodys() -> None:
    answers = Answers(CLOCK | {"squeue": answer(), "squeue.1": NO_CONTROLLER})
    assert isinstance(answers.queue_about(["1"]), NoAnswer)


def test_when_all_calls_failed_nobody_is_answered() -> None:
    request = PollRequest(queued=MANY)
    frames = {each.frame: NO_CONTROLLER for each in queue_questions(request)}
    assert isinstance(Answers(CLOCK | frames, request).queue_about(["no such job"]), NoAnswer)


# ---- looking up ----


def test_an_element_is_found_as_itself_and_in_what_waits() -> None:
    sparse = ",".join(str(number) for number in range(10, 2000, 2))
    ids = ["7_3", f"7_[{sparse}%2]", "8_[0-98:7]", "9_[5,1-9,3-4]"]
    answers = Answers(CLOCK | {"squeue": answer(*(queue_line(job_id=each) for each in ids))})

    def found(job_id: str) -> list[str]:
        return [row.job_id for row in answers.queue_of(job_id).rows]

    assert found("7") == ids[:2]
    assert found("7_3") == ids[:1]
    assert found("7_1998") == [ids[1]]
    assert found("7_1997") == found("7_9") == found("7_2000") == []
    assert (found("8_14"), found("8_15")) == ([ids[2]], [])
    # In whatever order, and over each other.
    assert found("9_8") == found("9_3") == [ids[3]]


def test_a_pending_array_that_is_no_array_disturbs_nobody() -> None:
    lines = [queue_line(job_id=each) for each in ("7_[1-x]", "7_[2:0]", "7_[]", "8")]
    answers = Answers(CLOCK | {"squeue": answer(*lines)})
    assert len(answers.queue_of("8").rows) == 1
    assert [row.job_id for row in answers.queue_of("7_2").rows] == ["7_[2:0]"]


def test_a_row_that_did_not_change_is_the_same_object() -> None:
    lines = [queue_line(job_id="1"), queue_line(job_id="2", state="PENDING")]
    first = RowMemo()
    before = Answers(CLOCK | {"squeue": answer(*lines)}, memo=first)
    second = RowMemo(first.now)
    changed = [lines[0], queue_line(job_id="2", state="RUNNING")]
    after = Answers(CLOCK | {"squeue": answer(*changed)}, memo=second)
    assert after.queue_of("1").rows[0] is before.queue_of("1").rows[0]
    assert after.queue_of("2").rows[0].state.name == "RUNNING"
    # What is not there any more is not kept.
    assert len(second.now) == 2


# ---- the controller ----

ROW = (
    "JobId={} JobName=x JobState=FAILED Reason=None Restarts=0 BatchFlag=1 ExitCode=3:0 "
    "RunTime=00:00:01 TimeLimit=00:01:00 TimeMin=N/A NodeList=c1 NumNodes=1 NumCPUs=1 NumTasks=1"
)


def test_of_many_jobs_the_controller_is_asked_at_once() -> None:
    few, many = ([str(number) for number in range(100, 100 + count)] for count in (16, 17))
    assert build_poll(PollRequest(detailed=tuple(few))).count("scontrol") == 2 * len(few)
    assert build_poll(PollRequest(detailed=tuple(many))).count("\nask scontrol ") == 1
    frame = Frame(0, "\n".join(ROW.format(each) for each in many).encode())
    answers = Answers(CLOCK | {ALL_JOBS_FRAME: frame})
    found = answers.controller_of("103")
    assert isinstance(found, Answer)
    assert [(row.job_id, row.exit_code) for row in found.rows] == [("103", 3)]
    assert answers.controller_of("99") == Answer(())
    assert Answers(CLOCK).controller_of("103") is None
