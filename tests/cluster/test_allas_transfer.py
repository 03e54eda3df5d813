"""Files and trees to Allas, back, and within it, on a real Ceph RGW."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.errors import AllasError, ChecksumError, ConfigError
from airflow_provider_csc.operators.allas import AllasAbortUploadsOperator
from airflow_provider_csc.transfers.allas import LocalToAllasOperator
from tests.support.rgw import address_of, unfinished
from tests.support.tls import serve_tls
from tests.support.transfers import (
    LARGE,
    MIB,
    ODD_NAMES,
    PART,
    content,
    copy,
    fetch,
    hidden,
    keys,
    race,
    read,
    send,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.byte_proxy import ByteProxy

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("small_parts")]

# ---- one object ----


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, LARGE])
def test_a_file_goes_there_and_comes_back(
    size: int, bucket: str, client: Any, tmp_path: Path
) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(content(size))
    os.utime(source, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    sent = send(source, f"s3://{bucket}/some/key")
    assert (sent["transferred"], sent["bytes"], sent["unverified"]) == (1, size, 0)
    assert read(client, bucket, "some/key") == content(size)
    got = fetch(f"s3://{bucket}/some/key", back)
    assert (got["transferred"], got["bytes"], got["unverified"]) == (1, size, 0)
    assert back.read_bytes() == content(size)
    assert abs(back.stat().st_mtime_ns - source.stat().st_mtime_ns) < 1000
    assert not hidden(tmp_path)
    assert not unfinished(client, bucket)


@pytest.mark.parametrize("part_size", [5 * MIB, 8 * MIB, 15 * MIB, 7_000_000])
def test_what_others_uploaded_in_their_parts_is_verified(
    part_size: int, bucket: str, client: Any, tmp_path: Path
) -> None:
    """boto3, s3cmd and others each have a part size of their own, which S3 does not tell."""
    data = content(40 * MIB + 3)
    begun = client.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    pieces = [data[start : start + part_size] for start in range(0, len(data), part_size)]
    made = [
        client.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=n, Body=piece)
        for n, piece in enumerate(pieces, start=1)
    ]
    client.complete_multipart_upload(
        Bucket=bucket,
        Key="k",
        UploadId=begun,
        MultipartUpload={
            "Parts": [{"PartNumber": n, "ETag": p["ETag"]} for n, p in enumerate(made, start=1)]
        },
    )
    got = fetch(f"s3://{bucket}/k", tmp_path / "k")
    assert got["unverified"] == 0
    assert (tmp_path / "k").read_bytes() == data
    assert fetch(f"s3://{bucket}/k", tmp_path / "k")["skipped"] == 1


def test_an_object_in_parts_of_an_odd_size_is_taken_only_on_request(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    data = content(40 * MIB)
    begun = client.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    sizes = (5 * MIB, 30 * MIB, 5 * MIB)
    listed, start = [], 0
    for number, size in enumerate(sizes, start=1):
        body = data[start : start + size]
        made = client.upload_part(
            Bucket=bucket, Key="k", UploadId=begun, PartNumber=number, Body=body
        )
        listed.append({"PartNumber": number, "ETag": made["ETag"]})
        start += size
    client.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=begun, MultipartUpload={"Parts": listed}
    )
    with pytest.raises(ChecksumError, match="verify_checksum=False"):
        fetch(f"s3://{bucket}/k", tmp_path / "k")
    assert list(tmp_path.iterdir()) == []
    assert fetch(f"s3://{bucket}/k", tmp_path / "k", verify_checksum=False)["unverified"] == 1
    assert (tmp_path / "k").read_bytes() == data


def test_what_is_there_unchanged_is_not_transferred_again(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for size in (10, 40 * MIB):
        source.write_bytes(content(size))
        assert send(source, f"s3://{bucket}/k{size}")["transferred"] == 1
        again = send(source, f"s3://{bucket}/k{size}")
        assert (again["transferred"], again["skipped"], again["bytes"]) == (0, 1, 0)
        source.write_bytes(content(size, seed=2))
        assert send(source, f"s3://{bucket}/k{size}")["transferred"] == 1
        assert read(client, bucket, f"k{size}") == content(size, seed=2)


@pytest.mark.parametrize(
    ("destination", "key"), [("", "data.csv"), ("in/", "in/data.csv"), ("in/x", "in/x")]
)
def test_a_prefix_takes_a_file_under_its_own_name(
    destination: str, key: str, bucket: str, client: Any, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text("1,2\n")
    send(tmp_path / "data.csv", f"s3://{bucket}/{destination}")
    assert keys(client, bucket) == [key]
    (tmp_path / "down").mkdir()
    fetch(f"s3://{bucket}/{key}", tmp_path / "down")
    assert (tmp_path / "down" / key.rpartition("/")[2]).read_text() == "1,2\n"


def test_arguments_of_boto3_go_with_the_object(bucket: str, client: Any, tmp_path: Path) -> None:
    for name, size in (("small", 3), ("large", 40 * MIB)):
        (tmp_path / name).write_bytes(content(size))
        extra = {"ContentType": "text/csv", "Metadata": {"run": "7"}}
        send(tmp_path / name, f"s3://{bucket}/{name}", extra_args=extra)
        head = client.head_object(Bucket=bucket, Key=name)
        assert head["ContentType"] == "text/csv"
        assert head["Metadata"]["run"] == "7"
        assert float(head["Metadata"]["mtime"]) > 1e9


# ---- trees ----

NAMES = ["plain.txt", *ODD_NAMES, "new\nline", "empty"]


def test_a_tree_goes_there_and_comes_back(bucket: str, client: Any, tmp_path: Path) -> None:
    top = tmp_path / "top"
    for number, name in enumerate(NAMES):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"" if name == "empty" else content(1000 + number, number))
    sent = send(top, f"s3://{bucket}/pre fix")
    assert (sent["transferred"], sent["skipped"]) == (len(NAMES), 0)
    listed = client.list_objects_v2(Bucket=bucket, Prefix="pre fix/")["KeyCount"]
    assert listed == len(NAMES)
    fetch(f"s3://{bucket}/pre fix/", tmp_path / "back")
    for name in NAMES:
        assert (tmp_path / "back" / name).read_bytes() == (top / name).read_bytes()
    assert send(top, f"s3://{bucket}/pre fix")["skipped"] == len(NAMES)
    assert fetch(f"s3://{bucket}/pre fix/", tmp_path / "back")["skipped"] == len(NAMES)


def test_patterns_say_what_is_meant_and_what_is_deleted(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    for name in ("a.csv", "b.txt", "raw/c.csv", "raw/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    for key in ("t/old.csv", "t/old.txt", "other/old.csv"):
        client.put_object(Bucket=bucket, Key=key, Body=b"old")
    done = send(
        tmp_path, f"s3://{bucket}/t/", include=["*.csv"], exclude=["raw/"], delete_extra=True
    )
    assert (done["transferred"], done["deleted"]) == (1, 1)
    assert keys(client, bucket) == ["other/old.csv", "t/a.csv", "t/old.txt"]
    back = tmp_path / "back"
    back.mkdir()
    (back / "mine.csv").write_text("mine")
    (back / "mine.txt").write_text("mine")
    got = fetch(f"s3://{bucket}/t/", back, include=["*.csv"], delete_extra=True)
    assert (got["transferred"], got["deleted"]) == (1, 1)
    assert sorted(path.name for path in back.iterdir()) == ["a.csv", "mine.txt"]


@pytest.mark.parametrize("key", ["../out", "a/../../out", "a//b", "/abs", "a/./b", "a/.."])
def test_no_name_of_an_object_leads_out_of_the_directory(
    key: str, bucket: str, client: Any, tmp_path: Path
) -> None:
    client.put_object(Bucket=bucket, Key=f"p/{key}", Body=b"x")
    client.put_object(Bucket=bucket, Key="p/good", Body=b"x")
    inside = tmp_path / "inside"
    with pytest.raises(AirflowFailException, match="cannot become a file"):
        fetch(f"s3://{bucket}/p/", inside)
    assert sorted(path.name for path in tmp_path.rglob("*")) in ([], ["inside"])
    # By its key, as one object, it can be had.
    fetch(f"s3://{bucket}/p/{key}", tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == b"x"


def test_no_link_leads_out_of_the_directory(bucket: str, client: Any, tmp_path: Path) -> None:
    client.put_object(Bucket=bucket, Key="p/link/file", Body=b"x")
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    with pytest.raises(AllasError, match="outside of"):
        fetch(f"s3://{bucket}/p/", inside)
    assert list(outside.iterdir()) == []


def test_directory_objects_are_no_files(bucket: str, client: Any, tmp_path: Path) -> None:
    """Some programs make empty objects that end with a slash (CSC's guide)."""
    for key in ("p/", "p/a/", "p/a/file"):
        client.put_object(Bucket=bucket, Key=key, Body=b"" if key.endswith("/") else b"x")
    assert fetch(f"s3://{bucket}/p/", tmp_path / "p")["transferred"] == 1
    assert (tmp_path / "p/a/file").read_bytes() == b"x"


def test_symbolic_links_are_followed_skipped_or_refused(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    top, other = tmp_path / "top", tmp_path / "other"
    top.mkdir()
    other.mkdir()
    (other / "file").write_text("x")
    (top / "file").symlink_to(other / "file")
    (top / "dir").symlink_to(other)
    assert send(top, f"s3://{bucket}/follow")["transferred"] == 2
    assert keys(client, bucket) == ["follow/dir/file", "follow/file"]
    (top / "plain").write_text("x")
    client.put_object(Bucket=bucket, Key="skip/dir/file", Body=b"x")
    client.put_object(Bucket=bucket, Key="skip/gone", Body=b"x")
    done = send(top, f"s3://{bucket}/skip", symlinks="skip", delete_extra=True, include=["*"])
    assert (done["transferred"], done["deleted"]) == (1, 1)
    assert keys(client, bucket)[-2:] == ["skip/dir/file", "skip/plain"]
    with pytest.raises(AllasError, match="symbolic link"):
        send(top, f"s3://{bucket}/refuse", symlinks="refuse")
    (top / "loop").symlink_to(top)
    with pytest.raises(AllasError, match="no end"):
        send(top, f"s3://{bucket}/loop")
    (top / "loop").unlink()
    (top / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(AllasError, match="leads nowhere"):
        send(top, f"s3://{bucket}/nowhere")
    assert len(keys(client, bucket)) == 4


def test_a_link_in_a_circle_concerns_only_who_follows_it(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "a").write_text("x")
    (top / "loop").symlink_to("loop")
    assert send(top, f"s3://{bucket}/skipped", symlinks="skip")["transferred"] == 1
    assert send(top, f"s3://{bucket}/excluded", exclude=["loop"])["transferred"] == 1
    with pytest.raises(AllasError, match="loop"):
        send(top, f"s3://{bucket}/followed")
    assert keys(client, bucket) == ["excluded/a", "skipped/a"]


@pytest.mark.parametrize("symlinks", ["skip", "refuse"])
def test_patterns_lead_through_no_link(
    symlinks: Any, bucket: str, client: Any, tmp_path: Path
) -> None:
    top, other = tmp_path / "top", tmp_path / "other"
    top.mkdir()
    other.mkdir()
    (other / "secret.csv").write_text("x")
    (top / "mine.csv").write_text("x")
    (top / "link").symlink_to(other)
    if symlinks == "refuse":
        with pytest.raises(AllasError, match="symbolic link"):
            send(top, f"s3://{bucket}/t", symlinks=symlinks, include=["*.csv"])
    else:
        send(top, f"s3://{bucket}/t", symlinks=symlinks, include=["*.csv"])
        assert keys(client, bucket) == ["t/mine.csv"]
    # Nor does a deletion.
    client.put_object(Bucket=bucket, Key="d/mine.csv", Body=b"x")
    fetch(f"s3://{bucket}/d/", top, include=["*.csv"], delete_extra=True)
    assert (other / "secret.csv").exists()


@pytest.mark.parametrize("delete_extra", [True, False])
def test_an_empty_source_is_refused(
    delete_extra: bool, bucket: str, client: Any, tmp_path: Path
) -> None:
    """A directory that is not mounted would empty the bucket."""
    client.put_object(Bucket=bucket, Key="t/kept", Body=b"x")
    with pytest.raises(AllasError, match="There is nothing below"):
        send(tmp_path, f"s3://{bucket}/t/", delete_extra=delete_extra)
    with pytest.raises(AllasError, match="There is nothing below"):
        copy(f"s3://{bucket}/typo/", f"s3://{bucket}/t/", delete_extra=delete_extra)
    with pytest.raises(AirflowFailException, match="one within the other"):
        copy(f"s3://{bucket}/t/", f"s3://{bucket}/", delete_extra=delete_extra)
    assert keys(client, bucket) == ["t/kept"]


def test_what_is_no_file_is_skipped(bucket: str, client: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    assert send(tmp_path, f"s3://{bucket}/t")["transferred"] == 1
    assert keys(client, bucket) == ["t/file"]


def test_a_sparse_file_is_sent_as_what_it_reads_as(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(40 * MIB)
        file.write(b"end")
    send(tmp_path / "sparse", f"s3://{bucket}/sparse")
    data = read(client, bucket, "sparse")
    assert (len(data), data[:-3].count(0), data[-3:]) == (40 * MIB + 3, 40 * MIB, b"end")


def test_a_file_whose_name_is_no_text_is_named_in_the_error(bucket: str, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")).write_text("x")
    with pytest.raises(AllasError, match="not UTF-8"):
        send(tmp_path, f"s3://{bucket}/t")


def test_files_that_fail_by_themselves_do_not_keep_the_others_back(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number in range(20):
        (top / f"f{number}").write_text(str(number))
    send(top, f"s3://{bucket}/t")
    down = tmp_path / "down"
    for number in (3, 7):
        (down / f"f{number}").mkdir(parents=True)
    with pytest.raises(AllasError, match="2 of 20 files could not be transferred"):
        fetch(f"s3://{bucket}/t/", down)
    assert sum(path.is_file() for path in down.iterdir()) == 18
    assert not hidden(down)


def test_over_tls_too(
    bucket: str, client: Any, cluster: dict[str, Any], connect: Callable[..., str], tmp_path: Path
) -> None:
    with serve_tls(tmp_path, address_of(cluster)) as front:
        connect(extra={"endpoint_url": front.url, "ca_bundle": str(front.certificate)})
        (tmp_path / "source").write_bytes(content(LARGE))
        send(tmp_path / "source", f"s3://{bucket}/k")
        fetch(f"s3://{bucket}/k", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == content(LARGE)
        connect(extra={"endpoint_url": front.url})
        with pytest.raises(AllasError, match="not trusted"):
            fetch(f"s3://{bucket}/k", tmp_path / "again")


@pytest.mark.parametrize(
    "metadata",
    [
        {"mtime": "inf"},
        {"mtime": "nan"},
        {"mtime": "1e30"},
        {"mtime": "-5"},
        {"mtime": "x"},
        {"part-size": "inf"},
        {"part-size": "1"},
        {"part-size": "-8"},
    ],
)
def test_no_metadata_of_a_stranger_does_any_harm(
    metadata: dict[str, str], bucket: str, client: Any, tmp_path: Path
) -> None:
    client.upload_fileobj(BytesIO(content(20 * MIB)), bucket, "k", ExtraArgs={"Metadata": metadata})
    fetch(f"s3://{bucket}/k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == content(20 * MIB)


def test_two_that_read_the_same_file_do_not_mix(bucket: str, client: Any, tmp_path: Path) -> None:
    client.put_object(Bucket=bucket, Key="k", Body=content(LARGE))
    outcomes = race(lambda: fetch(f"s3://{bucket}/k", tmp_path / "k"))
    assert 1 in outcomes
    assert all(each in (0, 1) or "another process" in str(each) for each in outcomes), outcomes
    assert (tmp_path / "k").read_bytes() == content(LARGE)
    assert not hidden(tmp_path)


def test_a_file_that_is_replaced_keeps_who_may_read_it(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    client.put_object(Bucket=bucket, Key="k", Body=b"new")
    (tmp_path / "k").write_bytes(b"old one")
    (tmp_path / "k").chmod(0o600)
    fetch(f"s3://{bucket}/k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == b"new"
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("compare", ["checksum", "size", "time", "never"])
def test_what_came_back_is_compared(compare: Any, bucket: str, client: Any, tmp_path: Path) -> None:
    client.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"mtime": "1600000000"})
    for expected in (1, 1 if compare == "never" else 0):
        got = fetch(f"s3://{bucket}/k", tmp_path / "k", compare=compare)
        assert got["transferred"] == expected


# ---- bad input ----


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"source": "/nowhere/at/all"}, "source: '/nowhere/at/all' is neither a file nor"),
        ({"destination": "bucket/key"}, "destination: 'bucket/key' is no URI"),
        ({"compare": "md5"}, "compare: 'md5' is no way to compare"),
        ({"include": "*.csv"}, "include: '\\*.csv' is no list of patterns"),
        ({"symlinks": "copy"}, "symlinks: 'copy' is not known"),
        ({"max_workers": 0}, "max_workers: 0 is no number"),
        ({"bytes_per_second": -1}, "bytes_per_second: -1 is no rate"),
        ({"extra_args": {"ServerSideEncryption": "x"}}, "extra_args: 'ServerSideEncryption'"),
        ({"extra_args": {"Metadata": {"a": "ä"}}}, "no dict of ASCII texts"),
    ],
)
def test_bad_input_names_the_field_the_value_and_the_remedy(
    changes: dict[str, Any], problem: str, bucket: str, client: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    arguments = {"source": str(tmp_path), "destination": f"s3://{bucket}/t", **changes}
    task = LocalToAllasOperator(task_id="send", **arguments)
    with pytest.raises((AirflowFailException, ConfigError), match=problem):
        task.execute({})  # type: ignore[typeddict-item]
    assert keys(client, bucket) == []


def test_an_object_or_prefix_that_is_not_there_is_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(AllasError, match=f"s3://{bucket}/gone does not exist"):
        fetch(f"s3://{bucket}/gone", tmp_path / "x")
    with pytest.raises(AllasError, match=f"nothing below s3://{bucket}/gone/"):
        fetch(f"s3://{bucket}/gone/", tmp_path / "x")
    with pytest.raises(AllasError, match="NoSuchBucket"):
        fetch("s3://no-such-bucket-here-1/gone/", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


# ---- what is left ----


def test_old_uploads_that_nobody_completed_are_aborted(bucket: str, client: Any) -> None:
    for key in ("a/old", "b/other"):
        client.create_multipart_upload(Bucket=bucket, Key=key)

    def abort(**arguments: Any) -> list[str]:
        task = AllasAbortUploadsOperator(task_id="t", bucket_name=bucket, **arguments)
        return [each["key"] for each in task.execute({})]  # type: ignore[typeddict-item]

    assert abort() == []
    assert abort(older_than=0, dry_run_only=True) == ["a/old", "b/other"]
    assert len(unfinished(client, bucket)) == 2
    assert abort(older_than=0, prefix="a/") == ["a/old"]
    assert [each["Key"] for each in unfinished(client, bucket)] == ["b/other"]
    assert abort(older_than=0) == ["b/other"]
    assert not unfinished(client, bucket)


# ---- copies ----


def test_objects_are_copied_within_a_store_and_between_two(
    bucket: str, client: Any, connect: Callable[..., str], proxy: ByteProxy, tmp_path: Path
) -> None:
    (tmp_path / "top").mkdir()
    sizes = {"none": 0, "small": 1000, "large": LARGE}
    for name, size in sizes.items():
        (tmp_path / "top" / name).write_bytes(content(size))
    send(tmp_path / "top", f"s3://{bucket}/a", allas_conn_id="direct")
    carried = proxy.passed["down"]
    done = copy(f"s3://{bucket}/a/", f"s3://{bucket}/b/")
    assert done["transferred"] == 3
    # The store did it alone.
    assert proxy.passed["down"] - carried < MIB
    done = copy(f"s3://{bucket}/a/", f"s3://{bucket}/c/", destination_conn_id="direct")
    assert (done["transferred"], done["unverified"]) == (3, 0)
    assert proxy.passed["down"] - carried > LARGE
    for name, size in sizes.items():
        original = client.head_object(Bucket=bucket, Key=f"a/{name}")["ETag"]
        for prefix in ("b", "c"):
            assert client.head_object(Bucket=bucket, Key=f"{prefix}/{name}")["ETag"] == original
            assert read(client, bucket, f"{prefix}/{name}") == content(size)
    assert copy(f"s3://{bucket}/a/", f"s3://{bucket}/c/")["skipped"] == 3
    assert copy(f"s3://{bucket}/a/small", f"s3://{bucket}/d/")["transferred"] == 1
    assert read(client, bucket, "d/small") == content(1000)
    assert not unfinished(client, bucket)
