"""What tests of the real cluster share: where it is and whom to log in as."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from airflow_provider_csc.allas import parts
from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.store import download, engine, unpack, upload
from tests.support.bad_input import build_connection
from tests.support.byte_proxy import ByteProxy
from tests.support.fault_table import FaultWatch
from tests.support.own_servers import OwnGateway
from tests.support.rgw import RgwUser, address_of, rgw_user, unfinished
from tests.support.transfers import MIB, PART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEFAULT_DIR = "/var/lib/csc-cluster"
# So that small requests to a store that is away are not repeated for ten seconds.
IMPATIENT = {"retries": {"total_max_attempts": 2}}


@pytest.fixture(scope="session")
def cluster() -> dict[str, Any]:
    """The running cluster as docker/cluster describes it; a missing one is a failure."""
    path = Path(os.environ.get("CLUSTER_DIR", DEFAULT_DIR)) / "cluster.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        pytest.fail(f"No cluster is described in {path}. Start it with: make cluster-up")
    return description


@pytest.fixture(scope="module")
def allas_hook(cluster: dict[str, Any]) -> Iterator[AllasHook]:
    """``allas_default``, whose default bucket is of this module's own, and gone afterwards."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    described = {
        "conn_type": "allas",
        "login": cluster["s3_access_key"],
        "password": cluster["s3_secret_key"],
        "extra": {"endpoint_url": cluster["s3_endpoint_url"], "bucket_name": bucket},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_ALLAS_DEFAULT", json.dumps(described))
        hook = AllasHook()
        hook.create_bucket(bucket)
        yield hook
        hook.delete_bucket(bucket, force_delete=True)


# Of transfers.


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transfers cut what is larger than 5 MiB into parts, and soon try again."""
    for module in (parts, download):
        monkeypatch.setattr(module, "PART_BYTES", PART)
    monkeypatch.setattr(upload, "SINGLE_BYTES", PART)
    monkeypatch.setattr(unpack, "_SPAN_BYTES", MIB)
    monkeypatch.setattr(engine, "_LONGEST_PAUSE", 1.0)


@pytest.fixture
def connect(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Define connections to the store; ``allas_default`` is there already."""

    def define(conn_id: str = "allas_default", url: str | None = None, **changes: Any) -> str:
        described = {
            "conn_type": "allas",
            "login": cluster["s3_access_key"],
            "password": cluster["s3_secret_key"],
            "extra": {"endpoint_url": url or cluster["s3_endpoint_url"]},
            **changes,
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(described))
        return conn_id

    define()
    return define


@pytest.fixture
def client(connect: Callable[..., str]) -> Any:
    """boto3's client of the connection ``direct``."""
    return AllasHook(connect("direct")).get_conn()


@pytest.fixture
def bucket(client: Any) -> Iterator[str]:
    """A bucket of the test's own, gone afterwards with all that is in it."""
    name = f"transfer-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    yield name
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        if found := [{"Key": each["Key"]} for each in page.get("Contents", ())]:
            client.delete_objects(Bucket=name, Delete={"Objects": found, "Quiet": True})
    for left in unfinished(client, name):
        client.abort_multipart_upload(Bucket=name, Key=left["Key"], UploadId=left["UploadId"])
    client.delete_bucket(Bucket=name)


@pytest.fixture
def proxy(cluster: dict[str, Any], connect: Callable[..., str]) -> Iterator[ByteProxy]:
    """The way to the store, which ``allas_default`` takes; `direct` does not."""
    with ByteProxy(address_of(cluster)) as between:
        connect(url=between.url)
        yield between


@pytest.fixture
def fault(client: Any, bucket: str, tmp_path: Path) -> Iterator[FaultWatch]:
    """Who looks at what a fault leaves, and nothing may be left at the end."""
    rows = os.environ.get("FAULT_ROWS")
    watch = FaultWatch(
        client=client, bucket=bucket, directory=tmp_path, rows=Path(rows) if rows else None
    )
    yield watch
    watch.check_nothing_is_left()


@pytest.fixture
def user(cluster: dict[str, Any]) -> Iterator[RgwUser]:
    """A user of the test's own, whose keys and limits it may change."""
    with rgw_user(cluster) as user:
        yield user


@pytest.fixture
def gateway(
    cluster: dict[str, Any],
    connect: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OwnGateway]:
    """What ``allas_default`` reaches, and only this test; small requests are soon given up."""
    with OwnGateway(cluster, tmp_path_factory.mktemp("gateway") / "log") as gateway:
        connect(extra={"endpoint_url": gateway.url, "config_kwargs": IMPATIENT})
        yield gateway


# Of Slurm.


@pytest.fixture
def slurm_connection(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> SlurmConnection:
    """``slurm_default`` as alice's connection to the cluster; `SlurmConnection.set` changes it."""
    connection = SlurmConnection(cluster, monkeypatch)
    connection.set()
    return connection


class SlurmConnection:
    """A Slurm connection in the environment, where Airflow looks for one."""

    def __init__(self, cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self._cluster, self._monkeypatch = cluster, monkeypatch

    def set(
        self, *, conn_id: str = "slurm_default", user: str = "alice", **changes: Any
    ) -> dict[str, Any]:
        """Define it; keys of ``changes`` are fields, or extras where they are no field."""
        connection = build_connection(self._cluster, user=user, **changes)
        self._monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
        return connection


@pytest.fixture
def task_log() -> Iterator[list[str]]:
    """What operators and triggers log during the test, line by line, in order."""
    with structlog.testing.capture_logs() as records:
        yield _Messages(records)


class _Messages(list[str]):
    """The messages of records that are still being written; read when looked at."""

    def __init__(self, records: list[Any]) -> None:
        super().__init__()
        self._records = records

    def __iter__(self) -> Iterator[str]:
        for record in self._records:
            event, arguments = str(record["event"]), record.get("positional_args", ())
            yield event % arguments if arguments else event

    def __contains__(self, message: object) -> bool:
        return message in list(iter(self))

    def count(self, value: str) -> int:
        return list(iter(self)).count(value)
