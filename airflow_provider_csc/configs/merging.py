"""What a task runs or builds, of what it says itself and what its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.option_names import override_options

if TYPE_CHECKING:
    from airflow_provider_csc.configs.models import Configs, JobConfig, Venv

_SOURCES = ("command", "script", "remote_script")
_INSTALLED = ("requirements", "lock", "conda")
_PLAIN = ("work_dir", "job_name", "inputs", "outputs")


def merge_job(own: Mapping[str, Any], config: JobConfig) -> dict[str, Any]:
    """
    Return the arguments of a task with what its configuration adds.

    What the task says itself wins: its command or script, its modules and its environment in whole,
    its options and variables one by one. None is said by nobody.
    """
    runs = any(own.get(name) is not None for name in _SOURCES)
    told = {
        **{name: getattr(config, name) for name in _PLAIN},
        **{name: None if runs else getattr(config, name) for name in _SOURCES},
        **_choose_environment(own, config),
        "job_resources": config.resources,
    }
    found = {name: value if own.get(name) is None else own[name] for name, value in told.items()}
    return found | {
        "options": _merge(own.get("options"), config.options, override_options),
        "env": _merge(own.get("env"), config.env, lambda less, more: {**less, **more}),
    }


def _choose_environment(own: Mapping[str, Any], config: JobConfig) -> dict[str, Any]:
    """Return modules and environment; those of a virtual environment only where that is used."""
    venv = config.venv if own.get("environment") is None else None
    return {
        "environment": venv.directory if venv else config.environment,
        "modules": _modules_of(config, venv) or None,
    }


def _merge(own: Any, config: dict[str, Any] | None, override: Any) -> Any:
    # What is no mapping is refused with the task's other arguments.
    if config is None or not isinstance(own, Mapping | None):
        return own
    return override(config, own or {})


def merge_recipe(
    own: Mapping[str, Any], prefix: str | None, config: Configs
) -> tuple[dict[str, Any], str]:
    """
    Return the recipe of a configuration's virtual environment, and the directory that it goes to.

    What a task says itself wins, of its recipe field by field. A virtual environment sees what its
    modules have: that is not to be installed again.

    :raises ConfigError: for a configuration without one.
    """
    venv = config.venv
    if venv is None:
        raise ConfigError(
            "config: it has no venv, so that it does not say what is built. Write for example "
            "'venv: {name: tools, path: /projappl/project_2001234, packages: [numpy]}'.",
            field="config",
            value=config.model_dump(),
        )
    modules = own.get("modules", _modules_of(config, venv))
    told: dict[str, Any] = {"name": venv.name, "modules": modules}
    backend = own.get("backend", "venv")
    if backend == "venv":
        told["system_site_packages"] = bool(modules)
    # Where the task says by itself what is installed, that is all.
    if backend != "container" and not any(own.get(name) for name in _INSTALLED):
        told["packages"] = list(venv.packages)
    return {**told, **own}, prefix or venv.path


def _modules_of(config: Configs, venv: Venv | None) -> list[str]:
    """Return those of all, then those of a virtual environment, each once."""
    return list(dict.fromkeys([*config.modules, *(venv.modules if venv else ())]))
