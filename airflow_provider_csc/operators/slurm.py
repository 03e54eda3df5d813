"""Run a job on a Slurm cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, conf

from airflow_provider_csc.errors import (
    ConfigError,
    CscError,
    JobFailedError,
    SubmitRejectedError,
)
from airflow_provider_csc.links.slurm import SlurmJobLink
from airflow_provider_csc.slurm.identity import TaskIdentity, first_try_of_generation
from airflow_provider_csc.slurm.options import check_option_names
from airflow_provider_csc.slurm.plan import (
    TEMPLATE_EXTENSIONS,
    JobSpec,
    check_source,
    check_spec,
    check_template_file,
    is_template_file,
)
from airflow_provider_csc.slurm.result import JobResult, describe_result, to_xcom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.triggers.slurm import SlurmJobTrigger


class SlurmSubmitOperator(BaseOperator):
    """
    Submit one job to a Slurm cluster, wait for it in the triggerer, and return what became of it.

    The job's log appears in the task's log while it runs. The task succeeds only with evidence that
    the job ended COMPLETED; it fails with `JobFailedError` when the job ended otherwise, and at
    once, without a retry, when the request itself is wrong. When the task is killed the job is
    cancelled. A retry after a lost worker finds the job again instead of submitting another; a
    retry after a failed job, or a cleared task, submits a new one.

    Returns a dict: job_id, name, cluster, state, exit_code, signal, reason, partition, nodes,
    submit_time, start_time, end_time (ISO 8601, UTC), elapsed_seconds, cpu_efficiency (1 is all of
    the allocated processors' time), max_rss_bytes (of the largest task), run_dir, stdout_path,
    stderr_path. ``job_id`` is also an XCom of its own, pushed right after submission.

    Give exactly one of ``command``, ``script`` and ``remote_script``.

    :param command: a shell command, or a list: a program and its arguments, which no shell reads.
        (templated)
    :param script: a whole batch script, or the name of a template file that holds one (``.sh``,
        ``.sbatch``, ``.slurm``); its ``#SBATCH`` lines are honoured. (templated)
    :param remote_script: path of a batch script that lies on the cluster already. (templated)
    :param options: sbatch's long options, with ``-`` or ``_``: ``{"nodes": 2, "mem": "4G"}``. They
        win over the script's own lines. ``account``, ``partition`` and ``time`` fall back to the
        connection. (templated)
    :param env: environment variables of the job. Not for secrets: they are written into the batch
        script. (templated)
    :param modules: environment modules, each ``name/version``, ``load name`` or ``use /path``.
        (templated)
    :param environment: path, on the cluster, of a virtual environment to activate. (templated)
    :param work_dir: directory the job starts in; default: that of ``remote_script``, else the run
        directory. (templated)
    :param job_name: the readable part of the job's name; default: DAG and task id. (templated)
    :param slurm_conn_id: connection to the cluster. (templated)
    :param deferrable: wait in the triggerer (True) or in the worker (False).
    :param poll_interval: seconds between two questions to the cluster, at the least; the
        connection's floor holds too.
    :param wait_for_completion: False returns right after submission.
    :param stream_logs: copy the job's output into the task's log.
    :param log_limit_bytes: of a longer output only this much is copied, and its path is given.
    :param timeout: cancel the job when it has run for so long (seconds or timedelta).
    :param queue_timeout: cancel the job when it has waited in the queue for so long.
    """

    template_fields = (
        "command",
        "script",
        "remote_script",
        "options",
        "env",
        "modules",
        "environment",
        "work_dir",
        "job_name",
        "slurm_conn_id",
    )
    template_ext: Sequence[str] = TEMPLATE_EXTENSIONS
    template_fields_renderers = {  # noqa: RUF012 - as in every operator of Airflow
        "command": "bash",
        "script": "bash",
        "options": "json",
        "env": "json",
    }
    operator_extra_links = (SlurmJobLink(),)
    ui_color = "#e8f1fa"

    def __init__(  # noqa: PLR0913 - one argument for each thing a user may want to say
        self,
        *,
        command: str | Sequence[str] | None = None,
        script: str | None = None,
        remote_script: str | None = None,
        options: Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
        modules: Sequence[str] | None = None,
        environment: str | None = None,
        work_dir: str | None = None,
        job_name: str | None = None,
        slurm_conn_id: str = "slurm_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = 15.0,
        wait_for_completion: bool = True,
        stream_logs: bool = True,
        log_limit_bytes: int = 10 * 1024 * 1024,
        timeout: float | timedelta | None = None,
        queue_timeout: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.script = script
        self.remote_script = remote_script
        self.options = options
        self.env = env
        self.modules = modules
        self.environment = environment
        self.work_dir = work_dir
        self.job_name = job_name
        self.slurm_conn_id = slurm_conn_id
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.wait_for_completion = wait_for_completion
        self.stream_logs = stream_logs
        self.log_limit_bytes = log_limit_bytes
        self.timeout = timeout
        self.queue_timeout = queue_timeout
        self._job_id: str | None = None
        self._is_killed = False
        # What no template can change is checked while the DAG is parsed.
        check_source(JobSpec(command=command, script=script, remote_script=remote_script))
        if isinstance(options, Mapping):
            check_option_names(options)

    def resolve_template_files(self) -> None:
        """Load only `script` from a file; a command or a path may end with ``.sh`` too."""
        if is_template_file(self.script):
            from jinja2 import TemplateNotFound  # noqa: PLC0415 - only where it is needed

            environment = self.get_template_env()
            try:
                if environment.loader is not None:
                    self.script = environment.loader.get_source(environment, self.script)[0]
            except TemplateNotFound:
                check_template_file(self.script)
        self.prepare_template()

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Render every string as a template of its own, never as the name of a file."""
        if isinstance(content, str) and content.endswith(tuple(self.template_ext)):
            # Airflow would take it for the name of a file.
            self.template_ext, extensions = (), self.template_ext
            try:
                return super().render_template(content, *args, **kwargs)
            finally:
                self.template_ext = extensions
        return super().render_template(content, *args, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit, record the job, and wait for it."""
        spec = self._build_spec()
        try:
            check_spec(spec)
            submission = self._submit(spec, context)
        except SubmitRejectedError as error:
            if error.details.get("is_temporary"):
                raise  # A full queue has room later: an ordinary failure, with retries.
            raise AirflowFailException(error.message) from error
        except ConfigError as error:
            raise AirflowFailException(error.message) from error
        context["ti"].xcom_push(key="job_id", value=submission.job_id)
        if not self.wait_for_completion:
            return to_xcom(_just_submitted(submission))
        trigger = self._build_trigger(submission)
        if self.deferrable:
            self.defer(trigger=trigger, method_name=self.execute_complete.__name__)
        from airflow_provider_csc.hooks.slurm import SlurmHook, run_sync  # noqa: PLC0415

        settings = SlurmHook(self.slurm_conn_id).get_settings()
        return self._finish(run_sync(trigger.wait(settings, self.log)))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Take up the trigger's event: return the result, or raise what it means."""
        return self._finish([JobResult.from_payload(payload) for payload in event["results"]])

    def on_kill(self) -> None:
        """Cancel the job and wait for Slurm to confirm it."""
        self._is_killed = True
        if self._job_id is not None:
            from airflow_provider_csc.hooks.slurm import SlurmHook, run_sync  # noqa: PLC0415
            from airflow_provider_csc.triggers.slurm import cancel_and_confirm  # noqa: PLC0415

            settings = SlurmHook(self.slurm_conn_id).get_settings()
            try:
                run_sync(cancel_and_confirm(settings, [self._job_id], self.log))
            except CscError as error:
                self.log.exception("Job %s may still run: %s", self._job_id, error.message)

    def _build_spec(self) -> JobSpec:
        return JobSpec(
            command=self.command,
            script=self.script,
            remote_script=self.remote_script,
            options=self.options or {},
            env=self.env,
            modules=self.modules,
            environment=self.environment,
            work_dir=self.work_dir,
            job_name=self.job_name,
        )

    def _submit(self, spec: JobSpec, context: Context) -> Submission:
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415

        hook = SlurmHook(self.slurm_conn_id)
        settings = hook.get_settings()
        submission = hook.submit(
            spec, self._identify(context), since=_run_start(context), report=self.log.info
        )
        self._job_id = submission.job_id
        self.log.info("Job %s; its files: %s", submission.job_id, submission.run_dir)
        SlurmJobLink().persist(
            context, web_interface=settings.web_interface, run_dir=submission.run_dir
        )
        if self._is_killed:
            # The kill came while the job was being submitted, when it had no id yet.
            self.on_kill()
        return submission

    def _identify(self, context: Context) -> TaskIdentity:
        ti = context["ti"]
        deployment = conf.get("csc", "deployment", fallback="")
        return TaskIdentity(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=-1 if ti.map_index is None else ti.map_index,
            try_number=ti.try_number,
            first_try=first_try_of_generation(
                try_number=ti.try_number, max_tries=ti.max_tries, retries=self.retries or 0
            ),
            deployment=deployment or conf.get("api", "base_url", fallback="") or "",
        )

    def _build_trigger(self, submission: Submission) -> SlurmJobTrigger:
        from airflow_provider_csc.triggers.slurm import SlurmJobTrigger  # noqa: PLC0415

        limit = self.execution_timeout
        return SlurmJobTrigger(
            slurm_conn_id=self.slurm_conn_id,
            job_ids=[submission.job_id],
            run_dir=submission.run_dir,
            stdout_path=submission.stdout_path,
            stderr_path=submission.stderr_path,
            stream_logs=self.stream_logs,
            poll_interval=self.poll_interval,
            log_limit_bytes=self.log_limit_bytes,
            queue_timeout=_seconds(self.queue_timeout),
            run_timeout=_seconds(self.timeout),
            # defer(timeout=...) would expire without anybody cancelling the job.
            deadline=time.time() + limit.total_seconds() if limit else None,
        )

    def _finish(self, results: list[JobResult]) -> dict[str, Any]:
        (result,) = results
        if result.accounting:
            self.log.info("Accounting of job %s:\n%s", result.job_id, result.accounting)
        if not result.is_success:
            raise JobFailedError(describe_result(result), **to_xcom(result), limit=result.limit)
        self.log.info("%s", describe_result(result))
        return to_xcom(result)


def _seconds(limit: float | timedelta | None) -> float | None:
    return limit.total_seconds() if isinstance(limit, timedelta) else limit


def _run_start(context: Context) -> int:
    """Return when the DAG run began: no job of this generation can be older."""
    started = context["dag_run"].start_date
    return int(started.timestamp() if started else time.time())


def _just_submitted(submission: Submission) -> JobResult:
    return JobResult(
        job_id=submission.job_id,
        state="PENDING",
        run_dir=submission.run_dir,
        stdout_path=submission.stdout_path,
        stderr_path=submission.stderr_path,
    )
