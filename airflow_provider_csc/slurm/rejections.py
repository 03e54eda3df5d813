"""
What sbatch's refusals mean and what a person can do about each.

Sources: slurm_errno.c of Slurm 22.05 to 25.11 and sbatch's own checks (the texts), CSC's "Why does
my batch job fail" (the causes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejection:
    """
    One kind of refusal: the texts it is known by, why Slurm says so, and what to do.

    One that ``is_temporary`` may pass by itself, so that a retry makes sense. What may tell of a
    full queue (``is_queue_limit``) is judged by the limits themselves (see `queue_limits`); where
    the controller takes no jobs just now (``is_busy``) a task waits as in an outage.
    """

    pattern: str
    cause: str
    remedy: str = ""
    is_temporary: bool = False
    is_queue_limit: bool = False
    is_busy: bool = False


_LESS = "Ask for less, or for another partition."
_LATER = "Wait, or choose another partition."

# The first that matches counts: sbatch says in a first line what is wrong, and in a second one that
# the job was refused.
REJECTIONS = (
    Rejection(
        "Invalid account or account/partition combination",
        (
            "The account is unknown, you are not a member, its project lacks this service, or the "
            "partition is not open to it."
        ),
        "Check `account` and `partition`.",
    ),
    Rejection(
        "[Ii]nvalid partition",
        "No such partition here; `sinfo --summarize` lists them.",
        "Correct `partition`.",
    ),
    Rejection(
        "No partition specified",
        "The site has no default partition.",
        "Set `partition`; `sinfo --summarize` lists them.",
    ),
    Rejection(
        "Requested time limit is invalid",
        (
            "`time` is missing or longer than the partition allows; "
            "`scontrol show partition` tells its MaxTime."
        ),
    ),
    Rejection(
        "Invalid time-min specification",
        "`time-min` is longer than `time`, or than a limit.",
        "Ask for less.",
    ),
    Rejection(
        "Memory specification can ?not be satisfied|Memory required by task is not available",
        "No node of the partition has that much memory.",
        "Ask for less `mem`, or another partition.",
    ),
    # The name of a limit, where Slurm gives it, tells more than the sentence behind it.
    Rejection(
        r"(QOS|Assoc)Grp\w*(Minutes|Wall)\w*",
        "The minutes (billing units) of the account are used up.",
        "Apply for more, or set another `account`.",
    ),
    Rejection(
        r"(QOS|Assoc)\w*(PerJob|PerNode|MaxWall)\w*|QOSMin\w+|MaxMemPerLimit",
        "One job may not have so much, or so little, of that here.",
        "Ask for what the limit that is named allows; `sacctmgr show qos` lists them.",
    ),
    Rejection(
        r"(QOS|Assoc)\w*(Max|Grp)\w*(Jobs?|Submit)\w*Limit|MaxSubmitJobsPer\w+",
        (
            "The account, or its quality of service, has too many jobs in the queue (each element "
            "of an array counts), or may not submit there at all: a missing `account`, a partition "
            "that is closed to the project, or no billing units left."
        ),
        "Check `account` and `partition`; else wait until some of the jobs have ended.",
        is_temporary=True,
        is_queue_limit=True,
    ),
    Rejection(
        r"(QOS|Assoc)\w*(Max|Grp)\w*|Max\w+Per(Account|User)",
        "The request by itself is beyond what the account, or its quality of service, may have.",
        "Ask for less; `sacctmgr show qos` and `sacctmgr show assoc` list the limits.",
    ),
    Rejection(
        "violates accounting/QOS policy",
        (
            "A limit of the account or its quality of service: a missing `account`, too many jobs "
            "in the queue, too much asked for, or no billing units left."
        ),
        "Check `account`, then what is asked for; else wait until some of the jobs have ended.",
        is_temporary=True,
    ),
    Rejection(
        "breached requested QOS usage threshold",
        "The account has used up what its quality of service allows.",
        "Apply for more, leave `qos` out, or wait until the usage has decayed.",
        is_temporary=True,
    ),
    Rejection(
        "Requested node configuration is not available",
        "The partition has no node with these cores, memory, GPUs or disks.",
        _LESS,
    ),
    Rejection(
        "More processors requested than permitted|CPU count (per node|specification)",
        "The partition, or a limit, has fewer nodes or cores than that.",
        "Ask for less.",
    ),
    Rejection(
        "Requested partition configuration not available now",
        "The partition does not give so many nodes to one job, or not now.",
        "Ask for fewer `nodes`, or wait.",
        is_temporary=True,
    ),
    Rejection(
        "Node count specification invalid",
        "The partition does not give so many, or so few, nodes to one job.",
        "Ask for fewer `nodes`, or for more where it has a minimum.",
    ),
    Rejection(
        "Requested topology configuration is not available",
        "The nodes are not connected as `switches` or `segment` asks.",
        _LESS,
    ),
    Rejection(
        "Task count specification invalid|Task distribution specification invalid",
        "`ntasks`, `ntasks-per-node` and `distribution` do not fit together or with `nodes`.",
        "Correct them.",
    ),
    Rejection(
        "[Ii]nvalid generic resource|[Ii]nvalid (gres|GRES|Trackable RESource)",
        "The cluster has no such generic resource; `sinfo --format='%P %G'` lists them.",
    ),
    Rejection(
        "Duplicate generic resource|Requested GRES option unsupported|RestrictedCoresPerGPU",
        "The resources that `gres` and `gpus` name cannot be given so.",
        "Name each once, and ask for fewer cores per GPU.",
    ),
    Rejection(
        "Requested nodes not in this partition",
        "`nodelist` names nodes of another partition.",
        "Correct `nodelist` or `partition`.",
    ),
    Rejection(
        "Invalid node name",
        "`nodelist` or `exclude` names a node that does not exist.",
        "`sinfo --Node` lists them; correct the name.",
    ),
    Rejection(
        "Invalid (relative )?(qos|QOS)",
        "No such quality of service.",
        "Correct `qos`, or leave it out.",
    ),
    Rejection("Invalid wckey", "No such workload key for this account.", "Correct `wckey`."),
    Rejection(
        "Invalid license",
        "The cluster has no such licence; `scontrol show licenses` lists them.",
        "Correct `licenses`.",
    ),
    Rejection(
        "Licenses currently unavailable",
        "All licences of that name are in use.",
        "Wait.",
        is_temporary=True,
    ),
    Rejection(
        "[Ii]nvalid (preferred )?feature|--batch option is invalid|Invalid extra constraints",
        "No node has such a feature; `sinfo --format='%P %f'` lists them.",
        "Correct `constraint`, `prefer` or `batch`.",
    ),
    Rejection(
        "Circular job dependency",
        "The jobs in `dependency` wait for each other.",
        "Correct `dependency`.",
    ),
    Rejection(
        "Job dependency problem",
        "A job named in `dependency` does not exist any more.",
        "Correct `dependency`, or leave it out.",
    ),
    Rejection(
        "Access denied to requested reservation|Requested reservation is invalid",
        "There is no such reservation, it has ended, or it is not for this account.",
        "Correct `reservation`, or leave it out.",
    ),
    Rejection(
        "Requested reservation not usable now|Requested reservation is in use",
        "The reservation cannot be used now.",
        "Wait, or leave `reservation` out.",
        is_temporary=True,
    ),
    Rejection(
        "[Bb]urst [Bb]uffer permission denied|[Bb]urst [Bb]uffer request invalid",
        "`bb` or `bbf` is not written as the site wants it, or not open to this user.",
        "Correct it.",
    ),
    Rejection(
        "[Bb]urst [Bb]uffer resource limit exceeded",
        "More of the burst buffer is asked for than there is, or than is free.",
        "Ask for less in `bb`, or wait.",
        is_temporary=True,
    ),
    Rejection(
        "(Access/permission|permission) denied|not permitted to use this partition",
        "This user may not submit there.",
        "Choose another partition or account.",
    ),
    Rejection(
        "inactive or drain|Partition in DOWN state",
        "The partition takes no jobs now.",
        _LATER,
        is_temporary=True,
    ),
    Rejection(
        "Required node not available|Requested nodes are busy|Max powered up nodes",
        "Nodes that the request names are down, drained or reserved.",
        "Wait, or name no nodes.",
        is_temporary=True,
    ),
    Rejection(
        "System submissions disabled|maintenance reservation",
        "The site takes no jobs now, most likely for its maintenance.",
        "Wait; see the site's notices.",
        is_temporary=True,
    ),
    Rejection(
        "Unable to create job record, try again|temporarily unable to accept job",
        "The controller has too many jobs, or too much to do.",
        "Wait.",
        is_temporary=True,
        is_busy=True,
    ),
    Rejection(
        "Invalid job array",
        "`array` has an index beyond the cluster's MaxArraySize, or too many elements.",
        "`scontrol show config` tells MaxArraySize; split the array.",
    ),
    Rejection(
        "Pathname of a file, directory or other parameter too long|too large",
        "A value, or the script, is longer than Slurm takes.",
        "Shorten it.",
    ),
    Rejection(
        "DOS line breaks",
        "The script has Windows line endings.",
        "Convert the script's line endings, for example with dos2unix.",
    ),
    Rejection(
        "does not look like a batch script|Batch script is empty",
        "The script's first line names no interpreter.",
        "Begin it with '#!/bin/bash'.",
    ),
    Rejection(
        "Unable to open file",
        "The batch script cannot be read on the login node.",
        "Check that it lies there, and may be read.",
    ),
    Rejection(
        "unrecognized option|[Ii]nvalid option|not supported on this system|presently disabled",
        "This Slurm does not know an option given to it, or the site has it switched off.",
        "Leave it out.",
    ),
    Rejection(
        r"Invalid --?\S+ (specification|value|argument)|Invalid time spec",
        "Slurm does not read a value as it is written.",
        "Write it as sbatch(1) shows.",
    ),
)


def explain_rejection(stderr: str) -> Rejection | None:
    """Return what an sbatch refusal means; None for one that is in no table."""
    return next((each for each in REJECTIONS if re.search(each.pattern, stderr)), None)


def find_remedy(stderr: str) -> str:
    """Return the cause of an sbatch refusal and what to do; for an unknown one, where to look."""
    known = explain_rejection(stderr)
    if known is None:
        return "See sbatch(1) and the site's documentation for this message."
    return f"{known.cause} {known.remedy}".rstrip()


def is_temporary(stderr: str) -> bool:
    """Whether an sbatch refusal may pass by itself, so that a retry makes sense."""
    known = explain_rejection(stderr)
    return known is not None and known.is_temporary
