"""Waiting for room in the queue: in turn, only as many as fit, with one question for all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.client import queue_watch
from airflow_provider_csc.client.poller import SitePoller, Source
from airflow_provider_csc.client.queue_watch import QueueWatch, ask_limits
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.slurm.queue_limits import QueueScope
from airflow_provider_csc.transport.base import Hop, SiteSettings, SshSettings
from tests.support import fake_site as faults
from tests.support.fake_site import FakeSite, FaultyTransport, LocalTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.asyncio

SCOPE = QueueScope(account="project", code="AssocMaxSubmitJobLimit")


def settings_of(number: int) -> SiteSettings:
    return SiteSettings(ssh=SshSettings(target=Hop(host=f"host{number}", port=22, username="a")))


class Watched:
    def __init__(self, fake: FakeSite) -> None:
        self.fake = fake
        self.local = LocalTransport(fake)
        self.faulty = FaultyTransport(self.local)
        self.client = SlurmClient(self.faulty)
        self.poller = SitePoller(self.client, floor=0.01)
        self.watch = QueueWatch(lambda: self.poller, settings_of(1), SCOPE)
        self.gone: list[str] = []

    async def wait(
        self, token: str, *, since: float = 0, needed: int = 1, source: Source | None = None
    ) -> SiteSettings | None:
        async with asyncio.timeout(20):
            found = await self.watch.wait(
                since=since, needed=needed, token=token, interval=0.01, source=source
            )
        self.gone.append(token)
        return found

    def start(self, *waits: tuple[str, float]) -> list[asyncio.Task[SiteSettings | None]]:
        return [asyncio.create_task(self.wait(token, since=since)) for token, since in waits]

    async def submit(self, name: str) -> str:
        """Put a job into the queue, which stays there."""
        program = f"cd; printf '#!/bin/sh\\n' >job; ask job sbatch --hold --job-name={name} job"
        return (await self.client.ask(program))["job"].text

    async def asked(self, more: int = 3) -> None:
        """Wait until the site was asked some times more."""
        seen = len(self.local.programs)
        while len(self.local.programs) < seen + more:
            await asyncio.sleep(0.01)


@pytest.fixture
def watched(fake: FakeSite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(queue_watch, "_JITTER_SECONDS", 0)
    with fake.fault("max_submit", "2"):
        yield Watched(fake)


async def test_the_limit_and_what_is_queued_are_asked_of_the_site(watched: Watched) -> None:
    await watched.submit("one")
    (limit,) = await ask_limits(watched.client, SCOPE)
    assert (limit.words, limit.limit, limit.queued) == ("MaxSubmit of account project", 2, 1)
    ended = await watched.submit("two")
    watched.fake.change(ended, state="COMPLETED")
    (limit,) = await ask_limits(watched.client, QueueScope(code=SCOPE.code))
    assert (limit.limit, limit.queued) == (2, 1)


async def test_only_as_many_as_fit_are_let_go_and_in_the_order_they_came(
    watched: Watched,
) -> None:
    waits = watched.start(("third", 3), ("first", 1), ("second", 2), ("fourth", 4))
    while len(watched.gone) < 2:
        await asyncio.sleep(0.01)
    # They are expected; nobody else is let go, however often the site is asked.
    await watched.asked()
    assert sorted(watched.gone) == ["first", "second"]
    job = await watched.submit("x.first")
    await watched.submit("x.second")
    await watched.asked()
    assert len(watched.gone) == 2
    watched.fake.change(job, state="COMPLETED")
    while len(watched.gone) < 3:
        await asyncio.sleep(0.01)
    await watched.asked()
    assert watched.gone[2:] == ["third"]
    assert watched.watch.place_of("fourth") == 0
    waits[-1].cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def test_who_was_let_go_and_never_came_is_not_waited_for(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_watch, "_COMING_SECONDS", 0.2)
    await asyncio.gather(*watched.start(*((f"t{number}", number) for number in range(5))))
    assert watched.gone[:2] == ["t0", "t1"]


async def test_a_large_one_is_not_overtaken(watched: Watched) -> None:
    job = await watched.submit("x")
    large = asyncio.create_task(watched.wait("large", since=1, needed=2))
    (small,) = watched.start(("small", 2))
    await watched.asked()
    assert watched.gone == []
    watched.fake.change(job, state="COMPLETED")
    await large
    assert watched.gone == ["large"]
    small.cancel()
    await asyncio.wait([small])


async def test_a_site_that_is_away_lets_nobody_go(watched: Watched) -> None:
    for _ in range(4):
        watched.faulty.plan("sacctmgr", faults.refuse)
    (waiting,) = watched.start(("one", 1))
    while watched.watch.problem == "":
        await asyncio.sleep(0.005)
    assert not waiting.done()
    assert await waiting is None


async def test_a_connection_that_is_changed_is_taken_up(watched: Watched) -> None:
    async def read() -> SiteSettings:
        return settings_of(2)

    watched.faulty.plan("sacctmgr", faults.refuse)
    assert await watched.wait("one", source=Source("one", read)) == settings_of(2)


async def test_many_who_wait_ask_as_often_as_one(watched: Watched) -> None:
    for name in ("a", "b"):
        await watched.submit(name)
    waits = watched.start(*((f"t{number}", number) for number in range(300)))
    await watched.asked(4)
    assert watched.local.peak == 1
    assert watched.gone == []
    for each in waits:
        each.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await asyncio.sleep(0)
    assert watched.local.closed == 1
