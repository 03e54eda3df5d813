"""What an Airflow connection's fields become, and what is said of those that cannot be."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.transport.base import Hop, Secret, SiteSettings, SshSettings
from airflow_provider_csc.transport.connection import ConnectionFields, parse_connection

SECRETS = {
    "password": "pa55-word-text",
    "private_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nk3y-text\n",
    "private_key_passphrase": "p455-phrase-text",
}


def connection(**changes: Any) -> ConnectionFields:
    values: dict[str, Any] = {"conn_id": "roihu", "conn_type": "slurm", "host": "login.csc.fi"}
    return ConnectionFields(**(values | changes))


def parse(**extra: Any) -> SiteSettings:
    return parse_connection(connection(extra=extra))


def refusal(**changes: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_connection(connection(**changes))
    return caught.value


def test_a_host_alone_is_a_connection() -> None:
    assert parse_connection(connection()) == SiteSettings(
        ssh=SshSettings(target=Hop(host="login.csc.fi", port=22, username=None)),
        work_dir="~/airflow-runs",
        poll_interval_floor=5.0,
    )


def test_host_port_and_login_say_where_to_log_in_as_whom() -> None:
    settings = parse_connection(connection(port=2222, login="alice"))
    assert settings.ssh.target == Hop(host="login.csc.fi", port=2222, username="alice")


def test_an_empty_login_is_no_login() -> None:
    assert parse_connection(connection(login="")).ssh.target.username is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("key_file", "~/.ssh/id", "~/.ssh/id"),
        ("certificate_file", "/keys/id-cert.pub", "/keys/id-cert.pub"),
        ("certificate", "ssh-ed25519-cert-v01@openssh.com AAAA", None),
        ("known_hosts", "/etc/ssh/known_hosts", None),
        ("host_key", "ssh-ed25519 AAAA", None),
        ("no_host_key_check", True, True),
        ("connect_timeout", "7", 7.0),
        ("jump_hosts", "gate.csc.fi", (Hop(host="gate.csc.fi"),)),
    ],
)
def test_a_field_of_the_log_in_is_taken_over(name: str, value: object, expected: object) -> None:
    assert getattr(parse(**{name: value}).ssh, name) == (value if expected is None else expected)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("account", "project_2001234", None),
        ("partition", "gpu", None),
        ("time", "1:00:00", None),
        ("work_dir", "/scratch/project_2001234", None),
        ("login_setup", "source /etc/profile\nmodule use /x", None),
        ("poll_interval_floor", "2.5", 2.5),
        ("poll_interval_floor", 30, 30.0),
        ("web_interface", "https://www.puhti.csc.fi", None),
    ],
)
def test_a_field_of_the_site_is_taken_over(name: str, value: object, expected: object) -> None:
    assert getattr(parse(**{name: value}), name) == (value if expected is None else expected)


def test_every_setting_is_read_from_some_field() -> None:
    """A setting added without a field would silently keep its default."""
    settings = parse_connection(
        connection(
            port=1,
            login="x",
            password="x",
            extra={
                "account": "x",
                "partition": "x",
                "time": "x",
                "work_dir": "x",
                "login_setup": "x",
                "poll_interval_floor": 1,
                "web_interface": "x",
                "staging": "login",
                "jump_hosts": "x",
                "key_file": "x",
                "private_key": "x",
                "private_key_passphrase": "x",
                "certificate_file": "x",
                "certificate": "x",
                "known_hosts": "x",
                "host_key": "x",
                "no_host_key_check": False,
                "connect_timeout": 1,
            },
        )
    )
    untouched = SiteSettings(ssh=SshSettings(target=Hop(host="h")))
    same = [
        each.name
        for value, default in ((settings, untouched), (settings.ssh, untouched.ssh))
        for each in fields(value)
        if getattr(value, each.name) == getattr(default, each.name)
    ]
    assert same == ["no_host_key_check"]


def test_secrets_are_read_as_such() -> None:
    ssh = parse_connection(connection(password="pw", extra=SECRETS)).ssh
    assert (ssh.password, ssh.private_key, ssh.passphrase) == (
        Secret(value="pw"),
        Secret(value=SECRETS["private_key"]),
        Secret(value=SECRETS["private_key_passphrase"]),
    )


def test_a_plain_ssh_connection_works_with_the_ssh_providers_extras() -> None:
    settings = parse_connection(
        connection(
            conn_type="ssh",
            login="alice",
            extra={
                "key_file": "/keys/alice",
                "private_key_passphrase": "x",
                "conn_timeout": 12,
                "cmd_timeout": 60,
                "compress": "false",
                "look_for_keys": "false",
                "allow_host_key_change": "false",
                "disabled_algorithms": {"pubkeys": ["rsa-sha2-256"]},
                "ciphers": ["aes128-ctr"],
                "host_key": "AAAAB3NzaC1yc2E",
                "no_host_key_check": "false",
                "keepalive_interval": 30,
            },
        )
    )
    assert settings.ssh == SshSettings(
        target=Hop(host="login.csc.fi", username="alice"),
        key_file="/keys/alice",
        passphrase=Secret(value="x"),
        host_key="AAAAB3NzaC1yc2E",
        connect_timeout=12.0,
    )


def test_our_own_name_of_the_time_limit_wins_over_the_ssh_providers() -> None:
    assert parse(connect_timeout=3, conn_timeout=9).ssh.connect_timeout == 3


def test_empty_extras_are_as_good_as_none() -> None:
    """Airflow's form stores a field that was left empty as an empty text."""
    names = ("key_file", "certificate", "known_hosts", "jump_hosts", "connect_timeout", "account")
    assert parse(**dict.fromkeys(names, "")) == parse() == parse(**dict.fromkeys(names))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gate", [Hop(host="gate")]),
        ("bob@gate", [Hop(host="gate", username="bob")]),
        ("gate:2222", [Hop(host="gate", port=2222)]),
        ("bob@gate:2222", [Hop(host="gate", port=2222, username="bob")]),
        (" a , b@c:3 ,", [Hop(host="a"), Hop(host="c", port=3, username="b")]),
        ("bob@csc.fi@gate", [Hop(host="gate", username="bob@csc.fi")]),
        ("[::1]:2222", [Hop(host="::1", port=2222)]),
        ("bob@[fe80::1]", [Hop(host="fe80::1", username="bob")]),
    ],
)
def test_jump_hosts_are_a_list_first_hop_first(text: str, expected: list[Hop]) -> None:
    assert parse(jump_hosts=text).ssh.jump_hosts == tuple(expected)


@pytest.mark.parametrize(
    "text", ["gate:", "gate:ssh", ":22", "bob@", "gate:-1", "gate:0", "gate:65536", "::1", "a b"]
)
def test_a_bad_jump_host_is_named(text: str) -> None:
    error = refusal(extra={"jump_hosts": f"good@first:22,{text}"})
    assert error.field == "jump_hosts"
    assert "'roihu'" in error.message
    assert "user@host:port" in error.message
    assert repr(text) in error.message


@pytest.mark.parametrize("conn_type", ["aws", "", "Slurm", "sftp"])
def test_another_type_of_connection_is_refused_by_name(conn_type: str) -> None:
    error = refusal(conn_type=conn_type)
    assert error.field == "slurm_conn_id"
    assert "'roihu'" in error.message
    assert repr(conn_type) in error.message
    assert "'slurm'" in error.message


@pytest.mark.parametrize("host", [None, "", "   "])
def test_a_missing_host_is_said(host: str | None) -> None:
    error = refusal(host=host)
    assert error.field == "host"
    assert "no Host" in error.message


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_cannot_be_is_said(port: int) -> None:
    error = refusal(port=port)
    assert error.field == "port"
    assert str(port) in error.message


@pytest.mark.parametrize("name", ["poll_interval_floor", "connect_timeout", "conn_timeout"])
@pytest.mark.parametrize("value", ["soon", "5s", 0, -1, "nan", "inf", [5], "1e99", True])
def test_a_bad_number_names_field_value_and_remedy(name: str, value: object) -> None:
    error = refusal(extra={name: value})
    assert error.field == name
    assert f"field {name}: {value!r}" in error.message
    assert "number of seconds" in error.message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        ("true", True),
        (" Yes ", True),
        (1, True),
        (False, False),
        ("False", False),
        (0, False),
        ("", False),
        (None, False),
    ],
)
def test_a_switch_is_read_from_what_forms_and_json_give(value: object, *, expected: bool) -> None:
    assert parse(no_host_key_check=value).ssh.no_host_key_check is expected


@pytest.mark.parametrize("value", ["maybe", 2, [], {}, "tru"])
def test_a_bad_switch_names_field_value_and_remedy(value: object) -> None:
    error = refusal(extra={"no_host_key_check": value})
    assert error.field == "no_host_key_check"
    assert repr(value) in error.message
    assert "true nor false" in error.message


@pytest.mark.parametrize("name", ["key_file", "known_hosts", "work_dir", "login_setup", "account"])
@pytest.mark.parametrize("value", [5, ["x"], {"x": 1}, "with\0nul"])
def test_a_value_that_is_no_text_names_its_field(name: str, value: object) -> None:
    error = refusal(extra={name: value})
    assert error.field == name
    assert f"field {name}" in error.message


@pytest.mark.parametrize("name", ["private_key", "private_key_passphrase"])
def test_a_secret_that_is_no_text_is_refused_without_being_shown(name: str) -> None:
    error = refusal(extra={name: ["s3cret-text"]})
    assert error.field == name
    assert "s3cret-text" not in f"{error!r} {error.details}"


def test_a_pinned_host_key_contradicts_not_checking_it() -> None:
    """As the SSH provider has it; the switch would silently disarm the key."""
    error = refusal(extra={"host_key": "ssh-ed25519 AAAA", "no_host_key_check": True})
    assert error.field == "no_host_key_check"


def test_no_secret_is_in_any_text_about_a_connection() -> None:
    given = connection(password=SECRETS["password"], extra=SECRETS)
    settings = parse_connection(given)
    errors = [
        refusal(password=SECRETS["password"], extra=SECRETS | {name: "?", "host_key": 5})
        for name in ("poll_interval_floor", "no_host_key_check", "jump_hosts")
    ]
    shown = [given, settings, settings.ssh, *errors, *(each.details for each in errors)]
    for text in (form(each) for each in shown for form in (repr, str, "{}".format)):
        for secret in ("pa55", "k3y-text", "p455"):
            assert secret not in text


def test_settings_can_be_compared_hashed_and_sent_across_processes() -> None:
    one, other = parse(private_key="a"), parse(private_key="b")
    assert one != other
    assert len({one, other, parse(private_key="a")}) == 2
    assert pickle.loads(pickle.dumps(one)) == one
