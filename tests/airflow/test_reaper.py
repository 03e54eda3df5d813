"""The reaper as Airflow sees it: how states are asked, what the DAG is made of, what it costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_provider_csc import reaper
from airflow_provider_csc.deployment import deployment_name
from airflow_provider_csc.errors import SlurmError
from airflow_provider_csc.reaper import (
    PruneReport,
    ReaperReport,
    StatesUnknownError,
    airflow_states,
    build_reaper_dag,
)
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.inventory import LiveJob, RunDirectory
from airflow_provider_csc.slurm.reaping import (
    DirectoryVerdict,
    JobVerdict,
    NotTold,
    TaskKey,
    TaskState,
    Verdict,
)
from tests.pure.slurm.evidence import answer, queue_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_csc.client.slurm import SlurmClient

HEAVY = ("asyncssh", "boto3", "airflow_provider_csc.client.slurm")


def report(**changes: Any) -> ReaperReport:
    values: dict[str, Any] = {
        "slurm_conn_id": "site",
        "base": "/base",
        "dry_run": True,
        "jobs": (),
        "not_cancelled": {},
        **changes,
    }
    return ReaperReport(**values)


# ---- states ----


def ask(keys: set[TaskKey], answers: dict[str, Any]) -> tuple[Any, list[tuple[str, str, int]]]:
    asked = []

    def get_states(dag_id: str, task_id: str, run_ids: Sequence[str]) -> Any:
        asked.append((dag_id, task_id, len(run_ids)))
        if task_id == "away":
            raise StatesUnknownError("away")
        return answers

    return reaper._ask_states(keys, get_states), asked


def test_each_task_is_asked_for_by_itself_and_its_runs_together() -> None:
    first, second, other = (
        TaskKey("dag", "r1", "a", 1),
        TaskKey("dag", "r2", "a", -1),
        TaskKey("dag", "r1", "a_1", -1),
    )
    answers = {"r1": {"a_1": "failed"}, "r2": {"a": "success"}}
    states, asked = ask({first, second, other}, answers)
    assert sorted(asked) == [("dag", "a", 2), ("dag", "a_1", 1)]
    assert states[first] == TaskState("failed")
    assert states[second] == TaskState("success")


def test_what_could_not_be_asked_is_not_told_and_the_rest_is() -> None:
    away, here = TaskKey("dag", "r1", "away", -1), TaskKey("dag", "r1", "here", -1)
    states, _asked = ask({away, here}, {"r1": {"here": None}})
    assert states == {away: NotTold("away"), here: TaskState(None)}


def test_many_run_ids_do_not_make_one_long_address() -> None:
    keys = {TaskKey("dag", f"{'r' * 250}{number}", "a", -1) for number in range(100)}
    states, asked = ask(keys, {})
    assert set(states) == keys
    assert sum(number for _dag, _task, number in asked) == 100
    assert max(number for _dag, _task, number in asked) * 250 <= 2_000


def test_outside_a_task_nothing_can_be_asked() -> None:
    with pytest.raises(StatesUnknownError, match="get_states"):
        airflow_states("dag", "task", ["run"])


def test_a_refusal_of_airflow_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    def refuse(**_arguments: Any) -> Any:
        raise AirflowRuntimeError(ErrorResponse(error=ErrorType.GENERIC_ERROR))

    ti = SimpleNamespace(get_task_states=refuse)
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: {"ti": ti})
    with pytest.raises(StatesUnknownError, match=r"dag\.task"):
        airflow_states("dag", "task", ["run"])


def test_the_deployment_is_what_the_operators_put_into_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org")
    assert deployment_name() == "https://airflow.example.org"
    monkeypatch.setenv("AIRFLOW__CSC__DEPLOYMENT", "production")
    assert deployment_name() == "production"


# ---- cancelling and removing ----

TOKEN = "af0123456789abcdef0123.1"
JOB = LiveJob(
    job_id="5",
    name=f"x.{TOKEN}",
    token=TOKEN,
    state="RUNNING",
    submitted=1,
    is_over=False,
    is_ending=False,
)
ORPHAN = JobVerdict(job=JOB, verdict=Verdict.ORPHAN, why="failed", age_seconds=99)
AWAY = Frame(1, b"slurm_load_jobs error: Unable to contact slurm controller")


class Site:
    """A client that gives the answers it was made with: scancel's, then squeue's one by one."""

    def __init__(self, scancel: Frame, *queues: Frame) -> None:
        self._scancel, self._queues = scancel, list(queues)

    async def ask(self, program: str, **_arguments: Any) -> dict[str, Frame]:
        if "scancel --user" in program:
            return {"cancel.5": self._scancel}
        queue = self._queues.pop(0) if len(self._queues) > 1 else self._queues[0]
        return {"clock": Frame(0, b"9"), "base": Frame(1, b"none"), "squeue": queue}


def cancel(site: Site, monkeypatch: pytest.MonkeyPatch) -> ReaperReport:
    monkeypatch.setattr(reaper, "_CONFIRM_DELAYS", (0, 0, 0, 0))
    before = report(dry_run=False, jobs=(ORPHAN,))
    return asyncio.run(reaper._cancel(cast("SlurmClient", site), before, "/base"))


def row(**changes: str) -> Frame:
    return answer(queue_line(job_id="5", name=JOB.name) if not changes else queue_line(**changes))


OK, NOTHING = Frame(0, b""), Frame(0, b"")


@pytest.mark.parametrize(
    "last",
    [
        NOTHING,
        row(job_id="5", name=JOB.name, state="CANCELLED"),
        row(job_id="5", name="somebody else's, under the same id"),
    ],
)
def test_a_job_counts_as_cancelled_once_squeue_says_so(
    last: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cancel(Site(OK, AWAY, row(), last), monkeypatch)
    assert (done.cancelled, done.not_cancelled) == (("5",), {})


@pytest.mark.parametrize("last", [AWAY, row()])
def test_a_job_that_squeue_does_not_confirm_is_not_cancelled(
    last: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cancel(Site(OK, last), monkeypatch)
    assert done.cancelled == ()
    assert "does not confirm" in done.not_cancelled["5"]


def test_what_scancel_says_of_a_job_it_does_not_cancel_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = cancel(Site(Frame(1, b"Access denied"), row()), monkeypatch)
    assert (done.cancelled, done.not_cancelled) == ((), {"5": "Access denied"})


def test_a_removal_that_could_not_begin_leaves_every_directory() -> None:
    doomed = DirectoryVerdict(
        directory=RunDirectory(name=TOKEN, inode=1, modified=1),
        is_removable=True,
        why="old",
        age_seconds=1,
    )
    before = PruneReport(
        slurm_conn_id="s", base="/b", dry_run=False, total=1, directories=(doomed,), not_removed={}
    )
    done = asyncio.run(reaper._remove(cast("SlurmClient", Site(OK, AWAY)), before))
    assert done.removed == ()
    assert "Unable to contact" in done.not_removed[TOKEN]


# ---- the DAG ----


def test_the_dag_has_two_tasks_for_each_site_and_is_a_dry_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def take_note(answer: object) -> Callable[..., object]:
        def call(conn_id: str, **arguments: Any) -> object:
            calls.append((conn_id, arguments))
            return answer

        return call

    pruned = PruneReport(
        slurm_conn_id="s", base="/b", dry_run=True, total=0, directories=(), not_removed={}
    )
    monkeypatch.setattr(reaper, "reap", take_note(report()))
    monkeypatch.setattr(reaper, "prune", take_note(pruned))
    dag = build_reaper_dag(
        "r", slurm_conn_ids=["roihu cpu", "lumi"], max_directories=7, schedule="@daily"
    )
    assert set(dag.task_ids) == {
        "reap_roihu_cpu",
        "prune_roihu_cpu",
        "reap_lumi",
        "prune_lumi",
    }
    for name in ("reap_lumi", "prune_lumi"):
        dag.get_task(name).python_callable("lumi")  # type: ignore[attr-defined]
    assert [conn_id for conn_id, _ in calls] == ["lumi", "lumi"]
    assert all(arguments["dry_run"] is True for _, arguments in calls)
    assert calls[1][1]["max_directories"] == 7
    assert (dag.catchup, dag.max_active_runs) == (False, 1)


def test_pruning_can_be_left_out() -> None:
    assert set(build_reaper_dag(max_directories=0).task_ids) == {"reap_slurm_default"}


def test_a_word_is_enough_to_make_it_act(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def take_note(_conn_id: str, **arguments: Any) -> ReaperReport:
        seen.append(arguments["dry_run"])
        return report()

    monkeypatch.setattr(reaper, "reap", take_note)
    dag = build_reaper_dag(dry_run=False)
    dag.get_task("reap_slurm_default").python_callable("x")  # type: ignore[attr-defined]
    assert seen == [False]


@pytest.mark.parametrize(
    "one", [report(problem="squeue gave no answer"), report(not_cancelled={"5": "no"})]
)
def test_a_task_fails_when_something_could_not_be_done(one: ReaperReport) -> None:
    with pytest.raises(SlurmError):
        reaper._show(one, one.not_cancelled)


def test_making_the_dag_loads_nothing_heavy() -> None:
    program = f"""
import sys
from airflow.sdk import DAG, task
from airflow_provider_csc.reaper import build_reaper_dag
build_reaper_dag()
print(*[name for name in {HEAVY!r} if name in sys.modules])
print([name for name in sys.modules if name.startswith("airflow_provider_csc.hooks")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    # Airflow 3.1 logs to standard output while it is imported.
    assert done.stdout.splitlines()[-2:] == ["", "[]"]


def test_the_module_itself_needs_no_airflow() -> None:
    program = """
import sys
import airflow_provider_csc.reaper
print(sorted({name.split(".")[0] for name in sys.modules} & {"airflow", "asyncssh", "boto3"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
