"""The text of the helper, a program of bash and curl that runs beside the data."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def helper_text() -> str:
    """Return the helper's text."""
    return (files("airflow_provider_csc.staging") / "helper.sh").read_text(encoding="utf-8")
