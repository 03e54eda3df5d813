"""What Airflow's own settings say: which Airflow this is, and where its site profiles are."""

from __future__ import annotations

import os


def deployment_name() -> str:
    """Return ``[csc] deployment``, or Airflow's own address where that is not set."""
    from airflow.providers.common.compat.sdk import conf  # noqa: PLC0415 - costs a second

    name: str = conf.get("csc", "deployment", fallback="")
    return name or conf.get("api", "base_url", fallback="") or ""


def sites_folders() -> tuple[str, ...]:
    """Return ``[csc] sites_folder``, which names folders as PATH does."""
    from airflow.providers.common.compat.sdk import conf  # noqa: PLC0415 - as above

    text: str = conf.get("csc", "sites_folder", fallback="") or ""
    return tuple(folder.strip() for folder in text.split(os.pathsep) if folder.strip())


def preflight_seconds() -> float:
    """Return ``[csc] preflight_seconds``: for how long a machine believes a site's answers."""
    from airflow.providers.common.compat.sdk import conf  # noqa: PLC0415 - as above

    return float(conf.getfloat("csc", "preflight_seconds", fallback=600.0))
