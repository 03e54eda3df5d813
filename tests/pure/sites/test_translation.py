"""What a request becomes on Roihu and LUMI, and what is said where they cannot give it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.sites.fitting import find_misfits, find_nearest
from airflow_provider_csc.sites.load import load_profile
from airflow_provider_csc.sites.resources import Request, Resources, read_resources
from airflow_provider_csc.sites.translation import Translation, translate
from airflow_provider_csc.slurm.options import parse_options

SITES = ("roihu-cpu", "roihu-gpu", "lumi")


def on(site: str, options: dict[str, Any] | None = None, **resources: Any) -> Translation:
    request = read_resources(Resources(**resources))
    return translate(request, load_profile(site), parse_options(options or {}))


CASES = [
    # Roihu: a part of a node is `small`; --mem is for each node.
    (
        "roihu-cpu",
        {"cpus_per_task": 8, "memory_per_node": "16G", "time": "02:00:00"},
        {
            "partition": "small",
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": "8",
            "mem": "16G",
            "time": "0-02:00:00",
        },
    ),
    # Longer than small's three days.
    (
        "roihu-cpu",
        {"tasks_per_node": 4, "memory_per_cpu": "2G", "time": "4-00:00:00"},
        {
            "partition": "longrun",
            "nodes": "1",
            "ntasks-per-node": "4",
            "cpus-per-task": "1",
            "mem-per-cpu": "2G",
            "time": "4-00:00:00",
        },
    ),
    # Two nodes are whole nodes, whose memory is not asked for.
    (
        "roihu-cpu",
        {"nodes": 2, "tasks_per_node": 384, "memory_per_node": "700G"},
        {
            "partition": "medium",
            "nodes": "2",
            "ntasks-per-node": "384",
            "cpus-per-task": "1",
        },
    ),
    # More memory than small has: in hugemem it follows the cores, 2000 GiB need 43 of 128.
    (
        "roihu-cpu",
        {"memory_per_node": "2000G", "local_disk": "500G"},
        {
            "partition": "hugemem",
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": "43",
            "gres": "nvme:500",
        },
    ),
    (
        "roihu-gpu",
        {"gpus_per_node": 2, "cpus_per_task": 144, "time": "1-00:00:00"},
        {
            "partition": "gpumedium",
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": "144",
            "gres": "gpu:gh200:2",
            "time": "1-00:00:00",
        },
    ),
    # LUMI: GCDs by --gpus-per-node; each comes with the memory that costs nothing more.
    (
        "lumi",
        {"gpus_per_node": 2, "cpus_per_task": 14, "time": "1-00:00:00"},
        {
            "partition": "small-g",
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": "14",
            "mem-per-gpu": "60G",
            "gpus-per-node": "2",
            "time": "1-00:00:00",
        },
    ),
    # Eight GCDs are a whole node, for the same price in both: the shorter partition starts sooner.
    (
        "lumi",
        {"nodes": 8, "gpus_per_node": 8, "tasks_per_node": 8, "cpus_per_task": 7},
        {
            "partition": "standard-g",
            "nodes": "8",
            "ntasks-per-node": "8",
            "cpus-per-task": "7",
            "gpus-per-node": "8",
        },
    ),
    # Files on LUMI's nodes lie in memory, which has to be asked for.
    (
        "lumi",
        {"cpus_per_task": 4, "memory_per_node": "8G", "local_disk": "20G"},
        {
            "partition": "small",
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": "4",
            "mem": "28G",
        },
    ),
    (
        "lumi",
        {"nodes": 16, "tasks_per_node": 128},
        {
            "partition": "standard",
            "nodes": "16",
            "ntasks-per-node": "128",
            "cpus-per-task": "1",
            "mem": "0",
        },
    ),
    # Nothing is known of a generic site, which gets what was said.
    (
        "generic",
        {"gpus_per_node": 1, "gpu_type": "a100", "memory_per_node": "4G"},
        {
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": "1",
            "mem": "4G",
            "gpus-per-node": "a100:1",
        },
    ),
]


@pytest.mark.parametrize(("site", "resources", "options"), CASES)
def test_a_request_becomes_the_sites_own_options(
    site: str, resources: dict[str, Any], options: dict[str, str]
) -> None:
    assert on(site, **resources).options == options


@pytest.mark.parametrize(("site", "resources", "options"), CASES)
def test_what_it_becomes_is_what_sbatch_reads(
    site: str, resources: dict[str, Any], options: dict[str, str]
) -> None:
    assert parse_options(options) == options


REFUSED = [
    ("roihu-cpu", {"gpus_per_node": 1}, ["gpus_per_node=1: it has no GPUs", "vizinteractive"]),
    ("roihu-gpu", {}, ["gpumedium", "gpus_per_node=0: it is for jobs with GPUs"]),
    (
        "roihu-cpu",
        {"nodes": 40, "tasks_per_node": 384},
        ["nodes=6", "medium", "large could give it; it needs a scalability test"],
    ),
    ("roihu-cpu", {"cpus_per_task": 400}, ["cpus_per_task=384", "at most 384 cores on a node"]),
    ("roihu-cpu", {"time": "11-00:00:00"}, ["time='10-00:00:00'", "longrun"]),
    (
        "roihu-gpu",
        {"gpus_per_node": 1, "cpus_per_task": 100},
        ["at most 72 cores beside 1 GPUs", "cpus_per_task=72"],
    ),
    (
        "roihu-gpu",
        {"nodes": 2, "gpus_per_node": 4},
        ["at most 4 in all", "Resources(nodes=2, gpus_per_node=2)", "gpularge could give it"],
    ),
    ("lumi", {"gpus_per_node": 1, "cpus_per_task": 8}, ["at most 7 cores beside 1 GPUs"]),
    ("lumi", {"gpus_per_node": 8, "cpus_per_task": 64}, ["at most 56 cores"]),
    (
        "lumi",
        {"gpus_per_node": 1, "memory_per_node": "64G"},
        ["at most 60G beside 1 GPUs", "memory_per_node='60G'"],
    ),
    ("lumi", {"local_disk": "20G"}, ["memory_per_node='20G'", "kept in memory"]),
    ("lumi", {"gpus_per_node": 1, "gpu_type": "mi250x"}, ["its GPUs have no name"]),
]


@pytest.mark.parametrize(("site", "resources", "said"), REFUSED)
def test_what_a_site_cannot_give_is_refused_with_the_nearest_that_it_can(
    site: str, resources: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        on(site, **resources)

    for words in said:
        assert words in str(refusal.value)


def test_a_named_partition_is_taken_and_checked() -> None:
    assert on("roihu-cpu", {"partition": "test"}, nodes=2, time="10").partition == "test"
    with pytest.raises(ConfigError, match=r"time='0-00:30:00': at most 0-00:15:00"):
        on("roihu-cpu", {"partition": "test"}, time="30")


def test_a_partition_the_profile_does_not_know_is_slurms_to_judge() -> None:
    made = on("roihu-cpu", {"partition": "secret"}, nodes=99)

    assert (made.partition, made.options["nodes"]) == ("secret", "99")


def test_a_time_among_the_options_chooses_the_partition_too() -> None:
    assert on("roihu-cpu", {"time": "5-00:00:00"}).partition == "longrun"


@pytest.mark.parametrize(
    ("name", "value", "resources"),
    [
        ("nodes", "2", {}),
        ("ntasks", "4", {}),
        ("mem-per-cpu", "2G", {"memory_per_node": "2G"}),
        ("gres", "gpu:1", {"gpus_per_node": 1}),
        ("time", "10", {"time": "20"}),
    ],
)
def test_what_is_said_twice_is_refused(name: str, value: str, resources: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"options.{name}.*said by resources as well"):
        on("generic", {name: value}, **resources)


def test_whole_nodes_are_told_of_where_parts_were_asked_for() -> None:
    made = on("roihu-cpu", nodes=2, tasks_per_node=10)

    assert any("10 of 384 cores" in reason for reason in made.reasons)
    assert made.allocation.cores == 768


def test_the_choice_names_its_price_and_the_others() -> None:
    [reason] = on("roihu-cpu", cpus_per_task=8, time="60").reasons

    assert reason.startswith("Partition small, 6 CPU BU for each hour")
    assert "longrun" in reason


requests = st.builds(
    Request,
    nodes=st.integers(1, 2000),
    tasks_per_node=st.integers(1, 1000),
    cpus_per_task=st.integers(1, 1000),
    memory_per_node=st.none() | st.integers(2**20, 2**44),
    gpus_per_node=st.integers(0, 16),
    local_disk=st.none() | st.integers(2**20, 2**44),
    time=st.none() | st.integers(60, 10**7),
)


@given(request=requests, site=st.sampled_from(SITES))
def test_any_request_is_given_or_refused_with_what_would_be_given(
    request: Request, site: str
) -> None:
    profile = load_profile(site)
    if not any(
        partition.is_automatic and not any(find_misfits(request, partition))
        for partition in profile.partitions.values()
    ):
        with pytest.raises(ConfigError, match="The nearest is"):
            translate(request, profile)
        return
    made = translate(request, profile)
    assert made.partition
    assert not list(find_misfits(request, profile.partitions[made.partition]))
    assert parse_options(made.options) == made.options


@given(request=requests, site=st.sampled_from(SITES))
def test_what_is_called_nearest_can_be_had(request: Request, site: str) -> None:
    for partition in load_profile(site).partitions.values():
        found = find_nearest(request, partition)
        assert found is None or not list(find_misfits(found[0], partition))
