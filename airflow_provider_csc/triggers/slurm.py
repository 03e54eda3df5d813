"""Wait in the triggerer: for Slurm jobs, or for a site that cannot take any."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow.configuration import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_csc.client.kill import kill_jobs, kill_submission
from airflow_provider_csc.client.site_watch import watch_for
from airflow_provider_csc.client.turns import Turns
from airflow_provider_csc.hooks._stats import AirflowMeter
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.task_state import (
    WANTED_BEFORE_JOB,
    WANTED_OF_TRIGGER,
    Standing,
    TaskName,
    ask_standing,
    shared_name,
    shared_text,
)
from airflow_provider_csc.triggers._following import Following
from airflow_provider_csc.triggers._loops import read_site, until_loop_ends
from airflow_provider_csc.triggers._settling import settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence

    from airflow_provider_csc.client.poller import Moved, SitePoller, Source
    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.hooks._staging import Stager
    from airflow_provider_csc.slurm.events import LogLines, Note, Started
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.slurm.tracking import JobTracker, WatchSpec
    from airflow_provider_csc.transport.base import SiteSettings


class TaskLog(Protocol):
    """What is needed of a task's logger, be it Airflow's or the standard library's."""

    def info(self, message: str, /, *args: object) -> object:
        """Log at INFO."""

    def log(self, level: int, message: str, /, *args: object) -> object:
        """Log at a level of `logging`."""


Value = TypeVar("Value")

# Since 3.3 Airflow tells a trigger that a user ended its task; before, it only cancels it.
_HAS_ON_KILL = hasattr(BaseTrigger, "on_kill")
# What is left of [triggerer] on_kill_timeout for saying what became of a kill.
_SPARE_SECONDS = 3
_STATE_SECONDS = 5.0
# Between attempts to read the connection (seconds).
_READ_PAUSES = (5.0, 15.0, 60.0)
_STATE_ATTEMPTS = 2


class KillableTrigger(BaseTrigger):
    """
    A trigger that kills when a user ended its task, and never because it is itself stopped.

    What it waits for goes on after the cancellation, until `cleanup`: the poller's connection is
    still open for the kill, and what the job says meanwhile is shown. And it tells a user's kill,
    which cancels one trigger, from the end of the triggerer, which cancels every task of the event
    loop.
    """

    # Triggers share the names of what is in their dicts, unless these are many, or come late: then
    # each takes 0.5 to 1.6 kB more. So only what Airflow sets is there.
    __slots__ = ("_following", "_killing", "_settings", "_waiting", "slurm_conn_id", "task_key")

    def __init__(self, slurm_conn_id: str, task_key: TaskName | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        self.slurm_conn_id = shared_text(slurm_conn_id)
        self.task_key = shared_name(task_key)
        self._settings: SiteSettings | None = None
        self._waiting: asyncio.Task[Any] | None = None
        self._following: Following | None = None
        self._killing: asyncio.Task[None] | None = None

    @property
    def _wanted(self) -> Collection[str | None]:
        """The states of its task in which nobody has ended it."""
        return WANTED_OF_TRIGGER

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Or it would log by its parent's name.
        cls._log = None

    @property
    def log(self) -> Any:
        """The logger of the class; one for each trigger takes 2 kB."""
        return self.logger()

    async def _wait_for(self, follow: Callable[[], Awaitable[Value]]) -> Value:
        began, loop_end = time.monotonic(), until_loop_ends()
        try:
            value = await follow()
            await settle(began)
        except asyncio.CancelledError:
            if not _HAS_ON_KILL and not loop_end.cancelling():
                await self.on_kill()
            raise
        return value

    async def _wait_apart(self, work: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Do something in a task of its own, so that it goes on until `cleanup`."""
        self._waiting = asyncio.create_task(work())
        value: Value = await asyncio.shield(self._waiting)
        self._waiting = None
        return value

    async def on_kill(self) -> None:
        """Kill, when a user ended the task; Airflow 3.3 and later call it."""
        if not self._has_to_kill():
            return
        self._killing = asyncio.create_task(self._kill_when_ended())
        await _outlast(self._killing)

    async def _kill_when_ended(self) -> None:
        began = time.monotonic()
        if await self._ask_standing() is not Standing.ENDED:
            self.log.warning(
                "The trigger is stopped, but Airflow does not say that anybody ended the task: "
                "nothing is cancelled. Should its job become an orphan, the reaper finds it."
            )
            return
        settings = await self._get_settings()
        limit = conf.getint("triggerer", "on_kill_timeout", fallback=30) - _SPARE_SECONDS
        await self._kill(settings, max(limit - (time.monotonic() - began), 1.0))

    async def cleanup(self) -> None:
        """Stop waiting. It releases what is held here and touches nothing on the site."""
        if self._killing is not None:
            await _outlast(self._killing)
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)
        if self._following is not None:
            await self._following.leave()

    async def _get_settings(self) -> SiteSettings:
        """Return the site, asked for once."""
        if self._settings is None:
            self._settings = await read_site(self.slurm_conn_id)
        return self._settings

    async def _read_settings(self) -> SiteSettings:
        """Read the connection; one that cannot be read just now must not lose a job of ours."""
        pauses = itertools.chain(_READ_PAUSES, itertools.repeat(_READ_PAUSES[-1]))
        said = ""
        while True:
            try:
                return await self._get_settings()
            except Exception as error:
                if not self._has_to_kill():
                    raise
                if said != str(error):
                    said = str(error)
                    self.log.warning(
                        "The connection cannot be read (%s). The task waits until it can; what it "
                        "may have at the site is not affected.", said,
                    )  # fmt: skip
            await asyncio.sleep(next(pauses))

    @property
    def source(self) -> Source:
        """The connection as what may be changed in an outage."""
        return _source_of(self.slurm_conn_id)

    def take_up(self, settings: SiteSettings, log: TaskLog) -> SiteSettings:
        """Go on with a connection that was changed, also with a kill."""
        log.info("Connection %s was changed; going on with it.", self.slurm_conn_id)
        self._settings = settings
        return settings

    async def _ask_standing(self) -> Standing:
        """
        Ask Airflow whether the task still waits for this trigger.

        Also where Airflow says that it was a user: a triggerer that was away for a while finds its
        triggers gone to another one, and takes that for a user's deed (seen in 3.3.2).
        """
        task = self.task_key or _name_of(self)
        if task is None:
            return Standing.ENDED
        standing = Standing.UNKNOWN
        for _ in range(_STATE_ATTEMPTS):
            # Shielded, because Airflow 3.1 reads its next answer wrongly when one is given up.
            asked = asyncio.ensure_future(sync_to_async(ask_standing)(task, live=self._wanted))
            try:
                standing = await asyncio.wait_for(asyncio.shield(asked), _STATE_SECONDS)
            except TimeoutError:
                continue
            if standing is not Standing.UNKNOWN:
                break
        return standing

    @asynccontextmanager
    async def _open_client(self, settings: SiteSettings) -> AsyncIterator[SlurmClient]:
        """Yield the client of the site's poller; its connection stays open so long."""
        from airflow_provider_csc.client.poller import poller_for

        poller = poller_for(settings)
        async with poller.hold():
            yield poller.client

    def _has_to_kill(self) -> bool:
        raise NotImplementedError

    async def _kill(self, settings: SiteSettings, patience: float) -> None:
        raise NotImplementedError


@cache
def _source_of(conn_id: str) -> Source:
    from airflow_provider_csc.client.poller import Source

    return Source(conn_id, lambda: SlurmHook(conn_id).aget_settings())


async def _outlast(killing: asyncio.Task[None]) -> None:
    """
    Wait for a kill, however often this is cancelled meanwhile.

    Airflow cancels a trigger once a second until it is gone, also while it kills (seen in 3.3.2).
    Only the end of the triggerer cancels the kill itself.
    """
    while not killing.done():
        try:
            await asyncio.shield(killing)
        except asyncio.CancelledError:
            if killing.cancelled() or killing.cancelling():
                raise


def _name_of(trigger: BaseTrigger) -> TaskName | None:
    """Return the task instance that Airflow put into a trigger which runs."""
    ti = getattr(trigger, "task_instance", None)
    if ti is None:
        return None
    return TaskName(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
    )


class SlurmJobTrigger(KillableTrigger):
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
    :param cancel_held: cancel a job that is held until somebody releases it.
    :param attempt: what the operator wants back with the event.
    :param task_key: dag_id, run_id, task_id and map_index of the task that waits.
    :param array: of an array that is followed task by task, which tasks the one job runs.
    :param array_logs: which of its tasks' logs are shown: ``failed``, ``all`` or ``none``.
    :param array_token: what the job's name ends with where it is one of an array of several tasks'.
    :param staging: which files the one job fetches and delivers (`staging.plan.Staging`).
    """

    __slots__ = (
        "_attempt",
        "_stager",
        "array",
        "array_logs",
        "array_token",
        "cancel_held",
        "deadline",
        "job_ids",
        "kill_grace",
        "kill_signal",
        "log_limit_bytes",
        "missing_seconds",
        "poll_interval",
        "queue_timeout",
        "run_dir",
        "run_timeout",
        "staged",
        "staging",
        "stderr_path",
        "stdout_path",
        "stream_logs",
    )

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
        cancel_held: bool = False,
        attempt: dict[str, Any] | None = None,
        task_key: TaskName | None = None,
        array: str | None = None,
        array_logs: str = "failed",
        array_token: str | None = None,
        staging: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(slurm_conn_id, task_key)
        self.array_token = array_token
        self.staging = staging
        # What became of these files.
        self.staged: dict[str, Any] | None = None
        self._stager: Stager | None = None
        self.job_ids = list(job_ids)
        self.run_dir = run_dir
        self.stdout_path = stdout_path
        # As a rule they are one file.
        self.stderr_path = stdout_path if stderr_path == stdout_path else stderr_path
        self.stream_logs = stream_logs
        self.poll_interval = poll_interval
        self.log_limit_bytes = log_limit_bytes
        self.queue_timeout = queue_timeout
        self.run_timeout = run_timeout
        self.deadline = deadline
        self.missing_seconds = missing_seconds
        self.kill_grace = kill_grace
        self.kill_signal = kill_signal
        self.cancel_held = cancel_held
        # As objects it takes 2 kB, and is wanted only at the end.
        self._attempt = json.dumps(attempt, separators=(",", ":"))
        self.array = array
        self.array_logs = shared_text(array_logs)

    @property
    def attempt(self) -> dict[str, Any] | None:
        """What the operator wants back with the event."""
        attempt: dict[str, Any] | None = json.loads(self._attempt)
        return attempt

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
            "cancel_held": self.cancel_held,
            "attempt": self.attempt,
            "task_key": self.task_key,
            "array": self.array,
            "array_logs": self.array_logs,
            "array_token": self.array_token,
            "staging": self.staging,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """
        Yield ``{"results": [...], "attempt": ...}``; results in the order of ``job_ids``.

        Of a job that staged files, ``staged`` says what became of them.
        """
        results = await self._wait_for(self._follow)
        payloads = [result.to_payload() for result in results]
        event = {"results": payloads, "attempt": self.attempt}
        yield TriggerEvent(event if self.staging is None else {**event, "staged": self.staged})

    async def _follow(self) -> list[JobResult]:
        if self.staging is not None:
            return await self._wait_apart(self._follow_and_stage)
        self._following = Following(self, await self._read_settings(), self.log)
        # One object for all who wait.
        self._settings = self._following.settings
        return await self._following.ended

    async def _follow_and_stage(self) -> list[JobResult]:
        return await self.wait(await self._read_settings(), self.log)

    async def wait(self, settings: SiteSettings, log: TaskLog) -> list[JobResult]:
        """Follow the jobs to their end; what the operator does when it is not deferred."""
        from airflow_provider_csc.client.poller import Moved

        watched: WatchSpec | JobTracker = self.watch_spec()
        while True:
            outcome = await self._watch(watched, settings, log)
            if not isinstance(outcome, Moved):
                return outcome
            settings, watched = self.take_up(outcome.settings, log), outcome.tracker

    async def _watch(
        self, watched: WatchSpec | JobTracker, settings: SiteSettings, log: TaskLog
    ) -> list[JobResult] | Moved:
        from airflow_provider_csc.client.poller import Moved, poller_for
        from airflow_provider_csc.slurm.events import Ended, Started  # noqa: PLC0415

        poller = poller_for(settings, AirflowMeter())
        events = poller.watch(watched, interval=self.poll_interval, source=self.source)
        stager = self._get_stager(log)
        async with aclosing(events), _running(stager, poller):
            async for event in events:
                match event:
                    case Ended():
                        if stager is not None:
                            self.staged = await stager.finish(event.results[0], poller.client)
                        return event.results
                    case Moved():
                        return event
                    case Started():
                        if stager is not None:
                            stager.begin(event.job_id, poller.client)
                    case _:
                        await self.tell(event, log)
                # Lines are not held until something else happens.
                del event
        raise RuntimeError("the poller stopped before the jobs had ended")

    async def tell(self, event: LogLines | Note | Started, log: TaskLog) -> None:
        """Log what happens to the jobs; a start is told to who stages files."""
        from airflow_provider_csc.slurm.events import LogLines, Note  # noqa: PLC0415

        match event:
            case LogLines():
                await _show(event.lines, log)
            case Note():
                log.log(event.level, "%s", event.text)
            case _:
                pass

    def watch_spec(self) -> WatchSpec:
        """Return what to follow."""
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
            cancel_held=self.cancel_held,
            kill_grace=self.kill_grace,
            kill_signal=self.kill_signal,
            array=self.array,
            array_logs=self.array_logs,
            array_token=self.array_token,
            tells_start=self.staging is not None,
        )

    def _get_stager(self, log: TaskLog) -> Stager | None:
        if self.staging is None or self.run_dir is None:
            return None
        if self._stager is None:
            from airflow_provider_csc.hooks._staging import Stager  # noqa: PLC0415 - few stage

            self._stager = Stager(self.staging, self.run_dir, log)
        return self._stager

    def _has_to_kill(self) -> bool:
        # Who only watches other people's jobs has none to cancel.
        return self.run_dir is not None

    async def _kill(self, settings: SiteSettings, patience: float) -> None:
        async with self._open_client(settings) as client:
            await kill_jobs(
                settings,
                self.job_ids,
                self.log,
                run_dirs=[self.run_dir] if self.run_dir else (),
                grace=self.kill_grace,
                signal=self.kill_signal,
                client=client,
                patience=patience,
            )
            if self.staging is not None and self.run_dir is not None:
                from airflow_provider_csc.hooks._staging import withdraw_staged  # noqa: PLC0415

                (job_id,) = self.job_ids
                await withdraw_staged(
                    self.staging, settings, job_id, self.run_dir, self.log, client=client
                )


class SlurmSiteTrigger(KillableTrigger):
    """
    Fire when a site can take jobs again: sshd, Slurm, its accounting, and room for files.

    All triggers of a process that wait for one site share one that asks, with growing pauses; it
    uses no worker and no retry. Fires ``{"status": "up"}``, or ``{"status": "deadline"}``.

    The argument names are a stored format: running tasks hold them.

    :param slurm_conn_id: the connection.
    :param deadline: give up at this time (seconds since 1970, Airflow's clock).
    :param reason: why the task has to wait, for the log.
    :param poll_interval: seconds between the first two attempts; later pauses are longer.
    :param base_dir: the directory that must take files; default: the connection's work directory.
    :param token: names the submission, which a user's kill stops; None where there is none.
    :param identity: whose it is (JSON), for the mark that a kill leaves.
    :param since: when the wait began (seconds since 1970); default: now.
    :param task_key: dag_id, run_id, task_id and map_index of the task that waits.
    :param not_before: do not fire earlier than this (seconds since 1970, Airflow's clock).
    """

    __slots__ = (
        "base_dir",
        "deadline",
        "identity",
        "not_before",
        "poll_interval",
        "reason",
        "since",
        "token",
    )

    def __init__(  # noqa: PLR0913 - one argument for each thing that is stored
        self,
        *,
        slurm_conn_id: str,
        deadline: float | None = None,
        reason: str | None = None,
        poll_interval: float = 15.0,
        base_dir: str | None = None,
        token: str | None = None,
        since: float | None = None,
        task_key: TaskName | None = None,
        not_before: float | None = None,
        identity: str | None = None,
    ) -> None:
        super().__init__(slurm_conn_id, task_key)
        self.not_before = not_before
        self.identity = identity
        self.deadline = deadline
        self.reason = reason
        self.poll_interval = poll_interval
        self.base_dir = base_dir
        self.token = token
        self.since = time.time() if since is None else since

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and plain JSON arguments."""
        return f"{__name__}.{type(self).__qualname__}", {
            "slurm_conn_id": self.slurm_conn_id,
            "deadline": self.deadline,
            "reason": self.reason,
            "poll_interval": self.poll_interval,
            "base_dir": self.base_dir,
            "token": self.token,
            "since": self.since,
            "task_key": self.task_key,
            "not_before": self.not_before,
            "identity": self.identity,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield ``{"status": "up"}`` or ``{"status": "deadline"}``."""
        yield TriggerEvent(await self._wait_for(lambda: self._wait_apart(self._follow)))

    async def _follow(self) -> dict[str, str]:
        limit = asyncio.timeout(self._seconds_left())
        try:
            async with limit:
                settings = await self._read_settings()
        except TimeoutError:
            if not limit.expired():
                raise
            return {"status": "deadline"}
        return await self.wait(settings, self.log)

    def _seconds_left(self) -> float | None:
        return None if self.deadline is None else max(self.deadline - time.time(), 0)

    async def wait(self, settings: SiteSettings, log: TaskLog) -> dict[str, str]:
        """Wait for the site; also what the operator does when it is not deferred."""
        log.log(logging.WARNING, "%s", self._describe_wait(settings))
        watch = watch_for(settings)
        source = self.source
        limit = asyncio.timeout(self._seconds_left())
        try:
            async with limit:
                await asyncio.sleep(max((self.not_before or 0) - time.time(), 0))
                while changed := await watch.wait(
                    self.base_dir or settings.work_dir,
                    interval=max(self.poll_interval, settings.poll_interval_floor),
                    source=source,
                ):
                    settings = self.take_up(changed, log)
                    watch = watch_for(settings)
        except TimeoutError:
            if not limit.expired():
                raise
            last = f" Last: {watch.problem}" if watch.problem else ""
            log.log(
                logging.ERROR,
                "The site could not take a job before the task's deadline.%s", last,
            )  # fmt: skip
            return {"status": "deadline"}
        log.info("The site can take jobs again, after %s.", _span(time.time() - self.since))
        return {"status": "up"}

    @property
    def _wanted(self) -> Collection[str | None]:
        return WANTED_BEFORE_JOB

    def _describe_wait(self, settings: SiteSettings) -> str:
        purpose = " to take a job" if self.token else ""
        target, base_dir = settings.ssh.target, self.base_dir or settings.work_dir
        until = f" It ends at {_moment(self.deadline)}." if self.deadline is not None else ""
        return (
            f"Waiting since {_moment(self.since)} for {target}{purpose}: "
            f"{(self.reason or 'it could not be submitted').rstrip('.')}. It goes on by itself, "
            f"without using up a retry, when {target.host} lets us log in, Slurm answers there and "
            f"{base_dir} can be written.{until}"
        )

    def _has_to_kill(self) -> bool:
        return self.token is not None

    async def _kill(self, settings: SiteSettings, patience: float) -> None:
        if self.token is None:
            return
        async with self._open_client(settings) as client:
            await kill_submission(
                settings,
                base_dir=self.base_dir or settings.work_dir,
                token=self.token,
                identity=self.identity or "",
                log=self.log,
                client=client,
                patience=patience,
            )


@asynccontextmanager
async def _running(stager: Stager | None, poller: SitePoller) -> AsyncIterator[None]:
    """
    Let files be staged over the poller's connection, and keep it until that has stopped.

    When the wait is cancelled the poller lets go of it first, in the middle of its events.
    """
    if stager is None:
        yield
        return
    async with poller.hold():
        stager.go_on(poller.client)
        try:
            yield
        finally:
            await stager.stop()


async def _show(lines: Sequence[str], log: TaskLog) -> None:
    """Log lines; ten thousand take Airflow half a second, in which other triggers want to run."""
    turns = Turns()
    for line in lines:
        log.info("%s", line)
        if turns.is_over:
            await turns.give()


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
