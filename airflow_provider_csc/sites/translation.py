"""Make options of sbatch of what a job needs: the partition, its syntax, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.sites.billing import Allocation
from airflow_provider_csc.sites.fitting import (
    adapt,
    find_misfits,
    find_nearest,
    memory_with_disk,
)
from airflow_provider_csc.sites.model import DiskOption, GpuOption, Sharing
from airflow_provider_csc.slurm.values import format_memory, format_time_limit, parse_time_limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_csc.sites.model import Partition, SiteProfile
    from airflow_provider_csc.sites.resources import Request

_GIB = 2**30
# What of sbatch says the same as one of the fields; two that say it would contradict each other.
_SAID_BY = {
    "nodes": ("nodes",),
    "ntasks-per-node": ("ntasks-per-node", "ntasks"),
    "cpus-per-task": ("cpus-per-task",),
    "mem": ("mem", "mem-per-cpu", "mem-per-gpu"),
    "mem-per-cpu": ("mem", "mem-per-cpu", "mem-per-gpu"),
    "mem-per-gpu": ("mem", "mem-per-cpu", "mem-per-gpu"),
    "gres": ("gres", "gpus", "gpus-per-node", "gpus-per-task"),
    "gpus-per-node": ("gres", "gpus", "gpus-per-node", "gpus-per-task"),
    "time": ("time",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """
    What a request is on a site.

    ``partition`` is None where neither the user nor the profile names one; ``reasons`` say in
    sentences what was chosen and why.
    """

    options: dict[str, str]
    partition: str | None
    allocation: Allocation
    reasons: tuple[str, ...] = ()


def translate(
    request: Request, profile: SiteProfile, options: Mapping[str, object] | None = None
) -> Translation:
    """
    Return the options of a request on a site, beside those that the user gave (parsed, by name).

    Where these name no partition, the cheapest one is chosen that can give everything.

    :raises ConfigError: for what the site cannot give, with the nearest that it can, and for an
        option that says what the request says, too.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    if request.time is None and "time" in given:
        request = replace(request, time=parse_time_limit(str(given.pop("time"))))
    name, reasons = _choose(request, profile, given.get("partition"))
    partition = profile.partitions.get(name or "")
    adapted = adapt(request, partition) if partition else request
    if adapted.cores > request.cores:
        reasons.append(
            f"cpus_per_task is raised from {request.cpus_per_task} to {adapted.cpus_per_task}: "
            f"memory follows cores in {name}."
        )
    made = _options_of(adapted, partition)
    _refuse_twice(made, given)
    if name is not None:
        made["partition"] = name
    return Translation(
        options={**_required(partition, given), **made},
        partition=name,
        allocation=_allocate(adapted, partition),
        reasons=(*reasons, *_remarks(adapted, name, partition)),
    )


def _choose(request: Request, profile: SiteProfile, named: object) -> tuple[str | None, list[str]]:
    if named is not None:
        return _check_named(request, profile, str(named)), []
    if not profile.partitions:
        return None, []
    fitting = [
        name
        for name, partition in profile.partitions.items()
        if partition.is_automatic and not any(find_misfits(request, partition))
    ]
    if not fitting:
        raise _refuse(request, profile)
    best = min(fitting, key=lambda name: _rank(request, profile, name))
    return best, [_explain_choice(request, profile, best, fitting)]


def _check_named(request: Request, profile: SiteProfile, name: str) -> str:
    partition = profile.partitions.get(name)
    # Of a partition that is not in the profile, or of several, Slurm decides.
    misfits = list(find_misfits(request, partition)) if partition else []
    if partition is None or not misfits:
        return name
    nearest = find_nearest(request, partition)
    raise _error(
        f"partition {name} of {profile.name} cannot give {request.describe()}: "
        f"{'; '.join(map(str, misfits))}.",
        f"The nearest that it can: {nearest[0].describe()}." if nearest else "",
        request,
    )


def _rank(request: Request, profile: SiteProfile, name: str) -> tuple[float, float]:
    """Order partitions by price, then by how short their jobs are: these start sooner."""
    partition, formula = profile.partitions[name], profile.billing_of(name)
    price = formula.per_hour(_allocate(adapt(request, partition), partition)) if formula else 0
    return price, partition.max_time or float("inf")


def _explain_choice(request: Request, profile: SiteProfile, chosen: str, fitting: list[str]) -> str:
    partition, formula = profile.partitions[chosen], profile.billing_of(chosen)
    price = ""
    if formula:
        hourly = formula.per_hour(_allocate(adapt(request, partition), partition))
        price = f", {hourly:g} {formula.unit} for each hour"
    others = [name for name in fitting if name != chosen]
    if not others:
        return f"Partition {chosen} is the only one of {profile.name} that can give this{price}."
    return f"Partition {chosen}{price}; {', '.join(others)} could give this as well."


def _refuse(request: Request, profile: SiteProfile) -> ConfigError:
    """Return the error for a request that no partition can give."""
    parts = []
    if nearest := _find_nearest_of_all(request, profile):
        name, found = nearest
        misfits = "; ".join(map(str, find_misfits(request, profile.partitions[name])))
        parts.append(f"The nearest is {found.describe()} in partition {name} (there, {misfits}).")
    parts += [
        f"Partition {name} could give it; it "
        + (f"needs {partition.gate}." if partition.gate else "is not chosen unless it is named.")
        for name, partition in profile.partitions.items()
        if not partition.is_automatic and not any(find_misfits(request, partition))
    ]
    problem = f"no partition of {profile.name} is for {request.describe()}."
    return _error(problem, " ".join(parts), request)


def _find_nearest_of_all(request: Request, profile: SiteProfile) -> tuple[str, Request] | None:
    nearest = [
        (found[1], name, found[0])
        for name, partition in profile.partitions.items()
        if partition.is_automatic and (found := find_nearest(request, partition))
    ]
    return min(nearest, key=lambda each: each[0])[1:] if nearest else None


def _options_of(request: Request, partition: Partition | None) -> dict[str, str]:
    options = {
        "nodes": str(request.nodes),
        "ntasks-per-node": str(request.tasks_per_node),
        "cpus-per-task": str(request.cpus_per_task),
    }
    options.update(_memory_options(request, partition))
    options.update(_gpu_options(request, partition))
    if request.time is not None:
        options["time"] = format_time_limit(request.time)
    return options


def _memory_options(request: Request, partition: Partition | None) -> dict[str, str]:
    if partition and partition.sharing is not Sharing.RESOURCES:
        return {}
    memory = memory_with_disk(request, partition) if partition else request.memory
    if memory is not None and memory == request.memory and request.memory_per_cpu is not None:
        return {"mem-per-cpu": format_memory(request.memory_per_cpu)}
    if memory is not None:
        return {"mem": format_memory(memory)}
    if partition and partition.gpus and partition.gpus.memory_each is not None:
        return {"mem-per-gpu": format_memory(partition.gpus.memory_each)}
    return {}


def _gpu_options(request: Request, partition: Partition | None) -> dict[str, str]:
    gpus = partition.gpus if partition else None
    kind = request.gpu_type or (gpus.type if gpus else None)
    count = f"{kind}:{request.gpus_per_node}" if kind else str(request.gpus_per_node)
    is_gres = gpus is not None and gpus.option is GpuOption.GRES
    gres = [f"gpu:{count}"] if request.gpus_per_node and is_gres else []
    disk = partition.local_disk if partition else None
    if request.local_disk and disk and disk.option is DiskOption.GRES_NVME:
        gres.append(f"nvme:{-(-request.local_disk // _GIB)}")
    options = {"gres": ",".join(gres)} if gres else {}
    if request.gpus_per_node and not is_gres:
        options["gpus-per-node"] = count
    return options


def _allocate(request: Request, partition: Partition | None) -> Allocation:
    """Return what a job is given in all, which can be more than it asks for."""
    gpus = request.gpus_per_node * request.nodes
    cores, memory = request.cores, request.memory or 0
    if partition:
        cores, memory = _given_on_node(request, partition)
    is_billed = partition and partition.local_disk
    disk = request.local_disk or 0
    if not is_billed or is_billed.option is not DiskOption.GRES_NVME:
        disk = 0
    return Allocation(
        nodes=request.nodes,
        cores=cores * request.nodes,
        memory_bytes=memory * request.nodes,
        gpus=gpus,
        local_disk_bytes=disk * request.nodes,
    )


def _given_on_node(request: Request, partition: Partition) -> tuple[int, int]:
    """Return cores and bytes of memory of each node."""
    asked = memory_with_disk(request, partition) or 0
    gpus, count = partition.gpus, request.gpus_per_node
    match partition.sharing:
        case Sharing.NODES:
            return partition.cores_per_node or request.cores, partition.memory_per_node or asked
        case Sharing.CORES:
            return request.cores, (partition.memory_per_core or 0) * request.cores or asked
        case Sharing.GPUS if gpus:
            cores = (gpus.cores_each or 0) * count or request.cores
            return cores, (gpus.memory_each or 0) * count or asked
        case _:
            default = gpus.memory_each * count if gpus and gpus.memory_each else 0
            return request.cores, asked or default


def _remarks(request: Request, name: str | None, partition: Partition | None) -> Iterator[str]:
    if partition is None:
        return
    cores = partition.cores_per_node
    if partition.sharing is Sharing.NODES and cores and request.cores < cores:
        yield (
            f"Partition {name} gives whole nodes: {request.cores} of {cores} cores are asked for, "
            "and all are paid for."
        )
    disk = partition.local_disk
    if request.local_disk and disk:
        yield f"Local files go to {disk.path}."


def _required(partition: Partition | None, given: Mapping[str, object]) -> dict[str, str]:
    """Return what every job of a partition has to have, unless the user says it."""
    options = partition.options if partition else {}
    return {
        name: value
        for name, value in options.items()
        if not {name, *_SAID_BY.get(name, ())} & given.keys()
    }


def _refuse_twice(made: Mapping[str, str], given: Mapping[str, object]) -> None:
    for name in made:
        twice = next((each for each in _SAID_BY.get(name, ()) if each in given), None)
        if twice:
            raise ConfigError(
                f"options.{twice}: {given[twice]!r} is said by resources as well. Leave it out of "
                "one of them.",
                field=f"options.{twice}",
                value=given[twice],
            )


def _error(problem: str, remedy: str, request: Request) -> ConfigError:
    return ConfigError(
        f"resources: {problem} {remedy}".rstrip(), field="resources", value=request.describe()
    )
