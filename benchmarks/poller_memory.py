"""
What a waiting job costs the triggerer by itself: memory, and processor time per round.

    python benchmarks/poller_memory.py [N ...]

Watches N (default 100, 1000 and 5000) jobs over a site that answers at once and without a network,
as squeue and our remote program would: a third of the jobs wait, the others run and write a log
that does not grow. Prints a row for each N: bytes that are held for each watched job (all that
tracemalloc sees, less what as many tasks of asyncio hold that wait for nothing), and processor time
of a round in which nothing changes, less that of the fake site.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_provider_csc.client.poller import SitePoller  # noqa: TID253 - it is measured
from airflow_provider_csc.client.slurm import SlurmClient  # noqa: TID253 - likewise
from airflow_provider_csc.slurm.output import QUEUE_FORMAT, SEPARATOR
from airflow_provider_csc.slurm.tracking import JobTracker, WatchSpec
from airflow_provider_csc.transport.base import CommandResult

BASE = "/scratch/project_2001234/a_users_name/airflow-runs"
FIRST = 10_000_000
ROUNDS = 5
LOG = re.compile(r"^(?:read_log )?(w\d+\.log\d+) \S+ (\d+) \d+(?: (-?\d+))?$", re.MULTILINE)
PROGRESS = re.compile(r"^\S+ (w\d+\.progress) ", re.MULTILINE)


def main() -> None:
    print(f"{'jobs':>6}  {'bytes per job':>13}  {'processor time of a round':>25}")
    for jobs in map(int, sys.argv[1:] or ("100", "1000", "5000")):
        held, seconds = asyncio.run(measure(jobs))
        print(f"{jobs:>6}  {held / jobs:>13.0f}  {seconds * 1000:>22.1f} ms")


class QuietSite:
    """A transport to a site where nothing happens."""

    def __init__(self, jobs: int) -> None:
        rows = [SEPARATOR.join(row(number)) for number in range(jobs)]
        self.squeue = "\n".join(rows).encode()
        self.polls = 0
        self.own_seconds = 0.0

    async def run(self, command: str, *, stdin: bytes, timeout: float) -> CommandResult:  # noqa: ARG002 - a protocol
        """Answer a program as the site would."""
        began = time.process_time()
        program = stdin.decode()
        mark = re.search(r"^mark=(\S+)$", program, re.MULTILINE)
        assert mark
        parts: list[bytes] = []

        def frame(name: str, status: int, data: bytes) -> None:
            parts.append(f"{mark[1]} {name} {status} {len(data)}\n".encode() + data + b"\n")

        frame("clock", 0, b"2000000000")
        if "squeue --noheader" in program:
            self.polls += 1
            found = re.search(r"^ask (squeue\S*) ", program, re.MULTILINE)
            assert found
            frame(found[1], 0, self.squeue)
        for name in PROGRESS.findall(program):
            frame(name, 1, b"No such file or directory")
        for name, offset, known in LOG.findall(program):
            if known != "0":
                frame(name, 0, f"0 {offset} ".encode())
        frame("end", 0, b"")
        self.own_seconds += time.process_time() - began
        await asyncio.sleep(0)
        return CommandResult(exit_status=0, stdout=b"".join(parts), stderr=b"")

    async def close(self) -> None:
        """Do nothing."""


def row(number: int) -> list[str]:
    is_running = number % 3 > 0
    values = {
        "%i": str(FIRST + number),
        "%T": "RUNNING" if is_running else "PENDING",
        "%r": "None" if is_running else "Priority",
        "%P": "small",
        "%N": f"r{number % 2000:04}" if is_running else "",
        "%V": "1999999000",
        "%S": "1999999500" if is_running else "N/A",
        "%e": "2000009999" if is_running else "N/A",
        "%u": "a_users_name",
        "%j": f"a_dag_of_mine.a_task_of_mine.{token(number)}",
    }
    return [values[field] for field in QUEUE_FORMAT.split(SEPARATOR)]


def token(number: int) -> str:
    return f"af{number:020x}.1"


def spec(number: int) -> WatchSpec:
    run_dir = f"{BASE}/{token(number)}"
    path = f"{run_dir}/stdout.log"
    return WatchSpec(
        job_ids=(str(FIRST + number),), run_dir=run_dir, stdout_path=path, stderr_path=path
    )


async def measure(jobs: int) -> tuple[int, float]:
    """Return the bytes that all jobs hold, and the seconds of a round."""
    idle = await held_by_tasks(jobs)
    site = QuietSite(jobs)
    poller = SitePoller(SlurmClient(site), floor=3600)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.ensure_future(follow(poller, number)) for number in range(jobs)]
    await asyncio.sleep(0)
    # In the second one it is written down by what each job is known again.
    await round_of(poller)
    await round_of(poller)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    site.own_seconds = 0
    began = time.process_time()
    for _ in range(ROUNDS):
        await round_of(poller)
    seconds = (time.process_time() - began - site.own_seconds) / ROUNDS

    await cancel(tasks)
    return held - idle, seconds


async def held_by_tasks(jobs: int) -> int:
    """Return the bytes that tasks hold which wait for nothing."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.ensure_future(wait_for_nothing()) for _ in range(jobs)]
    await asyncio.sleep(0)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    await cancel(tasks)
    return held


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def round_of(poller: SitePoller) -> None:
    await poller._round()  # noqa: SLF001 - what is measured here


async def follow(poller: SitePoller, number: int) -> None:
    async for _ in poller.watch(JobTracker(f"w{number}", spec(number)), interval=3600):
        pass


async def wait_for_nothing() -> None:
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    main()
