"""Limits of real associations: full queues are waited for, closed ones are not."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.queue_limits import QueueScope
from airflow_provider_csc.triggers import slurm_queue
from tests.support.task import build_context, run_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster]

LIMITED, CLOSED, SHARED = "csc_limited", "csc_closed", "csc_shared"


def manage(*words: str) -> None:
    """Change the accounting; what is there already is no error."""
    subprocess.run(["sacctmgr", "--immediate", "--quiet", *words], check=False, capture_output=True)


@pytest.fixture(scope="module")
def accounts(cluster: dict[str, Any]) -> Iterator[None]:
    """Accounts of bob's with limits on jobs in the queue; nobody else uses them."""
    name = f"cluster={cluster['slurm_cluster_name']}"
    for account, own, shared in ((LIMITED, "3", "-1"), (CLOSED, "0", "-1"), (SHARED, "-1", "2")):
        manage("add", "account", account, name, "Organization=test", "Description=limited")
        manage("modify", "account", account, name, "set", f"GrpSubmitJobs={shared}")
        manage("add", "user", "bob", f"account={account}", name)
        manage(
            "modify", "user", "bob", "where", f"account={account}", "set", f"MaxSubmitJobs={own}"
        )
    time.sleep(2)  # slurmdbd tells slurmctld
    yield
    for account in (LIMITED, CLOSED, SHARED):
        as_bob("scancel", "--me", f"--account={account}")


@pytest.fixture
def as_bobs_account(
    accounts: None, slurm_connection: SlurmConnection, monkeypatch: pytest.MonkeyPatch
) -> SlurmConnection:
    monkeypatch.setattr(slurm_queue, "_LEAST_SECONDS", 1.0)
    slurm_connection.set(user="bob", account=LIMITED)
    return slurm_connection


def as_bob(*words: str) -> str:
    done = subprocess.run(
        ["runuser", "-u", "bob", "--", *words], capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout


def operator(task_id: str, command: str = "sleep 3", **arguments: Any) -> SlurmSubmitOperator:
    given = {"poll_interval": 0.5, "deferrable": True, "options": {"time": 2, "mem": "20M"}}
    return SlurmSubmitOperator(task_id=task_id, command=command, **given | arguments)


@pytest.mark.usefixtures("as_bobs_account")
def test_limits_and_counts_are_what_slurm_holds_us_to() -> None:
    jobs = [
        as_bob("sbatch", "--parsable", f"--account={LIMITED}", "--hold", "--chdir=/tmp", *more)
        for more in (["--wrap=true"], ["--array=1-2", "--wrap=true"])
    ]
    try:
        (limit,) = SlurmHook().queue_limits(QueueScope(account=LIMITED))
        assert (limit.words, limit.limit, limit.queued) == (f"MaxSubmit of account {LIMITED}", 3, 3)
        (shared,) = SlurmHook().queue_limits(QueueScope(account=SHARED))
        assert (shared.code, shared.limit, shared.queued) == ("AssocGrpSubmit", 2, 0)
    finally:
        as_bob("scancel", *(job.strip() for job in jobs))


@pytest.mark.usefixtures("as_bobs_account")
def test_more_tasks_than_the_limit_all_run_and_say_what_they_waited_for(
    task_log: list[str],
) -> None:
    tasks = [operator(f"t{number}") for number in range(6)]
    with ThreadPoolExecutor(len(tasks)) as pool:
        results = list(pool.map(run_task, tasks))
    assert [result["state"] for result in results] == ["COMPLETED"] * 6
    told = [line for line in task_log if line.startswith("The queue is full")]
    assert told
    assert all(f"MaxSubmit of account {LIMITED} is 3, 3 are queued" in line for line in told)


def test_an_account_that_may_submit_nothing_fails_at_once(
    as_bobs_account: SlurmConnection, task_log: list[str]
) -> None:
    as_bobs_account.set(user="bob", account=CLOSED)
    task = operator("closed", retries=3)
    with pytest.raises(AirflowFailException, match=f"MaxSubmit of account {CLOSED} is 0"):
        run_task(task, build_context(task))
    told = "Preflight: bob may submit no job for account 'csc_closed': MaxSubmitJobs is 0."
    assert any(line.startswith(told) for line in task_log)


def test_a_limit_that_others_share_is_waited_for_as_well(
    as_bobs_account: SlurmConnection, task_log: list[str]
) -> None:
    as_bobs_account.set(user="bob", account=SHARED)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(run_task, [operator(f"s{number}") for number in range(3)]))
    assert [result["state"] for result in results] == ["COMPLETED"] * 3
    assert any(f"GrpSubmit of account {SHARED}" in line for line in task_log)
