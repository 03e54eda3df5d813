"""
What a waiting job costs the triggerer by itself: memory, and processor time per round.

    python benchmarks/poller_memory.py [N ...]

Watches N (default 100, 1000 and 5000) jobs over a site that answers at once and without a network,
as squeue and our remote program would: a third of the jobs wait, the others run and write a log
that does not grow. Prints a row for each N: bytes that are held for each watched job (tracemalloc:
tracker, what it watches, its last row, its place in the poller; not the task that awaits it), and
processor time of a round in which nothing changes.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_provider_csc.client.poller import SitePoller
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.slurm.output import QUEUE_FORMAT, SEPARATOR
from airflow_provider_csc.slurm.tracking import JobTracker, WatchSpec
from airflow_provider_csc.transport.base import CommandResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

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

    async def run(self, command: str, *, stdin: bytes, timeout: float) -> CommandResult:  # noqa: ARG002, ASYNC109
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
        return CommandResult(exit_status=0, stdout=b"".join(parts), stderr=b"")

    async def close(self) -> None:
        pass


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
    site = QuietSite(jobs)
    poller = SitePoller(SlurmClient(site), floor=3600)
    streams: list[AsyncGenerator[object, None]] = []
    # Airflow's own part, which is there without us: a task for each trigger.
    tracemalloc.start()
    for number in range(jobs):
        streams.append(poller.watch(JobTracker(f"w{number}", spec(number)), interval=3600))
    tasks = [asyncio.ensure_future(follow(stream)) for stream in streams]
    await asyncio.sleep(0)
    before = tracemalloc.get_traced_memory()[0]
    first = len(poller._watchers)  # noqa: SLF001 - what is measured here
    assert first == jobs
    await round_of(poller)
    await round_of(poller)
    gc.collect()
    held = sum(each.size for each in own_memory())
    assert before
    tracemalloc.stop()

    site.own_seconds = 0
    began = time.process_time()
    for _ in range(ROUNDS):
        await round_of(poller)
    seconds = (time.process_time() - began - site.own_seconds) / ROUNDS

    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return held, seconds


def own_memory() -> list[tracemalloc.Statistic]:
    """What was allocated by our code, or for a watched job by this file."""
    ours = [
        tracemalloc.Filter(True, "*/airflow_provider_csc/*"),
        tracemalloc.Filter(True, __file__),
        tracemalloc.Filter(True, "*/asyncio/queues.py"),
        tracemalloc.Filter(True, "*/asyncio/locks.py"),
        tracemalloc.Filter(True, "*/codecs.py"),
        tracemalloc.Filter(True, "<string>"),
    ]
    snapshot = tracemalloc.take_snapshot().filter_traces(ours)
    return [
        each for each in snapshot.statistics("filename") if "in follow" not in str(each.traceback)
    ]


async def round_of(poller: SitePoller) -> None:
    await poller._round()  # noqa: SLF001 - what is measured here


async def follow(stream: AsyncGenerator[object, None]) -> None:
    async for _ in stream:
        pass


if __name__ == "__main__":
    main()
