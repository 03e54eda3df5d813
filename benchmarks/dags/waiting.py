"""Jobs that wait: what the benchmark's part `deferred` watches."""

from airflow.sdk import Param, dag, task

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator


@dag(
    schedule=None,
    params={"jobs": Param(50, type="integer"), "name": Param("bench", type="string")},
    tags=["benchmark"],
)
def waiting():
    @task
    def commands(params: dict) -> list[str]:
        return [f"echo job {number}" for number in range(params["jobs"])]

    SlurmSubmitOperator.partial(
        task_id="job",
        job_name="{{ params.name }}",
        options={"time": "00:05:00", "mem": "10M", "hold": True},
        poll_interval=5,
        deferrable=True,
    ).expand(command=commands())


waiting()
