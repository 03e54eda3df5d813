"""
The scenarios: each breaks something at random instants while tasks run.

A fault counts only when it did something: the process was alive, bytes were cut, a daemon was down
while somebody needed it.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos import faults
from tests.chaos.ledger import Rules
from tests.chaos.proxy import Mode
from tests.chaos.real_airflow import airflow_broken, airflow_users_kill
from tests.chaos.shim import Lie, Shim
from tests.chaos.stage import DOOMED_NODE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from typing import Any

    from tests.chaos.stage import Stage


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do something beside the tasks; what it raises is raised here."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def worker_killed(stage: Stage) -> None:
    """SIGKILL for the worker, at any instant of submitting or of taking up the result."""

    def instant(step: int) -> float | None:
        return stage.rng.uniform(0, 1.5) if step <= stage.rng.choice((1, 2, 3)) else None

    count = stage.options.count(250, 20)
    await stage.run([stage.plan(n, kill_worker_after=instant, retries=6) for n in range(count)])


async def connection_cut(stage: Stage) -> None:
    """The connection is reset after any number of bytes, the worker's or the triggerer's."""

    def after() -> int | None:
        return int(10 ** stage.rng.uniform(0, 4.3)) if stage.rng.random() < 0.5 else None

    stage.proxy.cut_after = after
    await stage.run([stage.plan(n) for n in range(stage.options.count(150, 12))])
    stage.faults += stage.proxy.cuts


async def sbatch_lies(stage: Stage) -> None:
    """Sbatch gives no verdict: the job was accepted, or not, or is accepted a little later."""
    await _lies(
        stage,
        stage.options.count(120, 12),
        (Lie.ACCEPTED, Lie.ACCEPTED, Lie.SILENT, Lie.DROPPED, Lie.LATE, Lie.NOT_ACCEPTED),
    )


async def controller_restarted(stage: Stage) -> None:
    """The controller is restarted between accepting a job and answering."""
    shim = Shim(stage.cluster.shared(f"shim-{stage.name}"))

    async def restart() -> None:
        while True:
            if shim.restart_wanted.exists():
                await stage.cluster.control("stop", "slurmctld")
                await stage.cluster.control("start", "slurmctld")
                shim.restart_wanted.unlink(missing_ok=True)
            await asyncio.sleep(0.1)

    async with meanwhile(restart()):
        await _lies(stage, stage.options.count(12, 3), (Lie.RESTARTED,))


async def _lies(stage: Stage, count: int, kinds: tuple[Lie, ...]) -> None:
    shim = Shim(stage.cluster.shared(f"shim-{stage.name}"))
    stage.connection["login_setup"] = shim.login_setup
    plans = [stage.plan(n) for n in range(count)]
    for plan in plans:
        lies = [stage.rng.choice(kinds)]
        if stage.rng.random() < 0.2:
            lies.append(stage.rng.choice(kinds))
        shim.plan(plan.name, lies)
    told = shim.told
    await stage.run(plans)
    stage.faults += shim.told - told


async def twin_workers(stage: Stage) -> None:
    """Two workers execute the same try at once."""
    plans = [
        stage.plan(
            n,
            twin_delay=stage.rng.choice((0, stage.rng.uniform(0, 1))),
            twin_counts=stage.rng.random() < 0.5,
        )
        for n in range(stage.options.count(80, 6))
    ]
    await stage.run(plans)


async def triggerer_killed(stage: Stage) -> None:
    """Triggerers are killed, restarted and doubled while they wait for jobs."""

    async def kill() -> None:
        while True:
            await asyncio.sleep(stage.rng.uniform(0.3, 2))
            victim = stage.rng.choice(stage.triggerers.names)
            what = stage.rng.choice(("kill", "kill", "stop", "double"))
            if what == "double":
                await stage.triggerers.start()
                stage.faults += stage.triggerers.double() > 0
            else:
                how = signal.SIGKILL if what == "kill" else signal.SIGTERM
                stage.faults += stage.triggerers.kill(victim, how)
                await stage.triggerers.start()

    await stage.open()
    async with meanwhile(kill()):
        await stage.run(
            [stage.plan(n) for n in range(stage.options.count(120, 12))],
            spread=stage.options.seconds(60, 5),
        )


async def retried_and_cleared(stage: Stage) -> None:
    """Jobs that fail are retried; tasks are cleared while they run, and after they succeeded."""
    plans = []
    for n in range(stage.options.count(60, 8)):
        if n % 2:
            plans.append(stage.plan(n, fails=stage.rng.choice((1, 2))))
        else:
            after = tuple(stage.rng.uniform(0.2, 8) for _ in range(stage.rng.choice((1, 2))))
            plans.append(stage.plan(n, clear_after=after))
    await stage.run(plans)
    stage.faults += sum(1 for plan in plans if not plan.clear_after)


async def killed_by_users(stage: Stage) -> None:
    """A user marks the task failed, at any instant; nothing of it may live 30 s later."""
    plans = [
        stage.plan(n, seconds=120, user_kill_after=stage.rng.uniform(0.05, 6), expects="killed")
        for n in range(stage.options.count(80, 10))
    ]
    await stage.run(plans, spread=stage.options.seconds(20, 4))


def outage(
    *services: str, full: float = 20, short: float = 5, tasks: int = 16
) -> Callable[[Stage], Awaitable[None]]:
    """Return a scenario: services are stopped while tasks submit, wait and finish."""

    async def scenario(stage: Stage) -> None:
        async def stop() -> None:
            await stage.under_way(after=(0, 2))
            for service in services:
                await stage.cluster.control("stop", service)
            stage.faults += stage.unfinished > 0
            try:
                await asyncio.sleep(stage.options.seconds(full, short))
            finally:
                for service in reversed(services):
                    await stage.cluster.control("start", service)

        await during(stage, stop(), tasks=tasks, spread=stage.options.seconds(full, short) / 2)

    return scenario


async def during(
    stage: Stage, work: Coroutine[Any, Any, None], *, tasks: int, spread: float, **changes: Any
) -> None:
    """Run tasks that begin before and during a disturbance, which always comes to its end."""
    disturbance = asyncio.create_task(work)
    count = stage.options.count(tasks, 4)
    try:
        async with meanwhile(_tidy_up(stage, disturbance)):
            await stage.run([stage.plan(n, **changes) for n in range(count)], spread=spread + 3)
    finally:
        await disturbance


async def _tidy_up(stage: Stage, disturbance: asyncio.Task[None]) -> None:
    """An administrator: when it is over, nodes are resumed and jobs released that Slurm holds."""
    await asyncio.wait([disturbance])
    while True:
        await asyncio.sleep(3)
        drained = await stage.cluster.ask("sinfo", "-hN", "-psmall", "-tdrain,down", "-o%N")
        for node in drained.split():
            await stage.cluster.succeeds("scontrol", "update", f"nodename={node}", "state=resume")
        pending = await stage.cluster.ask("squeue", "--noheader", "--states=PD", "--format=%i %r")
        for line in pending.splitlines():
            if "held" in line:
                await stage.cluster.succeeds("scontrol", "release", line.split()[0])


async def sshd_killed(stage: Stage) -> None:
    """All sessions of the log-in node end at once, in the middle of whatever they do."""
    await _sessions_killed(stage, with_programs=False)


async def login_node_killed(stage: Stage) -> None:
    """The same, and what they had started dies with them, between any two of its steps."""
    await _sessions_killed(stage, with_programs=True)


async def _sessions_killed(stage: Stage, *, with_programs: bool) -> None:
    async def kill() -> None:
        while True:
            await stage.under_way(after=(0.1, 1.5))
            stage.faults += await faults.kill_sessions(
                stage.proxy.own_ports, with_programs=with_programs
            )

    async with meanwhile(kill()):
        await stage.run(
            [stage.plan(n) for n in range(stage.options.count(40, 5))],
            spread=stage.options.seconds(30, 3),
        )


async def sshd_refuses(stage: Stage) -> None:
    """Sshd refuses, then accepts and never answers, then is well again."""

    async def refuse() -> None:
        await stage.under_way(after=(0, 2))
        for mode in (Mode.REFUSE, Mode.SILENT):
            before = stage.proxy.turned_away
            stage.proxy.mode = mode
            stage.proxy.cut_all()
            await asyncio.sleep(stage.options.seconds(15, 4))
            stage.faults += stage.proxy.turned_away - before
        stage.proxy.mode = Mode.PASS

    await during(stage, refuse(), tasks=20, spread=stage.options.seconds(30, 6))


async def sshd_throttles(stage: Stage) -> None:
    """So many log in at once that sshd turns some away (MaxStartups)."""
    log = stage.cluster.facts["services"]["sshd"]["log_file"]

    def throttled() -> int:
        return Path(log).read_text(errors="replace").count("MaxStartups")

    before = throttled()
    await stage.cluster.control("stop", "sshd")
    await stage.cluster.control("start", "sshd", CLUSTER_MAX_STARTUPS="2:50:4")
    try:
        await stage.run([stage.plan(n) for n in range(stage.options.count(40, 10))])
    finally:
        stage.faults += throttled() - before
        await stage.cluster.control("stop", "sshd")
        await stage.cluster.control("start", "sshd", CLUSTER_MAX_STARTUPS="10:30:100")


async def name_unknown(stage: Stage) -> None:
    """The name of the log-in node cannot be resolved for a while, and connections break."""
    stage.connection["host"] = stage.names.HOST

    async def forget() -> None:
        await stage.under_way(after=(0, 2))
        stage.names.forget()
        stage.proxy.cut_all()
        try:
            await asyncio.sleep(stage.options.seconds(20, 5))
            stage.faults += stage.unfinished > 0
        finally:
            stage.names.restore()

    await during(stage, forget(), tasks=16, spread=stage.options.seconds(20, 5))


async def packets_lost(stage: Stage) -> None:
    """A third of all packets is lost for a while."""
    await _filtered(stage, percent=33, seconds=stage.options.seconds(30, 6))


async def black_hole(stage: Stage) -> None:
    """All packets are lost for a while, and nobody is told."""
    await _filtered(stage, percent=100, seconds=stage.options.seconds(60, 8))


async def _filtered(stage: Stage, *, percent: int, seconds: float) -> None:
    packets = faults.PacketFilter(stage.proxy.port)

    async def drop() -> None:
        await stage.under_way(after=(0, 2))
        packets.drop(percent)
        try:
            await asyncio.sleep(seconds)
        finally:
            stage.faults += packets.clear() > 0

    await during(stage, drop(), tasks=16, spread=seconds)


async def node_killed(stage: Stage) -> None:
    """
    A node dies with all that runs on it; its jobs are requeued, or fail and are retried.

    Those that came to their end just before, of which Slurm was not told, have succeeded.
    """
    stage.rules = Rules(jobs_may_die=True)

    async def kill() -> None:
        await stage.under_way(after=(3, 5))
        silent = faults.silence_node(stage.cluster, DOOMED_NODE)
        await asyncio.sleep(2)
        stage.faults += await faults.kill_node(stage.cluster, DOOMED_NODE, silent)
        await asyncio.sleep(15)
        await stage.cluster.control("start", f"slurmd-{DOOMED_NODE}")

    sbatch = {"no-requeue": True} if stage.options.short else {}
    await during(
        stage, kill(), tasks=40, spread=2, seconds=4, sbatch={**sbatch, "nodelist": DOOMED_NODE}
    )


async def requeued_by_admin(stage: Stage) -> None:
    """An administrator requeues jobs that run; the same job begins again."""

    async def requeue() -> None:
        for _ in range(stage.options.count(20, 4)):
            await stage.under_way(after=(0.5, 2))
            live = await stage.cluster.live_jobs(stage.prefix)
            if live:
                job_id = stage.rng.choice(sorted(live))
                # Slurm says nothing when it did it, and complains otherwise.
                stage.faults += await stage.cluster.succeeds("scontrol", "requeue", job_id)

    async with meanwhile(requeue()):
        await stage.run(
            [stage.plan(n, seconds=3) for n in range(stage.options.count(20, 4))],
            spread=stage.options.seconds(20, 3),
        )


async def disk_full(stage: Stage) -> None:
    """The disk that holds the run directories is full, again and again."""
    stage.rules = Rules(may_fail_before_submission=True)
    async with faults.small_disk(stage.cluster.directory / "chaos" / "disk", 4) as disk:
        stage.work_dir = str(disk)

        async def fill() -> None:
            while True:
                stage.faults += faults.fill(disk)
                await asyncio.sleep(stage.rng.uniform(0.5, 4))
                faults.empty(disk)
                await asyncio.sleep(stage.rng.uniform(0.5, 2))

        async with meanwhile(fill()):
            await stage.run(
                [stage.plan(n, expects="any") for n in range(stage.options.count(30, 3))],
                spread=stage.options.seconds(30, 4),
            )


async def clock_off(stage: Stage) -> None:
    """The cluster's clock jumps an hour ahead, two hours back, and home, while jobs run."""
    numbers = iter(range(10**6))
    for offset in ("3600", "-3600", "0"):
        jump = asyncio.create_task(_with_clock(stage, offset))
        count = stage.options.count(16, 3)
        # Most are begun by the time it is over, some before and some after.
        await stage.run([stage.plan(next(numbers)) for _ in range(count)], spread=15)
        await jump
        await stage.run([stage.plan(next(numbers)) for _ in range(count)])
        stage.faults += faults.clock_error(stage.cluster.shared("runs")) > 3000


async def _with_clock(stage: Stage, offset: str) -> None:
    nodes = [f"slurmd-{node}" for node in stage.cluster.facts["slurm_nodes"]]
    services = ["munge", "mariadb", "slurmdbd", "slurmctld", *nodes, "sshd"]
    for service in reversed(services):
        await stage.cluster.control("stop", service)
    for service in services:
        await stage.cluster.control("start", service, CLUSTER_CLOCK_OFFSET=offset)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A way to play it. A local one disturbs nobody but its own tasks."""

    play: Callable[[Stage], Awaitable[None]]
    is_local: bool = False
    is_short: bool = True  # has a place in the short form


# In the order they run; the clock comes last, because the books remember the future.
SCENARIOS = {
    "login-node-killed": Scenario(login_node_killed, is_local=True, is_short=False),
    "worker-killed": Scenario(worker_killed, is_local=True),
    "connection-cut": Scenario(connection_cut, is_local=True),
    "sbatch-lies": Scenario(sbatch_lies, is_local=True),
    "twin-workers": Scenario(twin_workers, is_local=True),
    "triggerer-killed": Scenario(triggerer_killed, is_local=True),
    "retried-and-cleared": Scenario(retried_and_cleared, is_local=True),
    "requeued": Scenario(requeued_by_admin, is_local=True),
    "disk-full": Scenario(disk_full, is_local=True),
    "sshd-killed": Scenario(sshd_killed, is_local=True),
    "sshd-refuses": Scenario(sshd_refuses, is_local=True),
    "name-unknown": Scenario(name_unknown, is_local=True),
    "packets-lost": Scenario(packets_lost, is_local=True),
    "black-hole": Scenario(black_hole, is_local=True),
    "killed-by-users": Scenario(killed_by_users),
    "controller-restarted": Scenario(controller_restarted),
    "slurmctld-stopped": Scenario(outage("slurmctld", full=120, short=6)),
    "slurmdbd-stopped": Scenario(outage("slurmdbd")),
    "mariadb-stopped": Scenario(outage("mariadb"), is_short=False),
    "munge-stopped": Scenario(outage("munge"), is_short=False),
    "sshd-stopped": Scenario(outage("sshd")),
    "sshd-throttles": Scenario(sshd_throttles),
    # Not beside those that stop the controller: the node comes back only when it can register.
    "node-killed": Scenario(node_killed),
    "airflow-broken": Scenario(airflow_broken, is_short=False),
    "airflow-users-kill": Scenario(airflow_users_kill, is_short=False),
    "clock-off": Scenario(clock_off, is_short=False),
}
