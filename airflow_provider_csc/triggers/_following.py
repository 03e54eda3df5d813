"""Follow jobs for a trigger, of which thousands wait: nothing of it runs while nothing happens."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING

from airflow_provider_csc.hooks._stats import AirflowMeter

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.slurm.tracking import JobTracker, WatchSpec
    from airflow_provider_csc.transport.base import SiteSettings
    from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, TaskLog


class Following:
    """
    Some jobs that are followed, until their end is known or `leave`.

    ``ended`` will be their results. It goes on, as does the poller's connection, when whoever waits
    for that is cancelled. A task is made when there is something to tell, and lasts as long as that
    takes; by its context, that of whoever began, Airflow knows to which log its lines belong.
    """

    __slots__ = (
        "_context",
        "_leaving",
        "_log",
        "_poller",
        "_telling",
        "_trigger",
        "_watcher",
        "ended",
    )

    def __init__(self, trigger: SlurmJobTrigger, settings: SiteSettings, log: TaskLog) -> None:
        self.ended: asyncio.Future[list[JobResult]] = asyncio.get_running_loop().create_future()
        self._trigger = trigger
        self._log = log
        self._context = copy_context()
        self._telling: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._join(settings, trigger.watch_spec())

    def _join(self, settings: SiteSettings, watched: WatchSpec | JobTracker) -> None:
        from airflow_provider_csc.client.poller import poller_for

        self._poller = poller_for(settings, AirflowMeter())
        self._watcher = self._poller.attach(
            watched,
            interval=self._trigger.poll_interval,
            source=self._trigger.source,
            wake=self._wake,
        )

    @property
    def settings(self) -> SiteSettings | None:
        """The site as its poller knows it."""
        return self._poller.settings

    def _wake(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(
                self._tell(), context=self._context
            )

    async def _tell(self) -> None:
        try:
            while self._watcher.box:
                await self._tell_all()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for the end
            if not self.ended.done():
                self.ended.set_exception(error)
        finally:
            self._telling = None

    async def _tell_all(self) -> None:
        from airflow_provider_csc.client.poller import Moved
        from airflow_provider_csc.slurm.events import Ended  # noqa: PLC0415

        for event in self._watcher.take():
            if not isinstance(event, Ended | Moved):
                await self._trigger.tell(event, self._log)
                continue
            await self._poller.detach(self._watcher)
            if isinstance(event, Moved):
                self._join(self._trigger.take_up(event.settings, self._log), event.tracker)
            elif not self.ended.done():
                self.ended.set_result(event.results)
            return

    async def leave(self) -> None:
        """Follow them no more; that is done to its end, however often this is cancelled."""
        # A round that is under way may leave something yet.
        self._watcher.wake = None
        if self._watcher.ended is None:
            if self._telling is not None:
                self._telling.cancel()
            self._leaving = asyncio.create_task(self._poller.detach(self._watcher))
            await asyncio.shield(self._leaving)
        elif self._telling is not None:
            await asyncio.shield(self._telling)
