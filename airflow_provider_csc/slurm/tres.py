"""What sacct says a job was given (``AllocTRES``), and for how long."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_csc.errors import UnreadableOutputError
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.output import SEPARATOR
from airflow_provider_csc.slurm.shell import SLURM
from airflow_provider_csc.slurm.values import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_csc.slurm.framing import Frame

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


_FIELDS = ("JobID", "Partition", "ElapsedRaw", "AllocTRES")


def build_ask_shares(job_id: str) -> str:
    """
    Ask sacct about all runs of a job: by itself it shows the last one of a job that was requeued.

    Of an array all tasks are shown.
    """
    fields, separator = ",".join(_FIELDS), f"$'\\x{ord(SEPARATOR):02x}'"
    return (
        f"{SLURM}\nask shares slurm sacct --noheader --parsable2 --allocations --duplicates "
        f"--delimiter={separator} --format={fields} --jobs={quote(job_id)}\n"
    )


def parse_shares(frame: Frame, job_id: str) -> list[Share]:
    """
    Read the answer.

    :raises UnreadableOutputError: when sacct failed, or does not say of every run.
    """
    # Not `text`, whose end is stripped: the separator is white space, too.
    lines = frame.data.decode(errors="replace").split("\n")
    rows = [line.split(SEPARATOR) for line in lines if SEPARATOR in line]
    if frame.status != 0 or not rows:
        said = f": {frame.complaint}" if frame.status else ""
        raise UnreadableOutputError(f"sacct does not know what job {job_id} was given{said}.")
    found = [_parse_share(row, job_id) for row in rows]
    return merge_shares(share for share in found if share.seconds)


def _parse_share(row: list[str], job_id: str) -> Share:
    if len(row) != len(_FIELDS) or not row[2].isdecimal() or (int(row[2]) and not row[3]):
        raise UnreadableOutputError(f"sacct does not say what job {job_id} was given, or how long.")
    return Share(row[1], row[3], int(row[2]))
