"""SSH by asyncssh: one connection, many commands, every failure named for what it is."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh

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
_KEEPALIVE_SECONDS = 15
_KEEPALIVE_COUNT = 4
_VALID_FOR_EVER = 2**64 - 1

# It would tell of every channel at INFO, into the log of whatever task happens to run.
asyncssh.set_log_level("WARNING")


class SshTransport:
    """
    A `Transport` over one SSH connection, opened when first needed and again after a loss.

    It belongs to one event loop. Credentials are read at each opening, so a renewed certificate is
    found without a restart.
    """

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        self._opening = asyncio.Lock()
        self._channels = asyncio.Semaphore(_MAX_CHANNELS)
        self._connections: list[asyncssh.SSHClientConnection] = []

    async def run(self, command: str, *, stdin: bytes, timeout: float) -> CommandResult:
        """Run a command on the log-in node; see `Transport.run`."""
        async with self._channels:
            connection = await self._connect()
            try:
                with _command_errors(str(self._settings.target)):
                    done = await connection.run(
                        command, input=stdin, encoding=None, timeout=timeout
                    )
            except (ConnectionLostError, CommandTimeoutError):
                await self.close()
                raise
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
        """Close the connection and those of the jump hosts beneath it."""
        connections, self._connections = self._connections, []
        for connection in reversed(connections):
            connection.abort()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        async with self._opening:
            if self._connections and self._connections[-1].is_closed():
                await self.close()
            if not self._connections:
                await self._open_chain()
            return self._connections[-1]

    async def _open_chain(self) -> None:
        hops = [*self._settings.jump_hosts, self._settings.target]
        try:
            for hop in hops:
                tunnel = self._connections[-1] if self._connections else None
                self._connections.append(await open_connection(self._settings, hop, tunnel))
        except BaseException:
            await self.close()
            raise


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
    settings: SshSettings, hop: Hop, tunnel: asyncssh.SSHClientConnection | None = None
) -> asyncssh.SSHClientConnection:
    """
    Log in to one host.

    :raises ConfigError: for a key, certificate or known_hosts that cannot be used.
    :raises ConnectFailedError: naming DNS, refusal, time-out, host key or log-in as the cause.
    """
    credentials = load_credentials(settings)
    options: dict[str, Any] = {
        "port": hop.port,
        "username": hop.username or settings.target.username or (),
        "known_hosts": load_known_hosts(settings, hop),
        "config": None,
        "tunnel": tunnel or (),
        "connect_timeout": settings.connect_timeout,
        "login_timeout": settings.connect_timeout,
        "keepalive_interval": _KEEPALIVE_SECONDS,
        "keepalive_count_max": _KEEPALIVE_COUNT,
    }
    if credentials:
        options |= {"client_keys": credentials, "agent_path": None}
    if settings.password:
        options["password"] = settings.password.value
    try:
        return await asyncssh.connect(hop.host, **options)
    except asyncssh.HostKeyNotVerifiable as error:
        raise await _host_key_error(settings, hop, tunnel) from error
    except (asyncssh.PermissionDenied, asyncssh.ChannelOpenError) as error:
        raise ConnectFailedError(_refusal(settings, hop, error), host=hop.host) from error
    except (asyncssh.Error, OSError, TimeoutError) as error:
        raise ConnectFailedError(_unreachable(hop, error), host=hop.host) from error


def _unreachable(hop: Hop, error: Exception) -> str:
    match error:
        case socket.gaierror():
            return f"The name {hop.host!r} is not known to DNS. Correct the field Host."
        case ConnectionRefusedError():
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
    return (
        f"{hop.host} refused the log-in of {hop.username or 'the default user'!r} on port "
        f"{hop.port}: {error}. {hint}"
    ).strip()


async def _host_key_error(
    settings: SshSettings, hop: Hop, tunnel: asyncssh.SSHClientConnection | None
) -> ConnectFailedError:
    """Say whether the host key is unknown or has changed, and which one was shown."""
    shown = "no key"
    try:
        key = await asyncssh.get_server_host_key(
            hop.host, hop.port, tunnel=tunnel or (), config=None
        )
        if key is not None:
            shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
    except (asyncssh.Error, OSError):
        pass  # The cause is known already; the fingerprint would only have been of help.
    trusted = _trusted_fingerprints(settings, hop)
    if trusted:
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
    is_target = hop == settings.target
    if settings.host_key and is_target:
        return _import_known_hosts("host_key", _host_key_line(settings.host_key, hop))
    text = settings.known_hosts or "~/.ssh/known_hosts"
    if "\n" in text or " " in text.strip():
        return _import_known_hosts("known_hosts", text)
    path = Path(text).expanduser()
    if not path.exists() and not settings.known_hosts:
        return asyncssh.import_known_hosts("")
    try:
        return _import_known_hosts("known_hosts", path.read_text())
    except OSError as error:
        raise ConfigError(
            f"known_hosts: {text!r} cannot be read ({error.strerror}). Give a readable file, or "
            "the lines themselves.",
            field="known_hosts",
            value=text,
        ) from error


def _import_known_hosts(field: str, text: str) -> asyncssh.SSHKnownHosts:
    try:
        return asyncssh.import_known_hosts(text)
    except (ValueError, asyncssh.Error) as error:
        raise ConfigError(
            f"{field}: {error}. Give lines as ssh-keyscan prints them.", field=field, value=text
        ) from error


def _host_key_line(host_key: str, hop: Hop) -> str:
    words = host_key.split()
    # As in the SSH provider, the type may be left out and is then ssh-rsa.
    key = " ".join(words[:2]) if len(words) > 1 else f"ssh-rsa {host_key.strip()}"
    return f"[{hop.host}]:{hop.port} {key}\n{hop.host} {key}\n"


Credential = asyncssh.SSHKey | tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]


def load_credentials(settings: SshSettings) -> list[Credential]:
    """
    Return the user's key, with its certificate where there is one; empty: agent and defaults.

    :raises ConfigError: when a file cannot be read, or a key does not open.
    """
    key = _load_key(settings)
    if key is None:
        return []
    certificate = _certificate_text(settings)
    if certificate is None:
        return [key]
    try:
        return [(key, asyncssh.import_certificate(certificate)), key]
    except (asyncssh.KeyImportError, ValueError) as error:
        raise ConfigError(
            f"certificate: {error}. Give the line of a '-cert.pub' file.", field="certificate"
        ) from error


def _load_key(settings: SshSettings) -> asyncssh.SSHKey | None:
    if settings.private_key is not None:
        field, text = "private_key", settings.private_key.value
    elif settings.key_file is not None:
        field, text = "key_file", _read("key_file", settings.key_file)
    else:
        return None
    passphrase = settings.passphrase.value if settings.passphrase else None
    try:
        return asyncssh.import_private_key(text, passphrase)
    except asyncssh.KeyEncryptionError as error:
        remedy = "Correct" if passphrase else "Give"
        raise ConfigError(
            f"{field}: the key is encrypted and did not open. {remedy} the private key passphrase.",
            field="private_key_passphrase",
        ) from error
    except (asyncssh.KeyImportError, ValueError) as error:
        raise ConfigError(
            f"{field}: this is not a private key that can be used ({error}). Give one in OpenSSH "
            "or PEM form.",
            field=field,
        ) from error


def _read(field: str, path: str) -> str:
    try:
        return Path(path).expanduser().read_text()
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
    if identity.valid_before >= _VALID_FOR_EVER:
        return "Its certificate never expires."
    end = datetime.fromtimestamp(identity.valid_before, UTC)
    if end <= (now or datetime.now(UTC)):
        return f"Its certificate EXPIRED on {end:%Y-%m-%d %H:%M:%S} UTC; renew it."
    names = ", ".join(name.decode() for name in identity.valid_principals)
    return f"Its certificate is valid until {end:%Y-%m-%d %H:%M:%S} UTC for {names or 'any user'}."
