"""Killing on the real cluster: at once, with a notice, and while the submission is under way."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.client.kill import kill_jobs, kill_submission
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.slurm.run_dir import CANCEL_FILE
from airflow_provider_csc.triggers.slurm import SlurmSiteTrigger
from tests.support.task import stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

# What a job's wrapper does with a signal: hand it on, and wait for the child's end.
TELLS = """#!/bin/bash
trap 'echo batch TERM; kill -TERM $child' TERM
trap 'echo batch USR1; kill -USR1 $child' USR1
bash -c 'trap "echo script TERM" TERM; trap "echo script USR1; exit 3" USR1
  echo ready; while :; do sleep 0.1; done' &
child=$!
while kill -0 $child 2>/dev/null; do wait $child; done
echo end
"""


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def info(self, message: str, /, *args: object) -> None:
        self.log(logging.INFO, message, *args)

    def log(self, level: int, message: str, /, *args: object) -> None:
        self.lines.append((level, message % args if args else message))

    @property
    def text(self) -> str:
        return "\n".join(line for _level, line in self.lines)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A directory of alice's, with a script that tells of its signals."""
    path = f"~/kills/{uuid.uuid4().hex[:8]}"
    hook = SlurmHook()
    where = hook.run(f"mkdir -p {path} && cd {path} && pwd").text
    hook.write_file(f"{where}/tells", TELLS, mode=0o700)
    yield Path(where)
    hook.run(f"rm -rf -- {where}")


def submit(run_dir: Path, options: str = "", script: str = "tells") -> str:
    command = f"cd {run_dir} && sbatch --parsable --mem=20M --output=out {options} {script}"
    return SlurmHook().run(command).text.split()[-1]


def wait_for_line(run_dir: Path, line: str) -> None:
    end = time.monotonic() + 30
    while line not in said(run_dir):
        assert time.monotonic() < end, said(run_dir)
        time.sleep(0.1)


def said(run_dir: Path) -> list[str]:
    try:
        return (run_dir / "out").read_text().splitlines()
    except FileNotFoundError:
        return []


def kill(job_ids: list[str], log: Log, **options: Any) -> Any:
    return asyncio.run(kill_jobs(SlurmHook().get_settings(), job_ids, log, **options))


def test_running_and_pending_jobs_are_cancelled_and_slurm_confirms_it(
    run_dir: Path, log: Log
) -> None:
    running, pending = submit(run_dir), submit(run_dir, "--hold")
    wait_for_line(run_dir, "ready")

    report = kill([running, pending], log)

    assert report.is_confirmed
    assert f"Cancelled job {running}, {pending}; Slurm confirms it" in log.text
    found = SlurmHook().query([running, pending])
    assert {result.state for result in found.values()} == {"CANCELLED"}


def test_a_job_that_is_over_or_unknown_needs_no_cancelling(run_dir: Path, log: Log) -> None:
    job_id = submit(run_dir)
    kill([job_id], log)

    assert kill([job_id, "99999999"], log).is_confirmed


def test_a_notice_reaches_a_running_job_and_the_rest_is_cancelled_when_it_is_over(
    run_dir: Path, log: Log
) -> None:
    job_id, pending = submit(run_dir), submit(run_dir, "--hold")
    wait_for_line(run_dir, "ready")
    began = time.monotonic()

    report = kill([job_id, pending], log, grace=4, run_dirs=[str(run_dir)])

    assert report.is_confirmed
    assert 4 <= time.monotonic() - began < 25
    assert "script TERM" in said(run_dir)
    assert (run_dir / CANCEL_FILE).read_text().strip() == "4"


def test_the_users_own_signal_goes_to_the_batch_shell_alone(run_dir: Path, log: Log) -> None:
    job_id = submit(run_dir)
    wait_for_line(run_dir, "ready")

    report = kill([job_id], log, grace=15, signal="B:USR1@60")

    assert report.is_confirmed
    assert [line for line in said(run_dir) if "USR1" in line] == ["batch USR1", "script USR1"]
    assert said(run_dir)[-1] == "end"


def test_a_site_that_is_away_is_asked_until_the_time_is_over_and_it_is_said(
    slurm_connection: SlurmConnection, log: Log
) -> None:
    slurm_connection.set(port=9)
    began = time.monotonic()

    report = kill(["123"], log, patience=3)

    assert not report.is_asked
    assert 1 < time.monotonic() - began < 6
    assert log.lines[-1][0] == logging.ERROR
    assert "scancel 123" in log.text


def stop_submission(base_dir: Path, token: str, log: Log) -> Any:
    return asyncio.run(
        kill_submission(SlurmHook().get_settings(), base_dir=str(base_dir), token=token, log=log)
    )


def test_a_submission_that_has_not_begun_finds_the_mark(run_dir: Path, log: Log) -> None:
    report = stop_submission(run_dir / "new" / "runs", "af0.1", log)

    assert report.is_confirmed
    assert report.job_ids == ()
    directory = run_dir / "new" / "runs" / "af0.1"
    assert (directory / CANCEL_FILE).read_text().strip() == "0"
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_submission_that_became_a_job_is_found_by_its_record_and_by_its_name(
    run_dir: Path, log: Log
) -> None:
    token = f"af{uuid.uuid4().hex[:20]}.1"
    recorded, named = submit(run_dir, "--hold"), submit(run_dir, f"--hold --job-name=a.b.{token}")
    other = submit(run_dir, f"--hold --job-name=a.b.{token}.1")
    SlurmHook().run(f"mkdir {run_dir}/{token} && echo {recorded} >{run_dir}/{token}/job_id")

    report = stop_submission(run_dir, token, log)

    assert report.is_confirmed
    assert set(report.job_ids) == {recorded, named}
    assert not SlurmHook().query([other])[other].is_final
    kill([other], log)


def test_the_site_trigger_fires_when_the_site_can_take_a_job() -> None:
    trigger = stored(SlurmSiteTrigger(slurm_conn_id="slurm_default", reason="it was away"))
    assert isinstance(trigger, SlurmSiteTrigger)
    log = Log()

    event = asyncio.run(trigger.wait(SlurmHook().get_settings(), log))

    assert event == {"status": "up"}
    assert "it was away" in log.lines[0][1]
    assert "can take jobs again" in log.lines[-1][1]


def test_the_site_trigger_ends_at_the_tasks_deadline(slurm_connection: SlurmConnection) -> None:
    slurm_connection.set(port=9)
    trigger = SlurmSiteTrigger(slurm_conn_id="slurm_default", deadline=time.time() + 2)
    log = Log()

    event = asyncio.run(trigger.wait(SlurmHook().get_settings(), log))

    assert event == {"status": "deadline"}
    assert "port 9" in log.text or ":9" in log.text


def test_a_directory_that_cannot_be_written_keeps_the_site_trigger_waiting(run_dir: Path) -> None:
    locked = run_dir / "locked"
    SlurmHook().run(f"mkdir {locked} && chmod 500 {locked}")
    trigger = SlurmSiteTrigger(
        slurm_conn_id="slurm_default", base_dir=f"{locked}/runs", poll_interval=0.5
    )
    log = Log()

    async def wait() -> dict[str, str]:
        waiting = asyncio.ensure_future(trigger.wait(await SlurmHook().aget_settings(), log))
        await asyncio.sleep(3)
        assert not waiting.done()
        (locked).chmod(0o700)
        return await asyncio.wait_for(waiting, 20)

    assert asyncio.run(wait()) == {"status": "up"}


def test_many_site_triggers_share_one_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_csc.client.slurm import SlurmClient

    asked = 0
    ask = SlurmClient.ask

    async def counted(self: SlurmClient, body: str, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        return await ask(self, body, **options)

    monkeypatch.setattr(SlurmClient, "ask", counted)

    async def wait_for_all() -> list[dict[str, str]]:
        settings = await SlurmHook().aget_settings()
        triggers = [SlurmSiteTrigger(slurm_conn_id="slurm_default") for _ in range(20)]
        return await asyncio.gather(*(trigger.wait(settings, Log()) for trigger in triggers))

    events = asyncio.run(wait_for_all())

    assert {event["status"] for event in events} == {"up"}
    assert asked == 1
