"""The suite's own cluster: its daemons, its books, and the files that jobs and faults share."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
DEFAULT_DIR = "/var/lib/csc-chaos"
_CONTROL_SECONDS = 300
_SETTINGS = {
    "CLUSTER_PORT_OFFSET": "1000",
    "CLUSTER_CEPH": "no",
    "CLUSTER_MIN_JOB_AGE": "10",  # so that jobs leave squeue while somebody waits for them
    "CLUSTER_SLURMD_TIMEOUT": "10",
    "CLUSTER_CRED_EXPIRE": "10",  # a requeued job waits for so long
    "CLUSTER_KILL_WAIT": "5",
}


def uptime() -> float:
    """Seconds on the clock of the ledger."""
    return float(Path("/proc/uptime").read_text().split()[0])


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster of docker/cluster in a directory of its own."""

    directory: Path
    facts: dict[str, Any]

    @classmethod
    def at(cls, directory: str | Path) -> Cluster:
        """Read the description of a cluster that is up."""
        path = Path(directory)
        return cls(path, json.loads((path / "cluster.json").read_text()))

    @classmethod
    def start(cls, directory: str | Path) -> Cluster:
        """Start the suite's own."""
        _control(Path(directory), "up")
        return cls.at(directory)

    @classmethod
    def shared_by_tests(cls) -> Cluster:
        """Find the one that all tests use; its daemons are not to be touched."""
        return cls.at(os.environ.get("CLUSTER_DIR", "/var/lib/csc-cluster"))

    @property
    def user(self) -> dict[str, Any]:
        user: dict[str, Any] = self.facts["users"]["alice"]
        return user

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": self.facts["slurm_conf"]}

    def shared(self, name: str) -> Path:
        """Make a directory that both the suite and the jobs can write into."""
        path = self.directory / "chaos" / name
        path.mkdir(parents=True, exist_ok=True)
        shutil.chown(path, "alice", "alice")
        return path

    async def control(self, *words: str, **settings: str) -> None:
        """Start, stop, kill, pause or resume a service."""
        await asyncio.to_thread(_control, self.directory, *words, **settings)

    def pid(self, service: str) -> int | None:
        """The process of a service, where it runs."""
        try:
            pid = int(Path(self.facts["services"][service]["pid_file"]).read_text())
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid

    async def succeeds(self, *words: str) -> bool:
        """Run one of Slurm's commands as root, one that complains when it cannot."""
        process = await asyncio.create_subprocess_exec(
            *words,
            env=self.environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait() == 0

    async def ask(self, *words: str, timeout: float = 30) -> str:
        """Run one of Slurm's commands as root; '' when it failed."""
        process = await asyncio.create_subprocess_exec(
            *words,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(timeout):
                out, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return ""
        return out.decode() if process.returncode == 0 else ""

    async def live_jobs(self, prefix: str) -> dict[str, str]:
        """Names of the jobs in the queue that begin so, by id."""
        text = await self.ask("squeue", "--noheader", "--format=%i|%j", "--states=PD,R,CG,S,CF,RQ")
        rows = (line.split("|", 1) for line in text.splitlines())
        return {job_id: name for job_id, name in rows if name.startswith(prefix)}

    async def accepted_jobs(self, prefix: str, since: float) -> dict[str, str]:
        """Names of all jobs the books know that begin so, by id."""
        begin = time.strftime("%FT%T", time.localtime(since - 7200))
        words = ["sacct", "--allusers", "--allocations", "--noheader", "--parsable2"]
        words += [f"--starttime={begin}", "--endtime=now+2days"]
        words.append("--format=JobIDRaw,State,Elapsed,Start,JobName")
        rows = (line.split("|", 4) for line in (await self.ask(*words)).splitlines())
        return {
            job_id: name
            for job_id, state, elapsed, start, name in rows
            # What sbatch refused stands in the books as a job that failed at once.
            if name.startswith(prefix)
            and not (state == "FAILED" and elapsed == "00:00:00" and start == "Unknown")
        }


def _control(directory: Path, *words: str, **settings: str) -> None:
    environment = {
        **os.environ,
        **({} if (directory / "settings.env").exists() else _SETTINGS),
        "CLUSTER_DIR": str(directory),
        **settings,
    }
    done = subprocess.run(
        [str(CHECKOUT / "docker" / "cluster"), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_CONTROL_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"docker/cluster {' '.join(words)}: {done.stdout}{done.stderr}")
