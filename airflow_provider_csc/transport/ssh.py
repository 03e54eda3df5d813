"""SSH by asyncssh: one connection, many commands, every failure named for what it is."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import asyncssh
from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED

from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConfigError,
    ConnectFailedError,
    ConnectionLostError,
)
from airflow_provider_csc.transport.base import CommandResult
from airflow_provider_csc.transport.ssh_credentials import load_credentials
from airflow_provider_csc.transport.ssh_login import open_connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_csc.transport.base import Hop, SshSettings
    from airflow_provider_csc.transport.ssh_credentials import Credential

# sshd refuses more than MaxSessions (10 by default) channels; leave room for a person's own.
_MAX_CHANNELS = 8
# MaxSessions may be less than that, and sshd takes a moment to forget a session that ended. The
# first is for a connection that is found dead when it is used.
_SESSION_DELAYS = (0.0, 0.05, 0.1, 0.2, 0.4)

# Copying a certificate over another one leaves half of one for a moment, or none.
_RENEWED = ("certificate", "certificate_file")
_RENEWAL_DELAYS = (0.1, 0.4)

# It would tell of every channel at INFO, into the log of whatever task happens to run.
asyncssh.set_log_level("WARNING")


class _NoSessionError(Exception):
    """The server opened no session, so the command has certainly not run."""


class _Link:
    """A chain of open connections, jump hosts first, and what runs over it."""

    def __init__(self, chain: list[asyncssh.SSHClientConnection]) -> None:
        self._chain = chain
        self.target = chain[-1]
        self.commands = 0
        self.sessions = 0
        self.sessions_so_far = 0
        self.is_given_up = False
        self._freed = asyncio.Event()

    async def run(self, command: str, stdin: bytes) -> asyncssh.SSHCompletedProcess:
        """Run a command in a session of its own, which ends with it, however that is."""
        try:
            process = await self.target.create_process(command, encoding=None)
        except asyncssh.ChannelOpenError as error:
            if error.code == OPEN_REQUEST_SESSION_FAILED:
                raise  # The command was sent already; what it did is not known.
            raise _NoSessionError(error.reason) from error
        self.sessions += 1
        self.sessions_so_far += 1
        try:
            with suppress(BrokenPipeError):  # It need not read what it is given.
                process.stdin.write(stdin)
                process.stdin.write_eof()
            return await process.wait()
        finally:
            process.close()
            self.sessions -= 1
            self._freed.set()

    async def wait_for_session(self) -> None:
        """Wait until one of the commands that run has ended."""
        self._freed.clear()
        await self._freed.wait()

    def close(self) -> None:
        """Say good-bye where there is still somebody to hear it; never waits."""
        for connection in reversed(self._chain):
            connection.close()


class SshTransport:
    """
    A `Transport` over one SSH connection, opened when first needed and again after a loss.

    It belongs to one event loop. Credentials are read at each opening, so a renewed certificate is
    found without a restart. After a command that got no whole answer, later ones take a new
    connection, because a dead network looks like that; commands still running keep the old one.
    """

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        self._opening = asyncio.Lock()
        self._channels = asyncio.Semaphore(_MAX_CHANNELS)
        self._links: list[_Link] = []
        self._current: _Link | None = None

    async def run(self, command: str, *, stdin: bytes, timeout: float) -> CommandResult:
        """Run a command on the log-in node; see `Transport.run`."""
        async with self._channels:
            done = await self._run(command, stdin, timeout)
        if done.exit_status is None or done.exit_status < 0:
            raise ConnectionLostError(
                f"{self._settings.target} ended the command without an exit status; what it did "
                "is not known.",
                host=self._settings.target.host,
            )
        return CommandResult(
            exit_status=done.exit_status,
            stdout=_as_bytes(done.stdout),
            stderr=_as_bytes(done.stderr),
        )

    async def close(self) -> None:
        """Close the connection and those of the jump hosts beneath it; ends what still runs."""
        links, self._links, self._current = self._links, [], None
        for link in links:
            link.is_given_up = True
            link.close()
        for link in links:
            await link.target.wait_closed()

    async def _run(
        self, command: str, stdin: bytes, timeout: float
    ) -> asyncssh.SSHCompletedProcess:
        """Run a command; where no session was opened nothing has run, so that is tried again."""
        delays = iter(_SESSION_DELAYS)
        seen = 0
        while True:
            link = await self._connect()
            try:
                return await self._run_on(link, command, stdin, timeout)
            except _NoSessionError as error:
                if link.is_given_up:
                    raise _closed_meanwhile(self._settings.target) from error
                if link.sessions_so_far != seen:  # Others are served, so it is only crowded.
                    seen, delays = link.sessions_so_far, iter(_SESSION_DELAYS)
                if link.sessions:
                    await link.wait_for_session()
                elif (delay := next(delays, None)) is not None:
                    await asyncio.sleep(delay)
                else:
                    raise _no_session(self._settings.target, error) from error

    async def _run_on(
        self, link: _Link, command: str, stdin: bytes, timeout: float
    ) -> asyncssh.SSHCompletedProcess:
        link.commands += 1
        try:
            with _command_errors(str(self._settings.target)):
                async with asyncio.timeout(timeout):
                    return await link.run(command, stdin)
        except _NoSessionError:
            raise
        except BaseException:
            self._retire(link)
            raise
        finally:
            link.commands -= 1
            self._drop_unused()

    def _retire(self, link: _Link) -> None:
        """Give this link no further commands."""
        if self._current is link:
            self._current = None
        self._drop_unused()

    def _drop_unused(self) -> None:
        for link in list(self._links):
            if link is not self._current and not link.commands:
                self._links.remove(link)
                link.close()

    async def _connect(self) -> _Link:
        async with self._opening:
            if self._current is not None and self._current.target.is_closed():
                self._retire(self._current)
            if self._current is None:
                self._current = _Link(await self._open_chain())
                self._links.append(self._current)
            return self._current

    async def _load_credentials(self) -> list[Credential]:
        """Read key and certificate; a file may just be replaced by whoever renews it."""
        for delay in _RENEWAL_DELAYS:
            try:
                return await asyncio.to_thread(load_credentials, self._settings)
            except ConfigError as error:
                if self._settings.certificate or error.details.get("field") not in _RENEWED:
                    raise
            await asyncio.sleep(delay)
        return await asyncio.to_thread(load_credentials, self._settings)

    async def _open_chain(self) -> list[asyncssh.SSHClientConnection]:
        credentials = await self._load_credentials()
        # Kept apart until it is whole: nobody else may close, or connect through, half of it.
        chain: list[asyncssh.SSHClientConnection] = []
        try:
            for hop in (*self._settings.jump_hosts, self._settings.target):
                tunnel = chain[-1] if chain else None
                chain.append(await open_connection(self._settings, hop, credentials, tunnel))
        except BaseException:
            for connection in reversed(chain):
                connection.close()
            raise
        return chain


def _closed_meanwhile(target: Hop) -> ConnectionLostError:
    return ConnectionLostError(
        f"The connection to {target} was closed before the command began.", host=target.host
    )


def _no_session(target: Hop, error: Exception) -> ConnectFailedError:
    return ConnectFailedError(
        f"{target.host} accepts the log-in but opens no session: {error}", host=target.host
    )


def _as_bytes(output: object) -> bytes:
    return output if isinstance(output, bytes) else b""


@contextmanager
def _command_errors(host: str) -> Iterator[None]:
    """Name what can go wrong once a connection stands."""
    try:
        yield
    except (asyncssh.TimeoutError, TimeoutError) as error:
        raise CommandTimeoutError(
            f"{host} did not answer a command in time; what it did is not known.", host=host
        ) from error
    except (asyncssh.Error, OSError) as error:
        raise ConnectionLostError(
            f"The connection to {host} was lost during a command ({error}); what it did is not "
            "known.",
            host=host,
        ) from error
