"""Limits on jobs in the queue: what 22.05 printed, and what a refusal means by it."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.queue_limits import (
    QueueLimit,
    QueueScope,
    Refusal,
    build_queue_probe,
    find_room,
    judge_refusal,
    read_limits,
    read_scope,
    read_tokens,
)

POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
)


def frames(**texts: str) -> dict[str, Frame]:
    """What the site says, as the cluster of the tests printed it."""
    given = {
        "cluster": "testcluster",
        "account": "csc_limited",
        "assoc": "testcluster|csc_group||5|\ntestcluster|csc_limited||3|\nother|csc_limited||1|\n",
        "group": "testcluster|csc_limited||\n",
        "qos": "normal|||\ncsc_tiny|1|7|9\n",
        "mine": "      2 csc_limited|small|normal\n      4 csc_group|test|csc_tiny\n",
        "all": "      6 csc_limited|small|normal\n",
    }
    return {name: Frame(0, text.encode()) for name, text in (given | texts).items()}


def limits(scope: QueueScope | None = None, **texts: str) -> list[tuple[str, int, int | None]]:
    found = read_limits(frames(**texts), scope or QueueScope(account="csc_limited"))
    return [(limit.code, limit.limit, limit.queued) for limit in found]


def test_the_limit_of_the_association_counts_what_is_queued_with_it() -> None:
    assert limits() == [("AssocMaxSubmit", 3, 2)]
    (found,) = read_limits(frames(), QueueScope(account="csc_limited"))
    assert found.words == "MaxSubmit of account csc_limited"


def test_a_limit_of_the_account_as_a_whole_counts_everybody() -> None:
    found = limits(group="testcluster|csc_limited|10\nother|csc_limited|1\n")
    assert found[1:] == [("AssocGrpSubmit", 10, 6)]


def test_an_association_of_the_partition_goes_before_that_of_all() -> None:
    rows = "testcluster|csc_limited||3|\ntestcluster|csc_limited|test|8|\n"
    test = QueueScope(account="csc_limited", partition="test")
    assert limits(test, assoc=rows) == [("AssocMaxSubmit", 8, 0)]
    assert limits(assoc=rows) == [("AssocMaxSubmit", 3, 2)]


def test_limits_of_the_quality_of_service_that_is_asked_for_or_of_the_partition() -> None:
    codes = [
        ("QOSMaxSubmitJobPerUser", 1, 4),
        ("QOSMaxSubmitJobPerAccount", 7, 0),
        ("QOSGrpSubmit", 9, None),
    ]
    asked = QueueScope(account="csc_limited", qos="csc_tiny")
    assert limits(asked)[1:] == codes
    assert limits(partition="PartitionName=x AllowQos=ALL QoS=csc_tiny State=UP")[1:] == codes
    assert limits(partition="PartitionName=x QoS=N/A") == [("AssocMaxSubmit", 3, 2)]


def test_what_is_not_told_is_not_counted_as_none() -> None:
    given = frames()
    given["mine"] = Frame(1, b"squeue is away")
    (found,) = read_limits(given, QueueScope(account="csc_limited"))
    assert (found.limit, found.queued) == (3, None)
    given["assoc"] = Frame(1, b"sacctmgr: error: away")
    assert read_limits(given, QueueScope(account="csc_limited")) == ()


def test_an_empty_queue_is_one() -> None:
    assert limits(mine="") == [("AssocMaxSubmit", 3, 0)]


@pytest.mark.parametrize(
    "code",
    [
        "AssocMaxSubmitJobLimit",
        "AssocGrpSubmitJobsLimit",
        "QOSMaxSubmitJobPerUserLimit",
        "QOSMaxSubmitJobPerAccountLimit",
        "QOSGrpSubmitJobsLimit",
    ],
)
def test_slurms_name_of_the_limit_is_found(code: str) -> None:
    assert read_scope([], f"sbatch: error: {code}\n{POLICY}").code == code


def test_a_scope_is_read_from_what_was_asked() -> None:
    asked = ["--account=a", "--partition=p,q", "--qos=x", "--array=0-9,20%2", "--hold"]
    scope = read_scope(asked, POLICY)
    assert scope == QueueScope(account="a", partition="p,q", qos="x", needed=11)
    assert QueueScope.from_payload(scope.to_payload()) == scope


def test_of_an_array_only_the_part_is_needed_that_was_submitted() -> None:
    asked = ["--array=0-299%2"]
    assert read_scope(asked, POLICY, part="").needed == 300
    assert read_scope(asked, POLICY, part="0-99%2").needed == 100
    assert read_scope(asked, POLICY, part="200-249%2 shifted by 200").needed == 50


def limit(code: str = "AssocMaxSubmit", limit: int = 200, queued: int | None = 200) -> QueueLimit:
    return QueueLimit(code=code, words="MaxSubmit of account a", limit=limit, queued=queued)


def judged(*limits: QueueLimit, **scope: Any) -> tuple[Refusal, str]:
    given = QueueScope(**{"code": "AssocMaxSubmitJobLimit"} | scope)
    found = judge_refusal(given, limits)
    return found.refusal, found.describe(given.needed)


def test_a_full_queue_says_what_is_full() -> None:
    assert judged(limit()) == (
        Refusal.FULL,
        "The queue is full: MaxSubmit of account a is 200, 200 are queued.",
    )
    assert judged(limit(queued=195), needed=6)[0] is Refusal.FULL


def test_what_never_fits_is_told_from_what_fits_later() -> None:
    refusal, words = judged(limit(queued=0), needed=300)
    assert refusal is Refusal.BEYOND
    assert "asks for 300 jobs at once" in words
    assert "split the array" in words


def test_an_account_with_which_nothing_may_be_submitted() -> None:
    refusal, words = judged(limit(limit=0, queued=0))
    assert refusal is Refusal.BEYOND
    assert words == (
        "MaxSubmit of account a is 0: nothing may be submitted with it. Set another `account`."
    )


def test_a_queue_with_room_was_not_the_reason() -> None:
    refusal, words = judged(limit(queued=12))
    assert refusal is Refusal.ROOM
    assert "is 200, 12 are queued" in words
    assert "`account`" in words


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ([], "AssocMaxSubmitJobLimit"),
        ([limit(queued=None)], "AssocMaxSubmitJobLimit"),
        ([limit("QOSMaxSubmitJobPerUser")], "AssocMaxSubmitJobLimit"),
        # Without a name the reason may be one of another kind.
        ([limit(queued=3)], ""),
    ],
)
def test_what_cannot_be_told_stays_open(limits: list[QueueLimit], code: str) -> None:
    assert judged(*limits, code=code)[0] is Refusal.UNKNOWN


def test_without_a_name_a_full_limit_is_the_reason() -> None:
    assert judged(limit("QOSMaxSubmitJobPerUser"), limit(queued=3), code="")[0] is Refusal.FULL


def test_room_is_what_the_tightest_limit_leaves_besides_those_who_are_coming() -> None:
    both = [limit(queued=190), limit("QOSMaxSubmitJobPerUser", queued=195)]
    assert find_room(QueueScope(), both, 0) == 5
    assert find_room(QueueScope(code="AssocMaxSubmitJobLimit"), both, 3) == 7
    assert find_room(QueueScope(), [limit(queued=None)], 0) is None


def test_the_jobs_that_are_looked_for_are_quoted_and_read_again() -> None:
    program = build_queue_probe(QueueScope(account="a b'c"), ["af1.1", "x y"])
    assert "tokens=(af1.1 'x y')" in program
    assert "account='a b'\"'\"'c'" in program
    assert read_tokens(frames(names="af1.1\naf2.1\n")) == {"af1.1", "af2.1"}
    assert read_tokens(frames()) == set()
