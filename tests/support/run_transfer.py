"""Run a transfer with small parts as a process of its own, so that it can be killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.allas import parts
from airflow_provider_csc.store import download, upload
from airflow_provider_csc.transfers.allas import AllasToLocalOperator, LocalToAllasOperator
from tests.support import children

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

KINDS = {"up": LocalToAllasOperator, "down": AllasToLocalOperator}


def start_transfer(
    direction: str,
    source: str,
    destination: str,
    *,
    part_bytes: int,
    output: Path | str = os.devnull,
    **arguments: Any,
) -> ForkServerProcess:
    """Start one; its last line of output is its peak of memory (kB)."""
    return children.start(
        _main, direction, source, destination, part_bytes, arguments, output=output
    )


def _main(
    direction: str, source: str, destination: str, part_bytes: int, arguments: dict[str, Any]
) -> None:
    for module, name in (
        (parts, "PART_BYTES"),
        (download, "PART_BYTES"),
        (upload, "SINGLE_BYTES"),
    ):
        setattr(module, name, part_bytes)
    kind = KINDS[direction]
    kind(task_id="child", source=source, destination=destination, **arguments).execute({})
    status = Path("/proc/self/status").read_text()
    print("\n" + status.partition("VmHWM:")[2].split()[0], flush=True)
