"""Who writes a record: a name for people."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Final

# Airflow sets them for a running task (airflow.sdk.execution_time.context_vars; Airflow 3.3).
_TASK: Final = (
    "AIRFLOW_CTX_DAG_ID",
    "AIRFLOW_CTX_DAG_RUN_ID",
    "AIRFLOW_CTX_TASK_ID",
    "AIRFLOW_CTX_TRY_NUMBER",
)


def name_writer() -> str:
    """Return the running task instance; outside one the user, the host and the process."""
    task = [os.environ[name] for name in _TASK if os.environ.get(name)]
    if task:
        return "/".join(task)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"
