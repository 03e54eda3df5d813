"""What an Airflow connection's fields become, and what is said of those that cannot be."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.transport.base import Hop, Secret, SiteSettings, SshSettings
from airflow_provider_csc.transport.connection import ConnectionFields, parse_connection

if TYPE_CHECKING:
    from pathlib import Path

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


def test_every_setting_is_read_from_some_field(sites: Path) -> None:
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
                "site": "old",
            },
        ),
        folders=[str(sites)],
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


# What a site's profile says.

FINGERPRINT = f"SHA256:{'A' * 43}"
PROFILE = f"""\
title: Mine
log_in:
  host: login.mine.org
  port: 2200
  host_key_fingerprints: ["{FINGERPRINT}"]
  setup: source /etc/profile
jobs:
  options: {{export: "HOME,X=1", cpus_per_task: "2"}}
  env: {{SLURM_EXPORT_ENV: ALL}}
  module_paths: [/appl/modules]
web_interface: https://www.mine.org
can_nodes_reach_out: false
"""


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """A folder with profiles, one of them of a machine that is off."""
    (tmp_path / "mine.yaml").write_text(PROFILE)
    retired = "extends: mine\nretired: {since: 2026-07-31, successor: lumi, reason: it is off}\n"
    (tmp_path / "old.yaml").write_text(retired)
    return tmp_path


def at_site(sites: Path, site: str = "mine", **changes: Any) -> SiteSettings:
    extra = {"site": site, **changes.pop("extra", {})}
    fields = connection(**{"host": None, "extra": extra} | changes)
    return parse_connection(fields, folders=[str(sites)])


def test_a_site_and_a_log_in_are_a_connection(sites: Path) -> None:
    assert at_site(sites, login="alice") == SiteSettings(
        ssh=SshSettings(
            target=Hop(host="login.mine.org", port=2200, username="alice"),
            host_key_fingerprints=(FINGERPRINT,),
        ),
        login_setup="source /etc/profile",
        web_interface="https://www.mine.org",
        staging="login",
        site="mine",
        options=(("cpus_per_task", "2"), ("export", "HOME,X=1")),
        env=(("SLURM_EXPORT_ENV", "ALL"),),
        module_paths=("/appl/modules",),
    )


def test_what_the_connection_says_wins(sites: Path) -> None:
    said = {"login_setup": "true", "web_interface": "https://other.org", "staging": "node"}
    settings = at_site(sites, host="10.0.0.1", port=22, extra=said)
    assert settings.ssh.target == Hop(host="10.0.0.1", port=22)
    assert said == {name: getattr(settings, name) for name in said}


@pytest.mark.parametrize("name", ["", None])
def test_a_site_that_was_left_empty_is_none(name: str | None) -> None:
    assert parse(site=name) == parse()


def test_a_shipped_profile_needs_no_folder() -> None:
    settings = parse_connection(connection(host="", extra={"site": "roihu-cpu"}))
    assert settings.ssh.target == Hop(host="roihu-cpu.csc.fi")
    assert dict(settings.options) == {"export": "HOME,CSC_ENV_INIT_NON_INTERACTIVE=yes"}


def test_a_site_without_a_host_needs_the_connections() -> None:
    error = refusal(host="", extra={"site": "generic"})
    assert "no Host, and its site 'generic' names none" in error.message
    assert parse_connection(connection(extra={"site": "generic"})).site == "generic"


def test_an_unknown_site_names_connection_field_and_the_nearest() -> None:
    error = refusal(extra={"site": "lmui"})
    assert "Connection 'roihu', field site: 'lmui' is no profile" in error.message
    assert "Did you mean 'lumi'?" in error.message


def test_a_profile_that_cannot_be_read_is_named_by_its_file(sites: Path) -> None:
    (sites / "bad.yaml").write_text("titel: Bad\n")
    with pytest.raises(ConfigError, match=r"bad.yaml:1:1: titel"):
        at_site(sites, "bad")


def test_a_site_that_is_retired_refuses_jobs_alone(sites: Path) -> None:
    settings = at_site(sites, "old")
    with pytest.raises(ConfigError) as caught:
        settings.check_takes_jobs()
    for words in ("Mine takes no jobs since 2026-07-31", "it is off", "'lumi'"):
        assert words in caught.value.message
    at_site(sites).check_takes_jobs()


def test_settings_with_a_site_can_be_compared_hashed_and_sent(sites: Path) -> None:
    one = at_site(sites)
    assert len({one, at_site(sites), at_site(sites, "old")}) == 2
    assert pickle.loads(pickle.dumps(one)) == one
