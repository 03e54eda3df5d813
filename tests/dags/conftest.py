"""A real Airflow of the tests' own: its processes, its database, connections to the cluster."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from docker.lib.airflow_rest import Airflow

if TYPE_CHECKING:
    from collections.abc import Iterator

CLUSTER_JSON = Path(os.environ.get("CLUSTER_DIR", "/var/lib/csc-cluster")) / "cluster.json"
CHECKOUT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ENVIRONMENT = {
    # The files do not change; ten of them, parsed every ten seconds, take half a processor.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
    # For how long Airflow leaves a dead triggerer its triggers.
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "5",
    # This checkout, not an installed package.
    "PYTHONPATH": str(CHECKOUT),
}


@pytest.fixture(scope="session")
def cluster() -> dict[str, Any]:
    """The running cluster as docker/cluster describes it; a missing one is a failure."""
    if not CLUSTER_JSON.exists():
        pytest.fail(f"No cluster is described in {CLUSTER_JSON}. Start it with: make cluster-up")
    description: dict[str, Any] = json.loads(CLUSTER_JSON.read_text())
    return description


@pytest.fixture(scope="session")
def store(cluster: dict[str, Any]) -> Any:
    """The object store, asked without the provider."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=cluster["s3_endpoint_url"],
        region_name=cluster["s3_region"],
        aws_access_key_id=cluster["s3_access_key"],
        aws_secret_access_key=cluster["s3_secret_key"],
        config=Config(s3={"addressing_style": "path"}),
    )


@pytest.fixture(scope="module")
def bucket(store: Any) -> Iterator[str]:
    """A bucket of the module's own, gone afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    store.create_bucket(Bucket=name)
    yield name
    for row in store.list_objects_v2(Bucket=name).get("Contents", ()):
        store.delete_object(Bucket=name, Key=row["Key"])
    store.delete_bucket(Bucket=name)


@pytest.fixture(scope="session")
def settings(
    cluster: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Airflow's API server, scheduler, DAG processor and triggerer, with the DAGs of most tests."""
    dags = tmp_path_factory.mktemp("dags")
    for folder in (CHECKOUT / "example_dags", HERE / "cost_dags", HERE / "kill_dags"):
        shutil.copytree(folder, dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__*"))
    environment = {
        "AIRFLOW__CSC__SITES_FOLDER": os.pathsep.join(
            (str(HERE / "sites"), cluster["sites_folder"])
        ),
        # Airflow may end a try by itself; test_no_try_fails_of_itself looks at each.
        "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "1",
    }
    with running_airflow(environment, AIRFLOW_DAGS=str(dags)) as settings:
        yield settings


@pytest.fixture(scope="session")
def airflow(settings: dict[str, str]) -> Airflow:
    return described(settings)


@contextmanager
def running_airflow(
    environment: dict[str, str] | None = None, **more: str
) -> Iterator[dict[str, str]]:
    """
    Run an Airflow of its own, and yield what docker/airflow needs to know of it.

    ``environment`` is for its services, ``more`` for docker/airflow itself.

    Its database is PostgreSQL. SQLite locks no rows: there the scheduler ends when a DAG run it
    looks at is deleted meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="airflow-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o755)  # the database has a user of its own
        settings = {
            "DEMO_DIR": home,
            "AIRFLOW_PORT": str(free_port()),
            "AIRFLOW_LOG_PORT": str(free_port()),
            "AIRFLOW_DATABASE": "postgresql",
            "AIRFLOW_DATABASE_PORT": str(free_port()),
            "AIRFLOW_VENV": sys.prefix,
            "AIRFLOW_POLL_FLOOR": "1",
            "AIRFLOW_ENVIRONMENT": " ".join(
                f"{name}={value}" for name, value in {**ENVIRONMENT, **(environment or {})}.items()
            ),
            **more,
        }
        try:
            control(settings, "up")
            yield settings
            wait_until_healthy(settings)
        finally:
            control(settings, "down")


def described(settings: dict[str, str]) -> Airflow:
    return Airflow(Path(settings["DEMO_DIR"]) / "airflow.json")


def wait_until_healthy(settings: dict[str, str]) -> None:
    """Look several times: on a busy machine a heartbeat may be late, but what is dead stays dead."""
    for _ in range(10):
        if ask(settings, "status").returncode == 0:
            return
        time.sleep(3)
    control(settings, "status")


def control(settings: dict[str, str], *command: str) -> None:
    done = ask(settings, *command)
    if done.returncode != 0:
        pytest.fail(f"docker/airflow {' '.join(command)} failed:\n{done.stdout}")


def ask(settings: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CHECKOUT / "docker/airflow", *command],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
