"""
Run a watch as a process of its own, so that it can be killed.

usage: run_watch.py SETTINGS_JSON EVENTS_FILE; says "up" when it begins. Each event is appended to
the file, which stands for Airflow's database, some time after it was told, and confirmed some time
after that.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from airflow_provider_csc.allas.connection import build_client_config
from airflow_provider_csc.allas.names import ObjectName
from airflow_provider_csc.allas.objects import KeyPattern
from airflow_provider_csc.client.object_watch import ObjectWatch, WatchSpec
from airflow_provider_csc.transport.object_store import S3Store


class PrintedLog:
    def log(self, _level: int, message: str, /, *args: object) -> None:
        print(message % args, file=sys.stderr)


async def run(settings: dict[str, Any], events_file: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=settings["endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id=settings["access_key"],
        aws_secret_access_key=settings["secret_key"],
        config=Config(**build_client_config("path")),
    )
    spec = WatchSpec(
        bucket=settings["bucket"],
        pattern=KeyPattern(settings["pattern"]),
        cursor=ObjectName(settings["bucket"], settings["cursor"]),
        interval=0.1,
        batch_size=3,
        with_metadata=True,
    )
    store = S3Store(client, "test")

    async def connect() -> tuple[S3Store, WatchSpec]:
        return store, spec

    print("up", flush=True)
    watch = ObjectWatch(connect, PrintedLog(), interval=0.1)
    async with aclosing(watch.events()) as events:
        async for event in events:
            await asyncio.sleep(random.uniform(0, 0.1))
            with events_file.open("a") as file:
                file.write(json.dumps(event) + "\n")
                file.flush()
                os.fsync(file.fileno())
            await asyncio.sleep(random.uniform(0, 0.1))
            watch.confirm(event["id"])


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1]), Path(sys.argv[2])))
