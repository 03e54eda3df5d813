"""A real Airflow of the tests' own: its processes, its database, connections to the cluster."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from docker.lib.airflow_rest import Airflow

if TYPE_CHECKING:
    from collections.abc import Iterator

CLUSTER_JSON = Path(os.environ.get("CLUSTER_DIR", "/var/lib/csc-cluster")) / "cluster.json"
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster() -> dict[str, Any]:
    """The running cluster as docker/cluster describes it; a missing one is a failure."""
    if not CLUSTER_JSON.exists():
        pytest.fail(f"No cluster is described in {CLUSTER_JSON}. Start it with: make cluster-up")
    description: dict[str, Any] = json.loads(CLUSTER_JSON.read_text())
    return description


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Airflow's API server, scheduler, DAG processor and triggerer, with the example DAGs."""
    home = tmp_path_factory.mktemp("airflow")
    settings = {
        "DEMO_DIR": str(home),
        "AIRFLOW_PORT": str(free_port()),
        "AIRFLOW_LOG_PORT": str(free_port()),
        "AIRFLOW_VENV": sys.prefix,
        "AIRFLOW_POLL_FLOOR": "1",
    }
    try:
        control("up", settings)
        yield Airflow(home / "airflow.json")
    finally:
        control("down", settings)


def control(command: str, settings: dict[str, str]) -> None:
    done = subprocess.run(
        [CHECKOUT / "docker/airflow", command],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"docker/airflow {command} failed:\n{done.stdout}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
