"""Our own side as a user of it: submissions over one client, and tasks that have deferred."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.client.submitter import Submitter
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.plan import JobSpec, build_request, read_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.transport.base import SiteSettings

# What HELD of `site` asks for, which all submissions ask for that are compared; the output is
# written into the run directory, as it is where a user does not say otherwise.
HELD_SPEC = JobSpec(
    command="true", options={"hold": True, "ntasks": 1, "mem": "10M", "time": "01:00:00"}
)


@contextmanager
def connections(variables: Mapping[str, str]) -> Iterator[None]:
    """Let operators and hooks of this process find these connections."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def identity_of(name: str, number: int) -> TaskIdentity:
    """Return one of many mapped instances of a task, in its first try."""
    return TaskIdentity(
        dag_id=name, run_id="bench", task_id="job", map_index=number, try_number=1, first_try=1
    )


async def submit_held(
    client: SlurmClient, settings: SiteSettings, name: str, number: int
) -> Submission:
    """Submit a job exactly once, as a task does in its first try."""
    identity = identity_of(name, number)
    request, label = build_request(
        HELD_SPEC,
        identity,
        script=read_source(HELD_SPEC, None),
        defaults={"account": settings.account},
        base_dir=settings.work_dir,
    )
    return await Submitter(
        client=client,
        request=request,
        identity=identity,
        label=label,
        since=int(time.time()),
        report=lambda _text: None,
        is_fresh=True,
    ).submit()


def open_gate(gate: Path, seconds: float) -> float:
    """Tell all jobs that wait at a gate when they begin; returns that instant (since 1970)."""
    begin = time.time() + seconds
    new = gate.with_suffix(".new")
    new.write_text(f"{begin:.3f}\n")
    new.rename(gate)
    return begin


def deferred_trigger(**arguments: Any) -> dict[str, Any]:
    """Run a task until it defers; returns its trigger in the stored form."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
    from tests.support.task import build_context

    task = SlurmSubmitOperator(task_id="job", deferrable=True, **arguments)
    try:
        task.execute(build_context(task))
    except TaskDeferred as deferred:
        path, kwargs = deferred.trigger.serialize()
        return {"path": path, "kwargs": kwargs}
    raise RuntimeError("the task did not defer")
