"""A hundred of our tasks, as a DAG file has them."""

from airflow.sdk import dag

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator


@dag(schedule=None)
def parsed():
    for number in range(100):
        SlurmSubmitOperator(task_id=f"task_{number}", command=f"echo {number}", deferrable=True)


parsed()
