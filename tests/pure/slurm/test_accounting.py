"""What a job used is computed over all its tasks, and shown in a table a person can read."""

from __future__ import annotations

import pytest

from airflow_provider_csc.slurm.accounting import (
    Usage,
    compute_usage,
    find_share,
    format_bytes,
    format_seconds,
    render_table,
)
from airflow_provider_csc.slurm.output import AccountingRow, Answer, parse_accounting
from airflow_provider_csc.slurm.tres import Share
from tests.pure.slurm.evidence import accounting_line, answer, recorded


def rows_of(name: str) -> tuple[AccountingRow, ...]:
    found = parse_accounting(recorded(f"sacct-{name}").frame)
    assert isinstance(found, Answer)
    return found.rows


def rows(*lines: str) -> tuple[AccountingRow, ...]:
    found = parse_accounting(answer(*lines))
    assert isinstance(found, Answer)
    return found.rows


def test_a_recorded_job_of_several_tasks() -> None:
    """Three tasks of six busy seconds and 50 MB each, on three processors of two nodes."""
    job, _, step, _ = rows_of("steps")
    usage = compute_usage(rows_of("steps"))
    assert usage.elapsed_seconds == job.elapsed_seconds
    assert job.elapsed_seconds is not None
    assert usage.cpu_efficiency == round((job.cpu_seconds or 0) / (3 * job.elapsed_seconds), 4)
    assert 0.2 < usage.cpu_efficiency <= 1
    assert usage.max_rss_bytes == step.max_rss_bytes
    assert usage.memory_bytes == step.total_rss_bytes
    assert 50_000_000 < usage.max_rss_bytes < 100_000_000  # type: ignore[operator]
    assert 150_000_000 < usage.memory_bytes < 300_000_000  # type: ignore[operator]


def test_a_job_that_ran_for_no_time_has_no_efficiency() -> None:
    usage = compute_usage(rows_of("cancelled-in-queue"))
    assert usage == Usage(
        elapsed_seconds=0, cpu_efficiency=None, max_rss_bytes=None, memory_bytes=None
    )


def test_no_rows_tell_nothing() -> None:
    assert compute_usage(()) == Usage(
        elapsed_seconds=None, cpu_efficiency=None, max_rss_bytes=None, memory_bytes=None
    )


@pytest.mark.parametrize(
    ("cpu", "cpus", "elapsed", "efficiency"),
    [
        ("00:10.000", "1", "10", 1.0),
        ("00:10.000", "4", "10", 0.25),
        ("1-00:00:00", "128", "86400", 0.0078),
        ("00:20.000", "1", "10", 2.0),
        ("00:00:00", "1", "10", 0.0),
        ("", "1", "10", None),
        ("00:10.000", "0", "10", None),
        ("00:10.000", "", "10", None),
        ("00:10.000", "1", "0", None),
    ],
)
def test_efficiency_is_processor_time_over_what_was_allocated(
    cpu: str, cpus: str, elapsed: str, efficiency: float | None
) -> None:
    line = accounting_line(TotalCPU=cpu, AllocCPUS=cpus, ElapsedRaw=elapsed)
    assert compute_usage(rows(line)).cpu_efficiency == efficiency


def test_memory_is_that_of_the_largest_step_with_all_its_tasks() -> None:
    lines = [
        accounting_line(),
        accounting_line(JobID="123.batch", MaxRSS="1G", TRESUsageInTot="mem=1G", NTasks="1"),
        accounting_line(JobID="123.0", MaxRSS="300M", TRESUsageInTot="mem=1200M", NTasks="4"),
        accounting_line(JobID="123.1", MaxRSS="400M", NTasks="2"),
    ]
    usage = compute_usage(rows(*lines))
    assert usage.max_rss_bytes == 2**30
    assert usage.memory_bytes == 1200 * 2**20


def test_without_a_total_the_largest_task_stands_for_each() -> None:
    lines = [accounting_line(), accounting_line(JobID="123.0", MaxRSS="400M", NTasks="4")]
    assert compute_usage(rows(*lines)).memory_bytes == 1600 * 2**20


def test_the_table_has_a_line_for_each_step() -> None:
    lines = [
        accounting_line(
            State="FAILED", ExitCode="3:0", AllocCPUS="4", ReqMem="4G", ElapsedRaw="90"
        ),
        accounting_line(
            JobID="123.batch",
            State="FAILED",
            ExitCode="3:0",
            ElapsedRaw="90",
            MaxRSS="1536K",
            NTasks="1",
        ),
        accounting_line(
            JobID="123.0",
            State="CANCELLED by 1001",
            ExitCode="0:15",
            ElapsedRaw="",
            TotalCPU="",
            NTasks="4",
        ),
    ]
    assert render_table(rows(*lines)).splitlines() == [
        "step   state      exit  tasks  cpus  elapsed  cpu time  cpu  memory",
        "job    FAILED     3     -      4     0:01:30  0:00:05   1%   1.5 MiB of 4G",
        "batch  FAILED     3     1      1     0:01:30  0:00:05   6%   1.5 MiB",
        "0      CANCELLED  0:15  4      1     -        -         -    -",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0:00:00"),
        (59.6, "0:01:00"),
        (3661, "1:01:01"),
        (93784.4, "1 day, 2:03:04"),
        (30 * 86400, "30 days, 0:00:00"),
    ],
)
def test_a_duration_reads(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (2**30, "1.0 GiB"),
        (5 * 2**40, "5.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_a_size_reads(count: int | None, text: str) -> None:
    assert format_bytes(count) == text


# ---- what it was given ----


def test_what_22_05_says_a_job_was_given_is_found() -> None:
    rows = rows_of("steps")
    job = next(row for row in rows if row.step is None)
    assert find_share(rows) == [
        Share("small", "billing=3,cpu=3,mem=3000M,node=2", job.elapsed_seconds or 0)
    ]
    usage = compute_usage(rows)
    assert usage.granted_memory_bytes == 3000 * 2**20
    # Three tasks of some 57 MiB on 3000 MiB.
    assert 0.04 < (usage.memory_efficiency or 0) < 0.1


def test_of_a_job_that_never_ran_nothing_was_given() -> None:
    assert find_share(rows_of("cancelled-in-queue")) == []
