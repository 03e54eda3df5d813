"""
The token by which a task and its job find each other, whatever Airflow has lost.

A token is ``<key>.<try>``. The key is derived from what names a task instance for ever; the try is
the one that submitted. The token is the name of the run directory and the end of the job's name.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

# Slurm's accounting stores a job's name in 255 bytes (slurmdbd, table *_job_table, `tinytext`).
_MAX_LABEL_BYTES = 200
_KEY_PREFIX = "af"
_KEY_DIGITS = 20
TOKEN_PATTERN = re.compile(rf"{_KEY_PREFIX}[0-9a-f]{{{_KEY_DIGITS}}}\.[1-9][0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskIdentity:
    """
    One task instance and the try it is in.

    ``first_try`` is the try at which the present generation began: Airflow *meant* to run again
    there (first run, or a user cleared the task). Tries after it are retries of that generation.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    first_try: int
    deployment: str = ""

    @property
    def key(self) -> str:
        """Name the task instance, the same in each of its tries."""
        parts = [self.deployment, self.dag_id, self.run_id, self.task_id, self.map_index]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return _KEY_PREFIX + digest[:_KEY_DIGITS]

    @property
    def token(self) -> str:
        """Name this try's submission."""
        return f"{self.key}.{self.try_number}"

    @property
    def default_label(self) -> str:
        """Return the readable part of the job's name when the user gave none."""
        index = f".{self.map_index}" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{index}"


def build_job_name(label: str, token: str) -> str:
    """Return the job's name: the readable label, cut to what Slurm stores, then the token."""
    cut = label.encode()[:_MAX_LABEL_BYTES].decode(errors="ignore")
    return f"{cut}.{token}"


def parse_token(job_name: str) -> str | None:
    """Return the token a job's name ends with, or None for a job that is not ours."""
    match = re.search(rf"{TOKEN_PATTERN.pattern}$", job_name)
    return match.group() if match else None


def first_try_of_generation(*, try_number: int, max_tries: int, retries: int) -> int:
    """
    Return the try at which Airflow last meant to run the task anew.

    Clearing a task sets ``max_tries = try_number + retries`` (airflow/models/taskinstance.py,
    clear_task_instances); a retry, also one after a lost worker, leaves ``max_tries`` alone.
    """
    return min(max(max_tries - retries + 1, 1), try_number)
