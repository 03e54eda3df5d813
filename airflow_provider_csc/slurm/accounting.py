"""What a job used, computed from the rows of sacct, and how it is shown to a reader."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.tres import Share, parse_granted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_csc.slurm.output import AccountingRow

_KIBI = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """
    What one job used; None where the site's accounting does not say.

    ``cpu_efficiency`` is processor time over allocated processors times elapsed time: 1 is all of
    it, more than 1 means processors beyond the allocation. ``max_rss_bytes`` is the largest
    resident set of any one task; ``memory_bytes`` that of the largest step, all its tasks together,
    and ``memory_efficiency`` which part of the memory that the job was given.
    """

    elapsed_seconds: int | None = None
    cpu_efficiency: float | None = None
    max_rss_bytes: int | None = None
    memory_bytes: int | None = None
    granted_memory_bytes: int | None = None

    @property
    def memory_efficiency(self) -> float | None:
        """Return the part of its memory that it was seen to use."""
        if not self.memory_bytes or not self.granted_memory_bytes:
            return None
        return round(self.memory_bytes / self.granted_memory_bytes, 4)


def compute_usage(rows: Sequence[AccountingRow]) -> Usage:
    """Return the usage of one job from its own row and the rows of its steps."""
    job = next((row for row in rows if row.step is None), None)
    steps = [row for row in rows if row.step is not None]
    return Usage(
        elapsed_seconds=job.elapsed_seconds if job else None,
        cpu_efficiency=_cpu_efficiency(job) if job else None,
        max_rss_bytes=max((row.max_rss_bytes for row in steps if row.max_rss_bytes), default=None),
        memory_bytes=max(filter(None, map(_step_memory, steps)), default=None),
        granted_memory_bytes=parse_granted(job.granted).memory_bytes if job else None,
    )


def find_share(rows: Sequence[AccountingRow]) -> list[Share] | None:
    """Return what a job was given and for how long, none if it never ran, None if nobody says."""
    job = next((row for row in rows if row.step is None), None)
    if job is None or job.is_provisional or job.elapsed_seconds is None:
        return None
    if not job.elapsed_seconds:
        return []
    return [Share(job.partition, job.granted, job.elapsed_seconds)] if job.granted else None


def _cpu_efficiency(row: AccountingRow) -> float | None:
    if row.cpu_seconds is None or not row.cpus or not row.elapsed_seconds:
        return None
    return round(row.cpu_seconds / (row.cpus * row.elapsed_seconds), 4)


def _step_memory(row: AccountingRow) -> int | None:
    """Return the memory of all tasks of a step; sacct's MaxRSS is that of the largest one only."""
    if row.total_rss_bytes:
        return row.total_rss_bytes
    return row.max_rss_bytes * (row.tasks or 1) if row.max_rss_bytes else None


_HEADINGS = ("step", "state", "exit", "tasks", "cpus", "elapsed", "cpu time", "cpu", "memory")


def render_table(rows: Sequence[AccountingRow]) -> str:
    """Return the accounting of one job as a short table, one line a step."""
    peak = compute_usage(rows).memory_bytes
    return render_columns([_HEADINGS, *(_cells(row, peak) for row in rows)])


def render_columns(table: Sequence[Sequence[str]]) -> str:
    """Return a table with its columns below each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    )


def _cells(row: AccountingRow, peak_bytes: int | None) -> tuple[str, ...]:
    efficiency = _cpu_efficiency(row)
    memory = format_bytes(_step_memory(row))
    if row.step is None:
        memory = f"{format_bytes(peak_bytes)} of {row.requested_memory or '?'}"
    return (
        row.step or "job",
        row.state.name,
        _text(row.exit_code) + (f":{row.signal}" if row.signal else ""),
        _text(row.tasks),
        _text(row.cpus),
        format_seconds(row.elapsed_seconds),
        format_seconds(row.cpu_seconds),
        "-" if efficiency is None else f"{efficiency:.0%}",
        memory,
    )


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)


def format_seconds(seconds: float | None) -> str:
    """Return a duration to read, ``1 day, 2:03:04``; ``-`` for None."""
    return "-" if seconds is None else str(timedelta(seconds=round(seconds)))


def format_bytes(count: int | None) -> str:
    """Return a size to read, in binary units; ``-`` for None."""
    if count is None:
        return "-"
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < _KIBI or unit == "TiB":
            break
        size /= _KIBI
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
