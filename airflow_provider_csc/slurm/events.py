"""What a watched job's story consists of, and the two clocks that a wait is measured by."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.result import JobResult


@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines the job wrote."""

    lines: list[str]


@dataclass(frozen=True, slots=True)
class Note:
    """Something a reader of the task log should know; ``level`` as in `logging`."""

    text: str
    level: int = logging.INFO


@dataclass(frozen=True, slots=True)
class Started:
    """A job has started, or started again; only told who asked for it."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Every job has ended, with evidence."""

    results: list[JobResult]


Event = LogLines | Note | Started | Ended


@dataclass(frozen=True, slots=True)
class Moment:
    """
    A moment on this machine: seconds since 1970, and those of a clock that nobody sets.

    How long something lasts is measured by ``steady``; the cluster's clock has no part in either.
    """

    wall: float
    steady: float
