"""
Faults of transfers on a real Ceph RGW: no half object, nothing left, a remedy, a retry that goes on.

What each test sees becomes a row of docs/faults.md (tests/support/fault_table.py).
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import tarfile
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from airflow_provider_csc.errors import (
    AllasError,
    ChecksumError,
    FileChangedError,
    ObjectChangedError,
    TransferCancelledError,
)
from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.store import engine
from tests.cluster.conftest import IMPATIENT
from tests.support.archives import archive_of, member
from tests.support.clock import set_clock
from tests.support.journeys import SIZE, FileJourney, Journey, TreeJourney
from tests.support.transfers import (
    LARGE,
    MIB,
    PART,
    content,
    copy,
    fetch,
    fill,
    noise,
    read,
    send,
    unpack,
)
from tests.support.waiting import as_soon_as, unless_it_hangs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.byte_proxy import ByteProxy
    from tests.support.fault_table import FaultWatch
    from tests.support.own_servers import OwnGateway
    from tests.support.rgw import RgwUser

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("small_parts")]

# So many are listed for the table; it takes minutes to make them.
LISTED = 50_000 if "FAULT_ROWS" in os.environ else 2_500
BOTH_WAYS = pytest.mark.parametrize("direction", ["up", "down"])
BOTH_KINDS = pytest.mark.parametrize("kind", [FileJourney, TreeJourney], ids=["file", "tree"])


# ---- keys, clocks, rights, names ----


@BOTH_WAYS
def test_a_wrong_key_is_told_once_with_its_remedy(
    direction: str, connect: Callable[..., str], fault: FaultWatch, tmp_path: Path
) -> None:
    top, down = tmp_path / "top", tmp_path / "down"
    top.mkdir()
    names = [f"f{number}" for number in range(10)]
    for name in names:
        (top / name).write_text(name)
    if direction == "up":
        whole = {f"s3://{fault.bucket}/t/{name}": name.encode() for name in names}
    else:
        send(top, f"s3://{fault.bucket}/t/")
        whole = {str(down / name): name.encode() for name in names}

    def go() -> dict[str, Any]:
        if direction == "up":
            return send(top, f"s3://{fault.bucket}/t/")
        return fetch(f"s3://{fault.bucket}/t/", down)

    said = "sent" if direction == "up" else "read"
    fault.watch(f"a wrong secret key; 10 files are to be {said}", whole)
    connect(password="wrong")
    told = fault.fails(
        go, AllasError, "SignatureDoesNotMatch", "secret key does not belong", "Enter the pair"
    )
    assert told.count("SignatureDoesNotMatch") == 1
    connect()
    fault.retries(go)


@BOTH_WAYS
@BOTH_KINDS
def test_a_transfer_whose_key_expires_goes_on_with_the_next_key(
    direction: str,
    cluster: dict[str, Any],
    connect: Callable[..., str],
    proxy: ByteProxy,
    user: RgwUser,
    fault: FaultWatch,
    kind: type[Journey],
) -> None:
    """Ceph itself knows no time at which a key ends; where keys expire, they are removed."""
    second = user.add_key()
    connect(**user.as_connection(proxy.url))
    connect("direct", **second.as_connection(cluster["s3_endpoint_url"]))
    fault.client = AllasHook("direct").get_conn()
    fault.bucket = f"transfer-{uuid.uuid4().hex[:12]}"
    fault.client.create_bucket(Bucket=fault.bucket)
    journey = kind(direction, fault, "the key expires while {it} is {said}")
    proxy.at_byte(direction, 22 * MIB, user.remove_key)
    fault.fails(
        lambda: journey.go(max_workers=2),
        AllasError,
        "InvalidAccessKeyId",
        "does not know this access key",
        "Check that",
        keeps=journey.kept[direction],
    )
    connect(**second.as_connection(proxy.url))
    fault.retries(journey.go, continues=journey.continues())


@BOTH_WAYS
def test_a_clock_that_is_off_is_told_from_a_wrong_key(
    direction: str, fault: FaultWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey = FileJourney(
        direction, fault, "this machine's clock is an hour behind; a file is {said}", LARGE
    )

    def go() -> None:
        with monkeypatch.context() as patch:
            set_clock(patch, dt.timedelta(hours=-1))
            journey.go()

    fault.fails(go, AllasError, "RequestTimeTooSkewed", "behind", "Set it")
    fault.retries(journey.go)


@BOTH_WAYS
def test_a_clock_that_jumps_during_a_transfer_costs_no_part_that_is_there(
    direction: str, proxy: ByteProxy, fault: FaultWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey = FileJourney(
        direction, fault, "this machine's clock jumps two hours ahead while a file is {said}"
    )

    def go() -> None:
        with monkeypatch.context() as patch:
            proxy.at_byte(direction, 22 * MIB, lambda: set_clock(patch, dt.timedelta(hours=2)))
            journey.go(max_workers=2)

    fault.fails(
        go,
        AllasError,
        "RequestTimeTooSkewed",
        "Set this machine's clock",
        keeps=journey.kept[direction],
    )
    fault.retries(journey.go, continues=True)


@BOTH_WAYS
@pytest.mark.parametrize("whose", ["of another project", "that does not exist"])
def test_a_bucket_of_somebody_else_is_told_from_none(
    direction: str,
    whose: str,
    cluster: dict[str, Any],
    connect: Callable[..., str],
    fault: FaultWatch,
) -> None:
    journey = FileJourney(direction, fault, f"a bucket {whose}; a file is {{said}}", LARGE)
    if whose == "of another project":
        bob = cluster["users"]["bob"]
        connect(login=bob["s3_access_key"], password=bob["s3_secret_key"])
        fault.fails(journey.go, AllasError, "AccessDenied", "another project", "Check that")
        connect()
    else:
        uri, journey.uri = journey.uri, f"s3://{fault.bucket}-none/k"
        fault.fails(journey.go, AllasError, "NoSuchBucket", "no bucket of that name", "Check its")
        journey.uri = uri
    fault.retries(journey.go)


def test_a_bucket_whose_name_is_taken_is_not_made(
    cluster: dict[str, Any], connect: Callable[..., str], fault: FaultWatch, tmp_path: Path
) -> None:
    bob = cluster["users"]["bob"]
    hook = AllasHook(connect(login=bob["s3_access_key"], password=bob["s3_secret_key"]))
    (tmp_path / "source").write_bytes(data := content(MIB))
    taken, free, owner = fault.bucket, f"{fault.bucket}-2", fault.client
    fault.watch("the name of a new bucket is taken", {f"s3://{free}/k": data})
    fault.fails(
        lambda: hook.create_bucket(taken),
        ClientError,
        "BucketAlreadyExists",
        "name is taken",
        "Put your project number in it",
    )
    hook.create_bucket(free)
    try:
        fault.client, fault.bucket = hook.get_conn(), free
        fault.retries(lambda: send(tmp_path / "source", f"s3://{free}/k"))
    finally:
        hook.delete_bucket(free, force_delete=True)
        fault.client, fault.bucket = owner, taken


# ---- quotas ----


@pytest.fixture
def limited(
    cluster: dict[str, Any], connect: Callable[..., str], user: RgwUser, fault: FaultWatch
) -> Iterator[RgwUser]:
    """The user of ``allas_default``, who has a bucket and may be limited."""
    owner, bucket = fault.client, fault.bucket
    connect(**user.as_connection(cluster["s3_endpoint_url"]))
    fault.client, fault.bucket = AllasHook().get_conn(), f"transfer-{uuid.uuid4().hex[:12]}"
    fault.client.create_bucket(Bucket=fault.bucket)
    yield user
    fault.check_nothing_is_left()
    fault.client, fault.bucket = owner, bucket


def test_a_quota_that_ends_an_upload_in_parts_gets_its_space_back(
    limited: RgwUser, fault: FaultWatch
) -> None:
    journey = FileJourney("up", fault, "the project's space is used up while a file is sent")
    limited.limit("user", max_size=20 * MIB)
    fault.fails(
        lambda: journey.go(max_workers=2),
        AllasError,
        "QuotaExceeded",
        "a quota is used up",
        "Delete data or ask for more",
    )
    limited.limit("user", max_size=10 * SIZE)
    fault.retries(journey.go)


def test_a_quota_of_objects_lets_whole_ones_stay(
    limited: RgwUser, fault: FaultWatch, tmp_path: Path
) -> None:
    top, data = tmp_path / "top", content(100_000)
    top.mkdir()
    whole = {}
    for number in range(40):
        (top / f"f{number}").write_bytes(data)
        whole[f"s3://{fault.bucket}/t/f{number}"] = data
    fault.watch("the bucket's objects are used up while 40 files are sent", whole)
    limited.limit("bucket", max_objects=12)
    fault.fails(
        lambda: send(top, f"s3://{fault.bucket}/t/"),
        AllasError,
        "QuotaExceeded",
        "Delete data or ask for more",
        "pack small files",
    )
    limited.limit("bucket", max_objects=1000)
    done = fault.retries(lambda: send(top, f"s3://{fault.bucket}/t/"), continues=True)
    assert done["skipped"] >= 1


def test_a_copy_into_a_full_project_leaves_no_upload(
    limited: RgwUser, fault: FaultWatch, connect: Callable[..., str]
) -> None:
    journey = FileJourney("down", fault, None)
    connect("elsewhere", **limited.as_connection(fault.client.meta.endpoint_url))
    target = f"s3://{fault.bucket}/copy"
    fault.watch("the project's space is used up while an object is copied", {target: journey.data})
    # Ceph adds up what a user has only every few minutes, but for what passes meanwhile.
    limited.limit("user", max_size=20 * MIB)

    def go() -> dict[str, Any]:
        return copy(journey.uri, target, destination_conn_id="elsewhere", max_workers=2)

    fault.fails(go, AllasError, "QuotaExceeded", "a quota is used up", "Delete data")
    limited.limit("user", max_size=10 * SIZE)
    fault.retries(go)


# ---- the store goes away ----


@BOTH_KINDS
def test_a_gateway_that_is_killed_and_comes_back_costs_the_parts_under_way(
    kind: type[Journey],
    gateway: OwnGateway,
    connect: Callable[..., str],
    fault: FaultWatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As long as with the pauses that are usual, half a minute, in which a gateway surely starts.
    monkeypatch.setattr(engine, "ATTEMPTS", 60)
    journey = kind(
        "up",
        fault,
        "the gateway is killed (SIGKILL) in the middle of a part of {it} that is {said}, and "
        "started again",
    )
    with gateway.behind_proxy() as proxy:
        connect(url=proxy.url)

        def restart() -> None:
            gateway.kill()
            threading.Thread(target=gateway.start).start()

        proxy.at_byte("up", 22 * MIB, restart)
        fault.survives(lambda: journey.go(max_workers=2), lambda: proxy.passed["up"])
    assert gateway.starts == 2


@BOTH_WAYS
@BOTH_KINDS
def test_a_transfer_goes_on_when_a_killed_gateway_is_back(
    direction: str, kind: type[Journey], gateway: OwnGateway, fault: FaultWatch
) -> None:
    journey = kind(
        direction,
        fault,
        "the gateway is killed (SIGKILL) in the middle of a part of {it} that is {said}, and stays "
        "away",
    )
    killer = as_soon_as(lambda: journey.is_midway(fault), gateway.kill)
    fault.fails(
        lambda: journey.go(max_workers=2, bytes_per_second=20 * MIB),
        AllasError,
        "refused the connection",
        "Check host and port, and that it runs",
        keeps=journey.kept[direction],
    )
    killer.join()
    gateway.start()
    fault.retries(journey.go, continues=journey.continues())


@BOTH_KINDS
def test_a_store_that_is_away_for_a_while_is_waited_for(
    kind: type[Journey], proxy: ByteProxy, fault: FaultWatch
) -> None:
    journey = kind("up", fault, "the store is away for 0.7 s while {it} is {said}", LARGE)

    def leave() -> None:
        proxy.go_away()
        threading.Timer(0.7, lambda: setattr(proxy, "is_refusing", False)).start()

    proxy.at_byte("up", 8 * MIB, leave)
    fault.survives(journey.go, lambda: proxy.passed["up"])


# ---- the network ----


@pytest.mark.parametrize("at", [0, 100, 7 * MIB, 20 * MIB])
@BOTH_WAYS
@BOTH_KINDS
def test_a_connection_that_is_cut_at_any_byte_is_made_anew(
    direction: Any, kind: type[Journey], at: int, proxy: ByteProxy, fault: FaultWatch
) -> None:
    journey = kind(
        direction,
        fault,
        f"the connection that carries byte {at:,} is cut while {{it}} is {{said}}",
        LARGE,
    )
    cut = proxy.add("cut", direction, at)
    fault.survives(journey.go, lambda: proxy.passed[direction])
    assert cut.times == 0


@BOTH_WAYS
def test_a_connection_that_is_cut_again_and_again_is_given_up(
    direction: Any, proxy: ByteProxy, fault: FaultWatch
) -> None:
    journey = FileJourney(
        direction, fault, "the connection is cut again and again after 22 MiB of a file are {said}"
    )
    proxy.at_byte(direction, 22 * MIB, lambda: proxy.add("cut", direction, MIB // 2, times=1000))
    fault.fails(
        lambda: journey.go(max_workers=2),
        AllasError,
        "the connection",
        "Try again",
        keeps="nothing" if direction == "up" else "files",
    )
    proxy.come_back()
    fault.retries(journey.go, continues=direction == "down")


@BOTH_WAYS
@BOTH_KINDS
def test_a_connection_that_is_silent_is_made_anew(
    direction: Any,
    kind: type[Journey],
    proxy: ByteProxy,
    connect: Callable[..., str],
    fault: FaultWatch,
) -> None:
    connect(extra={"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 2}})
    journey = kind(direction, fault, "the connection falls silent while {it} is {said}", LARGE)
    hold = proxy.add("hold", direction, 12 * MIB)
    fault.survives(journey.go, lambda: proxy.passed[direction])
    assert hold.times == 0


# ---- bytes ----


@pytest.mark.parametrize("size", [MIB, LARGE])
@BOTH_WAYS
@BOTH_KINDS
def test_a_byte_that_changes_on_the_way_is_noticed(
    direction: Any, kind: type[Journey], size: int, proxy: ByteProxy, fault: FaultWatch
) -> None:
    journey = kind(
        direction,
        fault,
        f"a bit changes on the way of {{it}} of {size / 1e6:.0f} MB that is {{said}}",
        size,
    )
    # Behind all headers, and within the content.
    corrupt = proxy.add("corrupt", direction, size // 2)
    if direction == "up":
        fault.survives(journey.go, lambda: proxy.passed["up"])
    else:
        fault.fails(journey.go, ChecksumError, "is not what the store's checksum", "Try again")
        fault.retries(journey.go)
    assert corrupt.times == 0


@pytest.mark.parametrize("size", [4 * MIB, 8 * MIB])
def test_bytes_that_change_each_time_are_never_stored(
    size: int, proxy: ByteProxy, fault: FaultWatch
) -> None:
    journey = FileJourney(
        "up",
        fault,
        f"bits change each time a file of {size / 1e6:.0f} MB is sent, in "
        + ("one request" if size <= PART else "parts"),
        size,
    )
    # Never in the headers, which follow each other by multiples of 4 or 5 MiB.
    proxy.add("corrupt", "up", int(2.3 * MIB), times=1000)
    fault.fails(lambda: journey.go(max_workers=1), AllasError, "other bytes", "Try again")
    proxy.faults.clear()
    fault.retries(journey.go)


def test_a_file_that_changes_while_it_is_sent_is_not_sent(
    proxy: ByteProxy, fault: FaultWatch
) -> None:
    journey = FileJourney("up", fault, "the file changes while it is sent", LARGE)

    def change() -> None:
        with journey.source.open("r+b") as file:
            file.write(b"changed")

    proxy.at_byte("up", 10 * MIB, change)
    fault.fails(
        journey.go, FileChangedError, "changed while it was sent", "Transfer it when it is complete"
    )
    journey.source.write_bytes(journey.data)
    fault.retries(journey.go)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shorter(path: Path) -> None:
    os.truncate(path, 20 * MIB)


def different(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"changed")


@pytest.mark.parametrize("change", [longer, shorter, different])
def test_a_file_that_changes_while_it_is_packed_is_not_sent(
    change: Callable[[Path], None], proxy: ByteProxy, fault: FaultWatch
) -> None:
    """It is held open, with its header sent, while what was read of it before goes its way."""
    text = f"a file becomes {change.__name__} while {{it}} with it is {{said}}"
    journey = TreeJourney("up", fault, text, 120 * MIB)
    proxy.at_byte("up", 6 * MIB, lambda: change(journey.source / "a"))
    fault.fails(
        lambda: journey.go(max_workers=2, bytes_per_second=20 * MIB),
        FileChangedError,
        "changed while it was packed",
        "Pack the directory when nobody writes there",
    )
    journey.write("a", journey.files["a"])
    fault.retries(journey.go)


def test_an_object_that_is_overwritten_while_it_is_read_is_noticed(
    proxy: ByteProxy, fault: FaultWatch, tmp_path: Path
) -> None:
    uri, target, new = f"s3://{fault.bucket}/k", tmp_path / "k", content(LARGE, seed=2)
    fault.client.put_object(Bucket=fault.bucket, Key="k", Body=content(LARGE))
    fault.watch("the object is overwritten while it is read", {str(target): new})

    def overwrite() -> None:
        fault.client.put_object(Bucket=fault.bucket, Key="k", Body=new)

    proxy.at_byte("down", 10 * MIB, overwrite)
    fault.fails(
        lambda: fetch(uri, target, max_workers=1),
        ObjectChangedError,
        "overwritten while it was read",
        "Try again when who writes it has ended",
    )
    fault.retries(lambda: fetch(uri, target))


@pytest.mark.parametrize("there", [[], ["mine"]], ids=["new", "there"])
def test_an_archive_that_is_overwritten_while_it_is_unpacked_is_noticed(
    there: list[str], proxy: ByteProxy, fault: FaultWatch, tmp_path: Path
) -> None:
    fill(tmp_path / "target", dict.fromkeys(there, b"x"))
    where = " into a directory that is there" if there else ", which makes its directory"
    text = f"the object is overwritten while {{it}} is {{said}}{where}"
    journey = TreeJourney("down", fault, text, LARGE)
    archive = read(fault.client, fault.bucket, journey.key)

    def overwrite(data: bytes) -> None:
        fault.client.put_object(Bucket=fault.bucket, Key=journey.key, Body=data)

    proxy.at_byte("down", 8 * MIB, lambda: overwrite(noise(LARGE, seed=3)))
    fault.fails(
        lambda: journey.go(max_workers=2),
        ObjectChangedError,
        "overwritten while it was read",
        "Try again when who writes it has ended",
    )
    assert [path.name for path in tmp_path.glob("target/*")] == there
    assert journey.target.exists() is bool(there)
    overwrite(archive)
    fault.retries(journey.go)


def test_an_object_that_is_overwritten_while_it_is_copied_is_noticed(
    proxy: ByteProxy, fault: FaultWatch
) -> None:
    """Between two stores, whose bytes go through the worker."""
    uri, target = f"s3://{fault.bucket}/k", f"s3://{fault.bucket}/copy"
    journey = FileJourney("down", fault, None)
    new = content(SIZE, seed=2)
    fault.watch("the object is overwritten while it is copied to another store", {target: new})

    def overwrite() -> None:
        (journey.source).write_bytes(new)
        parts = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)
        fault.client.upload_file(str(journey.source), fault.bucket, "k", Config=parts)

    proxy.at_byte("down", 10 * MIB, overwrite)

    def go() -> dict[str, Any]:
        return copy(uri, target, destination_conn_id="direct", max_workers=2)

    fault.fails(go, ObjectChangedError, "overwritten while it was read", "Try again when")
    fault.retries(go)


# ---- this machine ----


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("kind", "place", "what"),
    [
        (FileJourney, "k", ""),
        (TreeJourney, "k", ", which makes its directory"),
        (TreeJourney, "", " into a directory that is there"),
    ],
    ids=["file", "tree", "tree into a directory"],
)
def test_a_full_disk_leaves_what_a_retry_continues_or_nothing(
    kind: type[Journey], place: str, what: str, fault: FaultWatch, disk: Path
) -> None:
    text = f"the disk is full while {{it}} is {{said}}{what}"
    journey = kind("down", fault, text, 40 * MIB, target=disk / place)
    fault.fails(
        lambda: journey.go(max_workers=2),
        AllasError,
        "No space left on device",
        "Make room there",
        keeps=journey.kept["down"],
    )
    if not journey.continues():
        assert list(disk.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
    fault.retries(journey.go, continues=journey.continues())


@pytest.mark.parametrize("share", [0.2, 0.8])
@BOTH_WAYS
@BOTH_KINDS
def test_a_killed_transfer_is_continued(
    direction: Any, kind: type[Journey], share: float, proxy: ByteProxy, fault: FaultWatch
) -> None:
    text = f"the worker is killed (SIGKILL) when {share:.0%} of {{it}} are {{said}}"
    journey = kind(direction, fault, text)
    reached = threading.Event()
    proxy.at_byte(direction, int(share * SIZE), reached.set)
    with journey.to_be_killed():
        assert reached.wait(60)
    proxy.come_back()
    proxy.cut_all()
    fault.ends("nothing: its process is gone", keeps=journey.kept_by_killed[direction])
    # Eight parts may have been under way.
    is_clear = share > 0.5 or not journey.continues()
    fault.retries(journey.go, continues=journey.continues() if is_clear else None)


@BOTH_WAYS
@BOTH_KINDS
def test_a_kill_ends_the_transfer_and_leaves_no_upload(
    direction: Any, kind: type[Journey], proxy: ByteProxy, fault: FaultWatch
) -> None:
    journey = kind(direction, fault, "a user ends the task while {it} is {said}")
    task = journey.task(bytes_per_second=20 * MIB)
    proxy.at_byte(direction, SIZE // 3, threading.Thread(target=task.on_kill).start)
    began = proxy.passed[direction]
    fault.fails(
        lambda: unless_it_hangs(lambda: task.execute({})),
        TransferCancelledError,
        "The transfer was cancelled",
        keeps="nothing" if direction == "up" or not journey.continues() else "some",
    )
    # It has ended where it was, and not when all was carried.
    assert proxy.passed[direction] - began < SIZE
    proxy.come_back()
    fault.retries(journey.go, continues=None if journey.continues() else False)


def test_a_torn_journal_is_no_obstacle(proxy: ByteProxy, fault: FaultWatch, tmp_path: Path) -> None:
    journey = FileJourney(
        "down",
        fault,
        "the store goes away while a file is read, and the notes of what is there are torn",
        LARGE,
    )
    proxy.at_byte("down", 18 * MIB, proxy.go_away)
    fault.fails(
        lambda: journey.go(max_workers=1), AllasError, "broke off", "Try again", keeps="files"
    )
    proxy.come_back()
    (journal,) = tmp_path.glob(".airflow-*.done")
    with journal.open("ab") as file:
        file.write(b"\0\0\0\n7\n1 2\nnonsense and more\n2 52")
    fault.retries(journey.go, continues=True)


# ---- listings ----


@pytest.fixture
def listed(client: Any, bucket: str) -> list[str]:
    """Names of many objects below ``many/``, each of which holds its name."""
    names = [f"{number:06}" for number in range(LISTED)]

    def put(name: str) -> None:
        client.put_object(Bucket=bucket, Key=f"many/{name}", Body=name.encode())

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(put, names):
            pass
    return names


def test_a_listing_that_breaks_off_is_not_taken_for_whole(
    listed: list[str],
    proxy: ByteProxy,
    connect: Callable[..., str],
    fault: FaultWatch,
    tmp_path: Path,
) -> None:
    """Else ``delete_extra`` would delete what the rest of the listing names."""
    connect(extra={"endpoint_url": proxy.url, "config_kwargs": IMPATIENT})
    down = tmp_path / "down"
    down.mkdir()
    wanted = [name for name in listed if name.endswith("00")]
    last = wanted[-1]
    (down / last).write_bytes(last.encode())
    whole = {str(down / name): name.encode() for name in wanted if name != last}
    uri = f"s3://{fault.bucket}/many/"

    def go() -> dict[str, Any]:
        return fetch(uri, down, include=["*00"], delete_extra=True)

    # A listing says about 300 bytes of each object.
    half = LISTED * 150
    fault.watch(f"the store goes away in the middle of a listing of {LISTED:,} objects", whole)
    proxy.at_byte("down", half, proxy.go_away)
    fault.fails(go, AllasError, "/many/: ", "Try again")
    proxy.come_back()
    fault.retries(go)

    for name in whole:
        Path(name).unlink(missing_ok=True)
    fault.watch(f"the connection is cut in the middle of a listing of {LISTED:,} objects", whole)
    cut = proxy.add("cut", "down", half)
    fault.survives(go)
    assert cut.times == 0
    assert (down / last).read_bytes() == last.encode()
    assert len(list(down.iterdir())) == len(wanted)


def test_a_prefix_that_is_also_an_object_is_refused_before_anything_is_written(
    fault: FaultWatch, tmp_path: Path
) -> None:
    for key in ("p/a", "p/a/b"):
        fault.client.put_object(Bucket=fault.bucket, Key=key, Body=b"x")
    uri, down = f"s3://{fault.bucket}/p/", tmp_path / "p"
    fault.watch("a prefix that is also an object", {str(down / "a"): b"x"})
    fault.fails(
        lambda: fetch(uri, down),
        AirflowFailException,
        "no file can be a directory",
        "Exclude one of them",
    )
    assert not down.exists()
    fault.retries(lambda: fetch(uri, down, exclude=["/a/"]))


@pytest.mark.parametrize(
    ("what", "info", "pattern", "words"),
    [
        ("named '../outside'", member("../outside"), "../*", ("would lie outside",)),
        ("named '/outside'", member("/outside"), "outside", ("would lie outside",)),
        (
            "that is a link to '../..'",
            member("link", tarfile.SYMTYPE, "../.."),
            "link",
            ("is a symbolic link to '../..'", "may lie outside"),
        ),
        ("that is a device", member("null", tarfile.CHRTYPE), "null", ("is a device or a pipe",)),
    ],
    ids=["upwards", "absolute", "link", "device"],
)
def test_an_archive_that_would_leave_its_directory_is_not_unpacked(
    what: str,
    info: tarfile.TarInfo,
    pattern: str,
    words: tuple[str, ...],
    fault: FaultWatch,
    tmp_path: Path,
) -> None:
    uri, target = f"s3://{fault.bucket}/k.tar", tmp_path / "target"
    archive = archive_of(member("good"), info)
    fault.client.put_object(Bucket=fault.bucket, Key="k.tar", Body=archive)
    fault.watch(
        f"an archive with a member {what} is unpacked",
        {str(target / "good"): b""},
        size=len(archive),
        is_one=True,
    )
    fault.fails(
        lambda: unpack(uri, target), AllasError, *words, "Exclude it", "Nothing was written"
    )
    assert list(tmp_path.iterdir()) == []
    fault.retries(lambda: unpack(uri, target, exclude=[pattern]))
