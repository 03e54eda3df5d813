"""
Our writers of one record: ``python -m benchmarks.record_writers``.

The plan is JSON on standard input, for keys of the store are no arguments. The counterpart is
`benchmarks.peers.redis_lock`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import boto3  # noqa: TID253 - a program of its own
from botocore.config import Config  # noqa: TID253

from airflow_provider_csc.allas.connection import build_client_config
from airflow_provider_csc.hooks.allas import RECORD_CONFIG
from airflow_provider_csc.store.change import change
from airflow_provider_csc.store.effort import read
from airflow_provider_csc.store.target import Options, Target
from benchmarks.forked import run_forked, timed_steps


def main(plan: dict[str, Any]) -> None:
    """Print the times, and what is stored at the end."""

    def connect(number: int) -> Target:
        settings: dict[str, Any] = build_client_config("path")
        client = boto3.client(
            "s3",
            endpoint_url=plan["endpoint_url"],
            region_name="us-east-1",
            aws_access_key_id=plan["access_key"],
            aws_secret_access_key=plan["secret_key"],
            config=Config(**settings).merge(RECORD_CONFIG),
        )
        return Target(
            client=client,
            bucket=plan["bucket"],
            key=plan["key"],
            writer=f"writer {number}",
            options=Options(timeout_seconds=600),
        )

    def prepare(number: int) -> Target:
        target = connect(number)
        read(target)  # opens the connection, as the peer's writers do
        return target

    def work(target: Target) -> list[float]:
        return timed_steps(plan["updates"], lambda: change(target, add_one))

    done = run_forked(plan["writers"], prepare, work)
    value = read(connect(0)).snapshot.value
    print(json.dumps({**done, "count": value["n"]}))


def add_one(present: Any) -> dict[str, int]:
    """Return the next value."""
    return {"n": (present.snapshot.value or {"n": 0})["n"] + 1}


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()))
