"""What lies on a site under our names is listed, judged and removed; whatever is in doubt stays."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.identity import TaskIdentity, build_job_name
from airflow_provider_csc.slurm.inventory import (
    Inventory,
    LiveJob,
    RunDirectory,
    RunIdentity,
    build_inventory,
    build_reaping,
    build_removal,
    parse_ended,
    parse_identity,
    parse_inventory,
    parse_live_token,
    parse_reaping,
    parse_removal,
)
from airflow_provider_csc.slurm.output import Answer, NoAnswer
from airflow_provider_csc.slurm.reaping import (
    DAY,
    Keep,
    NoTask,
    NotTold,
    TaskKey,
    TaskState,
    Verdict,
    has_succeeded,
    is_distinct,
    judge_directories,
    judge_jobs,
    key_of,
    list_tasks,
    read_state,
)
from airflow_provider_csc.slurm.reports import PruneReport, ReaperReport, render_table
from tests.pure.slurm.evidence import accounting_line, answer, queue_line
from tests.pure.slurm.shell import HOSTILE_NAMES, FakeSite, list_files

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "af0123456789abcdef0123.1"
OURS = "https://airflow.example.org"
NOW = 1_800_000_000
IDENTITY = RunIdentity(
    deployment=OURS, dag_id="dag", run_id="run", task_id="task", map_index=-1, waits=True
)
TASK = key_of(IDENTITY)


def make(base: Path, name: str, age_days: float = 0, **files: str) -> Path:
    """A run directory; keyword arguments are its files, with __ for a dot."""
    directory = base / name
    directory.mkdir(parents=True)
    for file, text in files.items():
        (directory / file.replace("__", ".")).write_text(text)
    when = directory.stat().st_mtime - age_days * DAY
    os.utime(directory, (when, when))
    return directory


def identity_text(**changes: Any) -> str:
    return json.dumps(
        {
            "deployment": OURS,
            "dag_id": "dag",
            "run_id": "run",
            "task_id": "task",
            "map_index": -1,
            "try_number": 1,
            "resubmission": 0,
            "run_started": "",
            "waits": True,
            "version": 1,
            **changes,
        }
    )


@pytest.fixture
def site(tmp_path: Path) -> FakeSite:
    return FakeSite(tmp_path / "site")


def look(
    site: FakeSite, base: Path | str, *, limit: int = 100, with_sizes: bool = True
) -> Inventory:
    program = build_inventory(str(base), limit=limit, with_sizes=with_sizes)
    return parse_inventory(site.ask(program))


# ---- names ----


@pytest.mark.parametrize("token", [TOKEN, "af0123456789abcdef0123.12", f"{TOKEN}.3"])
def test_a_job_of_ours_is_known_by_the_end_of_its_name(token: str) -> None:
    assert parse_live_token(build_job_name("my.label", token)) == token


@pytest.mark.parametrize(
    "name", ["", "my-job", f"{TOKEN}x", f"x{TOKEN}", "a.af0123456789abcdef0123", f"a.{TOKEN}.0"]
)
def test_another_name_is_no_job_of_ours(name: str) -> None:
    assert parse_live_token(name) is None


def test_the_token_of_an_operator_is_one() -> None:
    identity = TaskIdentity(
        dag_id="d", run_id="r", task_id="t", map_index=3, try_number=2, first_try=1
    )
    assert parse_live_token(build_job_name("label", identity.token)) == identity.token


# ---- listing ----


def test_a_run_directory_is_read_with_everything_it_says(site: FakeSite, tmp_path: Path) -> None:
    record = {"job_id": "77", "exit_code": 0, "started": 1, "ended": 2, "node": "c1"}
    made = make(
        tmp_path / "base",
        TOKEN,
        identity__json=identity_text(),
        job_id="77\nJobId=77 StdOut=/x: y\n",
        exit__json=json.dumps(record) + "\n",
        verdict="COMPLETED\n",
    )
    inventory = look(site, tmp_path / "base")
    (found,) = inventory.directories
    assert (found.name, found.inode, found.token) == (TOKEN, made.stat().st_ino, TOKEN)
    assert (found.identity, found.job_id, found.verdict) == (IDENTITY, "77", "COMPLETED")
    assert found.own_exit_record is not None
    assert found.inodes == 5
    assert found.bytes == sum(path.stat().st_blocks * 512 for path in (made, *made.iterdir()))
    assert inventory.total == 1
    assert abs(inventory.clock - found.modified) < 60


def test_the_verdict_of_an_array_is_read_without_its_note(site: FakeSite, tmp_path: Path) -> None:
    whole = json.dumps(json.loads(identity_text()) | {"array": "0-9%2"})
    make(tmp_path, TOKEN, identity__json=whole, verdict="COMPLETED\ncompleted 0-9\n")
    (found,) = look(site, tmp_path).directories
    assert (found.identity, found.verdict) == (IDENTITY, "COMPLETED")
    assert has_succeeded(found)


def test_a_pretty_printed_identity_is_read_too(site: FakeSite, tmp_path: Path) -> None:
    make(tmp_path, TOKEN, identity__json=json.dumps(json.loads(identity_text()), indent=2))
    (found,) = look(site, tmp_path).directories
    assert found.identity == IDENTITY


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_the_base_may_be_called_anything(site: FakeSite, tmp_path: Path, name: str) -> None:
    base = tmp_path / name / "x"
    make(base, TOKEN, job_id="1")
    assert [one.job_id for one in look(site, base).directories] == ["1"]
    assert not list(tmp_path.rglob("pwned"))


def test_a_base_at_home_and_one_behind_a_link_are_found(site: FakeSite, tmp_path: Path) -> None:
    make(tmp_path / "scratch", TOKEN)
    (site.home / "runs").symlink_to(tmp_path / "scratch")
    inventory = look(site, "~/runs")
    assert inventory.base == str(tmp_path / "scratch")
    assert len(inventory.directories) == 1


def test_what_is_not_called_as_a_run_directory_is_not_listed(
    site: FakeSite, tmp_path: Path
) -> None:
    for name in ("af01.1", f"x{TOKEN}", f"{TOKEN}x", f"{TOKEN}~", "other", f"{TOKEN}.0"):
        make(tmp_path / "base", name)
    make(tmp_path / "base/deeper", TOKEN)
    (tmp_path / "base" / TOKEN).write_text("a file")
    (tmp_path / "base" / f"{TOKEN}.2").symlink_to(tmp_path)
    moved = f"{TOKEN}~1700000000"
    make(tmp_path / "base", moved)
    assert [one.name for one in look(site, tmp_path / "base").directories] == [moved]


def test_a_missing_base_is_no_directories_and_says_so(site: FakeSite, tmp_path: Path) -> None:
    inventory = look(site, tmp_path / "missing")
    assert (inventory.directories, inventory.total, inventory.base) == ((), 0, "")
    assert "No such file" in inventory.problem


def test_links_pipes_and_large_files_under_our_names_are_not_read(
    site: FakeSite, tmp_path: Path
) -> None:
    made = make(tmp_path / "base", TOKEN, identity__json=identity_text() + " " * 9000)
    os.mkfifo(made / "exit.json")
    (tmp_path / "elsewhere").write_text("5")
    (made / "job_id").symlink_to(tmp_path / "elsewhere")
    (found,) = look(site, tmp_path / "base").directories
    assert (found.identity, found.job_id, found.exit_record) == (None, None, None)


def test_the_oldest_are_listed_first_and_the_rest_counted(site: FakeSite, tmp_path: Path) -> None:
    tokens = [f"af0123456789abcdef0123.{number}" for number in range(1, 8)]
    for number, token in enumerate(tokens):
        make(tmp_path, token, age_days=number)
    inventory = look(site, tmp_path, limit=3)
    assert [one.name for one in inventory.directories] == tokens[:-4:-1]
    assert inventory.total == 8 - 1  # the site's own directory is none


def test_the_directory_of_a_job_is_listed_beyond_the_limit(site: FakeSite, tmp_path: Path) -> None:
    make(tmp_path, TOKEN, age_days=9)
    make(tmp_path, f"{TOKEN}.1")
    line = queue_line(job_id="5", state="RUNNING", name=f"x.{TOKEN}.1")
    (tmp_path / "queue").write_text(line)
    site.command("squeue", f"cat {tmp_path}/queue")
    inventory = look(site, tmp_path, limit=0, with_sizes=False)
    assert [one.name for one in inventory.directories] == [f"{TOKEN}.1"]
    assert inventory.directories[0].inodes is None


def test_a_failed_squeue_is_no_answer(site: FakeSite, tmp_path: Path) -> None:
    site.command("squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    assert isinstance(look(site, tmp_path).jobs, NoAnswer)


def test_the_elements_of_an_array_are_one_job() -> None:
    lines = [
        queue_line(job_id="9_1", state="COMPLETED", name=f"a.{TOKEN}"),
        queue_line(job_id="9_2", state="RUNNING", name=f"a.{TOKEN}"),
        queue_line(job_id="9_[3-5%1]", state="PENDING", name=f"a.{TOKEN}"),
    ]
    inventory = parse_inventory(
        {"clock": Frame(0, b"1"), "base": Frame(0, b"/b"), "squeue": answer(*lines)}
    )
    assert isinstance(inventory.jobs, Answer)
    (job,) = inventory.jobs.rows
    assert (job.job_id, job.token, job.state) == ("9", TOKEN, "PENDING+RUNNING")
    assert not job.is_over


ARRAY = "af9999999999999999abcd.1"
MEMBERS = [f"af000000000000000000{number:02d}.1" for number in range(3)]


def array_of_three(site: FakeSite, base: Path) -> None:
    """An array of three tasks' jobs: the first runs, the second waits, the third has ended."""
    for index, name in enumerate(MEMBERS):
        identity = identity_text(map_index=index, group=ARRAY, index=index)
        make(base, name, identity__json=identity, job_id=f"9_{index}\n")
    members = "".join(f"{base}/{name}\n" for name in MEMBERS)
    make(base, ARRAY, members=members, array_name=f"x.{ARRAY}", job_id="9\n")
    lines = [
        queue_line(job_id="9_0", state="RUNNING", name=f"x.{ARRAY}"),
        queue_line(job_id="9_[1]", state="PENDING", name=f"x.{ARRAY}"),
        queue_line(job_id="9_2", state="COMPLETED", name=f"x.{ARRAY}"),
    ]
    (base / "queue").write_text("\n".join(lines))
    site.command("squeue", f"cat {base}/queue")


def test_each_element_of_an_array_of_tasks_is_judged_by_its_own_task(
    site: FakeSite, tmp_path: Path
) -> None:
    array_of_three(site, tmp_path)
    inventory = look(site, tmp_path, limit=0, with_sizes=False)

    assert {one.name for one in inventory.directories} == {ARRAY, *MEMBERS}
    states: Any = {
        TaskKey("dag", "run", "task", 0): TaskState("deferred"),
        TaskKey("dag", "run", "task", 1): TaskState("failed"),
        TaskKey("dag", "run", "task", 2): TaskState("failed"),
    }
    found = judge_jobs(inventory, deployment=OURS, states=states, min_age=-(10**12))
    assert {one.job.job_id: one.verdict for one in found} == {
        "9_0": Verdict.LIVE,
        "9_1": Verdict.ORPHAN,
    }


def test_the_directory_of_an_array_goes_when_it_is_old_and_out_of_the_queue() -> None:
    shared = aged(40, name=ARRAY, identity=None, job_id="9", is_array=True)
    element = job(job_id="9", token=ARRAY)
    for jobs, goes in (((), True), ((element,), False)):
        (verdict,) = judge_directories(
            site_with(shared, jobs=jobs),
            deployment=OURS,
            states={},
            keep=Keep(succeeded=7, otherwise=30),
        )
        assert verdict.is_removable is goes


def test_the_identity_that_a_submission_writes_is_read() -> None:
    written = TaskIdentity(
        dag_id="dag",
        run_id="run",
        task_id="task",
        map_index=-1,
        try_number=2,
        first_try=1,
        deployment=OURS,
    )
    assert parse_identity(written.to_json()) == IDENTITY


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"x"', "{}"),
        identity_text(waits="yes"),
        identity_text(map_index="1"),
        identity_text(map_index=True),
        identity_text(deployment=None),
        identity_text(run_id=5),
    ],
)
def test_an_identity_that_is_not_whole_is_none(text: str) -> None:
    assert parse_identity(text) is None


# ---- judging jobs ----


def job(**changes: Any) -> LiveJob:
    values: dict[str, Any] = {
        "job_id": "77",
        "name": f"x.{TOKEN}",
        "token": TOKEN,
        "state": "RUNNING",
        "submitted": NOW - 3600,
        "is_over": False,
        "is_ending": False,
    }
    return LiveJob(**{**values, **changes})


def directory(**changes: Any) -> RunDirectory:
    values: dict[str, Any] = {
        "name": TOKEN,
        "inode": 1,
        "modified": NOW - 3600,
        "identity": IDENTITY,
        "job_id": "77",
        "inodes": 5,
        "bytes": 8192,
    }
    return RunDirectory(**{**values, **changes})


def site_with(*directories: RunDirectory, jobs: Any = ()) -> Inventory:
    return Inventory(
        clock=NOW,
        jobs=jobs if isinstance(jobs, NoAnswer) else Answer(tuple(jobs)),
        base="/base",
        problem="",
        total=len(directories),
        directories=directories,
    )


def judge(
    one: LiveJob, where: RunDirectory | None, state: Any, *, deployment: str = OURS
) -> tuple[Verdict, str]:
    inventory = site_with(*([where] if where else []), jobs=[one])
    (found,) = judge_jobs(inventory, deployment=deployment, states={TASK: state}, min_age=600)
    return found.verdict, found.why


LIVE = (
    *(None, "scheduled", "queued", "running", "restarting", "deferred", "awaiting_input"),
    *("up_for_retry", "up_for_reschedule"),
)
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")


@pytest.mark.parametrize("state", LIVE)
def test_a_job_of_a_task_that_is_not_over_is_live(state: str | None) -> None:
    assert judge(job(), directory(), TaskState(state))[0] is Verdict.LIVE


@pytest.mark.parametrize("state", OVER)
def test_a_job_of_a_task_that_is_over_is_an_orphan(state: str) -> None:
    assert judge(job(), directory(), TaskState(state))[0] is Verdict.ORPHAN


def test_a_job_of_a_task_that_is_gone_is_an_orphan() -> None:
    assert judge(job(), directory(), NoTask())[0] is Verdict.ORPHAN


@pytest.mark.parametrize(
    "name", ["", "http://localhost:8080", "http://127.0.0.1:9", "http://[::1]:8080"]
)
def test_a_gone_task_proves_nothing_where_another_airflow_may_have_the_same_name(name: str) -> None:
    where = directory(identity=replace(IDENTITY, deployment=name))
    verdict, why = judge(job(), where, NoTask(), deployment=name)
    assert verdict is Verdict.UNKNOWN
    assert "[csc] deployment" in why
    assert judge(job(), where, TaskState("failed"), deployment=name)[0] is Verdict.ORPHAN


@pytest.mark.parametrize("name", ["production", OURS, "http://10.0.0.1:8080"])
def test_a_name_that_somebody_chose_is_distinct(name: str) -> None:
    assert is_distinct(name)


@pytest.mark.parametrize(
    ("where", "verdict"),
    [
        (None, Verdict.UNKNOWN),
        (directory(identity=None), Verdict.UNKNOWN),
        (directory(job_id="78"), Verdict.UNKNOWN),
        (directory(name=f"{TOKEN}~1"), Verdict.UNKNOWN),
        (directory(identity=replace(IDENTITY, deployment="another")), Verdict.FOREIGN),
        (directory(identity=replace(IDENTITY, waits=False)), Verdict.ON_PURPOSE),
        (directory(job_id=None), Verdict.ORPHAN),
    ],
)
def test_what_the_run_directory_says_comes_before_the_task(
    where: RunDirectory | None, verdict: Verdict
) -> None:
    assert judge(job(), where, TaskState("failed"))[0] is verdict


@pytest.mark.parametrize("state", [NotTold("no answer"), TaskState("a state of tomorrow")])
def test_a_state_that_is_not_known_proves_nothing(state: Any) -> None:
    assert judge(job(), directory(), state)[0] is Verdict.UNKNOWN


@pytest.mark.parametrize("submitted", [NOW - 599, NOW + 3600, None])
def test_a_young_job_is_never_an_orphan(submitted: int | None) -> None:
    verdict, why = judge(job(submitted=submitted), directory(), TaskState("failed"))
    assert verdict is Verdict.YOUNG
    assert "600 s" in why


@pytest.mark.parametrize("changes", [{"is_over": True}, {"is_ending": True}, {"token": None}])
def test_jobs_that_end_or_are_not_ours_are_not_judged(changes: dict[str, Any]) -> None:
    inventory = site_with(directory(), jobs=[job(**changes)])
    assert judge_jobs(inventory, deployment=OURS, states={}, min_age=0) == []


def test_without_an_answer_of_squeue_no_job_is_judged() -> None:
    inventory = site_with(directory(), jobs=NoAnswer("away"))
    assert judge_jobs(inventory, deployment=OURS, states={}, min_age=0) == []


def test_states_are_asked_for_this_deployments_tasks_only() -> None:
    other = directory(identity=replace(IDENTITY, deployment="another", run_id="b"))
    assert list_tasks(OURS, [directory(), other, directory(identity=None)]) == {TASK}


def test_a_mapped_task_is_found_by_its_index_and_never_by_anothers_name() -> None:
    answer_of_a: dict[str, dict[str, str | None]] = {"run": {"a_1": "failed", "a": None}}
    assert read_state(TaskKey("dag", "run", "a", 1), answer_of_a) == TaskState("failed")
    assert read_state(TaskKey("dag", "run", "a", -1), answer_of_a) == TaskState(None)
    assert read_state(TaskKey("dag", "run", "a", 2), answer_of_a) == NoTask()
    assert read_state(TaskKey("dag", "other", "a", 1), answer_of_a) == NoTask()


# ---- judging directories ----

SUCCESS = TaskState("success")
KEEP = Keep(succeeded=7, otherwise=30)


def record_of(exit_code: int, job_id: str = "77") -> Any:
    text = json.dumps(
        {"job_id": job_id, "exit_code": exit_code, "started": 1, "ended": 2, "node": "c1"}
    )
    frames = {
        "clock": Frame(0, b"1"),
        "base": Frame(0, b"/b"),
        "squeue": Frame(0, b""),
        "directories": Frame(0, f"1.5 2 {TOKEN}\n".encode()),
        "records": Frame(0, f"{TOKEN}/exit.json:{text}\n".encode()),
    }
    return parse_inventory(frames).directories[0].exit_record


GOOD, BAD = record_of(0), record_of(3)


def prunable(
    one: RunDirectory, *, state: Any = SUCCESS, jobs: Any = (), ended: Any = None
) -> tuple[bool, str]:
    (found,) = judge_directories(
        site_with(one, jobs=jobs), deployment=OURS, states={TASK: state}, keep=KEEP, ended=ended
    )
    return found.is_removable, found.why


def aged(days: float, **changes: Any) -> RunDirectory:
    return directory(modified=int(NOW - days * DAY), **changes)


@pytest.mark.parametrize(
    ("one", "goes"),
    [
        (aged(6.9, exit_record=GOOD), False),
        (aged(7.1, exit_record=GOOD), True),
        (aged(7.1, exit_record=BAD), False),
        (aged(29.9, exit_record=BAD), False),
        (aged(30.1, exit_record=BAD), True),
        (aged(7.1, exit_record=GOOD, verdict="OUT_OF_MEMORY"), False),
        (aged(7.1, verdict="COMPLETED"), True),
        (aged(7.1, verdict="TIMEOUT"), False),
        (aged(7.1, exit_record=record_of(0, "another")), False),
        (aged(7.1), False),
        (aged(30.1), True),
        (aged(-1, exit_record=GOOD), False),
        (aged(29, name=f"{TOKEN}~1", exit_record=GOOD), False),
        (aged(31, name=f"{TOKEN}~1", exit_record=GOOD), True),
        (aged(31, name=f"{TOKEN}~1", identity=None), True),
        (aged(31, identity=None, exit_record=GOOD), False),
        (aged(31, identity=replace(IDENTITY, deployment="another")), False),
        (aged(31, name=f"{TOKEN}~1", identity=replace(IDENTITY, deployment="another")), False),
    ],
)
def test_a_directory_goes_when_it_is_old_over_and_ours(one: RunDirectory, goes: bool) -> None:
    assert prunable(one)[0] is goes


@pytest.mark.parametrize("state", [*map(TaskState, LIVE), NotTold("no answer"), TaskState("new")])
def test_a_directory_to_which_a_task_may_come_back_stays(state: Any) -> None:
    assert not prunable(aged(99, exit_record=BAD), state=state)[0]


@pytest.mark.parametrize("state", [*map(TaskState, OVER), NoTask()])
def test_a_directory_of_a_task_that_is_over_goes(state: Any) -> None:
    assert prunable(aged(99, exit_record=BAD), state=state)[0]


@pytest.mark.parametrize(
    "live",
    [job(), job(token=None, name="renamed"), job(job_id="99"), job(is_over=True)],
    ids=["both", "by id", "by token", "just over"],
)
def test_a_directory_whose_job_is_in_the_queue_stays(live: LiveJob) -> None:
    moved = aged(99, name=f"{TOKEN}~1", exit_record=GOOD)
    assert not prunable(aged(99, exit_record=GOOD), jobs=[live])[0]
    assert not prunable(moved, jobs=[live])[0]


def test_without_an_answer_of_squeue_every_directory_stays() -> None:
    assert not prunable(aged(99, exit_record=GOOD), jobs=NoAnswer("away"))[0]


def test_where_accounting_is_asked_an_unproven_end_needs_its_word() -> None:
    assert not prunable(aged(99), ended=frozenset())[0]
    assert prunable(aged(99), ended=frozenset({"77"}))[0]
    assert prunable(aged(99, exit_record=BAD), ended=frozenset())[0]


def test_a_job_left_on_purpose_needs_a_word_of_its_end() -> None:
    left = replace(IDENTITY, waits=False)
    assert not prunable(aged(99, identity=left))[0]
    assert not prunable(aged(99, identity=left), ended=frozenset())[0]
    assert prunable(aged(99, identity=left), ended=frozenset({"77"}))[0]
    assert prunable(aged(99, identity=left, exit_record=BAD))[0]


def test_no_days_at_all_still_keep_what_says_nothing_of_its_end_for_one() -> None:
    inventory = site_with(aged(0.5), aged(1.5))
    found = judge_directories(
        inventory,
        deployment=OURS,
        states={TASK: TaskState("failed")},
        keep=Keep(succeeded=0, otherwise=0),
    )
    assert [one.is_removable for one in found] == [False, True]


def test_accounting_tells_of_jobs_whose_elements_have_all_ended() -> None:
    lines = [
        accounting_line(JobID="1", State="COMPLETED"),
        accounting_line(JobID="2_0", State="FAILED"),
        accounting_line(JobID="2_1", State="RUNNING"),
    ]
    assert parse_ended({"sacct": answer(*lines)}, ["1", "2", "3"]) == {"1"}
    assert parse_ended({"sacct": Frame(1, b"no database")}, ["1"]) == frozenset()


def test_accounting_tells_of_one_element_of_several_tasks_array() -> None:
    lines = [
        accounting_line(JobID="2_0", State="FAILED"),
        accounting_line(JobID="2_1", State="RUNNING"),
        accounting_line(JobID="2_[2-9%3]", State="PENDING"),
        accounting_line(JobID="2_10", State="COMPLETED"),
        accounting_line(JobID="22_3", State="COMPLETED"),
    ]
    asked = ["2_0", "2_1", "2_3", "2_10", "2_11", "2"]
    assert parse_ended({"sacct": answer(*lines)}, asked) == {"2_0", "2_10"}


# ---- removing ----


def listed(site: FakeSite, base: Path, name: str) -> RunDirectory:
    return next(one for one in look(site, base).directories if one.name == name)


def remove(site: FakeSite, base: Path, *directories: RunDirectory) -> dict[str, str]:
    return parse_removal(site.ask(build_removal(str(base), directories)))


def test_a_directory_is_removed_with_everything_in_it_and_nothing_else(
    site: FakeSite, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    made, stays = make(base, TOKEN, script="x"), make(base, f"{TOKEN}.1", script="x")
    (made / "sub dir").mkdir()
    (made / "sub dir" / "link").symlink_to(stays)
    moved = make(base, f"{TOKEN}~12", script="x")
    doomed = [listed(site, base, made.name), listed(site, base, moved.name)]
    assert remove(site, base, *doomed) == {}
    assert list_files(base) == {f"{TOKEN}.1", f"{TOKEN}.1/script"}


@pytest.mark.parametrize("name", [TOKEN, f"{TOKEN}~12"])
def test_a_directory_that_changed_since_stays(site: FakeSite, tmp_path: Path, name: str) -> None:
    base = tmp_path / "base"
    made = make(base, name, age_days=40)
    found = listed(site, base, name)
    (made / "new").write_text("")
    assert "has changed" in remove(site, base, found)[name]
    assert list_files(base) == {name, f"{name}/new"}


def test_a_link_in_the_place_of_a_directory_is_not_followed(site: FakeSite, tmp_path: Path) -> None:
    base, outside = tmp_path / "base", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    made = make(base, TOKEN)
    found = listed(site, base, TOKEN)
    made.rmdir()
    made.symlink_to(outside)
    assert TOKEN in remove(site, base, found)
    assert list_files(outside) == {"precious"}
    assert made.is_symlink()


@pytest.mark.parametrize("name", ["..", ".", "precious", f"../{TOKEN}", f"{TOKEN}/..", f"{TOKEN}x"])
def test_a_name_that_is_none_of_ours_is_never_removed(
    site: FakeSite, tmp_path: Path, name: str
) -> None:
    base = tmp_path / "base"
    for each in (base, base / "precious", base / TOKEN, tmp_path / TOKEN, base / f"{TOKEN}x"):
        each.mkdir()
    before = list_files(tmp_path)
    path = base / name
    found = directory(name=name, inode=path.stat().st_ino, modified=int(path.stat().st_mtime))
    assert remove(site, base, found)
    assert {one for one in list_files(tmp_path) if "notes" not in one} == {
        one for one in before if "notes" not in one
    }


def test_a_directory_whose_job_came_back_into_the_queue_stays(
    site: FakeSite, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    made = make(base, TOKEN)
    found = listed(site, base, TOKEN)
    site.command("squeue", f"echo label.{TOKEN}")
    assert "job in the queue" in remove(site, base, found)[TOKEN]
    assert made.exists()


def test_nothing_is_removed_while_squeue_gives_no_answer(site: FakeSite, tmp_path: Path) -> None:
    base = tmp_path / "base"
    made = make(base, TOKEN)
    found = listed(site, base, TOKEN)
    site.command("squeue", "echo away >&2; exit 1")
    assert remove(site, base, found) == {"*": "away"}
    assert made.exists()


# ---- what the log-in node staged, beside the run directory ----

FILES = f"{TOKEN}.files"


def test_files_are_measured_and_removed_with_their_run_directory(
    site: FakeSite, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    make(base, TOKEN, script="x")
    files = make(base, FILES, age_days=99, large="x" * 100_000)
    (files / "deep er").mkdir()
    (files / "deep er" / "link").symlink_to(tmp_path)
    stays = make(base, f"{TOKEN}.1.files", small="x")
    make(base, f"{TOKEN}.1")

    inventory = look(site, base)
    found = next(one for one in inventory.directories if one.name == TOKEN)

    assert (inventory.total, len(inventory.directories)) == (2, 2)
    assert found.inodes == 2 + 4
    assert (found.bytes or 0) > 100_000
    assert remove(site, base, found) == {}
    assert {one.name for one in base.iterdir()} == {f"{TOKEN}.1", stays.name}
    assert list_files(stays) == {"small"}


def test_files_of_another_kind_are_not_followed(site: FakeSite, tmp_path: Path) -> None:
    base, precious = tmp_path / "base", make(tmp_path, "precious", x="x")
    make(base, TOKEN)
    (base / FILES).symlink_to(precious)

    assert remove(site, base, listed(site, base, TOKEN)) == {}
    assert list_files(precious) == {"x"}
    assert (base / FILES).is_symlink()


def test_files_without_a_run_directory_are_listed_and_removed_when_they_are_old(
    site: FakeSite, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    make(base, FILES, x="x")
    (found,) = look(site, base).directories

    assert (found.token, found.is_files, found.inodes) == (TOKEN, True, 2)
    assert remove(site, base, found) == {}
    assert list_files(base) == set()


def test_files_that_have_a_run_directory_by_now_stay(site: FakeSite, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make(base, FILES, x="x")
    (found,) = look(site, base).directories
    make(base, TOKEN)

    assert remove(site, base, found) == {FILES: "has a run directory"}
    assert (base / FILES / "x").exists()


def test_files_whose_removal_was_cut_short_are_found_again(site: FakeSite, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make(base, TOKEN)
    make(base, f"{FILES}~17", x="x")

    found = {one.name: one for one in look(site, base).directories}

    assert set(found) == {TOKEN, f"{FILES}~17"}
    assert remove(site, base, found[f"{FILES}~17"]) == {}
    assert list_files(base) == {TOKEN}


@pytest.mark.parametrize(
    ("days", "jobs", "goes"), [(31, (), True), (29, (), False), (31, (job(),), False)]
)
def test_files_without_a_run_directory_are_kept_as_what_did_not_succeed(
    days: int, jobs: Any, goes: bool
) -> None:
    found = aged(days, name=FILES, identity=None, job_id=None)
    (verdict,) = judge_directories(
        site_with(found, jobs=jobs),
        deployment=OURS,
        states={},
        keep=Keep(succeeded=7, otherwise=30),
    )
    assert verdict.is_removable is goes


# ---- cancelling ----


@pytest.mark.parametrize("label", HOSTILE_NAMES)
def test_a_job_is_cancelled_by_its_id_and_its_name(site: FakeSite, label: str) -> None:
    name = f"{label}.{TOKEN}"
    assert parse_reaping(site.ask(build_reaping([job(name=name)]))) == {}
    (call,) = site.calls("scancel")
    assert call.args[1:] == [f"--name={name}", "--", "77"]


def test_what_scancel_refused_is_told_by_job(site: FakeSite) -> None:
    site.command("scancel", "echo no way >&2; exit 1")
    assert parse_reaping(site.ask(build_reaping([job()]))) == {"77": "no way"}


# ---- reports ----


def test_a_reapers_report_is_json_and_shows_orphans_first() -> None:
    where = directory(identity=replace(IDENTITY, task_id="other"), name=f"{TOKEN}.1", job_id="78")
    live = job(job_id="78", name=f"x.{TOKEN}.1", token=f"{TOKEN}.1")
    inventory = site_with(directory(), where, jobs=[live, job()])
    assert where.identity
    states = {TASK: TaskState("failed"), key_of(where.identity): TaskState("running")}
    jobs = judge_jobs(inventory, deployment=OURS, states=states, min_age=0)
    report = ReaperReport(
        slurm_conn_id="c", base="/b", dry_run=True, jobs=tuple(jobs), not_cancelled={}
    )
    assert [line.split()[0] for line in report.table().splitlines()] == ["job", "77", "78"]
    shown = json.loads(json.dumps(report.to_xcom()))
    assert shown["counts"] == {"orphan": 1, "live": 1}
    assert [one["job_id"] for one in shown["jobs"]] == ["77"]
    assert "1 would be cancelled (dry run)" in report.summary


def test_a_prunes_report_tells_inodes_and_bytes_before_and_after() -> None:
    inventory = site_with(aged(99, exit_record=GOOD), aged(1, name=f"{TOKEN}.1", exit_record=GOOD))
    verdicts = judge_directories(
        inventory, deployment=OURS, states={TASK: TaskState("success")}, keep=KEEP
    )
    report = PruneReport(
        slurm_conn_id="c",
        base="/b",
        dry_run=True,
        total=5,
        directories=tuple(verdicts),
        not_removed={},
    )
    shown = json.loads(json.dumps(report.to_xcom()))
    assert (shown["inodes_before"], shown["inodes_after"]) == (10, 5)
    assert (shown["bytes_before"], shown["bytes_after"]) == (16384, 8192)
    assert "3 newer ones were not looked at" in report.summary
    assert report.kept == {"not old enough": 1}


def test_sizes_that_were_not_measured_are_not_made_up() -> None:
    (verdict,) = judge_directories(
        site_with(aged(1, inodes=None)), deployment=OURS, states={}, keep=KEEP
    )
    report = PruneReport(
        slurm_conn_id="c", base="/b", dry_run=True, total=1, directories=(verdict,), not_removed={}
    )
    assert report.to_xcom()["inodes_before"] is None
    assert "unknown number" in report.summary


def test_a_long_table_is_cut_and_says_so() -> None:
    text = render_table(["a"], [["x"]] * 205)
    assert len(text.splitlines()) == 202
    assert text.endswith("... and 5 more")
