"""What tests of the real cluster share: where it is and whom to log in as."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tests.support.bad_input import build_connection

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_DIR = "/var/lib/csc-cluster"


@pytest.fixture(scope="session")
def cluster() -> dict[str, Any]:
    """The running cluster as docker/cluster describes it; a missing one is a failure."""
    path = Path(os.environ.get("CLUSTER_DIR", DEFAULT_DIR)) / "cluster.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        pytest.fail(f"No cluster is described in {path}. Start it with: make cluster-up")
    return description


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
