"""
What a job costs, worked out by hand from the formulas as the sites publish them.

CSC user guide, computing/hpc-billing.md; LUMI user guide, runjobs/lumi_env/billing.md (2026). Each
sum is written out, so that it can be checked without this package.
"""

from __future__ import annotations

import pytest

from airflow_provider_csc.sites.estimate import (
    Cost,
    Estimate,
    Unknown,
    compute_cost,
    estimate_worst_case,
    format_units,
)
from airflow_provider_csc.sites.load import load_profile
from airflow_provider_csc.sites.model import SiteProfile
from airflow_provider_csc.slurm.options import parse_options
from airflow_provider_csc.slurm.tres import Share


def estimate(site: str, **options: object) -> Estimate | Unknown:
    return estimate_worst_case(parse_options(options), load_profile(site))


def units(site: str, **options: object) -> tuple[float, str]:
    found = estimate(site, **options)
    assert isinstance(found, Estimate), found
    return round(found.units, 6), found.unit


def why(site: str, **options: object) -> str:
    found = estimate(site, **options)
    assert isinstance(found, Unknown), found
    return found.why


# ---- Roihu: before submission ----


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        # small: max(0.75 * cores, 0.375 * GiB) * hours.
        # 16 cores, 16 GiB, 2 h: max(0.75 * 16 = 12, 0.375 * 16 = 6) = 12; 12 * 2 = 24.
        ({"cpus_per_task": 16, "mem": "16G"}, 24.0),
        # 16 cores, 64 GiB, 2 h: max(12, 0.375 * 64 = 24) = 24; 24 * 2 = 48.
        ({"cpus_per_task": 16, "mem": "64G"}, 48.0),
        # 10 tasks of 4 cores are 40 cores; 1 GiB for each is 40 GiB: max(30, 15) = 30; 30 * 2 = 60.
        ({"ntasks": 10, "cpus_per_task": 4, "mem_per_cpu": "1G"}, 60.0),
        # 6 tasks on a node, 1 core each, 500 MiB for each: max(4.5, 0.375 * 2.9297) = 4.5; * 2 = 9.
        ({"nodes": 1, "ntasks_per_node": 6, "mem_per_cpu": "500M"}, 9.0),
        # A node to itself has 384 cores, and with 744 GiB asked: max(288, 279) = 288; * 2 = 576.
        ({"nodes": 1, "exclusive": True, "mem": "744G"}, 576.0),
        # 50 such jobs in an array, each 1 core and 2 GiB: max(0.75, 0.75) = 0.75; * 2 * 50 = 75.
        ({"mem": "2G", "array": "1-50%4"}, 75.0),
    ],
)
def test_roihu_small(options: dict[str, object], by_hand: float) -> None:
    assert units("roihu-cpu", partition="small", time="02:00:00", **options) == (by_hand, "CPU BU")


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        # medium: 288 * nodes * hours, whatever is asked of a node. 2 nodes, 36 h: 288 * 2 * 36.
        ({"nodes": 2, "time": "1-12"}, 20736.0),
        # Slurm may take any of 2 to 6 nodes: 288 * 6 * 1 h.
        ({"nodes": "2-6", "time": "01:00:00"}, 1728.0),
        # 768 tasks of one core need two nodes of 384 cores: 288 * 2 * 0.5 h.
        ({"ntasks": 768, "time": 30}, 288.0),
        # Without a time limit the partition's own holds, 36 h: 288 * 36.
        ({"nodes": 1}, 10368.0),
        # A burst buffer of 100 GiB costs 0.02 * 100 = 2 an hour: (288 + 2) * 1.
        (
            {
                "nodes": 1,
                "time": "01:00:00",
                "bb": "#BB_LUA SBF storagesize=100G path=/run/sbb/kkayttaj",
            },
            290.0,
        ),
    ],
)
def test_roihu_medium(options: dict[str, object], by_hand: float) -> None:
    assert units("roihu-cpu", partition="medium", **options) == (by_hand, "CPU BU")


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        # hugemem: max(12 * cores, 0.25 * GiB) * hours + 0.02 * GiB of disk * hours.
        # 8 cores have 8 * 6037 / 128 = 377.3 GiB: max(96, 94.3) = 96; 3 h: 288.
        ({"cpus_per_task": 8}, 288.0),
        # 1024 GiB come with 1024 / (6037 / 128) = 21.7, so 22 cores: max(264, 256) = 264; 3 h: 792.
        ({"cpus_per_task": 8, "mem": "1024G"}, 792.0),
        # and 1000 GB of disk: 0.02 * 1000 = 20 an hour: 792 + 60.
        ({"cpus_per_task": 8, "mem": "1024G", "gres": "nvme:1000"}, 852.0),
    ],
)
def test_roihu_hugemem(options: dict[str, object], by_hand: float) -> None:
    found = units("roihu-cpu", partition="hugemem", time="03:00:00", **options)
    assert found == (by_hand, "CPU BU")


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        # 200 * GPUs * hours; cores and memory are included. 1 GPU, 12 h: 2400.
        ({"gres": "gpu:gh200:1", "cpus_per_task": 72, "mem": "200G"}, 2400.0),
        # --gres counts by node: 4 on each of 2 nodes, but 4 for a job in gpumedium: 200 * 4 * 12.
        ({"gres": "gpu:gh200:4", "nodes": 2}, 9600.0),
        ({"gpus": 2}, 4800.0),
        ({"gpus_per_task": "gh200:1", "ntasks": 3, "nodes": 1}, 7200.0),
    ],
)
def test_roihu_gpumedium(options: dict[str, object], by_hand: float) -> None:
    found = units("roihu-gpu", partition="gpumedium", time="12:00:00", **options)
    assert found == (by_hand, "GPU BU")


# ---- LUMI: before submission ----


@pytest.mark.parametrize(
    ("partition", "options", "by_hand"),
    [
        # small: max(cores, ceil(GB / 2)) * hours. 16 cores, 32 GB, 1 h: max(16, 16) = 16.
        ("small", {"cpus_per_task": 16, "mem": "32G"}, 16.0),
        # 16 cores, 64 GB: max(16, 32) = 32.
        ("small", {"cpus_per_task": 16, "mem": "64G"}, 32.0),
        # 2 cores, 5 GB: max(2, ceil(2.5) = 3) = 3.
        ("small", {"cpus_per_task": 2, "mem": "5G"}, 3.0),
        # 8 cores of 1750 MB stay at the cores' price: max(8, ceil(13.67 / 2) = 7) = 8.
        ("small", {"cpus_per_task": 8, "mem_per_cpu": "1750M"}, 8.0),
        # 6 tasks may be spread over 4 nodes, of which each has 8 GB: max(6, 32 / 2 = 16) = 16.
        ("small", {"ntasks": 6, "mem": "8G"}, 16.0),
        # On one node it is 8 GB in all: max(6, 4) = 6.
        ("small", {"ntasks": 6, "mem": "8G", "nodes": 1}, 6.0),
        # standard: 128 * nodes * hours. 4 nodes, 1 h: 512.
        ("standard", {"nodes": 4, "mem": "0"}, 512.0),
        # largemem: always 128 cores; with 1 TB: max(128, 1024 / 2 = 512) = 512.
        ("largemem", {"nodes": 1, "mem": "1T"}, 512.0),
        # and with all of its 4000 GB: max(128, 2000) = 2000.
        ("largemem", {"nodes": 1, "mem": "0"}, 2000.0),
    ],
)
def test_lumi_cpu(partition: str, options: dict[str, object], by_hand: float) -> None:
    found = units("lumi", partition=partition, time="01:00:00", **options)
    assert found == (by_hand, "core-hours")


@pytest.mark.parametrize(
    ("partition", "options", "by_hand"),
    [
        # small-g: 0.5 * max(ceil(cores / 8), ceil(GB / 64), GCDs) * hours.
        # 2 GCDs, 14 cores, 120 GB, 4 h: max(ceil(1.75) = 2, ceil(1.875) = 2, 2) = 2; 0.5 * 2 * 4.
        ("small-g", {"nodes": 1, "gpus_per_node": 2, "cpus_per_task": 14, "mem": "120G"}, 4.0),
        # 1 GCD, 7 cores, 100 GB, 4 h: max(1, ceil(1.5625) = 2, 1) = 2; 0.5 * 2 * 4 = 4.
        ("small-g", {"nodes": 1, "gpus_per_node": 1, "cpus_per_task": 7, "mem": "100G"}, 4.0),
        # 1 GCD, 7 cores, 60 GB: max(1, 1, 1) = 1; 0.5 * 1 * 4 = 2.
        ("small-g", {"nodes": 1, "gpus_per_node": 1, "cpus_per_task": 7, "mem": "60G"}, 2.0),
        # so it is by memory for each of 2 GCDs: 0.5 * max(1, ceil(120 / 64) = 2, 2) * 4 = 4.
        ("small-g", {"nodes": 1, "gpus_per_node": 2, "mem_per_gpu": "60G"}, 4.0),
        # standard-g: 4 * nodes * hours. 2 nodes, 4 h: 32.
        ("standard-g", {"nodes": 2, "gpus_per_node": 8}, 32.0),
        # 20 GCDs need 3 nodes of 8: 4 * 3 * 4 = 48.
        ("standard-g", {"gpus": 20, "ntasks": 20}, 48.0),
    ],
)
def test_lumi_gpu(partition: str, options: dict[str, object], by_hand: float) -> None:
    found = units("lumi", partition=partition, time="04:00:00", **options)
    assert found == (by_hand, "GPU-hours")


# ---- what cannot be known ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mem": "1G", "time": 5}, "no partition is named"),
        ({"partition": "smal", "time": 5}, "no partition 'smal' .it has: test, small"),
        ({"partition": "small", "time": 5}, "how much memory .* options\\['mem'\\]"),
        ({"partition": "small", "mem": "1G", "gpus_per_socket": 1}, "gpus-per-socket"),
        ({"partition": "medium", "nodes": 1, "bb": "capacity"}, "burst buffer"),
        ({"partition": "medium", "nodes": 1, "bbf": "/f"}, "burst buffer"),
        (
            {"partition": "vizinteractive"},
            "asks for nothing that partition 'vizinteractive' counts",
        ),
        ({"partition": "small,vizinteractive", "gpus": 1, "mem": "1G"}, "different units"),
    ],
)
def test_what_is_not_known_is_no_number(options: dict[str, object], words: str) -> None:
    assert why("roihu-cpu", **options)
    with pytest.raises(AssertionError, match=words):
        units("roihu-cpu", **options)


def test_a_partition_without_a_formula_or_a_time_limit_is_unknown() -> None:
    assert "what partition 'q_fiqci' costs is not known" in why("lumi", partition="q_fiqci")
    bare = SiteProfile.model_validate(
        {
            "name": "bare",
            "title": "Bare",
            "partitions": {"all": {"billing": "cores"}},
            "billing": {"cores": {"unit": "hours", "highest_of": [{"of": "cores"}]}},
        }
    )
    for limit in ({}, {"time": "UNLIMITED"}):
        found = estimate_worst_case({"partition": "all", **limit}, bare)
        assert isinstance(found, Unknown)
        assert "no time limit" in found.why
    for limit in ("1h", "1:2:3:4"):
        found = estimate_worst_case({"partition": "all", "time": limit}, bare)
        assert isinstance(found, Unknown)
        assert found.why.startswith(f"'{limit}' is not a time. Write minutes")
    known = estimate_worst_case({"partition": "all", "time": "30"}, bare)
    assert isinstance(known, Estimate)
    assert known.units == 0.5


def test_of_several_partitions_the_dearest_counts() -> None:
    # small: max(0.75, 0.375) = 0.75; medium: 288.
    assert units("roihu-cpu", partition="small,medium", mem="1G", time=60) == (288.0, "CPU BU")


def test_it_is_told_in_a_line() -> None:
    options = {"partition": "small", "cpus_per_task": 16, "mem": "16G", "time": "01:02:00"}
    assert (
        str(estimate("roihu-cpu", **options))
        == "at most 12.4 CPU BU, if it runs for its whole 01:02:00"
    )
    assert str(estimate("roihu-cpu", **options, array="0-9")) == (
        "at most 124 CPU BU, if each of its 10 tasks runs for its whole 01:02:00"
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.0412, "0.041"),
        (1, "1"),
        (12.44, "12.4"),
        (99.96, "100"),
        (1234.5, "1234"),
        (-6_600_000, "-6600000"),
        (-0.5, "-0.5"),
    ],
)
def test_units_are_rounded_for_readers(number: float, text: str) -> None:
    assert format_units(number) == text


# ---- after the job ----


def cost(site: str, *shares: tuple[str, str, int], **asked: object) -> Cost | Unknown:
    return compute_cost([Share(*each) for each in shares], load_profile(site), parse_options(asked))


@pytest.mark.parametrize(
    ("site", "share", "by_hand"),
    [
        # As seff itself says of this job in CSC's guide: one node of medium for 00:09:39, that is
        # 579 s: 288 * 579 / 3600 = 46.32.
        ("roihu-cpu", ("medium", "billing=384,cpu=384,mem=744G,node=1", 579), 46.32),
        # 16 cores, 64 GiB for 1200 s: max(12, 24) = 24; 24 / 3 = 8.
        ("roihu-cpu", ("small", "billing=24,cpu=16,mem=64G,node=1", 1200), 8.0),
        # 2 GPUs for 90 s: 200 * 2 / 40 = 10.
        ("roihu-gpu", ("gpumedium", "cpu=144,gres/gpu:gh200=2,gres/gpu=2,mem=434G,node=1", 90), 10.0),
        ("roihu-gpu", ("gpumedium", "cpu=144,gres/gpu:gh200=2,mem=434G,node=1", 90), 10.0),
        # 32 threads are 16 cores, 64 GB: max(16, 32) = 32 for half an hour: 16.
        ("lumi", ("small", "billing=16,cpu=32,mem=64G,node=1", 1800), 16.0),
        # 1 GCD, 14 threads (7 cores), 60 GB: max(1, 1, 1) = 1; 0.5 * 1 h = 0.5.
        ("lumi", ("small-g", "billing=64,cpu=14,gres/gpu=1,mem=60G,node=1", 3600), 0.5),
    ],
)  # fmt: skip
def test_what_a_job_cost_is_computed_from_what_it_was_given(
    site: str, share: tuple[str, str, int], by_hand: float
) -> None:
    found = cost(site, share)
    assert isinstance(found, Cost), found
    assert round(found.units, 6) == by_hand


def test_costs_of_several_jobs_are_added() -> None:
    # 24 an hour for 600 s, and 48 (128 GiB) for 300 s: 4 + 4.
    found = cost(
        "roihu-cpu",
        ("small", "cpu=16,mem=64G,node=1", 600),
        ("small", "cpu=16,mem=128G,node=1", 300),
    )
    assert str(found) == "8 CPU BU"


def test_what_accounting_does_not_record_is_taken_from_the_request() -> None:
    share = ("gpumedium", "billing=144,cpu=144,mem=434G,node=1", 90)
    assert str(cost("roihu-gpu", share, partition="gpumedium", gpus=2)) == "10 GPU BU"
    unknown = compute_cost([Share(*share)], load_profile("roihu-gpu"))
    assert isinstance(unknown, Unknown)
    assert "gpus" in unknown.why


def test_a_job_that_never_ran_cost_nothing_and_one_that_nobody_counted_is_unknown() -> None:
    assert cost("roihu-cpu") == Cost(units=0, unit="units")
    assert isinstance(compute_cost(None, load_profile("lumi")), Unknown)
    unknown = cost("roihu-cpu", ("elsewhere", "cpu=1,mem=1G,node=1", 5))
    assert isinstance(unknown, Unknown)
    assert "'elsewhere'" in unknown.why
