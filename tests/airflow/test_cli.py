"""``airflow csc``, as ``python -m airflow_provider_csc`` runs it on every Airflow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest
import yaml

from airflow_provider_csc.__main__ import build_parser, main
from airflow_provider_csc.sites.load import load_profile
from airflow_provider_csc.sites.schema import render_schema
from tests.support.steps import FaultySite, default_site

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    for words in (["check"], *(["sites", name] for name in ("list", "show", "check", "schema"))):
        with pytest.raises(SystemExit) as end:
            build_parser().parse_args([*words, "--help"])
        assert end.value.code == 0
        assert " ".join(words) in capsys.readouterr().out


# ---- check of a connection ----

PROFILE = """
title: Here
architecture: x86_64
partitions:
  small: {max_time: 3-00:00:00, cores_per_node: 64, billing: cores}
billing:
  cores: {unit: CPU BU, highest_of: [{of: cores}]}
commands: {balance: csc-projects}
"""
PROJECTS = """\
Project: project        Owner: Kalle
CPU BU:             60000          20       59980
"""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultySite]:
    with default_site(monkeypatch, FaultySite) as site:
        monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
        yield site


def connect(monkeypatch: pytest.MonkeyPatch, **extra: str) -> None:
    connection = {"conn_type": "slurm", "host": "fake", "login": "somebody", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(connection))


def look(
    capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, dict[str, dict[str, str]], str]:
    """Return the exit code, the rows by what was looked at, and what was complained of."""
    given = [word for option in options for word in ("--option", option)]
    code, out, err = run(capsys, "check", "slurm_default", "--output", "json", *given)
    rows = json.loads(out) if out else []
    return code, {row["check"]: row for row in rows}, err


def test_a_connection_that_is_well_has_a_line_for_each_look(
    site: FaultySite, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, _ = look(capsys)

    assert code == 0, rows
    assert {row["result"] for row in rows.values()} == {"ok"}
    assert set(rows) >= {"log-in", "slurm", "account", "maintenance", "partition", "work_dir"}
    assert rows["slurm"]["what"] == "Slurm 22.05.8, cluster fake."
    assert rows["account"]["what"].endswith("may charge project.")
    assert rows["partition"]["what"].startswith("small is UP, for jobs of at most 3-00:00:00.")
    assert site.fake.jobs == {}


def test_the_profile_of_a_site_is_checked_with_it(
    site: FaultySite,
    sites: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (sites / "here.yaml").write_text(PROFILE)
    connect(monkeypatch, site="here", account="project")
    program = site.fake.root / "bin" / "csc-projects"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{PROJECTS}END\n")
    program.chmod(0o755)

    code, rows, _ = look(capsys)

    assert code == 0, rows
    assert rows["site"]["what"] == "Here, by the profile 'here'."
    assert rows["balance"]["what"] == "project has 59980 CPU BU left."


def test_what_could_not_be_asked_is_unknown_and_has_an_exit_code_of_its_own(
    site: FaultySite,
    sites: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (sites / "here.yaml").write_text(PROFILE)
    connect(monkeypatch, site="here", account="project")
    code, rows, _ = look(capsys)
    assert code == 2
    assert rows["balance"]["result"] == "unknown"
    assert "csc-projects" in rows["balance"]["what"]

    connect(monkeypatch)
    with site.fake.fault("slurmdbd_down"):
        code, rows, _ = look(capsys)
    assert code == 2
    assert rows["account"]["result"] == "unknown"
    assert rows["partition"]["result"] == "ok"

    with site.fake.fault("controller_down"):
        code, rows, _ = look(capsys)
    assert code == 2
    assert rows["slurm"]["what"].startswith("It gives no answer: Unable to contact")


def test_a_finding_goes_before_what_is_not_known(
    site: FaultySite, capsys: pytest.CaptureFixture[str]
) -> None:
    with site.fake.fault("slurmdbd_down"):
        code, rows, _ = look(capsys, "partition=down")

    assert code == 1
    assert rows["partition"]["what"] == "Partition 'down' is DOWN."
    assert rows["partition"]["remedy"] == "Take another, or wait."


def test_a_job_of_such_options_is_tested_and_not_submitted(
    site: FaultySite, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, _ = look(capsys, "partition=test", "time=00:10:00", "hold")
    assert code == 0, rows
    assert rows["job"]["what"].startswith("Submitted now, it would start at 20")
    assert rows["partition"]["what"].startswith("test is UP")

    code, rows, _ = look(capsys, "partition=smal")
    assert code == 1
    assert rows["partition"]["remedy"] == "Did you mean 'small'?"
    assert rows["job"]["result"] == "warning"
    assert "Slurm would refuse the job" in rows["job"]["what"]
    assert site.fake.jobs == {}


def test_an_option_that_sbatch_does_not_have_is_refused(
    site: FaultySite, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, err = look(capsys, "partitoin=small")

    assert (code, rows) == (2, {})
    assert "partition" in err


@pytest.mark.parametrize(
    ("extra", "check", "said", "code"),
    [
        ({"site": "mahti"}, "site", "Mahti takes no jobs since 2026-08-31", 1),
        ({"site": "lmui"}, "connection", "Did you mean 'lumi'?", 1),
        ({"poll_interval_floor": "soon"}, "connection", "is not a number of seconds", 1),
        ({"work_dir": "runs"}, "connection", "work_dir of the connection", 1),
    ],
)
def test_what_is_wrong_with_the_connection_itself_is_a_finding(
    site: FaultySite,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    extra: dict[str, str],
    check: str,
    said: str,
    code: int,
) -> None:
    connect(monkeypatch, **extra)

    found, rows, _ = look(capsys)

    assert found == code
    assert said in rows[check]["what"]


@pytest.mark.parametrize(
    ("log_in", "result", "said"),
    [
        ("", "ok", "None is needed, by the profile 'here'."),
        ("log_in: {certificate_hours: 24}", "warning", "The SSH certificate EXPIRED on "),
    ],
)
def test_a_certificate_has_expired_where_the_site_wants_one(
    site: FaultySite,
    sites: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    log_in: str,
    result: str,
    said: str,
) -> None:
    (sites / "here.yaml").write_text(f"{PROFILE}{log_in}\n")
    own, authority = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    own.write_private_key(sites / "id")
    signed = authority.generate_user_certificate(own, "test", valid_after=0, valid_before=9)
    signed.write_certificate(sites / "id-cert.pub")
    connect(monkeypatch, site="here", account="project", key_file=str(sites / "id"))

    _, rows, _ = look(capsys)

    assert rows["certificate"]["result"] == result
    assert rows["certificate"]["what"].startswith(said)


def test_a_site_that_is_away_is_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    described = {"conn_type": "slurm", "host": "127.0.0.1", "port": 1}
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(described))
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")

    code, rows, _ = look(capsys)

    assert code == 2
    assert rows["log-in"]["result"] == "unknown"
    assert "refused a connection to port 1" in rows["log-in"]["what"]


def test_a_connection_that_is_not_defined_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", "no_such_connection")

    assert (code, out) == (2, "")
    assert "Connection 'no_such_connection' is not defined" in err
