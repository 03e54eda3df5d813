"""What a job used, as figures for StatsD or OpenTelemetry."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.client.meter import Meter
    from airflow_provider_csc.slurm.result import JobResult


def send_usage(meter: Meter, result: JobResult, tags: Mapping[str, str]) -> None:
    """Send how well a job used what it was given, and how long it queued and ran."""
    known = {**tags, "partition": result.partition or "unknown"}
    for name in ("cpu_efficiency", "memory_efficiency"):
        value = getattr(result, name)
        if value is not None:
            meter.gauge(f"slurm.job.{name}", value, known)
    if (queued := _seconds_between(result.submit_time, result.start_time)) is not None:
        meter.timing("slurm.job.queue_duration", queued, known)
    if result.elapsed_seconds is not None:
        meter.timing("slurm.job.run_duration", result.elapsed_seconds, known)


def _seconds_between(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    seconds = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    return max(seconds.total_seconds(), 0.0)
