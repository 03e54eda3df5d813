"""Every reason to wait has its sentence; an estimate is told when it has changed in earnest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.pending import (
    Waiting,
    add_waits,
    describe_start,
    explain_reason,
    is_news,
)
from tests.support.pending_tables import read_codes

CODES = [code for code, *_ in read_codes()]


def test_the_list_of_codes_is_that_of_all_releases() -> None:
    assert len(CODES) == len(set(CODES)) == 221
    assert {"Priority", "PowerReserved", "NvidiaImexChannels", "QOSGrpCpuLimit"} <= set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_slurm_has_its_sentence(code: str) -> None:
    found = explain_reason(code)
    assert found.is_known
    assert found.code == code
    assert found.explain("7").startswith("it ")
    assert found.explain("7").endswith(".")
    assert "<id>" not in found.explain("7")


@pytest.mark.parametrize("code", CODES)
def test_what_does_not_start_by_itself_says_so_and_what_can_be_done(code: str) -> None:
    found = explain_reason(code)
    said = any(each in found.explain("7") for each in ("It will not start", "It can never start."))
    assert said is found.is_hopeless
    assert bool(found.remedy) or not found.needs_person


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("DependencyNeverSatisfied", "never"),
        ("JobHeldUser", "held"),
        ("(JobHeldUser)", "held"),
        ("JobHeldAdmin", "held"),
        ("JobHoldMaxRequeue", "held"),
        ("launch failed requeued held", "held"),
        ("launch_failed_requeued_held", "held"),
        ("launch failure limit exceeded requeued held", "held"),
        ("user env retrieval failed requeued held", "held"),
        ("job requeued in held state", "held"),
        ("job requeued in special exit state", "held"),
        ("License request 'abc:1' is no longer valid, holding job", "held"),
        ("BadConstraints", "held"),
        ("ReservationDeleted", "held"),
        ("Reservation course_2026 was deleted", "held"),
        ("BurstBufferOperation", "held"),
        ("burst_buffer/lua: Stage-out in progress", "site"),
        ("Reservation course_2026 is invalid", "stuck"),
        ("InvalidAccount", "stuck"),
        ("InvalidQOS", "stuck"),
        ("AccountNotAllowed", "stuck"),
        ("QOSNotAllowed", "stuck"),
        ("Job's QOS not permitted to use this partition (large allows a not b)", "stuck"),
        ("uid 1001 not in group permitted to use this partition (x). groups allowed: y", "stuck"),
        ("PartitionTimeLimit", "stuck"),
        ("PartitionNodeLimit", "stuck"),
        ("PartitionDown", "site"),
        ("PartitionInactive", "site"),
        ("DeadLine", "stuck"),
        ("QOSMaxWallDurationPerJobLimit", "stuck"),
        ("QOSMinGRES", "stuck"),
        ("QOSMinCpuNotSatisfied", "stuck"),
        ("AssocMaxCpuPerJobLimit", "stuck"),
        ("AssocMaxMemPerNode", "stuck"),
        ("AssocGrpBillingMinutes", "site"),
        ("AssocGrpCPUMinutesLimit", "site"),
        ("QOSGrpWallLimit", "site"),
        ("AssocGrpCPURunMinutesLimit", "waits"),
        ("MaxBillingRunMinsPerUser", "waits"),
        ("QOSGrpCpuLimit", "waits"),
        ("QOSMaxJobsPerUserLimit", "waits"),
        ("AssocMaxSubmitJobLimit", "waits"),
        ("AssocMaxJobsLimit", "waits"),
        ("MaxGRESPerAccount", "waits"),
        ("ReqNodeNotAvail", "waits"),
        ("ReqNodeNotAvail, May be reserved for other job", "waits"),
        ("Priority", "waits"),
        ("None", "waits"),
        ("", "waits"),
    ],
)
def test_a_reason_is_of_the_kind_that_tells_what_helps(reason: str, kind: str) -> None:
    found = explain_reason(reason)
    assert (found.is_known, found.kind) == (True, kind)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            "JobHeldUser",
            (
                "Job 123 is held by its user or an account coordinator. It will not start until it is "
                "released. Release it with `scontrol release 123`, or cancel it."
            ),
        ),
        (
            "Priority",
            (
                "Job 123 waits while jobs of higher priority are served. A shorter `time`, or less of "
                "what it asks for, may let it start sooner, in a gap."
            ),
        ),
        (
            "QOSGrpCpuLimit",
            (
                "Job 123 waits because all jobs of its QOS together reach a limit on processors. "
                "Should it ask for more than that by itself, it never starts. `sacctmgr show qos` "
                "shows the limit. At CSC that is how much `longrun` jobs may use together."
            ),
        ),
        (
            "QOSMaxGRESPerUser",
            (
                "Job 123 waits because the jobs of its user in its QOS reach a limit on GPUs or other "
                "generic resources (gres). Should it ask for more than that by itself, it never "
                "starts. `sacctmgr show qos` shows the limit."
            ),
        ),
        (
            "AssocMaxJobsLimit",
            (
                "Job 123 waits because the jobs of its user in its account reach a limit on running "
                "jobs. `sacctmgr show assoc` shows the limit."
            ),
        ),
        (
            "MaxMemoryPerAccount",
            (
                "Job 123 waits because the jobs of its account in its QOS reach a limit on memory. "
                "Should it ask for more than that by itself, it never starts. `sacctmgr show qos` "
                "shows the limit."
            ),
        ),
        (
            "AssocGrpBillingMinutes",
            (
                "Job 123 finds the billing units of its account used up. Apply for more billing "
                "units, or submit it with another `account`. `sacctmgr show assoc` shows the limit."
            ),
        ),
        (
            "QOSMaxCpuMinutesPerJobLimit",
            (
                "Job 123 asks for more minutes of processors than its QOS gives to one job. It will "
                "not start as it stands. Correct the request (`scontrol update JobId=123 …`), or "
                "cancel it and submit another. `sacctmgr show qos` shows the limit."
            ),
        ),
        (
            "ReqNodeNotAvail, Reserved for maintenance",
            (
                "Job 123 waits for a maintenance to end, since it could not end before it begins. "
                "With a `time` that ends before the maintenance it may start now."
            ),
        ),
    ],
)
def test_a_sentence_says_why_and_what_helps(reason: str, words: str) -> None:
    assert explain_reason(reason).describe("123") == words


@pytest.mark.parametrize(
    "text",
    [
        (
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority "
            "partitions"
        ),
        (
            "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_"
            "partitions"
        ),
    ],
)
def test_the_longest_text_of_slurm_is_no_cause_for_alarm(text: str) -> None:
    assert "On a busy machine that is usual." in explain_reason(text).describe("123")


@pytest.mark.parametrize(
    "text",
    ["ReqNodeNotAvail, UnavailableNodes:c[1-3]", "(ReqNodeNotAvail(Unavailable:c[1-3]))"],
)
def test_nodes_that_are_not_available_are_named_and_no_part_of_the_code(text: str) -> None:
    found = explain_reason(text)
    assert "(c[1-3])" in found.words
    assert "c[1-3]" not in found.code
    others = explain_reason("ReqNodeNotAvail, UnavailableNodes:c[4-9]")
    assert explain_reason("ReqNodeNotAvail, UnavailableNodes:c[1-3]").code == others.code


def test_a_list_of_nodes_is_cut() -> None:
    nodes = ",".join(f"r{number:04}" for number in range(500))
    found = explain_reason(f"ReqNodeNotAvail, UnavailableNodes:{nodes}")
    assert len(found.words) < 200
    assert "r0000,r0001" in found.words


def test_no_list_of_nodes_is_no_empty_brackets() -> None:
    assert "()" not in explain_reason("ReqNodeNotAvail, UnavailableNodes:").describe("1")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("Resources,JobHeldUser", "waits"), ("JobHeldUser,JobHeldAdmin", "held")],
)
def test_the_reasons_of_an_arrays_tasks_are_read_together(reason: str, kind: str) -> None:
    """As squeue merges those that wait into one row (src/squeue/print.c)."""
    found = explain_reason(reason)
    assert (found.is_known, found.kind) == (True, kind)
    for each in reason.split(","):
        assert explain_reason(each).words in found.words


@pytest.mark.parametrize(
    "reason",
    [
        "DependencyNever",
        "JobHeldUserX",
        "a held job",
        "priority",
        "Priority,Fashion",
        "QOSGrp",
        "AssocMaxFashionPerJob",
        "GrpCpuLimitPer",
    ],
)
def test_of_an_unknown_code_it_is_said_that_it_is(reason: str) -> None:
    found = explain_reason(reason)
    assert (found.is_known, found.kind, found.code) == (False, "waits", reason)
    assert "has no explanation" in found.describe("1")


@given(st.text(max_size=60))
def test_whatever_slurm_prints_never_ends_a_wait(text: str) -> None:
    found = explain_reason(text)
    assert found.kind != "never" or found.code == "DependencyNeverSatisfied"
    assert found.describe("1")


# ---- the estimated start ----

NOW, HOUR = 1_000_000, 3600


@pytest.mark.parametrize(
    ("told", "estimate", "expected"),
    [
        # The first one, unless that is now.
        (None, NOW + HOUR, True),
        (None, NOW + 60, True),
        (None, NOW + 59, False),
        (None, NOW - HOUR, False),
        # None is no estimate, which is no news.
        (None, None, False),
        (NOW + HOUR, None, False),
        # Five minutes at least.
        (NOW + 600, NOW + 600 + 299, False),
        (NOW + 600, NOW + 600 + 300, True),
        (NOW + 600, NOW + 300, True),
        (NOW + 600, NOW + 301, False),
        # And more than a tenth of what was left.
        (NOW + 10 * HOUR, NOW + 11 * HOUR, False),
        (NOW + 10 * HOUR, NOW + 11 * HOUR + 1, True),
        (NOW + 10 * HOUR, NOW + 9 * HOUR - 1, True),
        # What has passed is now, however long ago: Slurm shows the present time then.
        (NOW - 10 * HOUR, NOW, False),
        (NOW - 10 * HOUR, NOW - HOUR, False),
        (NOW - 10 * HOUR, NOW + HOUR, True),
        (NOW + HOUR, NOW, True),
    ],
)
def test_an_estimate_is_news_when_it_changed_in_earnest(
    told: int | None, estimate: int | None, expected: bool
) -> None:
    assert is_news(told, estimate, NOW) is expected


def test_jitter_is_told_once() -> None:
    told, times = None, 0
    for minute in range(600):
        now = NOW + minute * 60
        estimate = NOW + 10 * HOUR + minute % 7 * 20
        if is_news(told, estimate, now):
            told, times = estimate, times + 1
    assert times == 1


def test_a_start_is_told_in_utc() -> None:
    assert describe_start(1795342500, 1795342500 - 7800) == "2026-11-22 10:15 UTC (in 2 h 10 min)"
    assert describe_start(1795342500, 1795342500) == "2026-11-22 10:15 UTC (now)"


# ---- how long ----


def test_the_seconds_of_each_reason_add_up() -> None:
    waiting = Waiting()
    for clock, code in [
        (100, "Priority"),
        (130, "Priority"),
        (160, "Resources"),
        (200, "Priority"),
    ]:
        waiting.enter(code, clock)
    waiting.leave(210)
    waiting.leave(999)
    assert waiting.earlier == (("Priority", 70), ("Resources", 40))


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    assert add_waits([("Priority", 5), ("Priority", -3)]) == [("Priority", 5)]


def test_the_recorded_list_names_where_it_is_from() -> None:
    path = Path(__file__).parents[2] / "outputs" / "pending-reasons.txt"
    assert path.read_text().startswith("# Every text of Slurm's enum job_state_reason")
