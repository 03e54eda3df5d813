"""What an operator refuses to stage, before anything is submitted; and when URLs are issued."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.hooks import _staging as stagers
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.staging.commands import Look
from airflow_provider_csc.staging.plan import Staging
from airflow_provider_csc.store import staging as store_staging
from airflow_provider_csc.store.staging import Issued
from tests.support.steps import FaultySite, default_site
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Iterator

STAGED = [{"inputs": ["s3://bkt/x"]}, {"outputs": ["s3://bkt/x"]}]


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given: dict[str, Any] = {"task_id": "job", "command": "true", "deferrable": True}
    return SlurmSubmitOperator(**given | arguments)


@pytest.fixture(params=["node", "login"])
def site(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultySite]:
    """A site; of the store there is an address where nothing is."""
    store = {"conn_type": "allas", "login": "k", "password": "s"}
    endpoint = {"endpoint_url": "http://127.0.0.1:9"}
    monkeypatch.setenv("AIRFLOW_CONN_ALLAS_DEFAULT", json.dumps(store | {"extra": endpoint}))
    with default_site(monkeypatch, FaultySite) as site:
        slurm = {"conn_type": "slurm", "host": "fake", "login": "somebody"}
        extra = {"extra": {"staging": request.param}}
        monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(slurm | extra))
        yield site


@pytest.mark.parametrize("staged", STAGED, ids=["inputs", "outputs"])
@pytest.mark.parametrize(
    ("arguments", "field", "shown", "remedy"),
    [
        ({"wait_for_completion": False}, "wait_for_completion", "False", "Leave it out"),
        ({"coalesce": True}, "coalesce", "True", "Leave it out"),
        ({"options": {"array": "0-3"}}, "options['array']", "'0-3'", r"use .expand\(\)"),
        ({"options": {"--array": "{{ n }}"}}, "options['array']", "'{{ n }}'", "another task"),
        ({"staging_timeout": 1}, "staging_timeout", "1", "10 s or more"),
    ],
    ids=["left alone", "together", "array", "array of a template", "no time"],
)
def test_what_does_not_go_together_with_staging_is_an_error_of_the_dag_file(
    staged: dict[str, Any], arguments: dict[str, Any], field: str, shown: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=remedy) as caught:
        operator(**staged, **arguments)

    assert caught.value.details["field"] == field
    assert str(caught.value).startswith(f"{field}: {shown} ")


def test_without_files_all_of_that_may_be() -> None:
    operator(wait_for_completion=False)
    operator(coalesce=True)
    operator(options={"array": "0-3"})
    operator(options={"array": None}, inputs=["s3://bkt/x"])


def test_a_mapped_task_is_refused_when_it_is_about_to_run() -> None:
    with DAG("d", schedule=None):
        mapped = SlurmSubmitOperator.partial(
            task_id="job", command="true", wait_for_completion=False
        ).expand(inputs=[["s3://bkt/x"]])

    with pytest.raises(ConfigError, match="wait_for_completion: False"):
        mapped.unmap({"inputs": ["s3://bkt/x"]})


@pytest.mark.parametrize("staged", STAGED, ids=["inputs", "outputs"])
@pytest.mark.parametrize("where", ["script", "remote script", "options"])
def test_an_array_that_shows_when_the_task_runs_is_refused_before_anything_is_asked_of_the_store(
    site: FaultySite, staged: dict[str, Any], where: str
) -> None:
    text = "#!/bin/bash\n#SBATCH --array=0-3\ntrue\n"
    (site.fake.home / "job.sh").write_text(text)
    source: dict[str, Any] = {
        "script": {"command": None, "script": text},
        "remote script": {"command": None, "remote_script": f"{site.fake.home}/job.sh"},
        "options": {},
    }[where]
    task = operator(**staged, **source, work_dir=str(site.fake.home))
    if where == "options":
        # As a template makes them.
        task.options = {"array": "0-3"}

    with pytest.raises(AirflowFailException, match=r"inputs, outputs: the array 0-3 .*\.expand"):
        task.execute(build_context(task))  # type: ignore[arg-type]

    assert site.fake.calls("sbatch") == 0
    assert task._job_id is None


class RunDir:
    """The run directory of a job that asks for URLs, at a site whose squeue comes back some time."""

    def __init__(self, *, silent_looks: int) -> None:
        self.silent_looks = silent_looks
        self.looks = 0
        self.issued: list[str] = []

    async def look(self, _job_id: str) -> Look:
        self.looks += 1
        is_told = self.looks > self.silent_looks
        return Look(wanted="1.0", issued=None, left=600 if is_told else None, is_told=is_told)

    async def issue(self, _record: object, manifest: str) -> None:
        self.issued.append(manifest)


def serve(
    monkeypatch: pytest.MonkeyPatch, run_dir: RunDir, *, timeout: int = 1800
) -> tuple[list[int | None], list[str]]:
    """Give a job its URLs; return how long it was taken to have left, and what was said."""
    left: list[int | None] = []
    said: list[str] = []

    def issue(_store: object, _staging: object, _epoch: str, seconds: int | None) -> Issued:
        left.append(seconds)
        return Issued(manifest="urls", record={}, count=0, size=0, seconds=0)

    class Log:
        def info(self, message: str, *arguments: object) -> None:
            said.append(message % arguments)

        def log(self, _level: int, message: str, *arguments: object) -> None:
            said.append(message % arguments)

    async def no_store(_self: object) -> None:
        return None

    monkeypatch.setattr(store_staging, "issue", issue)
    monkeypatch.setattr(stagers, "StagingDir", lambda *_: run_dir)
    monkeypatch.setattr(stagers.Stager, "_get_store", no_store)
    monkeypatch.setattr(stagers, "_FIRST_PAUSE", 0.01)
    payload = Staging(conn_id="allas_default", timeout=timeout).to_payload()
    asyncio.run(stagers.Stager(payload, "/run", Log())._serve("7", None))  # type: ignore[arg-type]
    return left, said


def test_squeue_is_asked_again_before_urls_get_the_longest_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir = RunDir(silent_looks=3)

    left, said = serve(monkeypatch, run_dir)

    assert (left, run_dir.looks) == ([600], 4)
    assert run_dir.issued == ["urls"]
    assert len([line for line in said if "squeue does not tell how long job 7" in line]) == 1


@pytest.mark.parametrize(("patience", "timeout"), [(0.2, 1800), (60, 1)])
def test_a_job_does_not_wait_for_squeue_until_it_gives_up(
    monkeypatch: pytest.MonkeyPatch, patience: float, timeout: int
) -> None:
    monkeypatch.setattr(stagers, "_UNTOLD_SECONDS", patience)
    run_dir = RunDir(silent_looks=1000)

    left, _ = serve(monkeypatch, run_dir, timeout=timeout)

    assert left == [None]
    assert run_dir.looks > 2
