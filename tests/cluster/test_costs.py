"""What a job is said to have cost is what sacct's own figures come to, by hand."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.errors import JobExitCodeError
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.policy import SlurmRetryPolicy
from tests.support.task import build_context, run_task

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import SlurmConnection

pytestmark = pytest.mark.cluster

# As Roihu bills: by cores or memory, whichever is dearer, and by GPUs.
PROFILE = """
name: priced
title: The test cluster, with prices
partitions:
  small: {max_time: 3-00:00:00, cores_per_node: 8, billing: cpu}
  gpu: {sharing: gpus, gpus: {type: gh200, per_node: 4}, billing: gpu}
billing:
  cpu: {unit: BU, highest_of: [{of: cores, factor: 750}, {of: memory_gib, factor: 375}]}
  gpu: {unit: GPU BU, highest_of: [{of: gpus, factor: 200000}]}
"""
GIB = 1024


@pytest.fixture(autouse=True)
def _priced(
    slurm_connection: SlurmConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "priced.yaml").write_text(PROFILE)
    monkeypatch.setenv("AIRFLOW__CSC__SITES_FOLDER", str(tmp_path))
    slurm_connection.set(site="priced")


def as_alice(command: str) -> str:
    words = ["runuser", "-u", "alice", "--", "bash", "-c", command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def accounted(job_id: str) -> list[tuple[dict[str, str], int]]:
    """What each run of each of a job's tasks was given, and for how many seconds."""
    fields = "AllocTRES,ElapsedRaw"
    rows = as_alice(f"sacct -n -P -X --duplicates -j {job_id} --format={fields}").splitlines()
    pairs = [row.split("|") for row in rows]
    return [
        (dict(item.split("=") for item in tres.split(",") if item), int(seconds))
        for tres, seconds in pairs
    ]


def mebibytes(text: str) -> float:
    return float(text[:-1]) * {"M": 1, "G": GIB}[text[-1]]


def by_hand(job_id: str) -> float:
    """The formula above, written out: max(750 cores, 375 GiB) for each hour."""
    return sum(
        max(750 * int(tres["cpu"]), 375 * mebibytes(tres["mem"]) / GIB) * seconds / 3600
        for tres, seconds in accounted(job_id)
        if seconds
    )


def operator(**arguments: Any) -> SlurmSubmitOperator:
    options = {"partition": "small", "time": "00:05:00", "mem": "1G"}
    options |= arguments.pop("options", {})
    return SlurmSubmitOperator(
        **{"task_id": "job", "poll_interval": 0.5, "deferrable": True, "options": options}
        | arguments
    )


@pytest.mark.parametrize(
    ("options", "hourly"),
    [
        # 2 cores, 1 GiB: max(1500, 375).
        ({"cpus_per_task": 2}, 1500),
        # 1 core, 6 GiB: max(750, 2250).
        ({"mem": "6G"}, 2250),
        # 2 nodes of 3 tasks, 500 MiB for each: max(6 * 750, 375 * 3000 / 1024) = max(4500, 1099).
        ({"nodes": 2, "ntasks_per_node": 3, "mem": None, "mem_per_cpu": "500M"}, 4500),
    ],
)
def test_a_job_costs_what_it_was_given_times_its_seconds(
    options: dict[str, Any], hourly: float
) -> None:
    result = run_task(operator(command="sleep 3", options=options))

    ((_, seconds),) = accounted(result["job_id"])
    assert seconds == result["elapsed_seconds"] >= 3
    units = result["billing_units"]
    assert units["actual"] == pytest.approx(hourly * seconds / 3600, abs=1e-4)
    assert units["actual"] == pytest.approx(by_hand(result["job_id"]), abs=1e-4)
    # Five minutes of the same.
    assert (units["estimated"], units["unit"]) == (pytest.approx(hourly / 12), "BU")


def test_gpus_are_counted_as_accounting_records_them() -> None:
    options = {"partition": "gpu", "gres": "gpu:gh200:2"}
    result = run_task(operator(command="sleep 2", options=options))
    ((tres, seconds),) = accounted(result["job_id"])
    assert tres["gres/gpu"] == "2"
    assert result["billing_units"]["actual"] == pytest.approx(400_000 * seconds / 3600, abs=1e-4)
    assert result["billing_units"]["unit"] == "GPU BU"


def test_all_tasks_of_an_array_are_added_up() -> None:
    task = operator(command="sleep $SLURM_ARRAY_TASK_ID", options={"array": "1-4%2"})
    result = run_task(task)
    assert len(accounted(result["job_id"])) == 4
    units = result["billing_units"]
    assert units["actual"] == pytest.approx(by_hand(result["job_id"]), abs=1e-4)
    assert units["estimated"] == pytest.approx(4 * 750 / 12)


def test_both_runs_of_a_job_that_slurm_requeued_are_paid_for() -> None:
    command = '[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || { sleep 4; scontrol requeue "$SLURM_JOB_ID"; sleep 60; }'
    result = run_task(operator(command=command))
    runs = [seconds for _, seconds in accounted(result["job_id"]) if seconds]
    assert len(runs) >= 1
    assert sum(runs) >= 4
    units = result["billing_units"]
    assert units["actual"] == pytest.approx(by_hand(result["job_id"]), abs=1e-4)
    # Results are rounded to four digits.
    assert units["actual"] >= round(750 * 4 / 3600, 4)


def test_a_job_that_fails_is_paid_for_too() -> None:
    task = operator(command="sleep 2; exit 3")
    context = build_context(task)
    with pytest.raises(JobExitCodeError):
        run_task(task, context)
    cost = context["ti"].xcoms["slurm_cost"]
    assert cost["actual"] == pytest.approx(by_hand(cost["job_id"]), abs=1e-4)
    assert cost["actual"] >= 750 * 2 / 3600


def test_an_escalation_is_refused_and_what_was_spent_is_named() -> None:
    """750 BU an hour: the first job's minute can cost 12.5, the second's 2 minutes another 25."""
    options = {"time": "00:01:00"}
    policy = SlurmRetryPolicy(time_limit=1)
    task = operator(command="sleep 200", options=options, on_failure=policy, max_billing_units=30)
    context = build_context(task)
    with pytest.raises(AirflowFailException, match=r"this try has spent 1[2-9]\S* BU already"):
        run_task(task, context)
    cost = context["ti"].xcoms["slurm_cost"]
    assert cost["actual"] == pytest.approx(by_hand(cost["job_id"]), abs=1e-4)


def test_a_job_beyond_its_limit_leaves_nothing_on_the_cluster(
    slurm_connection: SlurmConnection,
) -> None:
    label = f"dear-{time.time_ns()}"
    slurm_connection.set(site="priced", work_dir=f"~/{label}")
    task = operator(
        command="true",
        job_name=label,
        max_billing_units=62.4,
        on_failure=SlurmRetryPolicy(out_of_memory=1),
    )
    with pytest.raises(AirflowFailException, match=r"costs at most 62\.5 BU"):
        run_task(task)
    assert as_alice(f"find ~ -maxdepth 1 -name {label}") == ""
    assert label not in as_alice("squeue --me --noheader --format=%j")


def test_memory_and_efficiency_are_measured() -> None:
    command = "python3 -c 'x = bytearray(300 << 20); import time; time.sleep(8)'"
    result = run_task(operator(command=command))
    assert 0.29 < result["memory_efficiency"] < 0.6
    assert result["advice"] == []


def test_what_a_job_was_given_can_be_asked_for() -> None:
    result = run_task(operator(command="true"))
    shares = SlurmHook().shares(result["job_id"])
    assert all(share.partition == "small" and "cpu=1" in share.tres for share in shares)
