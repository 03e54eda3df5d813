"""The operator with depends_on: what it submits, waits for, submits again, and refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowFailException,
    AirflowTaskTimeout,
)

from airflow_provider_csc import upstreams
from airflow_provider_csc.client import array_submitter
from airflow_provider_csc.errors import ConfigError, JobDependencyError
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.array_parts import ArrayLimits
from airflow_provider_csc.slurm.array_record import ArrayRecord, TaskEnd
from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from airflow_provider_csc.triggers.slurm_dependency import SlurmDependencyTrigger
from airflow_provider_csc.upstreams import Instance, read_states
from tests.support import fake_site as faults
from tests.support.steps import FaultySite, default_site, deferred_by, event_of, kept, submitted
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.fake_site import FakeSite

HELD = {"hold": True}


class World(FaultySite):
    """A fake site, and what Airflow says of other tasks."""

    def __init__(self, fake: FakeSite) -> None:
        super().__init__(fake)
        self.states: dict[str, str | None] = {}
        self.ids: dict[str, str] = {}

    def submit(self, **arguments: Any) -> str:
        """Submit a job of another task; it stays in the queue."""
        task = operator(**{"task_id": "other", "depends_on": None} | arguments)
        deferred = deferred_by(lambda: task.execute(build_context(task)))
        (job_id,) = deferred.trigger.serialize()[1]["job_ids"]
        assert isinstance(job_id, str)
        return job_id

    def dependency(self, job_id: str) -> str:
        return self.fake.jobs[job_id]["dependency"]

    def end(self, job_id: str, state: str) -> None:
        self.fake.change(job_id, state=state, ended="2000000000", reason="")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with default_site(monkeypatch, World) as world:
        monkeypatch.setattr(
            upstreams, "ask_states", lambda _run, ids: read_states(world.states, set(ids))
        )
        monkeypatch.setattr(
            upstreams, "ask_job_id", lambda _run, one: world.ids.get(str(one).replace("[-1]", ""))
        )
        yield world


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given = {"task_id": "job", "command": "true", "deferrable": True, "options": HELD}
    return SlurmSubmitOperator(**given | {"depends_on": "up"} | arguments)


def never_satisfied(trigger: SlurmJobTrigger) -> dict[str, Any]:
    """The event after Slurm said that the job's dependency can never be satisfied."""
    (job_id,) = trigger.job_ids
    result = JobResult(
        job_id=job_id, state="CANCELLED", limit="dependency", run_dir=trigger.run_dir
    )
    return event_of(trigger, result)


def test_a_job_waits_inside_slurm_for_that_of_another_task(world: World) -> None:
    up = world.submit()
    world.states, world.ids = {"up": "deferred"}, {"up": up}
    task = operator()
    trigger = submitted(lambda: task.execute(build_context(task)))
    assert world.dependency(trigger.job_ids[0]) == f"afterok:{up}"


def test_a_task_defers_until_the_other_has_submitted(world: World) -> None:
    world.states = {"up": "deferred"}
    task = operator()
    context = build_context(task)
    deferred = deferred_by(lambda: task.execute(context))
    assert isinstance(deferred.trigger, SlurmDependencyTrigger)
    assert world.fake.jobs == {}
    up = world.submit()
    event = {
        "status": "known",
        "upstreams": [{"kind": "afterok", "name": "up", "job_id": up, "state": "deferred"}],
    }
    assert deferred.method_name == "execute_linked"
    trigger = submitted(lambda: task.execute_linked(context, event, **kept(deferred)))
    assert world.dependency(trigger.job_ids[0]) == f"afterok:{up}"


def test_a_task_that_is_not_deferrable_waits_in_its_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = world.submit()
    world.ids = {"up": up}
    answers = iter(["scheduled", "deferred", "deferred"])
    monkeypatch.setattr(upstreams, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(
        upstreams, "ask_states", lambda _run, ids: read_states({"up": next(answers)}, set(ids))
    )
    task = operator(deferrable=False, wait_for_completion=False)
    result = task.execute(build_context(task))
    assert world.dependency(result["job_id"]) == f"afterok:{up}"


def test_kinds_and_job_ids_may_be_mixed(world: World) -> None:
    one, two = world.submit(), world.submit()
    world.states, world.ids = {"up": "deferred"}, {"up": one}
    task = operator(depends_on={"afterany": ["up"], "afterok": two})
    trigger = submitted(lambda: task.execute(build_context(task)))
    assert sorted(world.dependency(trigger.job_ids[0]).split(",")) == [
        f"afterany:{one}",
        f"afterok:{two}",
    ]


def test_a_job_that_has_succeeded_is_left_out(world: World) -> None:
    up = world.submit()
    world.end(up, "COMPLETED")
    world.states, world.ids = {"up": "success"}, {"up": up}
    task = operator()
    trigger = submitted(lambda: task.execute(build_context(task)))
    assert world.dependency(trigger.job_ids[0]) == ""


def test_a_task_that_failed_for_good_fails_this_one_before_anything_is_submitted(
    world: World,
) -> None:
    world.states = {"up": "failed"}
    task = operator()
    with pytest.raises(AirflowFailException, match="task up ended failed"):
        task.execute(build_context(task))
    assert world.fake.jobs == {}


def test_a_failed_job_that_was_named_by_its_id_fails_at_once(world: World) -> None:
    up = world.submit()
    world.end(up, "FAILED")
    task = operator(depends_on=up)
    with pytest.raises(AirflowFailException, match=f"job {up} ended FAILED"):
        task.execute(build_context(task))
    assert list(world.fake.jobs) == [up]


def test_the_new_job_of_a_task_that_tries_again_is_waited_for(world: World) -> None:
    first = world.submit()
    world.states, world.ids = {"up": "deferred"}, {"up": first}
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))

    world.end(first, "FAILED")
    world.end(trigger.job_ids[0], "CANCELLED")
    world.states = {"up": "up_for_retry"}
    waiting = deferred_by(lambda: task.execute_complete(context, never_satisfied(trigger)))
    assert isinstance(waiting.trigger, SlurmDependencyTrigger)
    assert waiting.trigger.replaced == {first: "FAILED"}

    second = world.submit()
    world.states, world.ids = {"up": "deferred"}, {"up": second}
    event = waiting.trigger.look()
    assert event is not None
    again = submitted(lambda: task.execute_linked(context, event, **kept(waiting)))
    assert world.dependency(again.job_ids[0]) == f"afterok:{second}"
    assert again.run_dir.endswith(".1.1")
    attempt = Attempt.from_payload(again.attempt)
    assert [each["job_id"] for each in attempt.history] == trigger.job_ids


def test_a_task_that_does_not_try_again_fails_this_one(world: World) -> None:
    first = world.submit()
    world.states, world.ids = {"up": "deferred"}, {"up": first}
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    world.end(first, "FAILED")
    world.end(trigger.job_ids[0], "CANCELLED")
    world.states = {"up": "failed"}
    with pytest.raises(AirflowFailException, match=f"task up ended failed, its job {first} FAILED"):
        task.execute_complete(context, never_satisfied(trigger))
    assert len(world.fake.jobs) == 2


def test_a_dependency_that_slurm_refuses_without_a_reason_is_tried_once_more(
    world: World,
) -> None:
    up = world.submit()
    world.states, world.ids = {"up": "deferred"}, {"up": up}
    task = operator()
    context = build_context(task)
    first = submitted(lambda: task.execute(context))
    second = submitted(lambda: task.execute_complete(context, never_satisfied(first)))
    with pytest.raises(JobDependencyError):
        task.execute_complete(context, never_satisfied(second))


def test_an_array_that_slurm_will_never_start_is_submitted_again_as_a_whole(world: World) -> None:
    up = world.submit()
    world.fake.switch("array_is_one_row")
    world.states, world.ids = {"up": "deferred"}, {"up": up}
    task = operator(options={"array": "0-9"})
    context = build_context(task)
    first = submitted(lambda: task.execute(context))
    record = ArrayRecord()
    end = TaskEnd(job_id=first.job_ids[0], state="CANCELLED", failure="dependency")
    record.ends |= dict.fromkeys(range(10), end)
    event = never_satisfied(first)
    event["results"][0]["array"] = record.to_payload()
    world.end(first.job_ids[0], "CANCELLED")

    second = submitted(lambda: task.execute_complete(context, event))
    assert second.array == "0-9"
    assert second.job_ids != first.job_ids


def test_elements_are_paired_only_by_ids_that_slurm_knows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = world.submit()
    world.fake.switch("array_is_one_row")
    world.states, world.ids = {"up": "deferred"}, {"up": up}
    monkeypatch.setattr(
        array_submitter, "parse_limits", lambda *_args, **_more: ArrayLimits(max_id=10)
    )
    for array, is_refused in (("0-9", False), ("5-14", True)):
        task = operator(options={"array": array}, depends_on={"aftercorr": "up"})
        if is_refused:
            with pytest.raises(AirflowFailException, match="'aftercorr' pairs the tasks"):
                task.execute(build_context(task))
        else:
            trigger = submitted(lambda task=task: task.execute(build_context(task)))
            assert world.dependency(trigger.job_ids[0]) == f"aftercorr:{up}"
    assert len(world.fake.jobs) == 2


def test_a_job_that_was_submitted_before_an_outage_is_found_before_anything_is_judged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it waits for has failed meanwhile; the job is there all the same."""
    from airflow_provider_csc.client import submitter

    monkeypatch.setattr(submitter, "RESOLVE_DELAYS", (0,))
    up = world.submit()
    world.states, world.ids = {"up": "deferred"}, {"up": up}
    task = operator()
    context = build_context(task)
    lost = ("\nsubmit\n", faults.drop_after)
    world.plans.extend([lost, ("verdict.$suffix", faults.refuse)])
    parked = deferred_by(lambda: task.execute(context))
    assert isinstance(parked.trigger, SlurmSiteTrigger)
    world.end(up, "FAILED")
    trigger = submitted(lambda: task.execute_again(context, {"status": "up"}, **kept(parked)))
    assert trigger.job_ids == [str(int(up) + 1)]


def test_a_site_that_does_not_tell_what_became_of_a_job_parks_the_task(world: World) -> None:
    up = world.submit()
    world.states, world.ids = {"up": "deferred"}, {"up": up}
    task = operator()
    with world.fake.fault("controller_down"):
        deferred = deferred_by(lambda: task.execute(build_context(task)))
    assert isinstance(deferred.trigger, SlurmSiteTrigger)
    assert "is not known" in str(deferred.trigger.reason)
    assert list(world.fake.jobs) == [up]


def test_the_deadline_counts_while_others_are_waited_for(world: World) -> None:
    task = operator()
    attempt = Attempt().to_payload()
    with pytest.raises(AirflowTaskTimeout, match="Nothing was submitted"):
        task.execute_linked(build_context(task), {"status": "deadline"}, attempt)


def test_jobs_of_one_name_wait_for_each_other(world: World) -> None:
    first = world.submit(job_name="nightly")
    other = world.submit(job_name="else")
    task = operator(depends_on="singleton", job_name="nightly")
    trigger = submitted(lambda: task.execute(build_context(task)))
    assert world.dependency(trigger.job_ids[0]) == f"afterany:{first}"
    assert other not in world.dependency(trigger.job_ids[0])


# ---- while the DAG is parsed, and before anything is waited for ----


def test_a_dependency_makes_no_edge() -> None:
    with DAG("chain", schedule=None) as dag:
        a = operator(task_id="a", depends_on=None)
        b = operator(task_id="b", depends_on=a)
        c = operator(task_id="c", depends_on={"afterok": [a.output, b], "afterany": "a"})
        SlurmSubmitOperator.partial(task_id="m", command="true", depends_on=[a.output, b]).expand(
            env=[{"X": 1}]
        )
    assert [task.upstream_task_ids for task in dag.tasks] == [set()] * 4
    assert (b.depends_on, c.depends_on) == ("a", {"afterok": ["a", "b"], "afterany": "a"})
    assert dag.task_dict["m"].partial_kwargs["depends_on"] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depends_on": "job"}, "'job' waits for 'job'"),
        ({"options": {"dependency": "afterok:1"}}, "options\\['dependency'\\] is given as well"),
        ({"depends_on": {"after_ok": "x"}}, "no kind of dependency"),
    ],
)
def test_what_is_wrong_in_itself_is_said_while_the_dag_is_parsed(
    arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        operator(**arguments)


def test_tasks_that_wait_for_each_other_are_refused_while_the_dag_is_parsed() -> None:
    with DAG("chain", schedule=None):
        operator(task_id="a", depends_on="b")
        with pytest.raises(ConfigError, match="wait for each other"):
            operator(task_id="b", depends_on="a")


def test_an_edge_that_makes_a_wait_endless_is_refused_before_anything_is_waited_for(
    world: World,
) -> None:
    with DAG("chain", schedule=None):
        a = operator(task_id="a", depends_on="b")
        b = operator(task_id="b", depends_on=None)
        a >> b
    with pytest.raises(AirflowFailException, match="'a' waits for 'b' waits for 'a'"):
        a.execute(build_context(a))


@pytest.mark.parametrize(
    ("depends_on", "words"),
    [
        ("prepair", "no task 'prepair'. Did you mean 'prepare'"),
        ("plain", "'plain' submits no Slurm job"),
        ("far", "connection 'other_site'"),
    ],
)
def test_a_task_that_cannot_be_waited_for_is_named(
    world: World, depends_on: str, words: str
) -> None:
    from airflow.providers.common.compat.sdk import BaseOperator

    with DAG("chain", schedule=None):
        operator(task_id="prepare", depends_on=None)
        BaseOperator(task_id="plain")
        operator(task_id="far", depends_on=None, slurm_conn_id="other_site")
        task = operator(depends_on=depends_on)
    with pytest.raises(AirflowFailException, match=words):
        task.execute(build_context(task))


def test_a_script_with_a_dependency_of_its_own_is_refused(world: World) -> None:
    up = world.submit()
    world.states, world.ids = {"up": "deferred"}, {"up": up}
    task = operator(command=None, script="#!/bin/bash\n#SBATCH --dependency=afterok:1\ntrue\n")
    with pytest.raises(AirflowFailException, match="the script has a dependency of its own"):
        task.execute(build_context(task))
    assert list(world.fake.jobs) == [up]


def test_instances_of_mapped_tasks_are_named_as_people_do() -> None:
    assert (str(Instance("a", -1)), str(Instance("a", 3))) == ("a", "a[3]")
