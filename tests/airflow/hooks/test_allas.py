"""AllasHook without a network: which client a connection makes, and what is refused."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.operators.s3 import S3ListOperator
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from botocore.config import Config
from botocore.loaders import JSONFileLoader
from botocore.stub import Stubber

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.hooks.allas import AllasHook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "s3cr3t-never-shown"
Connect = "Callable[..., str]"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Define a connection as a deployment does, by its variable; return the id."""

    def define(conn_id: str = "allas_default", conn_type: str = "allas", **fields: object) -> str:
        described = {"conn_type": conn_type, "login": "AKEYAKEY", "password": SECRET, **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(described))
        return conn_id

    return define


class ForgetfulHook(AllasHook):
    """Stand for a deployment that knows no connection at all."""

    @classmethod
    def get_connection(cls, conn_id: str) -> Any:
        raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")


class FakeClient:
    """An asynchronous client that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def head_object(self, **params: Any) -> dict[str, Any]:
        self.asked.append(params)
        return {"ContentLength": 3}

    def get_paginator(self, _operation: str) -> FakeClient:
        return self

    async def paginate(self, **params: Any) -> Any:
        self.asked.append(params)
        yield {"Contents": [{"Key": "a"}, {"Key": "b"}]}


def test_a_plain_connection_leads_to_allas_with_cephs_settings(connect: Connect) -> None:
    connect()
    client = AllasHook().get_conn()
    config = client.meta.config
    assert client.meta.endpoint_url == "https://a3s.fi"
    assert client.meta.region_name == "us-east-1"
    assert config.s3["addressing_style"] == "path"
    assert config.request_checksum_calculation == "when_required"
    assert config.response_checksum_validation == "when_required"
    assert config.signature_version == "s3v4"
    assert config.retries["mode"] == "standard"
    assert (config.connect_timeout, config.read_timeout) == (10, 60)


def test_a_preset_and_a_custom_endpoint_are_reached(connect: Connect) -> None:
    connect("lumi", extra={"endpoint": "lumi-o"})
    connect("own", extra={"endpoint": "custom", "endpoint_url": "http://127.0.0.1:7480"})
    assert AllasHook("lumi").get_conn().meta.endpoint_url == "https://lumidata.eu"
    assert AllasHook("own").get_conn().meta.endpoint_url == "http://127.0.0.1:7480"


def test_keys_are_taken_from_the_connection_without_stray_spaces(connect: Connect) -> None:
    connect(login=" AKEYAKEY\n", password=f" {SECRET} ")
    credentials = AllasHook().get_credentials()
    assert (credentials.access_key, credentials.secret_key) == ("AKEYAKEY", SECRET)


def test_a_connection_may_be_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BY_URI", f"allas://AKEYAKEY:{SECRET}@/?endpoint=lumi-o")
    assert AllasHook("by_uri").get_conn().meta.endpoint_url == "https://lumidata.eu"


def test_an_aws_connection_with_an_endpoint_is_completed(connect: Connect) -> None:
    connect("plain", "aws", extra={"endpoint_url": "https://a3s.fi"})
    client = AllasHook("plain").get_conn()
    assert client.meta.endpoint_url == "https://a3s.fi"
    assert client.meta.config.s3["addressing_style"] == "path"
    assert client.meta.config.request_checksum_calculation == "when_required"


def test_the_resource_has_the_settings_of_the_client(connect: Connect) -> None:
    connect()
    meta = AllasHook().resource.meta.client.meta
    assert meta.endpoint_url == "https://a3s.fi"
    assert meta.config.s3["addressing_style"] == "path"


def test_what_boto3_knows_of_services_is_read_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[str] = []
    load = JSONFileLoader.load_file

    def counted(self: JSONFileLoader, file_path: str) -> Any:
        read.append(file_path)
        return load(self, file_path)

    def make() -> None:
        hook = AllasHook()
        assert hook.get_conn().get_paginator("list_objects_v2")
        assert hook.resource.Bucket("b").name == "b"

    connect()
    make()
    monkeypatch.setattr(JSONFileLoader, "load_file", counted)
    make()
    assert read == []
    # Somewhere else it may be something else.
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    make()
    assert any(path.startswith(str(tmp_path)) for path in read)


def test_arguments_of_the_hook_win_over_the_connection(connect: Connect) -> None:
    connect(extra={"config_kwargs": {"read_timeout": 600, "connect_timeout": 3}})
    hook = AllasHook(region_name="regionOne", verify=False, config={"read_timeout": 7})
    config = hook.get_conn().meta.config
    assert (config.read_timeout, config.connect_timeout) == (7, 3)
    assert config.request_checksum_calculation == "when_required"
    assert (hook.region_name, hook.verify) == ("regionOne", False)


def test_a_ca_bundle_is_what_the_certificate_is_checked_against(connect: Connect) -> None:
    connect(extra={"ca_bundle": "/etc/store-ca.pem"})
    assert AllasHook().verify == "/etc/store-ca.pem"


def test_transfer_settings_of_the_connection_reach_the_transfers(connect: Connect) -> None:
    transfer = {"max_concurrency": 2}
    connect(
        extra={
            "service_config": {"s3": {"transfer_config_args": transfer}},
            "bucket_name": "b",
        }
    )
    assert AllasHook().transfer_config.max_concurrency == 2


def test_the_default_bucket_serves_calls_that_name_none(connect: Connect) -> None:
    connect(extra={"bucket_name": "2001234-data"})
    hook = AllasHook()
    assert hook.get_bucket().name == "2001234-data"
    assert hook.get_bucket("other").name == "other"


async def read_all(rows: Any) -> list[Any]:
    return [row async for row in rows]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("arguments", "bucket", "key"),
    [
        ({"key": "k"}, "default", "k"),
        ({"key": "k", "bucket_name": "other"}, "other", "k"),
        ({"key": "s3://named/k"}, "named", "k"),
    ],
)
async def test_asynchronous_heads_find_the_bucket_as_synchronous_ones_do(
    connect: Connect, arguments: dict[str, str], bucket: str, key: str
) -> None:
    connect(extra={"bucket_name": "default"})
    client = FakeClient()
    assert await AllasHook().get_head_object_async(client, **arguments) == {"ContentLength": 3}
    assert client.asked == [{"Bucket": bucket, "Key": key}]


@pytest.mark.asyncio
@pytest.mark.parametrize(("named", "bucket"), [(None, "default"), ("other", "other")])
async def test_asynchronous_lists_find_the_bucket_as_synchronous_ones_do(
    connect: Connect, named: str | None, bucket: str
) -> None:
    connect(extra={"bucket_name": "default"})
    client = FakeClient()
    rows = await read_all(AllasHook().get_file_metadata_async(client, named, "data/*.csv"))
    assert [row["Key"] for row in rows] == ["a", "b"]
    assert client.asked == [{"Bucket": bucket, "Prefix": "data/", "Delimiter": ""}]


@pytest.mark.asyncio
async def test_keys_are_checked_asynchronously(connect: Connect) -> None:
    connect()
    client = FakeClient()
    assert await AllasHook().check_key_async(client, "b", ["x", "y"], wildcard_match=False)
    assert await AllasHook().check_key_async(client, "b", "?", wildcard_match=True)
    assert not await AllasHook().check_key_async(client, "b", "x?", wildcard_match=True)


@pytest.mark.parametrize(
    ("region", "sent"),
    [
        (None, {}),
        ("default", {"CreateBucketConfiguration": {"LocationConstraint": "default"}}),
    ],
)
@pytest.mark.parametrize("client_region", [None, "regionOne"])
def test_a_bucket_is_created_without_a_constraint_unless_one_is_asked_for(
    connect: Connect, region: str | None, sent: dict[str, object], client_region: str | None
) -> None:
    connect(extra={"region_name": client_region})
    hook = AllasHook()
    with Stubber(hook.get_conn()) as stub:
        stub.add_response("create_bucket", {}, {"Bucket": "bucket", **sent})
        hook.create_bucket("bucket", region)
        stub.assert_no_pending_responses()


@pytest.mark.parametrize("method", ["get_object", "put_object"])
def test_a_presigned_url_says_how_long_it_is_valid(connect: Connect, method: str) -> None:
    connect()
    url = AllasHook().generate_presigned_url(method, {"Bucket": "b", "Key": "å b"}, 900)
    parts = urlsplit(url)
    asked = parse_qs(parts.query)
    assert (parts.netloc, parts.path) == ("a3s.fi", "/b/%C3%A5%20b")
    assert asked["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert asked["X-Amz-Expires"] == ["900"]
    assert asked["X-Amz-SignedHeaders"] == ["host"], "any client must be able to use it"
    assert SECRET not in url


def test_the_connection_goes_by_both_names(connect: Connect) -> None:
    """Operators of the Amazon provider say aws_conn_id, also to a hook class of ours."""
    connect("store")
    assert AllasHook().aws_conn_id == "allas_default"
    for hook in (
        AllasHook("store"),
        AllasHook(allas_conn_id="store"),
        AllasHook(aws_conn_id="store"),
    ):
        assert (hook.aws_conn_id, hook.allas_conn_id) == ("store", "store")


def test_amazons_operators_work_with_this_hook_class(connect: Connect) -> None:
    class ListAllas(S3ListOperator):
        aws_hook_class = AllasHook

    connect("store", extra={"endpoint": "lumi-o"})
    hook = ListAllas(task_id="list", bucket="b", aws_conn_id="store").hook
    assert isinstance(hook, AllasHook)
    assert hook.get_conn().meta.endpoint_url == "https://lumidata.eu"


def test_no_connection_leaves_keys_and_endpoint_to_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://a3s.fi")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    hook = AllasHook(None)
    assert hook.get_conn().meta.endpoint_url == "https://a3s.fi"
    assert hook.get_conn().meta.config.request_checksum_calculation == "when_required"
    assert hook.get_credentials().access_key == "ENVKEY"
    assert hook.project is None


def test_every_public_method_of_s3hook_takes_the_arguments_it_took() -> None:
    """What we override accepts at least the parameters of the original, under their names."""
    changed = [
        name
        for name, function in vars(AllasHook).items()
        if inspect.isfunction(function) and not name.startswith("_") and hasattr(S3Hook, name)
    ]
    assert "create_bucket" in changed
    for name in changed:
        ours = inspect.signature(getattr(AllasHook, name)).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in ours.values())
        theirs = inspect.signature(getattr(S3Hook, name)).parameters
        assert takes_any or set(theirs) <= set(ours), name


def test_a_connection_of_another_type_is_refused(connect: Connect) -> None:
    connect("plain_ssh", "ssh")
    with pytest.raises(ConfigError, match=r"'plain_ssh' is of type 'ssh'.*Allas \(S3\)"):
        AllasHook("plain_ssh").get_conn()


def test_an_aws_connection_without_endpoint_is_refused(connect: Connect) -> None:
    connect("plain", "aws", extra={"region_name": "eu-north-1"})
    with pytest.raises(ConfigError, match=r"'plain'.*leads to Amazon"):
        AllasHook("plain").get_conn()


def test_an_undefined_connection_is_refused_not_replaced_by_what_lies_around(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S3Hook would go on with the keys of the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    with pytest.raises(ConfigError, match=r"'nowhere' is not defined.*AIRFLOW_CONN_NOWHERE"):
        ForgetfulHook("nowhere").get_conn()


@pytest.mark.parametrize(
    ("conn_type", "fields", "said"),
    [
        ("allas", {"password": ""}, "has no password (the secret key)"),
        ("allas", {"extra": {"endpoint": "alas"}}, "has endpoint 'alas'"),
        ("http", {}, "is of type 'http'"),
    ],
)
def test_a_connection_test_says_what_is_wrong_and_raises_nothing(
    connect: Connect, conn_type: str, fields: dict[str, object], said: str
) -> None:
    connect("wrong", conn_type, **fields)
    passed, message = AllasHook("wrong").test_connection()
    assert passed is False
    assert said in message
    assert SECRET not in message


def answer(hook: AllasHook, monkeypatch: pytest.MonkeyPatch, **response: Any) -> Any:
    """Let the hook's next client answer a list of buckets."""
    client = hook.get_client_type()
    stub = Stubber(client)
    stub.add_response("list_buckets", response)
    stub.activate()
    monkeypatch.setattr(hook, "get_client_type", lambda **_: client)
    return hook.test_connection()


BUCKETS = [{"Name": "a"}, {"Name": "b"}]


def test_a_good_connection_test_names_store_user_key_and_buckets(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(extra={"project": "project_2001234"})
    owner = {"DisplayName": "project_2001234", "ID": "0123abcd"}
    passed, message = answer(AllasHook(), monkeypatch, Buckets=BUCKETS, Owner=owner)
    assert passed is True
    assert message == (
        "Reached https://a3s.fi as project_2001234 (access key AKEY…), 2 buckets visible"
    )


def test_keys_of_another_project_are_pointed_out(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(extra={"project": "project_2001234"})
    passed, message = answer(
        AllasHook(), monkeypatch, Buckets=[], Owner={"DisplayName": "project_2009999"}
    )
    assert passed is True
    assert message.endswith("The connection says project project_2001234: are these its keys?")


def test_hook_config_objects_are_accepted_too(connect: Connect) -> None:
    connect()
    config = AllasHook(config=Config(max_pool_connections=3)).get_conn().meta.config
    assert config.max_pool_connections == 3
    assert config.s3["addressing_style"] == "path"


def write_keys(path: Path, key: str, secret: str, host: str = "a3s.fi") -> Path:
    path.write_text(f"[x]\naccess_key = {key}\nsecret_key = {secret}\nhost_base = {host}\n")
    return path


def test_keys_and_endpoint_are_taken_from_the_file_that_is_named(
    connect: Connect, tmp_path: Path
) -> None:
    path = write_keys(tmp_path / ".s3cfg", "FILEKEY", SECRET, "https://lumidata.eu")
    connect(login=None, password=None, extra={"credentials_file": str(path)})
    hook = AllasHook()
    assert hook.get_conn().meta.endpoint_url == "https://lumidata.eu"
    assert hook.get_credentials().access_key == "FILEKEY"
    assert hook.get_conn().meta.config.signature_version == "s3v4"


def test_other_keys_in_the_file_are_in_the_next_link_and_session(
    connect: Connect, tmp_path: Path
) -> None:
    path = write_keys(tmp_path / ".s3cfg", "FIRST", SECRET)
    connect(login=None, password=None, extra={"credentials_file": str(path)})
    hook = AllasHook()
    assert "Credential=FIRST" in hook.generate_presigned_url("list_buckets")
    write_keys(path, "SECOND", SECRET)
    assert "Credential=SECOND" in hook.generate_presigned_url("list_buckets")
    assert hook.get_credentials().access_key == "SECOND"
    assert hook.resource.meta.client.meta.endpoint_url == "https://a3s.fi"


def test_the_secret_of_a_file_is_hidden_in_logs(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: list[str] = []
    monkeypatch.setattr("airflow_provider_csc.hooks.allas.mask_secret", hidden.append)
    path = tmp_path / "credentials"
    path.write_text(
        f"[default]\naws_access_key_id=A\naws_secret_access_key={SECRET}\naws_session_token=T\n"
    )
    connect(login=None, password=None, extra={"credentials_file": str(path)})
    hook = AllasHook()
    assert hook.get_credentials().token == "T"
    assert hidden == [SECRET, "T"]


def test_no_file_is_looked_for_that_is_not_named(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_keys(tmp_path / ".s3cfg", "FOUND", SECRET)
    connect(login=None, password=None)
    with pytest.raises(ConfigError, match=r"has no login .* or name a credentials_file"):
        AllasHook().get_conn()


@pytest.mark.parametrize("project", ["project_2001234", "2001234"])
@pytest.mark.parametrize("name", ["project_2001234", "2001234$2001234"])
def test_a_project_is_known_by_its_number(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, project: str, name: str
) -> None:
    connect(extra={"project": project})
    _, message = answer(AllasHook(), monkeypatch, Buckets=[], Owner={"ID": name})
    assert message.endswith("0 buckets visible")


def test_the_default_bucket_of_a_new_bucket_is_checked_too(connect: Connect) -> None:
    connect(extra={"bucket_name": "Data_2001234"})
    with pytest.raises(ConfigError, match="capital letters"):
        AllasHook().create_bucket()
