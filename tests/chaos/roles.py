"""What a forked process plays: Airflow's worker, or its triggerer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import traceback
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

# The forks must not each import what operators and triggers load when they first need it.
import airflow_provider_csc.client.poller
import airflow_provider_csc.transport.ssh  # noqa: F401
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.triggers import _settling
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger  # noqa: F401
from tests.chaos.naive import NaiveSubmitOperator
from tests.support.task import FakeDagRun, build_context

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.triggers.base import BaseTrigger

OPERATORS = {"slurm": SlurmSubmitOperator, "naive": NaiveSubmitOperator}
_settling.SETTLE_SECONDS = 0  # a pause for Airflow's scheduler, which is not played here
_ON_KILL_SECONDS = 30  # [triggerer] on_kill_timeout


def play(order: dict[str, Any], directory: Path) -> None:
    os.environ.update(order["environment"])
    if order["role"] == "worker":
        work(order, directory)
    else:
        asyncio.run(trigger(order["socket"]))


def work(order: dict[str, Any], directory: Path) -> None:
    """Run one step of a task; hand its outcome over as a whole or not at all."""
    task = order["task"]
    arguments = dict(order["operator"])
    operator = OPERATORS[order["kind"]](
        task_id=task["task_id"], retries=order["retries"], **arguments
    )
    context = build_context(
        operator,
        run_id=task["run_id"],
        dag_id=task["dag_id"],
        map_index=task["map_index"],
        try_number=order["try_number"],
        max_tries=order["max_tries"],
    )
    started = datetime.fromtimestamp(task["run_started"], UTC)
    context["dag_run"] = FakeDagRun(start_date=started)
    # As Airflow's task runner does: a user's kill arrives as SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    outcome = run_step(operator, context, order)
    new = directory / "outcomes" / f"{order['id']}.new"
    new.write_text(json.dumps(outcome))
    new.rename(new.parent / f"{order['id']}.json")


def run_step(operator: Any, context: Any, order: dict[str, Any]) -> dict[str, Any]:
    method = order["method"]
    print(f"--- try {context['ti'].try_number} {method}", flush=True)
    try:
        if method == "execute":
            result = operator.execute(context)
        else:
            result = getattr(operator, method)(context, event=order["event"], **order["kwargs"])
    except TaskDeferred as deferred:
        path, kwargs = deferred.trigger.serialize()
        return {
            "kind": "deferred",
            "method": deferred.method_name,
            "kwargs": deferred.kwargs or {},
            "trigger": [path, json.loads(json.dumps(kwargs))],
        }
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends this try
        traceback.print_exc()
        cause: BaseException = error.__cause__ or error
        details = getattr(error, "details", getattr(cause, "details", {}))
        return {
            "kind": "failed",
            "error": type(cause).__name__,
            "message": str(error),
            "job_id": details.get("job_id"),
            "is_final": isinstance(error, AirflowFailException),
        }
    return {"kind": "success", "job_id": str(result.get("job_id"))}


async def trigger(socket: str) -> None:
    """Run triggers in one event loop, as they arrive; tell of each one's event."""
    reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 24)
    running: dict[str, asyncio.Task[None]] = {}
    triggers: dict[str, BaseTrigger] = {}
    while line := await reader.readline():
        order = json.loads(line)
        number = order["id"]
        if order["do"] == "run":
            built = triggers[number] = build_trigger(*order["trigger"])
            running[number] = asyncio.create_task(run_trigger(number, built, writer))
        elif order["do"] == "forget":
            running.pop(number).cancel()
        else:
            # The name is kept, or the task could be collected while it works.
            running[f"kill-{number}"] = asyncio.create_task(
                kill_trigger(number, triggers[number], running.pop(number), writer)
            )


def build_trigger(path: str, kwargs: dict[str, Any]) -> BaseTrigger:
    module, _, name = path.rpartition(".")
    built: BaseTrigger = getattr(import_module(module), name)(**kwargs)
    return built


async def run_trigger(number: str, built: BaseTrigger, writer: asyncio.StreamWriter) -> None:
    answer: dict[str, Any] = {"id": number, "error": "the trigger ended without an event"}
    try:
        async for event in built.run():
            answer = {"id": number, "event": event.payload}
            break
    except Exception as error:  # noqa: BLE001 - whatever it is, Airflow fails the task with it
        traceback.print_exc()
        answer = {"id": number, "error": f"{type(error).__name__}: {error}"}
    tell(writer, answer)


async def kill_trigger(
    number: str, built: BaseTrigger, task: asyncio.Task[None], writer: asyncio.StreamWriter
) -> None:
    """What the triggerer does when the user ended the task: cancel `run`, then `on_kill`."""
    task.cancel()
    await asyncio.wait([task])
    try:
        on_kill = getattr(built, "on_kill", None)  # Airflow before 3.3 has none
        if on_kill:
            await asyncio.wait_for(on_kill(), _ON_KILL_SECONDS)
    except Exception:  # noqa: BLE001 - as in Airflow's triggerer
        traceback.print_exc()
    with contextlib.suppress(Exception):
        await built.cleanup()
    tell(writer, {"id": number, "killed": True})


def tell(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
