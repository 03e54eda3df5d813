"""
The token by which a task and its job find each other, whatever Airflow has lost.

A token is ``<key>.<try>``, and ``<key>.<try>.<n>`` for the n-th job that a retry policy submitted
within that try. The key is derived from what names a task instance for ever; the try is the one
that submitted. The token is the name of the run directory and the end of the job's name.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Slurm's accounting stores a job's name in 255 bytes (slurmdbd, table *_job_table, `tinytext`).
_MAX_LABEL_BYTES = 200
_KEY_PREFIX = "af"
_KEY_DIGITS = 20
TOKEN_PATTERN = re.compile(rf"{_KEY_PREFIX}[0-9a-f]{{{_KEY_DIGITS}}}(\.[1-9][0-9]*){{1,2}}")
# Which submission of a task instance: the try, and the how many-th resubmission within it.
Number = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskIdentity:
    """
    One task instance and the try it is in.

    ``first_try`` is the try at which the present generation began: Airflow *meant* to run again
    there (first run, or a user cleared the task). Tries after it are retries of that generation.
    ``run_started`` (ISO 8601, UTC) is when the DAG run began, which tells it from a deleted run of
    the same id. ``waits`` is false for a task that ends while its job goes on, on purpose. ``part``
    names what a task submits beside its job, and looks for by itself.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    first_try: int
    deployment: str = ""
    resubmission: int = 0
    run_started: str = ""
    waits: bool = True
    part: str = ""

    @property
    def key(self) -> str:
        """Name the task instance, the same in each of its tries."""
        parts: list[object] = [
            *(self.deployment, self.dag_id, self.run_id, self.task_id, self.map_index),
            *([self.part] if self.part else []),
        ]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return _KEY_PREFIX + digest[:_KEY_DIGITS]

    @property
    def token(self) -> str:
        """Name this try's submission."""
        return build_token(self.key, self.number)

    @property
    def number(self) -> Number:
        """Which of this task instance's submissions this one is."""
        return self.try_number, self.resubmission

    @property
    def default_label(self) -> str:
        """Return the readable part of the job's name when the user gave none."""
        index = f".{self.map_index}" if self.map_index >= 0 else ""
        part = f".{self.part}" if self.part else ""
        return f"{self.dag_id}.{self.task_id}{index}{part}"

    def to_json(self, *, array: str = "") -> str:
        """
        Return what stands in the run directory, in one line; a reaper reads it there.

        ``array`` is which tasks of an array this submission runs (`array_parts.format_part`).
        """
        known = {
            "version": 1,
            "deployment": self.deployment,
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "task_id": self.task_id,
            "map_index": self.map_index,
            "try_number": self.try_number,
            "resubmission": self.resubmission,
            "run_started": self.run_started,
            "waits": self.waits,
        }
        return json.dumps({**known, "array": array} if array else known)


def build_token(key: str, number: Number) -> str:
    """Return the token of one submission of a task instance."""
    try_number, resubmission = number
    return f"{key}.{try_number}" + (f".{resubmission}" if resubmission else "")


def build_array_token(tokens: Sequence[str], nonce: str) -> str:
    """Return what names an array of several tasks' jobs; each attempt has its own."""
    digest = hashlib.sha256(json.dumps([*tokens, nonce]).encode()).hexdigest()
    return build_token(_KEY_PREFIX + digest[:_KEY_DIGITS], (1, 0))


def split_token(token: str) -> tuple[str, int, int]:
    """
    Return key, try and resubmission of a token.

    :raises ValueError: for text that is none.
    """
    if not TOKEN_PATTERN.fullmatch(token):
        raise ValueError(f"{token!r} is not a token of this provider")
    key, _, numbers = token.partition(".")
    try_number, _, resubmission = numbers.partition(".")
    return key, int(try_number), int(resubmission or 0)


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
