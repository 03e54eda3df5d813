"""What a job needs, as Airflow handles it: parsing, rendering, storing, mapping."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.sites.resources import Resources
from airflow_provider_csc.slurm.attempt import Attempt
from tests.airflow.test_slurm_classes import serialize


def operator(**arguments: Any) -> SlurmSubmitOperator:
    return SlurmSubmitOperator(**{"task_id": "job", "command": "true"} | arguments)


def test_templates_are_filled_in() -> None:
    one = operator(job_resources=Resources(nodes="{{ params.nodes }}", time="{{ params.time }}"))

    one.render_template_fields({"params": {"nodes": 2, "time": "30"}})

    assert one.job_resources == {"nodes": "2", "time": "30"}


def test_a_wrong_field_is_an_error_of_the_dag_file() -> None:
    with pytest.raises(ConfigError, match=r"resources.nodes: 0"):
        operator(job_resources=Resources(nodes=0))


def test_airflows_own_argument_is_refused_with_the_right_name() -> None:
    with pytest.raises(ConfigError, match="Give it as job_resources"):
        operator(resources={"nodes": 2})
    with pytest.raises(ConfigError, match="Give it as job_resources"):
        SlurmSubmitOperator.partial(task_id="job", resources={"nodes": 2})


def test_a_stored_dag_holds_them_be_the_task_mapped_or_not() -> None:
    with DAG("stored", schedule=None) as dag:
        operator(job_resources=Resources(nodes=2))
        SlurmSubmitOperator.partial(task_id="mapped", command="true").expand(
            job_resources=[{"nodes": 1}, {"nodes": 2}]
        )

        @task.slurm(task_id="function", job_resources=Resources(cpus_per_task=4))
        def function() -> None: ...

        function()

    text = str(serialize(dag))

    assert text.count("job_resources") >= 3
    assert "cpus_per_task" in text


def test_a_policys_changes_hold_over_what_was_asked_for() -> None:
    one = operator(job_resources=Resources(memory_per_node="2G"), options={"time": "10"})

    spec = one._build_spec(Attempt.from_payload(None).followed(changes={"mem": "4G"}, history=()))

    assert spec.resources == {"memory_per_node": "2G"}
    assert spec.changes == {"mem": "4G"}
