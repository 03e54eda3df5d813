"""
Writers that take turns by a lock in Redis: ``python -m benchmarks.peers.redis_lock``.

The plan is JSON on standard input, for keys of the store are no arguments. The lock is redis-py's
own ``Lock``. ``place`` says where the value is: "object", in the object store, read and written with
boto3, or "redis", in Redis itself. ``look`` is how often (seconds) who waits looks at the lock, None
for redis-py's default of 0.1 s.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import boto3  # noqa: TID253 - a program of its own
import redis
from botocore.config import Config  # noqa: TID253
from botocore.exceptions import ClientError  # noqa: TID253

from benchmarks.forked import run_forked, timed_steps

_LOCK_SECONDS = 30


class Writer:
    """One process's connections."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._redis = redis.Redis(unix_socket_path=plan["socket"])
        self._client = boto3.client(
            "s3",
            endpoint_url=plan["endpoint_url"],
            region_name="us-east-1",
            aws_access_key_id=plan["access_key"],
            aws_secret_access_key=plan["secret_key"],
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        look = {} if plan["look"] is None else {"sleep": plan["look"]}
        self._lock = self._redis.lock(f"lock:{plan['key']}", timeout=_LOCK_SECONDS, **look)

    def read(self) -> int:
        """Return the present value."""
        if self._plan["place"] == "redis":
            return int(json.loads(self._redis.get(self._plan["key"]) or b'{"n": 0}')["n"])
        try:
            found = self._client.get_object(Bucket=self._plan["bucket"], Key=self._plan["key"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            return 0
        return int(json.loads(found["Body"].read())["n"])

    def add_one(self) -> None:
        """Change the record while the lock is held."""
        with self._lock:
            body = json.dumps({"n": self.read() + 1})
            if self._plan["place"] == "redis":
                self._redis.set(self._plan["key"], body)
                return
            self._client.put_object(Bucket=self._plan["bucket"], Key=self._plan["key"], Body=body)


def main(plan: dict[str, Any]) -> None:
    """Print the times, and what is stored at the end."""

    def prepare(_number: int) -> Writer:
        writer = Writer(plan)
        writer.read()
        return writer

    def work(writer: Writer) -> list[float]:
        return timed_steps(plan["updates"], writer.add_one)

    done = run_forked(plan["writers"], prepare, work)
    print(json.dumps({**done, "count": Writer(plan).read()}))


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()))
