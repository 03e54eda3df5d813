"""A job that could have asked for less is told how, and others are left alone."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_csc.slurm.advice import advise
from airflow_provider_csc.slurm.result import JobResult

GIB = 2**30
# An hour on 16 cores and 64 GiB, of which it used 1 and 3.1.
WASTEFUL: dict[str, Any] = {
    "job_id": "7",
    "state": "COMPLETED",
    "elapsed_seconds": 3600,
    "cpus": 16,
    "cpu_efficiency": 0.0625,
    "granted_memory_bytes": 64 * GIB,
    "memory_efficiency": 0.0484,
    "node_count": 1,
}


def said(threads_per_core: int = 1, **fields: Any) -> list[str]:
    return advise(JobResult(**WASTEFUL | fields), threads_per_core=threads_per_core)


def test_memory_and_cores_are_told_with_what_would_do() -> None:
    assert said() == ["used 3.1 of 64 GiB; ask for 4", "1 of 16 cores busy"]


@pytest.mark.parametrize(
    "fields",
    [
        {"elapsed_seconds": 299},
        {"elapsed_seconds": None},
        {"state": "FAILED"},
        {"shares": [["gpu", "cpu=16,mem=64G,gres/gpu=1,node=1", 3600]]},
        {"memory_efficiency": None, "cpu_efficiency": None},
        {"memory_efficiency": 0.5, "cpu_efficiency": 0.5},
        {"granted_memory_bytes": 4 * GIB - 1, "cpus": 1},
    ],
)
def test_others_are_left_alone(fields: dict[str, Any]) -> None:
    assert said(**fields) == []


@pytest.mark.parametrize(
    ("granted", "used", "text"),
    [
        # A quarter more than was used, in whole GiB, has to be half of it or less.
        (4.0, 0.001, ["used 0 of 4 GiB; ask for 1"]),
        (8.0, 3.2, ["used 3.2 of 8 GiB; ask for 4"]),
        (8.0, 3.21, []),
        (100.0, 40.0, ["used 40 of 100 GiB; ask for 50"]),
        (100.0, 40.1, []),
    ],
)
def test_a_margin_is_left(granted: float, used: float, text: list[str]) -> None:
    fields = {"granted_memory_bytes": int(granted * GIB), "memory_efficiency": used / granted}
    assert said(**fields, cpus=1) == text


def test_memory_on_several_nodes_is_told_for_each() -> None:
    assert said(node_count=4, cpus=1) == ["used 3.1 of 64 GiB; ask for 1 on each of 4 nodes"]


def test_of_an_array_it_is_the_largest_task() -> None:
    assert said(array={}, cpus=1) == ["the largest task used 3.1 of 64 GiB; ask for 4"]


@pytest.mark.parametrize(
    ("cpus", "efficiency", "threads", "text"),
    [
        (2, 0.5, 1, []),
        (2, 0.49, 1, ["1 of 2 cores busy"]),
        (3, 0.34, 1, ["1 of 3 cores busy"]),
        # One thread of each core is busy: that is all of them.
        (16, 0.5, 2, []),
        (16, 0.125, 2, ["2 of 8 cores busy"]),
    ],
)
def test_cores_are_counted_as_such(
    cpus: int, efficiency: float, threads: int, text: list[str]
) -> None:
    found = said(threads, cpus=cpus, cpu_efficiency=efficiency, memory_efficiency=None)
    assert found == text
