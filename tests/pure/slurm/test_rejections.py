"""Every refusal that a real sbatch was seen to print has a remedy that fits it."""

from __future__ import annotations

import pytest

from airflow_provider_csc.slurm.rejections import find_remedy
from tests.pure.slurm.evidence import recorded


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("account", "Check `account` and `partition`."),
        ("partition", "Correct `partition`."),
        ("partition-restricted", "the partition is not open to it"),
        ("time-of-partition", "longer than the partition allows"),
        ("memory-of-partition", "Ask for less `mem`"),
        ("nodes-of-partition", "Ask for fewer `nodes`."),
        ("cpus-of-partition", "fewer nodes or cores"),
        ("gres", "no such generic resource"),
        ("gpus", "no node with these cores, memory, GPUs or disks"),
        ("constraint", "Correct `constraint`"),
        ("option", "This Slurm does not know an option"),
        ("dos", "dos2unix"),
    ],
)
def test_a_recorded_refusal_has_its_remedy(name: str, remedy: str) -> None:
    assert remedy in find_remedy(recorded(f"sbatch-{name}").frame.text)


# slurm_errno.c, 22.05 to 25.11: what the cluster of the recordings cannot be made to say.
@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "too many jobs in the queue",
        ),
        ("sbatch: error: AssocMaxSubmitJobLimit", "too many jobs in the queue"),
        ("Invalid qos specification", "Correct `qos`"),
        ("Job dependency problem", "`dependency` does not exist any more"),
        ("Access/permission denied", "This user may not submit there"),
        (
            "User's group not permitted to use this partition",
            "This user may not submit there",
        ),
        ("Required partition not available (inactive or drain)", "takes no jobs now"),
        ("Invalid Trackable RESource (TRES) specification", "no such generic resource"),
        ("CPU count per node can not be satisfied", "fewer nodes or cores"),
        ("Memory specification cannot be satisfied", "Ask for less `mem`"),
        ("Requested partition configuration not available now", "Ask for fewer `nodes`"),
    ],
)
def test_a_documented_refusal_has_its_remedy(text: str, remedy: str) -> None:
    prefix = "sbatch: error: Batch job submission failed: "
    assert remedy in find_remedy(prefix + text)


@pytest.mark.parametrize("name", ["sbatch-reservation", "sbatch-licenses", "sbatch-no-shebang"])
def test_for_any_other_refusal_it_says_where_to_look(name: str) -> None:
    assert find_remedy(recorded(name).frame.text).startswith("See sbatch(1)")
    assert find_remedy("") == find_remedy("nobody knows")
