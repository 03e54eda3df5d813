"""What a client needs of a way to a site, and the settings that describe one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from airflow_provider_csc.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """A command that ran to its end; its exit status is known, whatever it is."""

    exit_status: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """Runs one command at a time on a log-in node; keeps no state between two of them."""

    async def run(self, command: str, *, stdin: bytes, timeout: float) -> CommandResult:  # pyright: ignore[reportReturnType] - a protocol
        """
        Run a command and return its output.

        :raises TransportError: when the answer is not complete; what the command did is unknown.
        """

    async def close(self) -> None:
        """Release the connection; the next `run` opens a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One host to log in to: a jump host, or the log-in node itself."""

    host: str
    port: int = 22
    username: str | None = None

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username else ""
        return f"{user}{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Text that must not be printed by accident."""

    value: str

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSettings:
    """
    How to log in by SSH.

    Key and certificate are each given as a file on this machine or as text. ``known_hosts`` is a
    file or the lines of one, ``host_key`` one public key; without either, the target is trusted by
    the fingerprints of its site, where there are any, and ``~/.ssh/known_hosts`` is used otherwise.
    Two equal settings share a connection.
    """

    target: Hop
    jump_hosts: tuple[Hop, ...] = ()
    key_file: str | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    password: Secret | None = None
    certificate_file: str | None = None
    certificate: str | None = None
    known_hosts: str | None = None
    host_key: str | None = None
    host_key_fingerprints: tuple[str, ...] = ()
    no_host_key_check: bool = False
    connect_timeout: float = 30.0

    def is_trusted_by_fingerprint(self, hop: Hop) -> bool:
        """Whether only the fingerprint of a host's key is known."""
        given = self.no_host_key_check or self.host_key or self.known_hosts
        return bool(self.host_key_fingerprints) and hop == self.target and not given


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """
    A Slurm site as its connection describes it. Times in seconds.

    ``staging`` says who fetches and delivers a job's files: the job itself, on its compute node, or
    the log-in node, where compute nodes have no way out.

    The last fields are what its profile says of all jobs; ``refusal`` why none may be submitted.
    """

    ssh: SshSettings
    account: str | None = None
    partition: str | None = None
    time: str | None = None
    work_dir: str = "~/airflow-runs"
    login_setup: str = ""
    poll_interval_floor: float = 5.0
    web_interface: str | None = None
    staging: Literal["node", "login"] = "node"
    site: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    module_paths: tuple[str, ...] = ()
    refusal: str = ""

    def check_takes_jobs(self) -> None:
        """
        Refuse a site that takes no jobs any more.

        :raises ConfigError: saying since when, and where to go.
        """
        if self.refusal:
            raise ConfigError(self.refusal, field="site", value=self.site)
