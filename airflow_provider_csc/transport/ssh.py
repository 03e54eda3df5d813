"""SSH by asyncssh: one connection, many commands, every failure named for what it is."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED

from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConfigError,
    ConnectFailedError,
    ConnectionLostError,
)
from airflow_provider_csc.transport.base import CommandResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_csc.transport.base import Hop, SshSettings

# sshd refuses more than MaxSessions (10 by default) channels; leave room for a person's own.
_MAX_CHANNELS = 8
# MaxSessions may be less than that, and sshd takes a moment to forget a session that ended. The
# first is for a connection that is found dead when it is used.
_SESSION_DELAYS = (0.0, 0.05, 0.1, 0.2, 0.4)
_KEEPALIVE_SECONDS = 15
_KEEPALIVE_COUNT = 4
_VALID_FOR_EVER = 2**64 - 1

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

    async def _open_chain(self) -> list[asyncssh.SSHClientConnection]:
        credentials = await asyncio.to_thread(load_credentials, self._settings)
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


async def open_connection(
    settings: SshSettings,
    hop: Hop,
    credentials: list[Credential],
    tunnel: asyncssh.SSHClientConnection | None = None,
) -> asyncssh.SSHClientConnection:
    """
    Log in to one host.

    :raises ConfigError: for known_hosts or a host name that cannot be used.
    :raises ConnectFailedError: naming DNS, refusal, time-out, host key or log-in as the cause.
    """
    options: dict[str, Any] = {
        "port": hop.port,
        "username": hop.username or settings.target.username or (),
        "known_hosts": await asyncio.to_thread(load_known_hosts, settings, hop),
        "config": None,
        "tunnel": tunnel or (),
        "login_timeout": 0,  # The time limit below covers it all; two would race for the message.
        "keepalive_interval": _KEEPALIVE_SECONDS,
        "keepalive_count_max": _KEEPALIVE_COUNT,
    }
    if credentials:
        options |= {"client_keys": credentials, "agent_path": None}
    if settings.password:
        options["password"] = settings.password.value
    try:
        # Not asyncssh's own connect_timeout: it is a wait_for, which in Python 3.11 may swallow a
        # cancellation that comes at the moment the log-in succeeds.
        async with asyncio.timeout(settings.connect_timeout):
            return await asyncssh.connect(hop.host, **options)
    except asyncssh.HostKeyNotVerifiable as error:
        raise await _host_key_error(settings, hop, tunnel, error) from error
    except asyncssh.KeyExchangeFailed as error:
        if "host key" not in error.reason:
            raise ConnectFailedError(_unreachable(hop, error), host=hop.host) from error
        # The server has no key of a type that is trusted, so none was compared.
        raise await _host_key_error(settings, hop, tunnel, error) from error
    except (asyncssh.PermissionDenied, asyncssh.ChannelOpenError) as error:
        raise ConnectFailedError(_refusal(settings, hop, error), host=hop.host) from error
    except (asyncssh.Error, OSError, TimeoutError) as error:
        raise ConnectFailedError(_unreachable(hop, error), host=hop.host) from error
    except UnicodeError as error:
        raise ConfigError(
            f"host: {hop.host!r} cannot be a host's name ({error}).", field="host", value=hop.host
        ) from error


def _unreachable(hop: Hop, error: Exception) -> str:
    match error:
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return f"DNS gives no answer about {hop.host!r} at the moment: {error.strerror}"
        case socket.gaierror():
            return f"The name {hop.host!r} is not known to DNS. Correct the host's name."
        # For a name with several addresses asyncio joins what each said into one text.
        case OSError() if f"[Errno {errno.ECONNREFUSED}]" in str(error):
            return f"{hop.host} refused a connection to port {hop.port}; is an sshd there?"
        case TimeoutError() | asyncssh.TimeoutError():
            return f"{hop} did not answer in time; a firewall or a wrong port looks like that."
        case asyncssh.ConnectionLost():
            return f"{hop} closed the connection before the log-in was done: {error}"
        case _:
            return f"Cannot connect to {hop}: {error}"


def _refusal(settings: SshSettings, hop: Hop, error: Exception) -> str:
    if isinstance(error, asyncssh.ChannelOpenError):
        return f"The jump host could not reach {hop}: {error}"
    hint = describe_certificate(settings)
    user = hop.username or settings.target.username or "the default user"
    return (
        f"{hop.host} refused the log-in of {user!r} on port {hop.port}: {error}. {hint}"
    ).strip()


async def _host_key_error(
    settings: SshSettings,
    hop: Hop,
    tunnel: asyncssh.SSHClientConnection | None,
    error: asyncssh.DisconnectError,
) -> ConnectFailedError:
    """Say whether the host key is unknown, revoked or has changed, and which one was shown."""
    shown = await _ask_host_key(settings, hop, tunnel)
    trusted = _trusted_fingerprints(settings, hop)
    if "revoked" in error.reason:
        text = (
            f"The host key of {hop.host} is marked as revoked in Known hosts: it shows {shown}. "
            "Do not connect; ask the site."
        )
    elif trusted:
        text = (
            f"The host key of {hop.host} has CHANGED: it shows {shown}, but trusted is "
            f"{', '.join(trusted)}. Somebody may be listening; ask the site before you change "
            "Known hosts or Host key."
        )
    else:
        text = (
            f"The host key of {hop.host} is unknown: it shows {shown}. Compare that with what the "
            "site publishes, then put the key into Host key or Known hosts."
        )
    return ConnectFailedError(text, host=hop.host, fingerprint=shown)


async def _ask_host_key(
    settings: SshSettings, hop: Hop, tunnel: asyncssh.SSHClientConnection | None
) -> str:
    """Return the key a host shows. The cause is known without it; it would only be of help."""
    try:
        async with asyncio.timeout(settings.connect_timeout):
            key = await asyncssh.get_server_host_key(
                hop.host, hop.port, tunnel=tunnel or (), config=None
            )
    except (asyncssh.Error, OSError, TimeoutError):
        key = None
    return f"{key.get_algorithm()} {key.get_fingerprint()}" if key else "no key"


def _trusted_fingerprints(settings: SshSettings, hop: Hop) -> list[str]:
    known = load_known_hosts(settings, hop)
    if known is None:
        return []
    keys = known.match(hop.host, "", hop.port)[0]
    return [f"{key.get_algorithm()} {key.get_fingerprint()}" for key in keys]


def load_known_hosts(settings: SshSettings, hop: Hop) -> asyncssh.SSHKnownHosts | None:
    """
    Return the host keys to trust; None (trust any) only where that was asked for by name.

    :raises ConfigError: when they cannot be read.
    """
    if settings.no_host_key_check:
        return None
    if settings.host_key and hop == settings.target:
        return _pin_host_key(settings.host_key, hop)
    text = settings.known_hosts or "~/.ssh/known_hosts"
    # No line of such a file begins like a path, and every one has a space or a tab.
    if "\n" in text or (len(text.split()) > 1 and not text.lstrip().startswith(("/", "~"))):
        return _import_known_hosts(text)
    path = Path(text).expanduser()
    if not path.exists() and not settings.known_hosts:
        return asyncssh.import_known_hosts("")
    try:
        return _import_known_hosts(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ConfigError(
            f"known_hosts: {text!r} cannot be read ({error.strerror}). Give a readable file, or "
            "the lines themselves.",
            field="known_hosts",
            value=text,
        ) from error


def _import_known_hosts(text: str) -> asyncssh.SSHKnownHosts:
    try:
        return asyncssh.import_known_hosts(text)
    except (ValueError, asyncssh.Error) as error:
        raise ConfigError(
            f"known_hosts: {error}. Give lines as ssh-keyscan prints them.",
            field="known_hosts",
            value=text,
        ) from error


def _pin_host_key(host_key: str, hop: Hop) -> asyncssh.SSHKnownHosts:
    words = host_key.split()
    # As in the SSH provider, the type may be left out and is then ssh-rsa.
    key = " ".join(words[:2]) if len(words) > 1 else f"ssh-rsa {host_key.strip()}"
    try:
        asyncssh.import_public_key(key)
    except (ValueError, asyncssh.Error) as error:
        raise ConfigError(
            f"host_key: {host_key!r} is not a public key ({error}). Give it as ssh-keyscan prints "
            "it, without the host: 'ssh-ed25519 AAAA...'.",
            field="host_key",
            value=host_key,
        ) from error
    return asyncssh.import_known_hosts(f"[{hop.host}]:{hop.port} {key}\n{hop.host} {key}\n")


Credential = asyncssh.SSHKey | tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]


def load_credentials(settings: SshSettings) -> list[Credential]:
    """
    Return the user's key, with its certificate where there is one; empty: agent and defaults.

    :raises ConfigError: when a file cannot be read, or a key does not open.
    """
    key = _load_key(settings)
    certificate = _certificate_text(settings)
    if certificate is None:
        return [key] if key else []
    if key is None:
        raise ConfigError(
            "certificate: it is of no use without its private key. Give Key file or Private key.",
            field="certificate",
        )
    try:
        pair = (key, asyncssh.import_certificate(certificate))
        asyncssh.load_keypairs([pair])
    except (asyncssh.KeyImportError, ValueError) as error:
        raise ConfigError(
            f"certificate: {error}. Give the line of the '-cert.pub' file that was issued for "
            "this key.",
            field="certificate",
        ) from error
    return [pair, key]


def _load_key(settings: SshSettings) -> asyncssh.SSHKey | None:
    if settings.private_key is not None:
        field, text = "private_key", settings.private_key.value
    elif settings.key_file is not None:
        field, text = "key_file", _read("key_file", settings.key_file)
    else:
        return None
    passphrase = settings.passphrase.value if settings.passphrase else None
    try:
        return asyncssh.import_private_key(text.strip() + "\n", passphrase)
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError, ValueError) as error:
        # asyncssh has a class for this, but uses it for some forms of keys only.
        if "passphrase" in str(error).lower() or "decrypt" in str(error):
            remedy = "Correct" if passphrase else "Give"
            raise ConfigError(
                f"{field}: the key is encrypted and did not open. {remedy} the private key "
                "passphrase.",
                field="private_key_passphrase",
            ) from error
        raise ConfigError(
            f"{field}: this is not a private key that can be used ({error}). Give one in OpenSSH "
            "or PEM form.",
            field=field,
        ) from error


def _read(field: str, path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(
            f"{field}: {path!r} cannot be read on this machine ({reason}). The workers and the "
            "triggerer all need it; correct the path or its permissions.",
            field=field,
            value=path,
        ) from error


def _certificate_text(settings: SshSettings) -> str | None:
    if settings.certificate:
        return settings.certificate
    if settings.certificate_file:
        return _read("certificate_file", settings.certificate_file)
    if settings.key_file:
        beside = Path(settings.key_file + "-cert.pub").expanduser()
        if beside.exists():
            return _read("certificate_file", str(beside))
    return None


def describe_certificate(settings: SshSettings, now: datetime | None = None) -> str:
    """Say in one sentence until when the certificate is valid, or that it has expired."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - only on failure
        SSHCertificate,
        load_ssh_public_identity,
    )

    text = _certificate_text(settings)
    if text is None:
        return "There is no certificate; a site that wants one refuses the key alone."
    identity = load_ssh_public_identity(text.strip().encode())
    if not isinstance(identity, SSHCertificate):
        return "What stands in the place of the certificate is a plain public key."
    seconds = (now or datetime.now(UTC)).timestamp()
    if identity.valid_before <= seconds:
        return f"Its certificate EXPIRED on {_moment(identity.valid_before)}; renew it."
    if identity.valid_after > seconds:
        return (
            f"Its certificate is not valid before {_moment(identity.valid_after)}; wait, or check "
            "the clock of this machine."
        )
    names = ", ".join(name.decode() for name in identity.valid_principals)
    if identity.valid_before >= _VALID_FOR_EVER:
        return f"Its certificate never expires; it is for {names or 'any user'}."
    end = _moment(identity.valid_before)
    return f"Its certificate is valid until {end} for {names or 'any user'}."


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
