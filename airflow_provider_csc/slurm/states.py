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
from typing import Literal


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


Kind = Literal["waits", "held", "never"]


@dataclass(frozen=True, slots=True)
class PendingReason:
    """
    Why a job is still pending, as squeue ``%r`` says it; ``words`` go behind "Job 123".

    A job that ``waits`` may start without anybody's help, unless it ``needs_person``: then the
    request or the site has to be changed first. One that is ``held`` starts when somebody releases
    it, and the last kind ``never``. ``remedy`` may name ``<id>``, the job's.
    """

    pattern: str
    kind: Kind
    words: str
    remedy: str = ""
    needs_person: bool = True

    def describe(self, job_id: str) -> str:
        """Return what a person should know and can do, in one or two sentences."""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"Job {job_id} {self.words}.{remedy}".replace("<id>", job_id)


_RELEASE = "Release it with `scontrol release <id>`, or cancel it."
_RELEASE_LATER = (
    "See what is wrong with the nodes or the files, then `scontrol release <id>`, or cancel it."
)
_UPDATE = "Correct the request (`scontrol update JobId=<id> …`), or cancel it and submit another."
_BURST_BUFFER = "Correct `bb` or `bbf`, or ask the site's support."

# Patterns for the whole reason; the first that matches counts. `scontrol` prints _ for each blank.
# Sources: src/common/job_state_reason.c and the state_desc of src/slurmctld, 22.05 to 25.11.
_HELPLESS: tuple[tuple[str, Kind, str, str], ...] = (
    (
        "DependencyNeverSatisfied",
        "never",
        "depends on a job that ended otherwise than the dependency asks",
        "Correct `dependency`, or run the job it depends on again.",
    ),
    # Slurm sets the priority of all these to 0, so that it does not look at them any more.
    ("JobHeldUser", "held", "is held by its user or an account coordinator", _RELEASE),
    (
        "JobHeldAdmin",
        "held",
        "is held by an administrator, who alone can release it",
        "Ask the site's support why, or cancel it.",
    ),
    (
        "JobHoldMaxRequeue|launch failure limit exceeded requeued held",
        "held",
        "was requeued too often and is held (MAX_BATCH_REQUEUE)",
        _RELEASE_LATER,
    ),
    (
        "launch failed requeued held",
        "held",
        "could not be launched, was requeued, and is held",
        _RELEASE_LATER,
    ),
    (
        "user env retrieval failed requeued held",
        "held",
        "could not be given its user's environment (--get-user-env), and is held",
        _RELEASE_LATER,
    ),
    (
        "job requeued in (held|special exit) state",
        "held",
        "was requeued and is held",
        _RELEASE,
    ),
    ("BadConstraints", "held", "asks for what no node has, and is held", _UPDATE),
    (
        "ReservationDeleted|Reservation .* was deleted",
        "held",
        "is held because its reservation was deleted",
        _UPDATE,
    ),
    (
        "BurstBufferOperation",
        "held",
        "is held because an operation of its burst buffer failed",
        _BURST_BUFFER,
    ),
    # Nothing that waiting alone can change, but the site can.
    (
        "ReservationInvalid|Reservation .* is invalid",
        "waits",
        "asks for a reservation that is not valid",
        _UPDATE,
    ),
    (
        "InvalidAccount|AccountNotAllowed|InvalidQOS|QOSNotAllowed|uid .* not in group .*",
        "waits",
        "names an account or a quality of service that may not run there",
        _UPDATE,
    ),
    (
        "PartitionTimeLimit|PartitionNodeLimit|PartitionConfig|MaxMemPerLimit",
        "waits",
        "asks for more than its partition gives, or for nodes that are down",
        _UPDATE,
    ),
    (
        r"(QOS|Assoc)Max\w*Per(Job|Node)(Limit)?|(QOS|Assoc)MaxWall\w*|QOSMin\w+",
        "waits",
        "asks for more, or less, than a limit allows to one job",
        _UPDATE,
    ),
    (
        "DeadLine",
        "waits",
        "cannot end before its deadline; Slurm will cancel it",
        "Give a later `deadline`, or a shorter `time`.",
    ),
    (
        "burst_buffer/.*",
        "waits",
        "waits for its burst buffer, of which Slurm has something to tell",
        _BURST_BUFFER,
    ),
    (
        "PartitionDown|PartitionInactive",
        "waits",
        "is in a partition that starts no jobs now",
        "See the site's notices; or cancel it and submit it to another partition.",
    ),
    (
        r"(QOS|Assoc)Grp(?!\w*Run)(\w*Minutes\w*|Wall\w*)",
        "waits",
        "has used up the minutes (billing units) of its account",
        "Apply for more billing units, or submit it with another `account`.",
    ),
)
_PATIENT: tuple[tuple[str, ...], ...] = (
    (
        r"(QOS|Assoc|Max)\w*|AccountingPolicy",
        "waits because others of its user, account or quality of service use up a limit",
    ),
    (
        "ReqNodeNotAvail.*Reserved for maintenance.*",
        "waits for a maintenance to end, since it could not end before it",
        "A shorter `time` may let it run before.",
    ),
    (
        "ReqNodeNotAvail.*|NodeDown|Nodes required for job are DOWN.*",
        "waits for nodes that are down, drained, or reserved for others",
    ),
    ("Priority", "waits while jobs of higher priority are served"),
    ("Resources", "waits for resources to become free"),
    ("None|", "has not been looked at yet"),
    ("Dependency", "waits for a job it depends on"),
    ("BeginTime", "waits for its time to begin; a requeued job, for two minutes"),
    ("Reservation", "waits for its reservation to begin"),
    ("Licenses", "waits for licences"),
    ("JobArrayTaskLimit", "waits for other elements of its array"),
    ("Cleaning", "was requeued, and its earlier run is being cleaned up"),
    ("Prolog", "has nodes, on which the prolog runs"),
    ("BurstBufferResources|BurstBufferStageIn", "waits for its burst buffer"),
    ("Constraints", "waits for nodes with the features it asks for"),
    (
        "FedJobLock|SchedDefer|MpiPortsBusy|NvidiaImexChannels|SystemFailure",
        "waits for Slurm itself",
    ),
)

PENDING_REASONS = (
    *(PendingReason(*row) for row in _HELPLESS),
    *(
        PendingReason(row[0], "waits", row[1], "".join(row[2:]), needs_person=False)
        for row in _PATIENT
    ),
)


def explain_reason(reason: str) -> PendingReason | None:
    """Return what a pending reason means; None for one that is in no table."""
    text = reason.strip().strip("()").replace("_", " ")
    for known in PENDING_REASONS:
        if re.fullmatch(known.pattern.replace("_", " "), text):
            return known
    return None
