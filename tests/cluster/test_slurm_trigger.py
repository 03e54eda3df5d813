"""SlurmJobTrigger on the real cluster: what it survives, and what many of them cost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from tests.support.run_trigger import start_trigger
from tests.support.task import build_context, first_event, stored
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]


def deferred_trigger(**arguments: Any) -> SlurmJobTrigger:
    """Submit a job and return the trigger its task deferred to."""
    task = SlurmSubmitOperator(task_id="job", deferrable=True, poll_interval=0.5, **arguments)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(build_context(task))
    trigger = stored(deferred.value.trigger)
    assert isinstance(trigger, SlurmJobTrigger)
    return trigger


def numbers(output: Path) -> list[int]:
    return [int(line) for line in output.read_text().split("\n") if line.isdecimal()]


COUNT = "for i in $(seq 1 60); do echo $i; sleep 0.2; done"


def test_a_triggerer_that_is_stopped_loses_and_doubles_no_line(tmp_path: Path) -> None:
    trigger, output = deferred_trigger(command=COUNT), tmp_path / "log"
    first = start_trigger(trigger, output)
    wait_until(lambda: len(numbers(output)) >= 5)
    first.terminate()
    first.join(20)

    second = start_trigger(trigger, output)
    second.join(90)

    assert numbers(output) == list(range(1, 61))
    assert '"state": "COMPLETED"' in output.read_text()


def test_a_triggerer_that_is_killed_loses_no_line_and_doubles_at_most_one_round(
    tmp_path: Path,
) -> None:
    trigger, output = deferred_trigger(command=COUNT), tmp_path / "log"
    first = start_trigger(trigger, output)
    wait_until(lambda: len(numbers(output)) >= 5)
    first.kill()
    first.join(20)
    seen = numbers(output)

    second = start_trigger(trigger, output)
    second.join(90)

    shown = numbers(output)
    assert sorted(set(shown)) == list(range(1, 61))
    # Lines that were logged but not yet noted on the cluster are logged again: a poll's worth.
    assert len(shown) - 60 <= len(seen)
    assert shown[len(seen) :] == list(range(shown[len(seen)], 61))


TWO_STREAMS = (
    "for i in $(seq 1 250); do echo out $i; echo err $i >&2; sleep 0.1; done; printf 'out last'"
)


def stream(output: Path, name: str) -> list[str]:
    lines = output.read_text().split("\n")
    return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


def move(trigger: SlurmJobTrigger, output: Path, signals: list[signal.Signals]) -> list[int]:
    """
    Run a trigger in one process after the other, each ended at a random instant.

    :return: how many lines had been shown at each end.
    """
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chance = random.Random(seed)
    ends = []
    for number in signals:
        before = len(output.read_text()) if output.exists() else 0
        process = start_trigger(trigger, output)
        wait_until(lambda before=before: output.exists() and len(output.read_text()) > before + 20)
        time.sleep(chance.uniform(0, 2.5))
        os.kill(process.pid or 0, number)
        process.join(20)
        ends.append(len(stream(output, "out")))
    start_trigger(trigger, output).join(90)
    assert '"state": "COMPLETED"' in output.read_text()
    return ends


WHOLE = [str(number) for number in range(1, 251)]


def test_over_graceful_moves_both_streams_are_shown_exactly(tmp_path: Path) -> None:
    trigger = deferred_trigger(command=TWO_STREAMS, options={"error": "err-%j", "output": "out-%j"})
    output = tmp_path / "log"
    move(trigger, output, [signal.SIGTERM] * 4)
    assert stream(output, "out") == [*WHOLE, "last"]
    assert stream(output, "err") == WHOLE


def test_over_sudden_deaths_no_line_is_lost_and_a_round_is_repeated_at_most(tmp_path: Path) -> None:
    trigger = deferred_trigger(command=TWO_STREAMS, options={"error": "err-%j", "output": "out-%j"})
    output = tmp_path / "log"
    ends = move(trigger, output, [signal.SIGKILL] * 4)
    for name, whole in (("out", [*WHOLE, "last"]), ("err", WHOLE)):
        shown = stream(output, name)
        assert list(dict.fromkeys(shown)) == whole
        numbers = [int(line) for line in shown if line != "last"]
        steps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
        # On to the next line, save behind a death: back by what its last round had shown.
        backwards = [1 - step for step in steps if step != 1]
        assert len(backwards) <= len(ends)
        # A round takes half a second, and the question itself some time on a busy machine.
        assert all(0 < lines <= 25 for lines in backwards)


def test_waiting_survives_the_loss_of_its_connection(
    tmp_path: Path, cluster: dict[str, Any]
) -> None:
    trigger, output = deferred_trigger(command=COUNT), tmp_path / "log"
    process = start_trigger(trigger, output)
    wait_until(lambda: len(numbers(output)) >= 5)

    sessions = sessions_of(process.pid or 0, cluster["ssh_port"])
    for pid in sessions:
        with contextlib.suppress(ProcessLookupError):  # One may end with the other.
            os.kill(pid, signal.SIGKILL)
    process.join(90)

    assert sessions, "no connection was there to cut"
    assert numbers(output) == list(range(1, 61))
    assert '"state": "COMPLETED"' in output.read_text()


def sessions_of(pid: int, port: int) -> list[int]:
    """The sshd processes that serve the connections of one process."""
    listing = subprocess.run(
        ["ss", "--tcp", "--numeric", "--processes", "--no-header", "state", "established"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sockets = [line.split() for line in listing.splitlines()]
    mine = {
        words[2]
        for words in sockets
        if words[3].endswith(f":{port}") and f"pid={pid}," in words[-1]
    }
    servers = [words[-1] for words in sockets if words[3] in mine]
    return [
        int(part.split("=")[1])
        for words in servers
        for part in words.split(",")
        if part.startswith("pid=")
    ]


def test_a_users_kill_cancels_the_job_and_waits_for_slurm_to_say_so() -> None:
    trigger = deferred_trigger(command="sleep 60")

    asyncio.run(trigger.on_kill())

    found = SlurmHook().query(trigger.job_ids)
    assert [result.state for result in found.values()] == ["CANCELLED"]


def test_a_kill_of_a_watcher_of_foreign_jobs_leaves_them_alone() -> None:
    mine = deferred_trigger(command="sleep 20")
    watcher = SlurmJobTrigger(slurm_conn_id="slurm_default", job_ids=mine.job_ids)

    asyncio.run(watcher.on_kill())

    assert not SlurmHook().query(mine.job_ids)[mine.job_ids[0]].is_final
    SlurmHook().cancel(mine.job_ids)


def test_a_kill_of_a_task_that_waits_for_its_site_leaves_no_connection(
    cluster: dict[str, Any],
) -> None:
    """It asks over the poller's connection, which nobody else may use then."""
    trigger = SlurmSiteTrigger(
        slurm_conn_id="slurm_default", token=f"t{os.getpid()}.1", not_before=time.time() + 60
    )

    async def kill() -> int:
        waiting = asyncio.ensure_future(first_event(trigger))
        await asyncio.sleep(0.2)
        waiting.cancel()
        await asyncio.wait([waiting])
        await trigger.on_kill()
        left = connections_of(os.getpid(), cluster["ssh_port"])
        await trigger.cleanup()
        return left

    before = connections_of(os.getpid(), cluster["ssh_port"])
    assert asyncio.run(kill()) == before == 0


def test_fifty_waiting_triggers_share_one_connection_and_one_query_per_interval(
    cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_csc.client.slurm import SlurmClient

    programs: list[str] = []
    ask = SlurmClient.ask

    async def counted(self: SlurmClient, body: str, **options: Any) -> Any:
        programs.append(body)
        return await ask(self, body, **options)

    hook = SlurmHook()
    script = "#!/bin/bash\nsleep 30\n"
    hook.write_file("~/fifty.sh", script, mode=0o700)
    submitted = hook.run(
        "for i in $(seq 50); do sbatch --parsable --ntasks=1 --mem=10M ~/fifty.sh; done"
    )
    job_ids = submitted.text.split()
    monkeypatch.setattr(SlurmClient, "ask", counted)
    most = 0

    async def wait_for_all() -> list[Any]:
        nonlocal most
        triggers = [
            SlurmJobTrigger(slurm_conn_id="slurm_default", job_ids=[job_id], poll_interval=2.0)
            for job_id in job_ids
        ]
        began = time.monotonic()
        waiting = [asyncio.ensure_future(first_event(trigger)) for trigger in triggers]
        for _ in range(10):
            await asyncio.sleep(1)
            most = max(most, connections_of(os.getpid(), cluster["ssh_port"]))
        asked_meanwhile.append((len(programs), time.monotonic() - began))
        hook_cancel = f"scancel {' '.join(job_ids)}"
        subprocess.run(["runuser", "-u", "alice", "--", "bash", "-c", hook_cancel], check=True)
        return await asyncio.gather(*waiting)

    asked_meanwhile: list[tuple[int, float]] = []
    events = asyncio.run(wait_for_all())

    assert len(job_ids) == len(events) == 50
    assert most == 1
    # One question every two seconds, the first of them at once.
    ((questions, seconds),) = asked_meanwhile
    assert questions <= seconds / 2 + 2
    assert {event["results"][0]["state"] for event in events} == {"CANCELLED"}


def connections_of(pid: int, port: int) -> int:
    listing = subprocess.run(
        ["ss", "--tcp", "--numeric", "--processes", "--no-header", "state", "established"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sum(f"pid={pid}," in line and f":{port} " in line for line in listing.splitlines())
