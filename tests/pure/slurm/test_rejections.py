"""Every refusal that a real sbatch was seen to print has a remedy that fits it."""

from __future__ import annotations

import re

import pytest

from airflow_provider_csc.slurm.rejections import (
    REJECTIONS,
    explain_rejection,
    find_remedy,
    is_temporary,
)
from tests.pure.slurm.evidence import OUTPUTS, recorded

PREFIX = "sbatch: error: Batch job submission failed: "
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"

RECORDED = {
    "account": "Check `account` and `partition`.",
    "array": "MaxArraySize",
    "begin": "as sbatch(1) shows",
    "constraint": "Correct `constraint`",
    "cpus-of-partition": "fewer nodes or cores",
    "dos": "dos2unix",
    "empty": "#!/bin/bash",
    "gpus": "no node with these cores, memory, GPUs or disks",
    "gres": "no such generic resource",
    "licenses": "Correct `licenses`",
    "memory-of-partition": "Ask for less `mem`",
    "memory-syntax": "as sbatch(1) shows",
    "missing-file": "cannot be read on the login node",
    "no-shebang": "#!/bin/bash",
    "nodelist": "names a node that does not exist",
    "nodes-of-partition": "Ask for fewer `nodes`",
    "option": "This Slurm does not know an option",
    "partition": "Correct `partition`.",
    "partition-restricted": "the partition is not open to it",
    "reservation": "Correct `reservation`",
    "time-of-partition": "longer than the partition allows",
    "time-syntax": "as sbatch(1) shows",
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_refusal_has_its_remedy(name: str) -> None:
    text = recorded(f"sbatch-{name}").frame.text
    assert RECORDED[name] in find_remedy(text)
    assert not is_temporary(text)


def test_every_recorded_refusal_is_tested_above() -> None:
    """`accepted` is none, and without a controller nothing is known."""
    names = {path.stem.removeprefix("sbatch-") for path in OUTPUTS.glob("sbatch-*.json")}
    assert names == RECORDED.keys() | {"accepted", "no-controller"}


# CSC's "Why does my batch job fail", and LUMI's shorter text.
@pytest.mark.parametrize(
    ("text", "remedy", "temporary"),
    [
        (
            PREFIX + "Invalid account or account/partition combination specified",
            "you are not a member, its project lacks this service",
            False,
        ),
        (
            f"sbatch: error: AssocMaxSubmitJobLimit\n{PREFIX}{POLICY}",
            "a missing `account`, a partition that is closed to the project, or no billing units",
            True,
        ),
        (PREFIX + POLICY, "a missing `account`, too many jobs in the queue", True),
        (
            PREFIX + "Requested node configuration is not available",
            "no node with these cores, memory, GPUs or disks",
            False,
        ),
        (
            "sbatch: error: Unable to allocate resources: Job violates accounting/QOS policy",
            "no billing units left",
            True,
        ),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "too many jobs in the queue", True),
        ("sbatch: error: QOSGrpSubmitJobsLimit", "too many jobs in the queue", True),
        (f"sbatch: error: QOSGrpCpuLimit\n{PREFIX}{POLICY}", "Ask for less", False),
    ],
)
def test_a_refusal_that_csc_documents_has_its_cause(
    text: str, remedy: str, *, temporary: bool
) -> None:
    assert remedy in find_remedy(text)
    assert is_temporary(text) is temporary


# slurm_errno.c, 22.05 to 25.11: what the cluster of the recordings cannot be made to say.
@pytest.mark.parametrize(
    ("text", "remedy", "temporary"),
    [
        ("No partition specified or system default partition", "Set `partition`", False),
        ("Invalid qos specification", "Correct `qos`", False),
        ("Invalid QOS specification, relative QOS can only be used", "Correct `qos`", False),
        ("Invalid wckey specification", "Correct `wckey`", False),
        ("Job dependency problem", "`dependency` does not exist any more", False),
        ("Circular job dependency", "wait for each other", False),
        ("Access/permission denied", "This user may not submit there", False),
        (
            "User's group not permitted to use this partition",
            "This user may not submit there",
            False,
        ),
        ("Required partition not available (inactive or drain)", "takes no jobs now", True),
        ("Partition in DOWN state", "takes no jobs now", True),
        ("Required node not available (down, drained or reserved)", "name no nodes", True),
        ("Requested nodes are busy", "name no nodes", True),
        ("System submissions disabled", "site's notices", True),
        ("Job can not start due to maintenance reservation.", "site's notices", True),
        ("Unable to create job record, try again", "Wait", True),
        ("Licenses currently unavailable", "in use", True),
        ("Requested reservation not usable now", "Wait", True),
        ("Access denied to requested reservation", "Correct `reservation`", False),
        (
            "Requested account has breached requested QOS usage threshold",
            "until the usage has decayed",
            True,
        ),
        ("Invalid Trackable RESource (TRES) specification", "no such generic resource", False),
        ("Invalid GRES specification (with and without type", "no such generic", False),
        ("Duplicate generic resource (gres) specification", "Name each once", False),
        ("CPU count per node can not be satisfied", "fewer nodes or cores", False),
        ("CPU count specification invalid", "fewer nodes or cores", False),
        ("Memory specification cannot be satisfied", "Ask for less `mem`", False),
        ("Memory required by task is not available", "Ask for less `mem`", False),
        ("Requested partition configuration not available now", "Ask for fewer `nodes`", True),
        ("Requested topology configuration is not available", "`switches`", False),
        ("Task count specification invalid", "do not fit together", False),
        ("Requested nodes not in this partition", "Correct `nodelist` or `partition`", False),
        ("Invalid preferred feature specification", "`prefer`", False),
        ("Burst Buffer request invalid", "`bb`", False),
        ("Burst Buffer resource limit exceeded", "Ask for less in `bb`", True),
        ("Invalid time-min specification (exceeds job's time", "`time-min`", False),
        (
            "Pathname of a file, directory or other parameter too long",
            "longer than Slurm takes",
            False,
        ),
        ("Requested operation not supported on this system", "switched off", False),
    ],
)
def test_a_documented_refusal_has_its_remedy(text: str, remedy: str, *, temporary: bool) -> None:
    assert remedy in find_remedy(PREFIX + text)
    assert is_temporary(PREFIX + text) is temporary


@pytest.mark.parametrize(
    ("limit", "remedy"),
    [
        ("QOSMaxWallDurationPerJobLimit", "One job may not have so much"),
        ("QOSMaxCpuPerJobLimit", "One job may not have so much"),
        ("AssocMaxNodePerJobLimit", "One job may not have so much"),
        ("QOSMinCpuNotSatisfied", "or so little"),
        ("QOSMaxGRESPerUser", "beyond what the account"),
        ("AssocGrpCPUMinutesLimit", "billing units"),
        ("AssocGrpBillingMinutes", "billing units"),
    ],
)
def test_a_limit_that_waiting_does_not_change_is_not_temporary(limit: str, remedy: str) -> None:
    """Slurm names it before a sentence that speaks of a "job submit limit" whatever the limit."""
    text = f"sbatch: error: {limit}\n{PREFIX}{POLICY}"
    assert remedy in find_remedy(text)
    assert not is_temporary(text)


@pytest.mark.parametrize("text", ["", "nobody knows", PREFIX, "Submitted batch job 123"])
def test_for_any_other_refusal_it_says_where_to_look(text: str) -> None:
    assert find_remedy(text).startswith("See sbatch(1)")
    assert explain_rejection(text) is None
    assert not is_temporary(text)


def test_no_entry_stands_in_the_shadow_of_another() -> None:
    """Each alternative that is plain text finds its own entry."""
    plain = [each for each in REJECTIONS if not re.search(r"[()\[\]?*+\\]", each.pattern)]
    assert len(plain) > 20
    for entry in plain:
        for text in entry.pattern.split("|"):
            assert explain_rejection(text) is entry, text
