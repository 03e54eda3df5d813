"""The watcher of objects on a real Ceph RGW: conditional writes, and kills at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import ObjectChangedError, StoreRefusedError
from airflow_provider_csc.hooks._object_store import open_store
from airflow_provider_csc.triggers.allas import AllasObjectsTrigger

if TYPE_CHECKING:
    from airflow_provider_csc.allas.cursor import ObjectsEvent
    from airflow_provider_csc.hooks.allas import AllasHook

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).parents[2]
KILLS = 8


@pytest.fixture
def bucket(allas_hook: AllasHook) -> str:
    return str(allas_hook.service_config["bucket_name"])


@pytest.fixture
def prefix(bucket: str) -> str:
    return f"{uuid.uuid4().hex[:8]}/"


def test_an_object_is_replaced_only_as_it_was_read(bucket: str, prefix: str) -> None:
    """RGW 16.2 honours both conditions, and If-Match without quotes only."""
    store, _bucket = open_store("allas_default", None)
    key = f"{prefix}cursor"

    async def write() -> None:
        first = await store.replace(bucket, key, b"1", etag=None)
        with pytest.raises(ObjectChangedError):
            await store.replace(bucket, key, b"2", etag=None)
        second = await store.replace(bucket, key, b"2", etag=first)
        with pytest.raises(ObjectChangedError):
            await store.replace(bucket, key, b"3", etag=first)
        document = await store.read(bucket, key)
        assert document is not None
        assert (document.data, document.etag) == (b"2", second)
        with pytest.raises(ObjectChangedError):
            await store.replace(bucket, f"{prefix}gone", b"1", etag=first)
        assert await store.read(bucket, f"{prefix}gone") is None
        assert await store.read_metadata(bucket, f"{prefix}gone") is None

    asyncio.run(write())


def test_of_many_who_replace_an_object_at_once_one_does(bucket: str, prefix: str) -> None:
    store, _bucket = open_store("allas_default", None)
    key = f"{prefix}cursor"

    async def race() -> list[object]:
        first = await store.replace(bucket, key, b"0", etag=None)
        return await asyncio.gather(
            *(store.replace(bucket, key, f"{n}".encode(), etag=first) for n in range(1, 17)),
            return_exceptions=True,
        )

    results = asyncio.run(race())
    assert len([each for each in results if isinstance(each, str)]) == 1
    assert len([each for each in results if isinstance(each, ObjectChangedError)]) == 15


def test_a_bucket_of_somebody_else_and_none_are_refused(bucket: str) -> None:
    store, _bucket = open_store("allas_default", None)
    with pytest.raises(StoreRefusedError, match="NoSuchBucket"):
        asyncio.run(store.list_page(f"absent-{uuid.uuid4().hex}", ""))


def watch(hook: AllasHook, trigger: AllasObjectsTrigger) -> list[ObjectsEvent]:
    """Run a trigger until one event is told, stored, and noted as such."""
    cursor = f".airflow-csc/cursors/{trigger.cursor}.json"

    async def is_noted() -> bool:
        return json.loads(await asyncio.to_thread(hook.read_key, cursor))["pending"] is None

    async def follow(told: list[ObjectsEvent]) -> None:
        watched = trigger.build_watch()
        async with aclosing(watched.events()) as events:
            async for event in events:
                told.append(event)
                watched.confirm(event["id"])

    async def run() -> list[ObjectsEvent]:
        told: list[ObjectsEvent] = []
        following = asyncio.ensure_future(follow(told))
        while not (told and await is_noted()):
            await asyncio.sleep(0.1)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        return told

    return asyncio.run(run())


def test_new_and_changed_objects_are_told_with_their_metadata(
    allas_hook: AllasHook, bucket: str, prefix: str
) -> None:
    hook = allas_hook
    client = hook.get_conn()
    hook.load_string("x", f"{prefix}old.csv")
    arguments = {"poll_interval": 0.5, "metadata": True, "cursor": prefix[:-1]}
    trigger = AllasObjectsTrigger(f"s3://{bucket}/{prefix}*.csv", **arguments)

    async def baseline() -> None:
        events = trigger.build_watch().events()
        waiting = asyncio.ensure_future(anext(events))
        while not await asyncio.to_thread(
            hook.check_for_key, f".airflow-csc/cursors/{prefix[:-1]}.json"
        ):
            await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()

    asyncio.run(baseline())
    client.put_object(
        Bucket=bucket, Key=f"{prefix}å b.csv", Body=b"12", Metadata={"station": "Kumpula"}
    )
    hook.load_string("y", f"{prefix}old.csv", replace=True)
    hook.load_string("y", f"{prefix}other.txt")
    (event,) = watch(allas_hook, trigger)
    assert event["watched"] == f"s3://{bucket}/{prefix}*.csv"
    assert event["id"] == f"{prefix[:-1]}-1"
    by_key = {each["key"]: each for each in event["objects"]}
    assert set(by_key) == {f"{prefix}å b.csv", f"{prefix}old.csv"}
    assert by_key[f"{prefix}å b.csv"]["metadata"] == {"station": "Kumpula"}
    assert by_key[f"{prefix}å b.csv"]["size"] == 2
    assert by_key[f"{prefix}å b.csv"]["uri"] == f"s3://{bucket}/{prefix}å b.csv"
    assert [by_key[f"{prefix}{name}"]["change"] for name in ("å b.csv", "old.csv")] == [
        "new",
        "changed",
    ]
    # A restart goes on: the next event has the next number and brings what is newer.
    hook.load_string("z", f"{prefix}c.csv")
    (event,) = watch(allas_hook, trigger)
    assert event["id"] == f"{prefix[:-1]}-2"
    assert [each["key"] for each in event["objects"]] == [f"{prefix}c.csv"]


def test_an_object_uploaded_in_parts_is_told_when_it_is_whole(
    allas_hook: AllasHook, bucket: str, prefix: str
) -> None:
    client = allas_hook.get_conn()
    key = f"{prefix}large.bin"
    trigger = AllasObjectsTrigger(
        f"s3://{bucket}/{prefix}*", poll_interval=0.5, cursor=prefix[:-1], include_existing=True
    )
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    part = client.upload_part(
        Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 5 * 1024**2
    )
    client.put_object(Bucket=bucket, Key=f"{prefix}small", Body=b"x")
    (event,) = watch(allas_hook, trigger)
    assert [each["key"] for each in event["objects"]] == [f"{prefix}small"]
    client.complete_multipart_upload(
        Bucket=bucket,
        Key=key,
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    (event,) = watch(allas_hook, trigger)
    assert [(each["key"], each["size"]) for each in event["objects"]] == [(key, 5 * 1024**2)]


def test_killed_at_any_moment_it_leaves_nothing_out_and_marks_what_it_repeats(
    cluster: dict[str, Any], allas_hook: AllasHook, bucket: str, prefix: str, tmp_path: Path
) -> None:
    """SIGKILL, again and again, while somebody writes; the events' file is the database."""
    settings = {
        "endpoint_url": cluster["s3_endpoint_url"],
        "access_key": cluster["s3_access_key"],
        "secret_key": cluster["s3_secret_key"],
        "bucket": bucket,
        "pattern": f"{prefix}*",
        "cursor": f".airflow-csc/cursors/{prefix[:-1]}.json",
    }
    events_file = tmp_path / "events"
    events_file.touch()
    client, chance = allas_hook.get_conn(), random.Random(11)
    written: list[tuple[str, str]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.run_watch", json.dumps(settings), events_file],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    def write(key: str) -> None:
        answer = client.put_object(Bucket=bucket, Key=f"{prefix}{key}", Body=os.urandom(8))
        written.append((f"{prefix}{key}", answer["ETag"].strip('"')))

    process = start()
    while not allas_hook.check_for_key(settings["cursor"]):
        time.sleep(0.05)
    try:
        for kill in range(KILLS):
            for number in range(chance.randrange(2, 6)):
                write(f"{kill:02}-{number}")
            time.sleep(chance.uniform(0, 1.2))
            process.kill()
            process.communicate()
            process = start()
        write("last")
        while f'{prefix}last"' not in events_file.read_text():
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()
    events = [json.loads(line) for line in events_file.read_text().splitlines()]
    kept, seen = [], set()
    for event in events:
        if not (event["is_repeat"] and event["id"] in seen):
            kept += [(each["key"], each["etag"]) for each in event["objects"]]
        seen.add(event["id"])
    assert Counter(kept) == Counter(written)
    repeats = [event for event in events if event["is_repeat"]]
    print(f"\n{len(written)} objects, {KILLS} kills, {len(events)} events, {len(repeats)} repeats")
