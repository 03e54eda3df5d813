"""An operator whose job fetches its inputs from an object store, and delivers its outputs there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import AllasError, ConfigError, JobStagingError
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.operators._checks import check_seconds, seconds_of
from airflow_provider_csc.operators._killable import KillableOperator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import timedelta

    from airflow.providers.openlineage.extractors import (  # pyright: ignore[reportMissingImports]
        OperatorLineage,
    )

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.slurm.plan import JobSpec
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.staging.declarations import Entry
    from airflow_provider_csc.staging.plan import Staging
    from airflow_provider_csc.store.store import Store
    from airflow_provider_csc.transport.base import SiteSettings

_LEAST_TIMEOUT = 10


class StagingOperator(KillableOperator):
    """
    Knows which files its job stages.

    A subclass calls `_check_staging` while the DAG is parsed and `_plan_staging` when templates are
    filled in, and hands what became of it to `_find_staging_problem`.
    """

    work_dir: str | None
    inputs: Sequence[Entry] | None = None
    outputs: Sequence[Entry] | None = None
    allas_conn_id: str = "allas_default"
    outputs_on_failure: bool = False
    staging_timeout: float | timedelta = 1800
    # What the trigger says became of the files of the present job.
    _staged: Mapping[str, Any] | None = None
    # What a delivery has begun in a store that went away before it could be aborted.
    _undone_uploads: list[Mapping[str, str]]

    @property
    def _stages(self) -> bool:
        return bool(self.inputs or self.outputs)

    def _check_staging(self, *, wait_for_completion: bool, coalesce: bool, options: object) -> None:
        """Check what no template can change, and tell Airflow of the assets."""
        from airflow_provider_csc.hooks._lineage import assets_of  # noqa: PLC0415 - few stage
        from airflow_provider_csc.staging.declarations import (  # noqa: PLC0415
            is_template,
            read_declared,
        )

        self._refuse_unstageable(
            wait_for_completion=wait_for_completion, coalesce=coalesce, options=options
        )
        if not is_template(self.inputs):
            read_declared("inputs", self.inputs)
        if not is_template(self.outputs):
            read_declared("outputs", self.outputs)
        self.inlets += assets_of(_urls(self.inputs))
        self.outlets += assets_of(_urls(self.outputs))

    def _refuse_unstageable(
        self, *, wait_for_completion: bool, coalesce: bool, options: object
    ) -> None:
        """Refuse what does not go together with inputs or outputs."""
        check_seconds("staging_timeout", self.staging_timeout)
        if (seconds_of(self.staging_timeout) or 0) < _LEAST_TIMEOUT:
            raise _refusal(
                "staging_timeout", self.staging_timeout, "is too short to issue URLs in",
                "Give seconds, or a timedelta, of 10 s or more.",
            )  # fmt: skip
        if not wait_for_completion:
            raise _refusal(
                "wait_for_completion", wait_for_completion, "leaves nobody who issues its URLs",
                "Leave it out, or leave inputs and outputs out.",
            )  # fmt: skip
        if coalesce:
            raise _refusal(
                "coalesce", coalesce, "does not go together with inputs or outputs",
                "Leave it out: each instance is then a job of its own, which stages its own files.",
            )  # fmt: skip
        if (array := _array_of(options)) is not None:
            raise _refusal(
                "options['array']", array,
                "makes one job of several, which would all fetch and deliver the same files",
                "Leave it out and use .expand(), or have the jobs share files that another task "
                "has staged.",
            )  # fmt: skip

    def _plan_staging(self, *, in_run_dir: bool, is_patient: bool) -> Staging | None:
        """
        Return what is staged, templates filled in.

        :raises ConfigError: naming what is wrong with it.
        """
        if not self._stages:
            return None
        from airflow_provider_csc.staging.declarations import read_declared  # noqa: PLC0415
        from airflow_provider_csc.staging.plan import Staging  # noqa: PLC0415

        return Staging(
            conn_id=self.allas_conn_id,
            inputs=tuple(read_declared("inputs", self.inputs, in_run_dir=in_run_dir)),
            outputs=tuple(read_declared("outputs", self.outputs, in_run_dir=in_run_dir)),
            on_failure=self.outputs_on_failure,
            timeout=int(seconds_of(self.staging_timeout) or 0),
            in_run_dir=in_run_dir,
            is_patient=is_patient,
        )

    def _stage_before(
        self,
        spec: JobSpec,
        staging: Staging,
        settings: SiteSettings,
        token: str,
        *,
        is_fresh: bool,
    ) -> tuple[JobSpec, Callable[[SlurmClient], Awaitable[None]]]:
        """
        Return a job as it stages, and what is to be done before its submission.

        That sees whether its files can be staged, or has the log-in node fetch them; where a job is
        found that was submitted before, which may have fetched what is gone by now, it is not done.
        It raises an AllasError for an input that is not there, or a bucket that cannot be used.
        """
        from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415
        from airflow_provider_csc.slurm.plan import Stage  # noqa: PLC0415
        from airflow_provider_csc.staging.helper import helper_text  # noqa: PLC0415

        store = AllasHook(staging.conn_id).get_store()
        if settings.staging == "login":
            return self._plan_by_login(spec, staging, store, settings, token, is_fresh=is_fresh)

        async def check(_client: SlurmClient) -> None:
            await _check(store, staging)

        self._staged_files = staging.to_payload()
        return replace(spec, stage=Stage(helper_text(), staging.timeout)), check

    def _plan_by_login(
        self,
        spec: JobSpec,
        staging: Staging,
        store: Store,
        settings: SiteSettings,
        token: str,
        *,
        is_fresh: bool,
    ) -> tuple[JobSpec, Callable[[SlurmClient], Awaitable[None]]]:
        from airflow_provider_csc.slurm.plan import Stage  # noqa: PLC0415
        from airflow_provider_csc.slurm.run_dir import FILES_SUFFIX  # noqa: PLC0415

        if not staging.in_run_dir and spec.work_dir is None:
            raise ConfigError(
                "work_dir: where the log-in node of this site is to stage files cannot be told "
                "from the script or its options. Name the directory in work_dir.",
                field="work_dir",
            )
        # The run directory is made by the submission, and by nobody else.
        given = spec.work_dir
        work = given or f"{settings.work_dir.rstrip('/')}/{token}{FILES_SUFFIX}"

        async def fetch(client: SlurmClient) -> None:
            from airflow_provider_csc.hooks._login_staging import LoginStaging  # noqa: PLC0415
            from airflow_provider_csc.store.staging import plan_inputs  # noqa: PLC0415

            await _check(store, staging)
            login = LoginStaging(client, store, settings.work_dir, self.log)
            if is_fresh and given is None:
                await login.put_aside(work)
            try:
                fetches = await asyncio.to_thread(plan_inputs, store, staging.inputs)
            except NotationError as error:
                raise ConfigError(f"inputs: {error}", field="inputs") from error
            moved = await login.fetch(fetches, work)
            self.log.info("The log-in node fetched %d files into %s.", moved.count, work)

        return replace(spec, work_dir=work, stage=Stage("", staging.timeout)), fetch

    def _stage_after(self, result: JobResult, staging: Staging | None) -> JobStagingError | None:
        """
        Deliver by the log-in node what a job wrote, where that is its way; tell what came.

        :raises CscError: where the site or the store is away (`staging.verdict.is_passing`).
        """
        if staging is None:
            return None
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415

        settings = SlurmHook(self.slurm_conn_id).get_settings()
        is_wanted = result.is_success or staging.on_failure
        if settings.staging == "login" and staging.outputs and is_wanted and not self._staged:
            self._staged = self._deliver_by_login(result, staging, settings)
        if not self._staged and staging.outputs and result.is_success:
            # The connection said at the submission who should do it, and says another thing now.
            problem = "nothing tells that its outputs were delivered"
            self._staged = {"problem": problem, "phase": "out"}
        return self._find_staging_problem(result)

    def _deliver_by_login(
        self, result: JobResult, staging: Staging, settings: SiteSettings
    ) -> dict[str, Any]:
        from airflow_provider_csc.hooks._login_staging import LoginStaging  # noqa: PLC0415
        from airflow_provider_csc.hooks.allas import AllasHook  # noqa: PLC0415
        from airflow_provider_csc.hooks.slurm import open_client  # noqa: PLC0415
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

        store = AllasHook(staging.conn_id).get_store()
        work = self._files_of(result)

        async def deliver() -> dict[str, Any]:
            async with open_client(settings) as client:
                login = LoginStaging(
                    client, store, settings.work_dir, self.log, self._undone_uploads
                )
                return await login.deliver_outputs(staging.outputs, work)

        try:
            return run_sync(deliver())
        except AllasError as error:
            if self._may_pass(error):
                raise
            return {"problem": error.message, "phase": "out"}

    def _files_of(self, result: JobResult) -> str:
        """Return where the log-in node finds the files of a job."""
        from airflow_provider_csc.slurm.run_dir import FILES_SUFFIX  # noqa: PLC0415

        return self.work_dir or f"{result.run_dir}{FILES_SUFFIX}"

    def _find_staging_problem(self, result: JobResult) -> JobStagingError | None:
        """Tell what was staged; return the error where that is why the task fails."""
        staged = self._staged
        if not staged:
            return None
        for what in ("fetched", "delivered"):
            if moved := staged.get(what):
                self.log.info(
                    "Job %s %s %d files, %s bytes, in %d s.",
                    result.job_id, what, moved["files"], f"{moved['bytes']:,}", moved["seconds"],
                )  # fmt: skip
        problem = staged.get("problem")
        if not problem:
            return None
        from airflow_provider_csc.staging.verdict import error_of  # noqa: PLC0415

        error = error_of(result, problem=str(problem), phase=str(staged.get("phase", "")))
        if error is None:
            self.log.warning("Its outputs are not complete: %s", problem)
        return error

    def _add_staged(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return a result with what was staged."""
        if not self._staged:
            return value
        told = {name: self._staged.get(name) for name in ("fetched", "delivered", "absent")}
        return {**value, "staged": told}

    def get_openlineage_facets_on_complete(self, _task_instance: object) -> OperatorLineage:
        """Tell OpenLineage what was read and written, templates filled in."""
        from airflow_provider_csc.hooks._lineage import lineage_of  # noqa: PLC0415
        from airflow_provider_csc.staging.declarations import read_declared  # noqa: PLC0415

        return lineage_of(
            [str(each.name) for each in read_declared("inputs", self.inputs)],
            [str(each.name) for each in read_declared("outputs", self.outputs)],
        )


async def _check(store: Store, staging: Staging) -> None:
    from airflow_provider_csc.store.staging import check_staging  # noqa: PLC0415 - boto3

    await asyncio.to_thread(check_staging, store, staging)


def _array_of(options: object) -> object:
    """Return the array that a job is asked to be, perhaps as a template; None where it is none."""
    if not isinstance(options, Mapping):
        return None
    from airflow_provider_csc.slurm.option_names import canonical_names  # noqa: PLC0415

    key = canonical_names(options).get("array")
    return options[key] or None if key is not None else None


def _urls(entries: object) -> list[object]:
    """Return what stands for a URL, whatever it is."""
    found = entries if isinstance(entries, (list, tuple)) else ()
    return [each.get("url") if isinstance(each, Mapping) else each for each in found]


def _refusal(field: str, value: object, problem: str, remedy: str) -> ConfigError:
    return ConfigError(f"{field}: {value!r} {problem}. {remedy}", field=field, value=value)
