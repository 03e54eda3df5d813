"""A real sshd, certificates that expire, and tasks that wait until they are renewed."""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_csc.client import pauses
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from tests.chaos.proxy import Proxy
from tests.cluster.test_outages import Certificate, Way, seen
from tests.support.task import build_context, first_event, resume, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

WATCHED, LATE = 15, 5
LONG, SHORT, SOON = 45, 20, 8


@pytest.fixture
def certificate(cluster: dict[str, Any]) -> Iterator[Certificate]:
    with tempfile.TemporaryDirectory() as place:
        yield Certificate(cluster, Path(place))


@pytest.fixture(autouse=True)
def _tried_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a site that is away every few seconds; that pauses grow is tested elsewhere."""
    monkeypatch.setattr(pauses, "_MAX_BACKOFF_SECONDS", 3.0)


class Gate:
    """What jobs wait for, so that none ends before it is opened."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory()
        Path(self._place.name).chmod(0o755)
        self._file = Path(self._place.name) / "open"
        self.command = f"until [ -e {self._file} ]; do sleep 0.5; done; echo ran"

    def open(self) -> None:
        self._file.touch()

    def close(self) -> None:
        self._file.touch()
        self._place.cleanup()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()


def operator(task_id: str, command: str, **arguments: Any) -> SlurmSubmitOperator:
    given = {"options": {"mem": 20, "time": 5}, "poll_interval": 0.5, "deferrable": True}
    return SlurmSubmitOperator(task_id=task_id, command=command, **given | arguments)


class Task:
    """One task that is executed, deferred and resumed as Airflow does."""

    def __init__(self, number: int, command: str) -> None:
        self.operator = operator(f"t{number}", command)
        self.context = build_context(self.operator)
        self.deferral: TaskDeferred
        self.trigger: Any

    def begin(self) -> Task:
        with pytest.raises(TaskDeferred) as caught:
            self.operator.execute(self.context)
        self.deferral = caught.value
        self.trigger = stored(self.deferral.trigger)
        return self

    async def finish(self) -> Any:
        """Wait by the trigger; then go on in a worker, and wait there again where it must."""
        event = json.loads(json.dumps(await first_event(self.trigger)))
        method = getattr(self.operator, self.deferral.method_name)
        step = functools.partial(method, self.context, event=event, **self.deferral.kwargs or {})
        return await asyncio.to_thread(resume, self.operator, self.context, step)


def count_jobs(names: list[str]) -> Counter[str]:
    """How many jobs of each name Slurm's accounting has."""
    words = ["sacct", "-a", "-X", "-n", "-P", "--format=JobName", "--starttime=now-15minutes"]
    done = subprocess.run(
        [*words, f"--name={','.join(names)}"], capture_output=True, text=True, check=True
    )
    return Counter(done.stdout.split())


@asynccontextmanager
async def way_of(
    cluster: dict[str, Any], connection: SlurmConnection, certificate: Certificate
) -> AsyncIterator[Proxy]:
    """The connection leads through a proxy, and logs in by a certificate only."""
    async with Proxy(target=cluster["ssh_port"]) as proxy:
        Way(cluster, connection, proxy).set(key_file=str(certificate.key))
        yield proxy


def test_twenty_tasks_outlive_their_certificate(
    cluster: dict[str, Any],
    slurm_connection: SlurmConnection,
    certificate: Certificate,
    gate: Gate,
    task_log: list[str],
) -> None:
    """Fifteen have a job already, five cannot submit theirs; all park and finish, none twice."""
    tasks = [Task(number, gate.command) for number in range(WATCHED + LATE)]
    watched, late = tasks[:WATCHED], tasks[WATCHED:]

    async def play() -> list[Any]:
        async with way_of(cluster, slurm_connection, certificate) as proxy:
            certificate.sign(f"+{LONG}s")
            expired = time.monotonic() + LONG + 1
            with ThreadPoolExecutor(5) as pool:
                loop = asyncio.get_running_loop()
                begun = (loop.run_in_executor(pool, task.begin) for task in watched)
                await asyncio.gather(*begun)
            assert all(isinstance(task.trigger, SlurmJobTrigger) for task in watched)
            ends = [asyncio.create_task(task.finish()) for task in watched]
            while sum("certificate is valid until" in line for line in task_log) < WATCHED:
                await asyncio.sleep(0.2)
            await asyncio.sleep(max(expired - time.monotonic(), 0))
            # sshd asks for it at log-in only.
            proxy.cut_all()
            for task in late:
                await asyncio.to_thread(task.begin)
            assert all(isinstance(task.trigger, SlurmSiteTrigger) for task in late)
            ends += [asyncio.create_task(task.finish()) for task in late]
            while sum("EXPIRED on" in line for line in task_log) < WATCHED + LATE:
                assert not any(end.done() for end in ends)
                await asyncio.sleep(0.2)
            told = [line for line in task_log if "certificate is valid until" in line]
            assert len(told) == WATCHED
            certificate.sign("+1d")
            gate.open()
            return await asyncio.wait_for(asyncio.gather(*ends), 90)

    results = asyncio.run(play())
    assert [result["state"] for result in results] == ["COMPLETED"] * len(tasks)
    assert len({result["job_id"] for result in results}) == len(tasks)
    assert count_jobs([result["name"] for result in results]) == Counter(
        {result["name"]: 1 for result in results}
    )
    assert {task.context["ti"].try_number for task in tasks} == {1}
    assert list(task_log).count("ran") == len(tasks)


def test_a_worker_that_waits_itself_outlives_its_certificate(
    cluster: dict[str, Any],
    slurm_connection: SlurmConnection,
    certificate: Certificate,
    gate: Gate,
    task_log: list[str],
) -> None:
    task = operator("sync", gate.command, deferrable=False)
    context = build_context(task)

    async def play() -> Any:
        async with way_of(cluster, slurm_connection, certificate) as proxy:
            # Before it has a job, and again when it has.
            certificate.sign("-1s")
            work = asyncio.create_task(asyncio.to_thread(task.execute, context))
            await seen(task_log, "Waiting since")
            certificate.sign(f"+{SHORT}s")
            expired = time.monotonic() + SHORT + 1
            await seen(task_log, "is RUNNING")
            await asyncio.sleep(max(expired - time.monotonic(), 0))
            proxy.cut_all()
            line = await seen(task_log, "o answer from the site")
            while "EXPIRED on" not in line:
                line = await seen(task_log, "Still no answer from the site")
            certificate.sign("+1d")
            gate.open()
            return await asyncio.wait_for(work, 60)

    result = asyncio.run(play())
    assert result["state"] == "COMPLETED"
    assert count_jobs([result["name"]]) == {result["name"]: 1}
    # Where the job was late to start, a connection of before was told of, too.
    expired = [line for line in task_log if "EXPIRED on" in line and "is still used" not in line]
    assert len(expired) == 2
    assert list(task_log).count("ran") == 1


@pytest.mark.parametrize(
    ("signed", "said"),
    [
        ({"end": "+1d", "start": f"+{SOON}s"}, "is not valid before 20"),
        ({"end": "+1d", "name": "bob"}, "UTC for bob"),
    ],
    ids=["not-yet-valid", "another-principal"],
)
def test_a_certificate_that_does_not_let_us_in_is_waited_for(
    cluster: dict[str, Any],
    slurm_connection: SlurmConnection,
    certificate: Certificate,
    task_log: list[str],
    signed: dict[str, str],
    said: str,
) -> None:
    """One that is not valid yet becomes so by itself; one for another user is replaced."""

    async def play() -> Any:
        async with way_of(cluster, slurm_connection, certificate):
            certificate.sign(**signed)
            task = await asyncio.to_thread(Task(0, "echo ran").begin)
            assert isinstance(task.trigger, SlurmSiteTrigger)
            end = asyncio.create_task(task.finish())
            assert said in await seen(task_log, "Waiting since")
            if "name" in signed:
                certificate.sign("+1d")
            return await asyncio.wait_for(end, 60)

    result = asyncio.run(play())
    assert result["state"] == "COMPLETED"
    assert count_jobs([result["name"]]) == {result["name"]: 1}


def test_the_test_of_a_connection_says_until_when_the_certificate_is_valid(
    slurm_connection: SlurmConnection, certificate: Certificate
) -> None:
    slurm_connection.set(key_file=str(certificate.key))
    certificate.sign("+1d")
    passed, said = SlurmHook().test_connection()
    assert passed
    assert "Its certificate is valid until 20" in said
    assert "WARNING" not in said
    certificate.sign("+59m")
    passed, said = SlurmHook().test_connection()
    assert passed
    assert "WARNING: that is in 58 min" in said
    assert f"and put it at {certificate.key}-cert.pub." in said
    certificate.sign("-1s")
    passed, said = SlurmHook().test_connection()
    assert not passed
    assert "Its certificate EXPIRED on 20" in said
    slurm_connection.set()
    passed, said = SlurmHook().test_connection()
    assert passed
    assert "certificate" not in said
