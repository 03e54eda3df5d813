"""What a partition allows is read as far as it is told."""

from __future__ import annotations

import pytest

from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.partitions import build_show_partition, parse_limits

# scontrol --oneliner show partition, 22.05, shortened.
SHOWN = (
    "PartitionName=test AllowGroups=ALL DefaultTime=00:05:00 MaxNodes=UNLIMITED MaxTime=%s "
    "MinNodes=0 LLN=NO OverTimeLimit=NONE State=UP"
)


@pytest.mark.parametrize(
    ("shown", "minutes"),
    [
        ("00:15:00", 15),
        ("3-00:00:00", 4320),
        ("1-12:30:00", 2190),
        ("00:00:59", 0),
        ("UNLIMITED", None),
        ("INFINITE", None),
        ("something new", None),
    ],
)
def test_the_longest_time_is_in_minutes(shown: str, minutes: int | None) -> None:
    found = parse_limits(Frame(0, (SHOWN % shown).encode()))
    assert found.max_minutes == minutes


@pytest.mark.parametrize(
    "frame",
    [
        Frame(1, b"slurm_load_partitions error: Unable to contact slurm controller"),
        Frame(0, b"Partition nope not found"),
        Frame(0, b""),
    ],
)
def test_what_is_not_told_is_no_limit(frame: Frame) -> None:
    assert parse_limits(frame).max_minutes is None


def test_a_partition_of_any_name_is_one_word() -> None:
    assert build_show_partition("a b; c") == (
        "ask partition scontrol --oneliner show partition 'a b; c'\n"
    )
