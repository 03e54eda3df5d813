"""Configurations from a dict, a text or a file, without any Airflow, and what cannot be loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.configs import Configs
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.hooks.configs import load_configs, load_job

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "modules: [gcc]\nvenv: {name: exp-venv, path: '/users/(csc-user)'}\n"
SAID = {"modules": ["gcc"], "venv": {"name": "exp-venv", "path": "/users/(csc-user)"}}


def test_a_dict_a_text_a_file_and_a_model_are_loaded_alike(tmp_path: Path) -> None:
    file = tmp_path / "configs.yaml"
    file.write_text("\ufeff" + TEXT)

    for source in (SAID, TEXT, str(file), file, Configs.model_validate(SAID)):
        assert load_configs(source).model_dump() == SAID


def test_nothing_of_airflow_is_loaded_for_it(tmp_path: Path) -> None:
    file = tmp_path / "configs.yaml"
    file.write_text(TEXT)
    program = (
        "import sys\n"
        "from airflow_provider_csc.hooks.configs import load_configs\n"
        f"print(load_configs({str(file)!r}))\n"
        "assert not {'airflow', 'boto3', 'asyncssh'} & set(sys.modules)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("modules: [gcc]\n")


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> str:
    fields = {"conn_type": "slurm", "host": "roihu", "login": "alice"}
    extra = {"account": "project_2001234"}
    monkeypatch.setenv("AIRFLOW_CONN_SITE", json.dumps({**fields, "extra": extra}))
    return "site"


def test_placeholders_are_filled_in_from_the_connection_and_the_context(connection: str) -> None:
    job = load_job(
        {"work_dir": "/scratch/(project)/(csc-user)/(run)", "env": {"HOST": "(host)"}},
        context={"run": "r1"},
        slurm_conn_id=connection,
    )

    assert job.work_dir == "/scratch/project_2001234/alice/r1"
    assert job.env == {"HOST": "roihu"}


def test_with_a_connection_no_placeholder_may_be_left(connection: str) -> None:
    with pytest.raises(ConfigError, match=r"configs:1:11: work_dir: .*\(id\) is not known here"):
        load_job("work_dir: /scratch/(id)", slurm_conn_id=connection)


def test_a_file_that_is_wrong_is_named_with_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text("modules: [gcc]\nvenv:\n  name: x\n  pth: /users/x\n")

    with pytest.raises(ConfigError) as caught:
        load_configs(file)

    assert f"{file}:4:3: venv.pth: there is no key 'pth'. Did you mean 'path'?" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "No such file or directory"),
        (b"modules: [\xff]\n", "job.yaml:1: it is no text in UTF-8"),
        (b" " * (300 * 1024), "larger than 256 KiB"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    data: bytes | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    if data is not None:
        file.write_bytes(data)

    with pytest.raises(ConfigError) as caught:
        load_configs(file)

    assert str(file) in caught.value.message
    assert words in caught.value.message


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_configs(tmp_path)


@pytest.mark.parametrize("source", [None, 3, [TEXT], b"modules: []"])
def test_what_is_no_source_is_refused(source: Any) -> None:
    with pytest.raises(ConfigError, match="Give a dict, the text of a YAML document, a path"):
        load_configs(source)


def test_a_text_that_was_meant_as_a_file_is_told_how_files_are_named() -> None:
    with pytest.raises(ConfigError, match=r"pathlib\.Path.*\.yaml"):
        load_configs("configs.txt")


def test_a_uri_without_a_bucket_is_refused() -> None:
    with pytest.raises(ConfigError, match="no name of a bucket"):
        load_configs("s3:///configs.yaml")


def test_the_schema_is_printed_for_editors() -> None:
    program = [sys.executable, "-m", "airflow_provider_csc.configs"]

    done = subprocess.run([*program, "job"], capture_output=True, text=True, check=True)
    wrong = subprocess.run([*program, "jobs"], capture_output=True, text=True, check=False)

    assert "options" in json.loads(done.stdout)["properties"]
    assert (wrong.returncode, "configs|job" in wrong.stderr) == (2, True)
