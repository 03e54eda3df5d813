"""
Say how a job could have asked for less.

Only of a job that completed and took at least five minutes, for what a shorter or a failed one used
says little. Memory: where it was given at least 4 GiB, and half of it or less would have done with
a quarter more than was measured (the measure is a sample), in whole GiB. Cores: where it was given
several, and fewer than half of them were busy. Beside GPUs, and on whole nodes, both come for
nothing, and nothing is said.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.tres import Share, parse_granted

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.result import JobResult

SHORTEST_SECONDS = 300
LEAST_BYTES = 4 * 2**30
MARGIN = 1.25
WORTH_SAYING = 0.5
_GIB = 2**30


def advise(result: JobResult, *, threads_per_core: int = 1) -> list[str]:
    """
    Return what to ask for instead, ``used 3.1 of 64 GiB; ask for 4``; mostly nothing.

    ``threads_per_core`` is how many of Slurm's CPUs make a core.
    """
    is_telling = result.is_success and (result.elapsed_seconds or 0) >= SHORTEST_SECONDS
    if not is_telling or _has_gpus(result):
        return []
    found = (_advise_memory(result), _advise_cores(result, threads_per_core))
    return [text for text in found if text]


def _has_gpus(result: JobResult) -> bool:
    shares = (Share(*each) for each in result.shares or ())
    return any(parse_granted(share.tres).gpus for share in shares)


def _advise_memory(result: JobResult) -> str | None:
    granted, efficiency = result.granted_memory_bytes, result.memory_efficiency
    if not granted or efficiency is None or granted < LEAST_BYTES:
        return None
    nodes = result.node_count or 1
    used = efficiency * granted
    enough = math.ceil(used * MARGIN / nodes / _GIB)
    if enough * nodes * _GIB > granted * WORTH_SAYING:
        return None
    each = f" on each of {nodes} nodes" if nodes > 1 else ""
    who = "the largest task used" if result.array is not None else "used"
    return f"{who} {_number(used / _GIB)} of {_number(granted / _GIB)} GiB; ask for {enough}{each}"


def _advise_cores(result: JobResult, threads_per_core: int) -> str | None:
    if not result.cpus or result.cpu_efficiency is None:
        return None
    cores = math.ceil(result.cpus / threads_per_core)
    busy = min(result.cpu_efficiency * result.cpus, cores)
    if cores == 1 or busy >= cores * WORTH_SAYING or cores - busy < 1:
        return None
    return f"{_number(busy)} of {cores} cores busy"


def _number(amount: float) -> str:
    return f"{amount:.1f}".removesuffix(".0")
