"""An operator with a job, or a submission, that a user's kill ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_csc.errors import SubmitKilledError
from airflow_provider_csc.operators._checks import seconds_of
from airflow_provider_csc.parking import ParkingOperator, name_task

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_csc.slurm.identity import TaskIdentity
    from airflow_provider_csc.task_state import TaskName


class KillableOperator(ParkingOperator):
    """
    Knows what there is to kill, and hands it over to a trigger.

    A subclass calls `_let_be_killed` before it submits, sets what else it knows as soon as it knows
    it, and calls `_end_if_killed` where it could not have been told of a kill.
    """

    kill_grace: float | timedelta = 0
    _job_id: str | None = None
    _run_dir: str | None = None
    _task: TaskName | None = None
    _signal: str | None = None
    _staged_files: dict[str, Any] | None = None
    _is_told = False
    _is_ended = False

    def on_kill(self) -> None:
        """Cancel the job or stop its submission, unless the worker itself is being stopped."""
        self._is_told = True
        if self._identity is not None:
            self._kill(is_interrupted=True)

    def _let_be_killed(self, identity: TaskIdentity, context: Context) -> None:
        """Note whose submission a kill is to end."""
        # All that a kill needs is loaded before: it may come within an import, which has to end.
        from airflow_provider_csc import worker_kill  # noqa: F401, PLC0415

        self._identity, self._task = identity, name_task(context)

    def _kill(self, *, is_interrupted: bool) -> None:
        from airflow_provider_csc.task_state import Standing  # noqa: PLC0415
        from airflow_provider_csc.worker_kill import KillOrder, kill_from_worker  # noqa: PLC0415

        order = KillOrder(
            conn_id=self.slurm_conn_id,
            task=self._task,
            token=self._identity.token if self._identity else None,
            identity=self._identity.to_json() if self._identity else "",
            job_id=self._job_id,
            run_dir=self._run_dir,
            grace=seconds_of(self.kill_grace) or 0.0,
            signal=self._signal,
            staging=self._staged_files,
        )
        standing = kill_from_worker(order, self.log, is_interrupted=is_interrupted)
        self._is_told, self._is_ended = standing is not Standing.LIVE, standing is Standing.ENDED

    def _end_if_killed(self, *, is_ended: bool = False) -> None:
        """Finish a kill that came before, or that has to come: nobody else would."""
        if is_ended or self._is_told:
            self._kill(is_interrupted=False)
        if self._is_ended:
            raise SubmitKilledError(
                "The task was ended by somebody while it submitted a job; what became of that "
                "stands above."
            )

    def _forget_job(self) -> None:
        """Note that there is nothing to kill: the job is over, or nobody waits for it."""
        from airflow_provider_csc.worker_kill import await_kill  # noqa: PLC0415

        await_kill(self._job_id)
        self._identity = self._job_id = self._run_dir = self._signal = None

    def _hand_over(
        self,
        context: Context,
        trigger: BaseTrigger,
        method_name: str,
        kwargs: dict[str, Any] | None = None,
    ) -> NoReturn:
        """
        Defer, unless somebody has ended the task meanwhile.

        Of that the worker hears with a heartbeat, up to seconds later; a task that defers before is
        refused, and neither its worker nor its trigger is told anything any more.
        """
        from airflow_provider_csc.task_state import was_ended  # noqa: PLC0415

        self._end_if_killed(is_ended=was_ended(name_task(context)))
        self.defer(trigger=trigger, method_name=method_name, kwargs=kwargs)
