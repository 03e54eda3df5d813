"""An operator of which a configuration says what its own arguments leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.operators._checks import check_coalesce
from airflow_provider_csc.operators._staging import StagingOperator
from airflow_provider_csc.slurm.sources import check_source

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_csc.configs.models import JobConfig

_MERGED = (
    *("command", "script", "remote_script", "options", "env", "modules", "environment"),
    *("work_dir", "job_name", "inputs", "outputs", "job_resources"),
)


class ConfiguredOperator(StagingOperator):
    """
    Takes from its configuration what it was not told.

    A subclass calls `_check_sources` while the DAG is parsed, and `_configure` before it looks at
    what it is to run. Where a task is resumed that is done here.
    """

    config: Any = None
    deferrable: bool
    wait_for_completion: bool
    coalesce: bool
    coalesce_seconds: float
    depends_on: object
    # What errors call it: the file it came from.
    _config_name: str = "config"

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Go on after a trigger; the task was made anew from its DAG file for that."""
        self._configure(context)
        return super().resume_execution(next_method, next_kwargs, context)

    def _check_sources(self, **sources: object) -> None:
        """Check what is run, unless the configuration may say it."""
        if self.config is None or any(value is not None for value in sources.values()):
            check_source(**sources)

    def _load_config_file(self) -> bool:
        """Put the text of a template file in the place of its name, if it is one."""
        from airflow_provider_csc.configs.keys import is_file_name

        if not is_file_name(self.config):
            return False
        from jinja2 import TemplateNotFound  # noqa: PLC0415 - only where it is needed

        environment = self.get_template_env()
        try:
            if environment.loader is not None:
                name = self._config_name = self.config
                self.config = environment.loader.get_source(environment, name)[0]
        except TemplateNotFound as error:
            raise ConfigError(
                f"config: the template file {self.config!r} was not found. Its path is relative to "
                "the DAG file's directory, or to one in the DAG's template_searchpath.",
                field="config",
                value=self.config,
            ) from error
        return True

    def _configure(self, context: Context) -> None:
        """
        Take from the configuration what the task does not say itself; twice does no harm.

        :raises AirflowFailException: where the configuration is wrong.
        """
        if self.config is None:
            return
        try:
            self._apply_config(context)
        except ConfigError as error:
            if error.details.get("is_temporary"):
                raise
            raise AirflowFailException(error.message) from error

    def _apply_config(self, context: Context) -> None:
        from airflow_provider_csc.configs.merging import merge_job

        own = {name: getattr(self, name) for name in _MERGED}
        merged = merge_job(own, self._read_config(context))
        self._check_together(own, merged)
        for name, value in merged.items():
            if value is not own[name]:
                setattr(self, name, value)

    def _read_config(self, context: Context) -> JobConfig:
        """Return what the configuration says, its templates and placeholders filled in."""
        from airflow_provider_csc.hooks.configs import load_task_config  # noqa: PLC0415

        if self._load_config_file():
            # Of a mapped task Airflow fills in what its class takes from files, which are scripts.
            self.config = self.render_template(self.config, context)
        return load_task_config(
            self.config,
            name=self._config_name,
            context=context,
            slurm_conn_id=self.slurm_conn_id,
            key=self._name_instance(context),
        )

    def _check_together(self, own: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
        """Check what was checked of the task's own arguments while the DAG was parsed."""
        if (merged["inputs"], merged["outputs"]) != (own["inputs"], own["outputs"]):
            self._refuse_unstageable(
                wait_for_completion=self.wait_for_completion,
                coalesce=self.coalesce,
                options=merged["options"],
            )
        if self.coalesce:
            check_coalesce(
                deferrable=self.deferrable,
                wait_for_completion=self.wait_for_completion,
                remote_script=merged["remote_script"],
                depends_on=self.depends_on,
                coalesce_seconds=self.coalesce_seconds,
            )
        if self.depends_on is not None:
            from airflow_provider_csc.operators._dependencies import (  # noqa: PLC0415
                check_depends_on,
            )

            check_depends_on(self.depends_on, merged["options"], self.task_id, self.get_dag())

    def _name_instance(self, context: Context) -> str:
        """Return what names this task instance on the cluster."""
        raise NotImplementedError


def keep_config(config: Any) -> Any:
    """
    Return a configuration as it is kept with a task; only keys are checked, which no template is.

    :raises ConfigError: for what can be none.
    """
    if hasattr(config, "model_dump"):
        config = config.model_dump()
    if isinstance(config, Mapping):
        from airflow_provider_csc.configs.keys import check_keys

        check_keys(config)
    elif not isinstance(config, str) and not hasattr(config, "resolve"):
        raise ConfigError(
            f"config: {shown(config)} is of type {type(config).__name__}. Give a dict, the text of "
            "a YAML document, or the name of a template file that ends with .yaml or .yml.",
            field="config",
            value=shown(config),
        )
    return config
