"""What sacct says a job was given (``AllocTRES``), and for how long."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.values import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable

_GIB = 2**30


class Share(NamedTuple):
    """For how many seconds a job, or tasks of an array together, had something of a partition."""

    partition: str
    tres: str
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """
    What a job was given, in all; None is what the site does not record.

    ``cpus`` are what Slurm calls so: threads, where it counts these.
    """

    nodes: int | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    local_disk_bytes: int | None = None


def parse_granted(text: str) -> Granted:
    """
    Read ``billing=2,cpu=2,gres/gpu:gh200=1,gres/gpu=1,mem=4G,node=1``.

    Which GPUs there are a site may record by type, as a sum, or both.
    """
    pairs = dict(item.split("=", 1) for item in text.split(",") if "=" in item)
    typed = [_count(value) for name, value in pairs.items() if name.startswith("gres/gpu:")]
    gpus = _count(pairs.get("gres/gpu"))
    if gpus is None and typed:
        gpus = None if None in typed else sum(filter(None, typed))
    disk = _count(pairs.get("gres/nvme"))
    return Granted(
        nodes=_count(pairs.get("node")),
        cpus=_count(pairs.get("cpu")),
        memory_bytes=_size(pairs.get("mem")),
        gpus=gpus,
        local_disk_bytes=None if disk is None else disk * _GIB,
    )


def _count(text: str | None) -> int | None:
    size = _size(text)
    return size if size is None or text is None or text.isdecimal() else None


def _size(text: str | None) -> int | None:
    try:
        return None if text is None else parse_size(text)
    except NotationError:
        return None


def merge_shares(shares: Iterable[Share]) -> list[Share]:
    """Return as few as say the same; tasks of an array as a rule are given the same."""
    seconds: Counter[tuple[str, str]] = Counter()
    for share in shares:
        seconds[share.partition, share.tres] += share.seconds
    return [Share(*key, seconds[key]) for key in sorted(seconds)]
