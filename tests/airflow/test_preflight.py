"""The preflight asks a site once in a while, and keeps what it said where nobody else can write."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest
from airflow.providers.common.compat.sdk import conf

from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConnectFailedError,
    CscError,
    UnreadableOutputError,
)
from airflow_provider_csc.hooks import _preflight
from airflow_provider_csc.hooks._preflight import report_problems
from airflow_provider_csc.hooks.slurm import look_ahead
from airflow_provider_csc.operators._environments import _kept
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.preflight_facts import PreflightFacts, Room
from airflow_provider_csc.transport.base import Hop, SiteSettings, SshSettings
from tests.support.steps import FaultySite, default_site, submitted
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FULL = PreflightFacts(asked_at=1, room=Room(path="/scratch", free_bytes=0, free_files=None))


class Site:
    def __init__(self, answer: PreflightFacts | Exception = FULL) -> None:
        self.asked = 0
        self.answer = answer
        self.further = ""

    async def preflight_facts(self, _base_dir: str, further: str = "") -> PreflightFacts:
        self.asked += 1
        self.further = further
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"airflow-csc-{os.getuid()}"


def asked_for(
    *options: str, base_dir: str = "~/runs", architecture: str | None = None
) -> SimpleNamespace:
    return SimpleNamespace(base_dir=base_dir, asked=options, architecture=architecture)


def settings_of(host: str = "a", *, site: str | None = None, **ssh: Any) -> SiteSettings:
    return SiteSettings(ssh=SshSettings(target=Hop(host=host), **ssh), site=site)


async def report(
    site: Site, settings: SiteSettings, request: SimpleNamespace, **arguments: Any
) -> list[str]:
    told: list[str] = []
    client: Any = site
    submitted: Any = request
    given = {"max_age": 60} | arguments
    await report_problems(client, settings, submitted, told.append, **given)
    return told


def said(
    site: Site,
    *,
    host: str = "a",
    jump: tuple[Hop, ...] = (),
    base_dir: str = "~/runs",
    max_age: float = 60,
) -> list[str]:
    request = asked_for("--time=0-00:10:00", base_dir=base_dir)
    return asyncio.run(report(site, settings_of(host, jump_hosts=jump), request, max_age=max_age))


def test_a_site_is_asked_once_in_a_while(folder: Path) -> None:
    site = Site()

    first, second = said(site), said(site)

    assert first == second
    assert [text.partition(".")[0] for text in first] == [
        "Preflight: There are 0 B left at /scratch"
    ]
    assert site.asked == 1
    assert folder.stat().st_mode & 0o777 == 0o700


def test_another_site_or_directory_is_asked_for_itself(folder: Path) -> None:
    site = Site()

    said(site)
    said(site, host="b")
    said(site, base_dir="~/other")
    said(site, jump=(Hop(host="gate"),))
    other = replace(settings_of(), login_setup="module load slurm/next")
    asyncio.run(report(site, other, asked_for()))

    assert site.asked == 5


@pytest.mark.parametrize(
    "error", [CommandTimeoutError("It took too long."), UnreadableOutputError("It broke off.")]
)
def test_a_site_that_does_not_answer_stops_no_submission(folder: Path, error: CscError) -> None:
    site = Site(error)

    [line] = said(site)
    said(site)

    assert line == f"Preflight: not known, for the site did not answer. {error.message}"
    assert site.asked == 2


def test_why_there_is_no_connection_is_told_once_by_the_submission(folder: Path) -> None:
    (line,) = said(Site(ConnectFailedError("The log-in was refused.")))

    assert line == "Preflight: not known, for the site did not answer."


def test_a_question_that_failed_is_told_when_it_was_asked(folder: Path) -> None:
    site = Site(
        PreflightFacts(asked_at=1, problems={"associations": "sacctmgr show associations: refused"})
    )

    assert said(site) == ["Preflight: not known: sacctmgr show associations: refused"]
    assert said(site) == []


def test_answers_that_are_too_old_or_spoilt_are_not_believed(folder: Path) -> None:
    site = Site()

    said(site)
    said(site, max_age=0)
    [kept] = folder.iterdir()
    for spoilt in ("", "[]", '{"asked_at": 1}', "\xff"):
        kept.write_text(spoilt, "latin-1")
        said(site)

    assert site.asked == 6


def test_a_directory_that_others_can_write_is_not_used(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    site = Site()

    said(site)
    said(site)

    assert site.asked == 2
    assert not list(folder.iterdir())


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir(mode=0o700)
    folder.symlink_to(target)
    site = Site()

    said(site)

    assert not list(target.iterdir())
    assert _preflight._place_of("a site") is None


# ---- many at once ----


@pytest.mark.parametrize("answer", [FULL, CommandTimeoutError("It took too long.")])
def test_those_who_come_while_a_site_is_asked_wait_for_that_answer(
    folder: Path, answer: PreflightFacts | Exception
) -> None:
    site = Site(answer)

    async def ask() -> list[list[str]]:
        each = (report(site, settings_of(), asked_for(), max_age=0) for _ in range(5))
        return await asyncio.gather(*each)

    told = asyncio.run(ask())

    assert site.asked == 1
    assert all(each == told[0] for each in told)
    assert told[0]


def test_who_asked_first_may_leave(folder: Path) -> None:
    site = Site()

    async def ask() -> list[str]:
        first, second = (
            asyncio.create_task(report(site, settings_of(), asked_for())) for _ in range(2)
        )
        while not site.asked:
            await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(ask())
    assert site.asked == 1


def test_an_answer_that_many_wait_for_is_kept_and_its_gaps_are_told_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(PreflightFacts(asked_at=1, problems={"room": "df: refused"}))
    kept: list[PreflightFacts] = []
    monkeypatch.setattr(_preflight, "_keep", lambda _place, facts: kept.append(facts))

    async def ask() -> list[list[str]]:
        each = (report(site, settings_of(), asked_for()) for _ in range(5))
        return await asyncio.gather(*each)

    told = asyncio.run(ask())

    assert len(kept) == 1
    assert [line for lines in told for line in lines] == ["Preflight: not known: df: refused"]


def test_no_file_is_read_or_written_on_the_event_loop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, int] = {}

    def watch(name: str) -> None:
        do = getattr(_preflight, name)

        def watched(*arguments: Any) -> Any:
            threads[name] = threading.get_ident()
            return do(*arguments)

        monkeypatch.setattr(_preflight, name, watched)

    for name in ("_place_of", "_recall", "_keep"):
        watch(name)
    said(Site())

    assert len(threads) == 3
    assert threading.get_ident() not in threads.values()


# ---- what the profile of a site adds ----

PROFILE = """
title: Here
architecture: x86_64
partitions:
  small: {max_time: 1-00:00:00, cores_per_node: 64, billing: cores}
billing:
  cores: {unit: CPU BU, highest_of: [{of: cores}]}
commands: {balance: csc-projects, workspaces: csc-workspaces}
"""
PROJECT = """\
Project: project_1        Owner: Kalle
Start: 2019-08-20 End: 2029-10-23 Status: open
CPU BU:             60000          20       5
"""


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "here.yaml").write_text(PROFILE)
    monkeypatch.setenv("AIRFLOW__CSC__SITES_FOLDER", str(tmp_path / "sites"))
    return tmp_path / "sites" / "here.yaml"


SMALL = ("--account=project_1", "--partition=small", "--time=0-01:00:00", "--cpus-per-task=6")


def with_further(**texts: str) -> PreflightFacts:
    further = {name: Frame(0, text.encode()) for name, text in texts.items()}
    return PreflightFacts(asked_at=1, further=further)


def test_balance_and_architecture_are_held_against_the_job(folder: Path, profile: Path) -> None:
    site = Site(with_further(balance=PROJECT, workspaces="/scratch 1G/2G 1/2 n/a"))
    request = asked_for(*SMALL, architecture="aarch64")

    costs, architecture = asyncio.run(report(site, settings_of(site="here"), request))
    again = asyncio.run(report(site, settings_of(site="here"), request))

    assert "csc-projects -p project_1" in site.further
    assert costs.startswith("Preflight: The job costs at most 6 CPU BU")
    assert architecture.startswith("Preflight: The environment is built for aarch64")
    assert again == [costs, architecture]
    assert site.asked == 1


def test_another_account_is_asked_for_itself(folder: Path, profile: Path) -> None:
    site = Site(with_further(balance=PROJECT))

    for account in ("project_1", "project_2"):
        request = asked_for(f"--account={account}")
        asyncio.run(report(site, settings_of(site="here"), request))

    assert site.asked == 2


def test_a_program_that_is_not_there_is_told_when_it_was_asked(folder: Path, profile: Path) -> None:
    site = Site(PreflightFacts(asked_at=1, further={"balance": Frame(127, b"not found")}))
    request = asked_for(*SMALL)

    [line] = asyncio.run(report(site, settings_of(site="here"), request))

    assert line.startswith("Preflight: not known: What csc-projects prints is not as it is")
    assert asyncio.run(report(site, settings_of(site="here"), request)) == []


def test_a_profile_that_cannot_be_read_stops_no_submission(folder: Path, profile: Path) -> None:
    profile.write_text("titel: Here\n")
    site = Site()

    [line] = asyncio.run(report(site, settings_of(site="here"), asked_for()))

    assert line.startswith("Preflight: not known. ")
    assert "titel" in line


# ---- certificates ----


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key with a certificate that is valid for half a day."""
    own, authority = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    own.write_private_key(tmp_path / "id")
    signed = authority.generate_user_certificate(own, "test", valid_before="+12h")
    signed.write_certificate(tmp_path / "id-cert.pub")
    return tmp_path / "id"


@pytest.mark.parametrize(
    ("waits", "limit", "is_told"),
    [
        (False, "1-00:00:00", True),
        (False, "0-01:00:00", False),
        # The task that waits says it itself.
        (True, "1-00:00:00", False),
    ],
)
def test_a_certificate_is_told_of_where_nobody_waits_who_would_be_warned(
    folder: Path, key: Path, limit: str, *, waits: bool, is_told: bool
) -> None:
    site = Site(PreflightFacts(asked_at=1))
    settings = settings_of(key_file=str(key))

    told = asyncio.run(report(site, settings, asked_for(f"--time={limit}"), waits=waits))

    assert bool(told) == is_told
    if is_told:
        assert told[0].startswith("Preflight: The SSH certificate is valid until ")
        assert "and a job of now may run until " in told[0]


def test_a_time_in_a_script_that_slurm_does_not_read_ends_no_preflight(
    folder: Path, profile: Path, key: Path
) -> None:
    site = Site(with_further(balance=PROJECT))
    settings = settings_of(site="here", key_file=str(key))

    for option in ("--time=1h", "--time=1:2:3:4", "--time-min=1h"):
        request = asked_for(*SMALL[:2], option, architecture="aarch64")
        told = asyncio.run(report(site, settings, request, waits=False))
        assert told[-1].startswith("Preflight: The environment is built for aarch64")


@pytest.mark.parametrize(("log_in", "lines"), [("", 0), ("log_in: {certificate_hours: 24}", 1)])
def test_a_certificate_is_told_of_where_the_site_wants_one(
    folder: Path, profile: Path, key: Path, log_in: str, lines: int
) -> None:
    profile.write_text(f"{PROFILE}{log_in}\n")
    settings = settings_of(site="here", key_file=str(key))
    site = Site(PreflightFacts(asked_at=1))

    told = asyncio.run(report(site, settings, asked_for("--time=1-00:00:00"), waits=False))

    assert len([line for line in told if "The SSH certificate" in line]) == lines


def test_a_certificate_that_cannot_be_read_hides_nothing_else(folder: Path, tmp_path: Path) -> None:
    settings = settings_of(key_file=str(tmp_path / "none"))

    told = asyncio.run(report(Site(), settings, asked_for(), waits=False))

    assert "0 B left" in told[-1]


def test_facts_of_an_older_version_are_asked_anew(folder: Path) -> None:
    site = Site()
    said(site)
    [kept] = folder.iterdir()
    payload = json.loads(kept.read_text())
    del payload["partitions"]
    kept.write_text(json.dumps(payload))

    said(site)

    assert site.asked == 2


# ---- the operator ----


@pytest.fixture
def site(profile: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultySite]:
    with default_site(monkeypatch, FaultySite) as site:
        extra = {"site": "here", "account": "project"}
        connection = {"conn_type": "slurm", "host": "fake", "login": "somebody", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(connection))
        yield site


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given = {"task_id": "job", "command": "true", "deferrable": True}
    options = {"partition": "small", "time": "00:10:00", "hold": True}
    return SlurmSubmitOperator(**given | {"options": options} | arguments)


BUILT = {"path": "/env", "modules": [], "architecture": "aarch64"}


def test_what_a_task_built_is_held_against_the_partition(
    site: FaultySite, capsys: pytest.CaptureFixture[str]
) -> None:
    task = operator(environment=BUILT)
    submitted(lambda: task.execute(build_context(task)))
    said = capsys.readouterr().out
    assert "Preflight: The environment is built for aarch64" in said
    # The fake site has no such programs.
    assert "Preflight: not known: What csc-projects prints" in said
    assert "Preflight: not known: What csc-workspaces prints" in said
    assert len(site.fake.jobs) == 1


def test_what_it_built_itself_keeps_its_architecture() -> None:
    kept = _kept({**BUILT, "backend": "venv", "reused": True})

    assert operator()._built_for(Attempt(environment=kept)) == "aarch64"
    assert operator(environment="/env")._built_for(Attempt()) is None


def test_without_a_preflight_only_the_submission_asks(
    site: FaultySite, capsys: pytest.CaptureFixture[str]
) -> None:
    task = operator(environment=BUILT, preflight=False)
    submitted(lambda: task.execute(build_context(task)))
    assert "Preflight" not in capsys.readouterr().out
    assert site.fake.calls("sacctmgr") == 0


def test_a_setting_of_airflow_that_cannot_be_read_stops_no_submission(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CSC__PREFLIGHT_SECONDS", "ten")
    site = Site()
    told: list[str] = []
    client: Any = site
    request: Any = asked_for()

    asyncio.run(look_ahead(client, settings_of(), request, told.append))

    assert len(told) == 1
    assert told[0].startswith("Preflight: not known. preflight_seconds: Airflow cannot read [csc]")
    assert '"ten"' in told[0]
    assert site.asked == 0


def test_folders_that_airflow_cannot_read_stop_no_submission(
    folder: Path, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW__CSC__SITES_FOLDER")
    conf.read_string("[csc]\nsites_folder = /data/100%/sites")
    try:
        (line,) = asyncio.run(report(Site(), settings_of(site="here"), asked_for()))
    finally:
        conf.remove_option("csc", "sites_folder", remove_default=False)

    assert line.startswith("Preflight: not known. sites_folder: Airflow cannot read [csc]")
