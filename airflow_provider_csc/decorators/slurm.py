"""Run a Python function as a job of a Slurm cluster: ``@task.slurm``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowTaskTimeout,
    DecoratedOperator,
    task_decorator_factory,
)
from airflow.sdk.bases.decorator import _TaskDecorator
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from airflow_provider_csc.errors import (
    ConfigError,
    CscError,
    SiteUnavailableError,
    SlurmError,
    TransportError,
    UnreadableOutputError,
)
from airflow_provider_csc.operators._dependencies import name_tasks
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.slurm.python_task import (
    DOCUMENT_LIMIT,
    Failed,
    PythonCall,
    Returned,
    build_function_error,
    build_listing,
    build_no_result_error,
    check_function,
    check_options,
    check_python,
    check_serializer,
    fill_in_context,
    parse_listing,
    parse_outcome,
    render_python_script,
)
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.slurm.run_dir import EXIT_FILE, RESULT_FILE
from airflow_provider_csc.slurm.shell import join_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from airflow.providers.common.compat.sdk import TaskDecorator
    from airflow.sdk import Context

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.slurm.submission import Submission

# A shared file system may show on the log-in node later what a compute node wrote.
_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
_SOURCES = ("command", "script", "remote_script")


# Airflow's own bases say Sequence and Collection of their template_fields.
class _SlurmDecoratedOperator(DecoratedOperator, SlurmSubmitOperator):  # pyright: ignore[reportIncompatibleVariableOverride]
    """
    Run a Python function as one job, and return what it returns.

    Everything that `SlurmSubmitOperator` takes, save what is run: command, script, remote_script.
    What that operator returns, the facts of the job, is the XCom ``slurm_job``.

    :param python_callable: the function.
    :param op_args: its positional arguments. (templated)
    :param op_kwargs: its named arguments. (templated)
    :param python: name or path of the interpreter on the cluster, as found after ``modules`` and
        ``environment``; or a list, a program that starts one and its arguments. (templated)
    :param serializer: ``json`` ships the function as source and its arguments as JSON; with
        ``cloudpickle`` both ends must have it, and the same version of Python.
    """

    template_fields = (
        "op_args",
        "op_kwargs",
        "python",
        *(name for name in SlurmSubmitOperator.template_fields if name not in _SOURCES),
    )
    template_ext: Sequence[str] = ()
    template_fields_renderers = {  # noqa: RUF012 - as in every operator of Airflow
        "op_args": "py",
        "op_kwargs": "py",
        "options": "json",
        "job_resources": "json",
        "env": "json",
    }
    custom_operator_name = "@task.slurm"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        python: str | Sequence[str] = "python3",
        serializer: str = "json",
        **kwargs: Any,
    ) -> None:
        _check_arguments(kwargs)
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            script="",  # rendered when it is submitted, from what the templates say by then
            **kwargs,
        )
        self.python = python
        self.serializer = serializer
        check_serializer(serializer)
        check_python(python)

    def execute_fetch(
        self,
        context: Context,
        event: dict[str, Any],
        result: dict[str, Any],
        attempt: dict[str, Any],
    ) -> Any:
        """Go on with a job that has ended, where the site did not give its result."""
        known = Attempt.from_payload(attempt)
        _check_waited(event)
        return self._take_result(context, JobResult.from_payload(result), known.resumed())

    def _submit(self, context: Context, attempt: Attempt) -> Submission:
        check_options(self.options)
        function = cast("Any", self.python_callable)
        args = list(self.op_args)
        self.script = render_python_script(
            PythonCall(
                function=function,
                args=args,
                kwargs=fill_in_context(
                    function, args, self.op_kwargs, cast("Mapping[str, object]", context)
                ),
                serializer=self.serializer,
                python=self.python,
            )
        )
        return super()._submit(context, attempt)

    def _take_result(self, context: Context, result: JobResult, attempt: Attempt) -> Any:
        """Return what the function returned; only a job that completed comes here."""
        context["ti"].xcom_push(
            key="slurm_job", value=super()._take_result(context, result, attempt)
        )
        match self._read_patiently(context, result, attempt):
            case Returned(value):
                return value
            case Failed() as failed:
                raise self._build_error(result, failed)
            case problem:
                raise build_no_result_error(self._function_name, result, problem)

    def _read_patiently(
        self, context: Context, result: JobResult, attempt: Attempt
    ) -> Returned | Failed | str:
        """Read what the function left, when the site answers."""
        while True:
            try:
                return self._read_outcome(result)
            except (TransportError, UnreadableOutputError, SiteUnavailableError) as error:
                attempt = self._wait_to_read(context, result, attempt, error)

    def _explain(self, result: JobResult) -> CscError:
        """Return the function's own error, where it left one; else that of the job."""
        error = super()._explain(result)
        if error.details.get("failure") != "exit_code":
            return error
        try:
            outcome = self._read_outcome(result)
        except CscError as unread:
            self.log.warning("What the function left could not be read: %s", unread.message)
            return error
        return self._build_error(result, outcome) if isinstance(outcome, Failed) else error

    def _build_error(self, result: JobResult, failed: Failed) -> CscError:
        """
        Return the error of a function.

        :raises AirflowFailException: where another run of it would end the same way.
        """
        error = build_function_error(self._function_name, result, failed)
        if error.is_lasting:
            raise AirflowFailException(error.message) from error
        return error

    def _read_outcome(self, result: JobResult) -> Returned | Failed | str:
        """
        Return what the function left, or what is wrong with that.

        :raises TransportError, UnreadableOutputError, SiteUnavailableError: when the site does not
            tell.
        """
        from airflow_provider_csc.hooks.slurm import SlurmHook, open_client  # noqa: PLC0415
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

        settings = SlurmHook(self.slurm_conn_id).get_settings()

        async def fetch() -> bytes | None:
            async with open_client(settings) as client:
                return await _fetch(client, result.run_dir or "")

        data = run_sync(fetch())
        if data is None:
            return f"there is no {RESULT_FILE} in {result.run_dir}"
        try:
            return parse_outcome(data)
        except ValueError as error:
            return f"{RESULT_FILE} in {result.run_dir} cannot be read: {error}"

    def _wait_to_read(
        self, context: Context, result: JobResult, attempt: Attempt, error: CscError
    ) -> Attempt:
        """Wait, and return the attempt as it goes on."""
        pause = attempt.pause_seconds if attempt.is_resumed else None
        attempt = attempt.left_open()
        reason = f"the result of job {result.job_id} could not be read: {error.message}"
        trigger = self._build_site_trigger(context, attempt, reason=reason, pause=pause)
        if self.deferrable:
            kwargs = {"result": result.to_payload(), "attempt": attempt.to_payload()}
            self._hand_over(context, trigger, self.execute_fetch.__name__, kwargs)
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

        settings = SlurmHook(self.slurm_conn_id).get_settings()
        _check_waited(run_sync(trigger.wait(settings, self.log)))
        return attempt.resumed()

    @property
    def _function_name(self) -> str:
        return self.python_callable.__name__


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what makes no sense for a function."""
    for name in _SOURCES:
        if arguments.get(name) is not None:
            raise ConfigError(
                f"{name}: what @task.slurm runs is the function. Leave {name} out, or use "
                "SlurmSubmitOperator.",
                field=name,
                value=arguments[name],
            )
    if arguments.get("coalesce"):
        raise ConfigError(
            "coalesce: functions are submitted one by one. Leave it out, or run the function's "
            "file with SlurmSubmitOperator.",
            field="coalesce",
            value=True,
        )
    if not arguments.get("wait_for_completion", True):
        raise ConfigError(
            "wait_for_completion: @task.slurm returns what the function returned, so it waits for "
            "it. Leave it out; deferrable=True waits without a worker.",
            field="wait_for_completion",
            value=False,
        )
    check_options(arguments.get("options"))


def _check_waited(event: Mapping[str, Any]) -> None:
    if event["status"] == "deadline":
        raise AirflowTaskTimeout(
            "execution_timeout is reached while the site gave no answer. The job has completed; "
            "its result was not read, see above for why."
        )


async def _fetch(client: SlurmClient, run_dir: str) -> bytes | None:
    """
    Return the result file of a run directory, None when it is certain that there is none.

    The job writes its exit record after it: who sees that need not wait for the other.

    :raises SiteUnavailableError: when the run directory cannot be looked at.
    """
    path = join_path(run_dir, RESULT_FILE)
    for delay in _DELAYS:
        data = await _read(client, path)
        if data is not None:
            return data
        if await _read(client, join_path(run_dir, EXIT_FILE)) is not None:
            break
        await asyncio.sleep(delay)
    data = await _read(client, path)
    if data is None and parse_listing(await client.run(build_listing(run_dir)), run_dir):
        raise SiteUnavailableError(f"{path} is there and cannot be read.", path=path)
    return data


async def _read(client: SlurmClient, path: str) -> bytes | None:
    try:
        return await client.read_bytes(path, limit=DOCUMENT_LIMIT + 1)
    except UnreadableOutputError:
        raise
    except SlurmError:
        return None


class _SlurmTaskDecorator(_TaskDecorator[..., Any, _SlurmDecoratedOperator]):
    """Makes the tasks of a function; what they depend on is named by ids, also for mapped ones."""

    def override(self, **kwargs: Any) -> _SlurmTaskDecorator:
        """Return it with other arguments."""
        return cast("_SlurmTaskDecorator", super().override(**_without_edges(kwargs)))


def _without_edges(arguments: dict[str, Any]) -> dict[str, Any]:
    """
    Return arguments of a task whose ``depends_on`` has ids in place of tasks and outputs.

    A mapped task is made without a call of the operator, and Airflow would make edges of them.
    """
    if "depends_on" not in arguments:
        return arguments
    return {**arguments, "depends_on": name_tasks(arguments["depends_on"])}


def slurm_task(
    python_callable: Callable[..., Any] | None = None,
    *,
    multiple_outputs: bool | None = None,
    **kwargs: Any,
) -> TaskDecorator:
    """
    Make a function a task that runs as one job on a Slurm cluster.

    Its arguments and its result travel as JSON. It takes what `SlurmSubmitOperator` takes.

    :param python_callable: the function; it needs a source file.
    :param multiple_outputs: make each item of a returned dict an XCom of its own.
    :param python: interpreter on the cluster, default ``python3``; a list starts it by a program.
    :param serializer: ``json`` or ``cloudpickle``: how the function and its arguments travel.
    """

    def decorate(function: Callable[..., Any]) -> TaskDecorator:
        check_function(function, context_names=KNOWN_CONTEXT_KEYS)
        made = cast(
            "_TaskDecorator[..., Any, _SlurmDecoratedOperator]",
            task_decorator_factory(
                function,
                multiple_outputs=multiple_outputs,
                decorated_operator_class=_SlurmDecoratedOperator,
                **_without_edges(kwargs),
            ),
        )
        named = _SlurmTaskDecorator(
            function=made.function,
            multiple_outputs=made.multiple_outputs,
            operator_class=made.operator_class,
            kwargs=made.kwargs,
        )
        return cast("TaskDecorator", named)

    if python_callable is None:
        return cast("TaskDecorator", decorate)
    return decorate(python_callable)
