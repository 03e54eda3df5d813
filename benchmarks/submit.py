"""How fast jobs are submitted: over a warm connection, a new one for each, or none at all."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.hooks.slurm import SlurmHook, open_client
from benchmarks import coalesced
from benchmarks.figures import (
    Case,
    Headline,
    Measured,
    Part,
    Row,
    Table,
    figure,
    show,
    show_ratio,
)
from benchmarks.login_node import login_node
from benchmarks.ours import connections, submit_held
from benchmarks.site import HELD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.transport.base import SiteSettings
    from benchmarks.login_node import LoginNode
    from benchmarks.running import Bench
    from benchmarks.site import Jobs, Site

WARM, AT_ONCE, GATHERED = "ours, one by one", "ours, at once", "ours, coalesced"
MASTER, NEW, LOCAL = "ssh with an open master", "ssh, new each time", "sbatch on the log-in node"
_TARGET_WARM, _TARGET_GATHERED = 1.5, 20.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs are submitted to, and how."""

    site: Site
    node: LoginNode
    jobs: Jobs
    scratch: Path

    @property
    def ssh(self) -> list[str]:
        """Return the ssh command with all it needs, but for what is to be run."""
        facts = self.site.facts
        options = {
            "IdentityFile": self.site.key_file,
            "UserKnownHostsFile": str(self.node.known_hosts),
            "BatchMode": "yes",
            "Port": str(self.node.port),
        }
        pairs = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", *pairs, f"{self.site.user}@{facts['ssh_host']}"]

    @property
    def sbatch(self) -> str:
        """Return the submission as a remote command."""
        return " ".join(["sbatch", *HELD, f"--job-name={self.jobs.name}"])


@contextmanager
def place(bench: Bench) -> Iterator[Place]:
    """Yield a log-in node, a directory, and a name for jobs."""
    site = bench.cluster
    with site.jobs() as jobs, site.scratch() as scratch, login_node(site) as node:
        variables = site.connections(node, work_dir=scratch / "runs")
        with connections(variables):
            yield Place(site, node, jobs, scratch)


def cases(bench: Bench) -> list[Case]:
    """Return all ways to submit."""
    pick, repeats = bench.settings.pick, bench.settings.repeats
    singles, many, gathered = pick(50, 5), pick(200, 10), pick(1000, 20)

    def case(name: str, n: int, work: Callable[..., Measured], each: float) -> Case:
        return Case(
            name=name,
            subject=name,
            n=n,
            measure=lambda: work(bench, n),
            seconds=5 + each * n * repeats,
        )

    found = [
        case(LOCAL, many, measure_local, 0.01),
        case(WARM, singles, measure_warm, 0.15),
        case(AT_ONCE, many, measure_at_once, 0.06),
        case(NEW, singles, measure_new, 0.3),
    ]
    if coalesced.IS_THERE:
        found.append(case(GATHERED, gathered, measure_coalesced, 0.02))
    return found


def repeated(bench: Bench, once: Callable[[int], float], count: int) -> Measured:
    """Submit some jobs several times; ``once(repeat)`` returns the seconds of all of them."""
    seconds = [once(repeat) for repeat in range(bench.settings.repeats)]
    return Measured(
        figures={
            "rate": figure([count / each for each in seconds], "per second"),
            "each": figure([each / count for each in seconds], "s"),
        }
    )


def timed(work: Callable[[], Any]) -> float:
    """Return how long something takes (seconds)."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_local(bench: Bench, count: int) -> Measured:
    """Submit in a loop on the log-in node: what Slurm itself takes."""
    with place(bench) as where:
        return repeated(bench, lambda _: timed(lambda: where.jobs.submit_held(count)), count)


def measure_new(bench: Bench, count: int) -> Measured:
    """Submit with an ``ssh HOST sbatch`` for each job, each with a connection of its own."""
    with place(bench) as where:

        def once(_repeat: int) -> float:
            return sum(timed(lambda: run_ssh(where.ssh, where.sbatch)) for _ in range(count))

        return repeated(bench, once, count)


def run_ssh(ssh: Sequence[str], command: str) -> None:
    """Run a remote command; an error ends the measurement."""
    subprocess.run([*ssh, command], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def measure_warm(bench: Bench, count: int) -> Measured:
    """
    Submit ours and over an open master connection in turn, one job each time.

    In turn, so that what else the machine does meanwhile meets both.
    """
    with place(bench) as where, master(where) as ssh:
        settings = SlurmHook().get_settings()

        async def count_processes(client: SlurmClient) -> dict[str, Any]:
            where.node.look()
            record = where.node.record_size()
            await submit_held(client, settings, where.jobs.name, -1)
            mine, record = where.node.ended_since(record), where.node.record_size()
            run_ssh(ssh, where.sbatch)
            return {"ours": mine, "master": where.node.ended_since(record)}

        async def once(client: SlurmClient, repeat: int) -> tuple[list[float], list[float]]:
            mine, theirs = [], []
            for number in range(count):
                began = time.perf_counter()
                await submit_held(client, settings, where.jobs.name, repeat * count + number)
                mine.append(time.perf_counter() - began)
                theirs.append(timed(lambda: run_ssh(ssh, where.sbatch)))
            return mine, theirs

        async def all_of_it() -> tuple[dict[str, Any], list[tuple[list[float], list[float]]]]:
            async with open_client(settings) as client:
                await client.probe()
                started = await count_processes(client)
                repeats = range(bench.settings.repeats)
                return started, [await once(client, repeat) for repeat in repeats]

        started, rounds = asyncio.run(all_of_it())
    middles = [(statistics.median(mine), statistics.median(theirs)) for mine, theirs in rounds]
    return Measured(
        figures={
            "each": figure([mine for mine, _ in middles], "s"),
            "rate": figure([count / sum(mine) for mine, _ in rounds], "per second"),
            "master_each": figure([theirs for _, theirs in middles], "s"),
            "master_rate": figure([count / sum(theirs) for _, theirs in rounds], "per second"),
            "to_master": figure([mine / theirs for mine, theirs in middles], "times"),
            **{
                f"processes_{who}": figure(sum(counts.values()), "for one submission")
                for who, counts in started.items()
                if counts is not None
            },
        },
        detail={"rounds": rounds, "processes_of_one": started},
    )


@contextmanager
def master(where: Place) -> Iterator[list[str]]:
    """Open a master connection; yields the ssh command that uses it."""
    socket = f"{where.node.known_hosts.parent}/master"
    first, *rest = where.ssh
    with_socket = [first, "-o", f"ControlPath={socket}", *rest]
    subprocess.run([*with_socket[:1], "-o", "ControlMaster=yes", "-o", "ControlPersist=yes",
                    "-f", "-N", *with_socket[1:]], check=True, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        yield with_socket
    finally:
        subprocess.run([*with_socket[:1], "-O", "exit", *with_socket[1:]], check=False,
                       stderr=subprocess.DEVNULL)  # fmt: skip


def measure_at_once(bench: Bench, count: int) -> Measured:
    """Submit all jobs at once over one client, which lets a few through at a time."""
    with place(bench) as where:
        settings = SlurmHook().get_settings()

        async def once(repeat: int) -> float:
            async with open_client(settings) as client:
                await client.probe()
                began = time.perf_counter()
                await asyncio.gather(
                    *(
                        submit_held(client, settings, where.jobs.name, repeat * count + number)
                        for number in range(count)
                    )
                )
                return time.perf_counter() - began

        return repeated(bench, lambda repeat: asyncio.run(once(repeat)), count)


def measure_coalesced(bench: Bench, count: int) -> Measured:
    """Submit mapped tasks together, as arrays; the time waited for others is part of it."""
    with place(bench) as where:
        settings: SiteSettings = SlurmHook().get_settings()

        def once(repeat: int) -> float:
            members = coalesced.plan(f"{where.jobs.name}-{repeat}", count)
            return timed(lambda: asyncio.run(coalesced.submit_together(settings, members)))

        return repeated(bench, once, count)


# The page


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each way."""
    lines = []
    for row in rows:
        started = {name: show(row.figures.get(f"processes_{name}")) for name in ("ours", "master")}
        lines.append([row.subject, str(row.n), *speed(row), started["ours"]])
        if "master_each" in row.figures:
            lines.append([MASTER, str(row.n), *speed(row, "master_"), started["master"]])
    head = ("how", "jobs", "submissions per second", "ms for each", "remote processes for each")
    return Table(head, lines)


def speed(row: Row, prefix: str = "") -> list[str]:
    """Return rate and time as text."""
    figures = row.figures
    return [show(figures[f"{prefix}rate"]), show(figures[f"{prefix}each"], factor=1000)]


def row_of(rows: Sequence[Row], subject: str) -> Row | None:
    """Return the row of one way, with however many jobs."""
    return next((row for row in rows if row.subject == subject), None)


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """Return one submission against a bare ssh, and coalesced ones against one ssh each."""
    found = []
    if (warm := row_of(rows, WARM)) is not None:
        times = warm.figures["to_master"]
        found.append(
            Headline(
                "one warm submission, ms",
                show(warm.figures["each"], factor=1000),
                f"{MASTER}: {show(warm.figures['master_each'], factor=1000)}",
                f"{show(times)} x",
                f"≤ {_TARGET_WARM} x",
                times.median <= _TARGET_WARM,
            )
        )
    new = row_of(rows, NEW)
    for subject, goal in ((WARM, None), (AT_ONCE, None), (GATHERED, _TARGET_GATHERED)):
        mine = row_of(rows, subject)
        if mine is None or new is None:
            continue
        times = mine.figures["rate"].median / new.figures["rate"].median
        found.append(
            Headline(
                f"submissions per second: {subject}",
                show(mine.figures["rate"]),
                f"{NEW}: {show(new.figures['rate'])}",
                show_ratio(times),
                f"≥ {goal:.0f} x" if goal else "",
                times >= goal if goal else None,
            )
        )
    return found


PART = Part(
    name="submit",
    about="submissions per second",
    cases=cases,
    table=table,
    headlines=headlines,
)
