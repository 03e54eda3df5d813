"""The operators of environments: what is refused while a DAG is parsed, templates and files."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
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
from tests.support.steps import FaultySite, default_site, submitted
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Iterator
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


def test_a_recipe_may_be_what_another_task_returns() -> None:
    with DAG("d", schedule=None):
        chooser = SlurmSubmitOperator(task_id="choose", command="true")
        task = operator(recipe=chooser.output)

    assert task.upstream_task_ids == {"choose"}


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


# What a configuration describes.

CONFIG = """\
modules: [gcc]
venv: {name: exp-venv, path: '~/envs/(csc-user)', modules: [python-data], packages: [ray>=2]}
command: python {{ params.program }}
options: {mem: 64G}
"""
RECIPE = {
    "name": "exp-venv",
    "modules": ["gcc", "python-data"],
    "system_site_packages": True,
    "packages": ["ray>=2"],
}
HELD = {"hold": True}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultySite]:
    with default_site(monkeypatch, FaultySite) as site:
        yield site


@pytest.fixture
def dag(tmp_path: Path) -> DAG:
    (tmp_path / "job.yaml").write_text(CONFIG)
    (tmp_path / "requirements.txt").write_text("numpy>=2\n")
    return DAG("d", schedule=None, template_searchpath=str(tmp_path))


def context_of(task: Any) -> Any:
    """A context in which the task's own templates are rendered, as Airflow does it."""
    context = {**build_context(task), "params": {"program": "train.py"}}
    task.resolve_template_files()
    task.render_template_fields(context)
    return context


def script_of(site: FaultySite) -> str:
    """The one that was submitted."""
    (run_dir,) = (site.fake.home / "airflow-runs").glob("af*")
    return (run_dir / "script").read_text()


@pytest.mark.parametrize("config", ["job.yaml", CONFIG])
def test_a_configuration_says_what_is_built_and_where(
    config: str, site: FaultySite, dag: DAG
) -> None:
    with dag:
        task = PythonEnvironmentOperator(
            task_id="env", config=config, options=HELD, deferrable=True
        )
    context = context_of(task)

    trigger = submitted(lambda: task.execute(context))

    assert (task.recipe, task.prefix) == (RECIPE, "~/envs/somebody")
    assert "\nray>=2\n" in script_of(site)
    assert not [each for each in trigger.attempt["asked"] if "mem" in each]


def test_a_job_first_builds_what_its_configuration_describes(site: FaultySite, dag: DAG) -> None:
    with dag:
        task = SlurmSubmitOperator(
            task_id="job",
            config="job.yaml",
            environment={"config": "job.yaml", "options": HELD},
            deferrable=True,
        )
    context = context_of(task)

    trigger = submitted(lambda: task.execute(context))

    assert trigger.attempt["is_building"]
    assert "\nray>=2\n" in script_of(site)
    assert (task.command, task.modules) == ("python train.py", ["gcc"])
    built = {"path": "/env", "modules": RECIPE["modules"]}
    assert task._choose_environment(Attempt(environment=built)) == ("/env", RECIPE["modules"])


def test_a_job_finds_the_requirements_of_its_environment_beside_its_dag(
    site: FaultySite, dag: DAG
) -> None:
    recipe = {"requirements": "requirements.txt"}
    with dag:
        task = SlurmSubmitOperator(
            task_id="job",
            command="true",
            environment={"recipe": recipe, "prefix": "~/envs", "options": HELD},
            deferrable=True,
        )
    context = context_of(task)

    submitted(lambda: task.execute(context))

    assert "\nnumpy>=2\n" in script_of(site)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"prefix": "/p"}, "recipe: it is missing"), ({"recipe": {}}, "prefix: it is missing")],
)
def test_what_says_neither_recipe_nor_configuration_is_an_error_of_the_dag_file(
    arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        PythonEnvironmentOperator(task_id="env", **arguments)


def test_a_configuration_without_a_venv_fails_before_anything_is_submitted(
    site: FaultySite,
) -> None:
    task = PythonEnvironmentOperator(task_id="env", config={"modules": ["gcc"]}, deferrable=True)

    with pytest.raises(AirflowFailException, match="config: it has no venv"):
        task.execute(build_context(task))  # type: ignore[arg-type]

    assert site.fake.jobs == {}


# What it is built for.

TWO_KINDS = """\
title: Ours
architecture: x86_64
log_in: {host: fake}
partitions:
  small: {}
  test: {architecture: aarch64, gpus: {per_node: 4}}
"""


def connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, site: str, **extra: str) -> None:
    (tmp_path / "ours.yaml").write_text(TWO_KINDS)
    monkeypatch.setenv("AIRFLOW__CSC__SITES_FOLDER", str(tmp_path))
    login = {"conn_type": "slurm", "host": "fake", "login": "somebody"}
    connection = {**login, "extra": {"site": site, **extra}}
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(connection))


@pytest.mark.parametrize(
    ("name", "extra", "arguments", "architecture"),
    [
        ("roihu-cpu", {}, {}, "x86_64"),
        ("roihu-gpu", {}, {}, "aarch64"),
        ("roihu-gpu", {}, {"architecture": "aarch64"}, "aarch64"),
        ("ours", {}, {}, "x86_64"),
        ("ours", {}, {"options": {"partition": "test"} | HELD}, "aarch64"),
        ("ours", {"partition": "test"}, {}, "aarch64"),
        ("ours", {}, {"job_resources": {"gpus_per_node": 1}}, "aarch64"),
        ("generic", {}, {}, platform.machine()),
        ("generic", {}, {"architecture": "aarch64"}, "aarch64"),
    ],
)
def test_an_environment_is_for_the_nodes_of_its_partition(
    name: str,
    extra: dict[str, str],
    arguments: dict[str, Any],
    architecture: str,
    site: FaultySite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect(monkeypatch, tmp_path, name, **extra)
    task = operator(prefix="~/envs", deferrable=True, **{"options": HELD, **arguments})

    submitted(lambda: task.execute(build_context(task)))  # type: ignore[arg-type]

    assert f'[ "$(uname -m)" = {architecture} ]' in script_of(site)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"architecture": "aarch64"}, "architecture: 'aarch64' is not that of ours"),
        (
            {"architecture": "x86_64", "options": {"partition": "test"}},
            "architecture: 'x86_64' is not that of partition test of ours, which is 'aarch64'",
        ),
        ({"architecture": "x86-64"}, "architecture: 'x86-64' is none"),
    ],
)
def test_another_architecture_is_refused_before_anything_is_submitted(
    arguments: dict[str, Any],
    words: str,
    site: FaultySite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect(monkeypatch, tmp_path, "ours")
    task = operator(prefix="~/envs", deferrable=True, **arguments)

    with pytest.raises(AirflowFailException) as caught:
        task.execute(build_context(task))  # type: ignore[arg-type]

    assert words in str(caught.value)
    assert site.fake.jobs == {}
    assert not (site.fake.home / "envs").exists()
