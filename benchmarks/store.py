"""An object store of the benchmark's own, with room for what is measured."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.site import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIR = Path("/var/lib/csc-bench-store")
_SETTINGS = {
    "CLUSTER_DIR": str(_DIR),
    "CLUSTER_PORT_OFFSET": "3000",
    "CLUSTER_MEMSTORE_BYTES": str(12 * 1024**3),
    "CLUSTER_GC_SECONDS": "2",
}
_PATIENCE = 180.0


@dataclass(frozen=True, slots=True)
class BenchStore:
    """Where it is, and the keys of one project."""

    facts: dict[str, Any]

    @property
    def url(self) -> str:
        """Return the endpoint."""
        return str(self.facts["s3_endpoint_url"])

    def client(self) -> Any:
        """Return a client of boto3 as anybody makes it, but for what Ceph cannot do."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.facts["s3_access_key"],
            aws_secret_access_key=self.facts["s3_secret_key"],
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def connection(self) -> str:
        """Return it as a connection of Airflow, for ours and for the Amazon provider's hook."""
        return json.dumps(
            {
                "conn_type": "aws",
                "login": self.facts["s3_access_key"],
                "password": self.facts["s3_secret_key"],
                "extra": {
                    "endpoint_url": self.url,
                    "region_name": "us-east-1",
                    "config_kwargs": {
                        "s3": {"addressing_style": "path"},
                        "request_checksum_calculation": "when_required",
                        "response_checksum_validation": "when_required",
                    },
                },
            }
        )

    @contextmanager
    def bucket(self, name: str) -> Iterator[str]:
        """Make a bucket; at its end all in it is deleted, and its room is waited for."""
        client = self.client()
        client.create_bucket(Bucket=name)
        try:
            yield name
        finally:
            self.empty(name)
            client.delete_bucket(Bucket=name)

    def empty(self, name: str) -> None:
        """Delete what is in a bucket, and wait until the store has the room back."""
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            found = [{"Key": each["Key"]} for each in page.get("Contents", ())]
            if found:
                client.delete_objects(Bucket=name, Delete={"Objects": found})
        end = time.monotonic() + _PATIENCE
        while self.used() > 1024**3:
            if time.monotonic() > end:
                raise RuntimeError(f"the store still holds {self.used():,} bytes of what is gone")
            time.sleep(2)

    def used(self) -> int:
        """Return how many bytes the store holds."""
        command = ["ceph", "-c", str(_DIR / "etc" / "ceph.conf"), "df", "--format=json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout)["stats"]["total_used_raw_bytes"])


@contextmanager
def bench_store() -> Iterator[BenchStore]:
    """Start a store, and take it down."""
    _control("up")
    try:
        yield BenchStore(json.loads((_DIR / "cluster.json").read_text()))
    finally:
        _control("wipe")


def _control(command: str) -> None:
    done = subprocess.run(
        [str(CHECKOUT / "docker" / "cluster"), command],
        env={**os.environ, **_SETTINGS},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"docker/cluster {command}: {done.stdout}{done.stderr}")
