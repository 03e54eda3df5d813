"""``airflow csc``, as ``python -m airflow_provider_csc`` runs it on every Airflow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airflow_provider_csc.__main__ import build_parser, main
from airflow_provider_csc.sites.load import load_profile
from airflow_provider_csc.sites.schema import render_schema

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders with the user's own profiles; returned is the first of them."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "mine.yaml").write_text("extends: lumi\ntitle: Mine\n")
    (folders[1] / "mine.yaml").write_text("extends: lumi\ntitle: Not this one\n")
    (folders[1] / "yours.yaml").write_text("title: Yours\n")
    monkeypatch.setenv("AIRFLOW__CSC__SITES_FOLDER", ":".join(map(str, folders)))
    return folders[0]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit code and what was printed."""
    code: Any = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    if isinstance(code, str):
        code, err = 1, f"{err}{code}\n"
    return code or 0, out, err


def test_list_shows_shipped_profiles_and_the_users_own(
    sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "sites", "list", "--output", "json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["mine"] == {
        "name": "mine",
        "title": "Mine",
        "host": "lumi.csc.fi",
        "architecture": "x86_64",
        "partitions": str(len(load_profile("lumi").partitions)),
        "retired": "",
        "source": str(sites / "mine.yaml"),
    }
    assert rows["yours"]["title"] == "Yours"
    assert rows["puhti"]["source"] == "shipped"
    assert rows["puhti"]["retired"] == "2026-07-31, see roihu-cpu"


def test_list_shows_the_others_where_one_cannot_be_read(
    sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sites / "bad.yaml").write_text("titel: Bad\n")
    code, out, err = run(capsys, "sites", "list", "--output", "plain")
    assert code == 0
    assert "(cannot be read)" in out
    assert "roihu-cpu" in out
    assert f"{sites / 'bad.yaml'}:1:1: titel" in err


@pytest.mark.parametrize("name", ["roihu-cpu", "lumi", "puhti", "mine"])
def test_show_prints_a_file_that_is_the_same_profile(
    name: str, sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = load_profile(name, [str(sites)])
    _, out, _ = run(capsys, "sites", "show", name)
    (tmp_path / f"{name}.yaml").write_text(out)
    assert load_profile(name, [str(tmp_path)]) == shown
    _, out, _ = run(capsys, "sites", "show", name, "-o", "json")
    assert json.loads(out) == yaml.safe_load((tmp_path / f"{name}.yaml").read_text())


def test_show_as_a_table_has_a_row_for_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "sites", "show", "roihu-gpu", "-o", "table")
    (line,) = [line for line in out.splitlines() if "gputest.gpus.per_node" in line]
    assert line.split("|")[1].strip() == "4"


def test_show_of_an_unknown_profile_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "sites", "show", "lmui")
    assert (code, out) == (1, "")
    assert "Did you mean 'lumi'?" in err


def test_schema_is_printed_as_it_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "sites", "schema") == (0, render_schema(), "")


def check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **connection: Any
) -> tuple[int, str, str]:
    described = {"conn_type": "slurm", "host": "127.0.0.1", "port": 1, **connection}
    monkeypatch.setenv("AIRFLOW_CONN_SITE", json.dumps(described))
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    return run(capsys, "sites", "check", "site")


def test_check_of_a_site_that_is_away_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = check(monkeypatch, capsys, extra={"site": "lumi"})
    assert (code, out) == (2, "")
    assert "refused a connection to port 1" in err


def test_check_of_a_retired_site_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = check(monkeypatch, capsys, extra={"site": "mahti"})
    assert "Mahti takes no jobs since 2026-08-31" in err


def test_check_needs_a_connection_with_a_site(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = check(monkeypatch, capsys)
    assert code == 2
    assert "Connection 'site' names no site" in err


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "show", "check", "schema"):
        with pytest.raises(SystemExit) as end:
            build_parser().parse_args(["sites", command, "--help"])
        assert end.value.code == 0
        assert f"sites {command}" in capsys.readouterr().out
