"""What of a profile a site contradicts, and what is no contradiction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_csc.sites.compare import compare
from airflow_provider_csc.sites.model import SiteProfile
from airflow_provider_csc.slurm.site_facts import (
    JobLimits,
    NodeKind,
    PartitionFacts,
    QualityLimits,
    SiteFacts,
)

GIB = 2**30
PROFILE: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "cluster": "mine",
    "architecture": "x86_64",
    "jobs": {"max_array_size": 1001},
    "partitions": {
        "small": {
            "max_time": "3-00:00:00",
            "max_nodes": 1,
            "cores_per_node": 128,
            "memory_per_node": "224G",
            "max_submitted": 220,
            "max_running": 200,
        },
        "gpu": {
            "max_time": "1-12:00:00",
            "least_nodes": 2,
            "cores_per_node": 56,
            "gpus": {"type": "mi250", "per_node": 8},
        },
    },
}
NO_LIMITS = JobLimits()


def partition(name: str, **changes: Any) -> PartitionFacts:
    values = {"is_up": True, "is_hidden": False, "hands_out_nodes": False, "nodes": 100}
    return PartitionFacts(name=name, **(values | changes))


SMALL = partition("small", max_seconds=3 * 86400, max_nodes=1, quality="small")
GPU = partition("gpu", max_seconds=36 * 3600, least_nodes=2)
PLAIN = NodeKind(
    partitions=frozenset({"small"}), architecture="x86_64", cores=128, memory_bytes=224 * GIB
)
WITH_GPUS = NodeKind(
    partitions=frozenset({"gpu"}),
    architecture="x86_64",
    cores=56,
    memory_bytes=480 * GIB,
    gpus=(("mi250", 8),),
)
QUALITY = QualityLimits(jobs=JobLimits(max_running=200, max_submitted=220), of_job={}, of_node={})
FACTS = SiteFacts(
    cluster="mine",
    max_array_size=1001,
    partitions={"small": SMALL, "gpu": GPU},
    nodes=(PLAIN, WITH_GPUS),
    associations={("project_1", ""): NO_LIMITS},
    qualities={"small": QUALITY},
)


def profile(**changes: Any) -> SiteProfile:
    return SiteProfile.model_validate(PROFILE | changes)


def with_partition(name: str, **changes: Any) -> SiteProfile:
    partitions = PROFILE["partitions"]
    return profile(partitions={**partitions, name: partitions[name] | changes})


def told(said: SiteProfile, facts: SiteFacts = FACTS) -> list[tuple[str, str, str]]:
    return [(each.field, each.profile, each.live) for each in compare(said, facts)]


def test_a_profile_that_is_true_has_no_differences() -> None:
    assert told(profile()) == []


@pytest.mark.parametrize(
    ("name", "changes", "difference"),
    [
        ("small", {"max_time": "1-00:00:00"}, ("max_time", "1-00:00:00", "3-00:00:00")),
        ("small", {"max_nodes": 4}, ("max_nodes", "4", "1")),
        ("small", {"least_nodes": 1, "cores_per_node": 64}, ("cores_per_node", "64", "128")),
        ("small", {"memory_per_node": "1000G"}, ("memory_per_node", "1000G", "224G")),
        ("small", {"architecture": "aarch64"}, ("architecture", "aarch64", "x86_64")),
        ("small", {"max_submitted": 5}, ("max_submitted", "5", "220")),
        ("small", {"max_running": 5}, ("max_running", "5", "200")),
        ("small", {"gpus": {"per_node": 1}}, ("gpus.per_node", "1", "0")),
        ("gpu", {"least_nodes": 1}, ("least_nodes", "1", "2")),
        ("gpu", {"gpus": {"type": "mi250", "per_node": 4}}, ("gpus.per_node", "4", "8")),
        ("gpu", {"gpus": {"type": "a100", "per_node": 8}}, ("gpus.type", "a100", "mi250")),
        ("gpu", {"gpus": None}, ("gpus", "none", "mi250:8")),
    ],
)
def test_a_field_of_a_partition_that_differs_is_told(
    name: str, changes: dict[str, Any], difference: tuple[str, str, str]
) -> None:
    field, said, live = difference
    assert told(with_partition(name, **changes)) == [(f"partitions.{name}.{field}", said, live)]


def test_a_field_of_the_site_that_differs_is_told() -> None:
    said = profile(cluster="yours", jobs={"max_array_size": 10})
    assert told(said) == [
        ("cluster", "yours", "mine"),
        ("jobs.max_array_size", "10", "1001"),
    ]


def test_what_a_profile_does_not_say_cannot_differ() -> None:
    assert told(SiteProfile(name="mine", title="Mine")) == []
    bare = {"small": {}, "gpu": {"least_nodes": 2, "gpus": {"per_node": 8}}}
    assert told(profile(partitions=bare)) == []


def test_what_a_site_did_not_say_is_no_difference() -> None:
    assert told(profile(), SiteFacts(unanswered={"config": "refused"})) == []
    assert told(profile(), replace(FACTS, nodes=None)) == []
    assert told(profile(), replace(FACTS, associations=None, qualities=None)) == []


def test_a_partition_that_is_gone_is_told() -> None:
    assert told(profile(), replace(FACTS, partitions={"gpu": GPU})) == [
        ("partitions.small", "there", "not there")
    ]


def with_new(**changes: Any) -> SiteFacts:
    new = partition("new", **changes)
    return replace(FACTS, partitions={**(FACTS.partitions or {}), "new": new})


@pytest.mark.parametrize("changes", [{}, {"accounts": frozenset({"project_1", "staff"})}])
def test_a_partition_that_has_come_is_told(changes: dict[str, Any]) -> None:
    assert told(profile(), with_new(**changes)) == [("partitions.new", "not there", "there")]


@pytest.mark.parametrize(
    "changes", [{"is_up": False}, {"is_hidden": True}, {"accounts": frozenset({"staff"})}]
)
def test_a_partition_that_is_not_for_the_user_is_not_missed(changes: dict[str, Any]) -> None:
    assert told(profile(), with_new(**changes)) == []


def test_a_partition_that_is_left_out_on_purpose_is_not_missed() -> None:
    assert told(profile(other_partitions=["new"]), with_new()) == []


def test_a_partition_of_the_other_half_of_a_machine_is_not_missed() -> None:
    nodes = (*(FACTS.nodes or ()), replace(PLAIN, partitions=frozenset({"new"})))
    here = replace(with_new(), nodes=nodes)
    arm = replace(PLAIN, partitions=frozenset({"new"}), architecture="aarch64")
    there = replace(with_new(), nodes=(*(FACTS.nodes or ()), arm))
    assert len(told(profile(), here)) == 1
    assert told(profile(), there) == []


def test_memory_that_is_no_whole_gib_is_compared_by_gib() -> None:
    nodes = (replace(PLAIN, memory_bytes=224 * GIB + 500 * 2**20), WITH_GPUS)
    assert told(profile(), replace(FACTS, nodes=nodes)) == []


@pytest.mark.parametrize(
    ("small", "quality"),
    [
        (replace(SMALL, memory_bytes=64 * GIB), QUALITY),
        (SMALL, replace(QUALITY, of_node={"mem": 64 * GIB})),
        (SMALL, replace(QUALITY, of_job={"mem": 64 * GIB})),
    ],
)
def test_the_memory_of_a_node_is_what_limits_leave_of_it(
    small: PartitionFacts, quality: QualityLimits
) -> None:
    facts = replace(FACTS, partitions={"small": small, "gpu": GPU}, qualities={"small": quality})
    assert told(with_partition("small", memory_per_node="64G"), facts) == []
    assert [each[0] for each in told(profile(), facts)] == ["partitions.small.memory_per_node"]


def test_the_largest_nodes_of_a_partition_count() -> None:
    nodes = (PLAIN, replace(PLAIN, memory_bytes=64 * GIB, cores=32), WITH_GPUS)
    assert told(profile(), replace(FACTS, nodes=nodes)) == []


def test_some_nodes_with_gpus_make_no_partition_for_gpus() -> None:
    shared = replace(
        WITH_GPUS, partitions=frozenset({"small", "gpu"}), memory_bytes=PLAIN.memory_bytes
    )
    nodes = (PLAIN, shared)
    assert told(profile(), replace(FACTS, nodes=nodes)) == []


def test_the_lower_of_two_limits_on_jobs_counts() -> None:
    limits = {("project_1", ""): JobLimits(max_submitted=100)}
    assert told(profile(), replace(FACTS, associations=limits)) == [
        ("partitions.small.max_submitted", "220", "100")
    ]


def test_an_association_of_a_partition_goes_before_that_of_all() -> None:
    limits = {
        ("project_1", ""): JobLimits(max_submitted=100),
        ("project_1", "small"): JobLimits(max_submitted=50),
    }
    assert told(profile(), replace(FACTS, associations=limits)) == [
        ("partitions.small.max_submitted", "220", "50")
    ]


def test_of_several_accounts_the_one_that_allows_most_counts() -> None:
    limits = {("a", ""): JobLimits(max_submitted=100), ("b", ""): NO_LIMITS}
    assert told(profile(), replace(FACTS, associations=limits)) == []


def test_whole_nodes_are_told() -> None:
    whole = {"small": replace(SMALL, hands_out_nodes=True), "gpu": GPU}
    assert told(profile(), replace(FACTS, partitions=whole)) == [
        ("partitions.small.sharing", "resources", "nodes")
    ]


def test_a_limit_that_the_site_does_not_have_is_told() -> None:
    free = {"small": replace(SMALL, max_seconds=None, max_nodes=None), "gpu": GPU}
    assert told(profile(), replace(FACTS, partitions=free)) == [
        ("partitions.small.max_time", "3-00:00:00", "no limit"),
        ("partitions.small.max_nodes", "1", "no limit"),
    ]
