"""A submission that is refused for a limit on jobs in the queue: what waits, and what fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.errors import SubmitRejectedError
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.slurm.queue_limits import Refusal
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from airflow_provider_csc.triggers.slurm_queue import SlurmQueueTrigger
from tests.support.steps import FaultySite, default_site, deferred_by, kept
from tests.support.task import build_context, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.fake_site import FakeSite

UP = {"status": "up"}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSite]:
    with default_site(monkeypatch, FaultySite) as site:
        yield site.fake


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given = {"task_id": "job", "command": "true", "deferrable": True, "options": {"hold": True}}
    return SlurmSubmitOperator(**given | arguments)


def test_a_full_queue_is_waited_for_and_keeps_its_place(site: FakeSite) -> None:
    first, task = operator(task_id="first"), operator()
    with site.fault("max_submit", "1"):
        deferred_by(lambda: first.execute(build_context(first)))
        context = build_context(task)
        parked = deferred_by(lambda: task.execute(context))
        again = deferred_by(lambda: task.execute_again(context, UP, **kept(parked)))
    assert isinstance(parked.trigger, SlurmQueueTrigger)
    assert isinstance(again.trigger, SlurmQueueTrigger)
    assert parked.trigger.reason == (
        "The queue is full: MaxSubmit of account project is 1, 1 are queued."
    )
    assert parked.trigger.scope["code"] == "AssocMaxSubmitJobLimit"
    assert again.trigger.since == parked.trigger.since
    assert len(site.jobs) == 1
    trigger = deferred_by(lambda: task.execute_again(context, UP, **kept(again))).trigger
    assert isinstance(trigger, SlurmJobTrigger)
    assert len(site.jobs) == 2


def test_the_trigger_survives_the_database(site: FakeSite) -> None:
    trigger = SlurmQueueTrigger(slurm_conn_id="c", scope={"needed": 3}, since=1.0, token="t")
    path, arguments = trigger.serialize()
    assert path == "airflow_provider_csc.triggers.slurm_queue.SlurmQueueTrigger"
    assert stored(trigger).serialize() == (path, arguments)
    assert (arguments["scope"], arguments["since"], arguments["token"]) == ({"needed": 3}, 1.0, "t")


def test_an_account_with_which_nothing_may_be_submitted_fails_at_once(site: FakeSite) -> None:
    task = operator(retries=3)
    with (
        site.fault("max_submit", "0"),
        pytest.raises(AirflowFailException, match="MaxSubmit of account project is 0"),
    ):
        task.execute(build_context(task))
    assert site.calls("sbatch") == 1


def test_a_refusal_in_spite_of_room_fails_with_the_remedy_and_not_for_one_coincidence(
    site: FakeSite,
) -> None:
    task = operator(retries=3)
    with (
        site.fault("max_submit", "0"),
        site.fault("max_submit_shown", "200\n"),
        pytest.raises(AirflowFailException, match=r"is 200, 0 are queued.*missing `account`"),
    ):
        task.execute(build_context(task))
    assert site.calls("sbatch") == 3


def test_a_limit_that_cannot_be_read_is_waited_for_a_bounded_number_of_times(
    site: FakeSite,
) -> None:
    task = operator()
    context = build_context(task)
    with site.fault("max_submit", "0"), site.fault("max_submit_shown", "\n"):
        parked = deferred_by(lambda: task.execute(context))
        assert isinstance(parked.trigger, SlurmQueueTrigger)
        assert "cannot be read" in str(parked.trigger.reason)
        assert parked.trigger.not_before is not None
        attempt = kept(parked)["attempt"]
        assert attempt["refusals"] == 1
        with pytest.raises(SubmitRejectedError, match="AssocMaxSubmitJobLimit"):
            task.execute_again(context, UP, attempt=attempt | {"refusals": 12})


def test_a_controller_that_takes_no_more_jobs_is_waited_for_as_in_an_outage(
    site: FakeSite,
) -> None:
    said = "sbatch: error: Batch job submission failed: Unable to create job record, try again"
    task = operator()
    with site.fault("sbatch_says", said):
        parked = deferred_by(lambda: task.execute(build_context(task)))
    assert type(parked.trigger) is SlurmSiteTrigger
    assert "takes no more jobs just now" in str(parked.trigger.reason)
    assert site.jobs == {}
    assert list((site.home / "airflow-runs").glob("*")) == []


def test_only_refusals_with_room_in_a_row_count() -> None:
    attempt = Attempt()
    for refusal in (Refusal.ROOM, Refusal.ROOM):
        assert not attempt.is_refused_for_good(refusal)
        attempt = attempt.refused(refusal)
    assert attempt.is_refused_for_good(Refusal.ROOM)
    assert not attempt.is_refused_for_good(Refusal.FULL)
    assert not attempt.refused(Refusal.FULL).is_refused_for_good(Refusal.ROOM)
