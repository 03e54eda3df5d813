"""What Slurm prints is read as it is meant; a failed command, no row and a row are three things."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.output import (
    ACCOUNTING_FORMAT,
    AccountingRow,
    Answer,
    NoAnswer,
    QueueRow,
    belongs_to,
    is_submit_verdict,
    is_without_accounting,
    parse_accounting,
    parse_controller,
    parse_job_id,
    parse_log,
    parse_log_paths,
    parse_queue,
)
from tests.pure.slurm.evidence import (
    NO_ACCOUNTING,
    NO_CONTROLLER,
    OUTPUTS,
    accounting_line,
    answer,
    queue_line,
    recorded,
)


def queue_rows(frame: Frame) -> tuple[QueueRow, ...]:
    found = parse_queue(frame)
    assert isinstance(found, Answer)
    return found.rows


def accounting_rows(frame: Frame) -> tuple[AccountingRow, ...]:
    found = parse_accounting(frame)
    assert isinstance(found, Answer)
    return found.rows


# ---- squeue ----


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("held", ["PENDING"]),
        ("running", ["RUNNING"]),
        ("requeued", ["COMPLETING"]),
        ("completed", ["COMPLETED"]),
        ("exit-3", ["FAILED"]),
        ("timeout", ["TIMEOUT"]),
        ("out-of-memory", ["OUT_OF_MEMORY"]),
        ("cancelled", ["CANCELLED"]),
        ("array-held", ["PENDING"]),
        ("array-running", ["PENDING", "RUNNING", "RUNNING"]),
        ("array", ["COMPLETED", "COMPLETED", "FAILED"]),
        ("unknown", []),
    ],
)
def test_recorded_states_of_the_queue(name: str, states: list[str]) -> None:
    assert [row.state.name for row in queue_rows(recorded(f"squeue-{name}").frame)] == states


def test_a_recorded_running_job() -> None:
    (row,) = queue_rows(recorded("squeue-running").frame)
    assert (row.partition, row.nodes, row.reason) == ("small", "c1", "")
    assert (row.user, row.name) == ("alice", "recorded")
    assert row.submitted is not None
    assert row.started is not None
    assert row.started >= row.submitted > 1_700_000_000
    assert row.ended is None


def test_a_recorded_pending_job() -> None:
    (row,) = queue_rows(recorded("squeue-held").frame)
    assert (row.reason, row.nodes, row.started, row.ended) == ("JobHeldUser", "", None, None)


def test_a_recorded_ended_job_knows_its_end() -> None:
    (row,) = queue_rows(recorded("squeue-timeout").frame)
    assert row.started is not None
    assert row.ended is not None
    assert row.ended > row.started


def test_a_recorded_name_keeps_its_spaces_and_quotes() -> None:
    assert queue_rows(recorded("squeue-name-with-space").frame)[0].name == "a b'c ä"


def test_a_recorded_sparse_array_is_not_cut() -> None:
    """By default squeue cuts its ids after 64 characters, and an element is not found in them."""
    recording = recorded("squeue-array-sparse-held")
    (row,) = queue_rows(recording.frame)
    assert row.job_id.endswith(",147]")
    assert belongs_to(row.job_id, f"{recording.job_id}_147")
    assert not belongs_to(row.job_id, f"{recording.job_id}_146")


@pytest.mark.parametrize("name", ["squeue-unknown-alone", "squeue-unknown"])
def test_an_unknown_job_is_an_answer_without_rows(name: str) -> None:
    assert parse_queue(recorded(name).frame) == Answer(())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no-controller", "Unable to contact slurm controller (connect failure)"),
        ("no-configuration", "squeue: fatal:"),
    ],
)
def test_a_queue_that_did_not_answer_says_why(name: str, reason: str) -> None:
    found = parse_queue(recorded(f"squeue-{name}").frame)
    assert isinstance(found, NoAnswer)
    assert reason in found.reason


@pytest.mark.parametrize("status", [1, 127, 137, 255])
def test_a_failed_command_is_no_answer_though_it_printed_rows(status: int) -> None:
    for parse, line in [(parse_queue, queue_line()), (parse_accounting, accounting_line())]:
        assert isinstance(parse(Frame(status, line.encode())), NoAnswer)


def test_a_command_that_failed_without_a_word_is_named() -> None:
    assert parse_queue(Frame(3, b"")) == NoAnswer("squeue failed with status 3 and said nothing")
    assert parse_accounting(Frame(3, b"")) == NoAnswer(
        "sacct failed with status 3 and said nothing"
    )


def test_complaints_among_the_rows_are_no_rows() -> None:
    lines = [
        "squeue: warning: something",
        queue_line(job_id="1"),
        "",
        "JOBID\x1fSTATE",
        queue_line(job_id="x"),
        queue_line(job_id="2_[1-3]"),
        queue_line(job_id="3").replace("\x1f", "|"),
    ]
    assert [row.job_id for row in queue_rows(answer(*lines))] == ["1", "2_[1-3]"]


def test_a_separator_in_a_name_moves_nothing() -> None:
    (row,) = queue_rows(answer(queue_line(name="a\x1fb")))
    assert (row.name, row.user) == ("a\x1fb", "alice")
    (accounted,) = accounting_rows(answer(accounting_line(JobName="a\x1fb")))
    assert (accounted.name, accounted.user) == ("a\x1fb", "alice")


@pytest.mark.parametrize("text", ["N/A", "None", "Unknown", "", "2026-11-21T07:00:00", "-5"])
def test_a_time_that_is_not_set_is_none(text: str) -> None:
    (row,) = queue_rows(answer(queue_line(started=text)))
    assert row.started is None
    (accounted,) = accounting_rows(answer(accounting_line(Start=text)))
    assert accounted.started is None


# ---- sacct ----


@pytest.mark.parametrize(
    ("name", "state", "exit_code", "signal"),
    [
        ("completed", "COMPLETED", 0, None),
        ("exit-3", "FAILED", 3, None),
        ("exit-127", "FAILED", 127, None),
        ("exit-137", "FAILED", 9, None),
        ("exit-200", "FAILED", 72, None),
        ("signal-9", "FAILED", 0, 9),
        ("signal-15", "FAILED", 0, 15),
        ("no-output-directory", "FAILED", 0, 53),
        ("timeout", "TIMEOUT", 0, None),
        ("out-of-memory", "OUT_OF_MEMORY", 0, 125),
        ("cancelled", "CANCELLED", 0, None),
        ("running", "RUNNING", 0, None),
        ("requeued", "REQUEUED", 0, None),
    ],
)
def test_recorded_ends_of_jobs(name: str, state: str, exit_code: int, signal: int | None) -> None:
    recording = recorded(f"sacct-{name}")
    row = accounting_rows(recording.frame)[0]
    assert (row.job_id, row.step) == (recording.job_id, None)
    assert (row.state.name, row.exit_code, row.signal) == (state, exit_code, signal)
    assert not row.is_provisional


def test_a_recorded_cancelled_job_says_by_whom() -> None:
    job, batch = accounting_rows(recorded("sacct-cancelled").frame)
    assert (job.cancelled_by, batch.cancelled_by) == ("1001", None)
    assert (batch.state.name, batch.signal) == ("CANCELLED", 15)


def test_a_recorded_job_of_several_steps_and_tasks() -> None:
    job, batch, first, second = accounting_rows(recorded("sacct-steps").frame)
    assert [row.step for row in (job, batch, first, second)] == [None, "batch", "0", "1"]
    assert (job.cpus, job.node_count, job.nodes, job.requested_memory) == (3, 2, "c[2-3]", "3000M")
    assert (first.tasks, second.tasks) == (3, 1)
    assert job.time_limit_minutes == 60
    assert (job.cluster, job.user, job.name) == ("testcluster", "alice", "recorded")
    assert job.cpu_seconds is not None
    assert job.cpu_seconds > 3
    assert first.max_rss_bytes is not None
    assert first.total_rss_bytes is not None
    assert 2 * first.max_rss_bytes < first.total_rss_bytes <= 3 * first.max_rss_bytes
    assert job.max_rss_bytes is job.tasks is None


def test_a_recorded_array_has_a_row_for_each_element() -> None:
    recording = recorded("sacct-array")
    rows = [row for row in accounting_rows(recording.frame) if row.step is None]
    assert [(row.job_id, row.exit_code) for row in rows] == [
        (f"{recording.job_id}_1", 0),
        (f"{recording.job_id}_2", 5),
        (f"{recording.job_id}_3", 0),
    ]


def test_a_recorded_job_cancelled_in_the_queue_never_ran() -> None:
    (row,) = accounting_rows(recorded("sacct-cancelled-in-queue").frame)
    assert (row.nodes, row.elapsed_seconds, row.reason) == ("", 0, "JobHeldUser")


def test_a_recorded_unknown_job_has_no_rows() -> None:
    assert parse_accounting(recorded("sacct-unknown").frame) == Answer(())


def test_a_recorded_outage_of_the_database_is_no_answer() -> None:
    found = parse_accounting(recorded("sacct-no-database").frame)
    assert found == NoAnswer("sacct: error: Problem talking to the database: Connection refused")
    assert not is_without_accounting(found)


def test_a_recorded_site_without_accounting_is_told_from_an_outage() -> None:
    assert is_without_accounting(parse_accounting(recorded("sacct-no-accounting").frame))
    assert parse_accounting(NO_ACCOUNTING) == parse_accounting(
        recorded("sacct-no-accounting").frame
    )
    for other in (Answer(()), None, parse_queue(NO_CONTROLLER)):
        assert not is_without_accounting(other)


def test_every_field_is_read_from_its_own_column() -> None:
    """Made by hand: a value that says which column it stands in, where the column takes text."""
    texts = ("Reason", "Partition", "NodeList", "ReqMem", "Cluster", "User", "JobName")
    numbers = (
        "Submit",
        "Start",
        "End",
        "ElapsedRaw",
        "AllocCPUS",
        "NTasks",
        "NNodes",
        "TimelimitRaw",
    )
    fields = {name: name for name in texts} | {
        name: str(2000 + number) for number, name in enumerate(numbers)
    }
    fields |= {
        "TotalCPU": "1-02:03:04.500",
        "MaxRSS": "1.5M",
        "TRESUsageInTot": "cpu=1,mem=2K,gres/gpu=1",
    }
    (row,) = accounting_rows(answer(accounting_line(**fields)))
    assert [row.reason, row.partition, row.nodes, row.requested_memory] == list(texts[:4])
    assert [row.cluster, row.user, row.name] == list(texts[4:])
    assert [
        *(row.submitted, row.started, row.ended, row.elapsed_seconds, row.cpus, row.tasks),
        *(row.node_count, row.time_limit_minutes),
    ] == list(range(2000, 2008))
    assert (row.cpu_seconds, row.max_rss_bytes, row.total_rss_bytes) == (93784.5, 1572864, 2048)


@pytest.mark.parametrize("text", ["", "?", "lots", "-1", "1.5.M"])
def test_an_amount_that_is_not_there_or_not_readable_is_none(text: str) -> None:
    usage = f"cpu=1,mem={text}"
    (row,) = accounting_rows(
        answer(accounting_line(TotalCPU=text, MaxRSS=text, TRESUsageInTot=usage))
    )
    assert (row.cpu_seconds, row.max_rss_bytes, row.total_rss_bytes) == (None, None, None)


def test_a_row_that_lacks_its_beginning_is_provisional() -> None:
    rows = [("allocation", "16?", True), ("allocation", "16G", False), ("job", "16?", False)]
    for name, memory, provisional in rows:
        (row,) = accounting_rows(answer(accounting_line(JobName=name, ReqMem=memory)))
        assert row.is_provisional is provisional


_LINES = st.text(st.characters(codec="utf-8"), max_size=300)


@given(_LINES, st.integers(0, 255))
def test_no_text_makes_a_reader_fail(text: str, status: int) -> None:
    for prefix in ("", "123" + "\x1f" * (len(ACCOUNTING_FORMAT) - 1)):
        frame = Frame(status, (prefix + text).encode())
        for parse in (parse_queue, parse_accounting):
            assert isinstance(parse(frame), Answer | NoAnswer)
        parse_job_id(text)
        parse_log_paths(text)
        is_submit_verdict(frame)


# ---- whose row it is ----


@pytest.mark.parametrize(
    ("row_id", "job_id"),
    [
        *(("123", "123"), ("123_4", "123"), ("123_[0-9%2]", "123"), ("123+1", "123")),
        *(("123.batch", "123"), ("123_4.0", "123"), ("123_4", "123_4"), ("123_4.batch", "123_4")),
        *(("123_[0-9%2]", "123_4"), ("123_[4]", "123_4"), ("123_[1,4,7]", "123_4")),
        *(("123_[0-8:2]", "123_4"), ("123_[1-2,4-9%1]", "123_4"), ("123+1", "123+1")),
    ],
)
def test_a_row_of_the_job_asked_for(row_id: str, job_id: str) -> None:
    assert belongs_to(row_id, job_id)


@pytest.mark.parametrize(
    ("row_id", "job_id"),
    [
        *(
            ("1234", "123"),
            ("12", "123"),
            ("123", "123_4"),
            ("123_40", "123_4"),
            ("123_5", "123_4"),
        ),
        *(("123_[5-9]", "123_4"), ("123_[1-9:2]", "123_4"), ("124_[0-9]", "123_4")),
        *(("123_[0-9]", "123_[1-5]"), ("123_[0-9]", "123_x"), ("123_[0-9]", "123_")),
        *(("123_[1,...]", "123_4"), ("123.batch", "123.0"), ("123+10", "123+1"), ("", "123")),
    ],
)
def test_a_row_of_another_job(row_id: str, job_id: str) -> None:
    assert not belongs_to(row_id, job_id)


@given(st.sets(st.integers(0, 30), min_size=1), st.integers(0, 30), st.integers(1, 9))
def test_an_element_belongs_to_its_pending_array(ids: set[int], index: int, throttle: int) -> None:
    spec = ",".join(map(str, sorted(ids)))
    assert belongs_to(f"7_[{spec}%{throttle}]", f"7_{index}") is (index in ids)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9), st.integers(0, 110))
def test_an_element_belongs_to_its_pending_range(
    first: int, more: int, step: int, index: int
) -> None:
    inside = index in range(first, first + more + 1, step)
    assert belongs_to(f"7_[{first}-{first + more}:{step}]", f"7_{index}") is inside


# ---- sbatch ----


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        ("123", "123"),
        ("123\n", "123"),
        ("123;testcluster", "123"),
        ("sbatch: lua: Warning: 8 cores\n123", "123"),
        ("123\nsbatch: a hint after it", "123"),
        ("7\n123", "123"),
        ("", None),
        ("Submitted batch job 123", None),
        ("sbatch: error: 123", None),
        (" 123", None),
        ("12 3", None),
        ("123;", None),
        ("123x", None),
        ("-123", None),
    ],
)
def test_a_job_id_is_a_line_of_its_own(text: str, job_id: str | None) -> None:
    assert parse_job_id(text) == job_id


def test_the_recorded_job_id_is_read() -> None:
    frame = recorded("sbatch-accepted").frame
    assert parse_job_id(frame.text) == frame.text


REFUSALS = sorted(
    path.stem
    for path in OUTPUTS.glob("sbatch-*.json")
    if json.loads(path.read_text())["status"] and path.stem != "sbatch-no-controller"
)


@pytest.mark.parametrize("name", REFUSALS)
def test_a_recorded_refusal_is_a_verdict(name: str) -> None:
    """Of arguments it does not understand sbatch complains with exit status 255."""
    assert is_submit_verdict(recorded(name).frame)


def test_there_are_recorded_refusals_of_both_kinds() -> None:
    assert {recorded(name).frame.status for name in REFUSALS} == {1, 255}


def test_a_recorded_outage_of_the_controller_is_no_verdict() -> None:
    assert not is_submit_verdict(recorded("sbatch-no-controller").frame)


@pytest.mark.parametrize(
    "text",
    [
        # slurm_errno.c, 22.05 to 25.11
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        "sbatch: error: Batch job submission failed: Unexpected message received",
        "sbatch: error: Batch job submission failed: Slurm backup controller in standby mode",
        "sbatch: error: Batch job submission failed: Connection reset by peer",
        "sbatch: error: Batch job submission failed: Transport endpoint is not connected",
        "sbatch: error: Batch job submission failed: Communication connection failure",
        "sbatch: error: Batch job submission failed: Message receive failure",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        "",
    ],
)
def test_a_failure_that_says_nothing_of_the_job_is_no_verdict(text: str) -> None:
    assert not is_submit_verdict(Frame(1, text.encode()))


@pytest.mark.parametrize("status", [124, 129, 130, 137, 143, 192])
def test_a_killed_sbatch_is_no_verdict(status: int) -> None:
    assert not is_submit_verdict(Frame(status, b"sbatch: error: anything"))


def test_a_missing_sbatch_has_submitted_nothing() -> None:
    assert is_submit_verdict(Frame(127, b"bash: line 9: sbatch: command not found"))


# ---- scontrol and logs ----


def test_recorded_log_paths_keep_their_spaces() -> None:
    recording = recorded("scontrol-running")
    stdout, stderr = parse_log_paths(recording.frame.text)
    assert stdout == stderr
    assert stdout is not None
    assert stdout.endswith(f"/with space/{recording.job_id}.log")


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("JobId=1 StdErr=/e StdIn=/dev/null StdOut=/o Power=", ("/o", "/e")),
        ("JobId=1 StdErr=/e StdIn=/dev/null StdOut=/o", ("/o", "/e")),
        ("JobId=1 StdErr=/e StdIn=/dev/null StdOut=/o\n", ("/o", "/e")),
        ("123;cluster\nJobId=1 StdErr=/e StdIn=/i StdOut=/o Power=\n", ("/o", "/e")),
        ("JobId=1 StdIn=/dev/null StdOut=/o", ("/o", "/o")),
        ("JobId=1 StdErr= StdIn= StdOut= Power=", (None, None)),
        ("JobId=1 Command=/x WorkDir=/y", (None, None)),
        ("slurm_load_jobs error: Invalid job id specified", (None, None)),
        ("", (None, None)),
    ],
)
def test_log_paths_are_read(text: str, paths: tuple[str | None, str | None]) -> None:
    assert parse_log_paths(text) == paths


@pytest.mark.parametrize(
    ("frame", "log"),
    [
        (Frame(0, b"10 4 YWJj"), (10, 4, b"abc")),
        (Frame(0, b"10 4 AP8K"), (10, 4, b"\0\xff\n")),
        (Frame(0, b"0 0 "), (0, 0, b"")),
        (Frame(1, b""), None),
    ],
)
def test_a_part_of_a_log_is_read(frame: Frame, log: object) -> None:
    assert parse_log(frame) == log


# ---- scontrol ----

# As 22.05 printed them; what a user chose (name, comment) may look like any field.
CONTROLLER = (
    "JobId=3003 JobName=a JobState=RUNNING b UserId=alice(1001) GroupId=alice(1002) MCS_label=N/A "
    "Priority=4294901755 Nice=0 Account=project_2001234 QOS=normal JobState=FAILED "
    "Reason=NonZeroExitCode Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 "
    "ExitCode=3:0 RunTime=00:00:00 TimeLimit=1-00:00:00 TimeMin=N/A SubmitTime=1795253326 "
    "Partition=small NodeList=c1 BatchHost=c1 NumNodes=1 NumCPUs=4 NumTasks=1 CPUs/Task=1 "
    "WorkDir=/work Comment=a ExitCode=0:0 StdErr=/dev/null StdIn=/dev/null StdOut=/dev/null Power="
)


def test_a_job_of_the_controller_is_read() -> None:
    found = parse_controller(answer(CONTROLLER.replace("a JobState=RUNNING b", "wrap")))
    assert isinstance(found, Answer)
    (row,) = found.rows
    assert (row.job_id, row.state.name, row.exit_code, row.signal) == ("3003", "FAILED", 3, None)
    assert (row.restarts, row.time_limit_minutes, row.cpus, row.node_count) == (2, 1440, 4, 1)


def test_elements_of_an_array_are_named_as_everywhere_else() -> None:
    array = "JobId=3005 ArrayJobId=3004 ArrayTaskId=1 JobName=wrap"
    lines = [CONTROLLER.replace("JobId=3003 JobName=a JobState=RUNNING b", array)] * 2
    found = parse_controller(answer(*lines))
    assert isinstance(found, Answer)
    assert [row.job_id for row in found.rows] == ["3004_1", "3004_1"]


def test_a_job_the_controller_does_not_know_is_an_answer_and_silence_is_none() -> None:
    assert parse_controller(Frame(1, b"slurm_load_jobs error: Invalid job id specified")) == (
        Answer(())
    )
    silent = parse_controller(Frame(1, b"slurm_load_jobs error: Unable to contact"))
    assert silent == NoAnswer("slurm_load_jobs error: Unable to contact")


@pytest.mark.parametrize("size", range(0, len(CONTROLLER), 7))
def test_a_line_of_the_controller_that_was_cut_says_nothing_wrong(size: int) -> None:
    found = parse_controller(answer(CONTROLLER[:size]))
    assert isinstance(found, Answer)
    assert all(row.exit_code == 3 for row in found.rows)
