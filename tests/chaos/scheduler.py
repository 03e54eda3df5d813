"""Plays Airflow's scheduler for one task instance: tries, deferrals, retries, clears and kills."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.chaos.cluster import uptime
from tests.chaos.ledger import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.processes import Fork, Forks, Triggerers, Waiting

# Airflow's supervisor sends SIGTERM, and SIGKILL after so long (supervisor.py, kill()).
ESCALATION_SECONDS = 5.0


@dataclass(kw_only=True)
class Plan:
    """What is run, and what is done to it. The callables draw from the scenario's random numbers."""

    name: str
    operator: dict[str, Any]
    retries: int = 3
    kind: str = "slurm"
    expects: str = "success"
    # Seconds after which this step's worker is killed; None: not at all.
    kill_worker_after: Callable[[int], float | None] = lambda _step: None
    # Seconds after the try got a worker at which a user acts on it.
    user_kill_after: float | None = None
    clear_after: tuple[float, ...] = ()
    # Seconds after which a second worker begins the same try; None: there is none.
    twin_delay: float | None = None
    twin_counts: bool = False  # it is the second one that Airflow listens to


@dataclass(kw_only=True)
class Progress:
    """What has become of it so far."""

    attempts: list[Attempt] = field(default_factory=list)
    clears: list[float] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    faults: int = 0
    final: str | None = None


class Scheduler:
    """Runs task instances over forked workers and triggerers."""

    def __init__(
        self,
        forks: Forks,
        triggerers: Triggerers,
        environment: Callable[[], dict[str, str]],
    ) -> None:
        self.forks = forks
        self.triggerers = triggerers
        self.environment = environment
        self.is_under_way = asyncio.Event()
        self.began = time.time()

    async def run(self, plan: Plan, progress: Progress) -> None:
        """Run a task instance to its end; `progress` tells how far it came, also if cancelled."""
        run = _Run(self, plan, progress)
        clears = iter(plan.clear_after)
        while progress.final is None:
            clear_after = next(clears, None)
            state = await run.one_try(clear_after)
            if state == "cleared":
                run.max_tries = run.try_number + plan.retries
            elif state in ("success", "killed"):
                progress.final = state
            elif state == "fatal" or run.try_number > run.max_tries:
                progress.final = "failed"
            run.try_number += 1

    async def start(
        self, plan: Plan, try_number: int, max_tries: int, step: dict[str, Any]
    ) -> Fork:
        task = {
            "dag_id": "chaos",
            "run_id": plan.name,
            "task_id": "job",
            "map_index": -1,
            "run_started": self.began,
        }
        self.is_under_way.set()
        return await self.forks.start(
            {
                "role": "worker",
                "kind": plan.kind,
                "task": task,
                "operator": plan.operator,
                "retries": plan.retries,
                "try_number": try_number,
                "max_tries": max_tries,
                "environment": self.environment(),
                "log": f"{plan.name}.log",
                **step,
            }
        )


class _Run:
    """One task instance between two events."""

    def __init__(self, scheduler: Scheduler, plan: Plan, progress: Progress) -> None:
        self._scheduler = scheduler
        self._plan = plan
        self._progress = progress
        self._steps = 0
        self.try_number = 1
        self.max_tries = plan.retries
        self._worker: Fork | None = None
        self._is_starting = False
        self._has_begun = asyncio.Event()
        self._waiting: Waiting | None = None

    async def one_try(self, clear_after: float | None) -> str:
        """Return success, failed, fatal, lost, killed or cleared."""
        began = uptime()
        self._has_begun.clear()
        work = asyncio.create_task(self._steps_of_try())
        user_at = self._plan.user_kill_after or clear_after
        if user_at is not None:
            # A click on a task that still waits for a worker would be no trial.
            await self._has_begun.wait()
            await asyncio.wait([work], timeout=user_at)
        if user_at is not None and (not work.done() or clear_after is not None):
            return await self._user_acts(work, began, is_clear=clear_after is not None)
        return self._record(began, await work)

    async def _user_acts(
        self, work: asyncio.Task[dict[str, Any]], began: float, *, is_clear: bool
    ) -> str:
        """End what runs, as Airflow does when a user marks or clears the task."""
        now = uptime()
        (self._progress.clears if is_clear else self._progress.kills).append(now)
        self._progress.faults += 1
        if work.done():
            self._record(began, work.result())
        else:
            await self._end(work)
            # Whatever it says after the click, Airflow does not listen.
            self._record(began, {"kind": "killed"})
        return "cleared" if is_clear else "killed"

    def _note(self, text: str) -> None:
        """Write into the task's log what is done to it."""
        with (self._scheduler.forks.directory / f"{self._plan.name}.log").open("a") as log:
            log.write(f"--- {datetime.now(UTC):%T.%f} {text}\n")

    async def _end(self, work: asyncio.Task[dict[str, Any]]) -> None:
        """End whatever runs of it: a trigger, a worker, or nothing while it is queued."""
        while not work.done():
            worker = self._worker
            if self._waiting is not None:
                self._note("the user's click finds it in its trigger")
                kill = self._scheduler.triggerers.kill_trigger(self._waiting)
                await asyncio.wait([asyncio.ensure_future(kill)], timeout=ESCALATION_SECONDS + 30)
                break
            if worker is None and self._is_starting:
                await asyncio.sleep(0.01)
                continue
            if worker is None:
                break
            if self._scheduler.forks.outcome(worker) is None:
                worker.kill(signal.SIGTERM)
                gone = asyncio.ensure_future(worker.ended.wait())
                await asyncio.wait([gone], timeout=ESCALATION_SECONDS)
                self._note(
                    f"SIGTERM: {'it is gone' if worker.ended.is_set() else 'SIGKILL follows'}"
                )
                worker.kill()
                break
            # It has deferred already: the click came for its trigger.
            await asyncio.sleep(0.02)
        work.cancel()
        await asyncio.wait([work])

    def _record(self, began: float, outcome: dict[str, Any]) -> str:
        kind = outcome["kind"]
        self._progress.attempts.append(
            Attempt(
                number=self.try_number,
                began=began,
                ended=uptime(),
                outcome=kind,
                job_id=outcome.get("job_id"),
                error=outcome.get("error", ""),
                message=outcome.get("message", ""),
            )
        )
        return "fatal" if outcome.get("is_final") else kind

    async def _steps_of_try(self) -> dict[str, Any]:
        """Run a try: execute, wait for a trigger, resume, and so on, until it returns or raises."""
        step: dict[str, Any] = {"method": "execute"}
        while True:
            outcome = await self._work(step)
            if outcome["kind"] != "deferred":
                return outcome
            answer = await self._wait(outcome["trigger"])
            if "killed" in answer:
                return {"kind": "killed"}
            if "event" not in answer:
                return {"kind": "failed", "error": "TaskDeferralError", "message": str(answer)}
            step = {name: outcome[name] for name in ("method", "kwargs")}
            step["event"] = answer["event"]

    async def _wait(self, stored: list[Any]) -> dict[str, Any]:
        def keep(waiting: Waiting) -> None:
            self._waiting = waiting

        try:
            return await self._scheduler.triggerers.run(stored, keep)
        finally:
            self._waiting = None

    async def _work(self, step: dict[str, Any]) -> dict[str, Any]:
        """Run one step in a worker, or in two at once."""
        self._steps += 1
        async with self._scheduler.forks.slots:
            begin = self._scheduler.start
            self._is_starting = True
            fork = self._worker = await begin(self._plan, self.try_number, self.max_tries, step)
            self._is_starting = False
            self._has_begun.set()
            counts = fork
            if self._plan.twin_delay is not None and step["method"] == "execute":
                await asyncio.sleep(self._plan.twin_delay)
                twin = await begin(self._plan, self.try_number, self.max_tries, step)
                self._progress.faults += not fork.ended.is_set()
                await twin.ended.wait()
                counts = twin if self._plan.twin_counts else fork
            try:
                was_killed = await self._until_end(fork)
            finally:
                self._worker = None
        outcome = self._scheduler.forks.outcome(counts)
        if outcome is None and not was_killed:
            return {"kind": "failed", "error": "crash", "message": "the worker died by itself"}
        return outcome or {"kind": "lost"}

    async def _until_end(self, fork: Fork) -> bool:
        """Wait for a worker; kill it where that is planned. Tell whether it was."""
        was_killed = False
        delay = self._plan.kill_worker_after(self._steps)
        if delay is not None:
            await asyncio.wait([asyncio.ensure_future(fork.ended.wait())], timeout=delay)
            if self._scheduler.forks.outcome(fork) is None:
                was_killed = fork.kill()
                self._note(f"SIGKILL: {was_killed}")
                self._progress.faults += was_killed
        await fork.ended.wait()
        return was_killed
