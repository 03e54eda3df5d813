"""The operators of environments: what is refused while a DAG is parsed, templates and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG

from airflow_provider_csc.environments.recipe import PythonEnvironment
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.operators.environments import (
    PythonEnvironmentOperator,
    PythonEnvironmentPruneOperator,
)
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.slurm.identity import TaskIdentity

if TYPE_CHECKING:
    from pathlib import Path

BUILT = {"path": "/env/x", "modules": ["python-data"], "requirements": "a==1\n"}


def operator(**arguments: Any) -> PythonEnvironmentOperator:
    given = {"task_id": "env", "recipe": {"packages": ["numpy"]}, "prefix": "/projappl/p/envs"}
    return PythonEnvironmentOperator(**{**given, **arguments})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"recipe": {"packages": ["a b c"]}}, ["packages", "a b c"]),
        ({"recipe": {"package": []}}, ["'package'", "'packages'"]),
        ({"command": "true"}, ["command", "recipe"]),
        ({"modules": ["gcc"]}, ["modules", "recipe"]),
        ({"environment": "/x"}, ["environment", "made"]),
        ({"inputs": ["s3://b/k"]}, ["inputs"]),
        ({"coalesce": True}, ["coalesce", "one by one"]),
        ({"wait_for_completion": False}, ["wait_for_completion", "deferrable"]),
        ({"options": {"array": "0-3"}}, ["array", "0-3"]),
    ],
)
def test_what_cannot_be_is_refused_while_the_dag_is_parsed(
    arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        operator(**arguments)

    assert [word for word in words if word not in caught.value.message] == []


def test_templates_are_filled_in_wherever_they_stand() -> None:
    task = operator(recipe={"packages": ["numpy{{ params.pin }}"], "name": "{{ params.name }}"})

    task.render_template_fields({"params": {"pin": ">=2", "name": "x"}})  # type: ignore[typeddict-unknown-key]

    assert task.recipe == {"packages": ["numpy>=2"], "name": "x"}


def test_a_requirements_file_lies_beside_the_dag(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("numpy>=2\n")
    with DAG("d", schedule=None, template_searchpath=str(tmp_path)):
        task = operator(recipe={"requirements": "requirements.txt"})

    task.resolve_template_files()

    assert task.recipe == {"requirements": "numpy>=2\n"}


def test_a_requirements_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with DAG("d", schedule=None, template_searchpath=str(tmp_path)):
        task = operator(recipe={"requirements": "missing.txt"})

    with pytest.raises(ConfigError, match=r"'missing\.txt' was not found"):
        task.resolve_template_files()


def test_a_recipe_may_be_an_object() -> None:
    task = operator(recipe=PythonEnvironment(name="x", packages=["numpy"]))

    assert task.recipe == {"name": "x", "backend": "venv", "packages": ["numpy"]}


def spec_of(**arguments: Any) -> tuple[Any, Any]:
    task = SlurmSubmitOperator(task_id="job", command="true", **arguments)
    spec = task._build_spec(Attempt())
    return spec.environment, spec.modules


def test_what_was_built_brings_its_modules_before_those_of_the_job() -> None:
    found = spec_of(environment=BUILT, modules=["gcc/13", "python-data"])

    assert found == ("/env/x", ["python-data", "gcc/13"])


def test_a_path_is_what_it_was() -> None:
    assert spec_of(environment="/env", modules=["gcc"]) == ("/env", ["gcc"])
    assert spec_of() == (None, None)


def test_a_dict_that_is_no_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no environment"):
        spec_of(environment={"modules": []})


def test_what_a_task_submits_beside_its_job_has_a_key_of_its_own() -> None:
    given = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1}
    job = TaskIdentity(**given, first_try=1)
    build = TaskIdentity(**given, first_try=1, part="environment")

    assert job.key != build.key
    assert job.to_json() == build.to_json()


def test_the_next_job_of_a_build_is_of_the_build_too() -> None:
    following = Attempt(is_building=True).followed(changes={}, history=())

    assert Attempt.from_payload(following.to_payload()).is_building


@pytest.mark.parametrize(
    "arguments", [{"older_than": -1}, {"older_than": None}, {"keep_newest": -1}]
)
def test_a_limit_that_is_none_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PythonEnvironmentPruneOperator(task_id="prune", prefix="/p", **arguments)
