"""What a real Slurm lets wait, or would refuse, is told before a job is submitted."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.__main__ import main
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from tests.cluster.test_outages import Certificate
from tests.support.task import build_context, run_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.conftest import SlurmConnection

    Check = Callable[..., tuple[int, dict[str, str]]]

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

# So far away that no other job is in its way; no partition lets a job be that long.
FAR_SECONDS = 20 * 86_400


@pytest.fixture
def admin(cluster: dict[str, Any]) -> Callable[..., str]:
    """Do something as root, who administers the cluster."""
    environment = {**os.environ, "SLURM_CONF": cluster["slurm_conf"]}

    def do(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    return do


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given = {"task_id": "job", "command": "true", "poll_interval": 0.5}
    return SlurmSubmitOperator(**given | arguments)


def told(log: list[str]) -> list[str]:
    return [line for line in log if line.startswith("Preflight: ")]


@pytest.fixture
def maintenance(admin: Callable[..., str]) -> Iterator[str]:
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

    line, limit = told(task_log)
    assert f"A maintenance ({maintenance}) of all nodes is from " in line
    assert "With a time of less than 19-23:" in line or "With a time of less than 20-00:" in line
    assert "Partition 'small' gives a job at most 3-00:00:00" in limit


def test_a_job_that_ends_before_hears_nothing(maintenance: str, task_log: list[str]) -> None:
    task = operator(options={"time": "00:01:00"})

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
    slurm_connection: SlurmConnection,
    task_log: list[str],
    tmp_path: Path,
    admin: Callable[..., str],
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
    few, files, unseen = told(task_log)
    assert f"left at {disk}." in few
    assert "more files can be made" in files
    assert f"on {disk}, a tmpfs in the log-in node's memory. Compute nodes do not see it" in unseen


def test_a_dry_run_submits_nothing_and_tells_when_a_job_would_start(
    task_log: list[str], admin: Callable[..., str]
) -> None:
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


# ---- airflow csc check ----


@pytest.fixture
def certificate(cluster: dict[str, Any]) -> Iterator[Certificate]:
    with tempfile.TemporaryDirectory() as place:
        yield Certificate(cluster, Path(place))


@pytest.fixture
def check(
    cluster: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Check:
    """Check ``slurm_default``; return the exit code, and by what was looked at what is said."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    monkeypatch.setenv("AIRFLOW__CSC__SITES_FOLDER", cluster["sites_folder"])

    def look(*options: str) -> tuple[int, dict[str, str]]:
        given = [word for option in options for word in ("--option", option)]
        code: Any = 0
        try:
            main(["check", "slurm_default", "--output", "json", *given])
        except SystemExit as end:
            code = end.code
        said: dict[str, str] = {}
        for row in json.loads(capsys.readouterr().out):
            # Of maintenances there may be several, those of other tests.
            before = said.get(row["check"], "")
            said[row["check"]] = f"{before}{row['result']}: {row['what']}\n"
        return code, said

    return look


@pytest.mark.parametrize("site", [{}, {"site": "testcluster"}])
def test_a_connection_that_is_well_is_found_well(
    slurm_connection: SlurmConnection, check: Check, site: dict[str, str]
) -> None:
    slurm_connection.set(**site)

    code, said = check("partition=small", "time=1", "nodes=2")

    assert code == 0, said
    assert all(text.startswith("ok: ") for text in said.values())
    assert said["account"] == "ok: alice may charge project_2001234.\n"
    assert "small is UP, for jobs of at most 3-00:00:00. Open are: small, test" in said["partition"]
    assert "Submitted now, it would start at 20" in said["job"]
    assert ("site" in said) == bool(site)


def test_a_planted_maintenance_is_found(maintenance: str, check: Check) -> None:
    _, said = check()
    assert "The next one (" in said["maintenance"]

    code, said = check("time=25-00:00:00")

    assert code == 1
    assert f"warning: A maintenance ({maintenance}) of all nodes is from " in said["maintenance"]
    assert "warning: Partition 'small' gives a job at most 3-00:00:00" in said["partition"]
    assert "warning: Slurm would refuse the job" in said["job"]


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ("partition=down", "warning: Partition 'down' is DOWN."),
        ("partition=smal", "warning: There is no partition 'smal' here."),
        # sbatch --test-only knows what a list of accounts does not tell.
        ("partition=restricted", "unknown: Partition 'restricted' lists only the accounts none."),
    ],
)
def test_a_partition_that_takes_no_job_is_found(check: Check, option: str, found: str) -> None:
    code, said = check(option)

    assert code == 1
    assert said["partition"] == f"{found}\n"


def test_a_certificate_that_expires_is_found(
    slurm_connection: SlurmConnection, certificate: Certificate, check: Check
) -> None:
    slurm_connection.set(key_file=str(certificate.key))

    certificate.sign("+1d")
    _, said = check()
    assert said["certificate"].startswith("ok: Its certificate is valid until 20")

    code, said = check("time=2-00:00:00")
    assert code == 1
    assert "and a job of now may run until 20" in said["certificate"]
    assert said["log-in"].startswith("ok: ")

    certificate.sign("-1s")
    code, said = check()
    assert code == 1
    assert said["certificate"].startswith("warning: The SSH certificate EXPIRED on 20")
    assert said["log-in"].startswith("warning: ")
    assert "refused the log-in" in said["log-in"]
