"""Jobs that wait: what the benchmark `waiting.py` watches."""

from airflow.sdk import Param, dag

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator


@dag(schedule=None, params={"jobs": Param(50, type="integer")}, tags=["benchmark"])
def waiting():
    def commands(params: dict) -> list[str]:
        return [f"echo job {number}; sleep 90" for number in range(params["jobs"])]

    from airflow.sdk import task

    SlurmSubmitOperator.partial(
        task_id="job",
        options={"time": "00:05:00", "mem": "10M"},
        poll_interval=5,
        deferrable=True,
    ).expand(command=task(commands)())


waiting()
