"""Wait in the triggerer until other tasks have submitted the jobs that a job is to depend on."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_csc.errors import UpstreamFailedError
from airflow_provider_csc.slurm.dependencies import Link
from airflow_provider_csc.slurm.parking import describe_seconds
from airflow_provider_csc.triggers._settling import settled
from airflow_provider_csc.upstreams import (
    RunName,
    Waiter,
    is_played,
    look_once,
    upstream_watch,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from airflow_provider_csc.slurm.dependencies import Upstream
    from airflow_provider_csc.triggers.slurm import TaskLog

# Between two lines that say what is waited for; the first is said at once.
_TELL_SECONDS = 1800.0


class SlurmDependencyTrigger(BaseTrigger):
    """
    Fire when the jobs are known that a task's job is to depend on.

    Fires ``{"status": "known", "upstreams": [...]}``; ``{"status": "never", "reason": ...}`` when
    one of the tasks ended otherwise than is asked; or ``{"status": "deadline"}``. Nothing exists on
    the site yet, so that there is nothing to cancel when it is stopped. All triggers of a process
    share one that asks Airflow.

    The argument names are a stored format: running tasks hold them.

    :param dag_id: the DAG of the tasks that are waited for.
    :param run_id: their DAG run.
    :param links: pairs of kind (``afterok``) and task id.
    :param replaced: jobs that ended otherwise than is asked, by id, with their states; a task that
        had one is waited for until it has another.
    :param deadline: give up at this time (seconds since 1970, Airflow's clock).
    :param since: when the wait began (seconds since 1970); default: now.
    """

    def __init__(
        self,
        *,
        dag_id: str,
        run_id: str,
        links: Sequence[Sequence[str]],
        replaced: Mapping[str, str] | None = None,
        deadline: float | None = None,
        since: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        self.dag_id = dag_id
        self.run_id = run_id
        self.links = [list(pair) for pair in links]
        self.replaced = dict(replaced or {})
        self.deadline = deadline
        self.since = time.time() if since is None else since

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and plain JSON arguments."""
        return f"{__name__}.{type(self).__qualname__}", {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "links": self.links,
            "replaced": self.replaced,
            "deadline": self.deadline,
            "since": self.since,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event; see the class."""
        yield TriggerEvent(await settled(lambda: self.wait(self.log)))

    def waiter(self) -> Waiter:
        """Return what is asked of Airflow."""
        return Waiter(
            run=RunName(self.dag_id, self.run_id),
            links=[Link(kind, task_id=task_id) for kind, task_id in self.links],
            replaced=self.replaced,
        )

    def look(self) -> dict[str, Any] | None:
        """Return the event if the jobs are known by now; None where they have to be waited for."""
        try:
            found = look_once(self.waiter())
        except UpstreamFailedError as error:
            return {"status": "never", "reason": error.message}
        if found is not None:
            return _known(found)
        if is_played():
            raise RuntimeError(
                "dag.test() runs one task after the other, so that a task which others wait for "
                "inside Slurm may never get its turn. Run the DAG by a scheduler, or by "
                "dag.test(use_executor=True)."
            )
        return None

    async def wait(self, log: TaskLog) -> dict[str, Any]:
        """Wait for the jobs; also what the operator does when it is not deferred."""
        left = None if self.deadline is None else max(self.deadline - time.time(), 0)
        limit = asyncio.timeout(left)
        try:
            async with limit:
                found = await self._follow(log)
        except UpstreamFailedError as error:
            return {"status": "never", "reason": error.message}
        except TimeoutError:
            if not limit.expired():
                raise
            return {"status": "deadline"}
        waited = describe_seconds(time.time() - self.since)
        log.info("What this job depends on is submitted; waited for that %s.", waited)
        return _known(found)

    async def _follow(self, log: TaskLog) -> list[Upstream]:
        watch, waiter = upstream_watch(), self.waiter()
        names = ", ".join(f"{task_id} ({kind})" for kind, task_id in self.links)
        log.info("Waiting until these tasks have submitted their jobs: %s.", names)
        asking = asyncio.ensure_future(watch.wait(waiter))
        try:
            while True:
                done, _ = await asyncio.wait({asking}, timeout=_TELL_SECONDS)
                if done:
                    return asking.result()
                if watch.problem:
                    text = "Airflow does not tell which jobs other tasks have: %s. Asking again."
                    log.log(logging.WARNING, text, watch.problem)
                log.info("Still waiting for the jobs of: %s.", waiter.waits_for or names)
        finally:
            asking.cancel()


def _known(upstreams: Sequence[Upstream]) -> dict[str, Any]:
    return {"status": "known", "upstreams": [each.to_payload() for each in upstreams]}
