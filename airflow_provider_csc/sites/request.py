"""Read what a job asks for out of sbatch's options: the most that it can be given by them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_csc.sites.billing import Allocation, Quantity
from airflow_provider_csc.sites.model import Sharing
from airflow_provider_csc.slurm.values import parse_memory

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from airflow_provider_csc.sites.model import Partition

_GIB = 2**30


class Unclear(Exception):  # noqa: N818 - it is no error that the request cannot be priced
    """What a job asks for cannot be told from its options; its text says why."""


# By these the amounts depend on what the nodes are made of, or on a file on the cluster.
_NOT_READ = (
    *("gpus-per-socket", "ntasks-per-socket", "sockets-per-node", "cores-per-socket"),
    *("extra-node-info", "nodefile", "tres-per-task", "resources", "batch"),
)
_WHOLE_NODES = ("exclusive", "core-spec", "thread-spec")


def read_allocation(
    options: Mapping[str, str | bool],
    partition: Partition,
    *,
    needed: Collection[Quantity] = tuple(Quantity),
) -> Allocation:
    """
    Return the most that a job can be given for its options.

    Of memory and disk only what is ``needed`` must be known. CPUs count as cores, also where they
    may be threads.

    :raises Unclear: when that cannot be told.
    """
    for name in _NOT_READ:
        if name in options:
            raise Unclear(f"options['{name}'] cannot be priced; ask by nodes, tasks and CPUs")
    request = _Request(options, partition)
    cores, nodes, gpus = request.cores, request.nodes, request.gpus
    memory = request.memory_bytes if Quantity.MEMORY_GIB in needed else 0
    if partition.sharing is Sharing.CORES and partition.memory_per_core:
        cores = max(cores, math.ceil(memory / partition.memory_per_core))
    return Allocation(
        nodes=nodes,
        cores=cores,
        memory_bytes=memory,
        gpus=gpus,
        local_disk_bytes=request.disk_bytes if Quantity.LOCAL_DISK_GIB in needed else 0,
    )


@dataclass(slots=True)
class _Request:
    options: Mapping[str, str | bool]
    partition: Partition
    tasks: int = field(init=False)
    nodes: int = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = self._count_nodes()
        self.tasks = self._count_tasks(self.nodes)

    @property
    def is_whole(self) -> bool:
        """Whether it is given whole nodes."""
        is_asked = any(name in self.options for name in _WHOLE_NODES)
        return is_asked or self.partition.sharing is Sharing.NODES

    @property
    def cores(self) -> int:
        """All cores it can be given."""
        if self.is_whole:
            if self.partition.cores_per_node is None:
                raise Unclear("how many cores the nodes of the partition have is not known")
            return self.nodes * self.partition.cores_per_node
        return max(self._cpus, self.nodes)

    @property
    def _cpus(self) -> int:
        if (each := self._count("cpus-per-gpu")) is not None:
            return self.gpus * each
        return max(
            self.tasks * (self._count("cpus-per-task") or 1),
            self.nodes * (self._count("mincpus") or 0),
        )

    @property
    def memory_bytes(self) -> int:
        """All memory it can be given."""
        partition = self.partition
        for name, count in (
            ("mem", self.nodes),
            ("mem-per-cpu", self.cores),
            ("mem-per-gpu", self.gpus),
        ):
            if (asked := self._size(name)) is not None:
                return asked * count if asked else self._whole_memory()
        if self.is_whole:
            return self._whole_memory()
        if partition.sharing is Sharing.CORES and partition.memory_per_core:
            return self.cores * partition.memory_per_core
        if partition.sharing is Sharing.GPUS and partition.gpus and partition.gpus.memory_each:
            return self.gpus * partition.gpus.memory_each
        raise Unclear(
            "how much memory the partition gives a job that names none is not known; give "
            "options['mem'] or ['mem-per-cpu']"
        )

    def _whole_memory(self) -> int:
        if self.partition.memory_per_node is None:
            raise Unclear(
                "how much memory the nodes of the partition have is not known; give options['mem']"
            )
        return self.nodes * self.partition.memory_per_node

    @property
    def gpus(self) -> int:
        """All GPUs it can be given."""
        known = self.partition.gpus
        if self.partition.sharing is Sharing.NODES:
            return self.nodes * known.per_node if known else 0
        found = max(
            _count_gpus(self._text("gpus")),
            self.nodes * _count_gpus(self._text("gpus-per-node")),
            self.tasks * _count_gpus(self._text("gpus-per-task")),
            self.nodes * _count_gres(self._text("gres"), "gpu"),
        )
        most = known.per_job if known and known.per_job else found
        return min(found, most)

    @property
    def disk_bytes(self) -> int:
        """All local disk it asks for."""
        if "bbf" in self.options:
            raise Unclear("how large a burst buffer options['bbf'] asks for is not known here")
        buffer = 0
        if text := self._text("bb"):
            found = _BUFFER.search(text)
            if not found:
                raise Unclear("how large a burst buffer options['bb'] asks for cannot be told")
            buffer = parse_memory(found[1])
        return self.nodes * (_count_gres(self._text("gres"), "nvme") * _GIB + buffer)

    def _count_nodes(self) -> int:
        asked = _most_nodes(self._text("nodes"))
        if asked is not None:
            return asked
        per_node = self._count("ntasks-per-node")
        tasks = self._count_tasks(None)
        if self.partition.sharing is Sharing.NODES:
            return max(1, self._fitting_nodes(tasks, per_node))
        # It may be spread as far as its tasks go.
        return max(1, min(tasks, self.partition.max_nodes or tasks))

    def _fitting_nodes(self, tasks: int, per_node: int | None) -> int:
        """Return how many whole nodes so many tasks need."""
        partition = self.partition
        cpus = tasks * (self._count("cpus-per-task") or 1)
        wanted = [cpus / (partition.cores_per_node or cpus)]
        if per_node:
            wanted.append(tasks / per_node)
        if partition.gpus:
            gpus = max(
                _count_gpus(self._text("gpus")), tasks * _count_gpus(self._text("gpus-per-task"))
            )
            wanted.append(gpus / partition.gpus.per_node)
        each = self._size("mem-per-cpu")
        if each and partition.memory_per_node:
            wanted.append(cpus * each / partition.memory_per_node)
        return math.ceil(max(wanted))

    def _count_tasks(self, nodes: int | None) -> int:
        if (tasks := self._count("ntasks")) is not None:
            return tasks
        if (per_gpu := self._count("ntasks-per-gpu")) is not None:
            on_nodes = _count_gpus(self._text("gpus-per-node"))
            on_nodes += _count_gres(self._text("gres"), "gpu")
            return per_gpu * max(_count_gpus(self._text("gpus")), (nodes or 1) * on_nodes, 1)
        return (nodes or 1) * (self._count("ntasks-per-node") or 1)

    def _text(self, name: str) -> str | None:
        value = self.options.get(name)
        return value if isinstance(value, str) else None

    def _count(self, name: str) -> int | None:
        text = self._text(name)
        return int(text) if text is not None and text.isdecimal() else None

    def _size(self, name: str) -> int | None:
        text = self._text(name)
        return None if text is None else parse_memory(text)


_BUFFER = re.compile(r"\b(?:storagesize|capacity)=([0-9]+[KMGT]?)B?\b", re.IGNORECASE)
_NUMBER = re.compile(r"([0-9]+)(k?m?)(?!:)", re.IGNORECASE)
_FACTORS = {"": 1, "k": 2**10, "m": 2**20, "km": 2**30}


def _most_nodes(text: str | None) -> int | None:
    """Return the largest number of nodes that ``4``, ``2-4`` or ``1,2,4`` lets Slurm choose."""
    if text is None:
        return None
    sizes = re.sub(r":[0-9]+", "", text)
    return max(int(digits) * _FACTORS[unit.lower()] for digits, unit in _NUMBER.findall(sizes))


def _count_gpus(text: str | None) -> int:
    """Return how many ``2``, ``gh200:2`` or ``gh200:1,l40:1`` are."""
    return sum(_last_count(item) for item in (text or "").split(",") if item)


def _count_gres(text: str | None, name: str) -> int:
    """Return how many of a generic resource ``gpu:gh200:2,nvme:100`` asks for."""
    items = [item.strip().removeprefix("gres/") for item in (text or "").split(",")]
    return sum(_last_count(item) for item in items if re.split("[:=]", item)[0] == name)


def _last_count(item: str) -> int:
    """Return the number at the end; one where there is none."""
    last = re.split("[:=]", item.strip())[-1]
    found = re.fullmatch(r"([0-9]+)([kmgtp]?)(?:i?b)?", last, re.IGNORECASE)
    if not found:
        return 1
    return int(found[1]) << 10 * " kmgtp".index(found[2].lower() or " ")
