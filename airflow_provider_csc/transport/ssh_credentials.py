"""Load what a log-in by SSH needs: keys, certificates, and the host keys to trust."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh

from airflow_provider_csc.errors import ConfigError

if TYPE_CHECKING:
    from airflow_provider_csc.transport.base import Hop, SshSettings


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
    certificate = certificate_text(settings)
    if certificate is None:
        return [key] if key else []
    if key is None:
        raise ConfigError(
            "certificate: it is of no use without its private key. Give Private key file or "
            "Private key text.",
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
    except RuntimeError as error:  # That of pathlib, about a home.
        raise _unreadable(field, path, "there is no such home directory") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise _unreadable(field, path, reason) from error


def _unreadable(field: str, path: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{field}: {path!r} cannot be read on this machine ({reason}). The workers and the "
        "triggerer all need it; correct the path or its permissions.",
        field=field,
        value=path,
    )


def certificate_text(settings: SshSettings) -> str | None:
    """
    Return the certificate as its file or the connection has it now; None where there is none.

    :raises ConfigError: when a file that is named cannot be read.
    """
    if settings.certificate:
        return settings.certificate
    path = certificate_path(settings)
    if path is None or not (settings.certificate_file or _is_there(path)):
        return None
    return _read("certificate_file", path)


def _is_there(path: str) -> bool:
    """Whether there is a file, as far as we may know; reading it tells why not."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):
        return True


def certificate_path(settings: SshSettings) -> str | None:
    """Return where a certificate is looked for."""
    return settings.certificate_file or (settings.key_file and f"{settings.key_file}-cert.pub")
