"""What a retry policy makes of failures that real Slurm brings about."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_csc.errors import SubmitKilledError
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.policy import SlurmRetryPolicy
from tests.support.task import build_context, first_event, resume, run_task, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection", "cgroup")]

# Needs a little more than 150 MiB.
HOG = "python3 -c 'x = bytearray(150 << 20); x[::4096] = b\"x\" * len(x[::4096])'"

# Memory that the limit counts, and no process shows as its own: what is measured stays below it.
UNSEEN = """python3 -c 'import os
memory = os.memfd_create("unseen")
while True: os.write(memory, bytes(1 << 20))'"""


@pytest.fixture
def cgroup(cluster: dict[str, Any]) -> None:
    """OUT_OF_MEMORY is what these tests make a job fail with."""
    if cluster["slurm_memory_limits"] != "cgroup":
        pytest.skip("the kernel limits no memory here: nothing ends OUT_OF_MEMORY")


def operator(**arguments: Any) -> SlurmSubmitOperator:
    return SlurmSubmitOperator(
        **{
            "task_id": "job",
            "poll_interval": 0.5,
            "deferrable": True,
            "command": f"{HOG} || exit 1; sleep 1; echo it fits",
            "options": {"mem": "50M"},
            "on_failure": SlurmRetryPolicy(out_of_memory=2, memory_factor=2.0),
        }
        | arguments
    )


def deferred(step: Callable[[], Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        step()
    return caught.value


def awaited(
    task: SlurmSubmitOperator, context: dict[str, Any], waiting: TaskDeferred
) -> Callable[[], Any]:
    """Wait as a triggerer does; return the step that follows."""
    event = json.loads(json.dumps(asyncio.run(first_event(stored(waiting.trigger)))))
    return functools.partial(task.execute_complete, context, event)


def jobs_of(task: SlurmSubmitOperator) -> dict[str, str]:
    """States of all jobs that the tries of a task submitted, by their tokens."""
    assert task._identity is not None
    key = task._identity.key
    words = ["sacct", "--allusers", "-X", "-n", "-P", "--starttime=now-1hour"]
    listing = subprocess.run(
        [*words, "--format=State,JobName"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split("|", 1) for line in listing.splitlines() if key in line]
    return {name[name.index(key) + len(key) + 1 :]: state.split()[0] for state, name in rows}


def test_memory_is_raised_until_the_job_fits(task_log: list[str]) -> None:
    task = operator()

    result = run_task(task)

    first, second = result["resubmissions"]
    assert (result["state"], first["state"], second["state"]) == (
        *("COMPLETED", "OUT_OF_MEMORY", "OUT_OF_MEMORY"),
    )
    assert (first["changed"], second["changed"]) == ({"mem": "100M"}, {"mem": "200M"})
    assert len({result["job_id"], first["job_id"], second["job_id"]}) == 3
    assert jobs_of(task) == {"1": "OUT_OF_MEMORY", "1.1": "OUT_OF_MEMORY", "1.2": "COMPLETED"}
    raised = [line for line in task_log if "mem is raised from" in line]
    assert raised == [first["why"], second["why"]]
    assert re.match(
        r"out_of_memory, resubmission 1 of 2: mem is raised from 50M to 100M", raised[0]
    )
    assert task_log.count("it fits") == 1


def test_at_the_cap_the_task_fails_for_good() -> None:
    task = operator(
        on_failure=SlurmRetryPolicy(out_of_memory=5, memory_factor=2.0, memory_cap="80M"),
        retries=3,
    )

    with pytest.raises(AirflowFailException, match=r"mem=80M is at memory_cap=80M already"):
        run_task(task)

    assert jobs_of(task) == {"1": "OUT_OF_MEMORY", "1.1": "OUT_OF_MEMORY"}


def test_a_resubmission_that_sbatch_refuses_fails_for_good_and_says_what_it_followed() -> None:
    """No node has so much; nothing but sbatch knows."""
    task = operator(on_failure=SlurmRetryPolicy(out_of_memory=2, memory_factor=100))
    task.options = {"mem": "180M"}
    task.command = f"{HOG}; {UNSEEN}"
    context = build_context(task)

    with pytest.raises(AirflowFailException, match="was to follow job") as caught:
        run_task(task, context)

    assert "--mem=18000M" in str(caught.value)
    assert f"job {context['ti'].xcoms['job_id']}, which ended OUT_OF_MEMORY" in str(caught.value)


def test_a_script_that_fails_by_itself_spends_no_retry() -> None:
    task = operator(command="exit 3", on_failure=SlurmRetryPolicy(user_errors="fail"), retries=3)

    with pytest.raises(AirflowFailException, match=r"exit code 3.*no retry is spent"):
        run_task(task)

    assert jobs_of(task) == {"1": "FAILED"}


@pytest.fixture
def slow_sbatch() -> Iterator[Path]:
    """A directory for the PATH, with an sbatch that tells where it is, and takes its time."""
    with tempfile.TemporaryDirectory(prefix="csc-slow-") as name:
        place = Path(name)
        place.chmod(0o777)
        program = place / "sbatch"
        program.write_text(
            f"#!/bin/bash\nPATH=${{PATH#{place}:}}\n"
            f"touch {place}/before; sleep $(cat {place}/pause-before)\n"
            f'sbatch "$@"; status=$?\n'
            f"touch {place}/behind; sleep $(cat {place}/pause-behind)\nexit $status\n"
        )
        program.chmod(0o755)
        yield place


@pytest.mark.parametrize("is_same_worker", [True, False])
@pytest.mark.parametrize("where", ["before", "behind"])
def test_a_kill_while_the_resubmission_is_under_way_leaves_no_job(
    slurm_connection: SlurmConnection, slow_sbatch: Path, where: str, is_same_worker: bool
) -> None:
    """The worker that waited for the first job itself knows that one's id."""
    for name in ("before", "behind"):
        (slow_sbatch / f"pause-{name}").write_text("2" if name == where else "0")
    task = operator(command=f"{HOG} || exit 1; sleep 300")
    context = build_context(task)
    waiting = deferred(lambda: task.execute(context))
    worker_task = task if is_same_worker else operator(command=task.command)
    following = awaited(worker_task, context, waiting)
    slurm_connection.set(login_setup=f"PATH={slow_sbatch}:$PATH")

    with ThreadPoolExecutor(max_workers=1) as worker:
        outcome = worker.submit(following)
        while not (slow_sbatch / where).exists():
            assert not outcome.done(), outcome.result()
            time.sleep(0.05)
        worker_task.on_kill()
        error = outcome.exception(timeout=60)

    assert isinstance(error, SubmitKilledError), error
    assert "was cancelled" in str(error)
    end = time.monotonic() + 20
    while jobs_of(worker_task) != {"1": "OUT_OF_MEMORY", "1.1": "CANCELLED"}:
        assert time.monotonic() < end, jobs_of(worker_task)
        time.sleep(0.5)  # what sbatch took a moment ago is in the books a moment later


def test_a_worker_lost_before_the_resubmission_leaves_it_to_the_next_try() -> None:
    """Of the failed job note was taken; the next try runs the chain anew."""
    task = operator(retries=1, on_failure=SlurmRetryPolicy(out_of_memory=2, memory_factor=4.0))
    run_id = f"lost-{uuid4()}"
    context = build_context(task, run_id=run_id, max_tries=1)
    awaited(task, context, deferred(lambda: task.execute(context)))

    again = build_context(task, run_id=run_id, try_number=2, max_tries=1)
    result = run_task(task, again)

    assert result["state"] == "COMPLETED"
    assert len(result["resubmissions"]) == 1
    assert jobs_of(task) == {"1": "OUT_OF_MEMORY", "2": "OUT_OF_MEMORY", "2.1": "COMPLETED"}


def test_a_worker_lost_behind_the_resubmission_has_its_job_adopted() -> None:
    task = operator(retries=1, on_failure=SlurmRetryPolicy(out_of_memory=2, memory_factor=4.0))
    run_id = f"lost-{uuid4()}"
    context = build_context(task, run_id=run_id, max_tries=1)
    deferred(awaited(task, context, deferred(lambda: task.execute(context))))
    second = context["ti"].xcoms["job_id"]

    again = build_context(task, run_id=run_id, try_number=2, max_tries=1)
    result = run_task(task, again)

    assert (result["job_id"], result["state"]) == (second, "COMPLETED")
    assert jobs_of(task) == {"1": "OUT_OF_MEMORY", "1.1": "COMPLETED"}


def test_a_chain_that_two_workers_follow_is_one_chain() -> None:
    policy = SlurmRetryPolicy(out_of_memory=2, memory_factor=4.0)
    task, other = operator(on_failure=policy), operator(on_failure=policy)
    context = build_context(task)
    first, same = (deferred(functools.partial(each.execute, context)) for each in (task, other))
    one, two = awaited(task, context, first), awaited(other, context, same)

    def result(each: SlurmSubmitOperator, step: Callable[[], Any]) -> dict[str, Any]:
        return resume(each, context, step)

    followed = [deferred(one), deferred(two)]
    assert followed[0].trigger.job_ids == followed[1].trigger.job_ids  # type: ignore[union-attr]
    results = [
        result(each, awaited(each, context, waiting))
        for each, waiting in zip((task, other), followed, strict=True)
    ]

    # How long it was seen to wait is a matter of who saw it.
    for result in results:
        result.pop("pending_reasons")
    assert results[0] == results[1]
    assert jobs_of(task) == {"1": "OUT_OF_MEMORY", "1.1": "COMPLETED"}
