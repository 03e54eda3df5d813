from __future__ import annotations

import pytest

from airflow_provider_csc.allas.connection import (
    CLIENT_CONFIG,
    Fields,
    KeySource,
    build_aws_extra,
    build_client_config,
    find_key_source,
)
from airflow_provider_csc.allas.credentials import Keys
from airflow_provider_csc.errors import ConfigError

SECRET = "s3cr3t-never-shown"


def allas(login: str | None = "AKEY", password: str | None = SECRET, **extra: object) -> Fields:
    return Fields(conn_id="store", conn_type="allas", login=login, password=password, extra=extra)


def aws(**extra: object) -> Fields:
    return Fields(conn_id="store", conn_type="aws", login="AKEY", password=SECRET, extra=extra)


@pytest.mark.parametrize(
    ("extra", "url"),
    [
        ({}, "https://a3s.fi"),
        ({"endpoint": "allas"}, "https://a3s.fi"),
        ({"endpoint": "lumi-o"}, "https://lumidata.eu"),
        ({"endpoint": None, "endpoint_url": ""}, "https://a3s.fi"),
        ({"endpoint": "custom", "endpoint_url": "http://127.0.0.1:7480"}, "http://127.0.0.1:7480"),
        ({"endpoint_url": "https://rgw.example.org/"}, "https://rgw.example.org"),
        ({"endpoint": "allas", "endpoint_url": "https://a3s.fi/"}, "https://a3s.fi"),
        ({"endpoint_url": "https://[::1]:7480"}, "https://[::1]:7480"),
    ],
)
def test_endpoint_follows_from_preset_and_url(extra: dict[str, object], url: str) -> None:
    assert build_aws_extra(allas(**extra))["endpoint_url"] == url


def test_a_plain_connection_gets_all_that_ceph_needs() -> None:
    assert build_aws_extra(allas()) == {
        "endpoint_url": "https://a3s.fi",
        "region_name": "us-east-1",
        "config_kwargs": {**CLIENT_CONFIG, "s3": {"addressing_style": "path"}},
        "service_config": {},
    }


def test_checksums_are_sent_and_checked_only_on_request() -> None:
    config = build_client_config("path")
    assert config["request_checksum_calculation"] == "when_required"
    assert config["response_checksum_validation"] == "when_required"


def test_form_fields_reach_amazons_vocabulary() -> None:
    extra = build_aws_extra(
        allas(
            bucket_name="2001234-data",
            project="project_2001234",
            region_name="regionOne",
            addressing_style="virtual",
            ca_bundle="/etc/ca.pem",
        )
    )
    assert extra["service_config"] == {"s3": {"bucket_name": "2001234-data"}}
    assert extra["project"] == "project_2001234"
    assert extra["region_name"] == "regionOne"
    assert extra["config_kwargs"]["s3"] == {"addressing_style": "virtual"}
    assert extra["verify"] == "/etc/ca.pem"


def test_default_bucket_joins_other_service_settings() -> None:
    extra = build_aws_extra(
        allas(
            bucket_name="b",
            service_config={"s3": {"transfer_config_args": {"max_concurrency": 2}}, "sqs": {}},
        )
    )
    assert extra["service_config"] == {
        "s3": {"transfer_config_args": {"max_concurrency": 2}, "bucket_name": "b"},
        "sqs": {},
    }


def test_the_connections_own_client_settings_win() -> None:
    config = build_client_config("path", {"read_timeout": 600, "s3": {"use_accelerate": False}})
    assert config["read_timeout"] == 600
    assert config["connect_timeout"] == CLIENT_CONFIG["connect_timeout"]
    assert config["s3"] == {"addressing_style": "path", "use_accelerate": False}


def test_amazons_verify_is_handed_on_unless_a_ca_bundle_is_named() -> None:
    assert build_aws_extra(allas(verify=False))["verify"] is False
    assert build_aws_extra(allas(verify=False, ca_bundle="/ca.pem"))["verify"] == "/ca.pem"


def test_an_aws_connection_keeps_its_extra_and_gains_ceph_settings() -> None:
    extra = build_aws_extra(
        aws(
            endpoint_url="https://a3s.fi",
            profile_name="allas",
            config_kwargs={"s3": {"addressing_style": "virtual"}},
        )
    )
    assert extra["profile_name"] == "allas"
    assert extra["region_name"] == "us-east-1"
    assert extra["config_kwargs"]["s3"] == {"addressing_style": "virtual"}
    assert extra["config_kwargs"]["request_checksum_calculation"] == "when_required"


def test_an_aws_connection_may_name_the_endpoint_for_s3_alone() -> None:
    service_config = {"s3": {"endpoint_url": "https://a3s.fi"}}
    assert build_aws_extra(aws(service_config=service_config))["service_config"] == service_config


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        (allas(login=None), "login", ["login (the access key)", "ec2 credentials create"]),
        (allas(login="  "), "login", ["login"]),
        (allas(password=""), "password", ["password (the secret key)"]),
        (allas(login="", password=None), "login", ["login", "and no password"]),
        (allas(endpoint="alas"), "endpoint", ["'alas'", "'allas', 'lumi-o', 'custom'"]),
        (allas(endpoint="custom"), "endpoint_url", ["no endpoint_url"]),
        (
            allas(endpoint="allas", endpoint_url="https://lumidata.eu"),
            "endpoint_url",
            ["https://a3s.fi", "https://lumidata.eu", "Choose endpoint 'custom'"],
        ),
        (allas(endpoint_url="a3s.fi"), "endpoint_url", ["https://host"]),
        (allas(endpoint_url="s3://a3s.fi"), "endpoint_url", ["https://host"]),
        (allas(endpoint_url="https://"), "endpoint_url", ["https://host"]),
        (allas(endpoint_url=f"https://u:{SECRET}@h"), "endpoint_url", ["https://host"]),
        (allas(endpoint_url="https://h:port"), "endpoint_url", ["https://host"]),
        (allas(endpoint_url=["https://h"]), "endpoint_url", ["list", "must be text"]),
        (allas(addressing_style="dns"), "addressing_style", ["'dns'", "'virtual'"]),
        (allas(bucket="b"), "bucket", ["'bucket'", "Did you mean 'bucket_name'?"]),
        (allas(quux=1), "quux", ["'quux'", "Known are endpoint"]),
        (allas(service_config=[1]), "service_config", ["list", "must be an object"]),
        (aws(), "endpoint_url", ["leads to Amazon", "https://a3s.fi"]),
        (
            Fields(conn_id="store", conn_type="ssh", login="", password=SECRET, extra={}),
            "conn_type",
            ["'ssh'", "Allas (S3)", "allas_conn_id"],
        ),
    ],
)
def test_a_wrong_connection_is_refused_by_name_field_and_remedy(
    fields: Fields, field: str, said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_aws_extra(fields)
    message = str(caught.value)
    assert message.startswith("Connection 'store' ")
    assert [text for text in said if text not in message] == []
    assert SECRET not in message
    assert (caught.value.conn_id, caught.value.field) == ("store", field)


def test_fields_do_not_show_their_secrets() -> None:
    assert SECRET not in repr(allas(private=SECRET))


def keys(endpoint_url: str | None = None) -> Keys:
    return Keys(profile="p", access_key="FILEKEY", secret_key=SECRET, endpoint_url=endpoint_url)


def by_file(**extra: object) -> Fields:
    return allas(None, None, **({"credentials_file": "~/.s3cfg"} | extra))


def test_keys_are_in_a_file_only_where_the_connection_names_one() -> None:
    assert find_key_source(allas()) is None
    assert find_key_source(allas(credentials_file="", profile=None)) is None
    assert find_key_source(by_file()) == KeySource(path="~/.s3cfg", profile=None)
    assert find_key_source(by_file(credentials_file="/k", profile="p")) == KeySource(
        path="/k", profile="p"
    )


@pytest.mark.parametrize(
    ("extra", "found", "url"),
    [
        ({}, None, "https://a3s.fi"),
        ({}, "https://lumidata.eu/", "https://lumidata.eu"),
        ({}, "http://127.0.0.1:7480", "http://127.0.0.1:7480"),
        ({"endpoint": "allas"}, "https://lumidata.eu", "https://a3s.fi"),
        ({"endpoint_url": "http://h:1"}, "https://lumidata.eu", "http://h:1"),
    ],
)
def test_the_endpoint_beside_the_keys_serves_where_the_connection_names_none(
    extra: dict[str, object], found: str | None, url: str
) -> None:
    assert build_aws_extra(by_file(**extra), keys(found))["endpoint_url"] == url


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (allas(profile="p"), "has a profile and no credentials_file"),
        (allas(credentials_file="/k"), "keys in login or password and names a credentials_file"),
        (allas(None, SECRET, credentials_file="/k"), "Remove one of them"),
        (by_file(credentials_file="keys.ini"), "'keys.ini', which is relative"),
        (by_file(credentials_file=["/k"]), "credentials_file of type list"),
        (aws(credentials_file="/k"), "is of type 'aws', which knows no credentials_file"),
    ],
)
def test_a_connection_that_contradicts_itself_about_its_keys_is_refused(
    fields: Fields, said: str
) -> None:
    with pytest.raises(ConfigError, match=r"^Connection 'store' ") as caught:
        find_key_source(fields)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_whose_endpoint_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"profile \[p\] of its credentials_file"):
        build_aws_extra(by_file(), keys("https://"))
