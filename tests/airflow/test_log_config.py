"""Task logs go to Allas where Airflow's settings name our logging configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CONNECTION = {
    "conn_type": "allas",
    "login": "AKEY",
    "password": "SKEY",
    "extra": {"endpoint": "custom", "endpoint_url": "https://store.example:7480"},
}
SETTINGS = {
    "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": "airflow_provider_csc.log_config.LOGGING_CONFIG",
    "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
    "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": "s3://some-bucket/logs",
    "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": "",
    "AIRFLOW__LOGGING__DELETE_LOCAL_LOGS": "True",
    "AIRFLOW_CONN_ALLAS_DEFAULT": json.dumps(CONNECTION),
}
LOOK = """
import json
from airflow.sdk.log import load_remote_conn_id, load_remote_log_handler
log = load_remote_log_handler()
found = {"class": type(log).__name__, "conn_id": load_remote_conn_id()}
if log is not None:
    client = log.hook.get_conn()
    config = client.meta.config
    found |= {
        "base": log.remote_base,
        "delete": log.delete_local_copy,
        "url": client.meta.endpoint_url,
        "checksums": config.request_checksum_calculation,
        "style": config.s3["addressing_style"],
    }
print("\\n" + json.dumps(found))
"""


def look(**settings: str) -> dict[str, object]:
    """Ask a process of its own, as Airflow's are; it reads its settings once."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**os.environ, **SETTINGS, **settings},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_logs_are_stored_with_the_connection_of_allas_and_the_settings_ceph_needs() -> None:
    assert look() == {
        "class": "AllasRemoteLogIO",
        "conn_id": "allas_default",
        "base": "s3://some-bucket/logs",
        "delete": True,
        "url": "https://store.example:7480",
        "checksums": "when_required",
        "style": "path",
    }


def test_another_connection_can_be_named() -> None:
    other = {
        **CONNECTION,
        "extra": {"endpoint": "custom", "endpoint_url": "https://other.example"},
    }
    found = look(
        AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID="logs_in_allas",
        AIRFLOW_CONN_LOGS_IN_ALLAS=json.dumps(other),
    )
    assert (found["conn_id"], found["url"]) == ("logs_in_allas", "https://other.example")


def test_without_remote_logging_logs_stay_where_they_are() -> None:
    assert look(AIRFLOW__LOGGING__REMOTE_LOGGING="False")["class"] == "NoneType"
