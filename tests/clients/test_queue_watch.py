"""Waiting for room in the queue: in turn, only as many as fit, with one question for all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from airflow_provider_csc.client import queue_watch
from airflow_provider_csc.client.poller import SitePoller, Source
from airflow_provider_csc.client.queue_watch import QueueWatch, ask_limits
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.errors import ConnectFailedError
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.queue_limits import QueueScope, build_queue_probe, read_tokens
from airflow_provider_csc.transport.base import Hop, SiteSettings, SshSettings
from tests.support.fake_site import FakeSite, LocalTransport

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.asyncio

SCOPE = QueueScope(account="project", code="AssocMaxSubmitJobLimit")


def settings_of(number: int) -> SiteSettings:
    return SiteSettings(ssh=SshSettings(target=Hop(host=f"host{number}", port=22, username="a")))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.005)


class FakeQueue:
    """The client of a site with a limit on jobs in the queue, and no more of a site than that."""

    def __init__(self) -> None:
        self.limit = 2
        self.jobs: set[str] = set()
        self.asked = 0
        self.closed = 0
        self.faults = 0

    async def ask(self, program: str) -> dict[str, Frame]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.faults:
            self.faults -= 1
            raise ConnectFailedError("nobody is let in")
        texts = {
            "cluster": "fake",
            "account": "project",
            "assoc": f"fake|project||{self.limit}|",
            "group": "",
            "qos": "",
            "mine": f"{len(self.jobs)} project|small|normal" if self.jobs else "",
            "all": "",
            "names": "\n".join(token for token in self.jobs if f"{token}" in program),
        }
        return {name: Frame(0, text.encode()) for name, text in texts.items()}

    async def close(self) -> None:
        self.closed += 1


class Watched:
    """A watch of it, and who was let go, in that order."""

    def __init__(self) -> None:
        self.queue = FakeQueue()
        client = cast("SlurmClient", self.queue)
        poller = SitePoller(client, floor=0.01)
        self.watch = QueueWatch(lambda: poller, settings_of(1), SCOPE)
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

    async def asked(self, more: int = 5) -> None:
        """Wait until the site was asked some times more."""
        seen = self.queue.asked
        await until(lambda: self.queue.asked >= seen + more)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(queue_watch, "_JITTER_SECONDS", 0)
    return Watched()


async def test_the_limit_and_what_is_queued_are_asked_of_the_site(fake: FakeSite) -> None:
    client = SlurmClient(LocalTransport(fake))

    async def submit(name: str) -> str:
        program = f"cd; printf '#!/bin/sh\\n' >job; ask job sbatch --hold --job-name={name} job"
        return (await client.ask(program))["job"].text

    with fake.fault("max_submit", "3"):
        await submit("one")
        fake.change(await submit("two"), state="COMPLETED")
        for account in ("project", ""):
            (limit,) = await ask_limits(client, QueueScope(account=account))
            assert (limit.words, limit.limit, limit.queued) == (
                "MaxSubmit of account project",
                3,
                1,
            )
        frames = await client.ask(build_queue_probe(SCOPE, ["one", "else"]))
    assert read_tokens(frames) == {"one"}


async def test_only_as_many_as_fit_are_let_go_and_in_the_order_they_came(
    watched: Watched,
) -> None:
    waits = watched.start(("third", 3), ("first", 1), ("second", 2), ("fourth", 4))
    await until(lambda: len(watched.gone) == 2)
    # They are expected; nobody else is let go, however often the site is asked.
    await watched.asked()
    assert sorted(watched.gone) == ["first", "second"]
    watched.queue.jobs = {"first", "second"}
    await watched.asked()
    assert len(watched.gone) == 2
    watched.queue.jobs = {"second"}
    await until(lambda: len(watched.gone) == 3)
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
    watched.queue.jobs = {"x"}
    large = asyncio.create_task(watched.wait("large", since=1, needed=2))
    (small,) = watched.start(("small", 2))
    await watched.asked()
    assert watched.gone == []
    watched.queue.jobs = set()
    await large
    assert watched.gone == ["large"]
    small.cancel()
    await asyncio.wait([small])


async def test_a_site_that_is_away_lets_nobody_go(watched: Watched) -> None:
    watched.queue.faults = 4
    (waiting,) = watched.start(("one", 1))
    await until(lambda: watched.watch.problem != "")
    assert not waiting.done()
    assert await waiting is None


async def test_a_connection_that_is_changed_is_taken_up(watched: Watched) -> None:
    async def read() -> SiteSettings:
        return settings_of(2)

    watched.queue.faults = 1
    assert await watched.wait("one", source=Source("one", read)) == settings_of(2)


async def test_many_who_wait_ask_as_often_as_one(watched: Watched) -> None:
    watched.queue.jobs = {"a", "b"}
    waits = watched.start(*((f"t{number}", number) for number in range(300)))
    await asyncio.sleep(0)
    before = watched.queue.asked
    await watched.asked(4)
    assert watched.queue.asked - before <= 5
    assert watched.gone == []
    for each in waits:
        each.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await asyncio.sleep(0)
    assert watched.queue.closed == 1
