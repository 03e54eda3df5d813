"""Many small jobs as mapped tasks: what the chaos suite runs under a real scheduler."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from tests.chaos.ledger import build_job

NAME = "{{ params.prefix }}{{ '%04d' | format(ti.map_index) }}"


@dag(
    schedule=None,
    params={
        "ledger": Param("", type="string"),
        "prefix": Param("chaos-", type="string"),
        "beats": Param([], type="array"),
    },
    max_active_tasks=64,
    tags=["chaos"],
)
def chaos_mapped() -> None:
    @task(retries=20, retry_delay=timedelta(seconds=1))
    def variables(**context: Any) -> list[dict[str, str]]:
        return [{"CHAOS_BEATS": str(beats)} for beats in context["params"]["beats"]]

    SlurmSubmitOperator.partial(
        task_id="job",
        command=build_job("{{ params.ledger }}/" + NAME, beats="CHAOS_BEATS", fails=0),
        job_name=NAME,
        options={"time": "00:10:00", "mem": "50M", "exclude": "c1"},
        slurm_conn_id="slurm_chaos",
        poll_interval=1,
        deferrable=True,
        retries=30,
        retry_delay=timedelta(seconds=1),
        max_active_tis_per_dag=64,
    ).expand(env=variables())


chaos_mapped()
