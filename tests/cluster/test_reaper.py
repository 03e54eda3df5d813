"""The reaper on the real cluster: orphans end, nothing else does, and old directories go."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.reaper import (
    PruneReport,
    ReaperReport,
    StatesUnknownError,
    find_orphans,
    prune,
    reap,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.cluster.conftest import SlurmConnection

pytestmark = pytest.mark.cluster

DEPLOYMENT = "reaper-test"
DAY = 86_400


def as_alice(command: str) -> str:
    done = subprocess.run(
        ["runuser", "-u", "alice", "--", "bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Made:
    """A run directory made by hand, and its job."""

    token: str
    run_dir: str
    run_id: str
    job_id: str

    def state(self) -> str:
        return SlurmHook().query([self.job_id])[self.job_id].state


class Base:
    """A work_dir of the test's own."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.jobs: list[str] = []

    def make(self, *, age_days: float = 0, live: bool = True, **identity: Any) -> Made:
        token = f"af{uuid.uuid4().hex[:20]}.1"
        run_dir = f"{self.path}/{token}"
        fields = {
            "deployment": DEPLOYMENT,
            "dag_id": "dag",
            "run_id": f"run-{uuid.uuid4().hex[:8]}",
            "task_id": "task",
            "map_index": -1,
            "try_number": 1,
            "resubmission": 0,
            "run_started": "",
            "waits": True,
            "version": 1,
            **identity,
        }
        text = shlex.quote(json.dumps(fields))
        as_alice(f"mkdir -p {run_dir} && printf %s {text} >{run_dir}/identity.json")
        job_id = self.submit(token) if live else "1"
        as_alice(f"echo {job_id} >{run_dir}/job_id")
        if not live:
            record = {"job_id": "1", "exit_code": 0, "started": 1, "ended": 2, "node": "c1"}
            as_alice(f"echo {shlex.quote(json.dumps(record))} >{run_dir}/exit.json")
        as_alice(f"touch --date=@{int(time.time() - age_days * DAY)} {run_dir}")
        return Made(token, run_dir, str(fields["run_id"]), job_id)

    def submit(self, token: str, script: str = "sleep 600", *options: str) -> str:
        name = shlex.quote(f"a 'label', $(x).{token}")
        job_id = as_alice(
            f"sbatch --parsable --job-name={name} --time=10 --mem=50M --output=/dev/null "
            f"{' '.join(options)} --wrap={shlex.quote(script)}"
        )
        self.jobs.append(job_id)
        return job_id

    def ls(self) -> list[str]:
        return as_alice(f"ls {self.path}").split()


@pytest.fixture
def base(slurm_connection: SlurmConnection) -> Iterator[Base]:
    path = as_alice("mktemp -d ~/reaper-XXXXXX")
    slurm_connection.set(work_dir=path)
    made = Base(path)
    yield made
    if made.jobs:
        as_alice(f"scancel {' '.join(made.jobs)} || true")
    as_alice(f"rm -rf {path}")


def states(**by_run: str | None) -> Callable[..., dict[str, dict[str, str | None]]]:
    """An Airflow that knows these runs' task, by run id with ``-`` for ``_``."""
    known = {run_id.replace("_", "-"): state for run_id, state in by_run.items()}

    def ask(dag_id: str, task_id: str, run_ids: Sequence[str]) -> dict[str, dict[str, str | None]]:
        return {run_id: {task_id: known[run_id]} for run_id in run_ids if run_id in known}

    return ask


def verdicts(report: ReaperReport) -> dict[str, str]:
    return {one.job.job_id: one.verdict.value for one in report.jobs}


def test_of_all_jobs_only_the_orphans_are_cancelled_and_slurm_confirms_it(base: Base) -> None:
    failed = base.make(run_id="failed")
    gone = base.make(run_id="gone")
    running = base.make(run_id="running")
    cleared = base.make(run_id="cleared")
    on_purpose = base.make(run_id="purpose", waits=False)
    foreign = base.make(deployment="somebody else")
    lost = base.submit(f"af{uuid.uuid4().hex[:20]}.1")
    ask = states(failed="failed", running="running", cleared=None, purpose="success")
    arguments: dict[str, Any] = {"get_states": ask, "deployment": DEPLOYMENT}
    mine = set(base.jobs)
    time.sleep(1)

    young = find_orphans(**arguments)
    assert verdicts(young)[failed.job_id] == "young"
    dry = reap(**arguments, min_age=1)
    assert {job: one for job, one in verdicts(dry).items() if job in mine} == {
        failed.job_id: "orphan",
        gone.job_id: "orphan",
        running.job_id: "live",
        cleared.job_id: "live",
        on_purpose.job_id: "left on purpose",
        foreign.job_id: "foreign",
        lost: "unknown",
    }
    assert failed.state() in ("RUNNING", "PENDING")

    report = reap(**arguments, min_age=1, dry_run=False)

    assert set(report.cancelled) == {failed.job_id, gone.job_id}
    assert report.not_cancelled == {}
    assert (failed.state(), gone.state()) == ("CANCELLED", "CANCELLED")
    for one in (running, cleared, on_purpose, foreign):
        assert one.state() in ("RUNNING", "PENDING")
    assert "2 cancelled, 0 not" in report.summary
    assert f"{running.job_id} " in report.table()


def test_nothing_is_cancelled_while_airflow_tells_no_states(base: Base) -> None:
    made = base.make()

    def ask(dag_id: str, task_id: str, run_ids: Sequence[str]) -> Any:
        raise StatesUnknownError("the API server is away")

    report = reap(get_states=ask, deployment=DEPLOYMENT, min_age=0, dry_run=False)

    assert verdicts(report)[made.job_id] == "unknown"
    assert report.cancelled == ()
    assert made.state() in ("RUNNING", "PENDING")


def test_an_array_is_cancelled_as_a_whole(base: Base) -> None:
    made = base.make(live=False)
    array = base.submit(made.token, "sleep 600", "--array=0-3%1")
    as_alice(f"echo {array} >{made.run_dir}/job_id; rm {made.run_dir}/exit.json")
    time.sleep(1)

    report = reap(get_states=states(), deployment=DEPLOYMENT, min_age=1, dry_run=False)

    assert report.cancelled == (array,)
    assert as_alice(f"squeue --noheader --jobs={array},{array} --format=%T") == ""


def test_old_directories_go_and_everything_that_may_be_needed_stays(base: Base) -> None:
    old = base.make(age_days=8, live=False)
    failed = base.make(age_days=8, live=False)
    as_alice(
        f"echo FAILED >{failed.run_dir}/verdict; touch --date=@{int(time.time() - 8 * DAY)} "
        f"{failed.run_dir}"
    )
    new = base.make(age_days=6, live=False)
    live = base.make(age_days=99)
    retried = base.make(age_days=99, live=False, run_id="retried")
    foreign = base.make(age_days=99, live=False, deployment="somebody else")
    aside = base.make(age_days=40, live=False)
    as_alice(f"mv {aside.run_dir} {aside.run_dir}~1700000000; mkdir {base.path}/precious")
    arguments: dict[str, Any] = {
        "get_states": states(retried="up_for_retry"),
        "deployment": DEPLOYMENT,
    }

    inodes = as_alice(f"find {base.path}/af* | wc -l")

    dry = prune(**arguments)
    assert {one.directory.name for one in dry.removable} == {old.token, f"{aside.token}~1700000000"}
    assert old.token in base.ls()

    report = prune(**arguments, dry_run=False)

    assert sorted(report.removed) == sorted([old.token, f"{aside.token}~1700000000"])
    assert sorted(base.ls()) == sorted(
        [*(one.token for one in (failed, new, live, retried, foreign)), "precious"]
    )
    assert report.before.inodes == int(inodes)
    assert report.after == prune(**arguments).before
    assert report.total == 7


def test_what_the_login_node_staged_goes_with_its_run_directory(base: Base) -> None:
    old = base.make(age_days=8, live=False)
    new = base.make(age_days=6, live=False)
    live = base.make(age_days=99)
    lost, recent = f"af{uuid.uuid4().hex[:20]}.1", f"af{uuid.uuid4().hex[:20]}.1"
    for one in (old.token, new.token, live.token, lost, recent):
        as_alice(f"mkdir -p {base.path}/{one}.files/deep && echo x >{base.path}/{one}.files/deep/x")
    as_alice(f"touch --date=@{int(time.time() - 31 * DAY)} {base.path}/{lost}.files")

    report = prune(get_states=states(), deployment=DEPLOYMENT, dry_run=False)

    assert sorted(report.removed) == sorted([old.token, f"{lost}.files"])
    assert report.not_removed == {}
    kept = [f"{one}{end}" for one in (new.token, live.token) for end in ("", ".files")]
    assert sorted(base.ls()) == sorted([*kept, f"{recent}.files"])


def purged_job(base: Base) -> str:
    """A job that sacct knows and squeue does not any more, of an earlier test if there is one."""
    # With --state sacct wants to know until when, too (sacct(1)).
    known = "sacct --noheader --allocations --parsable2 --format=State,JobID --starttime=now-1days"
    for _ in range(80):
        queued = set(as_alice("squeue --me --noheader --states=all --format=%A").split())
        rows = (row.split("|") for row in as_alice(known).splitlines())
        ended = [job_id for state, job_id in rows if state == "COMPLETED" and job_id.isdecimal()]
        gone = [job_id for job_id in ended if job_id not in queued]
        if gone:
            return gone[-1]
        if not base.jobs:
            base.submit(f"af{uuid.uuid4().hex[:20]}.1", "true")
        time.sleep(2)
    raise AssertionError("squeue goes on listing every job that ended")


def test_where_accounting_is_asked_only_its_word_removes_what_has_no_record(base: Base) -> None:
    ended = base.make(age_days=40, live=False)
    as_alice(f"rm {ended.run_dir}/exit.json; echo {purged_job(base)} >{ended.run_dir}/job_id")
    unknown = base.make(age_days=40, live=False)
    as_alice(f"rm {unknown.run_dir}/exit.json; echo 99999999 >{unknown.run_dir}/job_id")
    for one in (ended, unknown):
        as_alice(f"touch --date=@{int(time.time() - 40 * DAY)} {one.run_dir}")
    arguments: dict[str, Any] = {"get_states": states(), "deployment": DEPLOYMENT}

    def removable(**more: Any) -> set[str]:
        return {one.directory.token for one in prune(**arguments, **more).removable}

    assert removable() == {ended.token, unknown.token}
    assert removable(ask_accounting=True) == {ended.token}


def make_many(base: Base, number: int) -> None:
    """Run directories as they are left behind, each with six files."""
    program = f"""
import json, os, time, uuid
for number in range({number}):
    path = f"{base.path}/af{{uuid.uuid4().hex[:20]}}.1"
    os.mkdir(path)
    fields = {{"deployment": "{DEPLOYMENT}", "dag_id": f"dag{{number % 3}}", "run_id": f"r{{number}}",
               "task_id": "task", "map_index": -1, "try_number": 1, "resubmission": 0,
               "run_started": "", "waits": True, "version": 1}}
    record = {{"job_id": "1", "exit_code": 0, "started": 1, "ended": 2, "node": "c1"}}
    texts = {{"identity.json": json.dumps(fields), "job_id": "1", "exit.json": json.dumps(record),
              "script": "x", "batch.sh": "x" * 2000, "stdout.log": "x" * 5000}}
    for name, text in texts.items():
        with open(path + "/" + name, "w") as file:
            file.write(text)
    when = time.time() - 10 * {DAY} + number
    os.utime(path, (when, when))
"""
    as_alice(f"python3 -c {shlex.quote(program)}")


def test_thousands_of_directories_take_seconds(base: Base) -> None:
    make_many(base, 3_000)
    start = time.monotonic()
    report: PruneReport = prune(get_states=states(), deployment=DEPLOYMENT)
    listing = time.monotonic() - start

    assert (report.total, len(report.removable)) == (3_000, 3_000)
    assert report.before.inodes == 3_000 * 7
    few = prune(get_states=states(), deployment=DEPLOYMENT, max_directories=100, dry_run=False)
    assert (few.total, len(few.removed)) == (3_000, 100)
    assert "2900 newer ones were not looked at" in few.summary
    start = time.monotonic()
    rest = prune(get_states=states(), deployment=DEPLOYMENT, dry_run=False)
    removing = time.monotonic() - start
    assert len(rest.removed) == 2_900
    assert base.ls() == []
    print(f"3,000 directories: judged in {listing:.1f} s; 2,900 removed in {removing:.1f} s")
    assert listing < 60
