"""
Every job state of Slurm and what it means for a task that waits.

Source: squeue(1) and sacct(1), JOB STATE CODES, Slurm 22.05 to 25.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """Where in its life a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class JobState:
    """One state by its long name, as squeue ``%T`` and sacct ``State`` print it."""

    name: str
    code: str
    phase: Phase
    meaning: str

    @property
    def is_final(self) -> bool:
        """Whether a job in this state will not change by itself any more."""
        return self.phase is Phase.ENDED

    @property
    def is_success(self) -> bool:
        """Whether this is the one state that means success."""
        return self.name == "COMPLETED"


_TABLE = (
    # Before it runs.
    ("PENDING", "PD", Phase.QUEUED, "waits for resources"),
    ("CONFIGURING", "CF", Phase.QUEUED, "has nodes, which are getting ready"),
    ("REQUEUED", "RQ", Phase.QUEUED, "goes back to the queue"),
    ("REQUEUE_FED", "RF", Phase.QUEUED, "is requeued by the federation"),
    ("REQUEUE_HOLD", "RH", Phase.QUEUED, "was requeued and is held until released"),
    ("SPECIAL_EXIT", "SE", Phase.QUEUED, "was requeued and is held, marked by its exit code"),
    ("RESV_DEL_HOLD", "RD", Phase.QUEUED, "is held because its reservation was deleted"),
    ("POWER_UP_NODE", "PU", Phase.QUEUED, "waits for nodes to power up"),
    # While it runs, or is not wholly done.
    ("RUNNING", "R", Phase.RUNNING, "runs"),
    ("COMPLETING", "CG", Phase.RUNNING, "is ending; its exit code is not final yet"),
    ("EXPEDITING", "EX", Phase.RUNNING, "runs with expedited requeue"),
    ("RESIZING", "RS", Phase.RUNNING, "is changing its size"),
    ("SIGNALING", "SI", Phase.RUNNING, "is being signalled"),
    ("STAGE_OUT", "SO", Phase.RUNNING, "is copying its burst buffer out"),
    ("STOPPED", "ST", Phase.RUNNING, "is stopped by a signal and keeps its processors"),
    ("SUSPENDED", "S", Phase.RUNNING, "is suspended and gave its processors up"),
    ("UPDATE_DB", "UD", Phase.RUNNING, "is being written to the accounting database"),
    # Its end.
    ("COMPLETED", "CD", Phase.ENDED, "ended with exit code 0"),
    ("FAILED", "F", Phase.ENDED, "ended with another exit code or a signal"),
    ("CANCELLED", "CA", Phase.ENDED, "was cancelled by its user or an administrator"),
    ("TIMEOUT", "TO", Phase.ENDED, "reached its time limit"),
    ("OUT_OF_MEMORY", "OOM", Phase.ENDED, "used more memory than it asked for"),
    ("NODE_FAIL", "NF", Phase.ENDED, "lost a node"),
    ("BOOT_FAIL", "BF", Phase.ENDED, "had a node that did not boot"),
    ("PREEMPTED", "PR", Phase.ENDED, "made way for another job"),
    ("DEADLINE", "DL", Phase.ENDED, "reached its deadline"),
    ("LAUNCH_FAILED", "LF", Phase.ENDED, "could not be launched on its nodes"),
    ("RECONFIG_FAIL", "RC", Phase.ENDED, "had a node whose reconfiguration failed"),
    # A sibling of the federation runs it; this row will never tell its end.
    ("REVOKED", "RV", Phase.UNKNOWN, "was taken over by another cluster of the federation"),
)

STATES: dict[str, JobState] = {row[0]: JobState(*row) for row in _TABLE}
_BY_CODE = {state.code: state for state in STATES.values()}


def parse_state(text: str) -> JobState:
    """
    Read a state as squeue or sacct print it: ``COMPLETED``, ``CD``, ``CANCELLED by 350``.

    A word that is in no table is a state of phase UNKNOWN, never the nearest known one.
    """
    words = text.split()
    word = words[0].rstrip("+") if words else ""
    known = STATES.get(word) or _BY_CODE.get(word)
    return known or JobState(word or "(none)", "", Phase.UNKNOWN, "is not a state we know")


def parse_cancelled_by(text: str) -> str | None:
    """Return the user id of ``CANCELLED by 350``, sacct's own notation; None where absent."""
    words = text.split()
    return words[2] if len(words) == 3 and words[:2] == ["CANCELLED", "by"] else None  # noqa: PLR2004
