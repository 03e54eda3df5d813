"""A job is submitted once: whatever the site remembers of a task is found, read and decided on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_provider_csc.errors import ConfigError, SubmitRejectedError
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.states import STATES
from airflow_provider_csc.slurm.submission import (
    Claimed,
    LookUp,
    NoVerdict,
    Previous,
    Submission,
    adopt,
    decide,
    read_look_up,
    read_submit_answer,
)
from airflow_provider_csc.slurm.verdict import UNKNOWN
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

KEY = "af0123456789abcdef0123"
RUN_DIR = f"/base/{KEY}.1"
OK = Frame(0, b"")


def read(**frames: Frame) -> Submission | Claimed | NoVerdict:
    whole = {"run_dir": Frame(0, RUN_DIR.encode()), **frames}
    return read_submit_answer(whole, work_dir="/work", base_dir="/base", log_name="stdout.log")


# ---- one submission ----


def test_an_accepted_job_is_a_submission() -> None:
    log = f"{RUN_DIR}/stdout.log"
    found = read(sbatch=recorded("sbatch-accepted").frame)
    assert found == Submission(
        job_id=recorded("sbatch-accepted").frame.text,
        run_dir=RUN_DIR,
        stdout_path=log,
        stderr_path=log,
    )


def test_output_of_the_users_choice_is_where_slurm_says() -> None:
    recording = recorded("scontrol-running")
    found = read(sbatch=Frame(0, b"123"), paths=recording.frame)
    assert isinstance(found, Submission)
    assert found.stdout_path.endswith(f"/with space/{recording.job_id}.log")
    assert found.stderr_path == found.stdout_path


def test_where_slurm_does_not_say_the_default_holds() -> None:
    found = read(sbatch=Frame(0, b"123"), paths=recorded("scontrol-unknown").frame)
    assert isinstance(found, Submission)
    assert found.stdout_path == found.stderr_path == f"{RUN_DIR}/stdout.log"


def test_an_id_that_could_not_be_written_down_is_a_submission_all_the_same() -> None:
    found = read(sbatch=Frame(0, b"123"), record=Frame(1, b"Disk quota exceeded"))
    assert isinstance(found, Submission)
    assert found.job_id == "123"


def test_a_refusal_says_what_slurm_said_and_what_to_do() -> None:
    with pytest.raises(SubmitRejectedError) as caught:
        read(sbatch=recorded("sbatch-partition").frame)
    error = caught.value
    assert error.message == (
        "Slurm refused the job: sbatch: error: invalid partition specified: no_such_partition\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
        "No such partition here; `sinfo --summarize` lists them. Correct `partition`. Nothing was "
        "submitted."
    )
    assert (error.run_dir, error.exit_status) == (RUN_DIR, 1)


def test_of_a_long_refusal_the_last_lines_are_shown() -> None:
    said = "\n".join(f"hint {number}" for number in range(50))
    with pytest.raises(SubmitRejectedError) as caught:
        read(sbatch=Frame(1, said.encode()))
    assert "hint 44" not in caught.value.message
    assert "hint 45\nhint 46\nhint 47\nhint 48\nhint 49" in caught.value.message
    assert caught.value.stderr == said


@pytest.mark.parametrize(
    "sbatch",
    [
        recorded("sbatch-no-controller").frame,
        Frame(137, b""),
        Frame(143, b"sbatch: error: something"),
        Frame(1, b""),
        # Accepted or not, without an id nobody can say.
        Frame(0, b""),
        Frame(0, b"Submitted batch job 123"),
    ],
)
def test_without_a_verdict_nothing_is_claimed(sbatch: Frame) -> None:
    assert read(sbatch=sbatch) == NoVerdict(run_dir=RUN_DIR, message=sbatch.text)


@pytest.mark.parametrize(
    ("frames", "field", "value", "said", "leftover"),
    [
        (
            {"work_dir": Frame(1, b"environment: line 73: cd: /work: No such file or directory")},
            *(
                "work_dir",
                "/work",
                "'/work' cannot be used on the cluster (cd: /work: No such file",
            ),
            None,
        ),
        ({"work_dir": Frame(1, b"")}, "work_dir", "/work", "(you may not write there)", None),
        (
            {"base": Frame(1, b"mkdir: cannot create directory '/base': Read-only file system")},
            *("work_dir", "/base", "work_dir of the connection: run directories cannot be made"),
            None,
        ),
        (
            {"base": OK, "claim": Frame(1, b"mkdir: Permission denied")},
            *("work_dir", "/base", "(mkdir: Permission denied)"),
            None,
        ),
        (
            {"base": OK, "claim": OK, "files": Frame(1, b"line 6: printf: Disk quota exceeded")},
            *("work_dir", "/base", "Disk quota exceeded"),
            RUN_DIR,
        ),
    ],
)
def test_a_directory_that_cannot_be_used_is_named(
    frames: dict[str, Frame], field: str, value: str, said: str, leftover: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**frames)
    assert said in caught.value.message
    assert "Nothing was submitted." in caught.value.message
    assert (caught.value.field, caught.value.value) == (field, value)
    assert caught.value.details.get("run_dir") == leftover


def test_an_existing_directory_with_an_id_is_adopted() -> None:
    found = read(claim=Frame(1, b"mkdir: File exists"), existing=Frame(0, b"123;cluster"))
    assert isinstance(found, Submission)
    assert (found.job_id, found.is_adopted) == ("123", True)


@pytest.mark.parametrize("existing", [Frame(1, b"cat: job_id: No such file"), Frame(0, b"")])
def test_an_existing_directory_without_an_id_is_a_claim(existing: Frame) -> None:
    assert read(claim=Frame(1, b"mkdir: File exists"), existing=existing) == Claimed(
        run_dir=RUN_DIR
    )


def test_an_adopted_submission_knows_its_logs() -> None:
    text = "123\nJobId=123 StdErr=/my/err StdIn=/dev/null StdOut=/my/out Power=\n"
    found = adopt("123", RUN_DIR, recorded=text, log_name="stdout.log")
    assert (found.stdout_path, found.stderr_path) == ("/my/out", "/my/err")
    found = adopt("123", RUN_DIR, recorded="123", log_name="stdout.log")
    assert found.stdout_path == found.stderr_path == f"{RUN_DIR}/stdout.log"


# ---- looking up ----


def name(number: int, key: str = KEY) -> str:
    return f"dag.task.{key}.{number}"


def look_up(squeue: Frame = OK, sacct: Frame = OK, *, key: str = KEY, **frames: Frame) -> LookUp:
    whole = {"clock": Frame(0, b"10000"), "squeue": squeue, "sacct": sacct}
    return read_look_up(whole | {each.replace("_at_", "."): frames[each] for each in frames}, key)


def directory(number: int, job_id: bytes | None = b"123", **more: Frame) -> dict[str, Frame]:
    missing = Frame(1, b"cat: No such file or directory")
    return {
        f"dir_at_{number}": Frame(0, f"/base/{KEY}.{number}".encode()),
        f"made_at_{number}": Frame(0, b"9900"),
        f"job_id_at_{number}": missing if job_id is None else Frame(0, job_id),
        f"exit_at_{number}": missing,
        **more,
    }


def test_nothing_is_known_of_a_new_task() -> None:
    assert look_up() == LookUp(previous=(), is_complete=True)


def test_a_run_directory_alone_tells_of_a_submission() -> None:
    (found,) = look_up(**directory(1)).previous
    assert found == Previous(
        try_number=1,
        job_id="123",
        run_dir=f"/base/{KEY}.1",
        state=UNKNOWN,
        age_seconds=100,
        recorded="123",
    )
    assert found.is_live


def test_a_run_directory_without_an_id_is_no_job() -> None:
    (found,) = look_up(**directory(1, None)).previous
    assert (found.job_id, found.is_live) == (None, False)


@pytest.mark.parametrize(
    ("squeue", "sacct"),
    [
        (answer(queue_line(name=name(2))), OK),
        (OK, answer(accounting_line(JobName=name(2), State="RUNNING"))),
    ],
)
def test_a_job_without_its_directory_is_found_by_its_name(squeue: Frame, sacct: Frame) -> None:
    (found,) = look_up(squeue, sacct).previous
    assert (found.try_number, found.job_id, found.run_dir) == (2, "123", None)
    assert found.is_live


def test_the_id_of_a_claimed_directory_is_found_by_its_name() -> None:
    (found,) = look_up(answer(queue_line(name=name(1))), **directory(1, None)).previous
    assert (found.job_id, found.run_dir) == ("123", f"/base/{KEY}.1")


def test_jobs_of_other_tasks_are_passed_over() -> None:
    other = "af99999999999999999999"
    lines = [queue_line(name=name(1, other)), queue_line(name="wrap"), queue_line(name=KEY)]
    assert look_up(answer(*lines)).previous == ()


def test_submissions_are_in_the_order_of_their_tries() -> None:
    found = look_up(
        answer(queue_line(job_id="9", name=name(10))),
        answer(accounting_line(JobID="2", JobName=name(2), State="FAILED")),
        **directory(9, b"8"),
    )
    assert [each.try_number for each in found.previous] == [2, 9, 10]


@pytest.mark.parametrize(
    ("state", "code", "record", "expected"),
    [
        (None, "", exit_record(code=0), "COMPLETED"),
        (None, "", exit_record(code=3), "FAILED"),
        (None, "", exit_record(job_id="999"), "UNKNOWN"),
        (None, "", b"{", "UNKNOWN"),
        ("COMPLETED", "0:0", None, "COMPLETED"),
        ("TIMEOUT", "0:0", exit_record(code=143), "TIMEOUT"),
        ("RUNNING", "0:0", None, "UNKNOWN"),
    ],
)
def test_the_end_of_an_earlier_job_is_judged_by_the_same_evidence(
    state: str | None, code: str, record: bytes | None, expected: str
) -> None:
    sacct = answer(accounting_line(JobName=name(1), State=state, ExitCode=code)) if state else OK
    frames = directory(1)
    if record is not None:
        frames["exit_at_1"] = Frame(0, record)
    (found,) = look_up(sacct=sacct, **frames).previous
    assert found.state.name == expected
    assert found.is_live is (expected == "UNKNOWN")


@pytest.mark.parametrize(
    ("squeue", "sacct", "problem"),
    [
        (NO_CONTROLLER, OK, "Unable to contact slurm controller"),
        (OK, NO_DATABASE, "Problem talking to the database"),
        (NO_CONTROLLER, NO_DATABASE, "(connect failure); sacct: error"),
    ],
)
def test_a_silent_source_makes_the_look_up_incomplete(
    squeue: Frame, sacct: Frame, problem: str
) -> None:
    found = look_up(squeue, sacct, **directory(1))
    assert not found.is_complete
    assert problem in found.problem


def test_a_site_without_accounting_is_looked_up_as_far_as_it_goes() -> None:
    assert look_up(sacct=NO_ACCOUNTING).is_complete
    assert not look_up(NO_CONTROLLER, NO_ACCOUNTING).is_complete


@pytest.mark.parametrize(
    ("job_id", "run_dir", "age_seconds", "expected"),
    [
        (None, "/base/1", 10, True),
        (None, "/base/1", 300, True),
        (None, "/base/1", None, True),
        (None, "/base/1", 301, False),
        ("5", "/base/1", 10, False),
        (None, None, 10, False),
    ],
)
def test_a_young_directory_without_an_id_may_still_be_submitting(
    job_id: str | None, run_dir: str | None, age_seconds: int | None, *, expected: bool
) -> None:
    found = Previous(
        try_number=1, job_id=job_id, run_dir=run_dir, state=UNKNOWN, age_seconds=age_seconds
    )
    assert found.may_be_submitting(300) is expected


# ---- deciding ----


def previous(number: int, state: str, job_id: str | None = "1") -> Previous:
    known = STATES.get(state, UNKNOWN)
    return Previous(
        try_number=number,
        job_id=job_id and f"{number}{job_id}",
        run_dir=f"/base/{number}",
        state=known,
    )


# What there is, the present try and the first of its generation; which try is adopted, which jobs
# are cancelled.
@pytest.mark.parametrize(
    ("found", "try_number", "first_try", "adopted", "cancelled"),
    [
        ([], 1, 1, None, []),
        # A retry of a job that failed submits anew.
        ([previous(1, "FAILED")], 2, 1, None, []),
        ([previous(1, "TIMEOUT"), previous(2, "NODE_FAIL")], 3, 1, None, []),
        # The worker was lost, the job was not.
        ([previous(1, "RUNNING")], 2, 1, 1, []),
        ([previous(1, "PENDING")], 2, 1, 1, []),
        ([previous(1, "COMPLETING")], 2, 1, 1, []),
        ([previous(1, "COMPLETED")], 2, 1, 1, []),
        # Nobody can say that it has ended.
        ([previous(1, "UNKNOWN")], 2, 1, 1, []),
        ([previous(1, "REVOKED")], 2, 1, 1, []),
        # The newest of several.
        ([previous(1, "COMPLETED"), previous(2, "RUNNING")], 3, 1, 2, []),
        ([previous(1, "RUNNING"), previous(2, "FAILED")], 3, 1, 1, []),
        # No id was ever given, so there is nothing to adopt.
        ([previous(1, "UNKNOWN", None)], 2, 1, None, []),
        # The task was cleared: whatever the last generation left behind is unwanted.
        ([previous(1, "RUNNING")], 2, 2, None, ["11"]),
        ([previous(1, "COMPLETED")], 2, 2, None, []),
        ([previous(1, "FAILED")], 2, 2, None, []),
        ([previous(1, "UNKNOWN")], 2, 2, None, ["11"]),
        ([previous(1, "RUNNING"), previous(2, "PENDING")], 4, 3, None, ["11", "21"]),
        # Cleared, and retried since.
        ([previous(1, "RUNNING"), previous(2, "RUNNING")], 3, 2, 2, ["11"]),
        ([previous(1, "RUNNING"), previous(2, "FAILED")], 3, 2, None, ["11"]),
        # This very try, and later ones, are no earlier ones.
        ([previous(2, "RUNNING")], 2, 1, None, []),
        ([previous(3, "RUNNING")], 2, 1, None, []),
    ],
)
def test_earlier_jobs_are_adopted_or_cancelled(
    found: list[Previous],
    try_number: int,
    first_try: int,
    adopted: int | None,
    cancelled: list[str],
) -> None:
    decision = decide(
        LookUp(previous=tuple(found), is_complete=True), try_number=try_number, first_try=first_try
    )
    assert (decision.adopt.try_number if decision.adopt else None) == adopted
    assert [each.job_id for each in decision.cancel] == cancelled
    assert decision.why


@pytest.mark.parametrize(
    ("state", "age", "adopted", "cancelled"),
    [
        ("COMPLETED", 1000, None, []),
        ("RUNNING", 1000, None, ["11"]),
        ("COMPLETED", 160, 1, []),
        ("RUNNING", None, 1, []),
    ],
)
def test_what_is_older_than_the_run_is_not_of_this_run(
    state: str, age: int | None, adopted: int | None, cancelled: list[str]
) -> None:
    found = replace(previous(1, state), age_seconds=age)
    look_up = LookUp(previous=(found,), is_complete=True)
    decision = decide(look_up, try_number=2, first_try=1, run_seconds=100)
    assert (decision.adopt.try_number if decision.adopt else None) == adopted
    assert [each.job_id for each in decision.cancel] == cancelled


@pytest.mark.parametrize(
    ("found", "first_try", "why"),
    [
        (
            [previous(1, "RUNNING")],
            1,
            (
                "Try 1 of this task submitted job 11, which is RUNNING; it is adopted, nothing is "
                "submitted again."
            ),
        ),
        (
            [previous(1, "RUNNING")],
            2,
            "The task was cleared, or its run made anew; job 11 (RUNNING) is cancelled first.",
        ),
        ([previous(1, "FAILED")], 1, "1 earlier job(s) of this task have ended."),
    ],
)
def test_a_decision_says_why(found: list[Previous], first_try: int, why: str) -> None:
    look = LookUp(previous=tuple(found), is_complete=True)
    assert decide(look, try_number=2, first_try=first_try).why == why
