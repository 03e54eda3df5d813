"""A task's own limits on the real cluster: what is reached is cancelled, with notice where asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.errors import JobExitCodeError, JobTaskLimitError
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from tests.support.task import run_task

if TYPE_CHECKING:
    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

SAVES = """#!/bin/bash
trap 'echo saving; sleep 1; echo saved; exit 5' USR1
echo running
while :; do sleep 0.2; done
"""
IGNORES = """#!/bin/bash
trap '' TERM
echo running
while :; do sleep 0.2; done
"""


def test_a_limit_gives_the_job_its_own_signal_and_the_grace(
    slurm_connection: SlurmConnection, task_log: list[str]
) -> None:
    slurm_connection.set(poll_interval_floor=1)
    task = SlurmSubmitOperator(
        task_id="saves",
        script=SAVES,
        options={"signal": "B:USR1@60"},
        timeout=2,
        kill_grace=30,
        poll_interval=1,
        deferrable=True,
    )
    with pytest.raises(JobExitCodeError) as failure:
        run_task(task)
    assert failure.value.details["exit_code"] == 5
    assert {"saving", "saved"} <= set(task_log)
    assert any("timeout of 2 s is reached" in line for line in task_log)


def test_a_job_that_ignores_the_signal_of_a_limit_is_cancelled_after_the_grace(
    slurm_connection: SlurmConnection,
) -> None:
    slurm_connection.set(poll_interval_floor=1)
    task = SlurmSubmitOperator(
        task_id="ignores", script=IGNORES, timeout=2, kill_grace=3, poll_interval=1, deferrable=True
    )
    with pytest.raises(JobTaskLimitError) as failure:
        run_task(task)
    assert failure.value.details["limit"] == "timeout"
