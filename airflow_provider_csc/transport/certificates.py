"""Read until when the certificate of a log-in is valid, and say what to do before it is not."""

from __future__ import annotations

import asyncio
import base64
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh

from airflow_provider_csc.slurm.findings import Finding
from airflow_provider_csc.slurm.parking import describe_seconds
from airflow_provider_csc.transport.ssh_credentials import certificate_path, certificate_text

if TYPE_CHECKING:
    from airflow_provider_csc.transport.base import SshSettings
    from airflow_provider_csc.transport.ssh_credentials import Credential

# No certificate that is meant to end does so after the year 9999, where Python's dates end;
# ssh-keygen writes 2**64 - 1.
_FOR_EVER = 253_402_300_800
# Who has so little left is told while he is at it; of a day's certificate that is the last tenth.
_SHORT_SECONDS = 2 * 3600
_VERY_SHORT_SECONDS = 3600
_AGENT_SECONDS = 5.0
# CSC's guide, "Setting up SSH keys": on Roihu each renewal is a log-in by a person.
RENEW = (
    "Sign the public key anew (for CSC's Roihu in MyCSC, Profile, SSH PUBLIC KEYS, or with "
    "csc_cert.py)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A user certificate; times in seconds since 1970. ``place`` is where it was found."""

    valid_after: int
    valid_before: int
    principals: tuple[str, ...]
    place: str

    @property
    def expires(self) -> bool:
        """Whether it is not valid for ever."""
        return self.valid_before < _FOR_EVER

    def describe(self, now: float) -> str:
        """Say in a sentence or two until when it is valid, and what to do where it is not."""
        if self.valid_before <= now:
            return (
                f"Its certificate EXPIRED on {_moment(self.valid_before)}; renew it {self.place}. "
                f"{RENEW}."
            )
        if self.valid_after > now:
            return (
                f"Its certificate is not valid before {_moment(self.valid_after)}; wait, or check "
                "the clock of this machine."
            )
        names = ", ".join(self.principals) or "any user"
        if not self.expires:
            return f"Its certificate never expires; it is for {names}."
        return f"Its certificate is valid until {_moment(self.valid_before)} for {names}."

    def describe_rest(self, now: float) -> str:
        """Say the same of one that lets us in, with a warning where that will not last."""
        left = self.valid_before - now
        if not 0 < left < _VERY_SHORT_SECONDS:
            return self.describe(now)
        return (
            f"{self.describe(now)} WARNING: that is in {describe_seconds(left)}. {RENEW}, and put "
            f"it {self.place}."
        )

    def is_short(self, now: float) -> bool:
        """Whether it has expired, or will before long."""
        return self.valid_before - now < _SHORT_SECONDS

    def warn(self, now: float, ends_by: float | None = None) -> str:
        """
        Return what the log of a waiting task should say of it; empty where nothing is to be said.

        ``ends_by`` is when the task's job reaches its time limit.
        """
        outlasts = ends_by is not None and ends_by > self.valid_before
        if not self.is_short(now) and not outlasts:
            return ""
        until = _moment(self.valid_before)
        if self.valid_before <= now:
            rest = f"EXPIRED on {until}; the connection that was opened with it is still used"
        else:
            rest = f"is valid until {until}, {describe_seconds(self.valid_before - now)} more"
        job = f", and the job may run until {_moment(int(ends_by or 0))}" if outlasts else ""
        return (
            f"The SSH certificate {rest}{job}. {RENEW}, and put it {self.place}: it is found "
            "without a restart. A site that wants one lets nobody in without it: then this task "
            "waits once the connection is lost; the job is not affected, and no retry is used up."
        )

    def find_expiry(self, now: float, limit_seconds: int | None = None) -> Finding | None:
        """
        Return what is to be said of it where nobody waits who would be warned.

        A job that begins now ends in so many seconds at the latest.
        """
        ends_by = None if limit_seconds is None else now + limit_seconds
        outlasts = ends_by is not None and ends_by > self.valid_before
        if not self.is_short(now) and not outlasts:
            return None
        until = _moment(self.valid_before)
        left = self.valid_before - now
        more = f"is valid until {until}, {describe_seconds(left)} more"
        rest = more if left > 0 else f"EXPIRED on {until}"
        job = f", and a job of now may run until {_moment(int(ends_by or 0))}" if outlasts else ""
        return Finding(
            f"The SSH certificate {rest}{job}.",
            "A site that wants one lets nobody in without it: jobs go on, but their logs stand "
            "still, and tasks wait.",
            f"{RENEW}, and put it {self.place}.",
        )


def parse_certificate(text: bytes, place: str) -> Certificate:
    """
    Read a line of a ``-cert.pub`` file.

    :raises ValueError: when it is none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - rarely
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - likewise
        SSHCertificate,
        load_ssh_public_identity,
    )

    try:
        identity = load_ssh_public_identity(text.strip())
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(identity, SSHCertificate):
        raise ValueError("this is a public key")  # noqa: TRY004 - it is the text that is wrong
    return Certificate(
        valid_after=identity.valid_after,
        valid_before=identity.valid_before,
        principals=tuple(name.decode(errors="replace") for name in identity.valid_principals),
        place=place,
    )


async def read_certificate(settings: SshSettings) -> Certificate | None:
    """
    Return the certificate that the next log-in will show; None where there is none, or none known.

    Without a key in the settings that is the one of the agent, or of the default keys, that is
    valid longest.

    :raises ConfigError: when its file cannot be read.
    """
    if settings.key_file or settings.private_key:
        text = await asyncio.to_thread(certificate_text, settings)
        return _parse(text.encode(), _place(settings)) if text else None
    found = [*await _ask_agent(), *await asyncio.to_thread(_read_defaults)]
    return max(found, key=lambda each: each.valid_before, default=None)


async def describe_shown(settings: SshSettings, credentials: list[Credential]) -> str:
    """
    Say until when the certificate of a log-in that was refused is valid, or that it has expired.

    That is the one that was shown to the server; its file may hold another one by now.
    """
    shown = next((each[1] for each in credentials if isinstance(each, tuple)), None)
    if shown is not None:
        found = _parse(shown.export_certificate(), _place(settings))
    else:
        found = None if credentials else await read_certificate(settings)
    if found is not None:
        return found.describe(datetime.now(UTC).timestamp())
    if shown is not None:
        return "There is a certificate, of a form in which its end cannot be read."
    return "There is no certificate; a site that wants one refuses the key alone."


def _place(settings: SshSettings) -> str:
    return "in the connection" if settings.certificate else f"at {certificate_path(settings)}"


def _parse(text: bytes, place: str) -> Certificate | None:
    # What is no certificate is the log-in's to complain of.
    with suppress(ValueError):
        return parse_certificate(text, place)
    return None


async def _ask_agent() -> list[Certificate]:
    """Return the certificates of the SSH agent; none where there is no agent, or it is silent."""
    if not os.environ.get("SSH_AUTH_SOCK"):
        return []
    with suppress(OSError, asyncssh.Error, ValueError, TimeoutError):
        async with asyncio.timeout(_AGENT_SECONDS), asyncssh.connect_agent() as agent:
            pairs = [pair for pair in await agent.get_keys() if pair.has_cert]
            lines = [pair.algorithm + b" " + base64.b64encode(pair.public_data) for pair in pairs]
        found = (_parse(line, "into the SSH agent, with ssh-add") for line in lines)
        return [each for each in found if each]
    return []


def _read_defaults() -> list[Certificate]:
    """Return the certificates beside the default keys."""
    found = []
    # There may be no home, or one of somebody else's.
    with suppress(OSError, RuntimeError):
        for path in sorted(Path("~/.ssh").expanduser().glob("id_*-cert.pub")):
            found.append(_parse(path.read_bytes(), f"at {path}"))  # noqa: PERF401 - until one fails
    return [each for each in found if each]


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(min(seconds, _FOR_EVER - 1), UTC):%Y-%m-%d %H:%M:%S} UTC"
