"""Resources are checked where they are written, unless they are templates."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.sites.resources import Request, Resources, read_resources


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nodes": 0}, r"resources.nodes: 0"),
        ({"nodes": True}, r"resources.nodes: True: it is a bool"),
        ({"cpus_per_task": "many"}, r"resources.cpus_per_task: 'many'"),
        ({"memory_per_node": "4 GB"}, r"resources.memory_per_node: '4 GB'"),
        ({"memory_per_node": 0}, r"nothing would be given"),
        ({"memory_per_cpu": "1G", "memory_per_node": "4G"}, r"memory_per_node is given, too"),
        ({"gpu_type": "gh200"}, r"no GPUs are asked for"),
        ({"gpus_per_node": 1, "gpu_type": "a b"}, r"no name of a GPU"),
        ({"time": "soon"}, r"resources.time: 'soon'"),
        ({"local_disk": 1.5}, r"resources.local_disk: 1.5: it is a float"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_written(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Resources(**given)


def test_an_unknown_field_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"cpu_per_task.*Did you mean 'cpus_per_task'"):
        read_resources({"cpu_per_task": 4})
    with pytest.raises(ConfigError, match=r"There are: nodes, tasks_per_node"):
        read_resources({"colour": 4})


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"resources: \[1\] is no mapping"):
        read_resources([1])  # type: ignore[arg-type]


def test_templates_are_left_until_they_are_filled_in() -> None:
    resources = Resources(nodes="{{ params.nodes }}", time="{{ params.time }}")

    assert resources.to_dict() == {"nodes": "{{ params.nodes }}", "time": "{{ params.time }}"}
    assert read_resources({"nodes": "3", "time": "90"}) == Request(nodes=3, time=5400)


def test_times_and_sizes_are_read_as_sbatch_reads_them() -> None:
    request = read_resources(
        Resources(memory_per_cpu="1G", cpus_per_task=4, time=timedelta(hours=2), local_disk="2T")
    )

    assert (request.memory, request.time, request.local_disk) == (4 * 2**30, 7200, 2 * 2**40)


def test_a_request_reads_back_as_it_was_written() -> None:
    written = "Resources(nodes=2, memory_per_node='16G', time='0-02:00:00')"

    resources = Resources(nodes=2, memory_per_node="16G", time=120)
    assert read_resources(resources).describe() == written
    assert eval(written) == Resources(nodes=2, memory_per_node="16G", time="0-02:00:00")
