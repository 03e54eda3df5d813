"""
What sbatch's refusals mean and what a person can do about each.

Sources: slurm_errno.c (the texts), CSC's "Why does my batch job fail" (the causes).
"""

from __future__ import annotations

import re

_REMEDIES = (
    (
        r"Invalid account or account/partition combination",
        (
            "The account is unknown, you are not a member, its project lacks this service, or the "
            "partition is not open to it. Check `account` and `partition`."
        ),
    ),
    (
        r"[Ii]nvalid partition",
        "No such partition here; `sinfo --summarize` lists them. Correct `partition`.",
    ),
    (
        r"Requested time limit is invalid",
        (
            "`time` is missing or longer than the partition allows; "
            "`scontrol show partition` tells its MaxTime."
        ),
    ),
    (
        r"Memory specification can ?not be satisfied",
        "No node of the partition has that much memory. Ask for less `mem`, or another partition.",
    ),
    (
        r"Requested node configuration is not available",
        (
            "The partition has no node with these cores, memory, GPUs or disks. Ask for less, or "
            "for another partition."
        ),
    ),
    (
        r"More processors requested than permitted|CPU count per node can ?not be satisfied",
        "The partition, or a limit, has fewer nodes or cores than that. Ask for less.",
    ),
    (
        r"Node count specification invalid|Requested partition configuration not available",
        "The partition does not give so many nodes to one job. Ask for fewer `nodes`.",
    ),
    (
        r"AssocMaxSubmitJobLimit|violates accounting/QOS policy",
        (
            "A limit of the account or its quality of service: a missing `account`, too many jobs "
            "in the queue, too much asked for, or no billing units left."
        ),
    ),
    (
        r"[Ii]nvalid generic resource|[Ii]nvalid (gres|Trackable RESource)",
        "The cluster has no such generic resource; `sinfo --format='%P %G'` lists them.",
    ),
    (r"Invalid qos", "Correct `qos`, or leave it out."),
    (r"[Ii]nvalid feature", "Correct `constraint`; `sinfo --format='%P %f'` lists the features."),
    (r"Job dependency problem", "A job named in `dependency` does not exist any more."),
    (
        r"(Access/permission|permission) denied|not permitted to use this partition",
        "This user may not submit there. Choose another partition or account.",
    ),
    (r"inactive or drain", "The partition takes no jobs now. Choose another, or wait."),
    (r"DOS line breaks", "Convert the script's line endings, for example with dos2unix."),
    (r"unrecognized option|[Ii]nvalid option", "This Slurm does not know an option given to it."),
)


# What may be otherwise in a while: a queue that is full, a partition that is drained.
_TEMPORARY = re.compile(
    r"(QOS|Assoc)\w*(Max|Grp)\w*(Jobs?|Submit)\w*Limit|job submit limit|inactive or drain"
)


def find_remedy(stderr: str) -> str:
    """Return what to do about an sbatch refusal; for an unknown one, where to look."""
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, stderr):
            return remedy
    return "See sbatch(1) and the site's documentation for this message."


def is_temporary(stderr: str) -> bool:
    """Whether an sbatch refusal may pass by itself, so that a retry makes sense."""
    return bool(_TEMPORARY.search(stderr))
