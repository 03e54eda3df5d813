"""One task, one job array: twenty runs of one script, of which one may fail."""

from airflow.sdk import dag, task

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator


@task
def report(result: dict) -> int:
    """Say which job ran which index; return how many completed."""
    for index, run in result["array"]["tasks"].items():
        print(f"{index}: job {run['job_id']} {run['state']}")
    return result["array"]["counts"]["COMPLETED"]


@dag(schedule=None, tags=["example"])
def slurm_array():
    simulate = SlurmSubmitOperator(
        task_id="simulate",
        # Each run finds its own number, and in a retry the same as before.
        command='echo "seed $SLURM_ARRAY_TASK_ID on $SLURMD_NODENAME"; sleep 1',
        options={"array": "0-19%8", "time": "00:02:00", "mem": "50M"},
        array_logs="all",
        max_failed_tasks=0.05,
        retries=1,  # runs only what did not complete
        deferrable=True,
    )
    report(simulate.output)


slurm_array()
