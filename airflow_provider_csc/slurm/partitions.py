"""What a partition allows (scontrol(1), ``show partition``)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.policy import PartitionLimits
from airflow_provider_csc.slurm.values import parse_time_limit

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.framing import Frame


def build_show_partition(name: str) -> str:
    """Ask slurmctld about one partition."""
    return f"ask partition scontrol --oneliner show partition {quote(name)}\n"


def parse_limits(frame: Frame) -> PartitionLimits:
    """Read the limits of a partition; what is not told, or is UNLIMITED, is no limit."""
    found = re.search(r" MaxTime=(\S+)", frame.text) if frame.status == 0 else None
    if not found or found.group(1) == "UNLIMITED":
        return PartitionLimits()
    try:
        seconds = parse_time_limit(found.group(1))
    except NotationError:
        return PartitionLimits()
    return PartitionLimits(max_minutes=seconds // 60 if seconds else None)
