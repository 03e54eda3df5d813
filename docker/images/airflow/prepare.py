"""
Make ready what Airflow's services need: the metadata database, the connections, a bucket for logs.

Run once before they start, and again after an upgrade; changes nothing that is there already, so a
connection that somebody has edited in the web interface stays as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

CONNECTIONS = Path("/run/secrets/connections.json")


def main() -> None:
    airflow("db", "migrate")
    airflow("connections", "import", str(CONNECTIONS))
    make_bucket(json.loads(CONNECTIONS.read_text()))


def airflow(*arguments: str) -> None:
    subprocess.run(["airflow", *arguments], check=True)


def make_bucket(connections: dict[str, object]) -> None:
    """Make the bucket that `[logging] remote_base_log_folder` names."""
    bucket = urlsplit(os.environ.get("AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER", "")).netloc
    conn_id = os.environ.get("AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID", "")
    if not bucket or conn_id not in connections:
        return
    # There is no task here whose supervisor would answer.
    os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(connections[conn_id])
    from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415

    hook = AllasHook(conn_id)
    if not hook.check_for_bucket(bucket):
        hook.create_bucket(bucket)


if __name__ == "__main__":
    main()
