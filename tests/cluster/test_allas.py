"""AllasHook against a real Ceph RGW (16.2): what it stores, what it says, why its settings are so."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from botocore.exceptions import ClientError

from airflow_provider_csc.hooks.allas import AllasHook
from tests.support.clock import set_clock
from tests.support.tls import serve_tls
from tests.support.transfers import ODD_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.tls import TlsFront

pytestmark = pytest.mark.cluster

MIB = 1024**2

KEYS = [
    "plain.txt",
    *ODD_NAMES,
    "trailing/",
    "double//slash",
    # S3 allows 1024 bytes; the cluster's OSD (osd_max_object_name_len, which counts Ceph's own
    # prefix) answers 500 from about 975 on.
    "k" * 900,
]


@pytest.fixture(scope="module")
def connect(cluster: dict[str, Any]) -> Iterator[Callable[..., str]]:
    """Define connections by their variables, with the cluster's own keys unless told otherwise."""
    with pytest.MonkeyPatch.context() as patch:

        def define(
            conn_id: str, conn_type: str = "allas", keys: dict[str, Any] = cluster, **extra: object
        ) -> str:
            described = {
                "conn_type": conn_type,
                "login": keys["s3_access_key"],
                "password": keys["s3_secret_key"],
                "extra": {"endpoint_url": cluster["s3_endpoint_url"], **extra},
            }
            patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(described))
            return conn_id

        yield define


@pytest.fixture(scope="module")
def bucket(connect: Callable[..., str]) -> Iterator[str]:
    """A bucket of this module's own; gone afterwards with all that is in it."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    hook = AllasHook(connect("owner"))
    hook.create_bucket(name)
    yield name
    hook.delete_bucket(name, force_delete=True)


@pytest.fixture(scope="module")
def hook(connect: Callable[..., str], bucket: str) -> AllasHook:
    """A hook whose connection names the bucket, as most deployments' would."""
    return AllasHook(connect("allas_default", bucket_name=bucket))


@pytest.fixture
def front(cluster: dict[str, Any], tmp_path: Path) -> Iterator[TlsFront]:
    """The same RGW behind https, as Allas is; botocore behaves otherwise there than over http."""
    address = urlsplit(cluster["s3_endpoint_url"])
    with serve_tls(tmp_path, (str(address.hostname), address.port or 80)) as served:
        yield served


def fetch(url: str, method: str = "GET", data: bytes | None = None) -> bytes:
    """Use a URL as anyone would who has nothing but the URL."""
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method)) as answer:
        return bytes(answer.read())


@contextlib.contextmanager
def refused(status: int) -> Iterator[None]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        yield
    caught.value.close()
    assert caught.value.code == status


def test_a_file_comes_back_as_it_went(hook: AllasHook, tmp_path: Path) -> None:
    original = tmp_path / "original.bin"
    original.write_bytes(os.urandom(100_000))
    hook.load_file(original, "round/trip.bin")
    copy = hook.download_file("round/trip.bin", local_path=str(tmp_path))
    assert Path(copy).read_bytes() == original.read_bytes()
    named = hook.download_file("round/trip.bin", local_path=str(tmp_path), preserve_file_name=True)
    assert Path(named).name == "trip.bin"


def test_text_bytes_and_streams_are_stored_alike(hook: AllasHook) -> None:
    hook.load_string("käyttäjä", "s")
    hook.load_bytes("käyttäjä".encode(), "b")
    hook.load_file_obj(BytesIO("käyttäjä".encode()), "f")
    assert {hook.read_key(key) for key in "sbf"} == {"käyttäjä"}


def test_an_object_is_overwritten_only_on_request(hook: AllasHook) -> None:
    hook.load_string("one", "once")
    with pytest.raises(ValueError, match="already exists"):
        hook.load_string("two", "once")
    hook.load_string("two", "once", replace=True)
    assert hook.read_key("once") == "two"


def test_a_full_url_names_bucket_and_key(hook: AllasHook, bucket: str) -> None:
    hook.load_string("x", f"s3://{bucket}/by/url")
    assert hook.check_for_key("by/url")
    assert hook.read_key(f"s3://{bucket}/by/url") == "x"


def test_an_empty_object_is_an_object(hook: AllasHook, tmp_path: Path) -> None:
    hook.load_bytes(b"", "empty")
    assert hook.head_object("empty")["ContentLength"] == 0
    assert Path(hook.download_file("empty", local_path=str(tmp_path))).read_bytes() == b""


def test_what_is_not_there_is_not_there(hook: AllasHook) -> None:
    assert hook.head_object("absent") is None
    assert hook.check_for_key("absent") is False
    assert hook.check_for_bucket(f"absent-{uuid.uuid4().hex}") is False
    assert hook.check_for_bucket() is True


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[:20])
def test_a_key_is_kept_to_the_letter(hook: AllasHook, bucket: str, key: str) -> None:
    key = f"letters/{key}"
    hook.load_bytes(key.encode(), key, replace=True)
    assert key in hook.list_keys(prefix="letters/")
    assert hook.read_key(key) == key
    assert fetch(hook.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key})) == (
        key.encode()
    )
    hook.copy_object(key, "letters-copied", bucket, bucket)
    assert hook.read_key("letters-copied") == key
    hook.delete_objects(bucket, key)
    assert not hook.check_for_key(key)


def test_more_than_a_thousand_keys_are_listed_and_deleted(hook: AllasHook, bucket: str) -> None:
    """S3 lists and deletes a thousand at a time."""
    keys = [f"many/{number:05}" for number in range(1_050)]
    client = hook.get_conn()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=key, Body=b""), keys))
    assert hook.list_keys(prefix="many/") == keys
    assert hook.list_keys(prefix="many/", page_size=100, max_items=250) == keys[:250]
    assert hook.list_keys(prefix="many/", start_after_key="many/01047") == keys[1_048:]
    assert [row["Key"] for row in hook.iter_file_metadata("many/")] == keys
    hook.delete_objects(bucket, keys)
    assert hook.list_keys(prefix="many/") == []


def test_prefixes_are_listed_like_directories(hook: AllasHook) -> None:
    for key in ("tree/a/1", "tree/a/2", "tree/b/1", "tree/leaf"):
        hook.load_string("x", key)
    assert hook.list_prefixes(prefix="tree/", delimiter="/") == ["tree/a/", "tree/b/"]
    assert hook.list_keys(prefix="tree/", delimiter="/") == ["tree/leaf"]
    assert hook.list_keys(prefix="tree/*/1", apply_wildcard=True) == ["tree/a/1", "tree/b/1"]
    assert hook.get_wildcard_key("tree/b/*").key == "tree/b/1"


def test_a_large_object_travels_in_parts(connect: Any, bucket: str, tmp_path: Path) -> None:
    content = os.urandom(12 * MIB + 7)
    large = tmp_path / "large.bin"
    large.write_bytes(content)
    hook = AllasHook(
        connect("allas_default", bucket_name=bucket),
        transfer_config_args={"multipart_threshold": 8 * MIB, "multipart_chunksize": 5 * MIB},
    )
    hook.load_file(large, "large.bin")
    head = hook.head_object("large.bin")
    assert head["ContentLength"] == len(content)
    assert head["ETag"].endswith('-3"'), "not uploaded in three parts"
    copy = Path(hook.download_file("large.bin", local_path=str(tmp_path)))
    assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(content).digest()
    ranged = hook.get_conn().get_object(Bucket=bucket, Key="large.bin", Range="bytes=-7")
    assert ranged["Body"].read() == content[-7:]


def test_a_presigned_put_and_get_need_nothing_but_the_url(hook: AllasHook, bucket: str) -> None:
    target = {"Bucket": bucket, "Key": "from outside/å.bin"}
    content = os.urandom(1_000)
    fetch(hook.generate_presigned_url("put_object", target, expires_in=60), "PUT", content)
    assert fetch(hook.generate_presigned_url("get_object", target, expires_in=60)) == content


def test_a_presigned_url_is_good_for_one_thing_and_not_for_ever(
    hook: AllasHook, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.load_string("x", "guarded", replace=True)
    url = hook.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "guarded"}, 60)
    with refused(403):
        fetch(url, "PUT", b"y")
    with refused(403):
        fetch(url.replace("/guarded?", "/large.bin?"))
    set_clock(monkeypatch, dt.timedelta(minutes=-2))
    with refused(403):
        fetch(hook.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "guarded"}, 60))
    assert hook.read_key("guarded") == "x"


def test_buckets_and_objects_of_another_project_are_out_of_reach(
    cluster: dict[str, Any], connect: Any, hook: AllasHook, bucket: str
) -> None:
    hook.load_string("x", "mine", replace=True)
    stranger = AllasHook(connect("stranger", keys=cluster["users"]["bob"]))
    with pytest.raises(ClientError, match="BucketAlreadyExists"):
        stranger.create_bucket(bucket)
    with pytest.raises(ClientError, match=r"\(403\)|AccessDenied"):
        stranger.read_key("mine", bucket)


def test_a_region_is_no_location_for_a_new_bucket(connect: Any) -> None:
    """S3Hook sends the client's region as LocationConstraint, which Ceph refuses; ours does not."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    region = {"region_name": "regionOne"}
    with pytest.raises(ClientError, match="InvalidLocationConstraint"):
        S3Hook(connect("as_amazon", "aws", **region)).create_bucket(name)
    hook = AllasHook(connect("with_region", **region))
    hook.create_bucket(name)
    hook.delete_bucket(name)


def test_unrequested_checksums_break_every_upload_over_https(
    connect: Any, front: TlsFront, bucket: str, tmp_path: Path
) -> None:
    """
    Without the two checksum settings nothing can be stored, and with them everything can.

    botocore's default (since 1.36) sends a body over https in chunks with the checksum as trailer;
    RGW 16.2 answers 411 MissingContentLength. Over http it sends a header, which RGW ignores, so
    only https shows it.
    """
    where = {"endpoint_url": front.url}
    amazons = S3Hook(connect("as_amazon", "aws", **where), verify=str(front.certificate))
    for size in (1, 9 * MIB):
        with pytest.raises(ClientError, match="MissingContentLength"):
            amazons.load_bytes(b"x" * size, "over-https", bucket)
    ours = AllasHook(connect("over_https", ca_bundle=str(front.certificate), **where))
    for size in (1, 9 * MIB):
        ours.load_bytes(b"x" * size, "over-https", bucket, replace=True)
        assert ours.head_object("over-https", bucket)["ContentLength"] == size
    assert Path(ours.download_file("over-https", bucket, str(tmp_path))).stat().st_size == 9 * MIB
    ours.delete_objects(bucket, ["over-https"])


def test_an_aws_connection_with_this_hook_stores_over_https_too(
    connect: Any, front: TlsFront, bucket: str
) -> None:
    conn_id = connect("aws_to_ceph", "aws", endpoint_url=front.url, verify=str(front.certificate))
    AllasHook(conn_id).load_string("x", "by-aws-connection", bucket)


def test_botocores_own_presigned_put_is_refused_to_ordinary_clients(
    cluster: dict[str, Any], bucket: str
) -> None:
    """
    Why signature_version is set: for an endpoint like ours botocore signs links with version 2.

    That signature covers Content-Type, which urllib, curl --data and browsers add by themselves.
    """
    client = boto3.client(
        "s3",
        endpoint_url=cluster["s3_endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id=cluster["s3_access_key"],
        aws_secret_access_key=cluster["s3_secret_key"],
    )
    url = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "v2"})
    assert "X-Amz-Algorithm" not in url
    with refused(403):
        fetch(url, "PUT", b"x")


def test_a_good_connection_says_whom_it_reached(
    cluster: dict[str, Any], hook: AllasHook, bucket: str
) -> None:
    passed, message = hook.test_connection()
    assert passed is True
    assert message.startswith(
        f"Reached {cluster['s3_endpoint_url']} as project_2001234 (access key"
    )
    assert message.endswith("visible")
    assert cluster["s3_secret_key"] not in message
    assert cluster["s3_access_key"] not in message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"s3_access_key": "NOSUCHKEY"}, "InvalidAccessKeyId: the object store does not know"),
        ({"s3_secret_key": "wrong"}, "SignatureDoesNotMatch: the secret key does not belong"),
    ],
)
def test_wrong_keys_are_told_apart(
    cluster: dict[str, Any], connect: Any, changed: dict[str, str], said: str
) -> None:
    passed, message = AllasHook(connect("wrong", keys={**cluster, **changed})).test_connection()
    assert passed is False
    assert said in message


def test_a_clock_that_is_off_is_named(hook: AllasHook, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, dt.timedelta(hours=-1))
    passed, message = hook.test_connection()
    assert passed is False
    assert "RequestTimeTooSkewed: this machine's clock is 1:00:00 behind the object" in message


def test_an_untrusted_certificate_is_named(connect: Any, front: TlsFront) -> None:
    passed, message = AllasHook(connect("untrusted", endpoint_url=front.url)).test_connection()
    assert passed is False
    assert "is not trusted (self-signed certificate)" in message


def test_a_store_that_is_not_there_is_named(connect: Any) -> None:
    nowhere = {"endpoint_url": "http://127.0.0.1:9"}
    passed, message = AllasHook(connect("nowhere", **nowhere)).test_connection()
    assert passed is False
    assert message.startswith("127.0.0.1:9 refused the connection.")
