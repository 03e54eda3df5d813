"""Why a real job waits is told in words, once, and again when it has changed."""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.pending import explain_reason
from tests.support.task import build_context, first_event, run_task, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

FEW, ONE, SPENT = "csc_few", "csc_one", "csc_spent"
QOS = "csc_single"
# All GPUs of the cluster, which one job at a time can have.
GPUS = {"nodes": 2, "gres": "gpu:gh200:4", "mem": 50, "time": 2}
ROUNDS_SECONDS = 2


def admin(*words: str) -> str:
    """Do something as root, who administers the cluster."""
    done = subprocess.run(list(words), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def sbatch(*words: str) -> str:
    """Submit a job of alice's that no task knows of; return its id."""
    line = ["runuser", "-u", "alice", "--", "sbatch", "--parsable", "--chdir=/tmp", *words]
    return admin(*line, "--output=/dev/null")


@pytest.fixture(scope="module")
def limits(cluster: dict[str, Any]) -> Iterator[None]:
    """Accounts of bob's, and a QOS, that allow little; nobody else uses them."""
    name = f"cluster={cluster['slurm_cluster_name']}"

    def manage(*words: str) -> None:
        command = ["sacctmgr", "--immediate", "--quiet", *words]
        subprocess.run(command, check=False, capture_output=True)

    for account, limit in (
        (FEW, "GrpTRES=cpu=1"),
        (ONE, "MaxJobs=1"),
        (SPENT, "GrpTRESMins=cpu=0"),
    ):
        manage("add", "account", account, name, "Organization=test", "Description=limited")
        if limit.startswith("Grp"):
            manage("modify", "account", account, name, "set", limit)
        manage("add", "user", "bob", f"account={account}", name)
        if limit.startswith("Max"):
            manage("modify", "user", "bob", "where", f"account={account}", "set", limit)
    manage("add", "qos", QOS)
    manage("modify", "qos", QOS, "set", "MaxTRESPerJob=cpu=1")
    manage("modify", "user", "bob", "where", f"account={FEW}", "set", f"qos+={QOS}")
    time.sleep(2)  # slurmdbd tells slurmctld
    yield
    for account in (FEW, ONE, SPENT):
        admin("scancel", "--user=bob", f"--account={account}")


@dataclass
class Job:
    """A job that a task waits for, and what the log says of it."""

    job_id: str
    log: list[str]

    def told(self, code: str) -> list[str]:
        about = f"Job {self.job_id} is PENDING ({code}) in "
        return [line for line in self.log if line.startswith(about)]

    async def tells(self, code: str, times: int = 1) -> str:
        """Wait until the reason is told, and for some rounds more; return the line."""
        end = time.monotonic() + 30
        while len(self.told(code)) < times:
            assert time.monotonic() < end, f"no {code} in {list(self.log)}"
            await asyncio.sleep(0.1)
        await asyncio.sleep(ROUNDS_SECONDS)
        assert len(self.told(code)) == times
        return self.told(code)[-1]


@asynccontextmanager
async def waiting(log: list[str], **arguments: Any) -> AsyncIterator[tuple[Job, asyncio.Task[Any]]]:
    """Submit a job by a task, and wait for it as the triggerer does; cancel it at the end."""
    given = {"task_id": "job", "command": "true", "poll_interval": 0.5, "deferrable": True}
    task = SlurmSubmitOperator(**given | arguments)

    def submit() -> Any:
        with pytest.raises(TaskDeferred) as caught:
            task.execute(build_context(task))
        return stored(caught.value.trigger)

    trigger = await asyncio.to_thread(submit)
    (job_id,) = trigger.job_ids
    event = asyncio.create_task(first_event(trigger))
    try:
        yield Job(job_id, log), event
    finally:
        admin("scancel", job_id)
        await asyncio.wait_for(event, 60)
        await trigger.cleanup()


def sentence(code: str, job_id: str) -> str:
    found = explain_reason(code)
    assert found.is_known
    return found.explain(job_id)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"partition": "down"}, "PartitionDown"),
        ({"hold": True}, "JobHeldUser"),
        ({"begin": "now+1hour"}, "BeginTime"),
    ],
)
def test_a_reason_is_told_once_with_its_sentence_and_is_in_the_result(
    options: dict[str, Any], code: str, task_log: list[str]
) -> None:
    async def play() -> Any:
        async with waiting(task_log, options=options) as (job, event):
            line = await job.tells(code)
            assert sentence(code, job.job_id) in line
            starts = [each for each in task_log if "Slurm expects" in each]
            assert len(starts) == (code == "BeginTime")
        return event.result()

    (result,) = asyncio.run(play())["results"]
    assert result["state"] == "CANCELLED"
    reasons = {each["reason"]: each["seconds"] for each in result["pending_reasons"]}
    assert reasons[code] >= ROUNDS_SECONDS - 1


def test_a_reason_is_told_again_when_it_comes_back(task_log: list[str]) -> None:
    async def play() -> Any:
        async with waiting(task_log, options={"hold": True, "begin": "now+1hour"}) as (job, _):
            await job.tells("JobHeldUser")
            admin("scontrol", "release", job.job_id)
            await job.tells("BeginTime")
            admin("scontrol", "hold", job.job_id)
            # Of root's hold a user cannot free himself.
            line = await job.tells("JobHeldAdmin")
            assert sentence("JobHeldAdmin", job.job_id) in line
            admin("scontrol", "release", job.job_id)
            await job.tells("BeginTime", times=2)

    asyncio.run(play())


def test_a_job_waits_for_another_one(task_log: list[str]) -> None:
    async def play() -> None:
        first = sbatch("--hold", "--wrap=true")
        try:
            async with waiting(task_log, options={"dependency": f"afterok:{first}"}) as (job, _):
                assert sentence("Dependency", job.job_id) in await job.tells("Dependency")
        finally:
            admin("scancel", first)

    asyncio.run(play())


def test_resources_that_are_in_use_are_told_with_the_estimated_start(task_log: list[str]) -> None:
    """The first that waits for it waits for resources, the next one for the first."""

    async def play(options: dict[str, Any]) -> None:
        wanted = [f"--{name}={value}" for name, value in options.items()]
        first = sbatch(*wanted, "--wrap=sleep 100")
        try:
            end = time.monotonic() + 60  # jobs of others may be there
            while admin("squeue", "-h", "-j", first, "-o", "%T") != "RUNNING":
                assert time.monotonic() < end, admin("squeue")
                await asyncio.sleep(0.2)
            async with (
                waiting(task_log, options=options) as (second, _),
                waiting(task_log, options=options) as (third, _),
            ):
                line = await second.tells("Resources")
                assert sentence("Resources", second.job_id) in line
                assert sentence("Priority", third.job_id) in await third.tells("Priority")
                end = time.monotonic() + 40
                while not (found := [line for line in task_log if "Slurm expects job" in line]):
                    assert time.monotonic() < end, list(task_log)
                    await asyncio.sleep(0.2)
                assert " UTC (in " in found[0]
        finally:
            admin("scancel", first)

    # Who else wants GPUs waits in a queue of their own.
    with partition("c3,c4") as name:
        asyncio.run(play({"partition": name, **GPUS}))


@pytest.mark.parametrize(
    ("account", "options", "code"),
    [
        (FEW, {"ntasks": 2}, "AssocGrpCpuLimit"),
        (FEW, {"ntasks": 2, "qos": QOS}, "QOSMaxCpuPerJobLimit"),
        (SPENT, {}, "AssocGrpCPUMinutesLimit"),
    ],
)
@pytest.mark.usefixtures("limits")
def test_a_limit_is_told_by_whose_it_is_and_on_what(
    slurm_connection: SlurmConnection,
    account: str,
    options: dict[str, Any],
    code: str,
    task_log: list[str],
) -> None:
    slurm_connection.set(user="bob", account=account)

    async def play() -> None:
        more = {"mem": 100, "time": 2, **options}
        async with waiting(task_log, options=more) as (job, _):
            assert sentence(code, job.job_id) in await job.tells(code)

    asyncio.run(play())


@pytest.mark.usefixtures("limits")
def test_a_job_waits_for_another_one_of_its_user(
    slurm_connection: SlurmConnection, task_log: list[str]
) -> None:
    slurm_connection.set(user="bob", account=ONE)
    more = {"mem": 100, "time": 2}

    async def play() -> None:
        async with waiting(task_log, command="sleep 60", options=more) as (first, _):
            while f"Job {first.job_id} is RUNNING" not in "".join(task_log):
                await asyncio.sleep(0.1)
            async with waiting(task_log, options=more) as (job, _):
                line = await job.tells("AssocMaxJobsLimit")
                assert sentence("AssocMaxJobsLimit", job.job_id) in line

    asyncio.run(play())


@contextmanager
def partition(nodes: str) -> Iterator[str]:
    """A partition that nobody else knows of."""
    name = f"csc_{uuid.uuid4().hex[:8]}"
    admin("scontrol", "create", f"PartitionName={name}", f"Nodes={nodes}", "MaxTime=60", "State=UP")
    try:
        yield name
    finally:
        admin("scontrol", "delete", f"PartitionName={name}")


@contextmanager
def reservation(**values: str) -> Iterator[str]:
    name = f"csc_{uuid.uuid4().hex[:8]}"
    words = [f"{key}={value}" for key, value in values.items()]
    admin("scontrol", "create", "reservation", f"ReservationName={name}", *words)
    try:
        yield name
    finally:
        subprocess.run(["scontrol", "delete", f"ReservationName={name}"], check=False)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"partition": "gpu"}, "ReqNodeNotAvail, Reserved for maintenance"),
        ({"nodelist": "c4"}, "ReqNodeNotAvail, May be reserved for other job"),
    ],
    ids=["any-node", "one-node"],
)
def test_a_maintenance_is_named_as_what_a_job_waits_for(
    options: dict[str, Any], code: str, task_log: list[str]
) -> None:
    nodes = {"Nodes": "c3,c4", "Users": "root", "Flags": "MAINT,IGNORE_JOBS"}

    async def play() -> None:
        with reservation(StartTime="now+2minutes", Duration="10", **nodes):
            async with waiting(task_log, options={"time": 60, **options}) as (job, _):
                line = await job.tells(code)
                assert sentence(code, job.job_id) in line
                assert "a maintenance" in line

    asyncio.run(play())


def test_a_reservation_that_has_not_begun_is_waited_for(task_log: list[str]) -> None:
    async def play() -> None:
        with reservation(StartTime="now+5hours", Duration="10", Nodes="c1", Users="alice") as name:
            async with waiting(task_log, options={"reservation": name, "time": 1}) as (job, _):
                assert sentence("Reservation", job.job_id) in await job.tells("Reservation")

    asyncio.run(play())


def test_what_cannot_start_as_it_stands_is_said_to(task_log: list[str]) -> None:
    """sbatch refuses such a request; a partition may be changed after that."""

    async def play(name: str) -> None:
        async with waiting(task_log, options={"partition": name, "time": 30, "hold": True}) as (
            job,
            _,
        ):
            admin("scontrol", "update", f"PartitionName={name}", "MaxTime=5")
            admin("scontrol", "release", job.job_id)
            line = await job.tells("PartitionTimeLimit")
            assert "It will not start as it stands." in line

    with partition("c1") as name:
        asyncio.run(play(name))


def test_of_an_array_each_reason_is_told_once(task_log: list[str]) -> None:
    options = {"array": "0-5%2", "time": 1, "mem": 50}
    task = SlurmSubmitOperator(
        task_id="array", command="sleep 2", options=options, poll_interval=0.5, deferrable=True
    )
    value = run_task(task)
    assert value["state"] == "COMPLETED"
    told = [line for line in task_log if " wait (" in line or " waits (" in line]
    codes = [line.partition("(")[2].partition(")")[0] for line in told]
    assert "JobArrayTaskLimit" in codes
    assert len(codes) < 6
    assert {"JobArrayTaskLimit"} <= {each["reason"] for each in value["pending_reasons"]}
