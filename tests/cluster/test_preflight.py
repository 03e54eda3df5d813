"""What a real Slurm lets wait, or would refuse, is told before a job is submitted."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from tests.support.task import build_context, run_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

# So far away that no other job is in its way; no partition lets a job be that long.
FAR_SECONDS = 20 * 86_400


def admin(*words: str) -> str:
    """Do something as root, who administers the cluster."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given = {"task_id": "job", "command": "true", "poll_interval": 0.5}
    return SlurmSubmitOperator(**given | arguments)


def told(log: list[str]) -> list[str]:
    return [line for line in log if line.startswith("Preflight: ")]


@pytest.fixture
def maintenance() -> Iterator[str]:
    start = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(time.time() + FAR_SECONDS))}"
    made = admin(
        *("scontrol", "create", "reservation", f"StartTime={start}", "Duration=60", "Users=root"),
        *("Nodes=ALL", "Flags=MAINT,IGNORE_JOBS"),
    )
    name = made.rpartition(" ")[2]
    yield name
    admin("scontrol", "delete", f"ReservationName={name}")


def test_a_job_that_would_meet_a_maintenance_hears_of_it(
    maintenance: str, task_log: list[str]
) -> None:
    task = operator(options={"time": "25-00:00:00"})

    # No partition has so much time: it is the preflight that comes first.
    with pytest.raises(AirflowFailException, match="Slurm refused the job"):
        run_task(task, build_context(task))

    [line] = told(task_log)
    assert f"A maintenance ({maintenance}) of all nodes is from " in line
    assert "With a time of less than 19-23:" in line or "With a time of less than 20-00:" in line


def test_a_job_that_ends_before_hears_nothing(maintenance: str, task_log: list[str]) -> None:
    task = operator(options={"time": "00:05:00"})

    result = run_task(task, build_context(task))

    assert result["state"] == "COMPLETED"
    assert not told(task_log)


def test_somebody_elses_account_is_told_before_it_is_refused(task_log: list[str]) -> None:
    task = operator(options={"account": "project_2005678", "time": "00:05:00"})

    with pytest.raises(AirflowFailException, match="Slurm refused the job"):
        run_task(task, build_context(task))

    [line] = told(task_log)
    assert "alice is no member of account 'project_2005678'" in line
    assert "project_2001234" in line


def test_a_full_disk_is_told_of(
    slurm_connection: SlurmConnection, task_log: list[str], tmp_path: Path
) -> None:
    # pytest's own directory is closed to alice.
    disk = Path("/mnt") / tmp_path.name
    disk.mkdir()
    admin("mount", "-t", "tmpfs", "-o", "size=20m,nr_inodes=60,mode=1777", "tmpfs", str(disk))
    try:
        slurm_connection.set(work_dir=str(disk / "runs"))
        task = operator()

        result = run_task(task, build_context(task))
    finally:
        admin("umount", "--lazy", str(disk))
        disk.rmdir()

    assert result["state"] == "COMPLETED"
    few, files = told(task_log)
    assert f"left at {disk}." in few
    assert "more files can be made" in files


def test_a_dry_run_submits_nothing_and_tells_when_a_job_would_start(task_log: list[str]) -> None:
    task = operator(dry_run=True, options={"time": "00:05:00", "cpus-per-task": 2})
    context = build_context(task)

    result = run_task(task, context)

    assert result["partition"] == "small"
    assert result["start_time"]
    assert "--cpus-per-task=2" in result["options"]
    assert "job_id" not in context["ti"].xcoms
    assert any(line.startswith("Submitted now, it would start at ") for line in task_log)
    queue = admin("squeue", "--noheader", "--states=all", "--format=%j")
    assert str(context["ti"].run_id) not in queue


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"options": {"partition": "nowhere"}}, "sinfo --summarize"),
        ({"options": {"time": "25-00:00:00"}}, "Nothing was submitted"),
        ({"script": "#!/bin/bash\n#SBATCH --mem=9000G\ntrue\n"}, "Nothing was submitted"),
    ],
)
def test_a_dry_run_fails_as_the_submission_would(arguments: dict[str, Any], said: str) -> None:
    given = {"command": None} | arguments if "script" in arguments else arguments
    task = operator(dry_run=True, **given)

    with pytest.raises(AirflowFailException, match=said):
        run_task(task, build_context(task))
