"""Run a transfer with small parts as a process of its own, so that it can be killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.allas import parts
from airflow_provider_csc.store import download, upload
from airflow_provider_csc.transfers.allas import AllasToLocalOperator, LocalToAllasOperator
from tests.support import children

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

KINDS = {"up": LocalToAllasOperator, "down": AllasToLocalOperator}


def start_transfer(
    direction: str, source: str, destination: str, *, part_bytes: int
) -> ForkServerProcess:
    return children.start(_main, direction, source, destination, part_bytes)


def _main(direction: str, source: str, destination: str, part_bytes: int) -> None:
    for module, name in (
        (parts, "PART_BYTES"),
        (download, "PART_BYTES"),
        (upload, "SINGLE_BYTES"),
    ):
        setattr(module, name, part_bytes)
    KINDS[direction](task_id="child", source=source, destination=destination).execute({})
