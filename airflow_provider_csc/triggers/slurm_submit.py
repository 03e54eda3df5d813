"""Submit in the triggerer, together with other task instances, and wait for the job there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_csc.client.kill import kill_jobs, kill_submission
from airflow_provider_csc.errors import (
    CscError,
    SiteUnavailableError,
    SubmitUnknownError,
    TransportError,
)
from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.task_state import WANTED_BEFORE_JOB, WANTED_OF_TRIGGER, TaskName
from airflow_provider_csc.triggers._following import Following
from airflow_provider_csc.triggers.slurm import KillableTrigger, SlurmJobTrigger, SlurmSiteTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from airflow_provider_csc.slurm.coalescing import Member
    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.transport.base import SiteSettings


class SlurmSubmitTrigger(KillableTrigger):
    """
    Submit a job together with those of other task instances, and fire when it has ended.

    Those of one mapped task that come within a few seconds are submitted as one array; each keeps
    its own run directory, job id and log. While the site cannot take a job it waits. Fires what
    `SlurmJobTrigger` fires, with ``submission`` (job_id and run_dir) besides; before there is a
    job, ``{"status": "deadline", "attempt": ...}``, or ``{"status": "failed", "error": ...,
    "attempt": ...}`` where nothing was submitted.

    It may be stopped at any moment and started again elsewhere: a job that it has submitted is
    found again by its run directory. A user's kill stops the submission or cancels the job.

    The argument names are a stored format: running tasks hold them.

    :param slurm_conn_id: the connection.
    :param plan: what is to be submitted, see `coalescing.Member.to_payload`.
    :param watch: arguments of `SlurmJobTrigger` that do not depend on the job.
    :param attempt: what the operator wants back with the event.
    :param coalesce_seconds: how long to wait for others; again for each that comes.
    :param task_key: dag_id, run_id, task_id and map_index of the task that waits.
    :param preflight: say first what is known to be in the job's way.
    """

    __slots__ = ("_job", "attempt", "coalesce_seconds", "plan", "preflight", "watch")

    def __init__(
        self,
        *,
        slurm_conn_id: str,
        plan: dict[str, Any],
        watch: dict[str, Any],
        attempt: dict[str, Any] | None = None,
        coalesce_seconds: float = 5.0,
        task_key: TaskName | None = None,
        preflight: bool = False,
    ) -> None:
        super().__init__(slurm_conn_id, task_key)
        self.plan = plan
        self.watch = watch
        self.attempt = attempt
        self.coalesce_seconds = coalesce_seconds
        self.preflight = preflight
        self._job: SlurmJobTrigger | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and plain JSON arguments."""
        return f"{__name__}.{type(self).__qualname__}", {
            "slurm_conn_id": self.slurm_conn_id,
            "plan": self.plan,
            "watch": self.watch,
            "attempt": self.attempt,
            "coalesce_seconds": self.coalesce_seconds,
            "task_key": self.task_key,
            "preflight": self.preflight,
        }

    async def _get_settings(self) -> SiteSettings:
        """Return the site, as the job's own wait knows it where that has begun."""
        if self._job is not None:
            return await self._job._get_settings()  # noqa: SLF001 - one of its own kind
        return await super()._get_settings()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event; see the class."""
        event = await self._wait_for(self._follow)
        yield TriggerEvent({**event, "attempt": self.attempt})

    async def _follow(self) -> dict[str, Any]:
        begun = await self._wait_apart(self._begin)
        if isinstance(begun, dict):
            return begun
        submission, following = begun
        results = await following.ended
        return {
            "results": [result.to_payload() for result in results],
            "submission": {"job_id": submission.job_id, "run_dir": submission.run_dir},
        }

    async def _begin(self) -> dict[str, Any] | tuple[Submission, Following]:
        """Submit, and begin to follow the job; or return the event of there being none."""
        member = self._member
        attempt = Attempt.from_payload(self.attempt)
        while True:
            settings = await self._read_settings()
            try:
                is_first = not attempt.is_resumed
                submission = await self._submit(settings, member, is_first=is_first)
            except (TransportError, SiteUnavailableError, SubmitUnknownError) as error:
                if error.details.get("is_lasting") and member.is_fresh and not attempt.waits:
                    return _describe_failure(error)
                event = await self._wait_for_site(settings, member, attempt, error)
            except CscError as error:
                return _describe_failure(error)
            else:
                return submission, self._begin_to_follow(settings, submission)
            attempt = attempt.resumed()
            if event["status"] != "up":
                return event
            # What a person mended may be the connection itself.
            self._settings = None

    def _begin_to_follow(self, settings: SiteSettings, submission: Submission) -> Following:
        self.log.info("Job %s; its files: %s", submission.job_id, submission.run_dir)
        self._job = self._build_job_trigger(submission)
        self._following = Following(self._job, settings, self.log)
        self._settings = self._following.settings
        return self._following

    @property
    def _member(self) -> Member:
        from airflow_provider_csc.slurm.coalescing import Member  # noqa: PLC0415

        return Member.from_payload(self.plan)

    async def _submit(
        self, settings: SiteSettings, member: Member, *, is_first: bool
    ) -> Submission:
        from airflow_provider_csc.client.gatherer import gatherer_for  # noqa: PLC0415
        from airflow_provider_csc.hooks.slurm import look_ahead  # noqa: PLC0415

        # The connection stays open between the two.
        async with self._open_client(settings) as client:
            if self.preflight and is_first:
                await look_ahead(client, settings, member.request, self.log.info)
            return await gatherer_for(settings).submit(
                member, window=self.coalesce_seconds, report=self.log.info
            )

    async def _wait_for_site(
        self, settings: SiteSettings, member: Member, attempt: Attempt, error: CscError
    ) -> dict[str, str]:
        is_open = isinstance(error, (SubmitUnknownError, SiteUnavailableError))
        trigger = SlurmSiteTrigger(
            slurm_conn_id=self.slurm_conn_id,
            deadline=self.watch.get("deadline"),
            reason=error.message,
            poll_interval=self.watch.get("poll_interval", 15.0),
            base_dir=member.request.base_dir,
            # The site may be well, and only the fate of a submission is open.
            not_before=time.time() + attempt.pause_seconds if is_open else None,
        )
        return await trigger.wait(settings, self.log)

    def _build_job_trigger(self, submission: Submission) -> SlurmJobTrigger:
        return SlurmJobTrigger(
            slurm_conn_id=self.slurm_conn_id,
            job_ids=[submission.job_id],
            run_dir=submission.run_dir,
            stdout_path=submission.stdout_path,
            stderr_path=submission.stderr_path,
            array_token=submission.array_token,
            attempt=self.attempt,
            task_key=self.task_key,
            **self.watch,
        )

    @property
    def _wanted(self) -> Collection[str | None]:
        return WANTED_BEFORE_JOB if self._job is None else WANTED_OF_TRIGGER

    def _has_to_kill(self) -> bool:
        return True

    async def _kill(self, settings: SiteSettings, patience: float) -> None:
        member, job = self._member, self._job
        async with self._open_client(settings) as client:
            if job is not None:
                await kill_jobs(
                    settings,
                    job.job_ids,
                    self.log,
                    run_dirs=[job.run_dir] if job.run_dir else (),
                    grace=job.kill_grace,
                    signal=job.kill_signal,
                    client=client,
                    patience=patience,
                )
                return
            await kill_submission(
                settings,
                base_dir=member.request.base_dir,
                token=member.token,
                identity=member.request.identity,
                log=self.log,
                grace=self.watch.get("kill_grace", 0.0),
                client=client,
                patience=patience,
            )


def _describe_failure(error: CscError) -> dict[str, Any]:
    """Return an event that tells of an error, as plain JSON; see `errors.from_payload`."""
    return {"status": "failed", "error": error.to_payload()}
