"""The operator and the profile of its site: what a job gets of it, and when it gets no job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from tests.support.fake_site import LocalTransport
from tests.support.steps import FaultySite, default_site, deferred_by, submitted
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROFILE = """\
title: Mine
log_in: {host: login.mine.org, setup: export SET_UP=yes}
jobs:
  options: {export: "HOME,X=1", mem: 2G}
  env: {FROM_SITE: site, BOTH: site}
  module_paths: [/appl/modules]
"""
RETIRED = "extends: mine\nretired: {since: 2026-07-31, successor: lumi}\n"


class Site(FaultySite):
    """A fake site that counts how often it was connected to."""

    connections = 0

    def open(self, settings: Any) -> SlurmClient:
        self.connections += 1
        return SlurmClient(LocalTransport(self.fake), login_setup=settings.login_setup)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with default_site(monkeypatch, Site) as site:
        yield site


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own profiles, which Airflow's settings name."""
    (tmp_path / "mine.yaml").write_text(PROFILE)
    (tmp_path / "old.yaml").write_text(RETIRED)
    monkeypatch.setenv("AIRFLOW__CSC__SITES_FOLDER", str(tmp_path))
    return tmp_path


def connect(monkeypatch: pytest.MonkeyPatch, site: str) -> None:
    connection = {"conn_type": "slurm", "login": "somebody", "extra": {"site": site}}
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(connection))


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given = {"task_id": "job", "command": "true", "deferrable": True, "options": {"hold": True}}
    return SlurmSubmitOperator(**(given | arguments))


def test_a_job_gets_what_the_profile_of_its_site_says(
    site: Site, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "mine")
    task = operator(options={"hold": True, "mem": "1G"}, env={"BOTH": "task"}, modules=["gcc"])
    trigger = submitted(lambda: task.execute(build_context(task)))
    (job,) = site.fake.jobs.values()
    script = (site.fake.home / trigger.run_dir / "batch.sh").read_text()
    assert "--export=HOME,X=1" in trigger.attempt["asked"]
    assert "--mem=1G" in trigger.attempt["asked"]
    assert job["state"] == "PENDING"
    assert script.index("prepare module use /appl/modules") < script.index("module load gcc")
    assert "export FROM_SITE=site" in script
    assert "export BOTH=task" in script


def test_a_retired_site_gets_no_job_and_is_not_asked(
    site: Site, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "old")
    task = operator()
    with pytest.raises(AirflowFailException, match=r"Mine takes no jobs since 2026-07-31.*'lumi'"):
        task.execute(build_context(task))
    assert site.connections == 0


def test_nothing_is_staged_for_a_retired_site(
    site: Site, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its refusal comes before that of a store of which nothing is known."""
    connect(monkeypatch, "old")
    task = operator(inputs=["s3://bucket/key"], allas_conn_id="no_such_store")
    with pytest.raises(AirflowFailException, match="takes no jobs"):
        task.execute(build_context(task))


def test_a_retired_site_gets_no_coalesced_job(
    site: Site, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "old")
    task = operator(coalesce=True, options={})
    with pytest.raises(AirflowFailException, match="takes no jobs"):
        task.execute(build_context(task))
    assert site.connections == 0


def test_a_coalesced_job_gets_what_the_profile_says(
    site: Site, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "mine")
    task = operator(coalesce=True, options={})
    plan = json.dumps(deferred_by(lambda: task.execute(build_context(task))).trigger.serialize()[1])
    assert "--export=HOME,X=1" in plan
    assert "export FROM_SITE=site" in plan


def test_a_retired_site_can_still_be_read(
    site: Site, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "old")
    hook = SlurmHook()
    assert hook.run("echo $SET_UP").text == "yes"
    _, text = hook.test_connection()
    assert text.startswith("Logged in as")
    assert "Mine takes no jobs since 2026-07-31. Use" in text


def test_an_unknown_site_fails_at_once(
    site: Site, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "mien")
    task = operator()
    with pytest.raises(AirflowFailException, match="Did you mean 'mine'"):
        task.execute(build_context(task))
