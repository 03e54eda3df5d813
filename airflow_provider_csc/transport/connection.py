"""Read an Airflow connection's fields into `SiteSettings`; needs no Airflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.transport.base import Hop, Secret, SiteSettings, SshSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECTION_TYPES = ("slurm", "ssh")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


@dataclass(frozen=True, kw_only=True)
class ConnectionFields:
    """A connection as Airflow stores it."""

    conn_id: str
    conn_type: str
    host: str | None = None
    port: int | None = None
    login: str | None = None
    password: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def parse_connection(fields: ConnectionFields) -> SiteSettings:
    """
    Return the settings of a ``slurm`` connection, or of a plain ``ssh`` one.

    Extras this provider does not know are left to whoever does (the SSH provider has more).

    :raises ConfigError: names the connection, the field and the remedy.
    """
    _check_type(fields)
    extra = _Extra(fields)
    return SiteSettings(
        ssh=_parse_ssh(fields, extra),
        account=extra.text("account"),
        partition=extra.text("partition"),
        time=extra.text("time"),
        work_dir=extra.text("work_dir") or "~/airflow-runs",
        login_setup=extra.text("login_setup") or "",
        poll_interval_floor=extra.seconds("poll_interval_floor", 5.0),
        web_interface=extra.text("web_interface"),
    )


def _check_type(fields: ConnectionFields) -> None:
    if fields.conn_type not in CONNECTION_TYPES:
        raise ConfigError(
            f"Connection {fields.conn_id!r} is of type {fields.conn_type!r}; a task on a Slurm "
            "cluster needs one of type 'slurm' (or 'ssh'). Name another in slurm_conn_id.",
            field="slurm_conn_id",
            value=fields.conn_id,
        )


def _parse_ssh(fields: ConnectionFields, extra: _Extra) -> SshSettings:
    if not fields.host:
        raise ConfigError(
            f"Connection {fields.conn_id!r} has no Host. Name the log-in node, for example "
            "'roihu-cpu.csc.fi'.",
            field="host",
            value=fields.host,
        )
    return SshSettings(
        target=Hop(host=fields.host, port=fields.port or 22, username=fields.login or None),
        jump_hosts=parse_hops(extra.text("jump_hosts") or "", extra),
        key_file=extra.text("key_file"),
        private_key=extra.secret("private_key"),
        passphrase=extra.secret("private_key_passphrase"),
        password=Secret(value=fields.password) if fields.password else None,
        certificate_file=extra.text("certificate_file"),
        certificate=extra.text("certificate"),
        known_hosts=extra.text("known_hosts"),
        host_key=extra.text("host_key"),
        no_host_key_check=extra.flag("no_host_key_check"),
        connect_timeout=extra.seconds("connect_timeout", extra.seconds("conn_timeout", 30.0)),
    )


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
        if "\0" in value:
            raise self.error(name, "holds a NUL byte. Type it again.")
        return value

    def secret(self, name: str) -> Secret | None:
        value = self._fields.extra.get(name)
        return Secret(value=str(value)) if value else None

    def flag(self, name: str) -> bool:
        word = str(self._fields.extra.get(name) or "").strip().lower()
        if word not in (*_TRUE, *_FALSE):
            raise self.error(name, "is neither true nor false.")
        return word in _TRUE

    def seconds(self, name: str, default: float) -> float:
        value = self._fields.extra.get(name)
        if value is None or value == "":
            return default
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            raise self.error(name, "is not a number of seconds, as 5.") from None
        if not 0 < seconds < 1e9:  # noqa: PLR2004
            raise self.error(name, "is not a positive number of seconds, as 5.")
        return seconds


def parse_hops(text: str, extra: _Extra) -> tuple[Hop, ...]:
    """Read ``user@host:port,...``, first hop first; user and port may be left out."""
    return tuple(_parse_hop(part.strip(), extra) for part in text.split(",") if part.strip())


def _parse_hop(text: str, extra: _Extra) -> Hop:
    user, _, address = text.rpartition("@")
    host, colon, port = address.rpartition(":")
    if not colon:
        host, port = address, "22"
    if not host or not port.isdecimal():
        raise extra.error("jump_hosts", f"is not a list of user@host:port (at {text!r}).")
    return Hop(host=host, port=int(port), username=user or None)
