"""
A DAG whose tasks share a limit, beside one that adds up what they cost.

Its site costs one unit for each core and minute; the limit is a parameter of the run.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.operators.slurm_billing import SlurmBillingSummaryOperator

OPTIONS = {"partition": "small", "time": "00:04:00", "mem": "20M", "cpus_per_task": 2}
# Two cores for four minutes.
WORST = 8

with DAG(
    "cost",
    schedule=None,
    params={"units": Param(100, type="number")},
    default_args={
        "retries": 0,
        "slurm_conn_id": "slurm_priced",
        "deferrable": True,
        "options": OPTIONS,
        "poll_interval": 1,
        "max_billing_units_per_run": "{{ params.units }}",
    },
) as dag:
    first = SlurmSubmitOperator(task_id="first", command="sleep 5")
    fails = SlurmSubmitOperator(task_id="fails", command="sleep 2; exit 1")
    many = SlurmSubmitOperator.partial(task_id="many", trigger_rule="all_done").expand(
        command=["sleep 1", "sleep 2"]
    )
    last = SlurmSubmitOperator(
        task_id="last",
        command="sleep 1",
        options=OPTIONS | {"time": "01:00:00"},
        trigger_rule="all_done",
    )
    total = SlurmBillingSummaryOperator(task_id="total")
    [first, fails] >> many >> last >> total
