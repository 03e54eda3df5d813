"""Which Airflow this is, among those that submit as the same cluster user."""

from __future__ import annotations


def deployment_name() -> str:
    """Return ``[csc] deployment``, or Airflow's own address where that is not set."""
    from airflow.providers.common.compat.sdk import conf  # noqa: PLC0415 - costs a second

    name: str = conf.get("csc", "deployment", fallback="")
    return name or conf.get("api", "base_url", fallback="") or ""


def preflight_seconds() -> float:
    """Return ``[csc] preflight_seconds``: for how long a machine believes a site's answers."""
    from airflow.providers.common.compat.sdk import conf  # noqa: PLC0415 - as above

    return float(conf.getfloat("csc", "preflight_seconds", fallback=600.0))
