"""A job is submitted once: whatever the site remembers of a task is found, read and decided on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_csc.errors import (
    ConfigError,
    SiteUnavailableError,
    SubmitKilledError,
    SubmitRejectedError,
    SubmitUnknownError,
)
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.states import STATES
from airflow_provider_csc.slurm.submission import (
    Claimed,
    Decision,
    Killed,
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


def read(**frames: Frame) -> Submission | Claimed | NoVerdict | Killed:
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
            {"base": Frame(1, b"mkdir: cannot create directory '/base': Permission denied")},
            *("work_dir", "/base", "work_dir of the connection: run directories cannot be made"),
            None,
        ),
        (
            {"base": OK, "claim": Frame(1, b"mkdir: Permission denied")},
            *("work_dir", "/base", "(mkdir: Permission denied)"),
            None,
        ),
        (
            {"base": OK, "claim": OK, "files": Frame(1, b"chmod: Operation not permitted")},
            *("work_dir", "/base", "Operation not permitted"),
            RUN_DIR,
        ),
        (
            {"aside": Frame(1, b"mv: cannot move: Permission denied")},
            *("work_dir", "/base", "Permission denied"),
            None,
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


@pytest.mark.parametrize(
    "said",
    [
        "printf: write error: No space left on device",
        "mkdir: cannot create directory '/base/x': Disk quota exceeded",
        "line 6: /base/x: Input/output error",
        "mkdir: cannot create directory '/base': Read-only file system",
        "mkdir: cannot stat '/base': Stale file handle",
        "mkdir: cannot stat '/base': Cannot send after transport endpoint shutdown",
    ],
)
@pytest.mark.parametrize("step", ["aside", "base", "claim", "files"])
def test_a_directory_that_takes_nothing_now_is_worth_waiting_for(step: str, said: str) -> None:
    with pytest.raises(SiteUnavailableError) as caught:
        read(**{step: Frame(1, said.encode())}, new_base=Frame(0, b"/base"))
    assert said.removeprefix("line 6: ") in caught.value.message
    assert "Nothing was submitted" in caught.value.message
    assert caught.value.run_dir == (RUN_DIR if step == "files" else None)
    assert caught.value.new_base == "/base"


def test_a_kill_that_came_first_is_told() -> None:
    assert read(killed=OK) == Killed(run_dir=RUN_DIR, job_id=None)
    found = read(claim=Frame(1, b"mkdir: File exists"), killed=OK)
    assert found == Killed(run_dir=RUN_DIR, job_id=None)
    assert read(sbatch=Frame(0, b"123"), killed=OK) == Killed(run_dir=RUN_DIR, job_id="123")


def test_a_job_that_a_kill_could_not_cancel_is_still_there() -> None:
    found = read(sbatch=Frame(0, b"123"), killed=Frame(1, b"Unable to contact slurm controller"))
    assert isinstance(found, Submission)
    assert found.job_id == "123"


def test_a_submission_given_up_for_a_later_try_ends() -> None:
    with pytest.raises(SubmitKilledError, match=f"given up for {KEY}.2"):
        read(existing=Frame(0, f"given up for {KEY}.2\n".encode()))


def test_a_deleted_run_submits_nothing_after_the_new_one_has() -> None:
    with pytest.raises(ConfigError, match="began later"):
        read(newer=Frame(1, b"2026-11-21T08:00:00+00:00"))


def test_a_job_of_a_deleted_run_that_cannot_be_cancelled_is_waited_for() -> None:
    with pytest.raises(SubmitUnknownError, match="Unable to contact"):
        read(superseded=Frame(1, b"Unable to contact slurm controller"))


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
    """``x_at_2`` is the frame x.2, ``x_at_2_again`` is x.2.1."""
    whole = {"clock": Frame(0, b"10000"), "squeue": squeue, "sacct": sacct}
    given = {each.replace("_at_", ".").replace("_again", ".1"): frames[each] for each in frames}
    return read_look_up(whole | given, key, run_seconds=500)


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
        number=(1, 0),
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
    assert (found.number, found.job_id, found.run_dir) == ((2, 0), "123", None)
    assert found.is_live


def test_the_id_of_a_claimed_directory_is_found_by_its_name() -> None:
    (found,) = look_up(
        answer(queue_line(name=name(1), submitted="9900")), **directory(1, None)
    ).previous
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
    assert [each.number[0] for each in found.previous] == [2, 9, 10]


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
    ("job_id", "run_dir", "age_seconds", "no_verdict_age", "expected"),
    [
        (None, "/base/1", 10, None, True),
        (None, "/base/1", 300, None, True),
        (None, "/base/1", None, None, True),
        (None, "/base/1", 301, None, False),
        ("5", "/base/1", 10, None, False),
        (None, None, 10, None, False),
        # A clock that jumps makes nobody wait for ever.
        (None, "/base/1", -10, None, True),
        (None, "/base/1", -3600, None, False),
        (None, "/base/1", 10**9, None, False),
        # Its sbatch is known to be over; what it sent may still have to be read.
        (None, "/base/1", 20, 15, True),
        (None, "/base/1", 20, 16, False),
        (None, "/base/1", 20, -3600, False),
    ],
)
def test_a_young_directory_without_an_id_may_still_be_submitting(
    job_id: str | None,
    run_dir: str | None,
    age_seconds: int | None,
    no_verdict_age: int | None,
    *,
    expected: bool,
) -> None:
    found = Previous(
        number=(1, 0),
        job_id=job_id,
        run_dir=run_dir,
        state=UNKNOWN,
        age_seconds=age_seconds,
        no_verdict_age=no_verdict_age,
    )
    assert found.may_be_submitting is expected
    assert not replace(found, recorded="given up for x.2").may_be_submitting
    assert not replace(found, is_killed=True).may_be_submitting


def test_everything_a_run_directory_tells_is_read() -> None:
    (found,) = look_up(
        **directory(1, None),
        run_at_1=Frame(0, b"2026-11-21T07:00:00+00:00"),
        verdict_at_1=Frame(0, b"UNKNOWN\n"),
        no_verdict_at_1=Frame(0, b"9980"),
        cancel_at_1=OK,
    ).previous
    assert found.is_killed
    assert (found.run_started, found.noted) == ("2026-11-21T07:00:00+00:00", "UNKNOWN")
    assert (found.age_seconds, found.no_verdict_age) == (100, 20)


def test_resubmissions_of_a_try_are_submissions_of_their_own() -> None:
    name_again = name(1) + ".1"
    frames = {f"{each}_again": frame for each, frame in directory(1, b"124").items()}
    found = look_up(answer(queue_line(job_id="125", name=f"{name(1)}.2")), **directory(1), **frames)
    assert [(each.number, each.job_id) for each in found.previous] == [
        ((1, 0), "123"),
        ((1, 1), "124"),
        ((1, 2), "125"),
    ]
    assert found.find((1, 1)) == found.previous[1]
    assert found.find((2, 0)) is None
    (found_by_name,) = look_up(answer(queue_line(name=name_again))).previous
    assert found_by_name.number == (1, 1)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_jobs_of_one_name_the_one_that_lives_counts(order: int) -> None:
    """A submission made twice leaves two; the one that came second ended itself."""
    lines = [
        queue_line(job_id="123", name=name(1), state="CANCELLED"),
        queue_line(job_id="124", name=name(1), state="RUNNING"),
    ]
    (found,) = look_up(answer(*lines[::order])).previous
    assert (found.job_id, found.state.name) == ("124", "RUNNING")


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_jobs_of_one_name_that_ended_the_success_counts(order: int) -> None:
    lines = [
        accounting_line(JobID="123", JobName=name(1), State="CANCELLED by 1"),
        accounting_line(JobID="124", JobName=name(1), State="COMPLETED", ExitCode="0:0"),
    ]
    (found,) = look_up(OK, answer(*lines[::order])).previous
    assert (found.job_id, found.state.name) == ("124", "COMPLETED")


@pytest.mark.parametrize("shown", ["123_7", "123_[7-20]", "123_[0-20%4]"])
@pytest.mark.parametrize("is_queued", [True, False])
def test_an_element_without_its_id_is_never_taken_for_the_whole_array(
    shown: str, is_queued: bool
) -> None:
    """To end the array is to end the jobs of a thousand other tasks."""
    array = "afeeeeeeeeeeeeeeeeeeee.1"
    lines = (
        (answer(queue_line(job_id=shown, name=f"dag.task.{array}", submitted="9900")), OK)
        if is_queued
        else (OK, answer(accounting_line(JobID=shown, JobName=f"d.t.{array}", Submit="9900")))
    )
    (found,) = look_up(
        *lines, **directory(1, None), group_at_1=Frame(0, f"{array} 7".encode())
    ).previous
    assert found.job_id == "123_7"
    assert found.group is not None
    assert found.group.token_of(found.job_id) == array


@pytest.mark.parametrize("shown", ["123_7", "123_[7-20]"])
def test_an_array_of_a_tasks_own_is_found_as_one_job(shown: str) -> None:
    line = queue_line(job_id=shown, name=name(1), submitted="9900")
    (found,) = look_up(answer(line), **directory(1, None)).previous
    assert found.job_id == "123"


def test_an_old_job_of_the_same_name_is_not_that_of_a_new_claim() -> None:
    """A deleted run of the same id left it; this run's own sbatch gave no verdict."""
    old = accounting_line(JobName=name(1), State="COMPLETED", Submit="9000")
    (found,) = look_up(OK, answer(old), **directory(1, None)).previous
    assert found.job_id is None
    (bare,) = look_up(OK, answer(old)).previous
    assert bare.job_id == "123"
    assert bare.is_of_another_run("", 500)


# ---- deciding ----


RUN, OLDER, NEWER = (f"2026-11-21T0{hour}:00:00+00:00" for hour in (7, 6, 8))


def previous(number: int, state: str, job_id: str | None = "1") -> Previous:
    known = STATES.get(state, UNKNOWN)
    return Previous(
        number=(number, 0),
        job_id=job_id and f"{number}{job_id}",
        run_dir=f"/base/{number}",
        state=known,
    )


def decide_about(
    *found: Previous,
    try_number: int = 2,
    first_try: int = 1,
    resubmission: int = 0,
    run_seconds: float = 100,
) -> Decision:
    identity = TaskIdentity(
        dag_id="d",
        run_id="r",
        task_id="t",
        map_index=-1,
        try_number=try_number,
        first_try=first_try,
        resubmission=resubmission,
        run_started=RUN,
    )
    look_up = LookUp(previous=found, is_complete=True)
    return decide(look_up, identity, run_seconds=run_seconds)


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
        # squeue does not show it; its id may be another job's by now.
        ([previous(1, "UNKNOWN")], 2, 2, None, []),
        ([previous(1, "RUNNING"), previous(2, "PENDING")], 4, 3, None, ["11", "21"]),
        # Cleared, and retried since.
        ([previous(1, "RUNNING"), previous(2, "RUNNING")], 3, 2, 2, ["11"]),
        # Two that live are one too many.
        ([previous(1, "RUNNING"), previous(2, "RUNNING")], 3, 1, 2, ["11"]),
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
    decision = decide_about(*found, try_number=try_number, first_try=first_try)
    assert (decision.adopt.number[0] if decision.adopt else None) == adopted
    assert [each.job_id for each in decision.cancel] == cancelled
    assert decision.why


@pytest.mark.parametrize(
    ("state", "changes", "adopted", "cancelled"),
    [
        # A job without its directory is known by its age alone, to a minute.
        ("COMPLETED", {"run_dir": None, "age_seconds": 1000}, None, []),
        ("RUNNING", {"run_dir": None, "age_seconds": 1000}, None, ["11"]),
        ("COMPLETED", {"run_dir": None, "age_seconds": 160}, 1, []),
        ("RUNNING", {"run_dir": None, "age_seconds": None}, 1, []),
        # With it, by what is written there; its age tells nothing.
        ("COMPLETED", {"run_started": OLDER}, None, []),
        ("RUNNING", {"run_started": OLDER}, None, ["11"]),
        ("RUNNING", {"run_started": RUN, "age_seconds": 10**6}, 1, []),
        ("RUNNING", {"run_started": RUN, "age_seconds": -3600}, 1, []),
        ("COMPLETED", {"run_started": "", "age_seconds": 1000}, 1, []),
    ],
)
def test_what_is_older_than_the_run_is_not_of_this_run(
    state: str, changes: dict[str, Any], adopted: int | None, cancelled: list[str]
) -> None:
    decision = decide_about(replace(previous(1, state), **changes))
    assert (decision.adopt.number[0] if decision.adopt else None) == adopted
    assert [each.job_id for each in decision.cancel] == cancelled


@pytest.mark.parametrize("number", [(1, 0), (2, 0), (3, 0), (2, 1)])
def test_what_lives_of_a_deleted_run_is_cancelled_whatever_its_try(number: tuple[int, int]) -> None:
    found = replace(previous(1, "RUNNING"), number=number, run_started=OLDER)
    decision = decide_about(found)
    assert (decision.adopt, decision.cancel) == (None, (found,))


@pytest.mark.parametrize("number", [(1, 0), (2, 0), (3, 0)])
def test_a_worker_of_the_deleted_run_touches_nothing_of_the_new_one(
    number: tuple[int, int],
) -> None:
    found = replace(previous(1, "RUNNING"), number=number, run_started=NEWER)
    with pytest.raises(ConfigError, match="began later"):
        decide_about(found)


@pytest.mark.parametrize(
    ("noted", "state", "adopted"),
    [
        ("UNKNOWN", "UNKNOWN", None),
        ("", "UNKNOWN", 1),
        # It was found again after all, or was requeued.
        ("UNKNOWN", "RUNNING", 1),
        ("UNKNOWN", "COMPLETED", 1),
        ("NODE_FAIL", "PENDING", 1),
        ("FAILED", "FAILED", None),
    ],
)
def test_an_end_that_was_taken_note_of_is_not_waited_for_again(
    noted: str, state: str, adopted: int | None
) -> None:
    decision = decide_about(replace(previous(1, state), noted=noted))
    assert (decision.adopt.number[0] if decision.adopt else None) == adopted
    assert decision.cancel == ()


def test_a_resubmission_comes_after_the_job_it_replaces_and_before_the_next_try() -> None:
    first, again = previous(1, "NODE_FAIL"), replace(previous(1, "RUNNING", "9"), number=(1, 1))
    assert decide_about(first, try_number=1, resubmission=1).adopt is None
    assert decide_about(first, again, try_number=1, resubmission=1).adopt is None
    assert decide_about(first, again, try_number=1, resubmission=2).adopt == again
    assert decide_about(first, again).adopt == again
    assert decide_about(first, again, first_try=2).cancel == (again,)


def test_a_claim_of_before_is_given_up_whatever_else_is_done() -> None:
    claim = previous(1, "UNKNOWN", None)
    live = previous(2, "RUNNING")
    assert decide_about(claim).give_up == (claim,)
    found = decide_about(claim, live, try_number=3)
    assert (found.give_up, found.adopt) == ((claim,), live)
    done = replace(claim, recorded="given up for x.2")
    assert decide_about(done, try_number=3).give_up == ()
    assert decide_about(previous(2, "UNKNOWN", None)).give_up == ()


def test_the_job_of_a_claim_that_was_given_up_is_cancelled_and_never_adopted() -> None:
    """It turned up after all; when it starts it ends itself."""
    stray = replace(previous(1, "PENDING"), recorded="given up for x.2")
    live = previous(2, "RUNNING")
    assert decide_about(stray, live, try_number=3).adopt == live
    assert decide_about(stray, live, try_number=3).cancel == (stray,)
    assert decide_about(stray, try_number=3).adopt is None


@pytest.mark.parametrize(
    ("found", "first_try", "why"),
    [
        (
            [previous(1, "RUNNING")],
            1,
            (
                "Try 1 of this task submitted job 11, which is still there (RUNNING); it is "
                "adopted, nothing is submitted again."
            ),
        ),
        (
            [previous(1, "COMPLETED")],
            1,
            (
                "Try 1 of this task submitted job 11, which ended without the task having taken "
                "note (COMPLETED); it is adopted, nothing is submitted again."
            ),
        ),
        (
            [previous(1, "RUNNING")],
            2,
            (
                "The task was cleared, or its run made anew: job 11 (RUNNING) of before is "
                "cancelled, then a new one is submitted."
            ),
        ),
        (
            [previous(1, "FAILED")],
            1,
            "The earlier job 11 (FAILED) is over and this is a retry: submitting a new one.",
        ),
        (
            [previous(1, "FAILED")],
            2,
            "The earlier job 11 (FAILED) is over and the task was cleared: submitting a new one.",
        ),
        ([], 1, "No earlier try of this task has submitted a job; submitting one."),
    ],
)
def test_a_decision_says_why(found: list[Previous], first_try: int, why: str) -> None:
    assert decide_about(*found, first_try=first_try).why == why


def test_a_resubmission_is_not_called_a_retry() -> None:
    found = [previous(1, "FAILED"), previous(2, "NODE_FAIL")]
    assert decide_about(*found, resubmission=1).why == (
        "The earlier job 11 (FAILED), 21 (NODE_FAIL) is over and the retry policy asks for "
        "another: submitting a new one."
    )


@pytest.mark.parametrize(
    ("noted", "is_live"),
    [("NODE_FAIL", False), ("UNKNOWN", False), ("COMPLETED", True), ("RUNNING", True), ("", True)],
)
def test_a_noted_failure_that_nobody_remembers_is_not_waited_for(noted: str, is_live: bool) -> None:
    """A noted success is: its worker may have been lost before the task was one."""
    (found,) = look_up(**directory(1), verdict_at_1=Frame(0, noted.encode())).previous
    assert found.is_live is is_live
    shown = answer(queue_line(name=name(1), state="RUNNING"))
    (found,) = look_up(shown, **directory(1), verdict_at_1=Frame(0, noted.encode())).previous
    assert found.is_live
