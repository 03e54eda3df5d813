"""An operator that waits for a site or a store that is away, and goes on by itself."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_csc.errors import AllasError, SiteUnavailableError, SubmitUnknownError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_csc.errors import CscError
    from airflow_provider_csc.slurm.attempt import Attempt
    from airflow_provider_csc.slurm.identity import TaskIdentity
    from airflow_provider_csc.task_state import TaskName
    from airflow_provider_csc.triggers.slurm import SlurmSiteTrigger


class ParkingOperator(BaseOperator):
    """
    Knows how to wait for a site, deferred or in the worker, without using up a retry.

    A subclass does its work in `_run`, which may wait and be gone through again, and says in
    `_check_waited` what it means that ``execution_timeout`` is reached meanwhile.
    """

    slurm_conn_id: str
    deferrable: bool
    poll_interval: float = 15.0
    # Of the submission that a kill is to end, where there is one.
    _identity: TaskIdentity | None = None

    def execute_again(
        self, context: Context, event: dict[str, Any], attempt: dict[str, Any]
    ) -> Any:
        """Go on with what had to wait until the site answered."""
        known = remembered(attempt)
        self._check_waited(context, event, known)
        return self._run(context, known.resumed())

    def _run(self, context: Context, attempt: Attempt) -> Any:
        raise NotImplementedError

    def _check_waited(self, context: Context, event: dict[str, Any], attempt: Attempt) -> None:
        raise NotImplementedError

    def _begin(self) -> Attempt:
        """Return what a try remembers at its beginning."""
        limit = self.execution_timeout
        # defer(timeout=...) would expire without anybody cancelling the job.
        deadline = time.time() + limit.total_seconds() if limit else None
        return replace(remembered(), deadline=deadline)

    def _wait_for_site(self, context: Context, attempt: Attempt, error: CscError) -> Attempt:
        """Wait for what an error says is away, and return the attempt as it goes on."""
        pause = None
        # The site may be well, and only the fate of a submission be open, or the store be away.
        if isinstance(error, (SubmitUnknownError, SiteUnavailableError, AllasError)):
            pause, attempt = attempt.pause_seconds, attempt.left_open()
        trigger = self._build_site_trigger(context, attempt, reason=error.message, pause=pause)
        return self._wait_by(context, attempt, trigger)

    def _wait_by(self, context: Context, attempt: Attempt, trigger: SlurmSiteTrigger) -> Attempt:
        """Wait, and return the attempt as it goes on."""
        kwargs = {"attempt": attempt.to_payload()}
        event = self._park(context, trigger, self.execute_again.__name__, kwargs)
        self._check_waited(context, event, attempt)
        return attempt.resumed()

    def _park(
        self,
        context: Context,
        trigger: SlurmSiteTrigger,
        method_name: str,
        kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        """Defer until a trigger fires; or wait here, and return its event."""
        if self.deferrable:
            self._hand_over(context, trigger, method_name, kwargs)
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

        settings = SlurmHook(self.slurm_conn_id).get_settings()
        return run_sync(trigger.wait(settings, self.log))

    def _hand_over(
        self,
        context: Context,  # noqa: ARG002 - for who has something to be killed
        trigger: BaseTrigger,
        method_name: str,
        kwargs: dict[str, Any] | None = None,
    ) -> NoReturn:
        """Defer."""
        self.defer(trigger=trigger, method_name=method_name, kwargs=kwargs)

    def _build_site_trigger(
        self, context: Context, attempt: Attempt, *, reason: str, pause: float | None
    ) -> SlurmSiteTrigger:
        from airflow_provider_csc.triggers.slurm import SlurmSiteTrigger  # noqa: PLC0415

        return SlurmSiteTrigger(
            slurm_conn_id=self.slurm_conn_id,
            deadline=attempt.deadline,
            reason=reason,
            poll_interval=self.poll_interval,
            token=self._identity.token if self._identity else None,
            identity=self._identity.to_json() if self._identity else None,
            task_key=name_task(context),
            not_before=None if pause is None else time.time() + pause,
        )

    @staticmethod
    def _may_pass(error: CscError) -> bool:
        """Whether a site or a store may do later what it did not do now."""
        from airflow_provider_csc.staging.verdict import is_passing  # noqa: PLC0415

        return is_passing(error)


def remembered(payload: Mapping[str, Any] | None = None) -> Attempt:
    """Return what a try remembers of itself; without a payload, that it begins."""
    # Like all that is only needed where a task runs it is not loaded where a DAG is parsed.
    from airflow_provider_csc.slurm.attempt import Attempt  # noqa: PLC0415

    return Attempt.from_payload(payload)


def name_task(context: Context) -> TaskName:
    """Return what names the task instance of a context."""
    ti = context["ti"]
    return {
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": -1 if ti.map_index is None else ti.map_index,
    }
