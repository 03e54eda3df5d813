"""A real Airflow keeps its task logs in the object store, and shows them from there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dags.conftest import CHECKOUT, described, running_airflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.lib.airflow_rest import DagRun

pytestmark = pytest.mark.cluster

RUN_SECONDS = 180


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, bucket: str) -> Iterator[dict[str, str]]:
    dags = tmp_path_factory.mktemp("log-dags")
    shutil.copy(CHECKOUT / "example_dags/hello_slurm.py", dags)
    environment = {
        "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
        "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": f"s3://{bucket}/logs",
        "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": "allas_default",
        "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": "airflow_provider_csc.log_config.LOGGING_CONFIG",
    }
    with running_airflow(environment, AIRFLOW_DAGS=str(dags)) as settings:
        yield settings


@pytest.fixture(scope="module")
def run(settings: dict[str, str]) -> DagRun:
    """A run of hello_slurm that has ended."""
    airflow = described(settings)
    airflow.wait_for_dag("hello_slurm")
    run = airflow.trigger("hello_slurm")
    end = time.monotonic() + RUN_SECONDS
    while run.state() not in ("success", "failed"):
        assert time.monotonic() < end, run.tasks()
        time.sleep(1)
    assert run.state() == "success", run.log("hello")
    return run


def objects_of(store: Any, bucket: str, run: DagRun) -> dict[str, str]:
    """Return the run's logs as the store has them."""
    rows = store.list_objects_v2(Bucket=bucket, Prefix="logs/").get("Contents", ())
    keys = [row["Key"] for row in rows if run.run_id in row["Key"]]
    return {key: store.get_object(Bucket=bucket, Key=key)["Body"].read().decode() for key in keys}


def test_what_worker_and_triggerer_logged_is_in_the_store(
    run: DagRun, store: Any, bucket: str
) -> None:
    objects = objects_of(store, bucket, run)
    by_worker = [text for key, text in objects.items() if key.endswith("attempt=1.log")]
    by_triggerer = [text for key, text in objects.items() if ".trigger." in key]
    assert any("SlurmSubmitOperator" in text or "Submitted" in text for text in by_worker), objects
    assert any("Hello from" in text for text in by_triggerer), objects


def test_the_page_shows_the_log_when_the_local_files_are_gone(
    run: DagRun, settings: dict[str, str]
) -> None:
    shutil.rmtree(Path(settings["DEMO_DIR"]) / "logs")
    lines = [line["event"] for line in run.log("hello")]
    assert any("Hello from" in line for line in lines), lines
