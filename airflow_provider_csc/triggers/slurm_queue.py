"""Wait in the triggerer until there is room in the queue for a job."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.client.queue_watch import queue_watch_for
from airflow_provider_csc.slurm.parking import describe_seconds
from airflow_provider_csc.slurm.queue_limits import QueueScope
from airflow_provider_csc.triggers.slurm import SlurmSiteTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from airflow_provider_csc.client.queue_watch import QueueWatch
    from airflow_provider_csc.transport.base import SiteSettings
    from airflow_provider_csc.triggers.slurm import TaskLog

# Between two lines that tell how the wait stands.
_TELL_SECONDS = 1800.0
# Asked no more often than this, whatever the connection's floor: sacctmgr asks the site's database.
_LEAST_SECONDS = 30.0


class SlurmQueueTrigger(SlurmSiteTrigger):
    """
    Fire when there is room for a job below a limit on jobs in the queue.

    All triggers of a process that wait for one limit share one that asks, and are let go in the
    order in which they came. Fires ``{"status": "up"}``, or ``{"status": "deadline"}``.

    The argument names are a stored format: running tasks hold them.

    :param scope: which limit, and for how many jobs (see `queue_limits.QueueScope`).
    :param kwargs: as of `SlurmSiteTrigger`; ``since`` is also the place in the line.
    """

    def __init__(self, *, scope: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scope = dict(scope or {})

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and plain JSON arguments."""
        _, arguments = super().serialize()
        return f"{__name__}.{type(self).__qualname__}", {**arguments, "scope": self.scope}

    async def wait(self, settings: SiteSettings, log: TaskLog) -> dict[str, str]:
        """Wait for room; also what the operator does when it is not deferred."""
        until = "" if self.deadline is None else " until execution_timeout is reached"
        log.log(
            logging.WARNING, "%s Waiting for room%s.", self.reason or "The queue is full.", until
        )
        limit = asyncio.timeout(self._seconds_left())
        try:
            async with limit:
                await asyncio.sleep(max((self.not_before or 0) - time.time(), 0))
                while changed := await self._wait_in_line(settings, log):
                    settings = self.take_up(changed, log)
        except TimeoutError:
            if not limit.expired():
                raise
            log.log(logging.ERROR, "There was no room in the queue before the task's deadline.")
            return {"status": "deadline"}
        waited = describe_seconds(time.time() - self.since)
        log.info("There is room in the queue again, after %s.", waited)
        return {"status": "up"}

    async def _wait_in_line(self, settings: SiteSettings, log: TaskLog) -> SiteSettings | None:
        scope = QueueScope.from_payload(self.scope)
        watch = queue_watch_for(settings, scope)
        token = self.token or ""
        async with _telling(watch, token, log):
            return await watch.wait(
                since=self.since,
                needed=scope.needed,
                token=token,
                interval=max(self.poll_interval, settings.poll_interval_floor, _LEAST_SECONDS),
                source=self.source,
            )


@contextlib.asynccontextmanager
async def _telling(watch: QueueWatch, token: str, log: TaskLog) -> AsyncIterator[None]:
    """Tell now and then how the wait stands."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            last = watch.last
            full = f"{last.words} is {last.limit}, {last.queued} are queued" if last else ""
            log.info(
                "Still waiting for room in the queue: %s; %d tasks of this process are before "
                "this one.", watch.problem or full, watch.place_of(token),
            )  # fmt: skip

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
