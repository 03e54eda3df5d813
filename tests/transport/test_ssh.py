"""SSH against real servers in this process: what succeeds, and what each failure is called."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import logging
import os
import socket
import time
import traceback
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest
import pytest_asyncio

from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConfigError,
    ConnectFailedError,
    ConnectionLostError,
    CscError,
    TransportError,
)
from airflow_provider_csc.transport.base import CommandResult, Hop, Secret, SshSettings
from airflow_provider_csc.transport.ssh import SshTransport
from tests.support.garbage import only_new_garbage
from tests.support.ssh_server import SshServer, public_line, serve_raw, serve_ssh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio

PASSPHRASE = "p455-phrase-text"
KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER_KEY = asyncssh.generate_private_key("ssh-ed25519")
CA = asyncssh.generate_private_key("ssh-ed25519")


def private_text(key: asyncssh.SSHKey) -> str:
    return key.export_private_key().decode()


@functools.cache
def locked_text(form: str) -> str:
    """KEY, or for a form it has not an RSA key, behind PASSPHRASE."""
    key = KEY if form != "pkcs1-pem" else asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    # The fewest rounds bcrypt allows: the key must open fast, not resist.
    rounds = {"rounds": 50} if form == "openssh" else {}
    return key.export_private_key(form, passphrase=PASSPHRASE, **rounds).decode()


# Parts of what must never be shown: lines of each form of the private keys, and the passphrase.
SECRETS = (*private_text(KEY).split("\n")[1:-2], PASSPHRASE)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys, known hosts or an agent, so that only what a test gives counts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def _only_new_garbage() -> Iterator[None]:
    with only_new_garbage():
        yield


@pytest_asyncio.fixture(autouse=True)
async def quiet_loop() -> AsyncIterator[None]:
    """Fail on what asyncio complains of: exceptions nobody took, tasks that were left behind."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield
    assert not [secret for secret in SECRETS if secret in caplog.text]


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SshServer]:
    async with serve_ssh(public_line(KEY), f"cert-authority {public_line(CA)}") as server:
        yield server


def settings(server: SshServer, **changes: Any) -> SshSettings:
    values: dict[str, Any] = {
        "target": server.hop,
        "private_key": Secret(value=private_text(KEY)),
        "known_hosts": server.known_hosts,
        "connect_timeout": 5.0,
    }
    return SshSettings(**(values | changes))


@contextlib.asynccontextmanager
async def opened(settings: SshSettings) -> AsyncIterator[SshTransport]:
    transport = SshTransport(settings)
    try:
        yield transport
    finally:
        await transport.close()


async def run(
    settings: SshSettings, command: str = "exit 0", stdin: bytes = b"", timeout: float = 5.0
) -> CommandResult:
    async with opened(settings) as transport:
        return await transport.run(command, stdin=stdin, timeout=timeout)


async def failure(settings: SshSettings, command: str = "exit 0", **limits: float) -> CscError:
    """The error of a command that must fail; no secret may be in anything it carries."""
    with pytest.raises((TransportError, ConfigError)) as caught:
        await run(settings, command, **limits)
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.details)
    assert not [secret for secret in SECRETS if secret in shown]
    return error


async def until(condition: Any) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.005)


# Commands


async def test_a_command_gets_its_input_and_gives_its_output(server: SshServer) -> None:
    text = "käse\0\n\xff".encode("latin-1") * 100_000
    assert await run(settings(server), "cat", stdin=text) == CommandResult(
        exit_status=0, stdout=text, stderr=b""
    )


async def test_empty_input_is_an_end_of_input_too(server: SshServer) -> None:
    """asyncssh's own ``input=`` leaves it open, and the command would wait for it for ever."""
    assert (await run(settings(server), "cat", stdin=b"")).stdout == b""


@pytest.mark.parametrize("status", [0, 1, 3, 127, 255])
async def test_the_exit_status_is_passed_through(server: SshServer, status: int) -> None:
    done = await run(settings(server), f"exit {status}")
    assert done == CommandResult(exit_status=status, stdout=b"out", stderr=b"err")


async def test_output_is_bytes_whatever_they_are(server: SshServer) -> None:
    done = await run(settings(server), "bytes 4000000")
    assert done.stdout == b"\xff\x00\r\n" * 1_000_000


@pytest.mark.parametrize("command", ["silent", "killed"])
async def test_no_exit_status_is_not_zero(server: SshServer, command: str) -> None:
    error = await failure(settings(server), command)
    assert isinstance(error, ConnectionLostError)
    assert "without an exit status" in error.message
    assert "not known" in error.message


async def test_a_connection_dropped_mid_command_leaves_the_outcome_unknown(
    server: SshServer,
) -> None:
    error = await failure(settings(server), "drop")
    assert isinstance(error, ConnectionLostError)
    assert "not known" in error.message
    assert server.commands == ["drop"]


async def test_a_command_that_takes_too_long_is_given_up(server: SshServer) -> None:
    error = await failure(settings(server), "hang", timeout=0.05)
    assert isinstance(error, CommandTimeoutError)
    assert "127.0.0.1" in error.message


async def test_a_command_given_up_frees_its_session(server: SshServer) -> None:
    async with opened(settings(server)) as transport:
        with pytest.raises(CommandTimeoutError):
            await transport.run("hang", stdin=b"", timeout=0.05)
        await until(lambda: server.sessions == 0)


async def test_a_cancelled_command_frees_its_session(server: SshServer) -> None:
    """It leaked before: sshd's MaxSessions would have been used up by commands nobody awaits."""
    async with opened(settings(server)) as transport:
        other = asyncio.ensure_future(transport.run("wait", stdin=b"", timeout=5))
        task = asyncio.ensure_future(transport.run("hang", stdin=b"", timeout=5))
        await until(lambda: transport._links and transport._links[0].sessions == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.sessions == 1)
        server.release.set()
        assert (await other).exit_status == 0


async def test_one_command_given_up_does_not_take_the_others_with_it(server: SshServer) -> None:
    async with opened(settings(server)) as transport:
        slow = asyncio.ensure_future(transport.run("wait", stdin=b"", timeout=5))
        await until(lambda: server.sessions == 1)
        with pytest.raises(CommandTimeoutError):
            await transport.run("hang", stdin=b"", timeout=0.05)
        server.release.set()
        assert (await slow).exit_status == 0


async def test_after_a_command_given_up_the_next_one_has_a_fresh_connection(
    server: SshServer,
) -> None:
    """A command without an answer is how a dead network looks, too."""
    async with opened(settings(server)) as transport:
        with pytest.raises(CommandTimeoutError):
            await transport.run("hang", stdin=b"", timeout=0.05)
        assert (await transport.run("exit 0", stdin=b"", timeout=5)).exit_status == 0
        assert len(server.logins) == 2
        await until(server.logins[0].is_closed)


async def test_a_late_failure_on_an_old_connection_leaves_the_new_one_alone(
    server: SshServer,
) -> None:
    async with opened(settings(server)) as transport:
        late = asyncio.ensure_future(transport.run("hang", stdin=b"", timeout=0.25))
        await until(lambda: server.sessions == 1)
        with pytest.raises(CommandTimeoutError):
            await transport.run("hang", stdin=b"", timeout=0.05)
        running = asyncio.ensure_future(transport.run("wait", stdin=b"", timeout=5))
        with pytest.raises(CommandTimeoutError):
            await late
        server.release.set()
        assert (await running).exit_status == 0


# One connection, few channels


async def test_fifty_commands_at_once_share_one_connection_and_eight_sessions(
    server: SshServer,
) -> None:
    async with opened(settings(server)) as transport:
        done = await asyncio.gather(
            *(transport.run("cat", stdin=b"%d" % number, timeout=5) for number in range(50))
        )
    assert [each.stdout for each in done] == [b"%d" % number for number in range(50)]
    assert len(server.logins) == 1
    assert 1 < server.peak_sessions <= 8


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_server_with_fewer_sessions_than_ours_serves_all_commands(limit: int) -> None:
    """MaxSessions may be 1 on a log-in node; a refused session ran nothing, so it can wait."""
    async with serve_ssh(public_line(KEY), max_sessions=limit) as server:
        async with opened(settings(server)) as transport:
            done = await asyncio.gather(
                *(transport.run("cat", stdin=b"x" * 100_000, timeout=5) for _ in range(12))
            )
        assert [each.exit_status for each in done] == [0] * 12
        assert len(server.commands) == 12
        assert len(server.logins) == 1
        assert server.refused_sessions


async def test_a_server_that_gives_no_session_at_all_is_said_so() -> None:
    async with serve_ssh(public_line(KEY), max_sessions=0) as server:
        error = await failure(settings(server))
    assert isinstance(error, ConnectFailedError)
    assert "session" in error.message
    assert server.commands == []


async def test_a_lost_connection_is_opened_again(server: SshServer) -> None:
    async with opened(settings(server)) as transport:
        for expected in (1, 2):
            assert (await transport.run("exit 0", stdin=b"", timeout=5)).exit_status == 0
            assert len(server.logins) == expected
            server.drop_all()
            await asyncio.sleep(0.02)


async def test_a_connection_found_dead_when_used_is_opened_again(server: SshServer) -> None:
    """Nothing was sent, so nothing is unknown: the command simply goes over a new connection."""
    async with opened(settings(server)) as transport:
        assert (await transport.run("exit 0", stdin=b"", timeout=5)).exit_status == 0
        server.drop_all()
        done = await asyncio.gather(
            *(transport.run("exit 3", stdin=b"", timeout=5) for _ in range(5))
        )
        assert [each.exit_status for each in done] == [3] * 5
        assert server.commands == ["exit 0"] + ["exit 3"] * 5
        assert len(server.logins) == 2


async def test_closing_ends_the_connection_and_a_later_command_opens_a_new_one(
    server: SshServer,
) -> None:
    async with opened(settings(server)) as transport:
        await transport.run("exit 0", stdin=b"", timeout=5)
        await transport.close()
        await until(server.logins[0].is_closed)
        await transport.run("exit 0", stdin=b"", timeout=5)
        assert len(server.logins) == 2


async def test_closing_ends_running_commands_too(server: SshServer) -> None:
    async with opened(settings(server)) as transport:
        task = asyncio.ensure_future(transport.run("hang", stdin=b"", timeout=5))
        await until(lambda: server.sessions == 1)
        await transport.close()
        with pytest.raises(ConnectionLostError):
            await task
    await until(lambda: server.sessions == 0)


async def test_a_cancelled_log_in_leaves_no_connection_behind(server: SshServer) -> None:
    async with opened(settings(server)) as transport:
        for moment in range(0, 40, 2):
            task = asyncio.ensure_future(transport.run("hang", stdin=b"", timeout=5))
            await asyncio.sleep(moment / 1000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert transport._links == []
    await until(lambda: all(each.is_closed() for each in server.logins))


# Servers that are not there, or not well


@contextlib.asynccontextmanager
async def nobody() -> AsyncIterator[int]:
    """A port on which nobody listens."""
    async with serve_raw(None) as port:
        pass
    yield port


async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """End at once, as MaxStartups and a blocked address do."""


async def hang_up_in_key_exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await reader.readline()
    await reader.read(100)


async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


def elsewhere(port: int, **changes: Any) -> SshSettings:
    values: dict[str, Any] = {
        "target": Hop(host="127.0.0.1", port=port, username="alice"),
        "private_key": Secret(value=private_text(KEY)),
        "no_host_key_check": True,
        "connect_timeout": 5.0,
    }
    return SshSettings(**(values | changes))


async def test_a_refused_connection_names_host_and_port() -> None:
    async with nobody() as port:
        error = await failure(elsewhere(port))
    assert isinstance(error, ConnectFailedError)
    assert f"127.0.0.1 refused a connection to port {port}" in error.message


async def test_a_host_with_several_addresses_that_all_refuse_is_called_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """asyncio then raises a plain OSError whose text holds all of them."""
    async with nobody() as port:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.1", "127.0.0.2")
        ]

        async def getaddrinfo(*_args: object, **_options: object) -> list[Any]:
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        error = await failure(elsewhere(port, target=Hop(host="login.csc.fi", port=port)))
    assert f"login.csc.fi refused a connection to port {port}" in error.message


async def test_a_black_hole_is_given_up_within_the_time_allowed() -> None:
    async with serve_raw(silent) as port:
        started = time.monotonic()
        error = await failure(elsewhere(port, connect_timeout=0.1))
    assert time.monotonic() - started < 1
    assert isinstance(error, ConnectFailedError)
    assert "did not answer in time" in error.message


@pytest.mark.parametrize("behave", [hang_up, hang_up_in_key_exchange])
async def test_a_connection_closed_before_the_log_in_is_called_that(behave: Any) -> None:
    async with serve_raw(behave) as port:
        error = await failure(elsewhere(port))
    assert isinstance(error, ConnectFailedError)
    assert "closed the connection before the log-in was done" in error.message


async def test_a_server_of_another_kind_is_a_failed_connection() -> None:
    async with serve_raw(web_server) as port:
        error = await failure(elsewhere(port))
    assert isinstance(error, ConnectFailedError)
    assert f"127.0.0.1:{port}" in error.message


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "no..dots"])
async def test_a_name_dns_cannot_know_names_the_host(host: str) -> None:
    error = await failure(elsewhere(22, target=Hop(host=host, username="alice")))
    assert isinstance(error, TransportError | ConfigError)
    assert host in error.message


# Host keys


async def test_the_default_known_hosts_file_is_used(server: SshServer, home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "known_hosts").write_text(server.known_hosts)
    assert (await run(settings(server, known_hosts=None))).exit_status == 0


async def test_an_unknown_host_key_is_refused_and_shown(server: SshServer) -> None:
    error = await failure(settings(server, known_hosts=None))
    assert isinstance(error, ConnectFailedError)
    assert "host key of 127.0.0.1 is unknown" in error.message
    assert f"ssh-ed25519 {server.host_key.get_fingerprint()}" in error.message
    assert server.logins == []


def by_fingerprint(server: SshServer, *keys: asyncssh.SSHKey, **changes: Any) -> SshSettings:
    prints = tuple(key.get_fingerprint("sha256") for key in keys)
    values = {"known_hosts": None, "host_key_fingerprints": prints}
    return settings(server, **(values | changes))


async def test_a_host_key_is_trusted_by_its_fingerprint(server: SshServer) -> None:
    trusted = by_fingerprint(server, OTHER_KEY, server.host_key)
    assert (await run(trusted)).exit_status == 0


async def test_a_host_key_of_another_fingerprint_is_refused_and_all_are_shown(
    server: SshServer,
) -> None:
    error = await failure(by_fingerprint(server, OTHER_KEY, KEY))
    assert isinstance(error, ConnectFailedError)
    assert error.is_lasting
    assert "not one that the profile of the site names" in error.message
    assert f"ssh-ed25519 {server.host_key.get_fingerprint()}" in error.message
    assert f"{OTHER_KEY.get_fingerprint()}, {KEY.get_fingerprint()}" in error.message
    assert server.logins == []


async def test_known_hosts_of_the_user_are_not_asked_where_fingerprints_are(
    server: SshServer, home: Path
) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "known_hosts").write_text(server.known_hosts)
    assert "not one that" in (await failure(by_fingerprint(server, OTHER_KEY))).message


async def test_what_the_connection_says_of_host_keys_goes_before_fingerprints(
    server: SshServer,
) -> None:
    for given in (
        {"known_hosts": server.known_hosts},
        {"host_key": public_line(server.host_key)},
        {"no_host_key_check": True},
    ):
        assert (await run(by_fingerprint(server, OTHER_KEY, **given))).exit_status == 0
    line = f"[127.0.0.1]:{server.port} {public_line(OTHER_KEY)}"
    given = by_fingerprint(server, server.host_key, known_hosts=line)
    assert "CHANGED" in (await failure(given)).message


async def test_a_changed_host_key_is_refused_and_both_are_shown(server: SshServer) -> None:
    line = f"[127.0.0.1]:{server.port} {public_line(OTHER_KEY)}"
    error = await failure(settings(server, known_hosts=line))
    assert isinstance(error, ConnectFailedError)
    assert "CHANGED" in error.message
    assert server.host_key.get_fingerprint() in error.message
    assert OTHER_KEY.get_fingerprint() in error.message


async def test_a_host_key_of_another_type_than_the_known_one_has_changed_too(
    server: SshServer,
) -> None:
    """The key exchange then finds no common algorithm, and no key is ever compared."""
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    line = f"[127.0.0.1]:{server.port} {public_line(other)}"
    error = await failure(settings(server, known_hosts=line))
    assert "CHANGED" in error.message
    assert server.host_key.get_fingerprint() in error.message
    assert other.get_fingerprint() in error.message


async def test_a_revoked_host_key_is_refused_as_such(server: SshServer) -> None:
    lines = f"@revoked * {public_line(server.host_key)}\n{server.known_hosts}"
    error = await failure(settings(server, known_hosts=lines))
    assert "revoked" in error.message


async def test_a_server_that_stops_answering_does_not_delay_the_host_key_error(
    server: SshServer,
) -> None:
    """Its key is asked for once more, to be shown; that must not wait for ever."""
    async with stalling_proxy(server.port) as port:
        started = time.monotonic()
        error = await failure(
            settings(
                server,
                target=Hop(host="127.0.0.1", port=port, username="alice"),
                known_hosts=None,
                connect_timeout=0.3,
            )
        )
    assert time.monotonic() - started < 2
    assert "unknown" in error.message


@contextlib.asynccontextmanager
async def stalling_proxy(port: int) -> AsyncIterator[int]:
    """Pass the first connection on, and let later ones wait."""
    passed = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed.append(1)
        if len(passed) > 1:
            await asyncio.Event().wait()
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        copies = [
            asyncio.ensure_future(copy(*pair))
            for pair in ((reader, up_writer), (up_reader, writer))
        ]
        try:
            await asyncio.gather(*copies)
        finally:
            for each in copies:
                each.cancel()
            up_writer.transport.abort()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)

    async with serve_raw(behave) as own_port:
        yield own_port


@pytest.mark.parametrize("comment", ["", " root@login1"])
async def test_a_pinned_host_key_is_trusted(server: SshServer, comment: str) -> None:
    pinned = settings(
        server, known_hosts=None, host_key=f" {public_line(server.host_key)}{comment}\n"
    )
    assert (await run(pinned)).exit_status == 0


async def test_a_pinned_rsa_key_may_leave_out_its_type() -> None:
    """As in the SSH provider."""
    rsa = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    async with serve_ssh(public_line(KEY), host_key=rsa) as server:
        bare = public_line(rsa).split()[1]
        assert (await run(settings(server, known_hosts=None, host_key=bare))).exit_status == 0


async def test_a_pinned_host_key_wins_over_known_hosts(server: SshServer) -> None:
    error = await failure(settings(server, host_key=public_line(OTHER_KEY)))
    assert "CHANGED" in error.message


@pytest.mark.parametrize("text", ["ssh-ed25519 not-base64", "rubbish", "ssh-ed25519"])
async def test_a_pinned_host_key_that_is_none_is_said(server: SshServer, text: str) -> None:
    error = await failure(settings(server, host_key=text))
    assert isinstance(error, ConfigError)
    assert error.field == "host_key"
    assert text in error.message


@pytest.mark.parametrize(
    "pattern",
    ["[127.0.0.1]:{port}", "127.0.0.1", "[127.0.0.1]:*", "*", "[127.0.0.1]:{port},login.csc.fi"],
)
async def test_known_hosts_may_be_lines(server: SshServer, pattern: str) -> None:
    line = f"{pattern.format(port=server.port)} {public_line(server.host_key)}"
    assert (await run(settings(server, known_hosts=line))).exit_status == 0


async def test_a_known_host_under_another_port_is_unknown(server: SshServer) -> None:
    line = f"[127.0.0.1]:{server.port + 1} {public_line(server.host_key)}"
    error = await failure(settings(server, known_hosts=line))
    assert "unknown" in error.message


async def test_known_hosts_may_be_a_file_with_anything_in_its_comments(
    server: SshServer, tmp_path: Path
) -> None:
    path = tmp_path / "known hosts"
    path.write_bytes(b"# verwaltet von J\xfcrgen\n\r\n" + server.known_hosts.encode())
    assert (await run(settings(server, known_hosts=str(path)))).exit_status == 0
    assert (await run(settings(server, known_hosts="~/known hosts"))).exit_status == 0


async def test_a_known_hosts_file_that_is_missing_is_said(server: SshServer) -> None:
    error = await failure(settings(server, known_hosts="/no/such/file"))
    assert isinstance(error, ConfigError)
    assert error.field == "known_hosts"
    assert "'/no/such/file'" in error.message
    assert "No such file" in error.message


async def test_a_known_hosts_file_with_a_bad_line_is_said(
    server: SshServer, tmp_path: Path
) -> None:
    (tmp_path / "known").write_text("@nonsense host ssh-ed25519 AAAA\n")
    error = await failure(settings(server, known_hosts=str(tmp_path / "known")))
    assert isinstance(error, ConfigError)
    assert error.field == "known_hosts"


async def test_only_the_switch_of_that_name_trusts_any_host_key(server: SshServer) -> None:
    open_minded = settings(server, known_hosts=None, no_host_key_check=True)
    assert (await run(open_minded)).exit_status == 0


# Keys


async def test_a_key_the_server_does_not_know_is_refused_by_name(server: SshServer) -> None:
    error = await failure(settings(server, private_key=Secret(value=private_text(OTHER_KEY))))
    assert isinstance(error, ConnectFailedError)
    assert "127.0.0.1 refused the log-in of 'alice'" in error.message
    assert "no certificate" in error.message


async def test_a_key_file_is_read(server: SshServer, home: Path) -> None:
    (home / "id").write_text(private_text(KEY))
    by_file = settings(server, private_key=None, key_file="~/id")
    assert (await run(by_file)).exit_status == 0


async def test_without_a_key_the_users_own_is_used(server: SshServer, home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_ed25519").write_text(private_text(KEY))
    assert (await run(settings(server, private_key=None))).exit_status == 0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.strip(), id="no newline at its end"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="Windows line endings"),
        pytest.param(lambda text: f"\n  {text}\n\n", id="space around it"),
    ],
)
async def test_a_key_pasted_into_a_form_still_opens(server: SshServer, change: Any) -> None:
    pasted = Secret(value=change(private_text(KEY)))
    assert (await run(settings(server, private_key=pasted))).exit_status == 0


async def test_an_encrypted_key_opens_with_its_passphrase(server: SshServer) -> None:
    locked = settings(
        server,
        private_key=Secret(value=locked_text("openssh")),
        passphrase=Secret(value=PASSPHRASE),
    )
    assert (await run(locked)).exit_status == 0


@pytest.mark.parametrize(
    ("passphrase", "remedy"),
    [(None, "Give the private key passphrase"), ("wrong", "Correct the private key passphrase")],
)
@pytest.mark.parametrize("form", ["openssh", "pkcs8-pem", "pkcs1-pem"])
async def test_an_encrypted_key_that_does_not_open_says_so(
    server: SshServer, form: str, passphrase: str | None, remedy: str
) -> None:
    error = await failure(
        settings(
            server,
            private_key=Secret(value=locked_text(form)),
            passphrase=Secret(value=passphrase) if passphrase else None,
        )
    )
    assert isinstance(error, ConfigError)
    assert error.field == "private_key_passphrase"
    assert remedy in error.message


async def test_a_missing_key_file_is_said(server: SshServer) -> None:
    error = await failure(settings(server, private_key=None, key_file="/no/such/key"))
    assert isinstance(error, ConfigError)
    assert error.field == "key_file"
    assert "'/no/such/key' cannot be read on this machine (No such file" in error.message


async def test_an_unreadable_key_file_is_said(server: SshServer, tmp_path: Path) -> None:
    path = tmp_path / "id"
    if os.geteuid() == 0:
        path.mkdir()  # No mode keeps root out.
    else:
        path.touch(mode=0o000)
    error = await failure(settings(server, private_key=None, key_file=str(path)))
    assert isinstance(error, ConfigError)
    assert error.field == "key_file"
    assert repr(str(path)) in error.message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        b"\xff\xfe binary",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + SECRETS[0].encode() + b"\n",
        private_text(KEY).replace(SECRETS[1][:10], "!!!!").encode(),
        public_line(KEY).encode(),
    ],
    ids=["empty", "rubbish", "binary", "cut", "damaged", "public"],
)
async def test_garbage_in_the_place_of_a_key_is_said(
    server: SshServer, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "id"
    path.write_bytes(content)
    error = await failure(settings(server, private_key=None, key_file=str(path)))
    assert isinstance(error, ConfigError)
    assert error.field == "key_file"


# Certificates


def certify(
    key: asyncssh.SSHKey = KEY,
    *,
    principal: str = "alice",
    start: str | int = "-1h",
    end: str | int = "+1h",
) -> str:
    certificate = CA.generate_user_certificate(
        key, "test", principals=[principal], valid_after=start, valid_before=end
    )
    return certificate.export_certificate().decode()


@pytest_asyncio.fixture
async def ca_server() -> AsyncIterator[SshServer]:
    """A server that trusts certificates only, as Roihu does."""
    async with serve_ssh(f"cert-authority {public_line(CA)}") as server:
        yield server


async def test_a_certificate_beside_the_key_is_used(ca_server: SshServer, home: Path) -> None:
    (home / "id").write_text(private_text(KEY))
    (home / "id-cert.pub").write_text(certify())
    by_file = settings(ca_server, private_key=None, key_file="~/id")
    assert (await run(by_file)).exit_status == 0


async def test_a_certificate_may_be_another_file(ca_server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "signed").write_text(certify())
    by_file = settings(ca_server, certificate_file=str(tmp_path / "signed"))
    assert (await run(by_file)).exit_status == 0


async def test_a_certificate_may_be_text(ca_server: SshServer) -> None:
    assert (await run(settings(ca_server, certificate=certify()))).exit_status == 0


async def test_an_expired_certificate_names_the_date(ca_server: SshServer) -> None:
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    expired = certify(end=int(end.timestamp()))
    error = await failure(settings(ca_server, certificate=expired))
    assert isinstance(error, ConnectFailedError)
    assert f"EXPIRED on {end:%Y-%m-%d %H:%M:%S} UTC" in error.message


async def test_a_certificate_not_yet_valid_names_the_date(ca_server: SshServer) -> None:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
    early = certify(start=int(start.timestamp()))
    error = await failure(settings(ca_server, certificate=early))
    assert isinstance(error, ConnectFailedError)
    assert f"not valid before {start:%Y-%m-%d %H:%M:%S} UTC" in error.message


async def test_a_certificate_for_another_principal_names_it(ca_server: SshServer) -> None:
    error = await failure(settings(ca_server, certificate=certify(principal="bob")))
    assert isinstance(error, ConnectFailedError)
    assert "'alice'" in error.message
    assert "for bob" in error.message


async def test_a_certificate_of_a_ca_the_server_does_not_trust_is_refused(
    server: SshServer,
) -> None:
    other = OTHER_KEY.generate_user_certificate(OTHER_KEY, "x", principals=["alice"])
    error = await failure(
        settings(
            server,
            private_key=Secret(value=private_text(OTHER_KEY)),
            certificate=other.export_certificate().decode(),
        )
    )
    assert isinstance(error, ConnectFailedError)
    assert "never expires" in error.message


@pytest.mark.parametrize(
    "text",
    ["rubbish", "ssh-ed25519-cert-v01@openssh.com AAAA", public_line(KEY)],
    ids=["rubbish", "cut", "plain-key"],
)
async def test_garbage_in_the_place_of_a_certificate_is_said(
    ca_server: SshServer, text: str
) -> None:
    error = await failure(settings(ca_server, certificate=text))
    assert isinstance(error, ConfigError)
    assert error.field == "certificate"
    assert "-cert.pub" in error.message


async def test_a_certificate_of_another_key_is_said(ca_server: SshServer) -> None:
    error = await failure(settings(ca_server, certificate=certify(OTHER_KEY)))
    assert isinstance(error, ConfigError)
    assert error.field == "certificate"


async def test_a_certificate_without_its_key_is_said(ca_server: SshServer) -> None:
    error = await failure(settings(ca_server, private_key=None, certificate=certify()))
    assert isinstance(error, ConfigError)
    assert error.field == "certificate"


async def test_a_missing_certificate_file_is_said(ca_server: SshServer) -> None:
    error = await failure(settings(ca_server, certificate_file="/no/such-cert.pub"))
    assert isinstance(error, ConfigError)
    assert error.field == "certificate_file"
    assert "/no/such-cert.pub" in error.message


async def test_a_renewed_certificate_is_found_without_a_restart(
    ca_server: SshServer, tmp_path: Path
) -> None:
    (tmp_path / "id").write_text(private_text(KEY))
    beside = tmp_path / "id-cert.pub"
    beside.write_text(certify(end="-1m"))
    async with opened(
        settings(ca_server, private_key=None, key_file=str(tmp_path / "id"))
    ) as transport:
        with pytest.raises(ConnectFailedError, match="EXPIRED"):
            await transport.run("exit 0", stdin=b"", timeout=5)
        beside.write_text(certify())
        assert (await transport.run("exit 0", stdin=b"", timeout=5)).exit_status == 0


async def test_a_certificate_that_is_just_being_replaced_is_read_again(
    ca_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever copies one over another leaves an empty file for a moment, or half of one."""
    monkeypatch.setattr("airflow_provider_csc.transport.ssh._RENEWAL_DELAYS", (5.0,))
    signed = tmp_path / "signed"
    for text in ("", certify()[:80], None):
        if text is None:
            signed.unlink()
        else:
            signed.write_text(text)
        log_in = asyncio.ensure_future(run(settings(ca_server, certificate_file=str(signed))))
        await asyncio.sleep(0.3)
        signed.write_text(certify())
        async with asyncio.timeout(20):
            assert (await log_in).exit_status == 0


async def test_a_certificate_in_the_connection_is_not_read_twice(
    ca_server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_csc.transport.ssh._RENEWAL_DELAYS", (3600.0,))
    async with asyncio.timeout(20):
        assert isinstance(await failure(settings(ca_server, certificate="rubbish")), ConfigError)


async def test_the_certificate_that_was_refused_is_described_not_the_one_that_came_since(
    ca_server: SshServer, tmp_path: Path
) -> None:
    (tmp_path / "id").write_text(private_text(KEY))
    beside = tmp_path / "id-cert.pub"
    by_file = settings(ca_server, private_key=None, key_file=str(tmp_path / "id"))
    for renew in (lambda: beside.write_text(certify()), beside.unlink):
        beside.write_text(certify(end="-1m"))
        ca_server.on_log_in = renew
        error = await failure(by_file)
        assert "EXPIRED" in error.message
        assert f"renew it at {beside}." in error.message


# Jump hosts


@contextlib.asynccontextmanager
async def three_servers() -> AsyncIterator[list[SshServer]]:
    """Two jump hosts and a target behind them."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serve_ssh(public_line(KEY))) for _ in range(3)]


def through(first: SshServer, second: SshServer, target: SshServer, **changes: Any) -> SshSettings:
    known = "".join(each.known_hosts for each in (first, second, target))
    values = {"jump_hosts": (first.hop, second.hop), "known_hosts": known}
    return settings(target, **(values | changes))


async def test_two_jump_hosts_are_passed_in_order() -> None:
    async with three_servers() as (first, second, target):
        assert (await run(through(first, second, target), "exit 3")).exit_status == 3
        assert [len(each.logins) for each in (first, second, target)] == [1, 1, 1]
        assert target.logins[0].get_extra_info("peername") != first.hop
        await until(lambda: all(each.logins[0].is_closed() for each in (first, second, target)))


async def test_a_jump_host_without_a_user_gets_the_targets() -> None:
    async with three_servers() as (first, second, target):
        bare = dataclasses.replace(first.hop, username=None)
        settings = through(first, second, target, jump_hosts=(bare, second.hop))
        assert (await run(settings)).exit_status == 0
        assert first.logins[0].get_extra_info("username") == "alice"


async def test_a_pinned_host_key_is_the_targets_and_known_hosts_the_jump_hosts() -> None:
    async with three_servers() as (first, second, target):
        known = first.known_hosts + second.known_hosts
        pinned = through(
            first, second, target, known_hosts=known, host_key=public_line(target.host_key)
        )
        assert (await run(pinned)).exit_status == 0


async def test_fingerprints_are_the_targets_and_not_the_jump_hosts(home: Path) -> None:
    async with three_servers() as (first, second, target):
        (home / ".ssh").mkdir()
        (home / ".ssh" / "known_hosts").write_text(first.known_hosts + second.known_hosts)
        jumps = {"jump_hosts": (first.hop, second.hop)}
        assert (await run(by_fingerprint(target, target.host_key, **jumps))).exit_status == 0
        # What the site shows is not what one of the jump hosts may show.
        (home / ".ssh" / "known_hosts").write_text(second.known_hosts)
        error = await failure(by_fingerprint(target, target.host_key, first.host_key, **jumps))
        assert f"host key of {first.hop.host} is unknown" in error.message


@pytest.mark.parametrize("broken", [0, 1])
async def test_a_jump_host_that_refuses_the_log_in_is_named(broken: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        trusted = [public_line(KEY)] * 3
        trusted[broken] = public_line(OTHER_KEY)
        servers = [await stack.enter_async_context(serve_ssh(each)) for each in trusted]
        error = await failure(through(*servers))
        assert isinstance(error, ConnectFailedError)
        assert f"port {servers[broken].port}" in error.message
        assert "'alice'" in error.message
        assert servers[2].logins == []
        await until(lambda: all(each.is_closed() for one in servers for each in one.logins))


async def test_a_host_the_jump_host_cannot_reach_is_named() -> None:
    async with three_servers() as (first, second, target), nobody() as port:
        away = Hop(host="127.0.0.1", port=port, username="alice")
        chain = through(first, second, target)
        error = await failure(dataclasses.replace(chain, target=away, no_host_key_check=True))
        assert isinstance(error, ConnectFailedError)
        assert f"jump host could not reach alice@127.0.0.1:{port}" in error.message


async def test_an_unknown_host_key_behind_a_jump_host_is_shown() -> None:
    async with three_servers() as (first, second, target):
        known = first.known_hosts + second.known_hosts
        error = await failure(through(first, second, target, known_hosts=known))
        assert "is unknown" in error.message
        assert target.host_key.get_fingerprint() in error.message


async def test_a_jump_host_that_dies_is_passed_again() -> None:
    async with (
        three_servers() as (first, second, target),
        opened(through(first, second, target)) as transport,
    ):
        await transport.run("exit 0", stdin=b"", timeout=5)
        first.drop_all()
        await asyncio.sleep(0.05)
        assert (await transport.run("exit 3", stdin=b"", timeout=5)).exit_status == 3
        assert [len(each.logins) for each in (first, second, target)] == [2, 2, 2]


async def test_the_target_is_never_reached_around_its_jump_hosts() -> None:
    """Closing while the chain was half open once made the next hop a direct connection."""
    async with three_servers() as (first, second, target):
        async with opened(through(first, second, target)) as transport:
            task = asyncio.ensure_future(transport.run("exit 0", stdin=b"", timeout=5))
            await until(lambda: first.logins)
            await transport.close()
            with contextlib.suppress(TransportError):
                await task
        assert len(second.logins) == len(target.logins)
