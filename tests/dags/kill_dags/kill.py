"""DAGs whose jobs sleep until somebody kills the task, deferred and not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator

# On a busy machine it takes ten seconds from the start of a run to its job.
RUN_SECONDS = 40
TASK_SECONDS = 20


def define(dag_id: str, *, run_timeout: timedelta | None = None, **arguments: Any) -> DAG:
    with DAG(dag_id, schedule=None, catchup=False, dagrun_timeout=run_timeout) as dag:
        SlurmSubmitOperator(
            task_id="job",
            retries=0,
            command="sleep 600",
            options={"mem": "20M", "ntasks": 1},
            poll_interval=2,
            **arguments,
        )
    return dag


for waits, is_deferrable in (("deferred", True), ("waiting", False)):
    for defined in (
        define(f"kill_{waits}", deferrable=is_deferrable),
        define(
            f"kill_{waits}_run_timeout",
            deferrable=is_deferrable,
            run_timeout=timedelta(seconds=RUN_SECONDS),
        ),
        define(
            f"kill_{waits}_task_timeout",
            deferrable=is_deferrable,
            execution_timeout=timedelta(seconds=TASK_SECONDS),
        ),
    ):
        globals()[defined.dag_id] = defined

# sbatch of this one takes 10 s: the connection's set-up lines put a slow one before the real one.
submitting = define("kill_submitting", deferrable=False, slurm_conn_id="slurm_slow")
