"""An operator whose job runs in a Python environment, which it may have to build first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_csc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import Context

    from airflow_provider_csc.operators.environments import EnvironmentOfJobOperator
    from airflow_provider_csc.slurm.attempt import Attempt

# What the builder takes from the task for which it builds.
_SHARED = ("slurm_conn_id", "deferrable", "poll_interval", "stream_logs", "log_limit_bytes")
_OF_AIRFLOW = ("retries", "execution_timeout")


class EnvironmentUser(BaseOperator):
    """
    Knows in which environment its job runs.

    Where it is built within the task, the task first is the task of that build: what waits, is
    killed and comes back is the builder's, until it returns.
    """

    environment: str | Mapping[str, Any] | None = None
    modules: Sequence[str] | None = None
    _builder: EnvironmentOfJobOperator | None = None
    # Whether a build is somebody else's, rather than what this operator does.
    _has_builder = True

    def on_kill(self) -> None:
        """Kill the build, while it is that."""
        if self._builder is not None:
            self._builder.on_kill()
        else:
            super().on_kill()

    def _is_environment_due(self, attempt: Attempt) -> bool:
        """Whether the environment has to be built, or found, before the job is submitted."""
        if not isinstance(self.environment, Mapping) or attempt.environment is not None:
            return False
        from airflow_provider_csc.environments.use import is_to_be_built  # noqa: PLC0415

        return is_to_be_built(self.environment)

    def _is_of_builder(self, attempt: Attempt) -> bool:
        """Whether what the task waited for is its build."""
        return self._has_builder and attempt.is_building

    def _build(
        self,
        context: Context,
        attempt: Attempt,
        step: Callable[[EnvironmentOfJobOperator], Mapping[str, Any]],
    ) -> Any:
        """Take a step of the build; when that returns, submit the job."""
        self._builder = self._make_builder(context)
        built = step(self._builder)
        self._builder = None
        following = type(attempt)(
            deadline=attempt.deadline, changes=self._learn(context), environment=_kept(built)
        )
        return self._run(context, following)

    def _make_builder(self, context: Context) -> EnvironmentOfJobOperator:
        from airflow_provider_csc.environments.use import read_build  # noqa: PLC0415
        from airflow_provider_csc.operators.environments import (  # noqa: PLC0415
            EnvironmentOfJobOperator,
        )

        given = self.environment if isinstance(self.environment, Mapping) else {}
        shared = {name: getattr(self, name) for name in (*_SHARED, *_OF_AIRFLOW)}
        try:
            builder = EnvironmentOfJobOperator(task_id=self.task_id, **shared, **read_build(given))
            builder.job_dag = self.get_dag()
            builder._configure(context)  # noqa: SLF001 - a part of this task
            builder.resolve_template_files()
        except ConfigError as error:
            if error.details.get("is_temporary"):
                raise
            raise AirflowFailException(error.message) from error
        return builder

    def _choose_environment(self, attempt: Attempt) -> tuple[str | None, Sequence[str] | None]:
        """Return the path of the environment, and all modules that are loaded before."""
        chosen = attempt.environment or self.environment
        if not isinstance(chosen, Mapping):
            return chosen, self.modules
        from airflow_provider_csc.environments.use import take_environment  # noqa: PLC0415

        return take_environment(chosen, self.modules)

    def _built_for(self, attempt: Attempt) -> str | None:
        """Return the architecture that the environment is for, where that is known."""
        chosen = attempt.environment or self.environment
        found = chosen.get("architecture") if isinstance(chosen, Mapping) else None
        return found if isinstance(found, str) else None

    def _learn(self, context: Context) -> dict[str, str]:
        raise NotImplementedError

    def _run(self, context: Context, attempt: Attempt) -> Any:
        raise NotImplementedError


def _kept(built: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an environment a job needs; the rest stands in the log."""
    return {
        "path": built["path"],
        "modules": list(built["modules"]),
        "architecture": built["architecture"],
    }
