"""One scenario on its stage: the processes, the way to the cluster, the tasks, and the reckoning."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.chaos.ledger import (
    BEAT_SECONDS,
    KILL_SECONDS,
    Rules,
    Story,
    Verdict,
    build_job,
    judge,
    parse_ledger,
)
from tests.chaos.processes import Forks, Triggerers
from tests.chaos.report import Row
from tests.chaos.scheduler import Plan, Progress, Scheduler

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

    from tests.chaos.cluster import Cluster
    from tests.chaos.faults import Names
    from tests.chaos.proxy import Proxy

_CONN_ID = "chaos"
DOOMED_NODE = "c1"  # only those run there whose node is to be killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run was asked for."""

    seed: int
    scale: float
    short: bool
    kind: str = "slurm"
    source: Path

    def count(self, full: int, short: int) -> int:
        """How many tasks a scenario has."""
        return max(round((short if self.short else full) * self.scale), 2)

    def seconds(self, full: float, short: float) -> float:
        """How long an outage lasts."""
        return short if self.short else full


@dataclass(kw_only=True)
class Stage:
    """Everything a scenario needs; made anew for each."""

    name: str
    options: Options
    cluster: Cluster
    forks: Forks
    names: Names
    rng: random.Random
    proxy: Proxy
    directory: Path
    rules: Rules = field(default_factory=Rules)
    faults: int = 0
    connection: dict[str, Any] = field(default_factory=dict)
    work_dir: str = ""
    time_limit: float = 600
    began: float = field(default_factory=time.time)
    stories: list[Story] = field(default_factory=list)
    reaped: set[str] = field(default_factory=set)  # see `Story`
    notes: list[str] = field(default_factory=list)  # what the figures do not say
    _triggerers: Triggerers | None = None
    _scheduler: Scheduler | None = None
    _running: list[tuple[Plan, Progress]] = field(default_factory=list)

    @property
    def triggerers(self) -> Triggerers:
        assert self._triggerers is not None
        return self._triggerers

    @property
    def prefix(self) -> str:
        """What the names of this scenario's tasks and jobs begin with."""
        return f"{self.name}-{self.options.seed}-"

    def direct(self) -> None:
        """Go to sshd without the proxy."""
        self.connection["port"] = self.cluster.facts["ssh_port"]

    def environment(self) -> dict[str, str]:
        """What the forked processes find in their environment: the connection, above all."""
        user, facts = self.cluster.user, self.cluster.facts
        extra = {
            "key_file": user["private_key"],
            "host_key": facts["ssh_host_key"],
            "account": user["account"],
            "work_dir": self.work_dir or str(self.cluster.shared("runs")),
            "poll_interval_floor": 0.5,
            "connect_timeout": 10,
        }
        fields = {"conn_type": "slurm", "host": "127.0.0.1", "login": "alice"}
        for name, value in {"port": self.proxy.port, **self.connection}.items():
            (fields if name in ("host", "port") else extra)[name] = value
        return {
            f"AIRFLOW_CONN_{_CONN_ID.upper()}": json.dumps({**fields, "extra": extra}),
            # New each time: a second run with the same seed must not find the first one's jobs.
            "AIRFLOW__CSC__DEPLOYMENT": f"chaos {self.options.seed} {self.began}",
        }

    def plan(self, number: int, **changes: Any) -> Plan:
        """A task whose job lasts 0 to 3 seconds and succeeds, but for what is changed."""
        name = f"{self.prefix}{number:04}"
        seconds = changes.pop("seconds", None)
        if seconds is None:
            seconds = self.rng.choice((0, 0, 0.5, 1, 2, 3))
        command = build_job(
            str(self.directory / name),
            beats=round(seconds / BEAT_SECONDS),
            fails=changes.pop("fails", 0),
        )
        operator = {
            "command": command,
            "job_name": name,
            "options": {"mem": "50M", "time": "00:10:00"}
            | changes.pop("sbatch", {"exclude": DOOMED_NODE}),
            "slurm_conn_id": _CONN_ID,
            "deferrable": True,
            "poll_interval": 1,
            **changes.pop("operator", {}),
        }
        return Plan(name=name, operator=operator, kind=self.options.kind, **changes)

    async def open(self) -> None:
        """Start a triggerer, with the connection as it is now."""
        if self._triggerers is None:
            self._triggerers = await Triggerers(
                self.name, self.forks, self.environment
            ).__aenter__()
            self._scheduler = Scheduler(self.forks, self._triggerers, self.environment)

    async def close(self) -> None:
        """End what `open` started."""
        if self._triggerers is not None:
            await self._triggerers.__aexit__()

    async def run(self, plans: Sequence[Plan], *, spread: float = 0) -> None:
        """Run tasks to their ends, begun over ``spread`` seconds, within the time limit."""
        await self.open()
        tasks = [
            asyncio.create_task(self._run(plan, self.rng.uniform(0, spread))) for plan in plans
        ]
        _done, late = await asyncio.wait(tasks, timeout=self.time_limit)
        for task in late:
            task.cancel()
        for task in (await asyncio.wait(tasks))[0]:
            if not task.cancelled():
                task.result()

    def add(self, plan: Plan, progress: Progress) -> None:
        """Have a task judged that somebody else ran."""
        self._running.append((plan, progress))

    async def _run(self, plan: Plan, delay: float) -> None:
        progress = Progress()
        self._running.append((plan, progress))
        await asyncio.sleep(delay)
        assert self._scheduler is not None
        await self._scheduler.run(plan, progress)

    async def under_way(self, *, after: tuple[float, float]) -> None:
        """Wait until the first worker has begun, and a random time more."""
        while self._scheduler is None:
            await asyncio.sleep(0.05)
        await self._scheduler.is_under_way.wait()
        await asyncio.sleep(self.rng.uniform(*after))

    @property
    def unfinished(self) -> int:
        """How many of the tasks that were begun have not ended."""
        return sum(progress.final is None for _, progress in self._running)

    async def reckon(self, seconds: float) -> Row:
        """Wait for the time of grace, ask the books, and judge every task."""
        live = await self._after_grace()
        accepted = await self._settled_books(self.began)
        verdict = Verdict()
        for plan, progress in self._running:
            story = self._story(plan, progress, live, accepted)
            self.stories.append(story)
            self.faults += progress.faults
            verdict.extend(judge(story, self.rules))
        for job_id in live:
            await self.cluster.ask("scancel", "--signal=KILL", job_id)
        ran = {job.job_id for story in self.stories for job in story.jobs}
        return Row(
            scenario=self.name,
            submissions=len(ran | set(accepted)),
            faults=self.faults,
            tasks=len(self.stories),
            seconds=seconds,
            findings=verdict.all,
            notes=self.notes,
        )

    async def _after_grace(self) -> dict[str, str]:
        end = time.monotonic() + KILL_SECONDS
        while (live := await self.cluster.live_jobs(self.prefix)) and time.monotonic() < end:
            await asyncio.sleep(1)
        return live

    async def _settled_books(self, began: float) -> dict[str, str]:
        """Ask sacct until it says the same twice: slurmctld tells slurmdbd with some delay."""
        before: dict[str, str] | None = None
        for _ in range(10):
            books = await self.cluster.accepted_jobs(self.prefix, began)
            if books == before:
                break
            before = books
            await asyncio.sleep(1)
        return before or {}

    def _story(
        self, plan: Plan, progress: Progress, live: dict[str, str], accepted: dict[str, str]
    ) -> Story:
        ledger = self.directory / plan.name

        def mine(jobs: dict[str, str]) -> frozenset[str]:
            return frozenset(
                job_id
                for job_id, name in jobs.items()
                if name == plan.name or name.startswith(f"{plan.name}.")
            )

        return Story(
            name=plan.name,
            attempts=tuple(progress.attempts),
            final=progress.final,
            clears=tuple(progress.clears),
            kills=tuple(progress.kills),
            jobs=tuple(parse_ledger(ledger.read_text()) if ledger.exists() else ()),
            accepted=mine(accepted),
            live=mine(live),
            reaped=frozenset(self.reaped),
            expects=plan.expects,
        )
