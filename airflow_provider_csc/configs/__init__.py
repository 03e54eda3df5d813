"""
What an environment and a job are made of, as it is written in YAML.

`Configs`, `Venv` and `JobConfig` are loaded when they are first named: a DAG file that is parsed
does not pay for pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_csc.configs.models import Configs, JobConfig, Venv

__all__ = ["Configs", "JobConfig", "Venv"]


def __getattr__(name: str) -> object:
    """Load a model when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from airflow_provider_csc.configs import models  # noqa: PLC0415

    return getattr(models, name)
