"""
Compare a profile with what its site says.

What a profile does not say cannot be wrong, and what the site did not say is unknown: neither is a
difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airflow_provider_csc.sites.model import Sharing
from airflow_provider_csc.slurm.site_facts import JobLimits, PartitionFacts
from airflow_provider_csc.slurm.values import format_memory, format_time_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_provider_csc.sites.model import Architecture, Gpus, Partition, SiteProfile
    from airflow_provider_csc.slurm.site_facts import NodeKind, SiteFacts

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a profile that the site contradicts; both values as a profile writes them."""

    field: str
    profile: str
    live: str


def compare(profile: SiteProfile, facts: SiteFacts) -> list[Difference]:
    """Return what the site says otherwise."""
    return [
        *_differ("cluster", profile.cluster, facts.cluster),
        *_differ("jobs.max_array_size", profile.jobs.max_array_size, facts.max_array_size),
        *_compare_names(profile, facts),
        *(
            Difference(f"partitions.{name}.{each.field}", each.profile, each.live)
            for name, partition in profile.partitions.items()
            if (live := (facts.partitions or {}).get(name))
            for each in _compare_partition(partition, live, facts, profile.architecture)
        ),
    ]


def _differ(
    field: str, said: object, live: object, show: Callable[..., str] = str
) -> Iterator[Difference]:
    if said is not None and live is not None and said != live:
        yield Difference(field, show(said), show(live))


def _compare_names(profile: SiteProfile, facts: SiteFacts) -> Iterator[Difference]:
    if facts.partitions is None or not profile.partitions:
        return
    for name in sorted(set(profile.partitions) - set(facts.partitions)):
        yield Difference(f"partitions.{name}", "there", "not there")
    for name in sorted(set(facts.partitions) - {*profile.partitions, *profile.other_partitions}):
        if _concerns(facts.partitions[name], facts, profile.architecture):
            yield Difference(f"partitions.{name}", "not there", "there")


def _concerns(live: PartitionFacts, facts: SiteFacts, own: Architecture | None) -> bool:
    """Whether a user of a site should find a partition in its profile."""
    accounts = {account for account, _ in facts.associations or {}}
    is_open = live.accounts is None or not accounts or bool(live.accounts & accounts)
    # The other half of a machine has a profile of its own.
    of_nodes = {kind.architecture for kind in _nodes_of(live, facts)} - {None}
    is_of_this_half = own is None or not of_nodes or own.value in of_nodes
    return live.is_up and not live.is_hidden and is_open and is_of_this_half


def _nodes_of(live: PartitionFacts, facts: SiteFacts) -> list[NodeKind]:
    return [kind for kind in facts.nodes or () if live.name in kind.partitions]


def _compare_partition(
    said: Partition, live: PartitionFacts, facts: SiteFacts, architecture: Architecture | None
) -> Iterator[Difference]:
    nodes = _nodes_of(live, facts)
    of_job = _quality(live, facts, "of_job")
    jobs = _job_limits(live, facts)
    if live.hands_out_nodes and said.sharing is not Sharing.NODES:
        yield Difference("sharing", said.sharing.value, Sharing.NODES.value)
    if said.max_time is not None and said.max_time != live.max_seconds:
        yield Difference("max_time", format_time_limit(said.max_time), _limit(live.max_seconds))
    if said.least_nodes != live.least_nodes:
        yield Difference("least_nodes", str(said.least_nodes), str(live.least_nodes))
    yield from _compare_nodes(said.max_nodes, live, _least(live.max_nodes, of_job.get("node")))
    yield from _differ("cores_per_node", said.cores_per_node, _most(n.cores for n in nodes))
    yield from _compare_memory(said, live, facts)
    yield from _compare_gpus(said.gpus, nodes)
    wanted = said.architecture or architecture
    found = sorted({kind.architecture for kind in nodes if kind.architecture})
    if wanted and found and found != [wanted.value]:
        yield Difference("architecture", wanted.value, ", ".join(found))
    yield from _differ("max_submitted", said.max_submitted, jobs.max_submitted)
    yield from _differ("max_running", said.max_running, jobs.max_running)


def _compare_nodes(
    said: int | None, live: PartitionFacts, limit: int | None
) -> Iterator[Difference]:
    if limit is None and said is not None and said < (live.nodes or 0):
        yield Difference("max_nodes", str(said), "no limit")
    yield from _differ("max_nodes", said, limit)


def _limit(seconds: int | None) -> str:
    return "no limit" if seconds is None else format_time_limit(seconds)


def _compare_memory(
    said: Partition, live: PartitionFacts, facts: SiteFacts
) -> Iterator[Difference]:
    most = _most(kind.memory_bytes for kind in _nodes_of(live, facts))
    limits = [live.memory_bytes, _quality(live, facts, "of_node").get("mem")]
    if said.max_nodes == 1:
        limits.append(_quality(live, facts, "of_job").get("mem"))
    found = _least(most, *limits)
    # Sites publish whole GiB, and configure a little less or more.
    if said.memory_per_node and found and abs(said.memory_per_node - found) >= _GIB:
        told = format_memory(said.memory_per_node)
        yield Difference("memory_per_node", told, format_memory(found))


def _compare_gpus(said: Gpus | None, nodes: list[NodeKind]) -> Iterator[Difference]:
    if not nodes:
        return
    kinds = {gpu for kind in nodes for gpu in kind.gpus}
    most = max((sum(count for _, count in kind.gpus) for kind in nodes), default=0)
    types = sorted({name for name, _ in kinds if name})
    if said is None:
        # Nodes with GPUs may be among those of a partition that is not meant for them.
        if all(kind.gpus for kind in nodes):
            yield Difference("gpus", "none", f"{', '.join(types) or 'gpu'}:{most}")
        return
    if said.per_node != most:
        yield Difference("gpus.per_node", str(said.per_node), str(most))
    if said.type and types and said.type not in types:
        yield Difference("gpus.type", said.type, ", ".join(types))


def _quality(
    live: PartitionFacts, facts: SiteFacts, field: Literal["of_job", "of_node"]
) -> dict[str, int]:
    found = (facts.qualities or {}).get(live.quality or "")
    return dict(getattr(found, field)) if found else {}


def _job_limits(live: PartitionFacts, facts: SiteFacts) -> JobLimits:
    """Return the limits of the partition's quality, and of the account that allows most there."""
    found = (facts.qualities or {}).get(live.quality or "")
    own = found.jobs if found else JobLimits()
    accounts = {account for account, _ in facts.associations or {}}
    open_to = [each for each in accounts if live.accounts is None or each in live.accounts]
    mine = [_association(each, live.name, facts) for each in open_to]
    return JobLimits(
        max_running=_least(own.max_running, _most_allowed(each.max_running for each in mine)),
        max_submitted=_least(own.max_submitted, _most_allowed(each.max_submitted for each in mine)),
    )


def _association(account: str, partition: str, facts: SiteFacts) -> JobLimits:
    known = facts.associations or {}
    return known.get((account, partition)) or known.get((account, "")) or JobLimits()


def _most_allowed(limits: Iterable[int | None]) -> int | None:
    """Return the highest of some limits, of which None is none."""
    all_of_them = list(limits)
    return None if None in all_of_them else _most(all_of_them)


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)
