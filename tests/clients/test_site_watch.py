"""Waiting for a site: when it ends, and what happens to a connection that is changed meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.client.poller import SitePoller, Source
from airflow_provider_csc.client.site_watch import SiteWatch
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.transport.base import Hop, SiteSettings, SshSettings
from tests.support import fake_site as faults
from tests.support.fake_site import FakeSite, FaultyTransport, LocalTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable

pytestmark = pytest.mark.asyncio

PROBE = "try_writing"


def settings_of(number: int) -> SiteSettings:
    hop = Hop(host=f"host{number}", port=22, username="alice")
    return SiteSettings(ssh=SshSettings(target=hop))


class Watched:
    """A watch of a fake site, whose connection can be made to fail."""

    def __init__(self, fake: FakeSite) -> None:
        self.local = LocalTransport(fake)
        self.faulty = FaultyTransport(self.local)
        self.poller = SitePoller(SlurmClient(self.faulty), floor=0.01)
        self.watch = SiteWatch(lambda: self.poller, settings_of(1))

    async def wait(
        self, source: Source | None = None, base_dir: str = "~/runs"
    ) -> SiteSettings | None:
        async with asyncio.timeout(10):
            return await self.watch.wait(base_dir, interval=0.01, source=source)


@pytest.fixture
def watched(fake: FakeSite) -> Watched:
    return Watched(fake)


async def test_a_site_that_answers_ends_the_wait_and_no_connection_is_read(
    watched: Watched,
) -> None:
    assert await watched.wait(Source("one", never)) is None


async def test_the_last_one_out_closes_the_connection(watched: Watched, fake: FakeSite) -> None:
    (fake.home / "full").mkdir(mode=0o555)
    stuck = asyncio.create_task(watched.wait(base_dir="~/full"))
    assert await watched.wait() is None
    assert watched.local.closed == 0
    stuck.cancel()
    await asyncio.wait([stuck])
    assert watched.local.closed == 1


async def test_a_connection_that_is_changed_while_nobody_answers_is_taken_up(
    watched: Watched,
) -> None:
    """The certificate may stand in it, so that a person renews it there."""
    reads: list[str] = []

    async def read() -> SiteSettings:
        reads.append("")
        return settings_of(1 if len(reads) < 3 else 2)

    for _ in range(5):
        watched.faulty.plan(PROBE, faults.refuse)
    sources = (Source("one", read), Source("one", read))
    found = await asyncio.gather(*(watched.wait(source) for source in sources))
    assert found == [settings_of(2), settings_of(2)]
    assert len(reads) == 3  # once for both, once for each attempt


async def test_a_connection_that_cannot_be_read_is_waited_with(watched: Watched) -> None:
    for _ in range(2):
        watched.faulty.plan(PROBE, faults.refuse)
    assert await watched.wait(Source("one", fails)) is None


async def test_one_who_waits_for_long_keeps_nobody_else_waiting(
    watched: Watched, fake: FakeSite
) -> None:
    """A directory stays full; with each round the pause of a site that is away would double."""
    full = fake.home / "full"
    full.mkdir(mode=0o555)
    async with asyncio.TaskGroup() as group:
        stuck = group.create_task(watched.watch.wait("~/full", interval=0.01))
        for _ in range(14):
            assert await watched.wait() is None
        assert not stuck.done()
        fake.give(full)
        full.chmod(0o755)
        async with asyncio.timeout(10):
            assert await stuck is None


async def test_a_site_that_was_away_for_long_is_asked_often_again(
    watched: Watched, fake: FakeSite
) -> None:
    full = fake.home / "full"
    full.mkdir(mode=0o555)
    for _ in range(9):
        watched.faulty.plan(PROBE, faults.refuse)
    async with asyncio.TaskGroup() as group:
        stuck = group.create_task(watched.watch.wait("~/full", interval=0.01))
        for _ in range(4):
            assert await watched.wait() is None
        stuck.cancel()


def never() -> Awaitable[SiteSettings]:
    raise AssertionError("nobody had to read it")


async def fails() -> SiteSettings:
    raise RuntimeError("the secrets backend is away")
