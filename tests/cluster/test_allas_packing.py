"""Directories as one object on a real Ceph RGW, and back: whole or not at all."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.errors import AllasError
from airflow_provider_csc.store import engine
from airflow_provider_csc.store.pack import Packer
from airflow_provider_csc.transfers.allas import AllasToLocalOperator
from tests.support.archives import archive_of, member
from tests.support.rgw import unfinished
from tests.support.run_transfer import start_transfer
from tests.support.transfers import (
    LARGE,
    MIB,
    ODD_NAMES,
    PART,
    fill,
    keys,
    noise,
    pack,
    race,
    tree_of,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.byte_proxy import ByteProxy

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("small_parts")]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A directory that becomes several parts."""
    half = LARGE // 2
    return fill(tmp_path / "large", {"a": noise(half), "b/c": noise(half, 2), "d": b"last"})


def run(*words: str, data: bytes | None = None) -> bytes:
    return subprocess.run(words, input=data, check=True, capture_output=True).stdout


def nothing_left(directory: Path) -> bool:
    return not directory.exists() or not list(directory.iterdir())


# ---- there and back ----

# A URL has none of these.
NAMES = [
    *ODD_NAMES,
    "new\nline",
    ".hidden/.file",
    "long/" + "/".join(["n" * 200] * 4) + "/" + "ö" * 120,
]


def test_very_many_small_files_go_there_and_come_back(
    bucket: str, client: Any, tmp_path: Path, task_log: list[str]
) -> None:
    top = tmp_path / "tree"
    files = {f"{n % 50}/{n}.txt": f"file {n}\n".encode() * (n % 40) for n in range(3000)}
    files |= {name: name.encode() for name in NAMES} | {"empty": b""}
    fill(top, files)
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o750)
    (top / "secret").write_text("x")
    (top / "secret").chmod(0o600)
    (top / "link").symlink_to("run.sh")
    (top / "nothing" / "in it").mkdir(parents=True)
    os.utime(top / "empty", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    count = len(files) + 3
    sent = pack(top, f"s3://{bucket}/some/tree.tar.zst")
    size = sum(path.stat().st_size for path in top.rglob("*") if path.is_file())
    assert (sent["transferred"], sent["packed_files"], sent["packed_bytes"]) == (1, count, size)
    assert sent["bytes"] < size
    assert keys(client, bucket) == ["some/tree.tar.zst"]
    head = client.head_object(Bucket=bucket, Key="some/tree.tar.zst")
    assert head["ContentType"] == "application/zstd"
    assert head["ContentLength"] == sent["bytes"]
    got = unpack(f"s3://{bucket}/some/tree.tar.zst", tmp_path / "back")
    assert (got["transferred"], got["packed_files"], got["packed_bytes"]) == (1, count, size)
    assert got["unverified"] == 0
    assert tree_of(tmp_path / "back") == tree_of(top)
    assert not (tmp_path / "back" / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "tree"]
    assert any(line.startswith(f"Packed {count:,} files, ") for line in task_log)
    assert any(line.startswith(f"Unpacked {count:,} files, ") for line in task_log)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_what_is_large_goes_in_parts(
    workers: int, bucket: str, client: Any, large: Path, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/large.tar.zst"
    sent = pack(large, uri, max_workers=workers)
    assert sent["bytes"] > LARGE
    head = client.head_object(Bucket=bucket, Key="large.tar.zst")
    assert head["ETag"].strip('"').endswith("-5")
    assert head["Metadata"]["part-size"] == str(PART)
    assert not unfinished(client, bucket)
    assert unpack(uri, tmp_path / "back", max_workers=workers)["bytes"] == sent["bytes"]
    assert tree_of(tmp_path / "back") == tree_of(large)
    # It is an object like others.
    plain = AllasToLocalOperator(task_id="t", source=uri, destination=str(tmp_path / "x.tar.zst"))
    assert plain.execute({})["unverified"] == 0  # type: ignore[typeddict-item]


def test_gnu_tar_and_zstd_read_it(bucket: str, client: Any, large: Path, tmp_path: Path) -> None:
    fill(large, dict.fromkeys(NAMES, b"x"))
    (large / "empty").mkdir()
    pack(large, f"s3://{bucket}/t.tar.zst")
    client.download_file(bucket, "t.tar.zst", str(tmp_path / "t.tar.zst"))
    run("zstd", "--test", str(tmp_path / "t.tar.zst"))
    (tmp_path / "back").mkdir()
    run("tar", "--zstd", "-C", str(tmp_path / "back"), "-xf", str(tmp_path / "t.tar.zst"))
    assert tree_of(tmp_path / "back") == tree_of(large)
    listed = run("tar", "--zstd", "-tvf", str(tmp_path / "t.tar.zst")).decode()
    assert all(line.split()[1] == "0/0" for line in listed.splitlines())


@pytest.mark.parametrize(
    ("suffix", "program"),
    [(".tar.zst", ["zstd", "-c"]), (".tar.gz", ["gzip", "-c"]), (".tar", ["cat"])],
)
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_what_gnu_tar_made_is_unpacked(
    form: str,
    suffix: str,
    program: list[str],
    bucket: str,
    client: Any,
    large: Path,
    tmp_path: Path,
) -> None:
    """As CSC's a-put makes it: `tar c DIRECTORY`, plain or through zstd."""
    fill(large, dict.fromkeys(NAMES, b"x"))
    (large / "script").write_text("x")
    (large / "script").chmod(0o755)
    (large / "b" / "link").symlink_to("../a")
    (large / "hard").hardlink_to(large / "script")
    with (large / "sparse").open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"end")
    made = run("tar", f"--format={form}", "-S", "-C", str(large), "-c", ".")
    data = run(*program, data=made)
    client.upload_fileobj(io.BytesIO(data), bucket, f"t{suffix}")
    got = unpack(f"s3://{bucket}/t{suffix}", tmp_path / "back")
    assert got["unverified"] == 0
    assert tree_of(tmp_path / "back") == tree_of(large)
    assert (tmp_path / "back" / "b" / "link").readlink() == Path("../a")
    again = unpack(f"s3://{bucket}/t{suffix}", tmp_path / "back")
    assert again["transferred"] == 1
    assert tree_of(tmp_path / "back") == tree_of(large)


def test_several_frames_of_zstd_are_one_stream(bucket: str, client: Any, tmp_path: Path) -> None:
    """As pzstd writes them."""
    fill(tmp_path / "top", {"a": noise(3 * MIB), "b": b"x"})
    made = run("tar", "-C", str(tmp_path / "top"), "-c", ".")
    data = b"".join(run("zstd", "-c", data=made[n : n + MIB]) for n in range(0, len(made), MIB))
    client.put_object(Bucket=bucket, Key="t.tar.zst", Body=data)
    unpack(f"s3://{bucket}/t.tar.zst", tmp_path / "back")
    assert tree_of(tmp_path / "back") == tree_of(tmp_path / "top")


def test_a_prefix_takes_it_under_the_name_of_the_directory(
    bucket: str, client: Any, large: Path
) -> None:
    assert pack(large, f"s3://{bucket}/in/")["destination"] == f"s3://{bucket}/in/large.tar.zst"
    assert keys(client, bucket) == ["in/large.tar.zst"]


def test_patterns_say_what_is_meant(bucket: str, tmp_path: Path) -> None:
    names = ("a.csv", "b.txt", "raw/c.csv", "raw/d.txt", "deep/e.csv")
    top = fill(tmp_path / "top", {name: name.encode() for name in names})
    uri = f"s3://{bucket}/t.tar.zst"
    assert pack(top, uri, include=["*.csv"], exclude=["raw/"])["packed_files"] == 2
    unpack(uri, tmp_path / "one")
    assert sorted(tree_of(tmp_path / "one")) == ["a.csv", "deep/e.csv"]
    pack(top, uri)
    assert unpack(uri, tmp_path / "two", exclude=["raw/"])["packed_files"] == 3
    assert sorted(tree_of(tmp_path / "two")) == ["a.csv", "b.txt", "deep/e.csv"]
    with pytest.raises(AllasError, match=r"nothing in s3://.* that is meant"):
        unpack(uri, tmp_path / "three", include=["*.nc"])
    assert nothing_left(tmp_path / "three")


def test_what_is_in_the_way_or_too_much(bucket: str, tmp_path: Path) -> None:
    top = fill(tmp_path / "top", {"a.csv": b"new", "dir/b.csv": b"new", "new/c.csv": b"new"})
    uri = f"s3://{bucket}/t.tar.zst"
    pack(top, uri)
    back = fill(tmp_path / "back", {"a.csv": b"old", "dir/mine.csv": b"", "dir/mine.txt": b""})
    got = unpack(uri, back)
    assert got["deleted"] == 0
    assert sorted(tree_of(back)) == [
        "a.csv", "dir/b.csv", "dir/mine.csv", "dir/mine.txt", "new/c.csv",
    ]  # fmt: skip
    assert (back / "a.csv").read_bytes() == b"new"
    got = unpack(uri, back, delete_extra=True, include=["*.csv"])
    assert got["deleted"] == 1
    assert sorted(tree_of(back)) == ["a.csv", "dir/b.csv", "dir/mine.txt", "new/c.csv"]
    got = unpack(uri, back, delete_extra=True)
    assert got["deleted"] == 1
    assert tree_of(back) == tree_of(top)


@pytest.mark.parametrize("obstacle", ["file", "directory", "link"])
def test_what_has_no_place_is_refused_before_anything_is_written(
    obstacle: str, bucket: str, tmp_path: Path
) -> None:
    pack(fill(tmp_path / "top", {"a": b"x", "dir/b": b"x"}), f"s3://{bucket}/t.tar.zst")
    back, outside = tmp_path / "back", tmp_path / "outside"
    back.mkdir()
    outside.mkdir()
    if obstacle == "file":
        (back / "dir").write_text("mine")
    elif obstacle == "directory":
        (back / "a").mkdir()
    else:
        (back / "dir").symlink_to(outside)
    with pytest.raises(AllasError, match=r"Nothing was written\. Remove it"):
        unpack(f"s3://{bucket}/t.tar.zst", back)
    assert len(list(back.iterdir())) == 1
    assert nothing_left(outside)


# ---- what is there already ----


def test_what_is_there_unchanged_is_not_sent_or_read_again(
    bucket: str, large: Path, tmp_path: Path
) -> None:
    uri, back = f"s3://{bucket}/t.tar.zst", tmp_path / "back"
    for compare in ("checksum", "time"):
        pack(large, uri, compare="never")
        unpack(uri, back, compare="never")
        for again in (pack(large, uri, compare=compare), unpack(uri, back, compare=compare)):
            assert (again["transferred"], again["skipped"], again["bytes"]) == (0, 1, 0)
            assert again["packed_files"] == 3
    assert pack(large, uri, compare="never")["transferred"] == 1
    assert unpack(uri, back, compare="never")["transferred"] == 1


@pytest.mark.parametrize("compare", ["checksum", "time"])
@pytest.mark.parametrize("change", ["content", "time", "mode", "name", "more", "less"])
def test_what_changed_is_sent_again(
    change: str, compare: Any, bucket: str, large: Path, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/t.tar.zst"
    file = large / "d"
    os.utime(file, (1_600_000_000, 1_600_000_000))
    pack(large, uri)
    unpack(uri, tmp_path / "back")
    for top, work in (
        (large, lambda: pack(large, uri, compare=compare)),
        (tmp_path / "back", lambda: unpack(uri, tmp_path / "back", compare=compare)),
    ):
        file = top / "d"
        match change:
            case "content":
                file.write_bytes(b"LAST")
                os.utime(file, (1_600_000_000, 1_600_000_000))
            case "time":
                os.utime(file, (1_600_000_001, 1_600_000_001))
            case "mode":
                file.chmod(0o755)
            case "name":
                file.rename(top / "e")
            case "more":
                (top / "f").write_text("")
            case "less":
                file.unlink()
        unseen = {"checksum": ("time",), "time": ("content", "mode")}[compare]
        assert work()["transferred"] == (0 if change in unseen else 1)
        # Of both sides only one has changed.
        pack(tmp_path / "back", uri, compare="never")


def test_what_another_program_packed_is_replaced(bucket: str, client: Any, tmp_path: Path) -> None:
    top = fill(tmp_path / "top", {"a": b"x" * 1000})
    client.put_object(
        Bucket=bucket, Key="t.tar.zst", Body=run("zstd", "-c", data=run("tar", "c", str(top)))
    )
    assert pack(top, f"s3://{bucket}/t.tar.zst")["transferred"] == 1
    assert pack(top, f"s3://{bucket}/t.tar.zst")["skipped"] == 1


# ---- what cannot be packed ----


def test_what_is_no_file_is_skipped_and_what_is_gone_is_told(
    bucket: str, tmp_path: Path, task_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    top = fill(tmp_path / "top", {"a": b"x", "gone": b"x", "z": b"x"})
    os.mkfifo(top / "pipe")
    original = Packer._member

    def remove(self: Any, item: Any) -> Iterator[Any]:
        if item.path == "gone":
            (top / "gone").unlink()
        return original(self, item)

    monkeypatch.setattr(Packer, "_member", remove)
    assert pack(top, f"s3://{bucket}/t.tar.zst")["packed_files"] == 2
    assert f"{top}/pipe is neither file nor directory; it is skipped" in task_log
    assert f"{top}/gone is gone; it is skipped" in task_log
    unpack(f"s3://{bucket}/t.tar.zst", tmp_path / "back")
    assert sorted(tree_of(tmp_path / "back")) == ["a", "z"]


def test_what_cannot_be_packed_is_refused_before_anything_is_sent(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    def refused(kind: type[Exception], text: str, source: Path = tmp_path, **changes: Any) -> None:
        arguments = {"destination": f"s3://{bucket}/t.tar.zst", **changes}
        with pytest.raises(kind, match=text):
            pack(source, **arguments)
        assert keys(client, bucket) == []

    refused(AllasError, "There is nothing below")
    (tmp_path / "only" / "directories").mkdir(parents=True)
    refused(AllasError, "There is nothing below")
    (tmp_path / "file").write_text("x")
    fails = AirflowFailException
    refused(fails, "source: '.*file' is a file, and pack=True packs a dir", tmp_path / "file")
    refused(fails, "source: '.*gone' is neither a file nor", tmp_path / "gone")
    refused(fails, "delete_extra: True means nothing with pack=True", delete_extra=True)
    refused(fails, "compare: 'size' tells nothing .*'checksum', 'time'", compare="size")
    refused(
        fails,
        "destination: '.*t.tar' does not end with .tar.zst",
        destination=f"s3://{bucket}/t.tar",
    )
    (tmp_path / "link").symlink_to("file")
    refused(AllasError, "is a symbolic link, and symlinks='refuse'", symlinks="refuse")
    (tmp_path / "loop").symlink_to(".")
    refused(AllasError, "no end")
    (tmp_path / "loop").unlink()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")).write_text("x")
    refused(AllasError, "not UTF-8")


def test_links_are_skipped_on_request(bucket: str, tmp_path: Path) -> None:
    top = fill(tmp_path / "top", {"a": b"x"})
    (top / "link").symlink_to("a")
    assert pack(top, f"s3://{bucket}/t.tar.zst", symlinks="skip")["packed_files"] == 1


@pytest.mark.parametrize(
    ("source", "changes", "problem"),
    [
        ("t/", {}, "source: '.*' is a prefix, and unpack=True unpacks one object"),
        ("t.tar.zst", {"compare": "size"}, "compare: 'size' tells nothing"),
        ("t.tar.zst", {"destination": "file"}, "destination: '.*file' is a file"),
    ],
)
def test_what_cannot_be_meant_by_unpacking_is_refused(
    source: str, changes: dict[str, Any], problem: str, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    place = tmp_path / changes.pop("destination", "back")
    with pytest.raises(AirflowFailException, match=problem):
        unpack(f"s3://{bucket}/{source}", place, **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ---- faults ----


def test_a_store_that_stays_away_ends_it(
    bucket: str, proxy: ByteProxy, large: Path, tmp_path: Path
) -> None:
    pack(large, f"s3://{bucket}/k.tar.zst", allas_conn_id="direct")

    proxy.at_byte("down", 8 * MIB, proxy.go_away)
    with pytest.raises(AllasError):
        unpack(f"s3://{bucket}/k.tar.zst", tmp_path / "back", max_workers=2)
    # Of each thread one request's attempts, not those of every one that waited.
    assert 0 < proxy.refused <= 2 * engine.ATTEMPTS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large"]


@pytest.mark.parametrize("size", [0, 10, 5000, 3 * MIB, -600, -513])
@pytest.mark.parametrize("program", [["zstd", "-c"], ["gzip", "-c"], ["cat"]])
def test_an_archive_that_was_cut_off_before_it_was_stored_leaves_nothing(
    size: int, program: list[str], bucket: str, client: Any, tmp_path: Path
) -> None:
    top = fill(tmp_path / "top", {"a": noise(4 * MIB), "b": b"x", "c": b"x"})
    made = run(
        *program, data=run("tar", "--blocking-factor=1", "-C", str(top), "-c", "a", "b", "c")
    )
    if size < 0 and program != ["cat"]:
        size //= 50
    client.put_object(Bucket=bucket, Key="k", Body=made[:size])
    with pytest.raises(AllasError, match=r"cannot be unpacked: |is no tar archive|is empty"):
        unpack(f"s3://{bucket}/k", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["top"]


def test_what_is_no_archive_is_said_to_be_none(bucket: str, client: Any, tmp_path: Path) -> None:
    client.put_object(Bucket=bucket, Key="k.csv", Body=b"a,b\n1,2\n" * 1000)
    with pytest.raises(AllasError, match=r"is no tar archive.* begins with b'a,b"):
        unpack(f"s3://{bucket}/k.csv", tmp_path / "back")
    client.put_object(Bucket=bucket, Key="k.zst", Body=run("zstd", "-c", data=b"a,b\n" * 1000))
    with pytest.raises(AllasError, match="cannot be unpacked"):
        unpack(f"s3://{bucket}/k.zst", tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


# ---- hostile archives ----


LINK, HARD, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE

HOSTILE = {
    "absolute": [member("{outside}/x")],
    "upwards": [member("../outside/x")],
    "upwards within": [member("a/../../outside/x")],
    "absolute link": [member("l", LINK, "{outside}"), member("l/x")],
    "link out": [member("l", LINK, "../outside"), member("l/x")],
    "absolute link alone": [member("l", LINK, "{outside}")],
    "link out alone": [member("l", LINK, "../outside")],
    "link to a link": [
        member("d/a", LINK, "."),
        member("l", LINK, "d/a/a/a/../../../../outside"),
        member("l/x"),
    ],
    "through a link within": [member("d", DIR), member("l", LINK, "d"), member("l/x")],
    "link in place of a directory": [member("d/x"), member("d", LINK, "..")],
    "hard link out": [member("l", HARD, "../outside/file")],
    "hard link to an absolute name": [member("l", HARD, "{outside}/file")],
    "hard link to a link": [member("s", LINK, "t"), member("l", HARD, "s")],
    "hard link to nothing": [member("l", HARD, "gone")],
    "device": [member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [member("disk", tarfile.BLKTYPE, devmajor=8)],
    "pipe": [member("pipe", tarfile.FIFOTYPE)],
    "file and directory": [member("a"), member("a/b")],
    "directory and file": [member("a/b"), member("a")],
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("place", ["new", "there"])
def test_no_member_gets_out_of_the_directory(
    case: str, place: str, bucket: str, client: Any, tmp_path: Path
) -> None:
    outside, back = fill(tmp_path / "outside", {"file": b"mine"}), tmp_path / "back"
    if place == "there":
        back.mkdir()
    members = [copy.copy(each) for each in HOSTILE[case]]
    for each in members:
        each.name = each.name.format(outside=outside)
        each.linkname = each.linkname.format(outside=outside)
    client.put_object(Bucket=bucket, Key="k.tar", Body=archive_of(member("good"), *members))
    with pytest.raises(AllasError):
        unpack(f"s3://{bucket}/k.tar", back)
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == b"mine"
    assert (outside / "file").stat().st_nlink == 1
    assert nothing_left(back)
    assert not list(tmp_path.rglob(".airflow-*"))


def test_what_is_excluded_may_be_called_as_it_likes(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    archive = archive_of(
        member("good"), member("bad", LINK, "/etc"), member("null", tarfile.CHRTYPE)
    )
    client.put_object(Bucket=bucket, Key="k.tar", Body=archive)
    with pytest.raises(AllasError, match=r"'bad' .* is a symbolic link to '/etc'.*Exclude it"):
        unpack(f"s3://{bucket}/k.tar", tmp_path / "back")
    unpack(f"s3://{bucket}/k.tar", tmp_path / "back", exclude=["/bad", "null"])
    assert sorted(tree_of(tmp_path / "back")) == ["good"]


def test_modes_and_times_of_a_stranger_do_no_harm(bucket: str, client: Any, tmp_path: Path) -> None:
    archive = archive_of(
        member("setuid", mode=0o6777, uid=12345),
        member("none", mode=0),
        *(member(f"time{n}", mtime=mtime) for n, mtime in enumerate((-5, 1e30, 2**40))),
        member("twice"),
        member("twice", mode=0o755),
    )
    client.put_object(Bucket=bucket, Key="k.tar", Body=archive)
    unpack(f"s3://{bucket}/k.tar", tmp_path / "back")
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "back").iterdir()}
    assert (modes["setuid"], modes["none"], modes["twice"]) == (0o755, 0o600, 0o755)
    assert (tmp_path / "back" / "setuid").stat().st_uid == os.getuid()


def test_a_name_that_has_no_end_is_not_read_into_memory(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    huge = member("x", tarfile.XHDTYPE, size=7 * 1024**3).tobuf(tarfile.USTAR_FORMAT)
    client.put_object(Bucket=bucket, Key="k.tar", Body=huge + bytes(10240))
    with pytest.raises(AllasError, match="a name has 7516192768 bytes"):
        unpack(f"s3://{bucket}/k.tar", tmp_path / "back")


# ---- kills and memory ----


def count_parts(client: Any, bucket: str) -> int:
    """How many parts the store has of the upload that nobody completed."""
    (upload,) = unfinished(client, bucket)
    asked = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
    return len(client.list_parts(**asked).get("Parts", ()))


def kill_upload(
    top: Path, uri: str, proxy: ByteProxy, client: Any, bucket: str, *, least: int = 3
) -> None:
    """Pack a tree in a process of its own, and kill it when the store has some parts."""
    at = 45 * MIB
    reached = threading.Event()
    proxy.at_byte("up", at, reached.set)
    child = start_transfer(
        "up", str(top), uri, part_bytes=PART, pack=True, bytes_per_second=40 * MIB
    )
    try:
        assert reached.wait(60)
        # Of what has passed some parts are not whole yet.
        while count_parts(client, bucket) < least:
            assert child.is_alive()
            time.sleep(0.02)
    finally:
        child.kill()
        child.join()
    proxy.come_back()
    proxy.cut_all()


def test_of_a_killed_upload_only_what_changed_is_sent_again(
    bucket: str, client: Any, proxy: ByteProxy, tmp_path: Path, task_log: list[str]
) -> None:
    top = fill(tmp_path / "top", {f"{n:02}": noise(6 * MIB, n) for n in range(10)})
    uri = f"s3://{bucket}/k.tar.zst"
    kill_upload(top, uri, proxy, client, bucket)
    assert keys(client, bucket) == []
    assert len(unfinished(client, bucket)) == 1
    # What was before it is the same, and what comes after it.
    (top / "03").write_bytes(noise(6 * MIB, 100))
    done = pack(top, uri)
    size = client.head_object(Bucket=bucket, Key="k.tar.zst")["ContentLength"]
    assert done["bytes"] < size - 2 * PART
    assert any("were there already" in line for line in task_log)
    assert not unfinished(client, bucket)
    unpack(uri, tmp_path / "back")
    assert tree_of(tmp_path / "back") == tree_of(top)


def test_an_upload_of_more_parts_than_are_needed_is_begun_anew(
    bucket: str, client: Any, proxy: ByteProxy, tmp_path: Path
) -> None:
    top = fill(tmp_path / "top", {f"{n:02}": noise(6 * MIB, n) for n in range(10)})
    uri = f"s3://{bucket}/k.tar.zst"
    kill_upload(top, uri, proxy, client, bucket)
    for n in range(1, 10):
        (top / f"{n:02}").unlink()
    # Ceph completes no upload of which a part is left out.
    with pytest.raises(AllasError, match="What it sent is deleted; try again"):
        pack(top, uri)
    assert not unfinished(client, bucket)
    pack(top, uri)
    unpack(uri, tmp_path / "back")
    assert tree_of(tmp_path / "back") == tree_of(top)
    assert not unfinished(client, bucket)


def test_two_that_unpack_to_the_same_place_do_not_mix(
    bucket: str, large: Path, tmp_path: Path
) -> None:
    pack(large, f"s3://{bucket}/k.tar.zst")
    assert 1 in race(lambda: unpack(f"s3://{bucket}/k.tar.zst", tmp_path / "back"))
    assert tree_of(tmp_path / "back") == tree_of(large)
    assert not list(tmp_path.rglob(".airflow-*"))


def test_memory_is_bounded_whatever_the_size(bucket: str, tmp_path: Path) -> None:
    """Peaks of whole processes, Airflow included (about 150 MB)."""
    (tmp_path / "top").mkdir()
    with (tmp_path / "top" / "a").open("wb") as file:
        for _ in range(500):
            file.write(os.urandom(MIB))
    uri = f"s3://{bucket}/k.tar.zst"
    calls: list[tuple[str, str, str, dict[str, Any]]] = [
        ("up", str(tmp_path / "top"), uri, {"pack": True}),
        ("down", uri, str(tmp_path / "back"), {"unpack": True}),
    ]
    for direction, source, destination, more in calls:
        output = tmp_path / f"{direction}.log"
        child = start_transfer(
            direction, source, destination, part_bytes=32 * MIB, output=output, **more
        )
        child.join(300)
        assert child.exitcode == 0, output.read_text()
        peak = int(output.read_text().splitlines()[-1])
        print(f"{direction}: {peak} kB")
        assert peak < 300_000
    assert run("cmp", str(tmp_path / "top/a"), str(tmp_path / "back/a")) == b""
