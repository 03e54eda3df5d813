"""The preflight asks a site once in a while, and keeps what it said where nobody else can write."""

from __future__ import annotations

import asyncio
import os
import tempfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import CommandTimeoutError, CscError, UnreadableOutputError
from airflow_provider_csc.hooks import _preflight
from airflow_provider_csc.hooks._preflight import report_problems
from airflow_provider_csc.slurm.preflight_facts import PreflightFacts, Room
from airflow_provider_csc.transport.base import Hop, SiteSettings, SshSettings

if TYPE_CHECKING:
    from pathlib import Path

FULL = PreflightFacts(asked_at=1, room=Room(path="/scratch", free_bytes=0, free_files=None))


class Site:
    def __init__(self, answer: PreflightFacts | Exception = FULL) -> None:
        self.asked = 0
        self.answer = answer

    async def preflight_facts(self, _base_dir: str) -> PreflightFacts:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"airflow-csc-{os.getuid()}"


def said(
    site: Site,
    *,
    host: str = "a",
    jump: tuple[Hop, ...] = (),
    base_dir: str = "~/runs",
    max_age: float = 60,
) -> list[str]:
    told: list[str] = []
    settings = SiteSettings(ssh=SshSettings(target=Hop(host=host), jump_hosts=jump))
    request: Any = SimpleNamespace(base_dir=base_dir, asked=("--time=0-00:10:00",))
    client: Any = site
    asyncio.run(report_problems(client, settings, request, told.append, max_age=max_age))
    return told


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

    assert site.asked == 4


@pytest.mark.parametrize(
    "error", [CommandTimeoutError("It took too long."), UnreadableOutputError("It broke off.")]
)
def test_a_site_that_does_not_answer_stops_no_submission(folder: Path, error: CscError) -> None:
    site = Site(error)

    [line] = said(site)
    said(site)

    assert line == f"Preflight: not known, for the site did not answer. {error.message}"
    assert site.asked == 2


def test_a_question_that_failed_is_told_when_it_was_asked(folder: Path) -> None:
    site = Site(PreflightFacts(asked_at=1, problems=("sacctmgr show associations: refused",)))

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
    assert _preflight._place_of(SiteSettings(ssh=SshSettings(target=Hop(host="a"))), "~") is None
