"""
Why a job is still pending, in words, and when Slurm expects it to start.

Sources: ``enum job_state_reason``, src/common/job_state_reason.c (before 24.05
``job_reason_string``, src/common/slurm_protocol_defs.c) and the ``state_desc`` of src/slurmctld, of
each release from Slurm 22.05 to 26.05; CSC's guide, "Why is my job queueing so long?".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from airflow_provider_csc.slurm.parking import describe_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["waits", "site", "stuck", "held", "never"]

# What follows for whoever reads it, where the words do not say it already.
_CONSEQUENCES: dict[Kind, str] = {
    "waits": "",
    "site": "",
    "stuck": "It will not start as it stands.",
    "held": "It will not start until it is released.",
    "never": "It can never start.",
}
# A list of nodes may be as long as the machine is large.
_LONGEST_LIST = 80


@dataclass(frozen=True, slots=True)
class PendingReason:
    """
    Why a job is still pending, as squeue ``%r`` says it; ``words`` go behind "Job 123".

    ``code`` is the reason without what changes from minute to minute, as lists of nodes do. A job
    of kind ``waits`` starts by itself, one of kind ``site`` when the site or the account changes;
    the others do not start as they are: ``stuck`` until the request is corrected, ``held`` until
    somebody releases it, ``never`` whatever happens. ``remedy`` may name ``<id>``, the job's.
    """

    code: str
    kind: Kind
    words: str
    remedy: str = ""
    is_known: bool = True

    @property
    def needs_person(self) -> bool:
        """Whether waiting alone does not help."""
        return self.kind != "waits"

    @property
    def is_hopeless(self) -> bool:
        """Whether the job will not start unless somebody does something about the job."""
        return self.kind in ("stuck", "held", "never")

    def explain(self, job_id: str, subject: str = "it") -> str:
        """Return what a person should know and can do, as sentences that go behind a colon."""
        parts = (f"{subject} {self.words}.", _CONSEQUENCES[self.kind], self.remedy)
        return " ".join(filter(None, parts)).replace("<id>", job_id)

    def describe(self, job_id: str) -> str:
        """Return the same as sentences by themselves."""
        return self.explain(job_id, f"Job {job_id}")


_SOONER = "A shorter `time`, or less of what it asks for, may let it start sooner, in a gap."
_RELEASE = "Release it with `scontrol release <id>`, or cancel it."
_RELEASE_LATER = (
    "See what is wrong with the nodes or the files, then `scontrol release <id>`, or cancel it."
)
_UPDATE = "Correct the request (`scontrol update JobId=<id> …`), or cancel it and submit another."
_ELSEWHERE = (
    "Give another `account`, `qos` or `partition`; which ones are open to you tells MyCSC, or "
    "`sacctmgr show assoc user=$USER`."
)
_BURST_BUFFER = "Correct `bb` or `bbf`, or ask the site's support."
_UNITS = "Apply for more billing units, or submit it with another `account`."
_NOTICES = (
    "See `scontrol show reservation` and the site's notices: before a maintenance a shorter `time` "
    "helps."
)
_SUPPORT = "Should it stay so, ask the site's support."

# What no one sees of a pending job, unless Slurm is about to queue it again.
_LAST_END = "waits to be queued again; this is how its last run ended"

# Slurm's codes, but for the limits, which `_explain_limit` reads by what they are made of.
_CODES: dict[str, tuple[Kind, str, str]] = {
    "None": ("waits", "was not looked at by Slurm's scheduler yet", ""),
    "Priority": ("waits", "waits while jobs of higher priority are served", _SOONER),
    "Resources": ("waits", "waits for what it asks for to become free", _SOONER),
    "Dependency": ("waits", "waits for a job it depends on", ""),
    "BeginTime": ("waits", "waits for its time to begin; a requeued job, for two minutes", ""),
    "Reservation": ("waits", "waits for its reservation to begin", ""),
    "Licenses": (
        "waits",
        "waits for licences that are in use",
        "`scontrol show licenses` tells how many there are.",
    ),
    "JobArrayTaskLimit": (
        "waits",
        "waits for other tasks of its array, of which only so many may run at once",
        "That is the number behind the % of `array`.",
    ),
    "Cleaning": ("waits", "was requeued, and its earlier run is being cleaned up", ""),
    "Prolog": ("waits", "has nodes, on which the site's prolog runs", ""),
    "BurstBufferResources": ("waits", "waits for room in the burst buffer", ""),
    "BurstBufferStageIn": ("waits", "waits while its data are copied into the burst buffer", ""),
    "Constraints": (
        "waits",
        "waits for nodes with the features it asks for",
        "Should no node have them all, it never starts: see `constraint`.",
    ),
    "NodeDown": ("waits", "waits for a node that is down", _SUPPORT),
    "FrontEndDown": ("waits", "waits for a front-end node that is down", _SUPPORT),
    "MaxPoweredUpNodes": ("waits", "waits because no more nodes may be powered up now", ""),
    "PowerNotAvail": ("waits", "waits for electric power that other jobs use", ""),
    "PowerReserved": ("waits", "waits for electric power that is reserved for others", ""),
    "BlockMaxError": ("waits", "waits for a block of a Blue Gene that has had errors", _SUPPORT),
    "BlockFreeAction": ("waits", "waits for a block of a Blue Gene to be freed", ""),
    "FedJobLock": ("waits", "waits until the clusters of the federation agree who runs it", ""),
    "SchedDefer": ("waits", "was to start at once, which Slurm puts off", ""),
    "MpiPortsBusy": ("waits", "waits for communication ports that other jobs use", ""),
    "NvidiaImexChannels": ("waits", "waits for a channel between GPUs (IMEX)", ""),
    "InvalidReason": (
        "waits",
        "waits for a reason that squeue has no name for",
        "It may be older than the Slurm controller.",
    ),
    "AccountingPolicy": ("waits", "waits because of a limit of its account or QOS", ""),
    "AssociationJobLimit": ("waits", "waits until fewer jobs of its account run", ""),
    "AssociationResourceLimit": ("waits", "waits until its account uses less", ""),
    "AssociationTimeLimit": ("site", "belongs to an account whose time is used up", _UNITS),
    "QOSJobLimit": ("waits", "waits until fewer jobs of its QOS run", ""),
    "QOSResourceLimit": ("waits", "waits until its QOS uses less", ""),
    "QOSTimeLimit": ("site", "belongs to a QOS whose time is used up", _UNITS),
    "QOSUsageThreshold": (
        "waits",
        "waits because its account has used more of late than its QOS allows",
        "",
    ),
    "PartitionDown": (
        "site",
        "is in a partition that starts no jobs now",
        "See the site's notices; or cancel it and submit it to another partition.",
    ),
    "PartitionInactive": (
        "site",
        "is in a partition that takes and starts no jobs now",
        "See the site's notices; or cancel it and submit it to another partition.",
    ),
    "SystemFailure": ("site", "met a failure of Slurm itself", _SUPPORT),
    "PartitionTimeLimit": ("stuck", "asks for more time than its partition gives", _UPDATE),
    "PartitionNodeLimit": (
        "stuck",
        "asks for more nodes, or fewer, than its partition gives or has in service",
        _UPDATE,
    ),
    "PartitionConfig": ("stuck", "asks for what its partition is not configured for", _UPDATE),
    "MaxMemPerLimit": ("stuck", "asks for more memory than one job may have there", _UPDATE),
    "InvalidAccount": ("stuck", "names an account that does not exist", _ELSEWHERE),
    "InvalidQOS": ("stuck", "names a quality of service that does not exist", _ELSEWHERE),
    "AccountNotAllowed": ("stuck", "names an account that may not run there", _ELSEWHERE),
    "QOSNotAllowed": ("stuck", "names a quality of service that may not run there", _ELSEWHERE),
    "ReservationInvalid": ("stuck", "asks for a reservation that is not valid", _UPDATE),
    "DeadLine": (
        "stuck",
        "cannot end before its deadline; Slurm will cancel it",
        "Give a later `deadline`, or a shorter `time`.",
    ),
    # Slurm sets the priority of all these to 0, so that it does not look at them any more.
    "JobHeldUser": ("held", "is held by its user or an account coordinator", _RELEASE),
    "JobHeldAdmin": (
        "held",
        "is held by an administrator, who alone can release it",
        "Ask the site's support why, or cancel it.",
    ),
    "JobHoldMaxRequeue": (
        "held",
        "was requeued too often and is held (MAX_BATCH_REQUEUE)",
        _RELEASE_LATER,
    ),
    "BadConstraints": ("held", "asks for what no node has, and is held", _UPDATE),
    "ReservationDeleted": ("held", "is held because its reservation was deleted", _UPDATE),
    "BurstBufferOperation": (
        "held",
        "is held because an operation of its burst buffer failed",
        _BURST_BUFFER,
    ),
    "DependencyNeverSatisfied": (
        "never",
        "depends on a job that ended otherwise than the dependency asks",
        "Correct `dependency`, or run the job it depends on again.",
    ),
    **dict.fromkeys(
        (
            "JobLaunchFailure",
            "NonZeroExitCode",
            "RaisedSignal",
            "TimeLimit",
            "InactiveLimit",
            "OutOfMemory",
        ),
        ("waits", _LAST_END, ""),
    ),
}

# What Slurm prints in place of a code; the first that matches the whole counts. `scontrol` prints
# _ for each blank. A group named ``nodes`` is shown, and is no part of the code.
_TEXTS: tuple[tuple[str, Kind, str, str], ...] = (
    (
        "ReqNodeNotAvail, ?Reserved for maintenance",
        "waits",
        "waits for a maintenance to end, since it could not end before it begins",
        "With a `time` that ends before the maintenance it may start now.",
    ),
    (
        "ReqNodeNotAvail, ?May be reserved for other job",
        "waits",
        # Also of nodes that a maintenance will take, where the job names them (seen on 22.05).
        "waits for nodes that are, or soon will be, reserved for others or for a maintenance",
        _NOTICES,
    ),
    (
        r"ReqNodeNotAvail[,(] ?Unavailable(Nodes)?: ?(?P<nodes>.*?)\)?",
        "waits",
        "waits for nodes that are down, drained, or reserved for others",
        _NOTICES,
    ),
    (
        "ReqNodeNotAvail.*",
        "waits",
        "waits for nodes that are down, drained, or reserved for others",
        _NOTICES,
    ),
    (
        "Nodes required for job are DOWN.*",
        "waits",
        "waits for nodes that are down, drained, or meant for partitions of higher priority",
        "On a busy machine that is usual.",
    ),
    ("launch failure limit exceeded requeued held", *_CODES["JobHoldMaxRequeue"]),
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
    ("job requeued in (held|special exit) state", "held", "was requeued and is held", _RELEASE),
    (
        "License request .* is no longer valid, holding job",
        "held",
        "asks for licences that the site does not have any more, and is held",
        _UPDATE,
    ),
    ("Reservation .* was deleted", *_CODES["ReservationDeleted"]),
    ("Reservation .* is invalid", *_CODES["ReservationInvalid"]),
    (
        "uid .* not in group .*",
        "stuck",
        "is of a user who may not run in its partition",
        _ELSEWHERE,
    ),
    ("Job's QOS not .*", *_CODES["QOSNotAllowed"]),
    ("Job's account not .*", *_CODES["AccountNotAllowed"]),
    (
        "burst_buffer/.*|Burst buffer .*",
        "site",
        "waits for its burst buffer, of which Slurm has something to tell",
        _BURST_BUFFER,
    ),
    ("RaisedSignal:.*", *_CODES["RaisedSignal"]),
)
PENDING_TEXTS = tuple(text for text, *_ in _TEXTS)
_PATTERNS: list[tuple[re.Pattern[str], Kind, str, str]] = [
    (re.compile(text.replace("_", " ")), kind, words, remedy)
    for text, kind, words, remedy in _TEXTS
]


@lru_cache(maxsize=512)
def explain_reason(reason: str) -> PendingReason:
    """Return what a pending reason means; of one that is in no table, that it is not known."""
    text = _clean(reason)
    known = _explain_code(text) or _explain_text(text) or _explain_merged(text)
    return known or PendingReason(
        code=text,
        kind="waits",
        words="waits for a reason that this provider has no explanation for",
        remedy="Slurm's manual may: `man squeue`, JOB REASON CODES.",
        is_known=False,
    )


def _clean(reason: str) -> str:
    text = reason.strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    return text or "None"


def _explain_code(text: str) -> PendingReason | None:
    row = _CODES.get(text)
    return PendingReason(text, *row) if row else _explain_limit(text)


def _explain_text(text: str) -> PendingReason | None:
    plain = text.replace("_", " ")
    for pattern, kind, words, remedy in _PATTERNS:
        if match := pattern.fullmatch(plain):
            nodes = match.groupdict().get("nodes")
            code = text if nodes is None else re.split("[:(]", text, maxsplit=1)[0]
            more = f" ({_shorten(nodes)})" if nodes else ""
            return PendingReason(code, kind, words + more, remedy)
    return None


def _explain_merged(text: str) -> PendingReason | None:
    """Explain several codes in one, as squeue shows the tasks of an array that wait together."""
    parts = [_explain_code(each) for each in text.split(",")]
    known = [each for each in parts if each]
    if len(known) < max(len(parts), 2):
        return None
    is_alike = len({each.kind for each in known}) == 1
    words = "; or ".join(each.words for each in known)
    return PendingReason(text, known[0].kind if is_alike else "waits", words)


def _shorten(nodes: str) -> str:
    return nodes if len(nodes) <= _LONGEST_LIST else f"{nodes[:_LONGEST_LIST]}…"


# ---- limits ----

_LIMIT = re.compile(
    r"(?P<who>QOS|Assoc|)(?P<bound>Grp|Max|Min)"
    r"(?P<what>CPU|Cpu|Node|Memory|Mem|GRES|License|BB|Energy|Billing|Unknown|Wall|WallDuration"
    r"|Jobs?|SubmitJobs?)"
    r"(?P<time>RunMinutes|RunMins|Minutes|Mins)?(Per(?P<per>Job|Node|User|Account))?"
    r"(Limit|NotSatisfied)?"
)
_THINGS = {
    "CPU": "processors",
    "Node": "nodes",
    "Mem": "memory",
    "GRES": "GPUs or other generic resources (gres)",
    "License": "licences",
    "BB": "burst buffer space",
    "Energy": "energy",
    "Billing": "billing units",
    "Unknown": "unnamed resources",
    "Wall": "running time",
    "Job": "running jobs",
    "SubmitJob": "jobs in the queue",
}
_OWNERS = {"QOS": "its QOS", "Assoc": "its account", "": "its QOS"}
# A larger request than the limit is queued for ever, unless the QOS has the flag DenyOnLimit.
_ALONE = "Should it ask for more than that by itself, it never starts."
_SHOW = {"QOS": "`sacctmgr show qos`", "": "`sacctmgr show qos`", "Assoc": "`sacctmgr show assoc`"}
# CSC's guide, "Why does my batch job fail?" and "Why is my job queueing so long?".
_AT_CSC = {
    "QOSGrpCpuLimit": "At CSC that is how much `longrun` jobs may use together.",
    "AssocMaxSubmitJobLimit": (
        "At CSC it also stands for a missing `account`, for billing units that are used up, and "
        "for a partition that is closed to the project."
    ),
}


def _explain_limit(code: str) -> PendingReason | None:
    """Explain the code of a limit of an association or a QOS by what it is made of."""
    match = _LIMIT.fullmatch(code)
    if match is None:
        return None
    what = match["what"].replace("Cpu", "CPU").replace("Memory", "Mem").rstrip("s")
    thing = _THINGS[what.removesuffix("Duration")]
    explained = _limit_words(match, thing, is_count=what.endswith("Job"))
    seen = f"{_SHOW[match['who']]} shows the limit."
    remedy = " ".join(filter(None, (explained.remedy, seen, _AT_CSC.get(code))))
    return replace(explained, code=code, remedy=remedy)


def _limit_words(limit: re.Match[str], thing: str, *, is_count: bool) -> PendingReason:
    owner, per = _OWNERS[limit["who"]], limit["per"]
    is_budget = limit["time"] in ("Minutes", "Mins")
    if limit["time"] and limit["what"] != "Billing":
        thing = f"minutes of {thing}"
    if limit["bound"] == "Min":
        return PendingReason("", "stuck", f"asks for less {thing} than {owner} demands", _UPDATE)
    if per in ("Job", "Node"):
        words = f"asks for more {thing} than {owner} gives to one job"
        return PendingReason(
            "", "stuck", f"{words} on one node" if per == "Node" else words, _UPDATE
        )
    if limit["bound"] == "Grp" and (is_budget or limit["what"] == "Wall"):
        return PendingReason("", "site", f"finds the {thing} of {owner} used up", _UNITS)
    if limit["time"]:
        thing += " that running jobs may still use"
    users = _users(limit, owner)
    return PendingReason(
        "",
        "waits",
        f"waits because {users} reach a limit on {thing}",
        "" if is_count else _ALONE,
    )


def _users(limit: re.Match[str], owner: str) -> str:
    """Return whose jobs are counted together."""
    if limit["bound"] == "Grp":
        return f"all jobs of {owner} together"
    if limit["per"] == "Account":
        return f"the jobs of its account in {owner}"
    return f"the jobs of its user in {owner}"


# ---- when it starts ----

# Slurm's estimate moves at every look of its scheduler; what is told of it is worth reading.
_LEAST_SHIFT_SECONDS = 300
_LEAST_SHIFT = 0.1
_SOON_SECONDS = 60


def is_news(told: int | None, estimate: int | None, now: int) -> bool:
    """
    Whether an estimated start (seconds since 1970) differs so much from what was told.

    That is by five minutes, and by a tenth of the time that was left. An estimate that has passed
    means "now", as Slurm shows it.
    """
    if estimate is None:
        return False
    if told is None:
        return estimate - now >= _SOON_SECONDS
    left = max(told - now, 0)
    shift = abs(max(estimate - now, 0) - left)
    return shift >= _LEAST_SHIFT_SECONDS and shift > left * _LEAST_SHIFT


def describe_start(estimate: int, now: int) -> str:
    """Return ``2026-11-22 10:15 UTC (in 2 h 10 min)``."""
    moment = f"{datetime.fromtimestamp(estimate, UTC):%Y-%m-%d %H:%M} UTC"
    left = estimate - now
    return f"{moment} (in {describe_seconds(left)})" if left >= _SOON_SECONDS else f"{moment} (now)"


# ---- how long it waited ----


@dataclass(slots=True)
class Waiting:
    """Which reasons a job was seen to wait for, and since when; times by the cluster's clock."""

    code: str = ""
    since: int = 0
    told_start: int | None = None
    earlier: tuple[tuple[str, int], ...] = ()

    def enter(self, code: str, clock: int) -> None:
        """Note that it waits for this reason now."""
        if code != self.code:
            self.leave(clock)
            self.code, self.since = code, clock

    def leave(self, clock: int) -> None:
        """Note that it waits no more, or for something else."""
        if self.code:
            self.earlier = tuple(add_waits([*self.earlier, (self.code, clock - self.since)]))
        self.code, self.told_start = "", None


def add_waits(waits: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Add up the seconds of each reason."""
    total: dict[str, int] = {}
    for code, seconds in waits:
        total[code] = total.get(code, 0) + max(seconds, 0)
    return list(total.items())


def report_waits(waits: Iterable[tuple[str, int]]) -> list[dict[str, str | int]]:
    """Return reasons and seconds as JSON takes them."""
    return [{"reason": code, "seconds": seconds} for code, seconds in waits]
