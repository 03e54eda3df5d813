"""Configurations where they are used: read from a real object store, run by a real cluster."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.hooks.configs import load_configs, load_job
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from tests.support.task import build_context, run_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.conftest import SlurmConnection

pytestmark = pytest.mark.cluster

TEXT = b"modules: [gcc]\nvenv:\n  name: exp-venv\n  path: /users/(csc-user)\n"


def put(client: Any, bucket: str, data: bytes, key: str = "configs.yaml") -> str:
    client.put_object(Bucket=bucket, Key=key, Body=data)
    return f"s3://{bucket}/{key}"


def test_an_object_is_loaded_with_its_templates_and_placeholders(
    client: Any, bucket: str, slurm_connection: SlurmConnection
) -> None:
    uri = put(client, bucket, TEXT + b"  modules: ['{{ wanted }}']\n")

    configs = load_configs(uri, context={"wanted": "pytorch"}, slurm_conn_id="slurm_default")

    assert configs.venv is not None
    assert (configs.venv.directory, configs.venv.modules) == ("/users/alice/exp-venv", ["pytorch"])


def test_a_mistake_in_an_object_is_told_with_its_place(client: Any, bucket: str) -> None:
    uri = put(client, bucket, TEXT.replace(b"name", b"nme"))

    with pytest.raises(ConfigError, match=f"{uri}:3:3: venv.nme: .*'name'"):
        load_configs(uri)


@pytest.mark.parametrize(
    ("data", "words"),
    [(None, "there is no such object"), (b"", "it is empty"), (b" " * 300_000, "larger than 256")],
)
def test_an_object_that_is_no_configuration_is_told_apart(
    data: bytes | None, words: str, client: Any, bucket: str
) -> None:
    uri = put(client, bucket, data) if data is not None else f"s3://{bucket}/missing.yaml"

    with pytest.raises(ConfigError, match=words):
        load_job(uri)


def test_a_store_that_does_not_answer_is_no_mistake_of_the_configuration(
    connect: Callable[..., str],
) -> None:
    connect(url="http://127.0.0.1:9", extra={"endpoint_url": "http://127.0.0.1:9"})

    with pytest.raises(Exception, match=r"127\.0\.0\.1") as caught:
        load_configs("s3://bucket/configs.yaml")

    assert not isinstance(caught.value, ConfigError)


def test_a_job_finds_what_its_configuration_says(
    tmp_path: Path, task_log: list[str], slurm_connection: SlurmConnection
) -> None:
    make = "test -d /tmp/alice/exp-venv || python3 -m venv --without-pip /tmp/alice/exp-venv"
    subprocess.run(["runuser", "-u", "alice", "--", "bash", "-c", make], check=True)
    (tmp_path / "job.yaml").write_text(
        "modules: ['gcc/13']\n"
        "venv: {name: exp-venv, path: '/tmp/(csc-user)', modules: ['load python-data']}\n"
        "env: {GREETING: hei, KEPT: 'yes'}\n"
        "options: {time: 00:02:00, comment: config}\n"
    )
    with DAG("configured", schedule=None, template_searchpath=str(tmp_path)):
        task = SlurmSubmitOperator(
            task_id="job",
            deferrable=True,
            poll_interval=0.5,
            command='echo "$VIRTUAL_ENV" "$LOADEDMODULES" "$GREETING $KEPT $SLURM_JOB_ID"',
            env={"GREETING": "moi"},
            config="job.yaml",
        )
    task.resolve_template_files()

    result = run_task(task)

    (line,) = (line for line in task_log if line.startswith("/tmp/alice/exp-venv "))
    _, modules, *rest = line.split()
    assert [each.partition("/")[0] for each in modules.split(":")] == ["gcc", "python-data"]
    assert rest == ["moi", "yes", result["job_id"]]


def test_a_configuration_that_cannot_be_submits_nothing(slurm_connection: SlurmConnection) -> None:
    task = SlurmSubmitOperator(
        task_id="job", deferrable=True, command="true", config="options: {mem: 4 gigs}"
    )

    with pytest.raises(AirflowFailException, match=r"config:1:16: options\['mem'\]"):
        run_task(task, build_context(task))
