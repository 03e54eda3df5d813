"""A real SSH server in this process whose commands are ways to behave and to fail."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncssh

from airflow_provider_csc.transport.base import Hop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from airflow_provider_csc.transport.base import CommandResult

HALF_AN_ANSWER = b"@mark squeue 0 5000\nhalf"


@dataclass(kw_only=True)
class SshServer:
    """Where it listens, what it trusts, and what it has seen."""

    host_key: asyncssh.SSHKey
    port: int = 0
    max_sessions: int = 1000
    logins: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    sessions: int = 0
    peak_sessions: int = 0
    refused_sessions: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    shell: Callable[[str, bytes], Awaitable[CommandResult]] | None = None
    on_log_in: Callable[[], None] | None = None

    @property
    def hop(self) -> Hop:
        return Hop(host="127.0.0.1", port=self.port, username="alice")

    @property
    def known_hosts(self) -> str:
        return f"[127.0.0.1]:{self.port} {public_line(self.host_key)}\n"

    def drop_all(self) -> None:
        """Cut every connection, as a restart of sshd or a firewall does."""
        for connection in self.logins:
            connection.abort()

    async def answer(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Behave as the command's first word says, or run it where there is a shell."""
        command = process.command or ""
        self.commands.append(command)
        try:
            if self.shell:
                done = await self.shell(command, await process.stdin.read())
                process.stdout.write(done.stdout)
                process.stderr.write(done.stderr)
                process.exit(done.exit_status)
            else:
                await self._behave(process, *command.split())
        except (asyncssh.Error, OSError):
            process.close()

    async def _behave(
        self, process: asyncssh.SSHServerProcess[bytes], word: str, *rest: str
    ) -> None:
        match word:
            case "cat":
                process.stdout.write(await process.stdin.read())
                process.exit(0)
            case "exit":
                process.stdout.write(b"out")
                process.stderr.write(b"err")
                process.exit(int(rest[0]))
            case "killed":
                process.exit_with_signal("KILL")
            case "silent":
                process.stdout.write(HALF_AN_ANSWER)
                process.close()
            case "drop":
                process.stdout.write(HALF_AN_ANSWER)
                await process.stdout.drain()
                process.channel.get_connection().abort()
            case "wait":
                await self.release.wait()
                process.exit(0)
            case "hang":
                await asyncio.Event().wait()
            case "bytes":
                process.stdout.write(b"\xff\x00\r\n" * (int(rest[0]) // 4))
                process.exit(0)


class _Gate(asyncssh.SSHServer):
    """Count log-ins and sessions; let jumps through."""

    def __init__(self, server: SshServer) -> None:
        self._server = server

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if self._server.on_log_in is not None:
            self._server.on_log_in()
        return True

    def auth_completed(self) -> None:
        self._server.logins.append(self._connection)

    def session_requested(self) -> Any:
        server = self._server
        if server.sessions >= server.max_sessions:
            server.refused_sessions += 1
            return False
        server.sessions += 1
        server.peak_sessions = max(server.peak_sessions, server.sessions)
        return _CountedProcess(server)

    def connection_requested(self, *_address: object) -> bool:
        return True


class _CountedProcess(asyncssh.SSHServerProcess[bytes]):
    def __init__(self, server: SshServer) -> None:
        super().__init__(server.answer, None, 3, allow_scp=False)
        self._server = server

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.sessions -= 1
        super().connection_lost(exc)


def public_line(key: asyncssh.SSHKey) -> str:
    """A key as one line of known_hosts or authorized_keys has it."""
    return key.export_public_key().decode().strip()


@contextlib.asynccontextmanager
async def serve_ssh(
    *trusted: str, host_key: asyncssh.SSHKey | None = None, port: int = 0, max_sessions: int = 1000
) -> AsyncIterator[SshServer]:
    """Serve on loopback; ``trusted`` are lines of authorized_keys."""
    server = SshServer(
        host_key=host_key or asyncssh.generate_private_key("ssh-ed25519"),
        max_sessions=max_sessions,
    )
    acceptor = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=lambda: _Gate(server),
        server_host_keys=[server.host_key],
        authorized_client_keys=asyncssh.import_authorized_keys("\n".join(trusted)),
        encoding=None,
        config=None,
    )
    server.port = acceptor.get_port()
    try:
        yield server
    finally:
        acceptor.close()
        server.drop_all()
        await acceptor.wait_closed()


@contextlib.asynccontextmanager
async def serve_raw(
    behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None,
) -> AsyncIterator[int]:
    """Serve TCP that is no SSH server; yield its port."""
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The connection ends with the behaviour, or with the test.
        task = asyncio.ensure_future(behave(reader, writer))
        over = asyncio.ensure_future(done.wait())
        await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        over.cancel()
        writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        done.set()
        server.close()
        await asyncio.sleep(0)
