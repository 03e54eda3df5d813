"""What Airflow's own settings say: which Airflow this is, and where its site profiles are."""

from __future__ import annotations

import configparser
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


def deployment_name() -> str:
    """Return ``[csc] deployment``, or Airflow's own address where that is not set."""
    from airflow.providers.common.compat.sdk import conf  # noqa: PLC0415 - costs a second

    name: str = conf.get("csc", "deployment", fallback="")
    return name or conf.get("api", "base_url", fallback="") or ""


def preflight_seconds() -> float:
    """
    Return ``[csc] preflight_seconds``: for how long a machine believes a site's answers.

    :raises ConfigError: when it is no number.
    """
    from airflow.providers.common.compat.sdk import conf  # noqa: PLC0415 - as above

    with _reading("preflight_seconds", "Give a number of seconds, as 600."):
        return float(conf.getfloat("csc", "preflight_seconds", fallback=600.0))


def sites_folders() -> tuple[str, ...]:
    """
    Return ``[csc] sites_folder``, which names folders as PATH does.

    :raises ConfigError: when Airflow cannot read it.
    """
    from airflow.providers.common.compat.sdk import conf  # noqa: PLC0415 - as above

    with _reading("sites_folder", "Give folders, separated by colons; write %% for a %."):
        text: str = conf.get("csc", "sites_folder", fallback="") or ""
    return tuple(folder.strip() for folder in text.split(os.pathsep) if folder.strip())


@contextmanager
def _reading(option: str, remedy: str) -> Iterator[None]:
    from airflow.providers.common.compat.sdk import AirflowConfigException  # noqa: PLC0415

    try:
        yield
    except (AirflowConfigException, configparser.Error) as error:
        problem = str(error).removesuffix(".")
        raise ConfigError(
            f"{option}: Airflow cannot read [csc] {option}: {problem}. {remedy}",
            field=option,
            remedy=remedy,
        ) from error
