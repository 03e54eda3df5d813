"""Keys, limits, errors, tenants and Swift's segments: AllasHook against a real Ceph RGW (16.2)."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import logging
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from airflow_provider_csc.allas.endpoints import Endpoint
from airflow_provider_csc.allas.names import parse_uri
from airflow_provider_csc.errors import ConfigError, SwiftSegmentsError
from airflow_provider_csc.hooks import allas as hook_module
from airflow_provider_csc.hooks.allas import AllasHook
from tests.support.clock import set_clock
from tests.support.rgw import RgwUser, Swift, rgw_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.cluster

MIB = 1024**2


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Define a connection by its variable; return its id."""

    def define(fields: dict[str, Any], conn_id: str = "allas_default") -> str:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
        return conn_id

    return define


@pytest.fixture
def user(cluster: dict[str, Any]) -> Iterator[RgwUser]:
    with rgw_user(cluster) as user:
        yield user


@pytest.fixture
def hook(cluster: dict[str, Any], define: Callable[..., str], user: RgwUser) -> AllasHook:
    return AllasHook(define(user.as_connection(cluster["s3_endpoint_url"])))


@pytest.fixture
def bucket(hook: AllasHook) -> str:
    name = f"test-{uuid.uuid4().hex[:12]}"
    hook.create_bucket(name)
    return name


def alices(cluster: dict[str, Any]) -> dict[str, Any]:
    return {
        "conn_type": "allas",
        "login": cluster["s3_access_key"],
        "password": cluster["s3_secret_key"],
        "extra": {"endpoint_url": cluster["s3_endpoint_url"]},
    }


# Keys in files.


def write_aws(directory: Path, user: RgwUser, url: str) -> Path:
    """Write what allas-conf writes for aws (CSCfi/allas-cli-utils, allas_conf, August 2026)."""
    path = directory / "credentials"
    path.write_text("[default]\n")
    path.chmod(0o600)
    with path.open("a") as file:
        file.write(f"AWS_ACCESS_KEY_ID={user.access_key}\n")
        file.write(f"AWS_SECRET_ACCESS_KEY={user.secret_key}\n")
    (directory / "config").write_text(f"[default]\nendpoint_url = {url}\n")
    return path


def write_s3cfg(directory: Path, user: RgwUser, url: str) -> Path:
    """Write what it writes for s3cmd, with the link."""
    path = directory / ".s3cfg_project_2001234"
    host = url.partition("://")[2]
    path.write_text(
        "[allas-project_2001234]\n"
        f"access_key   = {user.access_key}\nsecret_key   = {user.secret_key}\n"
        f"host_base    = {host}\nhost_bucket  = %(bucket)s.{host}\n"
        "human_readable_sizes = True\nenable_multipart = True\nsignature_v2 = True\n"
        f"use_https = {url.startswith('https')}\n"
    )
    link = directory / ".s3cfg"
    link.symlink_to(path)
    return link


def write_rclone(directory: Path, user: RgwUser, url: str) -> Path:
    """Write what it writes for rclone: a remote of Swift, the last project's and its own."""
    path = directory / "rclone.conf"
    remotes = "".join(
        f"\n[{name}]\ntype = s3\nprovider = Other\nenv_auth = false\n"
        f"access_key_id = {user.access_key}\nsecret_access_key = {user.secret_key}\n"
        f"endpoint = {url}\nacl = private\n"
        for name in ("s3allas", "s3allas-project_2001234")
    )
    path.write_text(f"[allas]\ntype = swift\nenv_auth = true\n{remotes}")
    return path


@pytest.mark.parametrize(
    ("write", "profile"),
    [
        (write_aws, None),
        (write_s3cfg, None),
        (write_rclone, None),
        (write_rclone, "s3allas-project_2001234"),
    ],
)
def test_keys_and_endpoint_come_from_what_allas_conf_left(
    cluster: dict[str, Any],
    define: Callable[..., str],
    user: RgwUser,
    tmp_path: Path,
    write: Callable[..., Path],
    profile: str | None,
) -> None:
    path = write(tmp_path, user, cluster["s3_endpoint_url"])
    extra = {"credentials_file": str(path), "profile": profile}
    hook = AllasHook(define({"conn_type": "allas", "extra": extra}))
    passed, message = hook.test_connection()
    assert passed is True, message
    assert message.startswith(f"Reached {cluster['s3_endpoint_url']} as {user.name} (access key ")
    assert f" in {path}), 0 buckets visible" in message
    assert user.secret_key not in message


def test_keys_that_are_changed_in_the_file_serve_the_client_that_is_there(
    cluster: dict[str, Any], define: Callable[..., str], user: RgwUser, tmp_path: Path
) -> None:
    path = write_aws(tmp_path, user, cluster["s3_endpoint_url"])
    hook = AllasHook(define({"conn_type": "allas", "extra": {"credentials_file": str(path)}}))
    client = hook.get_conn()
    client.list_buckets()
    second = user.add_key()
    user.remove_key()
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        client.list_buckets()
    write_aws(tmp_path, second, cluster["s3_endpoint_url"])
    client.list_buckets()
    assert hook.get_credentials().access_key == second.access_key
    assert second.access_key in hook.generate_presigned_url("list_buckets")
    large = io.BytesIO(os.urandom(9 * MIB))
    hook.create_bucket(name := f"test-{uuid.uuid4().hex[:12]}")
    hook.load_file_obj(large, "in-parts", name)
    assert hook.head_object("in-parts", name)["ContentLength"] == 9 * MIB


def test_a_file_without_keys_fails_the_connection_test_with_the_reason(
    define: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "rclone.conf"
    path.write_text("[allas]\ntype = swift\nenv_auth = true\n")
    hook = AllasHook(define({"conn_type": "allas", "extra": {"credentials_file": str(path)}}))
    passed, message = hook.test_connection()
    assert passed is False
    assert "[allas] is a remote of type 'swift'" in message


# What is wrong with keys, clocks, names and rights.


def test_a_deleted_key_is_an_unknown_one(hook: AllasHook, user: RgwUser) -> None:
    """That is what the expiry of a key on LUMI-O looks like to Ceph."""
    second = user.add_key()
    user.remove_key()
    passed, message = hook.test_connection()
    assert passed is False
    assert "InvalidAccessKeyId: the object store does not know this access key." in message
    assert user.access_key not in message
    assert second.access_key != user.access_key


def test_a_suspended_user_is_told_from_a_wrong_key(hook: AllasHook, user: RgwUser) -> None:
    user.admin("user", "suspend")
    passed, message = hook.test_connection()
    assert passed is False
    assert "UserSuspended: the object store has suspended the user" in message


def test_a_clock_that_is_off_is_named_by_every_method(
    hook: AllasHook, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to HEAD holds no reason; the server's Date does."""
    set_clock(monkeypatch, dt.timedelta(hours=2, seconds=3))
    said = r"clock is 2:00:0\d ahead of the object store's"
    for ask in (
        lambda: hook.list_keys(bucket),
        lambda: hook.get_key("k", bucket),
        lambda: hook.load_string("x", "k", bucket),
    ):
        with pytest.raises(ClientError, match=said):
            ask()


def test_a_bucket_of_somebody_else_is_told_from_none(
    cluster: dict[str, Any], define: Callable[..., str], hook: AllasHook, bucket: str
) -> None:
    hook.load_string("x", "k", bucket)
    stranger = AllasHook(define(alices(cluster), "stranger"))
    with pytest.raises(ClientError, match=r"AccessDenied.*belongs to another project") as caught:
        stranger.list_keys(bucket)
    assert str(caught.value).endswith(f"({cluster['s3_endpoint_url']}/{bucket})")
    with pytest.raises(ClientError, match=r"\(403\).*belong to another project"):
        stranger.get_key("k", bucket)
    with pytest.raises(ClientError, match=r"NoSuchBucket.*anywhere in this store"):
        stranger.list_keys(f"{bucket}-none")
    with pytest.raises(ClientError, match=r"\(404\).*no such bucket"):
        stranger.get_key("k", f"{bucket}-none")
    with pytest.raises(ClientError, match=r"BucketAlreadyExists.*all projects share the names"):
        stranger.create_bucket(bucket)
    assert stranger.check_for_bucket(bucket) is False
    assert stranger.check_for_key("k", f"{bucket}-none") is False


def test_a_name_that_no_bucket_can_have_is_refused_before_it_is_sent(hook: AllasHook) -> None:
    with pytest.raises(ConfigError, match=r"'2001234_Data'.*capital letters"):
        hook.create_bucket("2001234_Data")


def test_a_store_that_is_not_there_is_named_by_every_method(define: Callable[..., str]) -> None:
    extra = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    fields = {"conn_type": "allas", "login": "A", "password": "s", "extra": extra}
    with pytest.raises(EndpointConnectionError, match=r"127\.0\.0\.1:9 refused the connection"):
        AllasHook(define(fields)).list_keys("bucket")


# Limits.


def test_a_full_project_and_a_full_bucket_are_quotas(
    hook: AllasHook, user: RgwUser, bucket: str
) -> None:
    user.limit("bucket", max_objects=2)
    for key in ("a", "b"):
        hook.load_string("x", key, bucket)
    with pytest.raises(ClientError, match=r"QuotaExceeded.*pack small files into archives"):
        hook.load_string("x", "c", bucket)
    assert hook.check_for_key("c", bucket) is False


def test_a_quota_that_ends_an_upload_in_parts_leaves_nothing(
    hook: AllasHook, user: RgwUser, bucket: str
) -> None:
    user.limit("user", max_size=6 * MIB)
    with pytest.raises(Exception, match=r"QuotaExceeded.*a quota is used up"):
        hook.load_bytes(os.urandom(24 * MIB), "large", bucket)
    assert hook.check_for_key("large", bucket) is False
    assert "Uploads" not in hook.get_conn().list_multipart_uploads(Bucket=bucket)


def test_one_bucket_too_many_is_named(cluster: dict[str, Any], define: Callable[..., str]) -> None:
    with rgw_user(cluster, max_buckets=1) as user:
        hook = AllasHook(define(user.as_connection(cluster["s3_endpoint_url"])))
        hook.create_bucket(f"test-{uuid.uuid4().hex[:12]}")
        with pytest.raises(ClientError, match=r"TooManyBuckets.*use prefixes in one"):
            hook.create_bucket(f"test-{uuid.uuid4().hex[:12]}")


class FiveGibibytesAndOne(io.BytesIO):
    """A body that is too large, without being it."""

    def __len__(self) -> int:
        return 5 * 1024**3 + 1


def test_what_the_store_would_refuse_for_its_size_is_not_sent(hook: AllasHook, bucket: str) -> None:
    client = hook.get_conn()
    with pytest.raises(ConfigError, match="5 GiB is the most"):
        client.put_object(Bucket=bucket, Key="k", Body=FiveGibibytesAndOne())
    # And this is what the store says itself.
    client.meta.events.unregister(
        "before-parameter-build.s3.PutObject",
        unique_id="csc-before-parameter-build.s3.PutObject",
    )
    with pytest.raises(ClientError, match=r"EntityTooLarge.*Send the object in parts"):
        client.put_object(
            Bucket=bucket, Key="k", Body=FiveGibibytesAndOne(), ContentLength=5 * 1024**3 + 1
        )


def test_a_file_larger_than_csc_recommends_is_warned_of(
    hook: AllasHook, tmp_path: Path, caplog: pytest.LogCaptureFixture, task_log: list[str]
) -> None:
    """It need not be sent for that: the bucket is missing."""
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(101 * 10**9)
    with pytest.raises(Exception, match="NoSuchBucket"):
        hook.load_file(huge, "k", f"none-{uuid.uuid4().hex}")
    said = " ".join([*task_log, caplog.text])
    assert "An object of 101 GB is larger than CSC recommends" in said


def test_how_full_a_bucket_is_can_be_asked(hook: AllasHook, user: RgwUser, bucket: str) -> None:
    hook.load_string("four", "k", bucket)
    usage = hook.get_bucket_usage(bucket)
    assert usage is not None
    assert (usage.objects, usage.size_bytes, usage.max_objects) == (1, 4, None)
    with pytest.raises(ConfigError, match="No bucket is named"):
        hook.get_bucket_usage()


def test_the_log_warns_once_of_a_bucket_that_is_nearly_full(
    cluster: dict[str, Any],
    hook: AllasHook,
    bucket: str,
    caplog: pytest.LogCaptureFixture,
    task_log: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Allas, whose 500,000 objects stand for ten here."""
    allas = Endpoint(name="allas", url=cluster["s3_endpoint_url"])
    monkeypatch.setattr("airflow_provider_csc.allas.limits.PRESETS", {"allas": allas})
    monkeypatch.setattr("airflow_provider_csc.allas.limits.MAX_OBJECTS_PER_BUCKET", 10)
    asked = 0

    def count(**_: object) -> None:
        nonlocal asked
        asked += 1

    hook.get_conn().meta.events.register("before-call.s3.HeadBucket", count)
    caplog.set_level(logging.WARNING)
    for number in range(8):
        hook.load_string("x", f"k{number}", bucket)
    assert asked == 1
    hook_module._asked.clear()
    hook.load_string("x", "k8", bucket)
    hook.load_string("x", "k9", bucket)
    assert asked == 2
    said = " ".join([*task_log, caplog.text])
    assert f"Bucket {bucket} holds 9 of 10 objects, and takes no more than that." in said


# Swift.


@pytest.fixture
def swift_bucket(cluster: dict[str, Any], define: Callable[..., str]) -> Iterator[str]:
    """A bucket of alice's with its ``_segments``, as Swift's clients make them."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    owner = AllasHook(define(alices(cluster), "swift_owner"))
    for each in (name, f"{name}_segments"):
        Swift(cluster).put(each)
    yield name
    for each in (name, f"{name}_segments"):
        owner.delete_bucket(each, force_delete=True)


SEGMENTS = [b"a" * MIB, b"b" * MIB, b"c" * 7]


def put_segments(cluster: dict[str, Any], bucket: str, kind: str) -> None:
    """Upload as swift (DLO) and as rclone and swift --use-slo (SLO) do."""
    swift = Swift(cluster)
    place = f"{bucket}_segments/{kind}/"
    for number, data in enumerate(SEGMENTS):
        swift.put(f"{place}{number:04}", data)
    if kind == "dynamic":
        swift.put(f"{bucket}/{kind}", X_Object_Manifest=place)
    else:
        manifest = [
            {
                "path": f"/{place}{number:04}",
                "etag": hashlib.md5(data).hexdigest(),
                "size_bytes": len(data),
            }
            for number, data in enumerate(SEGMENTS)
        ]
        swift.put(f"{bucket}/{kind}?multipart-manifest=put", json.dumps(manifest).encode())
    assert swift.get(f"{bucket}/{kind}") == b"".join(SEGMENTS)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_an_object_in_segments_of_swift_is_refused_by_whatever_reads_it(
    cluster: dict[str, Any], swift_bucket: str, tmp_path: Path, kind: str
) -> None:
    put_segments(cluster, swift_bucket, kind)
    hook = AllasHook("swift_owner")
    said = rf"s3://{swift_bucket}/{kind} was written through Swift in segments.*a-get --swift"
    for read in (
        lambda: hook.download_file(kind, swift_bucket, str(tmp_path)),
        lambda: hook.read_key(kind, swift_bucket),
        lambda: hook.get_wildcard_key(f"{kind[:3]}*", swift_bucket),
        lambda: hook.get_conn().get_object(Bucket=swift_bucket, Key=kind),
        lambda: hook.get_bucket(swift_bucket).download_fileobj(kind, io.BytesIO()),
    ):
        with pytest.raises(SwiftSegmentsError, match=said):
            read()
    assert list(tmp_path.iterdir()) == [], "half a file"
    assert hook.check_for_key(kind, swift_bucket) is True


def test_what_was_written_through_swift_in_one_piece_is_read(
    cluster: dict[str, Any], swift_bucket: str
) -> None:
    Swift(cluster).put(f"{swift_bucket}/whole", b"content")
    assert AllasHook("swift_owner").read_key("whole", swift_bucket) == "content"


def test_why_segments_are_refused(cluster: dict[str, Any], swift_bucket: str) -> None:
    """
    What RGW 16.2 does with them through S3, by a client without our handlers.

    They can be read while all segments are there, but nothing tells when one is not.
    """
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    class Plain(AllasHook):
        get_session = S3Hook.get_session

    put_segments(cluster, swift_bucket, "dynamic")
    client = Plain("swift_owner").get_conn()
    whole = b"".join(SEGMENTS)
    answer = client.get_object(Bucket=swift_bucket, Key="dynamic")
    assert answer["Body"].read() == whole
    assert answer["ETag"] != f'"{hashlib.md5(whole).hexdigest()}"'
    listed = client.list_objects_v2(Bucket=swift_bucket)["Contents"]
    assert [(row["Key"], row["Size"]) for row in listed] == [("dynamic", 0)]
    client.delete_object(Bucket=f"{swift_bucket}_segments", Key="dynamic/0001")
    answer = client.get_object(Bucket=swift_bucket, Key="dynamic")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["Body"].read() == SEGMENTS[0] + SEGMENTS[2], "a hole that nothing tells"


# Projects that are tenants, as on LUMI-O.


def test_a_bucket_of_another_project_is_named_with_it(
    cluster: dict[str, Any], define: Callable[..., str], tmp_path: Path
) -> None:
    url, name = cluster["s3_endpoint_url"], f"test-{uuid.uuid4().hex[:12]}"
    with (
        rgw_user(cluster, tenant="465000001") as giver,
        rgw_user(cluster, tenant="465000002") as taker,
    ):
        theirs = AllasHook(define(giver.as_connection(url), "giver"))
        ours = AllasHook(define(taker.as_connection(url, project="465000002"), "taker"))
        theirs.create_bucket(name)
        ours.create_bucket(name)  # names are the project's own
        theirs.load_string("theirs", "a b/ü", name)
        shared = f"465000001:{name}"
        with pytest.raises(ClientError, match="AccessDenied"):
            ours.list_keys(shared)
        tenant, _, uid = taker.name.partition("$")
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": [f"arn:aws:iam::{tenant}:user/{uid}"]},
                    "Action": ["s3:*"],
                    "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
                }
            ],
        }
        theirs.get_conn().put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
        assert ours.list_keys(shared) == ["a b/ü"]
        assert ours.read_key(f"s3://{shared}/a b/ü") == "theirs"
        assert parse_uri(f"s3://{shared}/a b/ü").bucket == shared
        assert ours.check_for_bucket(shared) is True
        large = os.urandom(9 * MIB)
        ours.load_bytes(large, "large", shared)
        downloaded = ours.download_file("large", shared, str(tmp_path))
        assert Path(downloaded).read_bytes() == large
        ours.create_bucket(f"{name}-2")
        ours.copy_object("large", "copied", shared, f"{name}-2")
        assert ours.head_object("copied", f"{name}-2")["ContentLength"] == 9 * MIB
        with pytest.raises(ConfigError, match="Ceph writes the copy into the source's"):
            ours.copy_object("large", "copied", shared, name)
        ours.delete_objects(shared, "large")
        assert theirs.list_keys(name) == ["a b/ü"]
        # Why that copy is refused: without us it would be made, in the other project's bucket.
        client = ours.get_conn()
        event = "before-parameter-build.s3.CopyObject"
        client.meta.events.unregister(event, unique_id=f"csc-{event}")
        client.copy_object(Bucket=name, Key="copied", CopySource=f"{shared}/a b/ü")
        assert (theirs.list_keys(name), ours.list_keys(name)) == (["a b/ü", "copied"], [])
        _, message = ours.test_connection()
        assert message.endswith("2 buckets visible"), "465000002$… is the connection's project"
