"""The object store that is measured with: that of the cluster, or one that is started beside it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3  # noqa: TID253 - its own client, beside what is measured
from botocore.config import Config  # noqa: TID253

from benchmarks.site import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.site import Site

_SERVICES = ("radosgw", "ceph-osd", "ceph-mgr", "ceph-mon")


@contextmanager
def object_store(site: Site) -> Iterator[dict[str, Any]]:
    """
    Yield the facts of a cluster with Ceph.

    The benchmark's own has none while other parts are measured; it is started here and stopped.
    """
    if "radosgw" in site.facts["services"]:
        yield site.facts
        return
    directory = Path(site.facts["cluster_dir"])
    _control(directory, "up", CLUSTER_CEPH="yes")
    try:
        yield json.loads((directory / "cluster.json").read_text())
    finally:
        for service in _SERVICES:
            _control(directory, "stop", service)


@contextmanager
def bucket(facts: dict[str, Any]) -> Iterator[str]:
    """Make a bucket, and remove it with what is in it."""
    client = boto3.client(
        "s3",
        endpoint_url=facts["s3_endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id=facts["s3_access_key"],
        aws_secret_access_key=facts["s3_secret_key"],
        config=Config(s3={"addressing_style": "path"}),
    )
    name = f"bench-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    try:
        yield name
    finally:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for row in page.get("Contents", []):
                client.delete_object(Bucket=name, Key=row["Key"])
        client.delete_bucket(Bucket=name)


def _control(directory: Path, *words: str, **settings: str) -> None:
    done = subprocess.run(
        [str(CHECKOUT / "docker" / "cluster"), *words],
        env={**os.environ, **settings, "CLUSTER_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"docker/cluster {' '.join(words)}: {done.stdout}{done.stderr}")
