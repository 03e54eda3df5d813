"""
Kill from a worker: Airflow calls ``on_kill`` inside a signal handler, with 5 s to live.

The main thread is stopped at any place, perhaps within an event loop, perhaps holding a lock that
the kill needs (an import, the channel to the supervisor). So the kill runs in a thread of its own;
should it be kept waiting, the handler returns for a moment, so that the main thread can release
what it holds, and is called again: a task at its end would exit, and the kill with it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_csc.task_state import WANTED_OF_WORKER, Standing, TaskName, ask_standing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.client.kill import KillLog
    from airflow_provider_csc.transport.base import SiteSettings

# What is held is released within a moment, which grows, for it may be an import.
_LOCKED_SECONDS = 0.25
_SLICE_SECONDS = 0.001
# What is locked after all (the log) is let go again so often.
_WORK_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.005

_kill: _WorkerKill | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KillOrder:
    """
    What is to be killed: a job, or the submission named by a token; nothing where both are None.

    ``task`` is whose it is; without it nobody is asked whether it was ended.
    ``grace`` is in seconds, ``signal`` the user's ``--signal`` option. ``staging`` is what the job
    stages (`staging.plan.Staging`).
    """

    conn_id: str
    task: TaskName | None = None
    token: str | None = None
    identity: str = ""
    job_id: str | None = None
    run_dir: str | None = None
    grace: float = 0.0
    signal: str | None = None
    staging: Mapping[str, Any] | None = None


def kill_from_worker(order: KillOrder, log: KillLog, *, is_interrupted: bool = True) -> Standing:
    """
    Carry out a kill unless Airflow says that nobody ended the task; return how the task stands.

    UNKNOWN also when it could not be told yet, or there is nothing to kill yet; whoever goes on
    with the task asks again then, where he holds no lock: ``is_interrupted`` is False there.
    """
    global _kill  # noqa: PLW0603 - a process has one task, and its kill is one
    if order.job_id is None and order.token is None:
        return Standing.UNKNOWN
    # Airflow calls on_kill by itself when execution_timeout is over; the task is "running" then.
    # Nothing is stopped half-way: the exception has released what was held.
    is_certain = isinstance(sys.exc_info()[1], AirflowTaskTimeout)
    kill = _kill
    # One that began with less knowledge goes on beside it; to cancel twice does no harm.
    if kill is None or kill.is_over or kill.order != order or kill.is_certain < is_certain:
        kill = _kill = _WorkerKill(order, log, is_certain=is_certain)
        kill.start()
    may_hold_locks = is_interrupted and not is_certain and _is_in_handler()
    end = time.monotonic() + (_LOCKED_SECONDS if may_hold_locks else _PATIENCE_SECONDS)
    while not kill.is_over and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)  # noqa: TID251 - all else holds a lock, and may be interrupted
        if kill.is_under_way and may_hold_locks:
            may_hold_locks = False
            end = time.monotonic() + _WORK_SECONDS
    if not kill.is_over and is_interrupted:
        kill.let_main_thread_go_on()
    return kill.standing


def await_kill(job_id: str | None) -> None:
    """
    Let a kill of this job say what came of it, where one is under way.

    The poller may hear of the job's end before the kill has its confirmation; the process would end
    then, and the kill with it.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    while (
        (kill := _kill)
        and job_id is not None
        and kill.order.job_id == job_id
        and not kill.is_over
        and time.monotonic() < end
    ):
        time.sleep(_LOOK_SECONDS)  # noqa: TID251 - the kill is in a thread of its own


def _is_in_handler() -> bool:
    """Whether this can be a signal handler's doing; outside Airflow's task runner there is none."""
    return callable(signal.getsignal(signal.SIGTERM))


class _WorkerKill(threading.Thread):
    def __init__(self, order: KillOrder, log: KillLog, *, is_certain: bool) -> None:
        super().__init__(name="slurm-kill", daemon=True)
        self.order = order
        self.log = log
        self.is_certain = is_certain
        self.standing = Standing.UNKNOWN
        # No locks, which a signal handler that interrupts another could wait for in vain.
        self.is_under_way = self.is_over = False
        self._slice_seconds = _SLICE_SECONDS

    def run(self) -> None:
        """Find out whether the task was ended by somebody; if so, kill."""
        try:
            self._find_out_and_kill()
        except Exception as error:  # noqa: BLE001 - in a thread nobody would hear of it
            self.log.log(logging.ERROR, "The job cannot be cancelled from here: %s", error)
        finally:
            self.is_over = True

    def _find_out_and_kill(self) -> None:
        # All that takes a lock of the import system, before anybody waits for this.
        from airflow_provider_csc.client import kill, slurm  # noqa: F401, PLC0415 - SSH takes a moment
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.transport import ssh  # noqa: F401

        task = None if self.is_certain else self.order.task
        self.standing = ask_standing(task, live=WANTED_OF_WORKER) if task else Standing.ENDED
        match self.standing:
            case Standing.LIVE:
                self.log.info(
                    "This process is told to stop, but nobody ended the task: its job is left "
                    "alone, and a later try of the task finds it again."
                )
            case Standing.UNKNOWN:
                self.log.info(
                    "This process is told to stop, and Airflow does not say whether somebody ended "
                    "the task: its job is left alone. Should it be an orphan, the reaper finds it."
                )
            case Standing.ENDED:
                settings = SlurmHook(self.order.conn_id).get_settings()
                self.is_under_way = True
                asyncio.run(self._carry_out(settings))

    def let_main_thread_go_on(self) -> None:
        """Let it do something, each time for longer; then have it wait for this again."""
        timer = threading.Timer(self._slice_seconds, self._call_main_thread)
        timer.daemon = True
        timer.start()
        self._slice_seconds = min(2 * self._slice_seconds, _WORK_SECONDS)

    def _call_main_thread(self) -> None:
        ident = threading.main_thread().ident
        if not self.is_over and ident is not None and _is_in_handler():
            signal.pthread_kill(ident, signal.SIGTERM)

    async def _carry_out(self, settings: SiteSettings) -> None:
        from airflow_provider_csc.client.kill import (  # noqa: PLC0415
            kill_jobs,
            kill_submission,
        )

        order = self.order
        if order.job_id is not None:
            await kill_jobs(
                settings,
                [order.job_id],
                self.log,
                run_dirs=[order.run_dir] if order.run_dir else (),
                grace=order.grace,
                signal=order.signal,
            )
            if order.staging is not None and order.run_dir is not None:
                from airflow_provider_csc.hooks._staging import withdraw_staged  # noqa: PLC0415

                await withdraw_staged(
                    order.staging, settings, order.job_id, order.run_dir, self.log
                )
        elif order.token is not None:
            await kill_submission(
                settings,
                base_dir=settings.work_dir,
                token=order.token,
                identity=order.identity,
                log=self.log,
                grace=order.grace,
            )
