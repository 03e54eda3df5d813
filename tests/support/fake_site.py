"""A whole site on this machine: real bash in a home of its own, beside commands that play Slurm."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConnectFailedError,
    ConnectionLostError,
)
from airflow_provider_csc.transport.base import CommandResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from airflow_provider_csc.transport.base import Transport

_FAKE_SLURM = Path(__file__).with_name("fake_slurm.sh")
_COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sacctmgr", "run-job")
_NOBODY = 65534


class FakeSite:
    """Where its files are, which jobs it knows, and what is wrong with it."""

    account: str | None = None

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self._bin = root / "bin"
        self._running: list[asyncio.Future[CommandResult]] = []
        # No file mode keeps root out, so the site is somebody else's. That a program of its own
        # changes the user spares each command a copy of this process's memory.
        self._user = _NOBODY if os.geteuid() == 0 else None
        self._become = (
            ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--")
            if self._user is not None
            else ()
        )
        for path in (self.home, self._bin, root / "faults", root / "jobs"):
            path.mkdir()
        (root / "lock").touch()
        for name in _COMMANDS:
            shutil.copy(_FAKE_SLURM, self._bin / name)
            (self._bin / name).chmod(0o755)
        for path in (root, *root.rglob("*")):
            self.give(path)

    def give(self, path: Path) -> None:
        """Make a file the site's user's own."""
        if self._user is not None:
            os.chown(path, self._user, self._user)

    def transport(self) -> LocalTransport:
        return LocalTransport(self)

    @property
    def jobs(self) -> dict[str, dict[str, str]]:
        """Each job's properties, as the fake commands keep them."""
        with self._locked():
            return {
                job.name: {each.name: each.read_text() for each in job.iterdir()}
                for job in sorted((self.root / "jobs").iterdir())
            }

    def change(self, job_id: str, **changes: str) -> None:
        """Let Slurm's own record of a job say something else; an empty text is no."""
        with self._locked():
            for name, value in changes.items():
                (self.root / "jobs" / job_id / name).write_text(value)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def calls(self, name: str) -> int:
        """How often one of Slurm's commands was called."""
        path = self.root / "calls"
        return path.read_text().split().count(name) if path.exists() else 0

    def switch(self, name: str) -> None:
        """Switch on, for good, how `fake_slurm` plays something."""
        (self.root / "faults" / name).write_text("")

    @contextlib.contextmanager
    def fault(self, name: str, value: str = "") -> Iterator[None]:
        """Switch a fault of `fake_slurm` on for a while."""
        path = self.root / "faults" / name
        path.write_text(value)
        try:
            yield
        finally:
            path.unlink()

    async def run(self, command: str, stdin: bytes) -> CommandResult:
        """Run a command; it goes on when nobody waits for it any more, as on a log-in node."""
        work = asyncio.ensure_future(self._run(command, stdin))
        self._running.append(work)
        return await asyncio.shield(work)

    async def _run(self, command: str, stdin: bytes) -> CommandResult:
        """Do as sshd does: by a shell, in the user's home, with little environment."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[CommandResult] = loop.create_future()
        # Not asyncio's own: who is cancelled while such a process starts waits for its end, and it
        # for its input.
        process = subprocess.Popen(  # noqa: ASYNC220
            [*self._become, "/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": f"{self._bin}:/usr/bin:/bin", "USER": "somebody"},
            start_new_session=True,
        )

        def tell(result: CommandResult) -> None:
            if not ended.done():
                ended.set_result(result)

        def wait() -> None:
            stdout, stderr = process.communicate(stdin)
            status = process.returncode or 0
            with contextlib.suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(
                    tell, CommandResult(exit_status=status, stdout=stdout, stderr=stderr)
                )

        threading.Thread(target=wait, daemon=True).start()
        return await ended

    async def settle(self) -> None:
        """Wait for what still runs."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def end(self) -> None:
        """Kill what still runs."""
        for job in self.jobs.values():
            if job.get("group"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(job["group"]), signal.SIGKILL)


@contextlib.contextmanager
def fake_site() -> Iterator[FakeSite]:
    """Make a site that lasts as long as the context."""
    # Not pytest's tmp_path, whose parents only root may enter.
    root = Path(tempfile.mkdtemp(prefix="fake-site-"))
    site = FakeSite(root)
    try:
        yield site
    finally:
        site.end()
        shutil.rmtree(root, ignore_errors=True)


@dataclass
class LocalTransport:
    """A `Transport` whose log-in node is a `FakeSite`; it counts what goes over it."""

    site: FakeSite
    programs: list[str] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    running: int = 0
    peak: int = 0
    closed: int = 0

    async def run(self, command: str, *, stdin: bytes, timeout: float) -> CommandResult:
        self.programs.append(stdin.decode())
        self.moments.append(time.monotonic())
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            async with asyncio.timeout(timeout):
                return await self.site.run(command, stdin)
        except TimeoutError as error:
            raise CommandTimeoutError("the fake site did not answer in time") from error
        finally:
            self.running -= 1

    async def close(self) -> None:
        self.closed += 1


@dataclass
class FaultyTransport:
    """Pass commands on, save those a fault was planned for."""

    inner: Transport
    plans: deque[tuple[str, Any]] = field(default_factory=deque)

    def plan(self, word: str, fault: Any) -> None:
        """Let a fault happen to the next program that holds a word."""
        self.plans.append((word, fault))

    async def run(self, command: str, *, stdin: bytes, timeout: float) -> CommandResult:
        def send(part: slice = slice(None)) -> Awaitable[CommandResult]:
            return self.inner.run(command, stdin=stdin[part], timeout=timeout)

        for plan in self.plans:
            if plan[0] in stdin.decode():
                self.plans.remove(plan)
                return await plan[1](send)
        return await send()

    async def close(self) -> None:
        await self.inner.close()


async def drop_before(_send: Any) -> CommandResult:
    """Lose the connection before the program arrives."""
    raise ConnectionLostError("dropped before it was sent")


async def refuse(_send: Any) -> CommandResult:
    """Let nobody in."""
    raise ConnectFailedError("nobody is let in")


async def drop_after(send: Any) -> CommandResult:
    """Lose the connection after the program ran, before its answer arrives."""
    await send()
    raise ConnectionLostError("dropped before the answer")


async def time_out(send: Any) -> CommandResult:
    """Give up waiting for a program that runs nevertheless."""
    await send()
    raise CommandTimeoutError("no answer in time")


def cut_at(size: int) -> Any:
    """Let only so many bytes of the answer arrive; negative: from its end."""

    async def cut(send: Any) -> CommandResult:
        done = await send()
        return CommandResult(exit_status=done.exit_status, stdout=done.stdout[:size], stderr=b"")

    return cut


def cut_program_at(size: int) -> Any:
    """Let only so many bytes of the program arrive, and nothing come back; negative: from its end."""

    async def cut(send: Any) -> CommandResult:
        await send(slice(size))
        raise ConnectionLostError("dropped while it was sent")

    return cut


def delay(seconds: float) -> Any:
    async def late(send: Any) -> CommandResult:
        await asyncio.sleep(seconds)
        done: CommandResult = await send()
        return done

    return late
