"""What partitions allow is held against what a job asks for, before sbatch is."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_csc.slurm.preflight_facts import PreflightFacts
from airflow_provider_csc.slurm.preflight_partitions import (
    describe_partitions,
    find_partition_problems,
)
from airflow_provider_csc.slurm.site_facts import PartitionFacts

HOUR = 3600


def partition(name: str, **changes: Any) -> PartitionFacts:
    given = {"is_up": True, "is_hidden": False, "hands_out_nodes": False, "max_seconds": 72 * HOUR}
    return PartitionFacts(name=name, **(given | changes))


KNOWN = (
    partition("small", is_default=True, nodes=100),
    partition("test", max_seconds=HOUR // 4, max_nodes=2, nodes=100),
    partition("large", max_seconds=36 * HOUR, least_nodes=6, max_nodes=60),
    partition("endless", max_seconds=None),
    partition("closed", is_up=False, state="DOWN"),
    partition("drained", is_up=False, state="DRAIN"),
    partition("secret", is_hidden=True, accounts=frozenset({"staff"})),
    partition("staffed", accounts=frozenset({"staff"})),
    partition("choosy", denied=frozenset({"banned"})),
)
FACTS = PreflightFacts(asked_at=1, partitions={each.name: each for each in KNOWN})


def found(facts: PreflightFacts = FACTS, **options: str) -> list[str]:
    asked = {name.replace("_", "-"): value for name, value in options.items()}
    return [str(each) for each in find_partition_problems(asked, facts)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"partition": "smal"},
            "There is no partition 'smal' here. sbatch refuses such a job. Did",
        ),
        ({"partition": "smal"}, "Did you mean 'small'?"),
        (
            {"partition": "x"},
            "There are: small, test, large, endless, closed, drained, staffed, choosy.",
        ),
        ({"partition": "small,x"}, "There is no partition 'x' here."),
        ({"partition": "closed"}, "Partition 'closed' is DOWN. Its jobs wait"),
        ({"partition": "drained"}, "Partition 'drained' is DRAIN. It takes no new jobs."),
        ({"partition": "test", "time": "0-00:16:00"}, "'test' gives a job at most 0-00:15:00, and"),
        (
            {"partition": "test", "time": "0-00:16:00", "account": "a"},
            "So long are jobs in: small, large, endless.",
        ),
        ({"partition": "test", "time": "UNLIMITED"}, "this one asks for UNLIMITED."),
        ({"time": "4-00:00:00"}, "Partition 'small' gives a job at most 3-00:00:00"),
        ({"partition": "test", "nodes": "3"}, "'test' gives a job at most 2 nodes, and this one"),
        ({"partition": "small", "nodes": "101-200"}, "'small' gives a job at most 100 nodes"),
        ({"partition": "large", "nodes": "2-5"}, "'large' is for jobs of 6 nodes or more"),
        (
            {"partition": "choosy", "account": "Banned"},
            "Partition 'choosy' is not open to account 'Banned'. sbatch refuses such a job.",
        ),
        (
            {"partition": "secret", "account": "a"},
            "accounts staff. Unless account 'a' is below one of these, sbatch refuses such a job.",
        ),
    ],
)
def test_what_a_partition_does_not_give_is_told(options: dict[str, str], said: str) -> None:
    (text,) = found(**options)

    assert said in text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"partition": "test", "time": "0-00:15:00", "nodes": "2"},
        {"partition": "test", "time": "1-00:00:00", "time_min": "0-00:10:00"},
        {"partition": "test", "nodes": "2-9"},
        {"partition": "endless", "time": "UNLIMITED"},
        {"partition": "test", "time": "1h"},
        {"partition": "test", "time": "1-00:00:00", "time_min": "1h"},
        {"partition": "large", "nodes": "5-6"},
        {"partition": "large"},
        {"partition": "small", "nodes": "1k"},
        {"partition": "secret", "account": "staff"},
        {"partition": "secret", "account": "STAFF"},
        {"partition": "secret"},
        {"partition": "choosy", "account": "a"},
        # Slurm takes whichever can.
        {"partition": "test,small", "time": "1-00:00:00"},
        {"partition": "closed,small"},
    ],
)
def test_what_it_gives_is_no_finding(options: dict[str, str]) -> None:
    assert found(**options) == []


def test_of_several_that_all_cannot_each_is_told() -> None:
    assert len(found(partition="test,closed", time="4-00:00:00")) == 3


def test_partitions_that_are_not_known_are_no_finding() -> None:
    assert found(PreflightFacts(asked_at=1), partition="x", time="90-00:00:00") == []


@pytest.mark.parametrize(
    ("account", "others"),
    [
        ("a", "endless"),
        ("staff", "endless, staffed"),
        ("Staff", "endless, staffed"),
        (None, "endless"),
    ],
)
def test_those_are_described_that_certainly_take_jobs(account: str | None, others: str) -> None:
    named = {} if account is None else {"account": account}

    assert describe_partitions({"partition": "test"} | named, FACTS) == (
        f"test is UP, for jobs of at most 0-00:15:00. Open are: small, test, large, {others}."
    )


@pytest.mark.parametrize(
    ("named", "is_certain"),
    [
        ("closed", True),
        ("staffed", False),
        # Slurm may take the other.
        ("closed,staffed", False),
        ("closed,drained", True),
    ],
)
def test_an_account_that_is_not_listed_may_be_below_one_that_is(
    named: str, *, is_certain: bool
) -> None:
    findings = list(find_partition_problems({"partition": named, "account": "a"}, FACTS))

    assert {each.is_certain for each in findings} == {is_certain}
