"""
Kill from a worker: Airflow calls ``on_kill`` inside a signal handler, with 5 s to live.

The main thread is stopped at any place, perhaps within an event loop, perhaps holding a lock that
the kill needs (an import, the channel to the supervisor). So the kill runs in a thread of its own;
should it be kept waiting, the handler returns and lets the main thread release what it holds, and
the kill interrupts it again when it can go on: a task at its end would not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowException, AirflowTaskTimeout

from airflow_provider_csc.task_state import WANTED_OF_WORKER, Standing, TaskName, ask_standing

if TYPE_CHECKING:
    from airflow_provider_csc.kill import KillLog
    from airflow_provider_csc.transport.base import SiteSettings

_LOCKED_SECONDS = 0.5
_TIMEOUT_SECONDS = 30.0

_kill: _WorkerKill | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KillOrder:
    """
    What is to be killed: a job, or the submission named by a token; nothing where both are None.

    ``grace`` is in seconds, ``signal`` the user's ``--signal`` option.
    """

    conn_id: str
    token: str | None = None
    identity: str = ""
    job_id: str | None = None
    run_dir: str | None = None
    grace: float = 0.0
    signal: str | None = None


def kill_from_worker(order: KillOrder, log: KillLog) -> bool:
    """
    Carry out a kill unless Airflow says that nobody ended the task; tell whether it was one.

    True also when it could not yet be told; whoever goes on with the task asks again then.
    """
    global _kill  # noqa: PLW0603 - a process has one task, and its kill is one
    # Airflow calls on_kill by itself when execution_timeout is over; the task is "running" then.
    is_certain = isinstance(sys.exc_info()[1], AirflowTaskTimeout)
    # Nothing is stopped half-way then: the exception has released what was held.
    patience = _TIMEOUT_SECONDS if is_certain else _LOCKED_SECONDS
    kill = _kill if _kill and _kill.is_alive() else None
    if kill is None:
        kill = _WorkerKill(order, log, None if is_certain else _current_task())
        _kill = kill
        kill.start()
    if not kill.is_under_way.wait(patience):
        kill.is_left_alone = True
    if kill.is_under_way.is_set():
        kill.join()
    return kill.standing is not Standing.LIVE


def _current_task() -> TaskName | None:
    from airflow.sdk import get_current_context  # noqa: PLC0415 - costs seconds

    try:
        ti = get_current_context()["ti"]
    except (AirflowException, RuntimeError):
        return None
    return TaskName(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
    )


class _WorkerKill(threading.Thread):
    def __init__(self, order: KillOrder, log: KillLog, task: TaskName | None) -> None:
        super().__init__(name="slurm-kill", daemon=True)
        self.order = order
        self.log = log
        self.task = task
        self.standing = Standing.UNKNOWN
        self.is_under_way = threading.Event()
        # Nobody waits for it: the main thread went on.
        self.is_left_alone = False

    def run(self) -> None:
        """Find out whether the task was ended by somebody; if so, kill."""
        try:
            from airflow_provider_csc import client  # noqa: F401 - SSH takes a moment
            from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415

            task = self.task
            self.standing = ask_standing(task, live=WANTED_OF_WORKER) if task else Standing.ENDED
            settings = SlurmHook(self.order.conn_id).get_settings()
        except Exception as error:  # noqa: BLE001 - in a thread nobody would hear of it
            self.log.log(logging.ERROR, "The job cannot be cancelled from here: %s", error)
            return
        finally:
            self.is_under_way.set()
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
                if self.is_left_alone:
                    self._call_back()
                asyncio.run(self._carry_out(settings))

    @staticmethod
    def _call_back() -> None:
        """Have the main thread wait after all, by the signal that made it come here."""
        ident = threading.main_thread().ident
        if ident is not None and callable(signal.getsignal(signal.SIGTERM)):
            signal.pthread_kill(ident, signal.SIGTERM)

    async def _carry_out(self, settings: SiteSettings) -> None:
        from airflow_provider_csc.kill import kill_jobs, kill_submission  # noqa: PLC0415

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
        elif order.token is not None:
            await kill_submission(
                settings,
                base_dir=settings.work_dir,
                token=order.token,
                identity=order.identity,
                log=self.log,
                grace=order.grace,
            )
