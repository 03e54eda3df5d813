"""Chains inside real Slurm: queued at once, followed, cancelled and submitted again."""

from __future__ import annotations

import functools
import itertools
import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_csc import upstreams
from airflow_provider_csc.errors import JobFailedError
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.upstreams import read_states
from tests.support.task import build_context, first_event, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]


class Run:
    """A DAG run whose tasks run side by side, as Airflow's workers and triggerer run them."""

    def __init__(self) -> None:
        self.states: dict[str, str | None] = {}
        self.contexts: dict[str, dict[str, Any]] = {}
        self.moments: dict[str, float] = {}
        self.name = f"chain__{time.time()}"

    def ask_states(self, _run: object, task_ids: Any) -> upstreams.States:
        return read_states(self.states, set(task_ids))

    def ask_job_id(self, _run: object, instance: upstreams.Instance) -> str | None:
        context = self.contexts.get(instance.task_id)
        return context["ti"].xcoms.get("job_id") if context else None

    def play(self, task: SlurmSubmitOperator, *, tries: int = 1) -> Any:
        """Run one task to its end, with its retries."""
        for number in range(1, tries + 1):
            context = build_context(task, run_id=self.name, try_number=number, max_tries=tries - 1)
            self.contexts[task.task_id] = context
            self.states[task.task_id] = "running"
            try:
                result = self._follow(task, context)
            except AirflowFailException as error:
                result = error
                break
            except Exception as error:  # noqa: BLE001 - a task may fail with anything
                result = error
                self.states[task.task_id] = "up_for_retry"
            else:
                break
            time.sleep(2)
        self.states[task.task_id] = "failed" if isinstance(result, Exception) else "success"
        self.moments[task.task_id] = time.monotonic()
        return result

    def _follow(self, task: SlurmSubmitOperator, context: dict[str, Any]) -> Any:
        step = functools.partial(task.execute, context)
        while True:
            try:
                return step()
            except TaskDeferred as deferred:
                self.states[task.task_id] = "deferred"
                step = self._after(task, context, deferred)

    def _after(
        self, task: SlurmSubmitOperator, context: dict[str, Any], deferred: TaskDeferred
    ) -> Callable[[], Any]:
        import asyncio

        event = json.loads(json.dumps(asyncio.run(first_event(stored(deferred.trigger)))))
        self.states[task.task_id] = "running"
        kwargs = json.loads(json.dumps(deferred.kwargs or {}))
        method = getattr(task, deferred.method_name)
        return functools.partial(method, context, event=event, **kwargs)

    def play_all(self, *tasks: SlurmSubmitOperator, **tries: int) -> dict[str, Any]:
        """Start all tasks at once, as Airflow does where no edge holds one back."""
        self.states |= dict.fromkeys((task.task_id for task in tasks), "scheduled")
        with ThreadPoolExecutor(len(tasks)) as pool:
            futures = {
                task.task_id: pool.submit(self.play, task, tries=tries.get(task.task_id, 1))
                for task in tasks
            }
            return {name: future.result() for name, future in futures.items()}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    run = Run()
    monkeypatch.setattr(upstreams, "ask_states", run.ask_states)
    monkeypatch.setattr(upstreams, "ask_job_id", run.ask_job_id)
    monkeypatch.setattr(upstreams, "ASK_SECONDS", 0.5)
    yield run
    jobs = [str(one["ti"].xcoms["job_id"]) for one in run.contexts.values() if one["ti"].xcoms]
    if jobs:
        subprocess.run(["scancel", *jobs], check=True)


def operator(task_id: str, command: str = "sleep 3", **arguments: Any) -> SlurmSubmitOperator:
    given = {"poll_interval": 0.5, "deferrable": True, "options": {"time": 5, "mem": "50M"}}
    return SlurmSubmitOperator(task_id=task_id, command=command, **given | arguments)


def accounted(result: dict[str, Any]) -> tuple[str, str]:
    return result["start_time"], result["end_time"]


def test_a_chain_of_three_is_queued_at_once_and_runs_in_order(run: Run) -> None:
    a = operator("a", "sleep 8")
    b = operator("b", depends_on=a)
    c = operator("c", depends_on=b)
    results = run.play_all(a, b, c)
    assert [results[name]["state"] for name in "abc"] == ["COMPLETED"] * 3
    submitted = [results[name]["submit_time"] for name in "abc"]
    assert max(submitted) < results["a"]["end_time"]
    assert results["a"]["end_time"] <= results["b"]["start_time"]
    assert results["b"]["end_time"] <= results["c"]["start_time"]


def test_afternotok_runs_when_a_job_failed_and_afterok_is_given_up(
    run: Run, task_log: list[str]
) -> None:
    a = operator("a", "sleep 5; exit 3")
    b = operator("b", depends_on=a)
    cleaner = operator("cleaner", depends_on={"afternotok": [a]})
    always = operator("always", depends_on={"afterany": a})
    results = run.play_all(a, b, cleaner, always)
    assert isinstance(results["a"], JobFailedError)
    assert isinstance(results["b"], AirflowFailException)
    assert re.search(r"task a ended failed, its job \d+ FAILED", str(results["b"]))
    assert results["cleaner"]["state"] == results["always"]["state"] == "COMPLETED"
    # Reported, and the job cancelled, long before anything else would have ended it.
    assert run.moments["b"] - run.moments["a"] < 20
    job_id = run.contexts["b"]["ti"].xcoms["job_id"]
    state = subprocess.run(
        ["sacct", "-X", "-n", "-P", "-j", job_id, "--format=State"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert state.startswith("CANCELLED")
    assert any("depends on a job that ended otherwise" in line for line in task_log)


def test_a_task_whose_upstream_tries_again_is_queued_behind_the_new_job(
    run: Run, tmp_path: object
) -> None:
    mark = f"/home/alice/chain-{time.time()}"
    a = operator("a", f"sleep 4; rm {mark} && exit 1 || exit 0", retries=1)
    subprocess.run(["runuser", "-u", "alice", "--", "touch", mark], check=True)
    b = operator("b", depends_on=a)
    results = run.play_all(a, b, a=2)
    assert results["a"]["state"] == results["b"]["state"] == "COMPLETED"
    (replaced,) = results["b"]["resubmissions"]
    assert replaced["reason"] == "dependency"
    assert results["b"]["start_time"] >= results["a"]["end_time"]


def test_what_slurm_has_forgotten_is_judged_by_accounting(run: Run) -> None:
    """To Slurm itself every forgotten job is a success (seen on 22.05)."""
    done = run.play(operator("done", "true"))
    failed = run.play(operator("failed", "exit 1"))
    assert (done["state"], failed.state) == ("COMPLETED", "FAILED")
    assert run.play(operator("b", "true", depends_on=done["job_id"]))["state"] == "COMPLETED"
    refused = run.play(operator("c", "true", depends_on=failed.job_id))
    assert isinstance(refused, AirflowFailException)
    assert f"job {failed.job_id} ended FAILED" in str(refused)
    unknown = run.play(operator("d", "true", depends_on="900000"))
    assert "job 900000 is not known to this site" in str(unknown)


def test_singletons_of_one_name_run_one_after_the_other(run: Run) -> None:
    tasks = [
        operator(f"t{number}", "sleep 4", depends_on="singleton", job_name=run.name)
        for number in range(3)
    ]
    results = run.play_all(*tasks)
    times = sorted(accounted(result) for result in results.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))


def test_a_job_whose_upstream_is_cancelled_by_hand_ends_at_once(run: Run) -> None:
    a = operator("a", "sleep 60", wait_for_completion=False)
    first = run.play(a)
    run.states["a"] = "success"
    b = operator("b", depends_on=first["job_id"])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run.play, b)
        while "job_id" not in run.contexts.get("b", {"ti": a})["ti"].__dict__.get("xcoms", {}):
            time.sleep(0.2)
        began = time.monotonic()
        subprocess.run(["scancel", first["job_id"]], check=True)
        ended = waiting.result()
    assert isinstance(ended, AirflowFailException)
    assert f"job {first['job_id']} ended CANCELLED" in str(ended)
    assert time.monotonic() - began < 30
