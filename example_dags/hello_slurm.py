"""One task, one Slurm job: its output appears in the task's log while it runs."""

from airflow.sdk import dag

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator


@dag(schedule=None, tags=["example"])
def hello_slurm():
    SlurmSubmitOperator(
        task_id="hello",
        command="echo Hello from $(hostname), job $SLURM_JOB_ID on $SLURM_JOB_NODELIST",
        options={"time": "00:01:00", "mem": "100M"},
        deferrable=True,  # wait in the triggerer, not in a worker's slot
    )


hello_slurm()
