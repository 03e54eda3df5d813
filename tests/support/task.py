"""Run one operator as Airflow's worker and triggerer do, without a scheduler."""

from __future__ import annotations

import asyncio
import functools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import TaskDeferred

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.triggers.base import BaseTrigger


@dataclass
class FakeTaskInstance:
    """The parts of a task instance that operators use."""

    task_id: str
    run_id: str
    dag_id: str = "test_dag"
    map_index: int | None = -1
    try_number: int = 1
    max_tries: int = 0
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


@dataclass
class FakeDagRun:
    start_date: datetime = field(default_factory=lambda: datetime.now(UTC))


_RUNS: dict[str, FakeDagRun] = {}


def build_context(operator: Any, **changes: Any) -> dict[str, Any]:
    """
    A context for one try; a run id of its own, so that no two tests share a token.

    With a run id that was named before it is a try of the same DAG run.
    """
    run_id = changes.pop("run_id", f"test__{datetime.now(UTC).isoformat()}__{id(operator)}")
    ti = FakeTaskInstance(task_id=operator.task_id, run_id=run_id, **changes)
    return {"ti": ti, "dag_run": _RUNS.setdefault(run_id, FakeDagRun())}


def run_task(operator: Any, context: dict[str, Any] | None = None) -> Any:
    """Execute; whenever it defers, run the trigger from its stored form, and resume."""
    context = context or build_context(operator)
    return resume(operator, context, lambda: operator.execute(context))


def resume(operator: Any, context: dict[str, Any], step: Callable[[], Any]) -> Any:
    """Take a step of a task, and those that follow until it returns or raises."""
    while True:
        try:
            return step()
        except TaskDeferred as deferred:
            step = after(operator, context, deferred)


def after(operator: Any, context: dict[str, Any], deferred: TaskDeferred) -> Callable[[], Any]:
    """Run a trigger to its event; return the step that follows, with what the database kept."""
    event = json.loads(json.dumps(asyncio.run(first_event(stored(deferred.trigger)))))
    kept = json.loads(json.dumps(deferred.kwargs or {}))
    method = getattr(operator, deferred.method_name)
    return functools.partial(method, context, event=event, **kept)


def stored(trigger: BaseTrigger) -> BaseTrigger:
    """The trigger as the triggerer builds it from the database."""
    _path, kwargs = trigger.serialize()
    return type(trigger)(**json.loads(json.dumps(kwargs)))


async def first_event(trigger: BaseTrigger) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")
