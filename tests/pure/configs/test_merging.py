"""What a task says itself wins over its configuration."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_csc.configs import Configs, JobConfig
from airflow_provider_csc.configs.merging import merge_job, merge_recipe
from airflow_provider_csc.environments.recipe import read_recipe
from airflow_provider_csc.errors import ConfigError

VENV = {"name": "exp-venv", "path": "/users/alice", "modules": ["pytorch"], "packages": ["ray"]}


def merged(own: dict[str, Any], **said: Any) -> dict[str, Any]:
    """What is said then, without what nobody says."""
    found = merge_job(own, JobConfig.model_validate(said))
    return {name: value for name, value in found.items() if value is not None}


def test_a_task_that_says_nothing_is_what_its_configuration_says() -> None:
    said = {
        "command": "true",
        "work_dir": "/scratch/a",
        "job_name": "train",
        "env": {"A": "1"},
        "options": {"mem": "4G"},
        "inputs": ["s3://bucket/a"],
        "outputs": ["s3://bucket/b"],
        "modules": ["gcc"],
        "environment": "/venv",
    }

    assert merged({}, **said) == said


def test_the_modules_of_an_environment_follow_those_of_all() -> None:
    assert merged({}, modules=["gcc", "pytorch"], venv=VENV) == {
        "modules": ["gcc", "pytorch"],
        "environment": "/users/alice/exp-venv",
    }
    assert merged({}, modules=["gcc"], venv=VENV)["modules"] == ["gcc", "pytorch"]


def test_another_environment_needs_no_modules_of_the_one_it_replaces() -> None:
    assert merged({"environment": "/mine"}, modules=["gcc"], venv=VENV) == {
        "modules": ["gcc"],
        "environment": "/mine",
    }


def test_modules_of_the_task_replace_all_others() -> None:
    assert merged({"modules": ["pytorch/2.9"]}, modules=["gcc"], venv=VENV)["modules"] == [
        "pytorch/2.9"
    ]
    assert merged({"modules": []}, modules=["gcc"])["modules"] == []


@pytest.mark.parametrize("own", [{"command": "date"}, {"script": ""}, {"remote_script": "/x"}])
def test_a_task_that_says_what_is_run_takes_no_other_program(own: dict[str, Any]) -> None:
    assert merged(own, command="true", job_name="x") == {**own, "job_name": "x"}


def test_options_and_variables_win_one_by_one_however_they_are_spelled() -> None:
    own = {"options": {"cpus-per-task": 8, "mem": None}, "env": {"B": "2"}}

    found = merged(
        own,
        options={"cpus_per_task": 4, "mem": "4G", "time": "1:00:00"},
        env={"A": "1", "B": "1"},
    )

    assert found == {
        "options": {"time": "1:00:00", "cpus-per-task": 8, "mem": None},
        "env": {"A": "1", "B": "2"},
    }


def test_what_is_no_mapping_is_left_to_who_checks_arguments() -> None:
    assert merged({"env": ["A"]}, env={"A": "1"})["env"] == ["A"]


def test_to_merge_twice_changes_nothing_more() -> None:
    said: dict[str, Any] = {
        "modules": ["gcc"],
        "venv": VENV,
        "options": {"mem": "4G"},
        "command": "a",
    }

    once = merged({"options": {"time": 5}}, **said)

    assert {**once, **merged(once, **said)} == once


def test_what_a_job_needs_is_said_in_whole_by_one_of_them() -> None:
    assert merged({}, resources={"nodes": 2})["job_resources"] == {"nodes": 2}
    assert merged({"job_resources": {"time": 5}}, resources={"nodes": 2})["job_resources"] == {
        "time": 5
    }


def built(own: dict[str, Any], prefix: str | None = None, **said: Any) -> dict[str, Any]:
    """What is built then, and where."""
    recipe, place = merge_recipe(own, prefix, Configs.model_validate(said))
    return {**read_recipe(recipe).to_payload(), "prefix": place}


def test_a_virtual_environment_is_built_of_its_packages_beside_what_its_modules_have() -> None:
    assert built({}, modules=["gcc", "pytorch"], venv=VENV) == {
        "name": "exp-venv",
        "backend": "venv",
        "modules": ["gcc", "pytorch"],
        "packages": ["ray"],
        "system_site_packages": True,
        "prefix": "/users/alice",
    }


def test_without_modules_a_virtual_environment_sees_nothing_else() -> None:
    venv = {"name": "bare", "path": "/users/alice", "packages": ["ray"]}

    assert "system_site_packages" not in built({}, venv=venv)


def test_what_a_task_says_of_its_recipe_wins_field_by_field() -> None:
    own = {"installer": "uv", "modules": ["python-data"]}

    found = built(own, "/projappl/p", venv=VENV)

    assert (found["installer"], found["modules"]) == ("uv", ["python-data"])
    assert (found["packages"], found["prefix"]) == (["ray"], "/projappl/p")


@pytest.mark.parametrize("own", [{"lock": "ray==2.9.0\n"}, {"requirements": "ray>=2\n"}])
def test_packages_of_the_task_in_another_form_replace_them(own: dict[str, Any]) -> None:
    assert "packages" not in built(own, venv=VENV)


def test_another_backend_takes_the_packages_too() -> None:
    found = built({"backend": "tykky", "modules": ["tykky"]}, venv=VENV)

    assert (found["backend"], found["packages"]) == ("tykky", ["ray"])


def test_a_task_that_takes_no_modules_sees_nothing_else() -> None:
    found = built({"modules": []}, modules=["gcc"], venv=VENV)

    assert "system_site_packages" not in found


@pytest.mark.parametrize(
    "own",
    [
        {"backend": "container", "image": "docker://python:3.12", "imports": ["json"]},
        {"backend": "tykky", "conda": "dependencies: [numpy]\n", "imports": ["numpy"]},
    ],
)
def test_packages_are_for_what_the_task_says_nothing_else_of(own: dict[str, Any]) -> None:
    assert "packages" not in built(own, venv=VENV)


def test_a_configuration_that_names_no_virtual_environment_builds_none() -> None:
    with pytest.raises(ConfigError, match=r"config: it has no venv.*packages: \[numpy\]"):
        merge_recipe({"packages": ["numpy"]}, "/p", Configs(modules=["gcc"]))
