"""Log in to one host by SSH, or say precisely why that failed."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import asyncssh

from airflow_provider_csc.errors import ConfigError, ConnectFailedError
from airflow_provider_csc.transport.certificates import describe_shown
from airflow_provider_csc.transport.ssh_credentials import load_known_hosts

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow_provider_csc.transport.base import Hop, SshSettings
    from airflow_provider_csc.transport.ssh_credentials import Credential

_KEEPALIVE_SECONDS = 15
_KEEPALIVE_COUNT = 4


# Without host certificates, whose fingerprint is another one.
_PLAIN_KEYS = [
    "ssh-ed25519",
    *(f"ecdsa-sha2-nistp{size}" for size in (256, 384, 521)),
    *(f"rsa-sha2-{size}" for size in (512, 256)),
]


class _FingerprintGuard(asyncssh.SSHClient):
    """Trusts a host by the fingerprint of its key, and remembers which key it showed."""

    def __init__(self, trusted: Collection[str]) -> None:
        self._trusted = trusted
        self.shown: str | None = None

    def validate_host_public_key(
        self,
        host: str,  # noqa: ARG002 - as in the base class
        addr: str,  # noqa: ARG002
        port: int,  # noqa: ARG002
        key: asyncssh.SSHKey,
    ) -> bool:
        self.shown = _describe_key(key)
        return key.get_fingerprint("sha256") in self._trusted


async def open_connection(
    settings: SshSettings,
    hop: Hop,
    credentials: list[Credential],
    tunnel: asyncssh.SSHClientConnection | None = None,
) -> asyncssh.SSHClientConnection:
    """
    Log in to one host.

    :raises ConfigError: for known_hosts or a host name that cannot be used.
    :raises ConnectFailedError: naming DNS, refusal, time-out, host key or log-in as the cause;
        ``is_lasting`` where waiting cannot help: a name that does not exist, a host key that is not
        trusted; ``is_refused`` where the log-in itself was.
    """
    guard = _FingerprintGuard(settings.host_key_fingerprints)
    options: dict[str, Any] = {
        "port": hop.port,
        "username": hop.username or settings.target.username or (),
        "config": None,
        "tunnel": tunnel or (),
        "login_timeout": 0,  # The time limit below covers it all; two would race for the message.
        "keepalive_interval": _KEEPALIVE_SECONDS,
        "keepalive_count_max": _KEEPALIVE_COUNT,
        **await _trust_options(settings, hop, guard),
    }
    if credentials:
        options |= {"client_keys": credentials, "agent_path": None}
    if settings.password and hop == settings.target:
        options["password"] = settings.password.value
    try:
        # Not asyncssh's own connect_timeout: it is a wait_for, which in Python 3.11 may swallow a
        # cancellation that comes at the moment the log-in succeeds.
        async with asyncio.timeout(settings.connect_timeout):
            return await asyncssh.connect(hop.host, **options)
    except asyncssh.HostKeyNotVerifiable as error:
        raise await _host_key_error(settings, hop, tunnel, error, guard) from error
    except asyncssh.KeyExchangeFailed as error:
        if "host key" not in error.reason:
            raise ConnectFailedError(_unreachable(hop, error), host=hop.host) from error
        # The server has no key of a type that is trusted, so none was compared.
        raise await _host_key_error(settings, hop, tunnel, error, guard) from error
    except (asyncssh.PermissionDenied, asyncssh.ChannelOpenError) as error:
        raise ConnectFailedError(
            await _refusal(settings, hop, credentials, error),
            host=hop.host,
            is_refused=isinstance(error, asyncssh.PermissionDenied),
        ) from error
    except (asyncssh.Error, OSError, TimeoutError) as error:
        raise ConnectFailedError(
            _unreachable(hop, error), host=hop.host, is_lasting=_is_unknown_name(error)
        ) from error
    except UnicodeError as error:
        raise ConfigError(
            f"host: {hop.host!r} cannot be a host's name ({error}).", field="host", value=hop.host
        ) from error


async def _trust_options(
    settings: SshSettings, hop: Hop, guard: _FingerprintGuard
) -> dict[str, Any]:
    """Return asyncssh's options that say which host key is trusted."""
    if not settings.is_trusted_by_fingerprint(hop):
        return {"known_hosts": await asyncio.to_thread(load_known_hosts, settings, hop)}
    return {
        "known_hosts": asyncssh.import_known_hosts(""),
        "server_host_key_algs": _PLAIN_KEYS,
        "client_factory": lambda: guard,
    }


def _is_unknown_name(error: Exception) -> bool:
    return isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN


def _unreachable(hop: Hop, error: Exception) -> str:
    match error:
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return f"DNS gives no answer about {hop.host!r} at the moment: {error.strerror}"
        case socket.gaierror():
            return f"The name {hop.host!r} is not known to DNS. Correct it in Log-in node."
        # For a name with several addresses asyncio joins what each said into one text.
        case OSError() if f"[Errno {errno.ECONNREFUSED}]" in str(error):
            return f"{hop.host} refused a connection to port {hop.port}; is an sshd there?"
        case TimeoutError() | asyncssh.TimeoutError():
            return f"{hop} did not answer in time; a firewall or a wrong port looks like that."
        case asyncssh.ConnectionLost():
            return f"{hop} closed the connection before the log-in was done: {error}"
        case _:
            return f"Cannot connect to {hop}: {error}"


async def _refusal(
    settings: SshSettings, hop: Hop, credentials: list[Credential], error: Exception
) -> str:
    if isinstance(error, asyncssh.ChannelOpenError):
        return f"The jump host could not reach {hop}: {error}"
    hint = await describe_shown(settings, credentials)
    user = hop.username or settings.target.username or "the default user"
    return (
        f"{hop.host} refused the log-in of {user!r} on port {hop.port}. Check the user name and "
        f"the key. {hint}"
    )


async def _host_key_error(
    settings: SshSettings,
    hop: Hop,
    tunnel: asyncssh.SSHClientConnection | None,
    error: asyncssh.DisconnectError,
    guard: _FingerprintGuard,
) -> ConnectFailedError:
    """Say whether the host key is unknown, revoked or has changed, and which one was shown."""
    shown = guard.shown or await _ask_host_key(settings, hop, tunnel)
    if settings.is_trusted_by_fingerprint(hop):
        trusted, where = list(settings.host_key_fingerprints), "set Host key or Known hosts"
        problem = "is not one that the profile of the site names"
    else:
        trusted, where = _trusted_fingerprints(settings, hop), "change Known hosts or Host key"
        problem = "has CHANGED"
    if "revoked" in error.reason:
        text = (
            f"The host key of {hop.host} is marked as revoked in Known hosts: it shows {shown}. "
            "Do not connect; ask the site."
        )
    elif trusted:
        text = (
            f"The host key of {hop.host} {problem}: it shows {shown}, but trusted is "
            f"{', '.join(trusted)}. Somebody may be listening; ask the site before you {where}."
        )
    else:
        text = (
            f"The host key of {hop.host} is unknown: it shows {shown}. Compare that with what the "
            "site publishes, then put the key into Host key or Known hosts."
        )
    return ConnectFailedError(text, host=hop.host, fingerprint=shown, is_lasting=True)


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
    return _describe_key(key) if key else "no key"


def _trusted_fingerprints(settings: SshSettings, hop: Hop) -> list[str]:
    known = load_known_hosts(settings, hop)
    if known is None:
        return []
    keys = known.match(hop.host, "", hop.port)[0]
    return [_describe_key(key) for key in keys]


def _describe_key(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"
