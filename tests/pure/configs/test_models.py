"""What an environment and a job may be made of, and that they are written as they were read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_provider_csc.configs import Configs, JobConfig, Venv
from airflow_provider_csc.configs.keys import JOB_KEYS
from airflow_provider_csc.configs.reading import read_model
from airflow_provider_csc.errors import ConfigError

EXAMPLE = """\
modules: ['gcc', 'openmpi', 'openblas', 'csc-tools', 'StdEnv']
venv: {name: 'exp-venv', path: '/users/(csc-user)', modules: ['pytorch'], \
packages: ['ray', 'python-swiftclient', 'torch', 'torchmetrics']}
"""


def test_the_shape_that_users_know_goes_round() -> None:
    said = yaml.safe_load(EXAMPLE)

    configs = Configs.model_validate(said)

    assert isinstance(configs.venv, Venv)
    assert configs.venv.packages == ["ray", "python-swiftclient", "torch", "torchmetrics"]
    assert configs.model_dump() == said
    assert yaml.safe_load(configs.to_yaml()) == said
    assert read_model(Configs, configs.to_yaml()) == configs


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
NAMES = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)
PATHS = NAMES.map(lambda name: f"/users/{name}")
MODULES = st.lists(st.one_of(NAMES, NAMES.map(lambda name: f"load {name}/1.10")), max_size=3)
VENVS = st.fixed_dictionaries(
    {"name": NAMES, "path": PATHS},
    optional={
        "modules": MODULES,
        "packages": st.lists(
            st.sampled_from(["ray", "torch==2.1", "ray[default]", "12", "3.10", "no", "1e5"])
        ),
    },
)
CONFIGS = st.fixed_dictionaries({}, optional={"modules": MODULES, "venv": st.none() | VENVS})
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JOBS = st.fixed_dictionaries(
    {},
    optional={
        "command": WORDS.filter(str.strip) | st.lists(WORDS.filter(str.strip), min_size=1),
        "env": st.dictionaries(st.from_regex(r"[A-Z_]{1,5}", fullmatch=True), WORDS | NUMBERS),
        "options": st.just({"mem": "4G", "time": "12:30:00", "nodes": 2, "exclusive": True}),
        "job_name": NAMES,
        "resources": st.fixed_dictionaries(
            {"nodes": st.integers(1, 9)}, optional={"time": st.just("12:30:00")}
        ),
        "inputs": st.just(["s3://bucket/key", {"url": "s3://bucket/tree/", "path": "data/"}]),
        "modules": MODULES,
        "venv": VENVS,
        "work_dir": PATHS,
    },
)


def is_plain(value: Any) -> bool:
    return not any(mark in str(value) for mark in ("{{", "{%", "{#", "(", "\ufeff"))


@given(CONFIGS)
def test_any_environment_goes_round(said: dict[str, Any]) -> None:
    assert Configs.model_validate(said).model_dump() == said


@given(JOBS.filter(is_plain))
def test_any_job_goes_round_also_as_yaml(said: dict[str, Any]) -> None:
    job = JobConfig.model_validate(said)

    assert job.model_dump() == said
    assert yaml.safe_load(job.to_yaml()) == said
    assert read_model(JobConfig, job.to_yaml()).model_dump() == said


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ({"module": ["gcc"]}, "no key 'module'. Did you mean 'modules'?"),
        ({"venv": {"name": "a", "path": "/a", "pakages": []}}, "Did you mean 'packages'?"),
        ({"zzz": 1}, "Known are modules, venv."),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(said: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Configs.model_validate(said)

    assert hint in str(caught.value)


def test_what_is_written_wrongly_is_not_missing_as_well() -> None:
    with pytest.raises(ConfigError) as caught:
        read_model(Configs, {"venv": {"nme": "a"}})

    assert "venv.path: it is missing" in caught.value.message
    assert "venv.name" not in caught.value.message


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"modules": [" "]}, "names no module. Write 'gcc/15.2.0'"),
        ({"modules": "gcc"}, "'gcc' is no list. Write it as [a, b]"),
        ({"modules": [3]}, "3 is no text. Write it in quotes"),
        ({"venv": {"name": "a"}}, "it is missing"),
        ({"venv": {"name": "a/b", "path": "/a"}}, "no name of a directory"),
        ({"venv": {"name": "..", "path": "/a"}}, "no name of a directory"),
        ({"venv": {"name": "a", "path": "rel"}}, "not an absolute path on the cluster"),
        ({"venv": {"name": "a", "path": "${HOME}/a"}}, "'/users/(csc-user)'"),
        ({"venv": {"name": "a", "path": "$HOME/a"}}, "nobody fills in a shell's variables"),
        ({"venv": {"name": "a", "path": "/a", "packages": ["-r x"]}}, "without options"),
        ({"command": []}, "no command"),
        ({"command": ["a", 1]}, "all text"),
        ({"command": "a\0"}, "no command"),
        ({"script": "train.sh"}, "names a file"),
        ({"script": "echo"}, "'#!/bin/bash'"),
        ({"options": {"memm": 1}}, "Did you mean 'mem'"),
        ({"options": {"mem": "4 gigs"}}, "'4G'"),
        ({"options": {1: 2}}, "the key 1 is no text"),
        ({"options": ["mem"]}, "no mapping"),
        ({"env": {"MY-VAR": "x"}}, "underscores"),
        ({"env": {"X": True}}, "True is no value of a variable. Write it in quotes"),
        ({"env": {"X": None}}, "None is no value"),
        ({"work_dir": "here"}, "absolute"),
        ({"job_name": "a,b"}, "comma"),
        ({"inputs": ["bucket/key"]}, "no URI of an object"),
        ({"inputs": [{"url": "s3://bucket/k", "pth": "x"}]}, "Did you mean 'path'"),
        ({"outputs": "s3://bucket/k"}, "no list"),
        ({"command": "a", "remote_script": "/b"}, "command is given as well"),
        ({"venv": {"name": "a", "path": "/a"}, "environment": "/b"}, "environment is given as"),
        ({"resources": 4}, "no mapping"),
        ({"resources": {"node": 2}}, "Did you mean 'nodes'"),
    ],
)
def test_what_no_job_can_be_is_refused_with_a_remedy(said: dict[Any, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JobConfig.model_validate(said)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"modules": ["gcc", "load pytorch/2.9", "use /appl/modules", "purge"]},
        {"options": {"time": "(limit)", "account": "(project)", "mem": "4G"}},
        {"work_dir": "(host)/x"},
        {"command": "cd $(pwd) && f() { (true) } && (ls)"},
    ],
)
def test_what_may_be_a_job_is_taken(said: dict[str, Any]) -> None:
    assert JobConfig.model_validate(said).model_dump() == said


def test_what_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(ValidationError, match="nested too deep"):
        JobConfig.model_validate({"inputs": endless})
    with pytest.raises(ConfigError, match="one is in itself"):
        read_model(JobConfig, {"options": {"x": endless}})


def test_a_value_with_a_placeholder_is_checked_when_that_is_filled_in() -> None:
    said = {"options": {"mem": "(csc-user)"}}

    assert read_model(JobConfig, said).placeholders == ["csc-user"]
    with pytest.raises(Exception, match=r"options\['mem'\].*'alice' is not a memory size"):
        read_model(JobConfig, said, context={"csc_user": "alice"})


def test_the_directory_of_an_environment_is_below_its_path() -> None:
    assert Venv(name="exp-venv", path="/users/alice/").directory == "/users/alice/exp-venv"


def test_it_is_shown_as_the_yaml_people_know_with_what_is_still_open() -> None:
    configs = read_model(Configs, EXAMPLE)

    assert str(configs).splitlines()[0] == "modules: [gcc, openmpi, openblas, csc-tools, StdEnv]"
    assert str(configs).endswith("# to be filled in: (csc-user)\n")
    assert repr(Configs(modules=["gcc"])) == "Configs(modules=['gcc'])"
    html = Configs(modules=["a<b"])._repr_html_()
    assert html == "<b>Configs</b><pre>modules: [a&lt;b]\n</pre>"


def test_what_yaml_has_no_word_for_is_shown_all_the_same() -> None:
    assert "0:05:00" in str(JobConfig(options={"time": timedelta(minutes=5)}))


def test_the_schema_says_what_editors_complete() -> None:
    schema = JobConfig.model_json_schema()

    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(JOB_KEYS) == set(JobConfig.model_fields)
    assert schema["$defs"]["Venv"]["required"] == ["name", "path"]
