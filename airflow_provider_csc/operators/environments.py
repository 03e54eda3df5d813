"""Build Python environments on a cluster, and remove those that nobody needs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_csc.errors import (
    ConfigError,
    CscError,
    JobContradictionError,
    SiteUnavailableError,
    SlurmError,
    SubmitKilledError,
    SubmitRejectedError,
    TransportError,
    UnreadableOutputError,
)
from airflow_provider_csc.operators._checks import check_seconds, seconds_of
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow.sdk import DAG, Context

    from airflow_provider_csc.environments.commands import Look, Wanted
    from airflow_provider_csc.environments.recipe import PythonEnvironment
    from airflow_provider_csc.slurm.attempt import Attempt
    from airflow_provider_csc.slurm.identity import TaskIdentity
    from airflow_provider_csc.slurm.plan import JobSpec
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.slurm.submission import Submission

# What the job is follows from the recipe.
_REFUSED = {
    "command": "what is run follows from the recipe",
    "script": "what is run follows from the recipe",
    "remote_script": "what is run follows from the recipe",
    "environment": "it is what is made",
    "modules": "they are part of the recipe",
    "inputs": "a recipe has no files",
    "outputs": "the environment stays on the cluster",
    "coalesce": "environments are built one by one",
}
# Of a recipe these may be the name of a template file.
_FILES = {
    "requirements": (".txt", ".in"),
    "lock": (".txt", ".lock"),
    "conda": (".yml", ".yaml"),
}
# For how long (seconds) at most who waits for somebody else's build does not look again.
_LONGEST_PAUSE = 120.0
# A shared file system may show on the log-in node later what a compute node wrote.
_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
_REMOVE_SECONDS = 900.0
# The lock of an environment that a job's task builds for it, beside the job's own.
_PART = "environment"


class _BusyError(SiteUnavailableError):
    """Somebody else builds the environment."""


class _Found(Exception):  # noqa: N818 - no error: nothing is to be submitted
    """The environment is there."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look


class PythonEnvironmentOperator(SlurmSubmitOperator):
    """
    See to it that a Python environment is on the cluster: build it, or find that it is there.

    One environment lies at ``<prefix>/<name>-<architecture>-<hash of the recipe>``. Where it is
    complete nothing is submitted. Else one job builds it, verifies it by importing what was asked
    for, and puts it in place at once, as a whole; whoever wants the same meanwhile, in whatever DAG
    or deployment, waits for that. A recipe that is changed makes another environment beside it.

    It waits, is killed and tries again as `SlurmSubmitOperator`, whose arguments it takes, save
    those that say what is run. The job runs on a compute node, whatever a site allows elsewhere.

    Returns a dict: path, modules (to load before it is used), name, backend, architecture, hash,
    python (its version), requirements (the exact versions, as the text of a requirements file),
    files (what it takes of a quota), bytes, seconds, reused, and job (what `SlurmSubmitOperator`
    returns; None where nothing was built). It is what ``environment=`` of a job takes.

    Give ``recipe`` and ``prefix``, or a ``config`` with a venv, or both.

    :param recipe: a `PythonEnvironment`, or a dict of its fields. ``requirements``, ``lock`` and
        ``conda`` are texts, or the names of template files. (templated)
    :param prefix: directory on the cluster, which environments share. (templated)
    :param config: a configuration as `SlurmSubmitOperator` takes it, of which ``modules`` and
        ``venv`` are taken: name, modules and packages of the recipe, and as ``prefix`` its path.
        What ``recipe`` and ``prefix`` say wins. (templated)
    :param architecture: what ``uname -m`` says on the nodes that will use it; default: what the
        site's profile says of the build's partition, else the log-in node. (templated)
    :param cache_dir: where pip, uv and apptainer keep what they fetched; default: ``csc-cache``
        beside the run directories. (templated)
    """

    template_fields = (
        "recipe",
        "prefix",
        "architecture",
        "cache_dir",
        *(name for name in SlurmSubmitOperator.template_fields if name not in _REFUSED),
    )
    template_ext: Sequence[str] = ()
    template_fields_renderers = {  # noqa: RUF012 - as in every operator of Airflow
        "recipe": "json",
        "options": "json",
        "env": "json",
        "config": "yaml",
    }

    def __init__(
        self,
        *,
        recipe: PythonEnvironment | Mapping[str, Any] | None = None,
        prefix: str | None = None,
        architecture: str | None = None,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        _check_arguments(kwargs)
        super().__init__(script="", **kwargs)  # rendered when it is submitted
        self.recipe = _plain_recipe(recipe)
        self.prefix = prefix
        self.architecture = architecture
        self.cache_dir = cache_dir
        if self.config is None:
            _check_given(recipe=recipe, prefix=prefix)
            if _is_plain(self.recipe):
                _read_recipe(self.recipe)

    def resolve_template_files(self) -> None:
        """Load the configuration, and what the recipe names as files."""
        if self.config is not None:
            self._load_config_file()
        if isinstance(self.recipe, Mapping):
            self.recipe = {name: self._load(name, each) for name, each in self.recipe.items()}
        self.prepare_template()

    def _load(self, field: str, value: object) -> object:
        if not _is_file(field, value):
            return value
        from jinja2 import TemplateNotFound  # noqa: PLC0415 - only where it is needed

        environment = self.get_template_env()
        try:
            return environment.loader.get_source(environment, value)[0]  # type: ignore[union-attr, arg-type]
        except (AttributeError, TemplateNotFound) as error:
            raise ConfigError(
                f"{field}: the template file {value!r} was not found. Its path is relative to the "
                "DAG file's directory, or to one in the DAG's template_searchpath.",
                field=field,
                value=value,
            ) from error

    def _apply_config(self, context: Context) -> None:
        from airflow_provider_csc.configs.merging import merge_recipe

        config = self._read_config(context)
        # What is no mapping is refused when it is read.
        if isinstance(self.recipe, Mapping):
            self.recipe, self.prefix = merge_recipe(self.recipe, self.prefix, config)

    def _run(self, context: Context, attempt: Attempt) -> Any:
        """Build the environment, unless it is there."""
        try:
            return super()._run(context, attempt)
        except _Found as found:
            self._forget_job()
            self.log.info("The environment %s is there; nothing is built.", found.look.path)
            return self._describe(found.look, job=None)

    def _submit(self, context: Context, attempt: Attempt) -> Submission:
        from airflow_provider_csc.environments.build_script import (  # noqa: PLC0415
            BuildPlan,
            render_build_script,
        )
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415

        wanted = self._wanted(context, attempt)
        look = self._look(wanted, claims=True)
        if look.record is not None:
            raise _Found(look)
        if look.holder:
            self._refuse_busy(look)
        work_dir = SlurmHook(self.slurm_conn_id).get_settings().work_dir
        self.script = render_build_script(
            BuildPlan(
                recipe=self._checked,
                prefix=wanted.prefix,
                architecture=look.architecture,
                key=wanted.key,
                cache_dir=self.cache_dir or f"{work_dir.rstrip('/')}/csc-cache",
            )
        )
        self.log.info("The environment %s is to be built.", look.path)
        try:
            return super()._submit(context, attempt)
        except (SubmitRejectedError, SubmitKilledError, ConfigError):
            self._release(wanted)
            raise

    @staticmethod
    def _refuse_busy(look: Look) -> NoReturn:
        match look.jobs:
            case None:
                state = "squeue gave no answer about its job"
            case ():
                state = "its job is not in the queue yet, or not any more"
            case jobs:
                state = f"job {', '.join(jobs)}"
        raise _BusyError(f"{look.path} is being built by {look.holder} ({state})", path=look.path)

    def _wait_for_site(self, context: Context, attempt: Attempt, error: CscError) -> Attempt:
        if not isinstance(error, _BusyError):
            return super()._wait_for_site(context, attempt, error)
        pause = min(self.poll_interval * (1 + attempt.looks), _LONGEST_PAUSE)
        following = attempt.left_open()
        trigger = self._build_site_trigger(context, following, reason=error.message, pause=pause)
        return self._wait_by(context, following, trigger)

    def _take_result(self, context: Context, result: JobResult, attempt: Attempt) -> Any:
        """Return what the job built; where the site does not tell, wait, and look again."""
        job = super()._take_result(context, result, attempt)
        try:
            look = self._look(self._wanted(context, attempt), claims=False)
        except (TransportError, UnreadableOutputError, SiteUnavailableError) as error:
            return self._run(context, self._wait_for_site(context, attempt, error))
        if look.record is None:
            raise _no_record(result, look)
        return self._describe(look, job=job)

    def _follow_failure(
        self, context: Context, result: JobResult, attempt: Attempt, error: CscError
    ) -> Any:
        # The job does that itself, unless it was killed.
        self._release(self._wanted(context, attempt))
        return super()._follow_failure(context, result, attempt, error)

    def _build_spec(self, attempt: Attempt) -> JobSpec:
        self.modules = list(self._checked.modules)
        return super()._build_spec(attempt)

    @property
    def _checked(self) -> PythonEnvironment:
        return _read_recipe(self.recipe)

    def _wanted(self, context: Context, attempt: Attempt) -> Wanted:
        from airflow_provider_csc.environments.commands import Wanted  # noqa: PLC0415
        from airflow_provider_csc.slurm.batch import check_remote_path  # noqa: PLC0415

        recipe = self._checked
        return Wanted(
            prefix=check_remote_path("prefix", self.prefix or ""),
            name=recipe.name,
            content_hash=recipe.content_hash,
            short_hash=recipe.short_hash,
            key=self._identify(context, attempt).key,
            architecture=self._choose_architecture(attempt),
        )

    def _choose_architecture(self, attempt: Attempt) -> str:
        """Return what it is built for; empty where only the log-in node can tell."""
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415

        asked = _check_architecture(self.architecture)
        hook = SlurmHook(self.slurm_conn_id)
        return hook.choose_architecture(self._build_spec(attempt), asked) or ""

    def _look(self, wanted: Wanted, *, claims: bool) -> Look:
        """Look for the environment; after its job has ended, until the log-in node sees it."""
        from airflow_provider_csc.environments.commands import build_look, read_look  # noqa: PLC0415
        from airflow_provider_csc.hooks.slurm import SlurmHook, open_client  # noqa: PLC0415
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

        settings = SlurmHook(self.slurm_conn_id).get_settings()

        async def look() -> Look:
            async with open_client(settings) as client:
                found = read_look(await client.ask(build_look(wanted, claims=claims)))
                for delay in () if claims or found.record else _DELAYS:
                    await asyncio.sleep(delay)
                    found = read_look(await client.ask(build_look(wanted, claims=False)))
                    if found.record:
                        break
                return found

        return run_sync(look())

    def _release(self, wanted: Wanted) -> None:
        """Give up the lock; where that cannot be, others find out that it is stale."""
        from airflow_provider_csc.environments.commands import build_release  # noqa: PLC0415
        from airflow_provider_csc.hooks.slurm import SlurmHook, open_client  # noqa: PLC0415
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

        settings = SlurmHook(self.slurm_conn_id).get_settings()

        async def release() -> None:
            async with open_client(settings) as client:
                await client.ask(build_release(wanted))

        try:
            run_sync(release())
        except CscError as error:
            self.log.warning("The lock of the environment stays behind: %s", error.message)

    def _describe(self, look: Look, *, job: Any) -> dict[str, Any]:
        """Return what the task returns."""
        recipe, record = self._checked, look.record
        if record is None:
            raise ValueError(look)
        is_reused = job is None or job["job_id"] != record.job_id
        return {
            "path": look.path,
            "modules": list(recipe.modules_in_use),
            "name": recipe.name,
            "backend": recipe.backend,
            "architecture": record.architecture,
            "hash": record.content_hash,
            "python": record.python,
            "requirements": f"{look.versions}\n" if look.versions else "",
            "files": record.files,
            "bytes": record.bytes,
            "seconds": record.seconds,
            "reused": is_reused,
            "job": job,
        }


class EnvironmentOfJobOperator(PythonEnvironmentOperator):
    """Builds the environment of a job, within the task of that job; no task of its own."""

    _has_builder = False
    # That of the job, beside whose file its template files lie.
    job_dag: DAG | None = None

    def get_dag(self) -> DAG | None:
        """Return the DAG of the job."""
        return self.job_dag

    def _identify(self, context: Context, attempt: Attempt) -> TaskIdentity:
        from dataclasses import replace  # noqa: PLC0415

        return replace(super()._identify(context, attempt), part=_PART)


class PythonEnvironmentPruneOperator(BaseOperator):
    """
    List the environments below a prefix, and remove those that no job used for long.

    It removes only what `PythonEnvironmentOperator` made: directories of its own form in its own
    directory, following no link. Of each name and architecture the newest stay; so does what a job
    in the queue is building. What was never finished goes after a day. An environment was last used
    when a job last activated it.

    Returns a dict: ``environments`` (all of them: path, name, architecture, complete, files, bytes,
    built, last_used, idle_days, …), ``removed`` (their builds), ``freed_files``, ``freed_bytes``,
    ``dry_run``.

    :param prefix: directory on the cluster that holds them. (templated)
    :param older_than: what nobody used for so long is removed (seconds or timedelta).
    :param keep: names or paths of environments that stay. (templated)
    :param keep_newest: of each name and architecture so many stay, whatever their age.
    :param name: look only at those of this name. (templated)
    :param dry_run: only say what would be removed.
    :param slurm_conn_id: connection to the cluster. (templated)
    """

    template_fields: Collection[str] = ("prefix", "keep", "name", "slurm_conn_id")
    ui_color = "#e8f1fa"

    def __init__(
        self,
        *,
        prefix: str,
        older_than: float | timedelta = timedelta(days=90),
        keep: Sequence[str] = (),
        keep_newest: int = 1,
        name: str | None = None,
        dry_run: bool = True,
        slurm_conn_id: str = "slurm_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prefix = prefix
        self.older_than = older_than
        self.keep = keep
        self.keep_newest = keep_newest
        self.name = name
        self.is_dry_run = dry_run
        self.slurm_conn_id = slurm_conn_id
        check_seconds("older_than", older_than)
        if older_than is None or not isinstance(keep_newest, int) or keep_newest < 0:
            raise ConfigError(
                f"keep_newest: {keep_newest!r} is no number. Give 0 or more.",
                field="keep_newest",
                value=keep_newest,
            )

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """List, say what goes, and remove it."""
        from airflow_provider_csc.hooks.slurm import SlurmHook  # noqa: PLC0415
        from airflow_provider_csc.slurm.batch import check_remote_path  # noqa: PLC0415
        from airflow_provider_csc.sync import run_sync  # noqa: PLC0415

        try:
            check_remote_path("prefix", self.prefix)
            settings = SlurmHook(self.slurm_conn_id).get_settings()
        except ConfigError as error:
            if error.details.get("is_temporary"):
                raise
            raise AirflowFailException(error.message) from error
        return run_sync(self._prune(settings))

    async def _prune(self, settings: Any) -> dict[str, Any]:
        from airflow_provider_csc.environments.catalog import (  # noqa: PLC0415
            describe_build,
            read_catalog,
        )
        from airflow_provider_csc.environments.commands import build_list  # noqa: PLC0415
        from airflow_provider_csc.hooks.slurm import open_client  # noqa: PLC0415

        async with open_client(settings) as client:
            catalog = read_catalog(await client.ask(build_list(self.prefix)))
            unneeded = catalog.unneeded(
                older_than=seconds_of(self.older_than) or 0,
                keep=self.keep,
                keep_newest=self.keep_newest,
                name=self.name,
            )
            for each in unneeded:
                what = "would be removed" if self.is_dry_run else "is removed"
                told = describe_build(each, catalog.now)
                self.log.info("%s %s: %s", each.path or each.build, what, told)
                if not self.is_dry_run:
                    await self._remove(client, each.build)
        records = [each.record for each in unneeded if each.record]
        return {
            "environments": [describe_build(each, catalog.now) for each in catalog.builds],
            "removed": [each.build for each in unneeded],
            "freed_files": sum(each.files for each in records),
            "freed_bytes": sum(each.bytes for each in records),
            "dry_run": self.is_dry_run,
        }

    async def _remove(self, client: Any, build: str) -> None:
        from airflow_provider_csc.environments.commands import build_remove  # noqa: PLC0415

        program = build_remove(self.prefix, [build])
        (answer,) = (await client.ask(program, timeout=_REMOVE_SECONDS)).values()
        if answer.status != 0:
            raise SlurmError(f"{build} cannot be removed: {answer.complaint or answer.status}.")


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what makes no sense for an environment."""
    from airflow_provider_csc.operators._staging import _array_of  # noqa: PLC0415

    for name, why in _REFUSED.items():
        if arguments.get(name):
            raise ConfigError(
                f"{name}: {why}. Leave {name} out.", field=name, value=arguments[name]
            )
    if not arguments.get("wait_for_completion", True):
        raise ConfigError(
            "wait_for_completion: what is returned is known when the environment is built. Leave "
            "it out; deferrable=True waits without a worker.",
            field="wait_for_completion",
            value=False,
        )
    if (array := _array_of(arguments.get("options"))) is not None:
        raise ConfigError(
            f"options['array']: {array!r} would build one environment many times. Leave it out.",
            field="options",
            value=array,
        )


def _check_given(**given: object) -> None:
    for name, value in given.items():
        if value is None:
            raise ConfigError(
                f"{name}: it is missing. Give recipe and prefix, or a config with a venv.",
                field=name,
            )


def _plain_recipe(recipe: PythonEnvironment | Mapping[str, Any] | None) -> Any:
    """Return what templates can be filled in in, and Airflow shows as JSON."""
    to_payload = getattr(recipe, "to_payload", None)
    return to_payload() if to_payload else recipe or {}


def _read_recipe(recipe: object) -> PythonEnvironment:
    from airflow_provider_csc.environments.recipe import read_recipe  # noqa: PLC0415

    return read_recipe(recipe)


def _is_file(field: str, value: object) -> bool:
    return (
        isinstance(value, str) and "\n" not in value and value.endswith(_FILES.get(field, ("\n",)))
    )


def _is_plain(recipe: object) -> bool:
    """Whether a recipe says the same now as when it is used."""
    if not isinstance(recipe, Mapping):
        return False
    texts = [each for each in recipe.values() if isinstance(each, str)]
    for value in recipe.values():
        texts += [each for each in value if isinstance(each, str)] if _is_list(value) else []
    is_template = any("{{" in each or "{%" in each for each in texts)
    is_known = all(
        isinstance(each, (str, int, type(None))) or _is_list(each) for each in recipe.values()
    )
    return is_known and not is_template and not any(_is_file(*item) for item in recipe.items())


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _check_architecture(architecture: str | None) -> str | None:
    from airflow_provider_csc.environments.layout import ARCHITECTURE  # noqa: PLC0415

    if architecture and not ARCHITECTURE.fullmatch(architecture):
        raise ConfigError(
            f"architecture: {architecture!r} is none. Write what uname -m says, as 'aarch64'.",
            field="architecture",
            value=architecture,
        )
    return architecture or None


def _no_record(result: JobResult, look: Look) -> JobContradictionError:
    from airflow_provider_csc.slurm.result import to_xcom  # noqa: PLC0415

    problem = f"Slurm says {result.state}, but {look.path} is not complete"
    return JobContradictionError(
        f"Job {result.job_id} ended {result.state}, but there is no whole environment at "
        f"{look.path}. Somebody may have removed it since. Its log: {result.stdout_path}.",
        **to_xcom(result),
        limit=result.limit,
        restarts=result.restarts,
        failure="contradiction",
        contradiction=problem,
    )
