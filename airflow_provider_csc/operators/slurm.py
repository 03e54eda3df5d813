"""Run a job on a Slurm cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowTaskTimeout,
    conf,
)

from airflow_provider_csc.errors import (
    AllasError,
    ConfigError,
    CscError,
    SiteUnavailableError,
    SubmitRejectedError,
    SubmitUnknownError,
    TransportError,
    UnreadableOutputError,
    UpstreamFailedError,
    from_payload,
)
from airflow_provider_csc.operators._checks import (
    check_array,
    check_coalesce,
    check_names,
    check_policy,
    check_seconds,
    seconds_of,
)
from airflow_provider_csc.operators._config import ConfiguredOperator, keep_config
from airflow_provider_csc.operators._costs import CostingOperator
from airflow_provider_csc.operators._environments import EnvironmentUser
from airflow_provider_csc.parking import name_task, remembered
from airflow_provider_csc.slurm.sources import (
    TEMPLATE_EXTENSIONS,
    check_template_file,
    is_template_file,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from datetime import timedelta

    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.links.slurm import SlurmJobLink
    from airflow_provider_csc.sites.resources import Resources
    from airflow_provider_csc.slurm.array_attempt import ArrayAttempt
    from airflow_provider_csc.slurm.attempt import Attempt
    from airflow_provider_csc.slurm.failures import FailureReason
    from airflow_provider_csc.slurm.identity import TaskIdentity
    from airflow_provider_csc.slurm.plan import JobSpec
    from airflow_provider_csc.slurm.policy import Action, PartitionLimits, SlurmRetryPolicy
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.staging.declarations import Entry
    from airflow_provider_csc.staging.plan import Staging
    from airflow_provider_csc.triggers.slurm import SlurmJobTrigger


class SlurmSubmitOperator(EnvironmentUser, ConfiguredOperator, CostingOperator):
    """
    Submit one job to a Slurm cluster, wait for it in the triggerer, and return what became of it.

    The job's log appears in the task's log while it runs. The task succeeds only with evidence that
    the job ended COMPLETED; it fails with a `JobFailedError` that names the reason when the job
    ended otherwise, and at once, without a retry, when the request itself is wrong. While the site
    cannot be reached, or can take nothing, the task waits: that uses up no retry. When the task is
    killed the job is cancelled. A retry after a lost worker finds the job again instead of
    submitting another; a retry after a failed job, or a cleared task, submits a new one.

    Returns a dict: job_id, name, cluster, state, exit_code, signal, reason, partition, nodes,
    submit_time, start_time, end_time (ISO 8601, UTC), elapsed_seconds, cpu_efficiency (1 is all of
    the allocated processors' time), memory_efficiency, max_rss_bytes (of the largest task),
    run_dir, stdout_path, stderr_path, billing_units and advice (see docs/cost.md), and
    resubmissions: one dict for each job that a retry policy replaced (job_id, state, reason, nodes,
    changed, why). ``job_id`` is also an XCom of its own, pushed right after submission; of a job
    array that takes several jobs, at its end.

    With ``options={"array": "0-99%10"}`` the task is a whole job array, which Slurm runs as so many
    tasks; see docs/arrays.md. The result then also has ``array``: spec, counts by state, and what
    became of each task. A retry submits only what did not complete. ``timeout`` and
    ``queue_timeout`` hold for each task of it.

    With ``inputs`` and ``outputs`` the job fetches and delivers files of Allas itself, without any
    key; see docs/staging.md. The result then also has ``staged``: files, bytes and seconds of what
    was ``fetched`` and ``delivered``, and the paths of optional outputs that were ``absent``.

    Give exactly one of ``command``, ``script`` and ``remote_script``, here or in ``config``.

    :param command: a shell command, or a list: a program and its arguments, which no shell reads.
        (templated)
    :param script: a whole batch script, or the name of a template file that holds one (``.sh``,
        ``.sbatch``, ``.slurm``); its ``#SBATCH`` lines are honoured. (templated)
    :param remote_script: path of a batch script that lies on the cluster already. (templated)
    :param options: sbatch's long options, with ``-`` or ``_``: ``{"nodes": 2, "mem": "4G"}``. They
        win over the script's own lines. ``account``, ``partition`` and ``time`` fall back to the
        connection. (templated)
    :param job_resources: what the job needs, whatever the site, as a `Resources` or a dict of its
        fields: the partition and the site's own options follow from it. See docs/resources.md.
        (templated)
    :param env: environment variables of the job. Not for secrets: they are written into the batch
        script. (templated)
    :param modules: environment modules, each ``name/version``, ``load name`` or ``use /path``.
        (templated)
    :param environment: path, on the cluster, of a virtual environment to activate; what a
        `PythonEnvironmentOperator` returned; or its arguments, as ``{"recipe": ..., "prefix":
        ...}``: then it is built first, where it is not there. (templated)
    :param work_dir: directory the job starts in; default: that of ``remote_script``, else the run
        directory. (templated)
    :param job_name: the readable part of the job's name; default: DAG and task id. (templated)
    :param config: what the arguments above, ``inputs`` and ``outputs`` leave out: a dict, the text
        of a YAML document, or the name of a template file (``.yaml``, ``.yml``); see
        docs/configs.md. Arguments win, of ``options`` and ``env`` one by one. (templated)
    :param slurm_conn_id: connection to the cluster. (templated)
    :param deferrable: wait in the triggerer (True) or in the worker (False).
    :param poll_interval: seconds between two questions to the cluster, at the least; the
        connection's floor holds too.
    :param wait_for_completion: False returns right after submission.
    :param stream_logs: copy the job's output into the task's log.
    :param log_limit_bytes: of a longer output only this much is copied, and its path is given.
    :param timeout: cancel the job when it has run for so long (seconds or timedelta).
    :param queue_timeout: cancel the job when it has waited in the queue for so long.
    :param kill_grace: when the task is killed, or reaches a limit, give the job so long between the
        signal (that of ``options["signal"]``, else SIGTERM) and its cancellation. 0 is scancel's
        own way: SIGTERM, and SIGKILL after the cluster's KillWait.
    :param cancel_held: cancel a job that is held until somebody releases it, instead of waiting.
    :param on_failure: a `SlurmRetryPolicy`: which failures are followed by another job within this
        try, with more memory, more time or without the failed node. Default: none is.
    :param depends_on: Slurm tasks of this DAG, or their ids, whose jobs must have succeeded before
        Slurm starts this one: one, a list, or a dict by kind of dependency, as
        ``{"afterok": [prepare], "afterany": ["warm_up"]}``; also job ids. It is no edge of
        Airflow's: this job is submitted as soon as theirs are, and waits in Slurm's queue with
        them. (templated)
    :param array_logs: of a job array, copy the end of the log of each task that failed
        (``"failed"``), the logs of all tasks while they run (``"all"``), or ``"none"``.
    :param max_failed_tasks: how many tasks of a job array may fail: a number, a part of the array
        (0.1), or None for any. What has become of a task must be known all the same.
    :param coalesce: submit mapped instances of this task that come at about the same time as one
        array, from the triggerer. See docs/mapped-tasks.md.
    :param coalesce_seconds: how long an instance waits for others; again for each that comes, but
        six times at the most.
    :param preflight: before it is submitted, look for what is known to be in its way (a
        maintenance, a partition that gives less, a project without billing units, a full disk), and
        say so. See docs/preflight.md.
    :param dry_run: end after the preflight, with what sbatch expects of the job; none is submitted.
    :param inputs: what the job fetches from Allas before it runs: ``"s3://bucket/key"``, all below
        ``"s3://bucket/prefix/"``, or ``{"url": ..., "path": "data/file.csv", "optional": True}``
        with where it goes in the job's working directory; default: its own last name. (templated)
    :param outputs: what it delivers afterwards, in the same form. (templated)
    :param allas_conn_id: connection to the store. (templated)
    :param outputs_on_failure: deliver what is there of the outputs also when the job fails.
    :param staging_timeout: how long a job that has started waits for the URLs that it fetches and
        delivers by; it ends when none come.
    :param max_billing_units: submit nothing by which one try could cost more, resubmissions of
        ``on_failure`` included; in the unit of the site that the connection names. (templated)
    :param max_billing_units_per_run: nor by which the DAG run could: a number, or one by unit.
        (templated)
    """

    template_fields: Collection[str] = (
        "command",
        "script",
        "remote_script",
        "options",
        "job_resources",
        "env",
        "modules",
        "environment",
        "work_dir",
        "job_name",
        "depends_on",
        "slurm_conn_id",
        "inputs",
        "outputs",
        "allas_conn_id",
        "config",
        "max_billing_units",
        "max_billing_units_per_run",
    )
    template_ext: Sequence[str] = TEMPLATE_EXTENSIONS
    template_fields_renderers = {  # noqa: RUF012 - as in every operator of Airflow
        "command": "bash",
        "script": "bash",
        "options": "json",
        "job_resources": "json",
        "env": "json",
        "environment": "json",
        "inputs": "json",
        "outputs": "json",
        "config": "yaml",
    }
    ui_color = "#e8f1fa"

    # What is not said of a task stays with its class. For each attribute that is set on a task
    # Airflow looks whether there is something to convert it, which is dear where most stay as here.
    command: str | Sequence[str] | None = None
    script: str | None = None
    remote_script: str | None = None
    options: Mapping[str, Any] | None = None
    job_resources: Mapping[str, Any] | None = None
    env: Mapping[str, Any] | None = None
    modules: Sequence[str] | None = None
    environment: str | Mapping[str, Any] | None = None
    work_dir: str | None = None
    job_name: str | None = None
    slurm_conn_id: str = "slurm_default"
    deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False)
    poll_interval: float = 15.0
    wait_for_completion: bool = True
    stream_logs: bool = True
    log_limit_bytes: int = 10 * 1024 * 1024
    timeout: float | timedelta | None = None
    queue_timeout: float | timedelta | None = None
    kill_grace: float | timedelta = 0
    cancel_held: bool = False
    on_failure: SlurmRetryPolicy | None = None
    depends_on: object = None
    array_logs: Literal["failed", "all", "none"] = "failed"
    max_failed_tasks: float | None = 0
    coalesce: bool = False
    coalesce_seconds: float = 5.0
    preflight: bool = True
    # Airflow's operators have a method called dry_run.
    is_dry_run: bool = False

    def __init__(  # noqa: PLR0913 - one argument for each thing a user may want to say
        self,
        *,
        command: str | Sequence[str] | None = None,
        script: str | None = None,
        remote_script: str | None = None,
        options: Mapping[str, Any] | None = None,
        job_resources: Resources | Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
        modules: Sequence[str] | None = None,
        environment: str | Mapping[str, Any] | None = None,
        work_dir: str | None = None,
        job_name: str | None = None,
        config: Any = None,
        slurm_conn_id: str = "slurm_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = 15.0,
        wait_for_completion: bool = True,
        stream_logs: bool = True,
        log_limit_bytes: int = 10 * 1024 * 1024,
        timeout: float | timedelta | None = None,
        queue_timeout: float | timedelta | None = None,
        kill_grace: float | timedelta = 0,
        cancel_held: bool = False,
        on_failure: SlurmRetryPolicy | None = None,
        depends_on: object = None,
        array_logs: Literal["failed", "all", "none"] = "failed",
        max_failed_tasks: float | None = 0,
        coalesce: bool = False,
        coalesce_seconds: float = 5.0,
        preflight: bool = True,
        dry_run: bool = False,
        inputs: Sequence[Entry] | None = None,
        outputs: Sequence[Entry] | None = None,
        allas_conn_id: str = "allas_default",
        outputs_on_failure: bool = False,
        staging_timeout: float | timedelta = 1800,
        max_billing_units: float | str | None = None,
        max_billing_units_per_run: float | str | Mapping[str, float | str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_names(kwargs)
        super().__init__(**kwargs)
        named = None if depends_on is None else _name_tasks(depends_on)
        self._keep(
            command=command,
            script=script,
            remote_script=remote_script,
            options=options,
            job_resources=_plain_resources(job_resources),
            env=env,
            modules=modules,
            environment=environment,
            work_dir=work_dir,
            job_name=job_name,
            config=None if config is None else keep_config(config),
            slurm_conn_id=slurm_conn_id,
            deferrable=deferrable,
            poll_interval=poll_interval,
            wait_for_completion=wait_for_completion,
            stream_logs=stream_logs,
            log_limit_bytes=log_limit_bytes,
            timeout=timeout,
            queue_timeout=queue_timeout,
            kill_grace=kill_grace,
            cancel_held=cancel_held,
            on_failure=on_failure,
            depends_on=named,
            array_logs=array_logs,
            max_failed_tasks=max_failed_tasks,
            coalesce=coalesce,
            coalesce_seconds=coalesce_seconds,
            preflight=preflight,
            is_dry_run=dry_run,
            inputs=inputs,
            outputs=outputs,
            allas_conn_id=allas_conn_id,
            outputs_on_failure=outputs_on_failure,
            staging_timeout=staging_timeout,
            max_billing_units=max_billing_units,
            max_billing_units_per_run=max_billing_units_per_run,
        )
        # What no template can change is checked while the DAG is parsed.
        self._check_sources(command=command, script=script, remote_script=remote_script)
        if isinstance(options, Mapping):
            from airflow_provider_csc.slurm.option_names import (  # noqa: PLC0415
                check_option_names,
            )

            check_option_names(options)
        check_seconds("timeout", timeout)
        check_seconds("queue_timeout", queue_timeout)
        check_seconds("kill_grace", kill_grace)
        if on_failure is not None:
            check_policy(on_failure)
        check_array(array_logs, max_failed_tasks)
        if self._is_limited:
            self._check_limits()
        if named is not None:
            from airflow_provider_csc.operators._dependencies import (  # noqa: PLC0415
                check_depends_on,
            )

            check_depends_on(named, options, self.task_id, self.get_dag())
        if inputs is not None or outputs is not None:
            self._check_staging(
                wait_for_completion=wait_for_completion, coalesce=coalesce, options=options
            )
        if coalesce:
            check_coalesce(
                deferrable=deferrable,
                wait_for_completion=wait_for_completion,
                remote_script=remote_script,
                depends_on=depends_on,
                coalesce_seconds=coalesce_seconds,
            )

    # An attribute in the base class; Airflow takes a property too, also that of a mapped task.
    @property
    def operator_extra_links(  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
    ) -> tuple[SlurmJobLink]:
        """Return the buttons beside a task."""
        from airflow_provider_csc.links.slurm import SlurmJobLink  # noqa: PLC0415

        return (SlurmJobLink(),)

    def _keep(self, **given: Any) -> None:
        """Make attributes of the arguments that differ from what the class says of all tasks."""
        known = type(self)
        for name, value in given.items():
            if value is not getattr(known, name):
                setattr(self, name, value)

    @classmethod
    def partial(cls, *, depends_on: object = None, **kwargs: Any) -> OperatorPartial:
        """Make a mapped task; Airflow would take a task in ``depends_on`` for one of its edges."""
        check_names(kwargs)
        given = {} if depends_on is None else {"depends_on": _name_tasks(depends_on)}
        if kwargs.get("config") is not None:
            given["config"] = keep_config(kwargs.pop("config"))
        made: OperatorPartial = super().partial(**given, **kwargs)
        return made

    def resolve_template_files(self) -> None:
        """Load only `script` and `config` from a file; a command may end with ``.sh`` too."""
        if is_template_file(self.script):
            from jinja2 import TemplateNotFound  # noqa: PLC0415 - only where it is needed

            environment = self.get_template_env()
            try:
                if environment.loader is not None:
                    self.script = environment.loader.get_source(environment, self.script)[0]
            except TemplateNotFound:
                check_template_file(self.script)
        if self.config is not None:
            self._load_config_file()
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

    def execute(self, context: Context) -> Any:
        """Submit, record the job, and wait for it."""
        self._configure(context)
        if self.is_dry_run:
            return self._test_only(context)
        attempt = self._begin()
        return self._run(context, replace(attempt, changes=self._learn(context)))

    def _test_only(self, context: Context) -> dict[str, Any]:
        """Say what is in the job's way, and return what sbatch expects of it."""
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.slurm.plan import check_spec  # noqa: PLC0415
        from airflow_provider_csc.slurm.preflight import to_value  # noqa: PLC0415

        attempt = remembered()
        try:
            spec = self._build_spec(attempt)
            check_spec(spec)
            found, asked = SlurmHook(self.slurm_conn_id).test_only(
                spec, self._identify(context, attempt), report=self.log.info
            )
        except (ConfigError, SubmitRejectedError) as error:
            raise AirflowFailException(error.message) from error
        return to_value(found, asked)

    def execute_again(
        self, context: Context, event: dict[str, Any], attempt: dict[str, Any]
    ) -> Any:
        """Go on with a submission that had to wait until the site answered."""
        known = remembered(attempt)
        if self._is_of_builder(known):
            return self._build(
                context, known, lambda builder: builder.execute_again(context, event, attempt)
            )
        return super().execute_again(context, event, attempt)

    def execute_linked(
        self, context: Context, event: dict[str, Any], attempt: dict[str, Any]
    ) -> Any:
        """Go on when the jobs are known that this one is to depend on."""
        return self._run(context, self._link(event, remembered(attempt)))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take up the trigger's event: return the result, or do what the failure asks for."""
        attempt = remembered(event.get("attempt"))
        if self._is_of_builder(attempt):
            return self._build(
                context, attempt, lambda builder: builder.execute_complete(context, event)
            )
        if "submission" in event:
            self._note_submission(context, attempt, **event["submission"])
        elif "results" not in event:
            self._check_waited(context, event, attempt)
            self._let_be_killed(self._identify(context, attempt), context)
            following = self._after_refusal(context, attempt, from_payload(event["error"]))
            return self._run(context, following)
        (payload,) = event["results"]
        self._staged = event.get("staged")
        from airflow_provider_csc.slurm.result import JobResult  # noqa: PLC0415

        result = JobResult.from_payload(payload)
        return self._conclude(context, result, attempt)

    def execute_delivery(
        self,
        context: Context,
        event: dict[str, Any],
        attempt: dict[str, Any],
        result: dict[str, Any],
    ) -> Any:
        """Go on with the outputs of a job that has ended; the site or the store was away."""
        from airflow_provider_csc.slurm.result import JobResult  # noqa: PLC0415

        known = JobResult.from_payload(result)
        return self._deliver_again(context, event, known, remembered(attempt))

    def _run(self, context: Context, attempt: Attempt) -> Any:
        """Submit one job and wait for it."""
        if self._is_environment_due(attempt):
            building = replace(attempt, is_building=True)
            return self._build(context, attempt, lambda builder: builder._run(context, building))  # noqa: SLF001
        if self.coalesce:
            self._submit_together(context, attempt)
        submission, attempt = self._submit_patiently(context, attempt)
        array = _know_array(submission, attempt)
        present = replace(attempt, asked=submission.asked, array=array, site=self._site)
        if not self.wait_for_completion or _decides(submission, present):
            context["ti"].xcom_push(key="job_id", value=submission.job_id)
        if not self.wait_for_completion:
            self._end_if_killed()
            self._forget_job()
            return self._value_of(_just_submitted(submission), present)
        trigger = self._build_trigger(context, submission, present)
        if self.deferrable:
            self._hand_over(context, trigger, self.execute_complete.__name__)
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

        settings = SlurmHook(self.slurm_conn_id).get_settings()
        (result,) = run_sync(trigger.wait(settings, self.log))
        self._staged = trigger.staged
        self._forget_job()
        return self._conclude(context, result, present)

    def _submit_together(self, context: Context, attempt: Attempt) -> NoReturn:
        """Have the triggerer submit the job, with those of other instances, and wait for it."""
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.slurm.plan import check_spec  # noqa: PLC0415
        from airflow_provider_csc.triggers.slurm_submit import SlurmSubmitTrigger  # noqa: PLC0415

        spec = self._build_spec(attempt)
        identity = self._identify(context, attempt)
        try:
            check_spec(spec)
            hook = SlurmHook(self.slurm_conn_id)
            member = hook.plan_shared(
                spec,
                identity,
                since=_run_start(context),
                is_fresh=self._is_fresh(context, attempt),
            )
            if check := self._pricing(context, attempt, hook.get_settings().site):
                check(member.request)
        except ConfigError as error:
            if error.details.get("is_temporary"):
                raise
            raise AirflowFailException(error.message) from error
        self._let_be_killed(identity, context)
        self._job_id = self._run_dir = self._signal = None
        present = replace(attempt, asked=member.request.asked, site=self._site)
        trigger = SlurmSubmitTrigger(
            slurm_conn_id=self.slurm_conn_id,
            plan=member.to_payload(),
            watch=self._watch_arguments(present),
            attempt=present.to_payload(),
            coalesce_seconds=self.coalesce_seconds,
            preflight=self.preflight,
            task_key=name_task(context),
        )
        self._hand_over(context, trigger, self.execute_complete.__name__)

    def _note_submission(
        self, context: Context, attempt: Attempt, *, job_id: str, run_dir: str
    ) -> None:
        """Record, after the fact, the job that the triggerer has submitted."""
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.links.slurm import SlurmJobLink  # noqa: PLC0415
        from airflow_provider_csc.operators._task_state import remember  # noqa: PLC0415
        from airflow_provider_csc.slurm.submission import Submission  # noqa: PLC0415

        context["ti"].xcom_push(key="job_id", value=job_id)
        settings = SlurmHook(self.slurm_conn_id).get_settings()
        SlurmJobLink().persist(context, web_interface=settings.web_interface, run_dir=run_dir)
        submission = Submission(job_id=job_id, run_dir=run_dir, stdout_path="", stderr_path="")
        remember(context, submission, self._asked_for, attempt.changes)

    def _submit_patiently(self, context: Context, attempt: Attempt) -> tuple[Submission, Attempt]:
        """Submit, when the site answers; what is uncertain is then looked for first."""
        while True:
            attempt = self._wait_for_upstreams(context, attempt)
            try:
                return self._submit(context, attempt), attempt
            except UpstreamFailedError as error:
                attempt = self._look_for_others(error, attempt)
            except (SubmitRejectedError, ConfigError) as error:
                attempt = self._after_refusal(context, attempt, error)
            except (TransportError, SiteUnavailableError, SubmitUnknownError) as error:
                if error.details.get("is_lasting") and self._is_fresh(context, attempt):
                    raise  # Nothing can have been submitted, and waiting cannot help.
                attempt = self._wait_for_site(context, attempt, error)
            except AllasError as error:
                if not self._may_pass(error):
                    raise
                attempt = self._wait_for_site(context, attempt, error)

    def _learn(self, context: Context) -> dict[str, str]:
        """Return what earlier tries found out, unless the author asks for something else now."""
        from airflow_provider_csc.operators._task_state import recall_changes  # noqa: PLC0415

        identity = self._identify(context, remembered())
        is_retry = self.on_failure is not None and identity.try_number > identity.first_try
        changes = recall_changes(context, self._asked_for) if is_retry else {}
        if changes:
            told = ", ".join(f"{name}={value}" for name, value in changes.items())
            self.log.info("An earlier try of this task found out what it needs: %s.", told)
        return changes

    def _submit(self, context: Context, attempt: Attempt) -> Submission:
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.links.slurm import SlurmJobLink  # noqa: PLC0415
        from airflow_provider_csc.operators._task_state import remember  # noqa: PLC0415
        from airflow_provider_csc.slurm.plan import check_spec  # noqa: PLC0415

        spec = self._build_spec(attempt)
        check_spec(spec)
        hook = SlurmHook(self.slurm_conn_id)
        settings = hook.get_settings()
        settings.check_takes_jobs()
        identity = self._identify(context, attempt)
        self._let_be_killed(identity, context)
        # Of a job that a policy replaces nothing is to be killed any more, of the new one all.
        self._job_id = self._run_dir = self._signal = None
        self._end_if_killed()
        is_fresh = self._is_fresh(context, attempt)
        before: Callable[[SlurmClient], Awaitable[None]] | None = None
        if (staging := self._staging) is not None:
            spec, before = self._stage_before(
                spec, staging, settings, identity.token, is_fresh=is_fresh
            )
        submission = hook.submit(
            spec,
            identity,
            since=_run_start(context),
            report=self.log.info,
            is_fresh=is_fresh,
            is_resumed=attempt.is_resumed,
            needs=attempt.needs,
            ended=_known_array(attempt.array).record,
            before=before,
            preflight=self.preflight,
            check=self._pricing(context, attempt, settings.site),
        )
        self._job_id, self._run_dir = submission.job_id, submission.run_dir
        self._signal = _signal_of(submission.asked)
        self.log.info("Job %s; its files: %s", submission.job_id, submission.run_dir)
        SlurmJobLink().persist(
            context, web_interface=settings.web_interface, run_dir=submission.run_dir
        )
        remember(context, submission, self._asked_for, attempt.changes)
        self._end_if_killed()
        return submission

    def _wait_for_upstreams(self, context: Context, attempt: Attempt) -> Attempt:
        """Find out which jobs this one is to depend on; wait where they are not submitted yet."""
        if self.depends_on is None or attempt.upstreams is not None:
            return attempt
        known, tasks = self._links()
        if not tasks:
            return replace(attempt, upstreams=known)
        from airflow_provider_csc.triggers.slurm_dependency import (  # noqa: PLC0415
            SlurmDependencyTrigger,
        )

        trigger = SlurmDependencyTrigger(
            dag_id=context["ti"].dag_id,
            run_id=context["ti"].run_id,
            links=tasks,
            replaced=attempt.replaced,
            deadline=attempt.deadline,
        )
        event = trigger.look()
        if event is None and self.deferrable:
            kwargs = {"attempt": attempt.to_payload()}
            self._hand_over(context, trigger, self.execute_linked.__name__, kwargs)
        if event is None:
            from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

            event = run_sync(trigger.wait(self.log))
        return self._link(event, attempt)

    def _links(self) -> tuple[tuple[dict[str, str], ...], list[tuple[str, str]]]:
        from airflow_provider_csc.operators._dependencies import plan_links  # noqa: PLC0415

        try:
            return plan_links(
                self.depends_on,
                self.task_id,
                self.slurm_conn_id,
                self.get_dag(),
                SlurmSubmitOperator,
            )
        except ConfigError as error:
            raise AirflowFailException(error.message) from error

    def _link(self, event: dict[str, Any], attempt: Attempt) -> Attempt:
        """Take up which jobs this one is to depend on."""
        if event["status"] == "never":
            raise AirflowFailException(f"depends_on: {event['reason']}")
        if event["status"] == "deadline":
            raise AirflowTaskTimeout(
                "execution_timeout is reached while the tasks that this one depends on had not "
                "submitted their jobs. Nothing was submitted."
            )
        known, _ = self._links()
        return replace(attempt, upstreams=(*known, *event["upstreams"]))

    def _look_for_others(self, error: UpstreamFailedError, attempt: Attempt) -> Attempt:
        """Let the tasks whose jobs ended otherwise than is asked be waited for once more."""
        if error.details.get("is_lasting"):
            raise AirflowFailException(f"depends_on: {error.message}") from error
        self.log.warning("%s It is waited for whether its task tries again.", error.message)
        jobs = error.details["jobs"]
        replaced = {**attempt.replaced, **(jobs if isinstance(jobs, Mapping) else {})}
        return replace(attempt, upstreams=None, replaced=replaced)

    @staticmethod
    def _is_fresh(context: Context, attempt: Attempt) -> bool:
        """Whether nothing of this task can have been submitted before."""
        is_first = context["ti"].try_number == 1 and attempt.resubmission == 0
        return is_first and not attempt.is_resumed

    def _after_refusal(self, context: Context, attempt: Attempt, error: CscError) -> Attempt:
        """Wait where the queue is full; else fail, for good where no retry can mend it."""
        if isinstance(error, SubmitRejectedError) and error.details.get("is_queue_limit"):
            return self._wait_for_room(context, attempt, error)
        if error.details.get("is_temporary"):
            raise error
        if isinstance(error, SubmitRejectedError):
            raise AirflowFailException(_describe_refusal(error, attempt)) from error
        if isinstance(error, ConfigError):
            raise AirflowFailException(error.message) from error
        raise error

    def _wait_for_room(
        self, context: Context, attempt: Attempt, error: SubmitRejectedError
    ) -> Attempt:
        """Wait where the queue is full; fail where that is not, or never will be, otherwise."""
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.slurm.queue_limits import (  # noqa: PLC0415
            Refusal,
            judge_refusal,
            read_scope,
        )

        asked, said = error.details.get("asked"), str(error.details.get("stderr", ""))
        scope = read_scope(
            asked if isinstance(asked, (list, tuple)) else (),
            said,
            part=str(error.details.get("array", "")),
        )
        try:
            limits = SlurmHook(self.slurm_conn_id).queue_limits(scope)
        except (TransportError, UnreadableOutputError):
            limits = ()
        judgement = judge_refusal(scope, limits)
        told = judgement.describe(scope.needed)
        if judgement.refusal is Refusal.BEYOND or attempt.is_refused_for_good(judgement.refusal):
            message = f"{_describe_refusal(error, attempt)} {told}"
            raise AirflowFailException(message) from error
        if attempt.is_refused_too_often(judgement.refusal):
            raise error
        following = attempt.refused(judgement.refusal)
        if judgement.refusal is Refusal.ROOM:
            return following.resumed()
        return self._stand_in_line(context, following, told, scope.to_payload())

    def _stand_in_line(
        self, context: Context, attempt: Attempt, told: str, scope: Mapping[str, Any]
    ) -> Attempt:
        from airflow_provider_csc.triggers.slurm_queue import SlurmQueueTrigger  # noqa: PLC0415

        trigger = SlurmQueueTrigger(
            slurm_conn_id=self.slurm_conn_id,
            deadline=attempt.deadline,
            reason=told,
            poll_interval=self.poll_interval,
            token=self._identity.token if self._identity else None,
            identity=self._identity.to_json() if self._identity else None,
            since=attempt.queued_since,
            # Where nobody can tell whether there is room, only another attempt does.
            not_before=time.time() + attempt.refusal_pause_seconds if attempt.refusals else None,
            task_key=name_task(context),
            scope=scope,
        )
        return self._wait_by(context, attempt, trigger)

    def _check_waited(self, context: Context, event: dict[str, Any], attempt: Attempt) -> None:
        if event["status"] == "deadline":
            # Airflow calls on_kill then, which sees to it that no job comes of the submission.
            self._let_be_killed(self._identify(context, attempt), context)
            raise AirflowTaskTimeout(
                "execution_timeout is reached while the site gave no answer; see above for why. "
                "A job of this task that it may have taken is cancelled, or adopted by a retry."
            )

    def _conclude(self, context: Context, result: JobResult, attempt: Attempt) -> Any:
        """Return what became of the job, raise it, or submit another as the policy says."""
        if result.accounting:
            self.log.info("Accounting of job %s:\n%s", result.job_id, result.accounting)
        attempt = self._price_after(context, result, attempt)
        if result.array is not None:
            return self._conclude_array(context, result, attempt)
        self._undone_uploads = list(attempt.uploads)
        try:
            problem = self._stage_after(result, self._staging)
        except CscError as error:
            if not self._may_pass(error):
                raise
            return self._deliver_later(context, result, attempt, error)
        if problem is not None:
            if result.is_success:
                raise problem
            return self._follow_failure(context, result, attempt, problem)
        if result.is_success:
            from airflow_provider_csc.slurm.result import describe_result  # noqa: PLC0415

            self.log.info("%s", describe_result(result))
            return self._take_result(context, result, attempt)
        return self._follow_failure(context, result, attempt, self._explain(result))

    def _deliver_later(
        self, context: Context, result: JobResult, attempt: Attempt, error: CscError
    ) -> Any:
        """Wait for a site or a store that is away, of which the job's outputs are in need."""
        reason = f"the outputs of job {result.job_id} cannot be delivered yet. {error.message}"
        following = replace(attempt.left_open(), uploads=tuple(self._undone_uploads))
        trigger = self._build_site_trigger(
            context, following, reason=reason, pause=attempt.pause_seconds
        )
        kwargs = {"attempt": following.to_payload(), "result": result.to_payload()}
        event = self._park(context, trigger, self.execute_delivery.__name__, kwargs)
        return self._deliver_again(context, event, result, following)

    def _deliver_again(
        self, context: Context, event: dict[str, Any], result: JobResult, attempt: Attempt
    ) -> Any:
        if event["status"] == "deadline":
            raise AirflowTaskTimeout(
                f"execution_timeout is reached while the outputs of job {result.job_id} could not "
                f"be delivered; see above for why. They are at {self._files_of(result)}."
            )
        return self._conclude(context, result, attempt)

    def _conclude_array(self, context: Context, result: JobResult, attempt: Attempt) -> Any:
        """Submit what is still to do of an array; when all has ended, conclude as for one job."""
        from airflow_provider_csc.slurm.array_record import describe_counts  # noqa: PLC0415
        from airflow_provider_csc.slurm.array_result import (  # noqa: PLC0415
            as_success,
            error_for_array,
            is_success,
            is_wholly_cancelled,
        )

        known = _known_array(attempt.array).with_result(result)
        present = replace(attempt, array=known.to_payload())
        if known.todo and not is_wholly_cancelled(known.telling):
            self.log.info(
                "%s The next part is submitted.",
                describe_counts(result.job_id, known.record.counts),
            )
            following = present.followed(changes=attempt.changes, history=attempt.history)
            return self._run(context, following)
        allowed = self.max_failed_tasks
        if known.telling is None or is_success(known.telling, known.record, known.whole, allowed):
            self.log.info("%s", describe_counts(result.job_id, known.record.counts))
            context["ti"].xcom_push(key="job_id", value=result.job_id)
            value = self._value_of(as_success(result), attempt)
            return {**value, "array": known.record.to_xcom(known.whole)}
        error = error_for_array(known.telling, known.record, known.whole, allowed)
        return self._follow_failure(context, known.telling, present, error)

    def _follow_failure(
        self, context: Context, result: JobResult, attempt: Attempt, error: CscError
    ) -> Any:
        """Raise what became of the job, or submit another as the policy says."""
        from airflow_provider_csc.slurm.failures import failure_of  # noqa: PLC0415
        from airflow_provider_csc.slurm.policy import Fail, Resubmit  # noqa: PLC0415

        reason = failure_of(result)
        if reason == "dependency" and (again := attempt.unlinked(result)):
            self.log.warning("%s", error.message)
            # What was cancelled with it has not run.
            return self._run(context, replace(again, array=_without_failures(again.array)))
        if self.on_failure is None or reason is None:
            raise error
        self.log.error("%s", error.message)
        match self._decide(self.on_failure, reason, result, attempt):
            case Resubmit(why=why, options=options, history=history):
                self.log.warning("%s", why)
                following = replace(
                    attempt.followed(changes=options, history=history),
                    array=_without_failures(attempt.array),
                )
                return self._run(context, following)
            case Fail(why=why):
                raise AirflowFailException(f"{error.message} {why}") from error
            case action:
                self.log.info("%s", action.why)
                raise error

    def _take_result(self, context: Context, result: JobResult, attempt: Attempt) -> Any:  # noqa: ARG002
        """Return what the task returns for a job that completed."""
        return self._add_staged(self._value_of(result, attempt))

    def _explain(self, result: JobResult) -> CscError:
        """Return the error that stands for a failed job."""
        from airflow_provider_csc.slurm.failures import error_for  # noqa: PLC0415

        return error_for(result)

    def _decide(
        self,
        policy: SlurmRetryPolicy,
        reason: FailureReason,
        result: JobResult,
        attempt: Attempt,
    ) -> Action:
        from airflow_provider_csc.slurm.options import read_arguments  # noqa: PLC0415

        options = {name: str(value) for name, value in read_arguments(attempt.asked).items()}
        return policy.decide(
            reason,
            result,
            attempt.history,
            options=options,
            partition_limits=self._ask_limits(policy, reason, result),
        )

    def _ask_limits(
        self, policy: SlurmRetryPolicy, reason: FailureReason, result: JobResult
    ) -> PartitionLimits | None:
        """Ask what the job's partition allows, where the policy would ask for more time."""
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415

        if reason != "time_limit" or not policy.time_limit or not result.partition:
            return None
        try:
            return SlurmHook(self.slurm_conn_id).partition_limits(result.partition)
        except CscError as error:
            self.log.warning("The partition's limit is not known: %s", error.message)
            return None

    def _build_spec(self, attempt: Attempt) -> JobSpec:
        from airflow_provider_csc.slurm.plan import JobSpec  # noqa: PLC0415

        environment, modules = self._choose_environment(attempt)
        return JobSpec(
            command=self.command,
            script=self.script,
            remote_script=self.remote_script,
            options=self.options or {},
            resources=self.job_resources,
            changes=attempt.changes,
            env=self.env,
            modules=modules,
            environment=environment,
            architecture=self._built_for(attempt),
            work_dir=self.work_dir,
            job_name=self.job_name,
            array_logs=self.array_logs,
        )

    @property
    def _staging(self) -> Staging | None:
        """What the job stages, templates filled in."""
        chosen = "chdir" in (self.options or {})
        return self._plan_staging(
            in_run_dir=self.work_dir is None and self.remote_script is None and not chosen,
            # What the jobs write that this one depends on is there when they have ended.
            is_patient=self.depends_on is not None,
        )

    @property
    def _asked_for(self) -> Mapping[str, Any]:
        """What the author asks for, by which it is seen whether that is something else now."""
        return {**(self.options or {}), **(self.job_resources or {})}

    def _identify(self, context: Context, attempt: Attempt) -> TaskIdentity:
        from airflow_provider_csc.deployment import deployment_name  # noqa: PLC0415
        from airflow_provider_csc.slurm.identity import (  # noqa: PLC0415
            TaskIdentity,
            first_try_of_generation,
        )

        ti, started = context["ti"], context["dag_run"].start_date
        return TaskIdentity(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=-1 if ti.map_index is None else ti.map_index,
            try_number=ti.try_number,
            first_try=first_try_of_generation(
                try_number=ti.try_number, max_tries=ti.max_tries, retries=self.retries or 0
            ),
            deployment=deployment_name(),
            resubmission=attempt.resubmission,
            run_started=started.astimezone(UTC).isoformat() if started else "",
            waits=self.wait_for_completion,
        )

    def _name_instance(self, context: Context) -> str:
        return self._identify(context, remembered()).key

    def _build_trigger(
        self, context: Context, submission: Submission, attempt: Attempt
    ) -> SlurmJobTrigger:
        from airflow_provider_csc.triggers.slurm import SlurmJobTrigger  # noqa: PLC0415

        return SlurmJobTrigger(
            slurm_conn_id=self.slurm_conn_id,
            job_ids=[submission.job_id],
            run_dir=submission.run_dir,
            stdout_path=submission.stdout_path,
            stderr_path=submission.stderr_path,
            array_token=submission.array_token,
            attempt=attempt.to_payload(),
            task_key=name_task(context),
            array=_part_of(submission),
            array_logs=self.array_logs,
            staging=self._staged_files,
            **self._watch_arguments(attempt),
        )

    def _watch_arguments(self, attempt: Attempt) -> dict[str, Any]:
        """Return what a trigger is told of the wait, whatever the job."""
        return {
            "stream_logs": self.stream_logs,
            "poll_interval": self.poll_interval,
            "log_limit_bytes": self.log_limit_bytes,
            "queue_timeout": seconds_of(self.queue_timeout),
            "run_timeout": seconds_of(self.timeout),
            "deadline": attempt.deadline,
            "kill_grace": seconds_of(self.kill_grace) or 0,
            "kill_signal": _signal_of(attempt.asked),
            "cancel_held": self.cancel_held,
        }


def _plain_resources(given: Resources | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return what templates can be filled in in, and Airflow shows as JSON."""
    return given if given is None or isinstance(given, Mapping) else given.to_dict()


def _name_tasks(depends_on: object) -> Any:
    # Like all that few tasks need it is not loaded for the others.
    from airflow_provider_csc.operators._dependencies import name_tasks  # noqa: PLC0415

    return name_tasks(depends_on)


def _run_start(context: Context) -> int:
    """Return when the DAG run began: no job of this generation can be older."""
    started = context["dag_run"].start_date
    return int(started.timestamp() if started else time.time())


def _signal_of(asked: Sequence[str]) -> str | None:
    """Return the job's ``--signal`` option."""
    from airflow_provider_csc.slurm.options import read_arguments  # noqa: PLC0415

    signal = read_arguments(asked).get("signal")
    return signal if isinstance(signal, str) else None


def _known_array(payload: Mapping[str, Any] | None) -> ArrayAttempt:
    from airflow_provider_csc.slurm.array_attempt import ArrayAttempt  # noqa: PLC0415

    return ArrayAttempt.from_payload(payload)


def _part_of(submission: Submission) -> str | None:
    from airflow_provider_csc.slurm.array_parts import format_part  # noqa: PLC0415

    return format_part(submission.array) if submission.array else None


def _know_array(submission: Submission, attempt: Attempt) -> dict[str, Any] | None:
    """Return what a try knows of its array once a job of it is there."""
    if submission.whole is None:
        return None
    known = _known_array(attempt.array)
    record = submission.earlier.merged(known.record)
    return replace(known, whole=submission.whole, record=record).to_payload()


def _decides(submission: Submission, attempt: Attempt) -> bool:
    """
    Whether what becomes of a job is what becomes of the task.

    While it is not, nobody may be told to wait for this job: a job that depends on one part of an
    array would start before the others have run.
    """
    known = _known_array(attempt.array)
    return submission.array is None or known.is_decided_by(submission.array)


def _without_failures(array: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return _known_array(array).without_failures().to_payload() if array else None


def _describe_refusal(error: SubmitRejectedError, attempt: Attempt) -> str:
    if not attempt.history:
        return error.message
    last = attempt.history[-1]
    return (
        f"{error.message} It was to follow job {last['job_id']}, which ended {last['state']} "
        f"({last['reason']})."
    )


def _just_submitted(submission: Submission) -> JobResult:
    from airflow_provider_csc.slurm.result import JobResult  # noqa: PLC0415

    return JobResult(
        job_id=submission.job_id,
        state="PENDING",
        run_dir=submission.run_dir,
        stdout_path=submission.stdout_path,
        stderr_path=submission.stderr_path,
    )
