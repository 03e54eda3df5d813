"""
The last byte a job wrote is in the task's log before the task ends, however the job ended.

Each ending is mostly waited for, so all of them are played at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger
from tests.cluster.conftest import SlurmConnection
from tests.support.steps import deferred_by
from tests.support.task import build_context, stored
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_csc.slurm.result import JobResult

pytestmark = pytest.mark.cluster

Play = Callable[[], None]
PLAYS: list[Play] = []


def ending(play: Play) -> Play:
    """Have it played by `test_the_last_byte_is_shown`."""
    PLAYS.append(play)
    return play


@dataclass
class Log:
    """A task's log: what the job wrote, and what was said about it."""

    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def info(self, message: str, /, *args: object) -> None:
        self.lines.append(message % args)

    def log(self, _level: int, message: str, /, *args: object) -> None:
        self.notes.append(message % args)


@dataclass
class Job:
    """A submitted job and the trigger that its task deferred to."""

    trigger: SlurmJobTrigger
    log: Log = field(default_factory=Log)
    results: list[JobResult] = field(default_factory=list)

    @property
    def job_id(self) -> str:
        return self.trigger.job_ids[0]

    @property
    def run_dir(self) -> Path:
        assert self.trigger.run_dir is not None
        return Path(self.trigger.run_dir)

    @property
    def stdout(self) -> Path:
        assert self.trigger.stdout_path is not None
        return Path(self.trigger.stdout_path)

    @property
    def written(self) -> list[str]:
        """What stands in the file on the cluster, which is this machine."""
        return self.stdout.read_text().splitlines()

    def follow(self) -> str:
        """Wait for the end as a triggerer does; return the state."""

        async def wait() -> list[JobResult]:
            settings = await SlurmHook(self.trigger.slurm_conn_id).aget_settings()
            return await self.trigger.wait(settings, self.log)

        self.results = asyncio.run(wait())
        return self.results[0].state

    def wait_for_line(self, text: str) -> None:
        wait_until(lambda: self.stdout.exists() and text in self.stdout.read_text())

    def wait_for_end(self) -> None:
        wait_until(lambda: SlurmHook().query([self.job_id])[self.job_id].is_final)


ONE_LOGS_IN = threading.Lock()


def submit(command: str, **arguments: Any) -> Job:
    task = SlurmSubmitOperator(
        task_id="job", command=command, deferrable=True, poll_interval=0.5, **arguments
    )
    # Each has a connection of its own, and a dozen log-ins at once may take one longer than it has.
    with ONE_LOGS_IN:
        deferred = deferred_by(lambda: task.execute(build_context(task)))
    trigger = stored(deferred.trigger)
    assert isinstance(trigger, SlurmJobTrigger)
    return Job(trigger)


def later(seconds: float, work: Any) -> threading.Thread:
    def run() -> None:
        time.sleep(seconds)
        work()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


COUNT = "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.1; done"


@ending
def of_a_job_that_exits_the_last_bytes_are_shown() -> None:
    job = submit("seq 50000; echo error >&2; printf 'no newline'; exit 3")
    assert job.follow() == "FAILED"
    assert job.log.lines == job.written
    assert job.log.lines[-1] == "no newline"
    assert len(job.log.lines) == 50_002


@ending
def of_a_job_that_needs_too_much_memory_the_last_bytes_are_shown() -> None:
    hog = "python3 -c 'x = bytearray(400 * 1024 * 1024); import time; time.sleep(30)'"
    job = submit(f"seq 5000; {hog}; echo never; exit 1", options={"mem": "100M"})
    assert job.follow() in {"OUT_OF_MEMORY", "FAILED"}
    assert job.log.lines == job.written
    assert job.log.lines[4999] == "5000"


@ending
def of_a_job_that_is_cancelled_the_last_bytes_are_shown() -> None:
    job = submit(f"trap 'seq 2000; echo bye; exit 1' TERM; echo ready; {COUNT}")
    job.wait_for_line("ready")
    cancel = later(2, lambda: SlurmHook().cancel([job.job_id]))
    assert job.follow() == "CANCELLED"
    cancel.join()
    assert job.log.lines == job.written
    assert job.log.lines[-1] == "bye"


@ending
def of_a_job_that_reaches_its_time_limit_the_last_bytes_are_shown() -> None:
    """Slurm looks every 30 s; the least limit that can be asked for is a minute."""
    job = submit(f"trap 'echo bye; exit 0' TERM; echo ready; {COUNT}", options={"time": "1"})
    job.wait_for_line("ready")
    sooner = f"scontrol update JobId={job.job_id} EndTime=$(date --date='+3 seconds' +%FT%T)"
    assert SlurmHook().run(sooner).status == 0
    assert job.follow() == "TIMEOUT"
    assert job.log.lines == job.written
    assert job.log.lines[-1] == "bye"


@ending
def of_a_job_whose_batch_shell_is_killed_the_last_bytes_are_shown() -> None:
    job = submit(f"echo ready; {COUNT}")
    job.wait_for_line("ready")

    def kill() -> None:
        found = subprocess.run(
            ["pgrep", "--full", f"{job.run_dir}$"], capture_output=True, text=True, check=True
        )
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)

    killer = later(2, kill)
    assert job.follow() == "FAILED"
    killer.join()
    assert not (job.run_dir / "exit.json").exists()
    assert job.log.lines == job.written
    assert int(job.log.lines[-1]) > 10


def hold_back(job: Job) -> bytes:
    """Cut the end of an ended job's log off, as if the file system did not show it yet."""
    whole = job.stdout.read_bytes()
    os.truncate(job.stdout, len(whole) // 2)
    return whole[len(whole) // 2 :]


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as log:
        log.write(data)


@ending
def the_end_of_a_log_that_is_seen_late_is_waited_for() -> None:
    job = submit("seq 3000")
    job.wait_for_end()
    rest = hold_back(job)
    writer = later(9, lambda: append(job.stdout, rest))
    began = time.monotonic()
    assert job.follow() == "COMPLETED"
    writer.join()
    assert job.log.lines == [str(number) for number in range(1, 3001)]
    assert 9 <= time.monotonic() - began < 28


@ending
def the_end_of_a_log_that_never_comes_is_told_of() -> None:
    job = submit("seq 3000")
    job.wait_for_end()
    rest = hold_back(job)
    whole = len(job.stdout.read_bytes()) + len(rest)
    assert job.follow() == "COMPLETED"
    assert job.log.lines[-1] == (
        f"[the job wrote {whole} bytes to {job.stdout}, of which {whole // 2} could be seen from "
        "the log-in node in time; look there for the rest]"
    )


@ending
def a_log_of_unknown_length_is_followed_until_it_is_still() -> None:
    """As after SIGKILL or the loss of a node: there is no exit record."""
    job = submit("seq 3000")
    job.wait_for_end()
    (job.run_dir / "exit.json").unlink()
    rest = hold_back(job)

    def trickle() -> None:
        for start in range(0, len(rest), len(rest) // 4 + 1):
            append(job.stdout, rest[start : start + len(rest) // 4 + 1])
            time.sleep(2)

    writer = later(1, trickle)
    assert job.follow() == "COMPLETED"
    writer.join()
    assert job.log.lines == [str(number) for number in range(1, 3001)]


@ending
def standard_error_in_a_file_of_its_own_is_whole_too() -> None:
    job = submit(
        "seq 2000; seq 5001 8000 >&2; exit 4", options={"error": "err-%j.log", "output": "out-%j"}
    )
    assert job.follow() == "FAILED"
    assert job.trigger.stderr_path is not None
    stderr = Path(job.trigger.stderr_path).read_text().splitlines()
    numbers = [line for line in job.log.lines if line.isdecimal()]
    assert sorted(numbers, key=int) == job.written + stderr
    assert len(numbers) == 5000


@ending
def what_ended_is_noted_in_the_run_directory() -> None:
    job = submit("exit 3")
    assert job.follow() == "FAILED"
    assert (job.run_dir / "verdict").read_text() == "FAILED\n"


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, cluster: dict[str, Any]
) -> Iterator[dict[Play, Future[None]]]:
    """What becomes of the endings that were asked for."""
    mine = [item for item in request.session.items if item.path == request.path]
    wanted = {item.callspec.params["play"] for item in mine if isinstance(item, pytest.Function)}
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(PLAYS)) as pool:
        SlurmConnection(cluster, patch).set()
        yield {play: pool.submit(play) for play in PLAYS if play in wanted}


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_the_last_byte_is_shown(play: Play, played: dict[Play, Future[None]]) -> None:
    played[play].result()
