"""
Scenarios under a real Airflow: scheduler, LocalExecutor, two triggerers, PostgreSQL.

What a try said is not read here, only what became of the task instance: a try that Airflow itself
failed, because its process was killed, looks like any other in its database.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from docker.lib.airflow_rest import Airflow, RefusedError
from tests.chaos.cluster import CHECKOUT, Cluster, uptime
from tests.chaos.faults import descendants
from tests.chaos.ledger import Attempt
from tests.chaos.scheduler import Plan, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from docker.lib.airflow_rest import DagRun
    from tests.chaos.stage import Stage

_DAG = "chaos_mapped"
_PORT = "9180"
# Airflow notices a lost process after so long; its own times are minutes. Not where nothing is
# lost: triggerers that are late by seconds would take each other for dead, and swap their triggers.
_TIMES = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
}
_BROKEN = {**_TIMES, "AIRFLOW__CORE__PARALLELISM": "12"}
# A worker that is killed has five seconds. Where a dozen of them start on two processors at once,
# no program can keep that.
_KILLED = {"AIRFLOW__CORE__PARALLELISM": "4"}
_GRACE_SECONDS = 30
_HUNG_SECONDS = 30
# How lines of a task's log begin that tell who had it: Airflow's, and the provider's own.
_HANDED_OVER = "Pausing task as DEFERRED"
_REFUSED_SECONDS = 1.5
_REFUSED = "Failed to report terminal task state"
_TOLD_TO_STOP = ("This process is told to stop", "Cancelled", "The site did not take", "Slurm took")
_TRIGGERS = "airflow_provider_csc.triggers"
_ENDED = ("success", "failed", "upstream_failed", "removed", "skipped")


class RealAirflow:
    """An Airflow of docker/airflow beside the suite's cluster."""

    def __init__(
        self, directory: Path, cluster: Path, source: Path = CHECKOUT, **settings: str
    ) -> None:
        self.directory = directory
        extra = {**settings, "PYTHONPATH": f"{source}:{CHECKOUT}"}
        self._environment = {
            **os.environ,
            "CLUSTER_DIR": str(cluster),
            "DEMO_DIR": str(directory),
            "AIRFLOW_PORT": _PORT,
            "AIRFLOW_DATABASE": "postgresql",
            "AIRFLOW_TRIGGERERS": "2",
            "AIRFLOW_DAGS": str(CHECKOUT / "tests" / "chaos" / "dags"),
            "AIRFLOW_ENVIRONMENT": " ".join(f"{name}={value}" for name, value in extra.items()),
        }

    async def control(self, *words: str) -> None:
        """Start, stop or kill one of its services, or all."""
        process = await asyncio.create_subprocess_exec(
            str(CHECKOUT / "docker" / "airflow"),
            *words,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"docker/airflow {' '.join(words)}: {said.decode()}")

    async def call(self, ask: Callable[[Airflow], Any], *, seconds: float = 90) -> Any:
        """Ask its REST interface, again and again while it or its database is away."""
        end = time.monotonic() + seconds
        while True:
            try:
                return await asyncio.to_thread(
                    lambda: ask(Airflow(self.directory / "airflow.json"))
                )
            except RefusedError as error:
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR or time.monotonic() > end:
                    raise
            except OSError:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(1)

    async def bring_back(self) -> None:
        """
        Start what has ended by itself, as whoever runs Airflow does.

        Some end when their database is away. A scheduler may hang then: it waits for its workers,
        and these for a lock that one had that was killed (seen in 3.3.2).
        """
        for service in ("dag-processor", "triggerer", "triggerer-2", "scheduler"):
            if self._pid(service) is None:
                await self.control("start", service)
        health = await self.call(lambda api: api.get("/monitor/health"))
        since = health["scheduler"]["latest_scheduler_heartbeat"]
        beaten = datetime.fromisoformat(since) if since else datetime.now(UTC)
        if (datetime.now(UTC) - beaten).total_seconds() > _HUNG_SECONDS:
            await self.control("kill", "scheduler")
            await self.control("start", "scheduler")

    def _pid(self, service: str) -> int | None:
        try:
            pid = int((self.directory / "run" / f"{service}.pid").read_text())
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid

    def task_processes(self) -> list[int]:
        """The processes below the scheduler: LocalExecutor's workers and their tasks."""
        try:
            scheduler = int((self.directory / "run" / "scheduler.pid").read_text())
        except (OSError, ValueError):
            return []
        return descendants(scheduler)


async def airflow_broken(stage: Stage) -> None:
    """Task processes, triggerers, scheduler, API server and database are killed and restarted."""
    airflow = await _start(stage, **_BROKEN)
    beats = [stage.rng.choice((0, 1, 2, 4, 6)) for _ in range(stage.options.count(60, 10))]
    run = await _trigger(stage, airflow, beats)
    # Disturbed for a part of the time only, so that it can come to an end.
    await _break(stage, airflow, stage.options.seconds(120, 20))
    end = time.monotonic() + stage.time_limit
    while not await _all_ended(airflow, run) and time.monotonic() < end:
        await airflow.bring_back()
        await asyncio.sleep(1)
    await _take_down(stage, airflow, run)


async def airflow_users_kill(stage: Stage) -> None:
    """Users mark tasks as failed or as succeeded, at any instant, deferred or not."""
    airflow = await _start(stage, **_KILLED)
    count = stage.options.count(40, 6)
    run = await _trigger(stage, airflow, [240] * count)
    clicks = [asyncio.create_task(_click(stage, airflow, run, index)) for index in range(count)]
    await asyncio.wait(clicks, timeout=stage.time_limit)
    await asyncio.gather(*clicks)
    await asyncio.sleep(_GRACE_SECONDS)
    await _reap(stage, airflow, run, {task.result()[0]: task.result()[1] for task in clicks})


async def _reap(
    stage: Stage, airflow: RealAirflow, run: DagRun, clicks: Mapping[int, float]
) -> None:
    """
    Have the reaper look for what no click reached, and say how much that was.

    A task that is ended before the triggerer has begun its trigger leaves nobody who could cancel;
    those, as their logs show, count as no orphans.
    """
    os.environ["AIRFLOW_HOME"] = str(airflow.directory)
    os.environ["AIRFLOW_CONN_SLURM_CHAOS"] = next(iter(stage.environment().values()))
    from airflow_provider_csc.reaper import reap

    instances = await _instances(airflow, run)

    def get_states(_dag_id: str, task_id: str, run_ids: Sequence[str]) -> dict[str, Any]:
        states = {f"{task_id}_{one['map_index']}": one["state"] for one in instances}
        return {run.run_id: states} if run.run_id in run_ids else {}

    report = await asyncio.to_thread(
        reap, "slurm_chaos", get_states=get_states, min_age=0, dry_run=False
    )
    by_index = {one["map_index"]: one for one in instances}
    cancelled = [one for one in report.orphans if one.job.job_id in report.cancelled and one.task]
    for one in cancelled:
        assert one.task is not None
        lines = await _log(airflow, run, by_index[one.task.map_index])
        if _was_in_nobodys_hands(lines, clicks[one.task.map_index]):
            stage.reaped.add(one.job.job_id)
        said = "".join(f"{json.dumps(line)}\n" for line in lines)
        (stage.forks.directory / f"{stage.prefix}{one.task.map_index:04}.log").write_text(said)
    stage.notes.append(
        f"after {_GRACE_SECONDS} s the reaper cancelled {len(cancelled)} of {stage.faults} jobs; of "
        f"{len(stage.reaped)} the task was ended between its worker and its trigger, when Airflow "
        "tells nobody."
    )


async def _log(airflow: RealAirflow, run: DagRun, instance: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the log of a task instance's latest try."""
    path = (
        f"/dags/{_DAG}/dagRuns/{quote(run.run_id)}/taskInstances/job/logs/{instance['try_number']}"
        f"?full_content=true&map_index={instance['map_index']}"
    )
    answer = await airflow.call(lambda api: api.get(path))
    lines: list[dict[str, Any]] = answer["content"]
    return lines


def _was_in_nobodys_hands(lines: Sequence[dict[str, Any]], clicked: float) -> bool:
    """
    Whether a task was ended between its worker and its trigger, by what stands in its log.

    Either Airflow took it from its worker and no trigger began; or Airflow refused to take it, as
    it was ended a moment before, later than its worker could ask.
    """
    handed_over = [line for line in lines if str(line["event"]).startswith(_HANDED_OVER)]
    if not handed_over or any(line.get("logger", "").startswith(_TRIGGERS) for line in lines):
        return False
    said = [str(line["event"]) for line in lines]
    if any(text.startswith(_TOLD_TO_STOP) for text in said):
        return False
    if any(text.startswith(_REFUSED) for text in said):
        at = datetime.fromisoformat(handed_over[-1]["timestamp"]).timestamp()
        return at - clicked < _REFUSED_SECONDS
    return True


async def _click(stage: Stage, airflow: RealAirflow, run: DagRun, index: int) -> tuple[int, float]:
    """Wait until Airflow has begun the task, and a little longer; end it, and tell when."""
    delay, state = stage.rng.uniform(0, 8), stage.rng.choice(("failed", "success"))
    while not await _has_begun(airflow, run, index):
        await asyncio.sleep(0.5)
    await asyncio.sleep(delay)
    path = f"/dags/{_DAG}/dagRuns/{quote(run.run_id)}/taskInstances/job/{index}"
    clicked = time.time()
    await airflow.call(lambda api: api.call("PATCH", path, {"new_state": state}))
    stage.faults += 1
    plan = Plan(name=f"{stage.prefix}{index:04}", operator={}, expects="killed")
    stage.add(plan, Progress(kills=[uptime()], final="killed"))
    return index, clicked


async def _has_begun(airflow: RealAirflow, run: DagRun, index: int) -> bool:
    return any(
        one["map_index"] == index and one["state"] in ("running", "deferred")
        for one in await _instances(airflow, run)
    )


async def end(cluster: Cluster) -> None:
    """Stop it and forget all of it, where it was started."""
    airflow = _beside(cluster)
    if (airflow.directory / "airflow.json").exists():
        await airflow.control("down", "--purge")


def _beside(cluster: Cluster, source: Path = CHECKOUT, **settings: str) -> RealAirflow:
    return RealAirflow(Path(f"{cluster.directory}-airflow"), cluster.directory, source, **settings)


async def _start(stage: Stage, **settings: str) -> RealAirflow:
    stage.direct()
    airflow = _beside(stage.cluster, stage.options.source, **settings)
    await airflow.control("down")  # that of the scenario before has other settings
    await airflow.control("up")
    connection = next(iter(stage.environment().values()))
    await airflow.call(lambda api: api.set_connection(_as_rest(connection)))
    await airflow.call(lambda api: api.wait_for_dag(_DAG))
    return airflow


def _as_rest(text: str) -> dict[str, Any]:
    fields = json.loads(text)
    return {**fields, "connection_id": "slurm_chaos", "extra": json.dumps(fields["extra"])}


async def _trigger(stage: Stage, airflow: RealAirflow, beats: list[int]) -> DagRun:
    conf = {"ledger": str(stage.directory), "prefix": stage.prefix, "beats": beats}
    run: DagRun = await airflow.call(lambda api: api.trigger(_DAG, conf))
    return run


async def _instances(airflow: RealAirflow, run: DagRun) -> list[dict[str, Any]]:
    path = f"/dags/{_DAG}/dagRuns/{quote(run.run_id)}/taskInstances?limit=1000"
    answer = await airflow.call(lambda api: api.get(path))
    return [one for one in answer["task_instances"] if one["task_id"] == "job"]


async def _all_ended(airflow: RealAirflow, run: DagRun) -> bool:
    ones = await _instances(airflow, run)
    return bool(ones) and all(one["map_index"] >= 0 and one["state"] in _ENDED for one in ones)


async def _break(stage: Stage, airflow: RealAirflow, seconds: float) -> None:
    """Break one thing after the other, mostly what is cheap to break; leave all of it running."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(stage.rng.uniform(1, 3))
        what = stage.rng.choices(
            ("task", "triggerer", "scheduler", "postgresql", "api-server"), (24, 4, 1, 1, 1)
        )[0]
        if what == "task":
            processes = airflow.task_processes()
            if processes:
                with suppress(ProcessLookupError):
                    os.kill(stage.rng.choice(processes), signal.SIGKILL)
                    stage.faults += 1
            continue
        if what == "triggerer":
            what = stage.rng.choice(("triggerer", "triggerer-2"))
        try:
            await airflow.control(stage.rng.choice(("kill", "stop")), what)
            stage.faults += 1
        except RuntimeError as error:
            # Some end by themselves when their database is away.
            if "is not running" not in str(error):
                raise
        await asyncio.sleep(stage.rng.uniform(0, 3))
        await airflow.control("start", what)


async def _take_down(stage: Stage, airflow: RealAirflow, run: DagRun) -> None:
    """Note what became of each task instance."""
    for one in await _instances(airflow, run):
        index, state = one["map_index"], one["state"]
        job_id = None
        if state == "success":
            job_id = await _returned_job(airflow, run, index)
        attempt = Attempt(
            number=one["try_number"],
            began=0,
            ended=uptime(),
            outcome=state or "none",
            job_id=job_id,
        )
        progress = Progress(attempts=[attempt], final=state if state in _ENDED else None)
        stage.add(Plan(name=f"{stage.prefix}{index:04}", operator={}), progress)


async def _returned_job(airflow: RealAirflow, run: DagRun, index: int) -> str:
    path = (
        f"/dags/{_DAG}/dagRuns/{quote(run.run_id)}/taskInstances/job/xcomEntries/return_value"
        f"?map_index={index}&deserialize=true"
    )
    answer = await airflow.call(lambda api: api.get(path))
    return str(answer["value"]["job_id"])
