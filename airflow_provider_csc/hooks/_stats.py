"""Send a poller's figures to where Airflow sends its own: StatsD or OpenTelemetry."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

# Airflow 3.3 has two, and each process sets up its own: the triggerer the first, a task's process
# the second. Airflow 3.1 has the last.
_CORE = "airflow.observability.stats"
_SDK = "airflow.sdk.observability.stats"
_OLD = "airflow.stats"
_TRIGGERER = "airflow.jobs.triggerer_job_runner"


class AirflowMeter:
    """A `client.meter.Meter` over Airflow's ``Stats``; what it cannot send it leaves."""

    def gauge(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Set what something amounts to now."""
        _send("gauge", name, value, tags)

    def incr(self, name: str, count: int, tags: Mapping[str, str]) -> None:
        """Add to a sum."""
        _send("incr", name, count, tags)

    def timing(self, name: str, seconds: float, tags: Mapping[str, str]) -> None:
        """Note how long something took."""
        _send("timing", name, timedelta(seconds=seconds), tags)


def _send(kind: str, name: str, value: object, tags: Mapping[str, str]) -> None:
    try:
        getattr(_find_stats(), kind)(name, value, tags=dict(tags))
    except Exception:  # noqa: BLE001 - nobody's wait ends because of a figure
        _log.debug("%s could not be sent.", name, exc_info=True)


@cache
def _find_stats() -> Any:
    """Return the ``Stats`` that this process has set up."""
    places = (_CORE, _SDK, _OLD) if _TRIGGERER in sys.modules else (_SDK, _CORE, _OLD)
    for place in places:
        try:
            return import_module(place).Stats
        except ImportError:
            continue
    raise ImportError(f"none of {', '.join(places)} is there")
