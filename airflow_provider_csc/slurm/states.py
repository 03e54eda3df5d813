"""
Every job state of Slurm and what it means for a task that waits.

Sources: slurm.h, ``job_state_string`` (src/common/slurm_protocol_defs.c), squeue(1) and sacct(1),
of each release from Slurm 22.05 to 25.11. A state is a base state and flags; squeue, sacct and
scontrol print one word, the first flag of a fixed order or else the base state.
"""

from __future__ import annotations

import re
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
    """
    One state by its long name, as squeue ``%T`` and sacct ``State`` print it.

    ``is_flag``: Slurm sets it beside a base state. ``since``: the first release that has it, where
    that is later than 22.05.
    """

    name: str
    code: str
    phase: Phase
    meaning: str
    is_flag: bool = False
    since: str = ""

    @property
    def is_final(self) -> bool:
        """Whether a job in this state will not change by itself any more."""
        return self.phase is Phase.ENDED

    @property
    def is_success(self) -> bool:
        """Whether this is the one state that means success."""
        return self.name == "COMPLETED"


_BASE = (
    ("PENDING", "PD", Phase.QUEUED, "waits for resources"),
    ("RUNNING", "R", Phase.RUNNING, "runs"),
    ("SUSPENDED", "S", Phase.RUNNING, "is suspended and gave its processors up"),
    ("COMPLETED", "CD", Phase.ENDED, "ended with exit code 0"),
    ("CANCELLED", "CA", Phase.ENDED, "was cancelled by its user or an administrator"),
    ("FAILED", "F", Phase.ENDED, "ended with another exit code or a signal"),
    ("TIMEOUT", "TO", Phase.ENDED, "reached its time limit"),
    ("NODE_FAIL", "NF", Phase.ENDED, "lost a node"),
    ("PREEMPTED", "PR", Phase.ENDED, "made way for another job"),
    ("BOOT_FAIL", "BF", Phase.ENDED, "had a node that did not boot"),
    ("DEADLINE", "DL", Phase.ENDED, "reached its deadline"),
    ("OUT_OF_MEMORY", "OOM", Phase.ENDED, "used more memory than it asked for"),
)

# In the order in which Slurm prefers them, before any base state.
_FLAGS = (
    ("COMPLETING", "CG", Phase.RUNNING, "is ending; its exit code is not final yet"),
    ("STAGE_OUT", "SO", Phase.RUNNING, "is copying its burst buffer out"),
    ("CONFIGURING", "CF", Phase.QUEUED, "has nodes, which are getting ready"),
    # Set together with REQUEUE on a pending job (src/slurmctld/job_mgr.c, 25.11).
    ("EXPEDITING", "EX", Phase.QUEUED, "goes back to the queue, to its very front"),
    ("RESIZING", "RS", Phase.RUNNING, "is changing its size"),
    ("REQUEUED", "RQ", Phase.QUEUED, "goes back to the queue"),
    ("REQUEUE_FED", "RF", Phase.QUEUED, "is requeued by the federation"),
    ("REQUEUE_HOLD", "RH", Phase.QUEUED, "was requeued and is held until released"),
    ("SPECIAL_EXIT", "SE", Phase.QUEUED, "was requeued and is held, marked by its exit code"),
    ("STOPPED", "ST", Phase.RUNNING, "is stopped by a signal and keeps its processors"),
    # A sibling of the federation runs it; this row will never tell its end.
    ("REVOKED", "RV", Phase.UNKNOWN, "was taken over by another cluster of the federation"),
    ("RESV_DEL_HOLD", "RD", Phase.QUEUED, "is held because its reservation was deleted"),
    ("SIGNALING", "SI", Phase.RUNNING, "is being signalled"),
)

# Flags that are no state: squeue, sacct and scontrol pass them over; slurmrestd has these names.
_MARKS = (
    ("POWER_UP_NODE", "PU", Phase.QUEUED, "waits for nodes to power up"),
    ("UPDATE_DB", "UD", Phase.RUNNING, "is being written to the accounting database"),
    # A node's request to requeue bears these two; slurmctld stores them with no job.
    ("LAUNCH_FAILED", "LF", Phase.UNKNOWN, "could not be launched, and is requeued or ended"),
    ("RECONFIG_FAIL", "RC", Phase.UNKNOWN, "had a node that could not be configured for it"),
)
_SINCE = {"EXPEDITING": "25.11"}

STATES: dict[str, JobState] = {
    row[0]: JobState(*row, is_flag=row not in _BASE, since=_SINCE.get(row[0], ""))
    for row in (*_BASE, *_FLAGS, *_MARKS)
}
_BY_CODE = {state.code: state for state in STATES.values()}

# sacct's column of State is ten characters wide unless told otherwise; a longer word is cut there.
_SACCT_WIDTH = 10
_CUT = {
    f"{name[: _SACCT_WIDTH - 1]}+": state
    for name, state in STATES.items()
    if len(name) > _SACCT_WIDTH
}


def parse_state(text: str) -> JobState:
    """
    Read a state as Slurm prints it: ``COMPLETED``, ``CD``, ``CANCELLED by 350``, ``OUT_OF_ME+``.

    Of several, as ``RUNNING,COMPLETING`` or ``RUNNING+COMPLETING``, the flag counts that Slurm
    would print. A word that is in no table is a state of phase UNKNOWN, never the nearest known.
    """
    words = text.split()
    word = words[0] if words else ""
    if word in _CUT:
        return _CUT[word]
    word = word.rstrip("+")
    known = STATES.get(word) or _BY_CODE.get(word) or _parse_compound(word)
    return known or JobState(word or "(none)", "", Phase.UNKNOWN, "is not a state we know")


def _parse_compound(word: str) -> JobState | None:
    """Read one base state and flags behind it; None for anything else."""
    names = re.split("[,+]", word)
    base, flags = STATES.get(names[0]), [STATES.get(name) for name in names[1:]]
    if base is None or base.is_flag or not all(flag and flag.is_flag for flag in flags):
        return None
    return next((STATES[row[0]] for row in _FLAGS if row[0] in names), base)


def parse_cancelled_by(text: str) -> str | None:
    """Return the user id of ``CANCELLED by 350``, sacct's own notation; None where absent."""
    words = text.split()
    return words[2] if len(words) == 3 and words[:2] == ["CANCELLED", "by"] else None  # noqa: PLR2004
