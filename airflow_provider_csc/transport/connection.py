"""Read an Airflow connection's fields into `SiteSettings`; needs no Airflow."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.transport.base import Hop, Secret, SiteSettings, SshSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.sites.model import SiteProfile

CONNECTION_TYPES = ("slurm", "ssh")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")
_HIGHEST_PORT = 65535
_HOP = re.compile(
    r"((?P<user>\S+)@)?(\[(?P<ipv6>[^\s\[\]]+)\]|(?P<host>[^\s@:\[\]]+))(:(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, kw_only=True)
class ConnectionFields:
    """A connection as Airflow stores it."""

    conn_id: str
    conn_type: str
    host: str | None = None
    port: int | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse_connection(fields: ConnectionFields, *, folders: Sequence[str] = ()) -> SiteSettings:
    """
    Return the settings of a ``slurm`` connection, or of a plain ``ssh`` one.

    What it leaves open the profile of its ``site`` says, where it names one; the user's own
    profiles are looked for in the folders. Extras this provider does not know are left to whoever
    does (the SSH provider has more).

    :raises ConfigError: names the connection, the field and the remedy.
    """
    _check_type(fields)
    extra = _Extra(fields)
    profile = _load_profile(extra, folders)
    settings = SiteSettings(
        ssh=_parse_ssh(fields, extra, profile),
        account=extra.text("account"),
        partition=extra.text("partition"),
        time=extra.text("time"),
        work_dir=extra.text("work_dir") or "~/airflow-runs",
        login_setup=extra.text("login_setup") or "",
        poll_interval_floor=extra.seconds("poll_interval_floor", 5.0),
        web_interface=extra.text("web_interface"),
        staging=_parse_staging(extra, profile),
    )
    return _complete(settings, profile) if profile else settings


def names_a_site(fields: ConnectionFields) -> bool:
    """Whether a file has to be read for a connection."""
    return bool(fields.extra.get("site"))


def _load_profile(extra: _Extra, folders: Sequence[str]) -> SiteProfile | None:
    name = extra.text("site")
    if name is None:
        return None
    # Profiles are YAML and pydantic, which a connection that names none need not load.
    from airflow_provider_csc.sites.load import load_profile  # noqa: PLC0415

    try:
        return load_profile(name, folders)
    except ConfigError as error:
        if "path" in error.details:
            raise
        raise extra.error("site", f"is no profile. {error.details['remedy']}") from error


def _complete(settings: SiteSettings, profile: SiteProfile) -> SiteSettings:
    """Return settings with what the connection leaves open, and what only a profile says."""
    return replace(
        settings,
        login_setup=settings.login_setup or profile.log_in.setup,
        web_interface=settings.web_interface or profile.web_interface,
        site=profile.name,
        options=tuple(sorted(profile.jobs.options.items())),
        env=tuple(sorted(profile.jobs.env.items())),
        module_paths=profile.jobs.module_paths,
        refusal=_describe_retirement(profile),
    )


def _describe_retirement(profile: SiteProfile) -> str:
    if profile.retired is None:
        return ""
    why = f" ({profile.retired.reason})" if profile.retired.reason else ""
    return (
        f"{profile.title} takes no jobs since {profile.retired.since.isoformat()}{why}. Use a "
        f"connection to its successor, site {profile.retired.successor!r}."
    )


def _parse_staging(extra: _Extra, profile: SiteProfile | None) -> Literal["node", "login"]:
    match extra.text("staging"):
        case None:
            return "login" if profile and not profile.can_nodes_reach_out else "node"
        case "node":
            return "node"
        case "login":
            return "login"
        case _:
            raise extra.error("staging", "is no choice. Write 'node' or 'login'.")


def _check_type(fields: ConnectionFields) -> None:
    if fields.conn_type not in CONNECTION_TYPES:
        raise ConfigError(
            f"Connection {fields.conn_id!r} is of type {fields.conn_type!r}; a task on a Slurm "
            "cluster needs one of type 'slurm' (or 'ssh'). Name another in slurm_conn_id.",
            field="slurm_conn_id",
            value=fields.conn_id,
        )


def _parse_ssh(fields: ConnectionFields, extra: _Extra, profile: SiteProfile | None) -> SshSettings:
    return SshSettings(
        target=_parse_target(fields, profile),
        jump_hosts=parse_hops(extra.text("jump_hosts") or "", extra),
        key_file=extra.text("key_file"),
        private_key=extra.secret("private_key"),
        passphrase=extra.secret("private_key_passphrase"),
        password=Secret(value=fields.password) if fields.password else None,
        certificate_file=extra.text("certificate_file"),
        certificate=extra.text("certificate"),
        known_hosts=extra.text("known_hosts"),
        host_key=extra.text("host_key"),
        host_key_fingerprints=profile.log_in.host_key_fingerprints if profile else (),
        no_host_key_check=_parse_no_host_key_check(extra),
        connect_timeout=extra.seconds("connect_timeout", extra.seconds("conn_timeout", 30.0)),
    )


def _parse_target(fields: ConnectionFields, profile: SiteProfile | None) -> Hop:
    host = (fields.host or "").strip() or (profile and profile.log_in.host)
    if not host:
        place = f"its site {profile.name!r} names none" if profile else "it names no site"
        raise ConfigError(
            f"Connection {fields.conn_id!r} has no Host, and {place}. Name the log-in node, for "
            "example 'roihu-cpu.csc.fi'.",
            field="host",
            value=fields.host,
        )
    default = profile.log_in.port if profile else 22
    port = default if fields.port is None else fields.port
    if not 0 < port <= _HIGHEST_PORT:
        raise ConfigError(
            f"Connection {fields.conn_id!r}, field port: {port} is not between 1 and "
            f"{_HIGHEST_PORT}. SSH's own is 22.",
            field="port",
            value=port,
        )
    return Hop(host=host, port=port, username=fields.login or None)


def _parse_no_host_key_check(extra: _Extra) -> bool:
    is_off = extra.flag("no_host_key_check")
    if is_off and extra.text("host_key"):
        raise extra.error(
            "no_host_key_check", "would make the Host key of no effect. Leave one of them out."
        )
    return is_off


class _Extra:
    """A connection's extras, read by kind, with errors that name connection and field."""

    def __init__(self, fields: ConnectionFields) -> None:
        self._fields = fields

    def error(self, name: str, remedy: str) -> ConfigError:
        value = self._fields.extra.get(name)
        return ConfigError(
            f"Connection {self._fields.conn_id!r}, field {name}: {value!r} {remedy}",
            field=name,
            value=value,
        )

    def text(self, name: str) -> str | None:
        value = self._fields.extra.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.error(name, "is not text.")
        if "PRIVATE KEY-----" in value:
            raise ConfigError(
                f"Connection {self._fields.conn_id!r}, field {name}: a private key stands here; it "
                "belongs into Private key text. Treat it as seen by others if this was shown.",
                field=name,
            )
        if "\0" in value:
            raise self.error(name, "holds a NUL byte. Type it again.")
        return value

    def secret(self, name: str) -> Secret | None:
        value = self._fields.extra.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise ConfigError(
                f"Connection {self._fields.conn_id!r}, field {name}: its value is not text.",
                field=name,
            )
        return Secret(value=value)

    def flag(self, name: str) -> bool:
        value = self._fields.extra.get(name)
        word = "" if value is None else str(value).strip().lower()
        if word not in (*_TRUE, *_FALSE):
            raise self.error(name, "is neither true nor false.")
        return word in _TRUE

    def seconds(self, name: str, default: float) -> float:
        value = self._fields.extra.get(name)
        if value is None or value == "":
            return default
        try:
            seconds = float("" if isinstance(value, bool) else value)
        except (TypeError, ValueError):
            raise self.error(name, "is not a number of seconds, as 5.") from None
        if not 0 < seconds < 1e9:  # noqa: PLR2004
            raise self.error(name, "is not a positive number of seconds, as 5.")
        return seconds


def parse_hops(text: str, extra: _Extra) -> tuple[Hop, ...]:
    """Read ``user@host:port,...``, first hop first; user and port may be left out."""
    return tuple(_parse_hop(part.strip(), extra) for part in text.split(",") if part.strip())


def _parse_hop(text: str, extra: _Extra) -> Hop:
    match = _HOP.fullmatch(text)
    port = int(match["port"] or 22) if match else 0
    if not match or not 0 < port <= _HIGHEST_PORT:
        raise extra.error("jump_hosts", f"is not a list of user@host:port (at {text!r}).")
    return Hop(host=match["ipv6"] or match["host"], port=port, username=match["user"])
