"""Transfers by a log-in node: what is waited for, what is not, and when a wait ends."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout

from airflow_provider_csc.errors import AllasError, ConfigError, ConnectFailedError, SlurmError
from airflow_provider_csc.staging.receipts import Moved
from airflow_provider_csc.transfers.allas_slurm import AllasToSlurmOperator
from airflow_provider_csc.triggers.slurm import SlurmSiteTrigger
from tests.support import fake_site as faults
from tests.support.steps import FaultySite, default_site, deferred_by, kept
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from airflow_provider_csc.hooks._login_staging import LoginStaging

UP = {"status": "up"}
AWAY = AllasError("the store is away", status=None)
LONG = object()
UPLOAD = {"bucket": "b-1", "key": "x", "upload_id": "2~x"}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultySite]:
    store = {"conn_type": "allas", "login": "k", "password": "s"}
    extra = {"endpoint_url": "http://127.0.0.1:9"}
    monkeypatch.setenv("AIRFLOW_CONN_ALLAS_DEFAULT", json.dumps(store | {"extra": extra}))
    with default_site(monkeypatch, FaultySite) as site:
        yield site


class Transfer(AllasToSlurmOperator):
    """Moves nothing: it asks the site once, and then meets what it is given, one after the other."""

    meets: list[object]
    undone: list[object]

    def _plan(self) -> Callable[[LoginStaging], Awaitable[Moved]]:
        async def move(staging: LoginStaging) -> Moved:
            met = self.meets.pop(0) if self.meets else None
            if met is LONG:
                # Before anything is asked: a process that is cancelled while it starts may not end.
                await asyncio.sleep(60)
            await staging.client.run("true")
            self.undone.append(list(staging.undone))
            staging.undone[:] = [UPLOAD]
            if isinstance(met, Exception):
                raise met
            return Moved(1, 2, 3)

        return move


def transfer(*meets: object, **arguments: Any) -> Transfer:
    given: dict[str, Any] = {"task_id": "t", "source": "s3://b-1/x", "destination": "/x"}
    task = Transfer(**given | {"deferrable": True} | arguments)
    task.meets, task.undone = list(meets), []
    return task


def trigger_of(step: Callable[[], object]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take a step that parks the task; return what its trigger and its next step are told."""
    deferred = deferred_by(step)
    assert isinstance(deferred.trigger, SlurmSiteTrigger)
    assert deferred.method_name == "execute_again"
    return deferred.trigger.serialize()[1], kept(deferred)


def test_a_site_that_is_away_parks_the_task_until_it_is_back(site: FaultySite) -> None:
    task = transfer()
    context: Any = build_context(task)
    site.lose(faults.refuse, times=2, command="true")

    told, step = trigger_of(lambda: task.execute(context))
    _, step = trigger_of(lambda: task.execute_again(context, UP, **step))
    value = task.execute_again(context, UP, **step)

    assert "nobody is let in" in told["reason"]
    assert (told["slurm_conn_id"], told["deadline"], told["token"]) == ("slurm_default", None, None)
    assert told["task_key"]["task_id"] == "t"
    assert (value["transferred"], value["bytes"], value["seconds"]) == (1, 2, 3)


def test_a_store_that_is_away_is_left_alone_for_a_while(site: FaultySite) -> None:
    task = transfer(AWAY, AllasError("the store is busy", status=503))
    context: Any = build_context(task)

    told, step = trigger_of(lambda: task.execute(context))
    again, step = trigger_of(lambda: task.execute_again(context, UP, **step))
    value = task.execute_again(context, UP, **step)

    assert (told["reason"], again["reason"]) == ("the store is away", "the store is busy")
    assert told["not_before"] > time.time()
    assert step["attempt"]["looks"] == 2
    assert value["transferred"] == 1


def test_uploads_that_could_not_be_aborted_are_known_to_who_goes_on(site: FaultySite) -> None:
    task = transfer(AWAY)
    context: Any = build_context(task)

    _, step = trigger_of(lambda: task.execute(context))
    task.execute_again(context, UP, **step)

    assert step["attempt"]["uploads"] == [UPLOAD]
    assert task.undone == [[], [UPLOAD]]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AllasError("AccessDenied", status=403), AllasError),
        (AllasError("other bytes"), AllasError),
        (ConnectFailedError("no such name", is_lasting=True), ConnectFailedError),
        (SlurmError("/x cannot be read: Permission denied"), SlurmError),
        (ConfigError("nothing is meant"), AirflowFailException),
    ],
    ids=["refused", "changed", "no such host", "not open", "nothing"],
)
def test_what_no_waiting_mends_is_an_error_at_once(
    site: FaultySite, error: Exception, kind: type[Exception]
) -> None:
    task = transfer(error)

    with pytest.raises(kind, match=str(error)):
        task.execute(build_context(task))  # type: ignore[arg-type]


def test_execution_timeout_goes_along_and_ends_the_wait(site: FaultySite) -> None:
    task = transfer(AWAY, execution_timeout=timedelta(seconds=100))
    context: Any = build_context(task)

    told, step = trigger_of(lambda: task.execute(context))

    assert 0 < told["deadline"] - time.time() <= 100
    with pytest.raises(AirflowTaskTimeout, match="execution_timeout is reached"):
        task.execute_again(context, {"status": "deadline"}, **step)


def test_execution_timeout_ends_also_what_goes_on_after_a_wait(site: FaultySite) -> None:
    """Airflow itself counts anew then."""
    task = transfer(AWAY, LONG, execution_timeout=timedelta(minutes=1))
    context: Any = build_context(task)

    _, step = trigger_of(lambda: task.execute(context))
    assert step["attempt"]["deadline"] > time.time()
    step["attempt"]["deadline"] = time.time() + 0.3

    with pytest.raises(AirflowTaskTimeout, match="execution_timeout is reached"):
        task.execute_again(context, UP, **step)
