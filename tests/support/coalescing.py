"""Many instances of one mapped task, submitted together on a fake site or on the real cluster."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.client.gatherer import Gatherer
from airflow_provider_csc.client.poller import SitePoller
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.slurm.coalescing import Member
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.plan import JobSpec, build_request, read_source
from tests.support.fake_site import FaultyTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.transport.base import Transport
    from tests.support.fake_site import FakeSite
    from tests.support.real_site import RealSite

STARTED = "2026-11-21T07:00:00+00:00"


@dataclass
class Mapped:
    """A mapped task on a site; its instances come to one gatherer."""

    site: FakeSite | RealSite
    transport: Transport
    scratch: Path
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    delays: Sequence[float] = (0.05, 0.1, 0.2)
    window: float = 0.2
    said: dict[int, list[str]] = field(default_factory=dict)
    submitted: set[str] = field(default_factory=set)
    since: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.client = SlurmClient(self.transport)
        self.gatherer = self.another_gatherer()

    def another_gatherer(self) -> Gatherer:
        """As another triggerer has it, or the same one after a restart."""
        # Its connection is closed with its last user.
        is_planned = isinstance(self.transport, FaultyTransport)
        transport = self.transport if is_planned else self.site.transport()
        poller = SitePoller(SlurmClient(transport), floor=0.05)
        return Gatherer(lambda: poller, delays=self.delays)

    @property
    def base_dir(self) -> Path:
        return self.scratch / "runs"

    def identity(self, index: int, try_number: int = 1, first_try: int = 1) -> TaskIdentity:
        return TaskIdentity(
            dag_id="coalesced",
            run_id=self.run_id,
            task_id="task",
            map_index=index,
            try_number=try_number,
            first_try=first_try,
            run_started=STARTED,
        )

    def member(
        self,
        index: int,
        command: str = 'echo "I am $ME"',
        *,
        try_number: int = 1,
        first_try: int = 1,
        hold: bool = False,
        is_fresh: bool | None = None,
        **spec: Any,
    ) -> Member:
        """One instance, planned as the operator does."""
        identity = self.identity(index, try_number, first_try)
        options = {"account": self.site.account} if self.site.account else {}
        options |= spec.pop("options", {}) | ({"hold": True} if hold else {})
        env = {"ME": str(index)} | spec.pop("env", {})
        wanted = JobSpec(command=command, options=options, env=env, **spec)
        request, label = build_request(
            wanted,
            identity,
            script=read_source(wanted, None),
            defaults={},
            base_dir=str(self.base_dir),
            is_shared=True,
        )
        return Member(
            request=request,
            identity=identity,
            label=label,
            since=self.since,
            is_fresh=try_number == 1 if is_fresh is None else is_fresh,
        )

    async def submit(self, member: Member, gatherer: Gatherer | None = None) -> Submission:
        said = self.said.setdefault(member.identity.map_index, [])
        done = await (gatherer or self.gatherer).submit(
            member, window=self.window, report=said.append
        )
        self.submitted.add(done.job_id.partition("_")[0])
        return done

    async def submit_all(
        self, members: Sequence[Member], gatherer: Gatherer | None = None
    ) -> list[Any]:
        """Submit as instances that come at the same time do; errors are returned."""
        return await asyncio.gather(
            *(self.submit(one, gatherer) for one in members), return_exceptions=True
        )

    def run_dir(self, index: int, try_number: int = 1) -> Path:
        return self.base_dir / self.identity(index, try_number).token

    async def rows(self) -> dict[str, str]:
        """Every job of this task that squeue shows, by id as it writes it: the state."""
        answer = await self.client.run("squeue --noheader --states=all --me --format='%i %T %j'")
        lines = [line.split(" ", 2) for line in answer.text.splitlines()]
        names = tuple(path.name for path in self.base_dir.iterdir())
        return {row[0]: row[1] for row in lines if row[2].endswith(names)}

    async def until(self, job_id: str, *states: str) -> None:
        async with asyncio.timeout(60):
            while True:
                found = (await self.client.query([job_id])).get(job_id)
                if found is not None and found.state in states:
                    return
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def mapped_on(
    site: FakeSite | RealSite, scratch: Path, transport: Transport
) -> AsyncIterator[Mapped]:
    mapped = Mapped(site, transport, scratch)
    try:
        yield mapped
    finally:
        rows = await mapped.rows() if mapped.base_dir.exists() else {}
        bases = mapped.submitted | {job_id.partition("_")[0] for job_id in rows}
        if bases:
            await mapped.client.cancel(sorted(bases))
        await mapped.client.close()


def with_run_of(member: Member, run_started: str) -> Member:
    """The same instance in another DAG run of the same id."""
    identity = replace(member.identity, run_started=run_started)
    request = replace(member.request, run_started=run_started, identity=identity.to_json())
    return replace(member, identity=identity, request=request)
