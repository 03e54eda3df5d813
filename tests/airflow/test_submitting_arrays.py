"""The operator and an array: its parts, its tries, and what a policy submits again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_csc.client import array_submitter
from airflow_provider_csc.errors import JobExitCodeError, JobOutOfMemoryError
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.array_parts import ArrayLimits, parse_part
from airflow_provider_csc.slurm.array_record import ArrayRecord, TaskEnd
from airflow_provider_csc.slurm.arrays import parse_array
from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.slurm.policy import SlurmRetryPolicy
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from airflow_provider_csc.triggers.slurm_queue import SlurmQueueTrigger
from tests.support import fake_site as faults
from tests.support.steps import FaultySite, default_site, deferred_by, event_of, kept, submitted
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UP = {"status": "up"}


class Site(FaultySite):
    @property
    def arrays(self) -> dict[str, str]:
        """What each job was submitted with."""
        return {job_id: job["row"].strip("_[]") for job_id, job in self.fake.jobs.items()}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with default_site(monkeypatch, Site) as site:
        site.fake.switch("array_is_one_row")
        yield site


def limit(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    monkeypatch.setattr(
        array_submitter, "parse_limits", lambda *_args, **_more: ArrayLimits(**limits)
    )


def operator(array: str, **arguments: Any) -> SlurmSubmitOperator:
    given = {"task_id": "job", "command": "true", "deferrable": True}
    options = {"array": array} | arguments.pop("options", {})
    return SlurmSubmitOperator(**given | {"options": options} | arguments)


def begin(array: str, **arguments: Any) -> tuple[SlurmSubmitOperator, Any, SlurmJobTrigger]:
    """Submit an array; return the task, its context and the trigger."""
    task = operator(array, **arguments)
    context = build_context(task)
    return task, context, submitted(lambda: task.execute(context))


def ended(
    site: Site, trigger: SlurmJobTrigger, *, is_noted: bool = True, **failed: str
) -> dict[str, Any]:
    """End the job of a trigger: ``failed`` are tasks by state, the others completed."""
    (job_id,) = trigger.job_ids
    part = parse_part(trigger.array or "")
    record = ArrayRecord()
    record.add_completed(job_id, part.spec, part.shift)
    for state, spec in failed.items():
        end = TaskEnd(
            job_id=job_id, shift=part.shift, state=state, exit_code=1, failure="exit_code"
        )
        record.ends |= dict.fromkeys(parse_array(spec), end)
    state = next(iter(failed), "COMPLETED")
    result = JobResult(
        job_id=job_id,
        state=state,
        exit_code=1 if failed else 0,
        run_dir=trigger.run_dir,
        requested_memory="1G",
        array=record.to_payload(),
    )
    # Slurm has forgotten it by the time somebody looks.
    site.fake.change(job_id, state=state, in_queue="", in_accounting="")
    if is_noted:
        Path(trigger.run_dir or "", "verdict").write_text(result.noted)
    return event_of(trigger, result)


def test_an_array_is_one_job_and_one_result(site: Site) -> None:
    task, context, trigger = begin("0-9%2")
    result = task.execute_complete(context, ended(site, trigger))

    assert site.arrays == {"101": "0-9%2"}
    assert (trigger.array, trigger.array_logs) == ("0-9%2", "failed")
    assert trigger.stdout_path == trigger.stderr_path == f"{trigger.run_dir}/stdout.%a.log"
    assert result["array"]["counts"] == {"COMPLETED": 10}
    assert result["array"]["tasks"]["4"]["job_id"] == "101_4"
    json.dumps(result)


def test_output_of_the_users_own_choosing_is_a_pattern(site: Site) -> None:
    task = operator("0-9", options={"output": "out-%a", "error": "/tmp/err-%a"}, work_dir="/tmp")
    trigger = submitted(lambda: task.execute(build_context(task)))
    assert (trigger.stdout_path, trigger.stderr_path) == ("/tmp/out-%a", "/tmp/err-%a")


def test_too_many_failures_fail_the_task_and_few_do_not(site: Site) -> None:
    for allowed, is_failure in ((0, True), (1, True), (2, False), (0.2, False), (None, False)):
        task = operator("0-9", max_failed_tasks=allowed)
        context = build_context(task)
        trigger = submitted(lambda task=task, context=context: task.execute(context))
        event = ended(site, trigger, FAILED="3,7")
        if is_failure:
            with pytest.raises(
                JobExitCodeError, match=r"10 tasks: 8 COMPLETED, 2 FAILED"
            ) as caught:
                task.execute_complete(context, event)
            assert "Failed: task 3 (" in str(caught.value)
        else:
            result = task.execute_complete(context, event)
            assert (result["state"], result["array"]["counts"]["FAILED"]) == ("COMPLETED", 2)


def test_an_unknown_task_fails_the_array_whatever_is_allowed(site: Site) -> None:
    task, context, trigger = begin("0-9", max_failed_tasks=None)
    with pytest.raises(Exception, match="What became of some of them is not known"):
        task.execute_complete(context, ended(site, trigger, UNKNOWN="3"))


# ---- parts ----


def test_parts_follow_one_another_within_the_try(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_queued=4)
    task, context, first = begin("0-9%2")
    second = submitted(lambda: task.execute_complete(context, ended(site, first)))
    third = submitted(lambda: task.execute_complete(context, ended(site, second, FAILED="5")))

    assert list(site.arrays.values()) == ["0-3%2", "4-7%2", "8-9%2"]
    assert third.run_dir == f"{first.run_dir}.2"
    with pytest.raises(
        JobExitCodeError, match=r"10 tasks: 9 COMPLETED, 1 FAILED.*task 5 \(102_5\)"
    ):
        task.execute_complete(context, ended(site, third))


def test_what_one_part_had_to_wait_for_is_no_matter_of_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_queued=5)
    task = operator("0-9")
    context = build_context(task)
    waited = Attempt(waits=3, looks=20, refusals=11, queued_since=1.0, deadline=9e9)
    first = submitted(lambda: task.execute_again(context, UP, waited.to_payload()))
    second = submitted(lambda: task.execute_complete(context, ended(site, first)))
    left = Attempt.from_payload(second.attempt)
    assert (left.waits, left.looks, left.refusals, left.queued_since) == (0, 0, 0, None)
    assert (left.resubmission, left.deadline) == (1, 9e9)
    assert second.array == "5-9"


def test_no_part_of_an_array_is_told_to_others_as_its_job(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What depends on one would start before the others have run, or in spite of their failure."""
    limit(monkeypatch, max_queued=5)
    task, context, first = begin("0-9", max_failed_tasks=1)
    assert "job_id" not in context["ti"].xcoms
    last = submitted(lambda: task.execute_complete(context, ended(site, first, FAILED="3")))
    assert "job_id" not in context["ti"].xcoms
    task.execute_complete(context, ended(site, last))
    assert context["ti"].xcoms["job_id"] == last.job_ids[0]


def test_a_job_with_all_that_has_not_completed_is_told_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_queued=5)
    task, context = operator("0-9"), build_context(operator("0-9"))
    first = submitted(lambda: task.execute(context))
    last = submitted(lambda: task.execute_complete(context, ended(site, first)))
    assert context["ti"].xcoms["job_id"] == last.job_ids[0]


def test_a_job_whose_ids_only_its_own_script_knows_is_not_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_id=10)
    _, context, trigger = begin("10-14")
    assert trigger.array == "10-14 shifted by 10"
    assert "job_id" not in context["ti"].xcoms


def test_a_part_that_has_to_wait_for_the_site_is_not_forgotten(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_queued=5)
    task, context, first = begin("0-9")
    event = ended(site, first)
    site.lose(faults.refuse)

    waiting = deferred_by(lambda: task.execute_complete(context, event))
    assert isinstance(waiting.trigger, SlurmSiteTrigger)
    second = submitted(lambda: task.execute_again(context, UP, **kept(waiting)))

    assert second.array == "5-9"
    result = task.execute_complete(context, ended(site, second))
    assert result["array"]["counts"] == {"COMPLETED": 10}


def test_a_part_that_is_refused_for_a_full_queue_waits_for_the_room_it_needs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_queued=100)
    other, task = operator("0-9", task_id="other"), operator("0-299%10")
    submitted(lambda: other.execute(build_context(other)))
    said = "sbatch: error: AssocMaxSubmitJobLimit"
    with (
        site.fake.fault("max_submit_shown", "100\n"),
        site.fake.fault("sbatch_says", said),
        pytest.raises(TaskDeferred) as caught,
    ):
        task.execute(build_context(task))
    trigger = caught.value.trigger
    assert isinstance(trigger, SlurmQueueTrigger)
    assert trigger.scope["needed"] == 100
    assert "is 100, 1 are queued" in str(trigger.reason)


@pytest.mark.parametrize("fault", [faults.drop_after, faults.drop_before, faults.time_out])
def test_an_array_is_submitted_once_whatever_is_lost(site: Site, fault: Any) -> None:
    site.lose(fault)
    task = operator("0-9%2")
    trigger = submitted(lambda: task.execute(build_context(task)))
    assert site.arrays == {trigger.job_ids[0]: "0-9%2"}
    assert trigger.array == "0-9%2"


def test_a_try_that_is_executed_again_follows_its_parts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_queued=5)
    task, context, first = begin("0-9")
    event = ended(site, first)
    second = submitted(lambda: task.execute_complete(context, event))

    # What the site would take at once now is another matter.
    limit(monkeypatch, max_queued=7)
    again = operator("0-9")
    same = submitted(lambda: again.execute(context))
    follows = submitted(lambda: again.execute_complete(context, ended(site, same)))

    assert (same.job_ids, same.array) == (first.job_ids, "0-4")
    assert (follows.job_ids, follows.array) == (second.job_ids, "5-9")
    assert len(site.arrays) == 2


# ---- tries ----


def tries(array: str, **arguments: Any) -> tuple[SlurmSubmitOperator, Callable[..., Any]]:
    task = operator(array, **{"retries": 1} | arguments)
    run_id = f"run {id(task)}"

    def context(try_number: int, max_tries: int = 1) -> Any:
        return build_context(task, run_id=run_id, try_number=try_number, max_tries=max_tries)

    return task, context


def test_a_retry_submits_what_did_not_complete(site: Site) -> None:
    task, context = tries("0-9%2")
    first = submitted(lambda: task.execute(context(1)))
    with pytest.raises(JobExitCodeError):
        task.execute_complete(context(1), ended(site, first, FAILED="3,7"))

    second = submitted(lambda: task.execute(context(2)))
    assert list(site.arrays.values()) == ["0-9%2", "3,7%2"]
    result = task.execute_complete(context(2), ended(site, second))
    assert result["array"]["counts"] == {"COMPLETED": 10}
    assert result["array"]["tasks"]["2"]["job_id"] == "101_2"
    assert result["array"]["tasks"]["3"]["job_id"] == "102_3"


def test_a_third_try_knows_of_both_before(site: Site) -> None:
    task, context = tries("0-9", retries=2)
    first = submitted(lambda: task.execute(context(1, 2)))
    ended(site, first, FAILED="3,7")
    second = submitted(lambda: task.execute(context(2, 2)))
    ended(site, second, FAILED="7")
    third = submitted(lambda: task.execute(context(3, 2)))
    assert third.array == "7"
    tasks = task.execute_complete(context(3, 2), ended(site, third))["array"]["tasks"]
    assert [tasks[index]["job_id"] for index in "237"] == ["101_2", "102_3", "103_7"]


def test_a_retry_after_a_lost_worker_adopts_a_part_and_then_does_the_rest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, max_queued=4)
    task, context = tries("0-9")
    first = submitted(lambda: task.execute(context(1)))
    second = submitted(lambda: task.execute_complete(context(1), ended(site, first, FAILED="2")))

    adopted = submitted(lambda: task.execute(context(2)))
    assert (adopted.job_ids, adopted.array) == (second.job_ids, "4-7")
    rest = submitted(lambda: task.execute_complete(context(2), ended(site, adopted)))
    assert rest.array == "2,8-9"
    result = task.execute_complete(context(2), ended(site, rest))
    assert result["array"]["counts"] == {"COMPLETED": 10}


def test_a_cleared_task_submits_the_whole_array(site: Site) -> None:
    task, context = tries("0-9")
    first = submitted(lambda: task.execute(context(1)))
    ended(site, first, FAILED="3")
    submitted(lambda: task.execute(context(2, 2)))
    assert list(site.arrays.values()) == ["0-9", "0-9"]


def test_what_completed_without_the_task_is_concluded_with(site: Site) -> None:
    task, context = tries("0-9")
    first = submitted(lambda: task.execute(context(1)))
    ended(site, first)
    again = submitted(lambda: task.execute(context(2)))
    assert again.job_ids == first.job_ids
    assert len(site.arrays) == 1


def test_a_dag_that_asks_for_more_tasks_now_runs_those(site: Site) -> None:
    task, context = tries("0-4")
    first = submitted(lambda: task.execute(context(1)))
    ended(site, first, FAILED="3")
    task.options = {"array": "2-7"}
    second = submitted(lambda: task.execute(context(2)))
    assert second.array == "3,5-7"
    result = task.execute_complete(context(2), ended(site, second))
    assert set(result["array"]["tasks"]) == {"2", "3", "4", "5", "6", "7"}


# ---- policies ----


def test_a_policy_submits_the_failed_tasks_again(site: Site) -> None:
    task, context, first = begin(
        "0-9", on_failure=SlurmRetryPolicy(out_of_memory=1), options={"mem": "1G"}
    )

    event = ended(site, first, OUT_OF_MEMORY="3,7", FAILED="5")
    second = submitted(lambda: task.execute_complete(context, event))

    assert second.array == "3-7:2"
    assert "--mem=1536M" in second.attempt["asked"]
    result = task.execute_complete(context, ended(site, second))
    assert result["array"]["counts"] == {"COMPLETED": 10}
    (past,) = result["resubmissions"]
    assert (past["job_id"], past["reason"]) == ("101", "out_of_memory")
    assert result["array"]["tasks"]["0"]["job_id"] == "101_0"


def test_a_policy_that_is_spent_tells_of_the_whole_array(site: Site) -> None:
    policy = SlurmRetryPolicy(out_of_memory=1, memory_cap="1G")
    task, context, trigger = begin("0-9", on_failure=policy, options={"mem": "1G"})
    with pytest.raises(
        AirflowFailException, match=r"9 COMPLETED, 1 OUT_OF_MEMORY.*memory_cap"
    ) as caught:
        task.execute_complete(context, ended(site, trigger, OUT_OF_MEMORY="3"))
    assert isinstance(caught.value.__cause__, JobOutOfMemoryError)
