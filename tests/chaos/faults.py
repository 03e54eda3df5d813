"""Ways to break what lies between: the network, names, disks, nodes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.chaos.cluster import Cluster


def run(*words: str, given: str | None = None) -> str:
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=True)
    return done.stdout


class PacketFilter:
    """Drops packets to and from one port of this machine; nothing else is touched."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._table = ("inet", f"csc_chaos_{port}")

    def drop(self, percent: int) -> None:
        """Drop this share of them, both ways."""
        self.clear()
        chance = "" if percent >= 100 else f"numgen random mod 100 < {percent} "
        lines = ["type filter hook input priority 0;"]
        lines += [f"tcp {end} {self._port} {chance}counter drop;" for end in ("dport", "sport")]
        chain = " ".join(lines)
        run(
            "nft",
            "-f",
            "-",
            given=f"table {' '.join(self._table)} {{ chain input {{ {chain} }}; }}\n",
        )

    @property
    def dropped(self) -> int:
        """Packets dropped since `drop`."""
        listing = subprocess.run(
            ["nft", "list", "table", *self._table], capture_output=True, text=True, check=False
        ).stdout
        return sum(int(count) for count in re.findall(r"packets (\d+)", listing))

    def clear(self) -> int:
        """Let everything pass; return how many packets were dropped."""
        dropped = self.dropped
        subprocess.run(["nft", "delete", "table", *self._table], capture_output=True, check=False)
        return dropped


class Names:
    """The hosts file that the suite's processes see; one name in it is the log-in node."""

    HOST = "login.chaos.invalid"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._others = Path("/etc/hosts").read_text()
        self.restore()

    def restore(self) -> None:
        # The same file, not a new one: it is mounted over /etc/hosts.
        self.path.write_text(f"{self._others}\n127.0.0.1 {self.HOST}\n")

    def forget(self) -> None:
        """From now on the name cannot be resolved."""
        self.path.write_text(self._others)


@asynccontextmanager
async def small_disk(directory: Path, megabytes: float) -> AsyncIterator[Path]:
    """Mount a file system of so many megabytes there, the user's own."""
    await asyncio.to_thread(directory.mkdir, exist_ok=True)
    run(
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={int(megabytes * 1024)}k,mode=0777",
        "chaos",
        str(directory),
    )
    try:
        shutil.chown(directory, "alice", "alice")
        yield directory
    finally:
        run("umount", "--lazy", str(directory))


def fill(directory: Path) -> bool:
    """Fill a disk to its last byte; True when it is full then."""
    try:
        with (directory / "filler").open("ab", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
    except OSError:
        return True


def empty(directory: Path) -> None:
    (directory / "filler").unlink(missing_ok=True)


def clock_error(runs: Path) -> float:
    """How far the newest exit record is off the clock of this machine, in seconds."""
    newest = max(runs.glob("*/exit.json"), key=lambda path: path.stat().st_mtime)
    return float(abs(json.loads(newest.read_text())["ended"] - newest.stat().st_mtime))


def processes_of_node(cluster: Cluster, node: str) -> list[int]:
    """The job processes of one node, and the step daemons above them."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            is_ours = f"SLURM_CONF={cluster.facts['slurm_conf']}".encode() in environment
            if is_ours and f"SLURMD_NODENAME={node}".encode() in environment:
                found.append(int(process.name))
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd":
                    found.append(parent)
        except (OSError, ValueError):
            continue
    return list(dict.fromkeys(found))


def silence_node(cluster: Cluster, node: str) -> list[int]:
    """
    Stop the step daemons of a node: its jobs run on, and nobody is told of their ends.

    :return: their process ids; of those whose job has ended nothing else tells the node.
    """
    stopped = []
    for pid in processes_of_node(cluster, node):
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "slurmstepd":
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
    return stopped


async def kill_node(cluster: Cluster, node: str, silent: Sequence[int] = ()) -> int:
    """
    The node loses its power: its daemon and all that ran on it; return how many died.

    ``silent`` are step daemons that `silence_node` has stopped before.
    """
    await cluster.control("kill", f"slurmd-{node}")
    victims = {*processes_of_node(cluster, node), *silent}
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return 1 + len(victims)


async def kill_sessions(ports: frozenset[int], *, with_programs: bool) -> int:
    """
    Kill the ssh sessions that came from these ports; return how many there were.

    With their programs, as when the log-in node itself goes down; else a program goes on by itself.
    """
    if not ports:
        return 0
    among = " or ".join(f"dport = :{port}" for port in ports)
    listing = await asyncio.to_thread(run, "ss", "-tnpH", "state", "established", f"( {among} )")
    sessions = {int(pid) for pid in re.findall(r'"sshd",pid=(\d+)', listing)}
    programs = [each for pid in sessions for each in descendants(pid)] if with_programs else []
    for pid in (*sessions, *programs):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(sessions)


def descendants(pid: int) -> list[int]:
    """The processes below one, as they are now."""
    with suppress(OSError, ValueError):
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        return [each for child in children for each in (child, *descendants(child))]
    return []
