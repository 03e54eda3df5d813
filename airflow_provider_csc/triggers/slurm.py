"""Wait for Slurm jobs in the triggerer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_csc.hooks.slurm import SlurmHook, open_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.slurm.tracking import WatchSpec
    from airflow_provider_csc.transport.base import SiteSettings


class TaskLog(Protocol):
    """What is needed of a task's logger, be it Airflow's or the standard library's."""

    def info(self, message: str, /, *args: object) -> object:
        """Log at INFO."""

    def log(self, level: int, message: str, /, *args: object) -> object:
        """Log at a level of `logging`."""


_CONFIRM_SECONDS = 20
_CONFIRM_INTERVAL_SECONDS = 2


class SlurmJobTrigger(BaseTrigger):
    """
    Fire one event when every one of some jobs has ended, with evidence of how.

    While it waits, state changes and the job's log lines go to the task's log. All triggers of a
    process that wait on one site share one connection and one query per interval. It survives the
    loss of the connection, of Slurm and of the triggerer, and then goes on at the byte of the log
    where it stopped. It never cancels a job because it is itself stopped; a user's kill does.

    The argument names are a stored format: running tasks hold them.

    :param slurm_conn_id: the connection.
    :param job_ids: ids as Slurm prints them, ``123`` or ``123_4``.
    :param run_dir: the run directory of a job this provider submitted; else None.
    :param stdout_path: where the job's standard output goes, on the cluster.
    :param stderr_path: where its standard error goes; often the same file.
    :param stream_logs: whether to copy these files into the task's log.
    :param poll_interval: seconds between two questions, at the least; the site's floor holds too.
    :param log_limit_bytes: of a longer log only this much is copied.
    :param queue_timeout: cancel after so many seconds in the queue; None is for ever.
    :param run_timeout: cancel after so many seconds of running.
    :param deadline: cancel at this time (seconds since 1970).
    :param missing_seconds: how long squeue and sacct must both deny a job before it is UNKNOWN.
    :param kill_grace: seconds between the signal and the cancellation when the task is killed.
    :param kill_signal: the ``--signal`` option of the job, as sbatch takes it.
    :param attempt: what the operator wants back with the event.
    :param task_key: dag_id, run_id, task_id and map_index of the task that waits.
    """

    def __init__(  # noqa: PLR0913 - one argument for each thing that is stored
        self,
        *,
        slurm_conn_id: str,
        job_ids: Sequence[str],
        run_dir: str | None = None,
        stdout_path: str | None = None,
        stderr_path: str | None = None,
        stream_logs: bool = True,
        poll_interval: float = 15.0,
        log_limit_bytes: int = 10 * 1024 * 1024,
        queue_timeout: float | None = None,
        run_timeout: float | None = None,
        deadline: float | None = None,
        missing_seconds: int = 600,
        kill_grace: float = 0.0,
        kill_signal: str | None = None,
        attempt: dict[str, Any] | None = None,
        task_key: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        self.slurm_conn_id = slurm_conn_id
        self.job_ids = list(job_ids)
        self.run_dir = run_dir
        self.stdout_path = stdout_path
        self.stderr_path = stderr_path
        self.stream_logs = stream_logs
        self.poll_interval = poll_interval
        self.log_limit_bytes = log_limit_bytes
        self.queue_timeout = queue_timeout
        self.run_timeout = run_timeout
        self.deadline = deadline
        self.missing_seconds = missing_seconds
        self.kill_grace = kill_grace
        self.kill_signal = kill_signal
        self.attempt = attempt
        self.task_key = task_key

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and plain JSON arguments."""
        return f"{__name__}.{type(self).__qualname__}", {
            "slurm_conn_id": self.slurm_conn_id,
            "job_ids": self.job_ids,
            "run_dir": self.run_dir,
            "stdout_path": self.stdout_path,
            "stderr_path": self.stderr_path,
            "stream_logs": self.stream_logs,
            "poll_interval": self.poll_interval,
            "log_limit_bytes": self.log_limit_bytes,
            "queue_timeout": self.queue_timeout,
            "run_timeout": self.run_timeout,
            "deadline": self.deadline,
            "missing_seconds": self.missing_seconds,
            "kill_grace": self.kill_grace,
            "kill_signal": self.kill_signal,
            "attempt": self.attempt,
            "task_key": self.task_key,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the jobs and yield ``{"results": [...]}``, in the order of ``job_ids``."""
        settings = await SlurmHook(self.slurm_conn_id).aget_settings()
        results = await self.wait(settings, self.log)
        payloads = [result.to_payload() for result in results]
        yield TriggerEvent({"results": payloads, "attempt": self.attempt})

    async def wait(self, settings: SiteSettings, log: TaskLog) -> list[JobResult]:
        """Follow the jobs to their end; also what the operator does when it is not deferred."""
        from airflow_provider_csc.poller import poller_for
        from airflow_provider_csc.slurm.tracking import Ended, LogLines  # noqa: PLC0415

        events = poller_for(settings).watch(self._watch_spec(), interval=self.poll_interval)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Ended):
                    return event.results
                if isinstance(event, LogLines):
                    for line in event.lines:
                        log.info("%s", line)
                else:
                    log.log(event.level, "%s", event.text)
        raise RuntimeError("the poller stopped before the jobs had ended")

    def _watch_spec(self) -> WatchSpec:
        from airflow_provider_csc.slurm.tracking import WatchSpec  # noqa: PLC0415

        return WatchSpec(
            job_ids=tuple(self.job_ids),
            run_dir=self.run_dir,
            stdout_path=self.stdout_path,
            stderr_path=self.stderr_path,
            stream_logs=self.stream_logs,
            log_limit_bytes=self.log_limit_bytes,
            queue_timeout=self.queue_timeout,
            run_timeout=self.run_timeout,
            deadline=self.deadline,
            missing_seconds=self.missing_seconds,
        )

    async def on_kill(self) -> None:
        """Cancel the jobs, because a user marked the task or cleared it (Airflow 3.3 or later)."""
        if self.run_dir is not None:
            settings = await SlurmHook(self.slurm_conn_id).aget_settings()
            await cancel_and_confirm(settings, self.job_ids, self.log)


async def cancel_and_confirm(settings: SiteSettings, job_ids: Sequence[str], log: TaskLog) -> None:
    """Cancel jobs and ask Slurm until they are gone, for at most 20 s; say which it was."""
    async with open_client(settings) as client:
        await client.cancel(job_ids)
        live: list[str] = list(job_ids)
        for _ in range(_CONFIRM_SECONDS // _CONFIRM_INTERVAL_SECONDS):
            found = await client.query(job_ids)
            live = [f"{one.job_id} ({one.state})" for one in found.values() if not one.is_final]
            if not live:
                log.info("Cancelled job %s; Slurm confirms it.", ", ".join(job_ids))
                return
            await asyncio.sleep(_CONFIRM_INTERVAL_SECONDS)
    log.log(logging.WARNING, "Asked to cancel, but still there: %s.", ", ".join(live))
