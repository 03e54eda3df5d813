"""Wait for Slurm jobs, whoever submitted them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    BaseSensorOperator,
    conf,
)
from airflow.sdk import PokeReturnValue

from airflow_provider_csc.errors import ConfigError, SlurmError, TransportError
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.result import JobResult, describe_result, to_xcom
from airflow_provider_csc.slurm.specs import parse_job_id
from airflow_provider_csc.triggers._settling import SETTLE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

# A job that neither squeue nor sacct know is asked for again so long (seconds): slurmdbd may lag.
_MISSING_SECONDS = 30
# How long after a job's end its accounting is waited for (seconds).
_ACCOUNTING_SECONDS = 30


class SlurmJobSensor(BaseSensorOperator):
    """
    Wait until Slurm jobs have ended, also jobs this provider did not submit; never cancel them.

    It succeeds when all of them ended COMPLETED. When one ended otherwise, or is known to neither
    squeue nor sacct, it fails without a retry (or is skipped, with ``soft_fail``), because neither
    can change any more. While the cluster gives no answer it goes on waiting.

    Returns, for one job, the dict `SlurmSubmitOperator` returns; for several, a list of them.

    :param job_id: one id (``123``, ``123_4``), several in a list, or separated by commas.
        (templated)
    :param slurm_conn_id: connection to the cluster. (templated)
    :param deferrable: wait in the triggerer; otherwise ``mode`` is poke or reschedule as in every
        sensor.
    """

    template_fields = ("job_id", "slurm_conn_id")
    ui_color = "#e8f1fa"

    def __init__(
        self,
        *,
        job_id: str | int | Sequence[str | int],
        slurm_conn_id: str = "slurm_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.slurm_conn_id = slurm_conn_id
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Defer to the operator's trigger, or poke."""
        if not self.deferrable:
            return super().execute(context)
        from airflow_provider_csc.triggers.slurm import SlurmJobTrigger  # noqa: PLC0415

        try:
            job_ids = self._job_ids()
        except AirflowFailException as error:
            # Only what happens after a deferral does Airflow turn into a skip.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        trigger = SlurmJobTrigger(
            slurm_conn_id=self.slurm_conn_id,
            job_ids=job_ids,
            poll_interval=self.poke_interval,
            missing_seconds=_MISSING_SECONDS,
        )
        # Nothing is to be cancelled here, so Airflow's own time-out does; what the first look finds
        # is told late, and still in time.
        limit = min(timedelta(seconds=self.timeout), self.execution_timeout or timedelta.max)
        return self.defer(
            trigger=trigger,
            method_name=self.execute_complete.__name__,
            timeout=max(limit, timedelta(seconds=2 * SETTLE_SECONDS)),
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:  # noqa: ARG002
        """Take up the trigger's event."""
        return self._finish([JobResult.from_payload(payload) for payload in event["results"]])

    def poke(self, context: Context) -> bool | PokeReturnValue:  # noqa: ARG002
        """Ask once; the sensor is done when every job has ended."""
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415

        job_ids = self._job_ids()
        try:
            found = SlurmHook(self.slurm_conn_id).query(job_ids, patience=_MISSING_SECONDS)
        except ConfigError as error:
            raise AirflowFailException(error.message) from error
        except (TransportError, SlurmError) as error:
            self.log.warning("No answer, so nothing is known; waiting. %s", error)
            return False
        missing = [job_id for job_id in job_ids if job_id not in found]
        if missing:
            raise AirflowFailException(_describe_missing(missing))
        for result in found.values():
            self.log.info("%s", _describe_present(result))
        if not all(result.is_final and not _awaits_accounting(result) for result in found.values()):
            return False
        return PokeReturnValue(is_done=True, xcom_value=self._finish(list(found.values())))

    def _job_ids(self) -> list[str]:
        given = self.job_id
        parts = given.split(",") if isinstance(given, str) else given
        listed = [parts] if isinstance(parts, int) else list(parts)
        if not listed:
            raise AirflowFailException(f"job_id: {given!r} names no job. Give at least one id.")
        try:
            return [_parse_single_id(part) for part in listed]
        except ValueError as error:
            raise AirflowFailException(f"job_id: {error}") from error

    def _finish(self, results: list[JobResult]) -> Any:
        for result in results:
            self.log.info("%s", describe_result(result))
        missing = [result.job_id for result in results if result.state == "UNKNOWN"]
        if missing:
            raise AirflowFailException(_describe_missing(missing))
        failed = [result for result in results if not result.is_success]
        if failed:
            from airflow_provider_csc.slurm.failures import error_for  # noqa: PLC0415

            told = "\n".join(map(describe_result, failed))
            raise AirflowFailException(told) from error_for(failed[0])
        values = [to_xcom(result) for result in results]
        return values[0] if len(values) == 1 else values


def _describe_present(result: JobResult) -> str:
    """Say where a job is, and of one that waits why."""
    from airflow_provider_csc.slurm.pending import explain_reason  # noqa: PLC0415 - where it runs

    text = f"Job {result.job_id} is {result.state}"
    if result.state != "PENDING":
        return f"{text}."
    reason = explain_reason(result.reason or "")
    about = f" ({reason.code})" if result.reason else ""
    return f"{text}{about}: {reason.explain(result.job_id)}"


def _awaits_accounting(result: JobResult) -> bool:
    """Whether the job ended just now, and slurmdbd will soon know more of it than squeue."""
    if result.exit_code is not None or result.end_time is None:
        return False
    ended = datetime.fromisoformat(result.end_time)
    return datetime.now(UTC) - ended < timedelta(seconds=_ACCOUNTING_SECONDS)


def _parse_single_id(value: str | int) -> str:
    job_id = parse_job_id(value)
    if ";" in job_id or "[" in job_id:
        raise NotationError(
            f"{value!r} names a cluster or a range",
            "Give ids as '123' or '123_4'; for another cluster, another connection.",
        )
    return job_id


def _describe_missing(job_ids: list[str]) -> str:
    return (
        f"job_id: no job {', '.join(job_ids)} is known to squeue or to sacct, and both answered. "
        "Correct the id, or the connection if the job is on another cluster."
    )
