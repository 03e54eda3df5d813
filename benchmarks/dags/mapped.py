"""Mapped tasks that share their submissions: what the benchmark's part `mapped` runs."""

from airflow.sdk import Param, dag, task

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator


@dag(
    schedule=None,
    params={"jobs": Param(1000, type="integer"), "name": Param("bench", type="string")},
    max_active_tasks=32,
    tags=["benchmark"],
)
def mapped():
    @task
    def seeds(params: dict) -> list[dict[str, int]]:
        return [{"SEED": number} for number in range(params["jobs"])]

    SlurmSubmitOperator.partial(
        task_id="job",
        job_name="{{ params.name }}",
        command="echo seed $SEED",
        options={"time": "00:05:00", "mem": "10M"},
        poll_interval=5,
        deferrable=True,
        coalesce=True,
    ).expand(env=seeds())


mapped()
