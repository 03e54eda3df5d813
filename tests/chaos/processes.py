"""The suite's side of forked processes: start a worker or a triggerer, kill it, hear of its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.chaos.cluster import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(slots=True)
class Fork:
    """One forked process."""

    number: str
    started: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    pid: int = 0

    def kill(self, number: signal.Signals = signal.SIGKILL) -> bool:
        """Send a signal; tell whether there was still somebody to get it."""
        if not self.pid or self.ended.is_set():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


class Forks:
    """The fork server and its children."""

    def __init__(
        self, directory: Path, environment: dict[str, str], hosts: Path | None, *, workers: int
    ) -> None:
        self.directory = directory
        self.slots = asyncio.Semaphore(workers)
        self._environment = environment
        self._hosts = hosts
        self._numbers = itertools.count(1)
        self._forks: dict[str, Fork] = {}
        self._server: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        words = [sys.executable, "-P", "-m", "tests.chaos.forks", str(self.directory)]
        if self._hosts is not None:
            # A mount namespace of its own, so that its /etc/hosts can change and no one else's.
            mount = f"mount --bind {self._hosts} /etc/hosts\n"
            # No server of names listens there: a name that is not in the file is for now unknown.
            dead = self._hosts.with_name("resolv.conf")
            dead.write_text("nameserver 127.0.0.9\noptions timeout:1 attempts:1\n")
            mount += f'mount --bind {dead} /etc/resolv.conf && exec "$@"'
            words = ["unshare", "--mount", "sh", "-c", mount, "sh", *words]
        with (self.directory / "forks.log").open("ab") as log:
            self._server = await asyncio.create_subprocess_exec(
                *words,
                cwd=CHECKOUT,
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=1 << 20,
            )
        self._reader = asyncio.create_task(self._read(self._server))
        async with asyncio.timeout(120):
            await self._ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._server.stdin is not None
        for fork in self._forks.values():
            fork.kill()
        self._server.stdin.close()
        await self._server.wait()
        assert self._reader is not None
        await self._reader

    async def _read(self, server: asyncio.subprocess.Process) -> None:
        assert server.stdout is not None
        while line := await server.stdout.readline():
            if not line.startswith(b"{"):
                continue  # something that was imported printed it
            said = json.loads(line)
            if "ready" in said:
                self._ready.set()
                continue
            fork = self._forks[said["id"]]
            if "pid" in said:
                fork.pid = said["pid"]
                fork.started.set()
            else:
                fork.ended.set()
                del self._forks[said["id"]]
        for fork in self._forks.values():
            fork.ended.set()

    async def start(self, order: dict[str, Any]) -> Fork:
        """Fork a child that plays ``order["role"]``."""
        assert self._server is not None
        assert self._server.stdin is not None
        fork = Fork(f"{order['role']}-{next(self._numbers)}")
        self._forks[fork.number] = fork
        self._server.stdin.write(json.dumps({**order, "id": fork.number}).encode() + b"\n")
        await fork.started.wait()
        return fork

    def outcome(self, fork: Fork) -> dict[str, Any] | None:
        """What a worker handed over; None when it was killed before it could."""
        try:
            outcome: dict[str, Any] = json.loads(
                (self.directory / "outcomes" / f"{fork.number}.json").read_text()
            )
        except FileNotFoundError:
            return None
        return outcome


@dataclass(slots=True)
class Waiting:
    """One stored trigger and who waits for its event."""

    number: str
    stored: list[Any]
    event: asyncio.Future[dict[str, Any]]
    is_to_be_killed: bool = False
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    held_by: set[str] = field(default_factory=set)


class Triggerers:
    """
    Triggerers that can be killed, and the database row of each trigger they run.

    As in Airflow a trigger of a triggerer that died goes to another one, from its stored form; and
    for a while two may run the same one. The first event counts.
    """

    # Airflow's is triggerer_health_check_threshold, 30 s: too long for thousands of kills.
    TAKE_OVER_SECONDS = 0.5

    def __init__(self, name: str, forks: Forks, environment: Callable[[], dict[str, str]]) -> None:
        self._forks = forks
        self._environment = environment
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Waiting] = {}
        self._links: dict[str, asyncio.StreamWriter] = {}
        self._processes: dict[str, Fork] = {}
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._arrived: asyncio.Queue[str] = asyncio.Queue()
        self._socket = forks.directory / f"{name}.socket"

    async def __aenter__(self) -> Self:
        self._socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, self._socket, limit=1 << 24)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for fork in self._processes.values():
            fork.kill()
        assert self._server is not None
        self._server.close()
        # One whose start was cut short is not among the processes; without a connection it ends.
        while self._links:
            for writer in self._links.values():
                writer.transport.abort()
            await asyncio.sleep(0.01)
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await asyncio.sleep(0.1)  # the transports close one round of the loop later

    @property
    def names(self) -> list[str]:
        return list(self._links)

    async def start(self) -> str:
        """Start one more, and give it what nobody runs."""
        fork = await self._forks.start(
            {
                "role": "triggerer",
                "socket": str(self._socket),
                "log": f"{self._socket.stem}-triggerer.log",
                "environment": self._environment(),
            }
        )
        async with asyncio.timeout(30):
            name = await self._arrived.get()
        self._processes[name] = fork
        self._hand_out()
        return name

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> bool:
        """Kill one; True when it was alive and had work."""
        busy = any(name in waiting.held_by for waiting in self._waiting.values())
        fork = self._processes.get(name)
        return fork is not None and fork.kill(how) and busy

    async def run(self, stored: list[Any], on_start: Callable[[Waiting], None]) -> dict[str, Any]:
        """Return ``{"event"}`` or ``{"error"}`` of a trigger, whoever runs it."""
        number = f"t{next(self._numbers)}"
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        waiting = self._waiting[number] = Waiting(number, stored, future)
        self._hand_out()
        on_start(waiting)
        try:
            return await future
        finally:
            for name in waiting.held_by:
                self._tell(name, {"do": "forget", "id": number})
            self._waiting.pop(number, None)

    async def kill_trigger(self, waiting: Waiting) -> None:
        """The user ended the task: whoever runs its trigger must hear of it."""
        while not waiting.held_by:
            await asyncio.sleep(0.05)
        waiting.is_to_be_killed = True
        for name in waiting.held_by:
            self._tell(name, {"do": "kill", "id": waiting.number})
        waiting.held_by.clear()
        await waiting.killed.wait()

    def double(self) -> int:
        """Let the newest triggerer run, too, what others run; return how many triggers that is."""
        newest = list(self._links)[-1]
        doubled = [one for one in self._waiting.values() if newest not in one.held_by]
        for waiting in doubled:
            self._give(waiting, newest)
        return len(doubled)

    def _hand_out(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.held_by and self._links and not waiting.is_to_be_killed:
                least = min(self._links, key=self._load)
                self._give(waiting, least)

    def _load(self, name: str) -> int:
        return sum(name in waiting.held_by for waiting in self._waiting.values())

    def _give(self, waiting: Waiting, name: str) -> None:
        waiting.held_by.add(name)
        self._tell(name, {"do": "run", "id": waiting.number, "trigger": waiting.stored})

    def _tell(self, name: str, order: dict[str, Any]) -> None:
        if name in self._links:
            self._links[name].write(json.dumps(order).encode() + b"\n")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.create_task(self._serve(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = f"triggerer-{id(writer)}"
        self._links[name] = writer
        self._arrived.put_nowait(name)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self._take(json.loads(line))
        del self._links[name]
        writer.transport.abort()
        await asyncio.sleep(self.TAKE_OVER_SECONDS)
        for waiting in self._waiting.values():
            waiting.held_by.discard(name)
        self._hand_out()

    def _take(self, said: dict[str, Any]) -> None:
        waiting = self._waiting.get(said["id"])
        if waiting is None:
            return
        if said.get("killed"):
            waiting.killed.set()
            said = {"killed": True}
        if not waiting.event.done():
            waiting.event.set_result(said)
