"""``config=``: what a task leaves out its configuration says, and what is wrong stops it in time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_provider_csc.configs import Configs
from airflow_provider_csc.decorators.slurm import slurm_task
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from tests.support.steps import FaultySite, default_site, deferred_by, submitted
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = """\
modules: [gcc]
venv: {name: exp-venv, path: '/users/(csc-user)', modules: [pytorch], packages: [ray]}
env: {DAY: '{{ ds }}'}
"""
CONTEXT = {"ds": "2026-11-21"}


def operator(**arguments: Any) -> SlurmSubmitOperator:
    return SlurmSubmitOperator(**{"task_id": "job", "deferrable": True} | arguments)


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultySite]:
    with default_site(monkeypatch, FaultySite) as site:
        slurm = {"conn_type": "slurm", "host": "fake", "login": "alice"}
        extra = {"extra": {"account": "project_2001234"}}
        monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(slurm | extra))
        yield site


def configured(task: SlurmSubmitOperator) -> SlurmSubmitOperator:
    context = build_context(task)
    task.resolve_template_files()
    task.render_template_fields({**context, **CONTEXT})  # type: ignore[typeddict-item]
    task._configure(context)  # type: ignore[arg-type]
    return task


@pytest.mark.parametrize("kind", ["text", "file", "dict", "model"])
def test_a_task_takes_what_it_leaves_out(kind: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(TEXT)
    venv = {"name": "exp-venv", "path": "/users/(csc-user)", "modules": ["pytorch"]}
    said: dict[str, Any] = {"modules": ["gcc"], "venv": venv}
    config = {
        "text": TEXT,
        "file": "job.yaml",
        "dict": {**said, "env": {"DAY": "{{ ds }}"}},
        "model": Configs.model_validate(said),
    }[kind]

    with DAG("d", schedule=None, template_searchpath=str(tmp_path)):
        task = configured(operator(command="true", config=config))

    assert task.modules == ["gcc", "pytorch"]
    assert task.environment == "/users/alice/exp-venv"
    assert task.env == (None if kind == "model" else {"DAY": "2026-11-21"})


def test_a_mapped_task_takes_it_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(TEXT)
    with DAG("d", schedule=None, template_searchpath=str(tmp_path)) as dag:
        SlurmSubmitOperator.partial(task_id="job", config="job.yaml").expand(command=["a", "b"])
    task = dag.get_task("job").unmap({"command": "a"})
    context = {**build_context(task), **CONTEXT}

    task._configure(context)

    assert task.env == {"DAY": "2026-11-21"}


def test_a_model_is_stored_with_a_mapped_task_as_a_dict() -> None:
    model = Configs(modules=["gcc"])
    with DAG("d", schedule=None) as dag:
        SlurmSubmitOperator.partial(task_id="job", config=model).expand(command=["a", "b"])
        slurm_task(trained_by, config=model).expand(number=[1, 2])

    assert dag.get_task("job").partial_kwargs["config"] == {"modules": ["gcc"]}
    assert dag.get_task("trained_by").partial_kwargs["config"] == {"modules": ["gcc"]}


@pytest.mark.parametrize("arguments", [{"coalesce": True}, {"depends_on": "prepare"}])
def test_what_may_be_together_is_together(arguments: dict[str, Any]) -> None:
    task = operator(command="true", config={"modules": ["gcc"]}, **arguments)

    task._configure(build_context(task))  # type: ignore[arg-type]

    assert task.modules == ["gcc"]


def test_the_job_is_run_with_it(site: FaultySite) -> None:
    task = operator(config="command: date\nenv: {A: '1'}\noptions: {hold: true}\n")

    trigger = submitted(lambda: task.execute(build_context(task)))  # type: ignore[arg-type]

    (run_dir,) = (site.fake.home / "airflow-runs").glob("af*")
    assert trigger.job_ids
    assert (run_dir / "script").read_text() == "#!/bin/bash\ndate\n"
    assert "export A=1" in (run_dir / "batch.sh").read_text()


def test_a_task_that_is_resumed_takes_it_anew(site: FaultySite) -> None:
    """Airflow makes the task anew from the DAG file, and calls no `execute`."""
    first = operator(config={"command": "date", "options": {"hold": True}})
    context = build_context(first)
    trigger = deferred_by(lambda: first.execute(context)).trigger  # type: ignore[arg-type]
    again = operator(config={"command": "date", "options": {"hold": True}})
    attempt = trigger.serialize()[1]["attempt"]

    kwargs = {"event": {"status": "up"}, "attempt": attempt}
    resumed = submitted(lambda: again.resume_execution("execute_again", kwargs, context))  # type: ignore[arg-type]

    assert again.command == "date"
    assert resumed.job_ids == trigger.serialize()[1]["job_ids"]


def test_what_names_the_instance_is_the_same_in_each_try() -> None:
    config = {"command": "true", "outputs": ["s3://bucket/(key)/x"]}
    urls = []
    for number in (1, 2):
        task = operator(config=config)
        task._configure(build_context(task, run_id="key", try_number=number))  # type: ignore[arg-type]
        urls.append(task.outputs)

    assert urls[0] == urls[1]
    assert "(key)" not in str(urls)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"comand": "true"}, "config: there is no key 'comand'. Did you mean 'command'?"),
        ({"options": {"memm": "{{ x }}"}}, "Did you mean 'mem'?"),
        (["gcc"], "Give a dict, the text of a YAML document"),
        (7, "is of type int"),
    ],
)
def test_what_no_template_can_change_is_an_error_of_the_dag_file(config: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        operator(config=config)

    assert words in caught.value.message


def test_a_file_that_is_missing_is_an_error_of_the_dag_file() -> None:
    with DAG("d", schedule=None):
        task = operator(config="missing.yaml")

    with pytest.raises(ConfigError, match=r"missing\.yaml.*template_searchpath"):
        task.resolve_template_files()


def test_without_a_configuration_a_task_says_what_it_runs() -> None:
    with pytest.raises(ConfigError, match="exactly one of"):
        operator()
    with pytest.raises(ConfigError, match="exactly one of"):
        operator(command="a", script="b", config="modules: []")


@pytest.mark.parametrize(
    ("config", "arguments", "words"),
    [
        ("modules: gcc", {}, "config:1:10: modules: 'gcc' is no list"),
        ("modules: [gcc", {}, "config:1:14: it is no YAML"),
        ("a: 1\n", {}, "config:1:1: a: there is no key 'a'"),
        ("work_dir: /users/(csc-usr)", {}, "Did you mean (csc-user)?"),
        ("outputs: ['s3://bucket/(id)']", {}, "(id) is not known here"),
        ("resources: {node: 1}", {}, "config:1:19: resources['node']"),
        ("inputs: ['s3://bucket/x']", {"wait_for_completion": False}, "wait_for_completion: False"),
        ("inputs: ['s3://bucket/x']", {"coalesce": True}, "coalesce: True"),
        ("remote_script: /job.sh", {"coalesce": True}, "coalesce: it does not go together with"),
        ("options: {dependency: 'afterok:1'}", {"depends_on": "prepare"}, "Leave one of them out"),
        ("modules: [gcc]", {}, "exactly one of command, script and remote_script"),
    ],
)
def test_what_cannot_be_a_job_fails_before_anything_is_submitted(
    config: str, arguments: dict[str, Any], words: str, site: FaultySite
) -> None:
    given = (
        arguments if "exactly" in words or "remote" in config else {"command": "true"} | arguments
    )
    task = operator(config=config, **given)

    with pytest.raises(AirflowFailException) as caught:
        task.execute(build_context(task))  # type: ignore[arg-type]

    assert words in str(caught.value)
    assert site.fake.jobs == {}


def test_a_file_is_named_in_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("modules: [gcc]\nvenv: {nme: x, path: /x}\n")
    with DAG("d", schedule=None, template_searchpath=str(tmp_path)):
        task = operator(command="true", config="job.yaml")

    with pytest.raises(AirflowFailException, match=r"job\.yaml:2:8: venv\.nme: .*'name'"):
        configured(task)


def test_a_connection_that_airflow_does_not_find_is_an_ordinary_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    from airflow_provider_csc.hooks import slurm as hook_module

    def find(_conn_id: str) -> None:
        raise AirflowNotFoundException

    monkeypatch.setattr(hook_module.SlurmHook, "get_connection", staticmethod(find))
    task = operator(command="true", config="work_dir: /users/(csc-user)")

    with pytest.raises(ConfigError, match="'slurm_default' is not defined"):
        task._configure(build_context(task))  # type: ignore[arg-type]


def trained() -> int:
    return 1


def trained_by(number: int) -> int:
    return number


def test_a_function_takes_its_environment_from_it_and_no_command() -> None:
    with DAG("d", schedule=None):
        task = slurm_task(trained, config="modules: [gcc]\ncommand: date\n")().operator

    task._configure(build_context(task))

    assert task.modules == ["gcc"]
    assert task.command is None


def test_a_task_with_one_goes_into_the_database_and_back() -> None:
    from tests.airflow.test_slurm_classes import serialize

    with DAG("d", schedule=None) as dag:
        operator(config={"command": "true", "modules": ["gcc"]})

    assert "gcc" in json.dumps(serialize(dag))
