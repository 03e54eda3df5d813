"""One trivial task each: what the benchmark's part `overhead` runs."""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator

OPTIONS = {"time": "00:05:00", "mem": "10M", "ntasks": 1}


@dag(schedule=None, tags=["benchmark"])
def overhead_bash():
    BashOperator(task_id="job", bash_command="true")


@dag(schedule=None, tags=["benchmark"])
def overhead_deferred():
    SlurmSubmitOperator(
        task_id="job", command="true", options=OPTIONS, poll_interval=5, deferrable=True
    )


@dag(schedule=None, tags=["benchmark"])
def overhead_in_worker():
    SlurmSubmitOperator(
        task_id="job", command="true", options=OPTIONS, poll_interval=5, deferrable=False
    )


overhead_bash()
overhead_deferred()
overhead_in_worker()
