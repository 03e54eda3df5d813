"""Whether a partition can give what a job needs, and the nearest that it can."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.sites.model import DiskOption, Sharing
from airflow_provider_csc.sites.resources import plain, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_csc.sites.model import Partition
    from airflow_provider_csc.sites.resources import Request

# Another kind of thing, as no GPU where one was asked for, is farther than any number.
_FAR = 10.0
_MOST_CHANGES = 20


@dataclass(frozen=True, slots=True)
class Misfit:
    """A field that a partition cannot give as asked; ``nearest`` is what it could."""

    field: str
    asked: object
    nearest: Any
    why: str

    def __str__(self) -> str:
        return f"{self.field}={show(self.field, self.asked)}: {self.why}"


def find_misfits(request: Request, partition: Partition) -> Iterator[Misfit]:
    """Yield everything that a partition cannot give; nothing when it fits."""
    yield from _check_time(request, partition)
    yield from _check_nodes(request, partition)
    yield from _check_gpus(request, partition)
    yield from _check_cores(request, partition)
    yield from _check_disk(request, partition)
    yield from _check_memory(request, partition)


def find_nearest(request: Request, partition: Partition) -> tuple[Request, float] | None:
    """Return what a partition could give instead, and how far that is from what was asked."""
    found = request
    for _ in range(_MOST_CHANGES):
        misfit = next(find_misfits(found, partition), None)
        if misfit is None:
            return found, _distance(request, found)
        found = replace(found, **{misfit.field: misfit.nearest})
    return None


def adapt(request: Request, partition: Partition) -> Request:
    """Return the request with as many cores as its memory needs, where memory follows cores."""
    each = partition.memory_per_core
    if partition.sharing is not Sharing.CORES or each is None or request.memory is None:
        return request
    cores = -(-request.memory // each)
    if cores <= request.cores:
        return request
    return replace(
        request,
        cpus_per_task=-(-cores // request.tasks_per_node),
        # As much in all, however many cores share it.
        memory_per_cpu=None,
        memory_per_node=request.memory,
    )


def memory_with_disk(request: Request, partition: Partition) -> int | None:
    """Return the memory of a node that a job needs, its files included where they lie in it."""
    disk = partition.local_disk
    if disk and disk.option is DiskOption.MEMORY and request.local_disk and request.memory:
        return request.memory + request.local_disk
    return request.memory


def _check_time(request: Request, partition: Partition) -> Iterator[Misfit]:
    most = partition.max_time
    if most is not None and request.time is not None and request.time > most:
        yield Misfit("time", request.time, most, f"at most {plain('time', most)}")


def _check_nodes(request: Request, partition: Partition) -> Iterator[Misfit]:
    if request.nodes < partition.least_nodes:
        least = partition.least_nodes
        yield Misfit("nodes", request.nodes, least, f"at least {least}")
    if partition.max_nodes is not None and request.nodes > partition.max_nodes:
        most = partition.max_nodes
        yield Misfit("nodes", request.nodes, most, f"at most {most}")


def _check_gpus(request: Request, partition: Partition) -> Iterator[Misfit]:
    asked, gpus = request.gpus_per_node, partition.gpus
    if gpus is None:
        if asked:
            yield Misfit("gpus_per_node", asked, 0, "it has no GPUs")
        if request.gpu_type:
            yield Misfit("gpu_type", request.gpu_type, None, "it has no GPUs")
        return
    if not asked:
        yield Misfit("gpus_per_node", 0, 1, "it is for jobs with GPUs")
        return
    if request.gpu_type and request.gpu_type != gpus.type:
        has = f"it has {gpus.type}" if gpus.type else "its GPUs have no name"
        yield Misfit("gpu_type", request.gpu_type, gpus.type, has)
    if asked > gpus.per_node:
        yield Misfit("gpus_per_node", asked, gpus.per_node, f"at most {gpus.per_node}")
    if gpus.per_job is not None and asked * request.nodes > gpus.per_job:
        why = f"at most {gpus.per_job} in all"
        if request.nodes > gpus.per_job:
            yield Misfit("nodes", request.nodes, gpus.per_job, f"{why}, of GPUs")
        else:
            yield Misfit("gpus_per_node", asked, gpus.per_job // request.nodes, why)
    if asked * request.nodes < gpus.least_per_job:
        least = min(-(-gpus.least_per_job // request.nodes), gpus.per_node)
        yield Misfit("gpus_per_node", asked, least, f"at least {gpus.least_per_job} in all")


def _check_cores(request: Request, partition: Partition) -> Iterator[Misfit]:
    limits = [(partition.cores_per_node, "on a node")]
    if partition.max_cores is not None:
        limits.append((partition.max_cores // request.nodes, "for a job"))
    if partition.gpus and partition.gpus.cores_each is not None:
        limits.append(
            (
                partition.gpus.cores_each * request.gpus_per_node,
                f"beside {request.gpus_per_node} GPUs",
            )
        )
    for most, where in limits:
        if most and request.cores > most:
            why = f"at most {most} cores {where}"
            if request.tasks_per_node > most:
                yield Misfit("tasks_per_node", request.tasks_per_node, most, why)
            else:
                nearest = most // request.tasks_per_node
                yield Misfit("cpus_per_task", request.cpus_per_task, nearest, why)


def _check_memory(request: Request, partition: Partition) -> Iterator[Misfit]:
    wanted = memory_with_disk(request, partition)
    if wanted is None:
        return
    for most, where in _memory_limits(request, partition):
        if wanted > most:
            field = "memory_per_node" if request.memory_per_node else "memory_per_cpu"
            files = wanted - (request.memory or 0)
            left = max(most - files, 1)
            nearest = left if request.memory_per_node else max(left // request.cores, 1)
            why = f"at most {plain('memory_per_node', most)} {where}"
            yield Misfit(field, getattr(request, field), nearest, why)
            return


def _memory_limits(request: Request, partition: Partition) -> Iterator[tuple[int, str]]:
    if partition.memory_per_node is not None:
        yield partition.memory_per_node, "on a node"
    if partition.memory_per_core and partition.cores_per_node:
        # Each task gets as many cores as the others.
        cores = partition.cores_per_node // request.tasks_per_node * request.tasks_per_node
        yield partition.memory_per_core * cores, f"with {cores} cores"
    if partition.gpus and partition.gpus.memory_each is not None:
        gpus = request.gpus_per_node
        yield partition.gpus.memory_each * gpus, f"beside {gpus} GPUs"


def _check_disk(request: Request, partition: Partition) -> Iterator[Misfit]:
    asked, disk = request.local_disk, partition.local_disk
    if asked is None:
        return
    if disk is None:
        yield Misfit("local_disk", asked, None, "its nodes have no disk for jobs")
    elif disk.most is not None and asked > disk.most:
        yield Misfit("local_disk", asked, disk.most, f"at most {plain('local_disk', disk.most)}")
    elif disk.option is DiskOption.MEMORY:
        yield from _check_disk_in_memory(request, partition, asked)


def _check_disk_in_memory(request: Request, partition: Partition, asked: int) -> Iterator[Misfit]:
    most = min((limit for limit, _ in _memory_limits(request, partition)), default=None)
    if most is not None and asked >= most:
        why = f"it is kept in memory, of which there is {plain('memory_per_node', most)}"
        yield Misfit("local_disk", asked, max(most // 2, 1), why)
    elif request.memory is None:
        why = "local files are kept in memory there; say how much the job needs beside them"
        yield Misfit("memory_per_node", None, min(asked, (most or 2 * asked) - asked), why)


def _distance(asked: Request, found: Request) -> float:
    """Return how unlike two requests are: the sum of how many times each number was changed."""
    return sum(
        _change(getattr(asked, name), getattr(found, name)) for name in type(asked).__slots__
    )


def _change(asked: Any, found: Any) -> float:
    if asked == found:
        return 0
    if isinstance(asked, int) and isinstance(found, int) and asked and found:
        return abs(math.log(found / asked))
    return _FAR
