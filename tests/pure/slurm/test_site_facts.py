"""What a site says of itself, as 22.05 printed it (tests/outputs), and what it may say elsewhere."""

from __future__ import annotations

import json

import pytest

from airflow_provider_csc.slurm.framing import Frame, parse_answer
from airflow_provider_csc.slurm.site_facts import (
    JobLimits,
    NodeKind,
    PartitionFacts,
    QualityLimits,
    SiteFacts,
    build_site_facts,
    parse_site_facts,
)
from tests.pure.slurm.evidence import OUTPUTS

MIB, GIB = 2**20, 2**30


def frames(name: str = "site-facts", **said: str) -> dict[str, Frame]:
    """The answer of the tests' cluster, in which some commands said something else."""
    recording = json.loads((OUTPUTS / f"{name}.json").read_text())
    assert recording["command"] == build_site_facts(), "record it anew: record.py site_facts"
    answer = parse_answer(recording["output"].encode(), mark="@mark")
    return answer | {each: Frame(0, text.encode()) for each, text in said.items()}


def facts(name: str = "site-facts", **said: str) -> SiteFacts:
    return parse_site_facts(frames(name, **said))


def test_a_site_names_itself() -> None:
    assert (facts().cluster, facts().max_array_size) == ("testcluster", 10001)
    assert facts().unanswered == {}


def test_its_partitions_are_read() -> None:
    found = facts().partitions
    assert found
    assert found["standard"] == PartitionFacts(
        name="standard",
        is_up=True,
        is_hidden=False,
        hands_out_nodes=True,
        max_seconds=2 * 86400,
        least_nodes=1,
        max_nodes=2,
        nodes=4,
    )
    assert found["small"].max_nodes is None
    assert not found["small"].hands_out_nodes
    assert not found["down"].is_up
    assert found["restricted"].accounts == frozenset({"none"})


def test_its_nodes_are_read_by_kind() -> None:
    every = {"small", "test", "standard", "down", "restricted"}
    assert facts().nodes == (
        NodeKind(
            partitions=frozenset(every), architecture="x86_64", cores=8, memory_bytes=16000 * MIB
        ),
        NodeKind(
            partitions=frozenset({*every, "gpu", "small-g"}),
            architecture="x86_64",
            cores=8,
            memory_bytes=16000 * MIB,
            gpus=(("gh200", 4),),
        ),
    )


def test_the_limits_of_the_user_are_read() -> None:
    assert facts().associations == {("project_2001234", ""): JobLimits()}
    assert facts().qualities == {"normal": QualityLimits(jobs=JobLimits(), of_job={}, of_node={})}


def test_a_controller_that_is_away_told_nothing_of_nodes_and_partitions() -> None:
    found = facts("site-facts-no-controller")
    assert (found.cluster, found.partitions, found.nodes) == (None, None, None)
    assert set(found.unanswered) == {"config", "partitions", "nodes"}
    assert "Unable to contact slurm controller" in found.unanswered["nodes"]
    assert found.qualities is not None


def test_a_database_that_is_away_told_nothing_of_limits() -> None:
    found = facts("site-facts-no-database")
    assert (found.associations, found.qualities) == (None, None)
    assert set(found.unanswered) == {"assoc", "qos"}
    assert "Connection refused" in found.unanswered["qos"]
    assert found.partitions is not None


def test_a_site_without_accounting_has_no_limits() -> None:
    found = facts("site-facts-no-accounting")
    assert found.unanswered == {}
    assert (found.associations, found.qualities) == ({}, {})


@pytest.mark.parametrize("name", ["config", "partitions", "nodes"])
def test_an_empty_answer_is_none(name: str) -> None:
    assert set(facts(**{name: ""}).unanswered) == {name}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config", "ClusterName = x\nMaxArraySize = many\n"),
        ("partitions", "PartitionName=x MaxTime=soon State=UP"),
        ("partitions", "PartitionName=x State=UP"),
        ("assoc", "testcluster|project\n"),
        ("qos", "normal|1|2|mem=lots|\n"),
        ("nodes", "Arch=x86_64|ThreadsPerCore=two|"),
    ],
)
def test_an_answer_of_another_form_is_none(name: str, text: str) -> None:
    found = facts(**{name: text})
    assert set(found.unanswered) == {name}
    assert "cannot be read" in found.unanswered[name]


def test_associations_of_other_clusters_are_left_out() -> None:
    text = "other|a|||1\nTestCluster|b||5|10\ntestcluster|b|gpu|1|2\n"
    assert facts(assoc=text).associations == {
        ("b", ""): JobLimits(max_running=5, max_submitted=10),
        ("b", "gpu"): JobLimits(max_running=1, max_submitted=2),
    }


def test_qualities_are_read() -> None:
    text = "normal||||\nsmall-g|200|210|cpu=896,gres/gpu=16,mem=64G,node=4|mem=1000\n"
    found = facts(qos=text).qualities
    assert found
    assert found["small-g"] == QualityLimits(
        jobs=JobLimits(max_running=200, max_submitted=210),
        of_job={"cpu": 896, "gres/gpu": 16, "mem": 64 * GIB, "node": 4},
        of_node={"mem": 1000 * MIB},
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # As LUMI-G's: cores and memory that are the system's do not count.
        (
            (
                "Arch=x86_64|CPUEfctv=112|CPUTot=128|Gres=gpu:mi250:8|RealMemory=524288|"
                "MemSpecLimit=32768|ThreadsPerCore=2|Partitions=standard-g,small-g|"
            ),
            NodeKind(
                partitions=frozenset({"standard-g", "small-g"}),
                architecture="x86_64",
                cores=56,
                memory_bytes=480 * GIB,
                gpus=(("mi250", 8),),
            ),
        ),
        # A node that never came up, and a Slurm before 22.05.
        (
            "CPUTot=4|Gres=gpu:2(S:0-1),nvme:3500|RealMemory=1024|Partitions=|",
            NodeKind(
                partitions=frozenset(),
                architecture=None,
                cores=4,
                memory_bytes=GIB,
                gpus=((None, 2),),
            ),
        ),
        (
            "Arch=aarch64|Gres=gpu:a100:3(S:0),gpu:a100_1g.5gb:7(S:0),craynetwork:4|",
            NodeKind(
                partitions=frozenset(),
                architecture="aarch64",
                cores=None,
                memory_bytes=None,
                gpus=(("a100", 3), ("a100_1g.5gb", 7)),
            ),
        ),
    ],
)
def test_a_kind_of_nodes_is_read(line: str, expected: NodeKind) -> None:
    assert facts(nodes=line).nodes == (expected,)


def test_a_partition_of_another_site_is_read() -> None:
    text = (
        "PartitionName=gputest AllowAccounts=a,b QoS=gputest Hidden=YES MaxNodes=2 "
        "MaxTime=00:15:00 MinNodes=2 MaxMemPerNode=65536 OverSubscribe=FORCE:4 State=UP"
    )
    assert facts(partitions=text).partitions == {
        "gputest": PartitionFacts(
            name="gputest",
            is_up=True,
            is_hidden=True,
            hands_out_nodes=False,
            max_seconds=900,
            least_nodes=2,
            max_nodes=2,
            memory_bytes=64 * GIB,
            accounts=frozenset({"a", "b"}),
            quality="gputest",
        )
    }


def test_a_partition_without_a_time_limit_has_none() -> None:
    text = "PartitionName=x MaxTime=UNLIMITED State=UP"
    found = facts(partitions=text).partitions
    assert found
    assert found["x"].max_seconds is None
