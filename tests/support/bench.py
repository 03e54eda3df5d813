"""One task that is submitted over and over, on a fake site or on the real cluster."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.client.submitter import Submitter
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.plan import JobSpec, build_request, read_source
from tests.support.fake_site import FakeSite, FaultyTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.transport.base import Transport
    from tests.support.real_site import RealSite

LIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


@dataclass
class Bench:
    """A client of a site, a directory of its own there, and one task that is submitted."""

    site: FakeSite | RealSite
    client: SlurmClient
    scratch: Path
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    said: list[str] = field(default_factory=list)
    job_ids: set[str] = field(default_factory=set)
    delays: Sequence[float] = (0.05, 0.1, 0.2)

    @property
    def base_dir(self) -> Path:
        return self.scratch / "runs"

    def identity(self, try_number: int = 1, first_try: int = 1) -> TaskIdentity:
        return TaskIdentity(
            dag_id="contract",
            run_id=self.run_id,
            task_id="task",
            map_index=-1,
            try_number=try_number,
            first_try=first_try,
        )

    async def submit(
        self,
        command: str = "true",
        *,
        try_number: int = 1,
        first_try: int = 1,
        base_dir: Path | str | None = None,
        client: SlurmClient | None = None,
        hold: bool = False,
        since: int | None = None,
        run_started: str = "",
        is_fresh: bool = False,
        resubmission: int = 0,
        **spec: Any,
    ) -> Submission:
        """Submit as the operator does; ``hold`` keeps the job alive without running it."""
        identity = replace(
            self.identity(try_number, first_try),
            resubmission=resubmission,
            run_started=run_started,
        )
        options = spec.pop("options", {}) | ({"hold": True} if hold else {})
        wanted = JobSpec(command=command, options=options, **spec)
        request, label = build_request(
            wanted,
            identity,
            script=read_source(wanted, None),
            defaults={"account": self.site.account},
            base_dir=str(base_dir or self.base_dir),
        )
        submission = await Submitter(
            client=client or self.client,
            request=request,
            identity=identity,
            label=label,
            since=since or int(time.time()),
            report=self.said.append,
            is_fresh=is_fresh,
            delays=self.delays,
        ).submit()
        self.job_ids.add(submission.job_id)
        return submission

    async def state(self, job_id: str) -> str:
        found = await self.client.query([job_id])
        return found[job_id].state if found else "(unknown)"

    async def until(self, job_id: str, *states: str) -> None:
        async with asyncio.timeout(30):
            while (state := await self.state(job_id)) not in states:
                assert state in (*LIVE, "(unknown)"), state
                await asyncio.sleep(0.1)

    async def jobs_of_this_task(self) -> set[str]:
        """All jobs of this task, whatever became of them."""
        answer = await self.client.run(f"squeue --noheader --states=all --me --format='%i {'%j'}'")
        key = self.identity().key
        rows = [line.split(" ", 1) for line in answer.text.splitlines()]
        return {job_id for job_id, name in rows if key in name}


@contextlib.contextmanager
def directory_of(site: FakeSite | RealSite) -> Iterator[Path]:
    scratch = site.home / f"contract-{secrets.token_hex(4)}"
    scratch.mkdir(mode=0o755)
    site.give(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.asynccontextmanager
async def bench_of(
    site: FakeSite | RealSite, scratch: Path, transport: Transport
) -> AsyncIterator[Bench]:
    client = SlurmClient(transport)
    bench = Bench(site, client, scratch)
    try:
        yield bench
    finally:
        if bench.job_ids:
            await client.cancel(sorted(bench.job_ids))
        await client.close()


@dataclass
class FaultyBench(Bench):
    """A bench whose connection fails as planned."""

    faulty: FaultyTransport = field(default_factory=lambda: FaultyTransport(None))

    def jobs(self) -> list[str]:
        assert isinstance(self.site, FakeSite)
        return list(self.site.jobs)
