"""Hundreds who wait on the real cluster: one connection, and a question or two per interval."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.client.poller import poller_for
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.slurm.commands import PollRequest
from airflow_provider_csc.slurm.output import Answer
from airflow_provider_csc.slurm.tracking import Ended, Note, WatchSpec
from tests.cluster.test_slurm_trigger import connections_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from airflow_provider_csc.transport.base import SiteSettings

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

WAITING = 400
INTERVAL = 2.0
TOKEN = "af0123456789abcdef0123.1"


@pytest.fixture
def settings() -> SiteSettings:
    return SlurmHook().get_settings()


@pytest.fixture
def array() -> Iterator[str]:
    """A held array of ours: a job for each who waits, and one record for slurmctld."""
    hook = SlurmHook()
    name = f"scale.{TOKEN}"
    directories = f"~/scale-test/{{0..{WAITING - 1}}}/{TOKEN}"
    found = hook.run(
        f"mkdir -p {directories} && printf '#!/bin/sh\\nsleep 600\\n' >~/scale-test/job.sh && "
        f"sbatch --parsable --hold --job-name={name} --mem=10M --output=/dev/null "
        f"--array=0-{WAITING - 1} ~/scale-test/job.sh"
    )
    job_id = found.text
    assert job_id.isdecimal(), found
    try:
        yield job_id
    finally:
        hook.run(f"scancel {job_id}; rm -rf ~/scale-test")


class Figures:
    """What the poller tells of its own costs."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.gauges: dict[str, float] = {}

    def gauge(self, name: str, value: float, tags: Any) -> None:
        self.gauges[name] = value

    def incr(self, name: str, count: int, tags: Any) -> None:
        pass

    def timing(self, name: str, seconds: float, tags: Any) -> None:
        if name == "slurm.poller.detection_latency":
            self.latencies.append(seconds)


def test_hundreds_share_one_connection_and_one_question_per_interval(
    array: str, settings: SiteSettings, cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs: list[str] = []
    ask = SlurmClient.ask

    async def counted(self: SlurmClient, body: str, **options: Any) -> Any:
        programs.append(body)
        return await ask(self, body, **options)

    monkeypatch.setattr(SlurmClient, "ask", counted)
    home = cluster["users"]["alice"]["home"]
    figures = Figures()
    ended: list[Ended] = []
    heard: Counter[str] = Counter()

    async def wait(number: int) -> None:
        spec = WatchSpec(
            job_ids=(f"{array}_{number}",),
            run_dir=f"{home}/scale-test/{number}/{TOKEN}",
            stream_logs=False,
        )
        events = poller_for(settings, figures).watch(spec, interval=INTERVAL)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Note) and "is PENDING" in event.text:
                    heard["pending"] += 1
                if isinstance(event, Ended):
                    ended.append(event)

    async def story() -> None:
        everybody = [asyncio.ensure_future(wait(number)) for number in range(WAITING)]
        while heard["pending"] < WAITING:
            await asyncio.sleep(0.1)
        # What identifies each job is written down once; then nothing happens.
        await asyncio.sleep(2 * INTERVAL)
        before, began = len(programs), time.monotonic()
        await asyncio.sleep(5 * INTERVAL)
        asked, seconds = programs[before:], time.monotonic() - began
        assert len(asked) <= seconds / INTERVAL + 1
        # One call of squeue for the array, however many of its elements are waited for.
        assert all(program.count("ask squeue") == 1 for program in asked)
        assert all(f"--jobs={array}\n" in program for program in asked)
        assert not any("ask sacct" in program for program in asked)
        assert connections_of(os.getpid(), cluster["ssh_port"]) == 1
        assert figures.gauges["slurm.poller.jobs.queued"] == WAITING
        assert figures.gauges["slurm.poller.connections"] == 1

        before = len(programs)
        await poller_for(settings).client.cancel([array])
        await asyncio.wait_for(asyncio.gather(*everybody), 90)
        # All are asked about together: squeue, sacct, and what is written down of their ends.
        assert len(programs) - before <= 20

    asyncio.run(story())

    assert len(ended) == WAITING
    states = Counter(result.state for each in ended for result in each.results)
    assert states == {"CANCELLED": WAITING}
    assert {result.job_id for each in ended for result in each.results} == {
        f"{array}_{number}" for number in range(WAITING)
    }
    assert len(figures.latencies) == WAITING


def test_squeue_tells_of_our_own_jobs_what_it_tells_by_id(
    array: str, settings: SiteSettings
) -> None:
    """Also of elements, of ids that nobody knows, and of more ids than it is given."""
    unknown = tuple(str(number) for number in range(66_000_000, 66_000_003))
    asked = [
        PollRequest(owned=(f"{array}_4", f"{array}_7")),
        PollRequest(owned=(f"{array}_4",)),
        PollRequest(owned=(array, *unknown)),
        PollRequest(owned=(array, *(str(number) for number in range(60_000_000, 60_002_000)))),
        PollRequest(queued=(array, *unknown)),
        PollRequest(queued=unknown, owned=(f"{array}_4", "66000009")),
    ]
    nothing = [
        PollRequest(owned=unknown),
        PollRequest(owned=unknown[:1]),
        PollRequest(queued=unknown),
    ]

    async def ask(client: SlurmClient, request: PollRequest) -> Any:
        from airflow_provider_csc.slurm.answers import Answers

        return Answers(await client.poll(request), request)

    async def story() -> None:
        async with client_of(settings) as client:
            for request in asked:
                answers = await ask(client, request)
                (row,) = answers.queue_of(f"{array}_4").rows
                assert (row.state.name, row.name) == ("PENDING", f"scale.{TOKEN}"), request
                assert answers.queue_of("66000000") == Answer(())
            for request in nothing:
                answers = await ask(client, request)
                assert isinstance(answers.queue, Answer), request
                assert answers.queue_of("66000000") == Answer(())

    asyncio.run(story())


def test_thousands_of_ids_are_asked_for_in_one_command(settings: SiteSettings) -> None:
    """More than one argument may hold; nobody knows them, and that is an answer."""
    many = tuple(str(number) for number in range(50_000_000, 50_012_000))
    request = PollRequest(queued=many, accounted=many)

    async def story() -> None:
        from airflow_provider_csc.slurm.answers import Answers

        async with client_of(settings) as client:
            answers = Answers(await client.poll(request), request)
            assert isinstance(answers.queue, Answer)
            assert isinstance(answers.accounting, Answer)
            assert answers.queue_of(many[-1]) == answers.accounting_of(many[0]) == Answer(())

    asyncio.run(story())


@contextlib.asynccontextmanager
async def client_of(settings: SiteSettings) -> AsyncIterator[SlurmClient]:
    from airflow_provider_csc.hooks.slurm import open_client

    async with open_client(settings) as client:
        yield client
