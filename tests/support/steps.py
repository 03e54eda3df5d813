"""One step of a task after the other at a fake site, whatever Airflow does in between."""

from __future__ import annotations

import json
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.hooks import slurm as hook_module
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger
from tests.support.fake_site import FakeSite, FaultyTransport, LocalTransport, fake_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_csc.slurm.result import JobResult

SUBMIT = "\nsubmit\n"


class FaultySite:
    """A fake site, and the faults that are planned for its connection."""

    def __init__(self, fake: FakeSite) -> None:
        self.fake = fake
        self.plans: deque[tuple[str, Any]] = deque()

    def open(self, _settings: object) -> SlurmClient:
        return SlurmClient(FaultyTransport(LocalTransport(self.fake), self.plans))

    def lose(self, fault: Any, times: int = 1, *, command: str = SUBMIT) -> None:
        """Plan a fault for the next commands with this text."""
        self.plans.extend([(command, fault)] * times)


Kind = TypeVar("Kind", bound=FaultySite)


@contextmanager
def default_site(monkeypatch: pytest.MonkeyPatch, kind: type[Kind]) -> Iterator[Kind]:
    """A fake site behind the connection ``slurm_default``."""
    connection = {"conn_type": "slurm", "host": "fake", "login": "somebody"}
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(connection))
    with fake_site() as fake:
        site = kind(fake)
        monkeypatch.setattr(hook_module, "_open", site.open)
        yield site


def deferred_by(step: Callable[[], Any]) -> TaskDeferred:
    """Take a step that must defer the task."""
    with pytest.raises(TaskDeferred) as caught:
        step()
    return caught.value


def kept(deferred: TaskDeferred) -> dict[str, Any]:
    """What the database keeps for the method that goes on."""
    kwargs: dict[str, Any] = json.loads(json.dumps(deferred.kwargs or {}))
    return kwargs


def submitted(step: Callable[[], Any]) -> SlurmJobTrigger:
    """Take a step that must submit; return the trigger as the triggerer builds it."""
    trigger = deferred_by(step).trigger
    assert isinstance(trigger, SlurmJobTrigger)
    return SlurmJobTrigger(**json.loads(json.dumps(trigger.serialize()[1])))


def event_of(trigger: SlurmJobTrigger, result: JobResult) -> dict[str, Any]:
    """What the trigger fires when its job has ended so."""
    event: dict[str, Any] = json.loads(
        json.dumps({"results": [result.to_payload()], "attempt": trigger.attempt})
    )
    return event
