"""The operator and its site: what parks, what fails, what is submitted again within a try."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_csc import task_state, worker_kill
from airflow_provider_csc.client import submitter
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.errors import (
    ConfigError,
    ConnectFailedError,
    JobFailedError,
    JobNodeFailureError,
    SubmitKilledError,
)
from airflow_provider_csc.hooks import slurm as hook_module
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.slurm.policy import SlurmRetryPolicy
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.task_state import Standing
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from tests.support import fake_site as faults
from tests.support.fake_site import LocalTransport
from tests.support.steps import (
    FaultySite,
    default_site,
    deferred_by,
    event_of,
    kept,
    submitted,
)
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_csc.task_state import TaskName
    from airflow_provider_csc.worker_kill import KillOrder

UP = {"status": "up"}


class Site(FaultySite):
    @property
    def live(self) -> list[str]:
        return [each for each, job in self.fake.jobs.items() if job["state"] == "PENDING"]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with default_site(monkeypatch, Site) as site:
        yield site


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given = {"task_id": "job", "command": "true", "deferrable": True, "options": {"hold": True}}
    return SlurmSubmitOperator(**given | arguments)


def parked(task: SlurmSubmitOperator, context: Any) -> TaskDeferred:
    deferred = deferred_by(lambda: task.execute(context))
    assert isinstance(deferred.trigger, SlurmSiteTrigger)
    return deferred


def ended(trigger: SlurmJobTrigger, **fields: Any) -> dict[str, Any]:
    """The event of a trigger whose job ended."""
    (job_id,) = trigger.job_ids
    result = JobResult(**{"job_id": job_id, "run_dir": trigger.run_dir} | fields)
    return event_of(trigger, result)


# ---- parking ----


def test_a_site_that_is_away_parks_the_task_and_is_asked_again(site: Site) -> None:
    task = operator()
    context = build_context(task)
    site.lose(faults.refuse)

    deferred = parked(task, context)
    trigger = submitted(lambda: task.execute_again(context, UP, **kept(deferred)))

    assert "nobody is let in" in str(deferred.trigger.serialize()[1]["reason"])
    assert deferred.method_name == "execute_again"
    assert site.live == trigger.job_ids == [context["ti"].xcoms["job_id"]]
    assert trigger.attempt is not None
    assert trigger.attempt["waits"] == 1


def test_a_site_that_is_away_for_long_parks_the_task_again(site: Site) -> None:
    task = operator()
    context = build_context(task)
    site.lose(faults.refuse, times=3)

    deferred = parked(task, context)
    for _ in range(2):
        step = kept(deferred)
        deferred = deferred_by(lambda step=step: task.execute_again(context, UP, **step))
        assert isinstance(deferred.trigger, SlurmSiteTrigger)
    trigger = submitted(lambda: task.execute_again(context, UP, **kept(deferred)))

    assert site.live == trigger.job_ids


def test_who_resumes_looks_for_what_the_site_may_have_taken(site: Site) -> None:
    task = operator()
    context = build_context(task)
    site.lose(faults.refuse)
    deferred = parked(task, context)
    first = submitted(lambda: task.execute(context))

    trigger = submitted(lambda: operator().execute_again(context, UP, **kept(deferred)))

    assert trigger.job_ids == first.job_ids == site.live


def test_a_full_disk_parks_the_task(site: Site) -> None:
    base = site.fake.home / "airflow-runs"
    base.mkdir(mode=0o755)
    site.fake.give(base)
    program = site.fake.home / "mkdir"
    program.write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    program.chmod(0o755)
    task = operator(command="true # " + "x" * 9000)
    context = build_context(task)

    def full(_settings: object) -> SlurmClient:
        return SlurmClient(LocalTransport(site.fake), login_setup="PATH=$HOME:$PATH")

    whole = hook_module._open
    try:
        hook_module._open = full
        deferred = parked(task, context)
    finally:
        hook_module._open = whole
    assert "No space left" in str(deferred.trigger.serialize()[1]["reason"])
    assert site.live == []


def test_the_deadline_goes_along_and_ends_the_wait(site: Site) -> None:
    task = operator(execution_timeout=timedelta(seconds=100))
    context = build_context(task)
    site.lose(faults.refuse)
    deferred = parked(task, context)
    deadline = deferred.trigger.serialize()[1]["deadline"]
    assert 90 < deadline - time.time() <= 100

    again = operator(execution_timeout=timedelta(seconds=100))
    with pytest.raises(AirflowTaskTimeout, match="execution_timeout"):
        again.execute_again(context, {"status": "deadline"}, **kept(deferred))
    # on_kill, which Airflow calls next, stops the submission by its token.
    assert again._identity is not None
    assert again._identity.token == deferred.trigger.serialize()[1]["token"]

    trigger = submitted(lambda: task.execute_again(context, UP, **kept(deferred)))
    assert trigger.deadline == deadline


def test_an_error_that_no_waiting_can_mend_parks_nothing(site: Site) -> None:
    async def changed(_send: Any) -> Any:
        raise ConnectFailedError("the host key has CHANGED", is_lasting=True)

    site.lose(changed)
    with pytest.raises(ConnectFailedError, match="CHANGED"):
        operator().execute(build_context(operator()))


def test_where_a_job_may_exist_no_error_is_a_reason_to_give_it_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitter, "RESOLVE_DELAYS", (0.1, 0.1))

    async def unknown(_send: Any) -> Any:
        raise ConnectFailedError("no such name", is_lasting=True)

    task = operator()
    context = build_context(task)
    site.lose(faults.drop_after)
    site.lose(faults.refuse, 20, command="squeue")
    deferred = parked(task, context)
    assert len(site.live) == 1
    site.plans.clear()
    site.lose(unknown, 20, command="squeue")

    again = deferred_by(lambda: task.execute_again(context, UP, **kept(deferred)))
    site.plans.clear()
    trigger = submitted(lambda: task.execute_again(context, UP, **kept(again)))

    assert isinstance(again.trigger, SlurmSiteTrigger)
    assert site.live == trigger.job_ids


def test_a_refused_request_is_not_retried(site: Site) -> None:
    task = operator(options={"partition": "nope"})
    with pytest.raises(AirflowFailException, match="nope"):
        task.execute(build_context(task))


def test_a_connection_that_airflow_does_not_find_is_an_ordinary_failure(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow says so, too, while its own database is away: a retry may find it."""

    def find(_conn_id: str) -> None:
        raise AirflowNotFoundException

    monkeypatch.setattr(hook_module.SlurmHook, "get_connection", staticmethod(find))
    task = operator()
    with pytest.raises(ConfigError, match="'slurm_default' is not defined"):
        task.execute(build_context(task))
    assert site.live == []


# ---- a task that is ended while its worker runs ----


@pytest.mark.parametrize("is_reached", [True, False])
def test_a_task_that_was_ended_is_not_handed_over(
    site: Site, monkeypatch: pytest.MonkeyPatch, *, is_reached: bool
) -> None:
    """Airflow refuses a deferral then, and calls neither on_kill."""
    asked: list[TaskName] = []
    orders: list[KillOrder] = []

    def was_ended(name: TaskName) -> bool:
        asked.append(name)
        return True

    def kill(order: KillOrder, _log: object, *, is_interrupted: bool) -> Standing:
        assert not is_interrupted
        orders.append(order)
        return Standing.ENDED

    monkeypatch.setattr(task_state, "was_ended", was_ended)
    monkeypatch.setattr(worker_kill, "kill_from_worker", kill)
    if not is_reached:
        site.lose(faults.refuse, 20)
        monkeypatch.setattr(submitter, "RESOLVE_DELAYS", (0.1,))

    task = operator()
    with pytest.raises(SubmitKilledError, match="ended by somebody"):
        task.execute(build_context(task))

    assert [each["task_id"] for each in asked] == ["job"]
    assert [order.job_id for order in orders] == (site.live if is_reached else [None])
    assert orders[0].token


def test_a_job_that_nobody_waits_for_outlives_its_worker(site: Site) -> None:
    """Airflow stops a task that is over already, when its callbacks take too long."""
    task = operator(wait_for_completion=False)
    result = task.execute(build_context(task))

    task.on_kill()

    assert site.live == [result["job_id"]]


# ---- one job for one try ----


def test_the_same_try_executed_twice_is_one_job(site: Site) -> None:
    task = operator()
    context = build_context(task)
    first, second = (submitted(lambda: operator().execute(context)) for _ in range(2))
    assert first.job_ids == second.job_ids == site.live


def test_a_retry_adopts_and_a_cleared_task_does_not(site: Site) -> None:
    task = operator(retries=1)
    first = build_context(task, run_id="adopted", max_tries=1)
    lost = submitted(lambda: task.execute(first))
    retry = build_context(task, run_id="adopted", try_number=2, max_tries=1)
    assert submitted(lambda: task.execute(retry)).job_ids == lost.job_ids
    cleared = build_context(task, run_id="adopted", try_number=2, max_tries=3)
    new = submitted(lambda: task.execute(cleared))
    assert new.job_ids != lost.job_ids
    assert site.live == new.job_ids


def test_the_run_directory_says_whose_it_is(site: Site) -> None:
    task = operator(wait_for_completion=False)
    context = build_context(task, map_index=3)
    result = task.execute(context)
    known = json.loads((Path(result["run_dir"]) / "identity.json").read_text())
    ti = context["ti"]
    assert (known["dag_id"], known["run_id"], known["task_id"]) == ("test_dag", ti.run_id, "job")
    assert (known["map_index"], known["try_number"], known["waits"]) == (3, 1, False)
    assert known["run_started"] == context["dag_run"].start_date.isoformat()


# ---- submitting again, because a policy says so ----

NODE_FAIL = {"state": "NODE_FAIL", "nodes": "c2"}
POLICY = SlurmRetryPolicy(infrastructure=1, out_of_memory=1)


def test_a_policy_submits_again_within_the_try(site: Site) -> None:
    task = operator(on_failure=POLICY)
    context = build_context(task)
    first = submitted(lambda: task.execute(context))
    site.fake.change(first.job_ids[0], state="NODE_FAIL")

    second = submitted(lambda: task.execute_complete(context, ended(first, **NODE_FAIL)))

    assert site.live == second.job_ids
    assert second.run_dir == f"{first.run_dir}.1"
    attempt = Attempt.from_payload(second.attempt)
    assert attempt.resubmission == 1
    assert "--exclude=c2" in attempt.asked

    result = task.execute_complete(context, ended(second, state="COMPLETED"))
    (past,) = result["resubmissions"]
    assert (past["job_id"], past["state"]) == (first.job_ids[0], "NODE_FAIL")
    json.dumps(result)


def test_a_policy_that_is_spent_fails_the_try(site: Site) -> None:
    task = operator(on_failure=POLICY)
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    site.fake.change(trigger.job_ids[0], state="NODE_FAIL")
    again = submitted(lambda: task.execute_complete(context, ended(trigger, **NODE_FAIL)))
    site.fake.change(again.job_ids[0], state="NODE_FAIL")
    with pytest.raises(JobNodeFailureError):
        task.execute_complete(context, ended(again, **NODE_FAIL))
    assert len(site.fake.jobs) == 2


def test_without_a_policy_nothing_is_submitted_again(site: Site) -> None:
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    with pytest.raises(JobNodeFailureError):
        task.execute_complete(context, ended(trigger, **NODE_FAIL))
    assert len(site.fake.jobs) == 1


def test_a_try_that_is_executed_again_follows_the_chain_it_had_made(site: Site) -> None:
    task = operator(on_failure=POLICY)
    context = build_context(task)
    first = submitted(lambda: task.execute(context))
    site.fake.change(first.job_ids[0], state="NODE_FAIL")
    second = submitted(lambda: task.execute_complete(context, ended(first, **NODE_FAIL)))

    again = operator(on_failure=POLICY)
    same = submitted(lambda: again.execute(context))
    follows = submitted(lambda: again.execute_complete(context, ended(same, **NODE_FAIL)))

    assert (same.job_ids, follows.job_ids) == (first.job_ids, second.job_ids)
    assert len(site.fake.jobs) == 2


def test_a_retry_adopts_the_job_that_a_policy_had_submitted(site: Site) -> None:
    task = operator(on_failure=POLICY, retries=1)
    context = build_context(task, run_id="chain", max_tries=1)
    first = submitted(lambda: task.execute(context))
    site.fake.change(first.job_ids[0], state="NODE_FAIL")
    second = submitted(lambda: task.execute_complete(context, ended(first, **NODE_FAIL)))

    retry = build_context(task, run_id="chain", try_number=2, max_tries=1)
    assert submitted(lambda: task.execute(retry)).job_ids == second.job_ids


def test_a_resubmission_is_parked_as_any_other(site: Site) -> None:
    task = operator(on_failure=POLICY)
    context = build_context(task)
    first = submitted(lambda: task.execute(context))
    site.fake.change(first.job_ids[0], state="NODE_FAIL")
    site.lose(faults.refuse)

    deferred = deferred_by(lambda: task.execute_complete(context, ended(first, **NODE_FAIL)))
    second = submitted(lambda: task.execute_again(context, UP, **kept(deferred)))

    assert second.run_dir == f"{first.run_dir}.1"
    assert "--exclude=c2" in Attempt.from_payload(second.attempt).asked
    result = task.execute_complete(context, ended(second, state="COMPLETED"))
    assert len(result["resubmissions"]) == 1


# ---- the task state store, where Airflow has one ----


class Store(dict[str, Any]):
    """What is needed of Airflow 3.3's task state store."""

    def set(self, key: str, value: Any) -> None:
        self[key] = json.loads(json.dumps(value))


class BrokenStore:
    """One behind which the API server is away."""

    def set(self, _key: str, _value: Any) -> None:
        raise ConnectionError("no API server")

    def get(self, _key: str) -> Any:
        raise ConnectionError("no API server")


MEMORY = {"state": "OUT_OF_MEMORY", "nodes": "c1"}


def test_what_a_policy_learned_is_used_by_the_next_try(site: Site) -> None:
    task = operator(on_failure=POLICY, retries=1, options={"hold": True, "mem": "100M"})
    store = Store()
    context = build_context(task, run_id="learned", max_tries=1) | {"task_state_store": store}
    first = submitted(lambda: task.execute(context))
    assert store["slurm"]["job_id"] == first.job_ids[0]
    site.fake.change(first.job_ids[0], state="OUT_OF_MEMORY")
    second = submitted(lambda: task.execute_complete(context, ended(first, **MEMORY)))
    site.fake.change(second.job_ids[0], state="FAILED")
    with pytest.raises(JobFailedError):
        task.execute_complete(context, ended(second, state="FAILED", exit_code=1))

    retry = build_context(task, run_id="learned", try_number=2, max_tries=1)
    retry["task_state_store"] = store
    third = submitted(lambda: task.execute(retry))

    assert "--mem=150M" in Attempt.from_payload(second.attempt).asked
    assert "--mem=150M" in Attempt.from_payload(third.attempt).asked
    assert third.job_ids not in (first.job_ids, second.job_ids)


@pytest.mark.parametrize(
    ("memory", "max_tries"),
    [("200M", 1), ("100M", 2)],
    ids=["other options", "cleared"],
)
def test_what_a_policy_learned_is_forgotten_when_the_author_means_something_else(
    site: Site, memory: str, max_tries: int
) -> None:
    store = Store(slurm={"options": '{"mem": "100M"}', "changes": ["mem=150M"]})
    task = operator(on_failure=POLICY, retries=1, options={"mem": memory})
    context = build_context(task, try_number=2, max_tries=max_tries)
    trigger = submitted(lambda: task.execute(context | {"task_state_store": store}))
    assert f"--mem={memory}" in Attempt.from_payload(trigger.attempt).asked


@pytest.mark.parametrize("try_number", [1, 2])
def test_a_broken_store_changes_nothing(site: Site, try_number: int) -> None:
    task = operator(on_failure=POLICY, retries=1)
    context = build_context(task, try_number=try_number, max_tries=1)
    trigger = submitted(lambda: task.execute(context | {"task_state_store": BrokenStore()}))
    assert trigger.job_ids == site.live


@pytest.mark.parametrize("known", [None, "text", {}, {"changes": "x"}, {"changes": [1, "a"]}])
def test_a_store_that_holds_something_else_changes_nothing(site: Site, known: Any) -> None:
    task = operator(on_failure=POLICY, retries=1)
    context = build_context(task, try_number=2, max_tries=1)
    store = Store(slurm=known)
    assert submitted(lambda: task.execute(context | {"task_state_store": store})).job_ids
