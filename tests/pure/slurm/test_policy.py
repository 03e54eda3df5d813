"""A policy decides by reason; it never passes a cap, never asks for less, and comes to an end."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.failures import FailureReason, failure_of
from airflow_provider_csc.slurm.policy import (
    INFRASTRUCTURE,
    Action,
    Fail,
    PartitionLimits,
    PastSubmission,
    Resubmit,
    Retry,
    SlurmRetryPolicy,
)
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.slurm.values import parse_memory, parse_time_limit
from tests.pure.slurm.test_result import recorded_result

EAGER = SlurmRetryPolicy(infrastructure=3, out_of_memory=2, time_limit=2, user_errors="fail")


def job(state: str, **fields: Any) -> JobResult:
    return JobResult(job_id="123", state=state, **{"nodes": "c1"} | fields)


def decide(
    policy: SlurmRetryPolicy,
    result: JobResult,
    history: list[PastSubmission] | None = None,
    *,
    options: dict[str, str] | None = None,
    partition_limits: PartitionLimits | None = None,
) -> Action:
    reason = failure_of(result)
    assert reason is not None
    return policy.decide(
        reason, result, history or [], options=options or {}, partition_limits=partition_limits
    )


def resubmit(*arguments: Any, **named: Any) -> Resubmit:
    action = decide(*arguments, **named)
    assert isinstance(action, Resubmit), action
    return action


# ---- nothing unless asked ----


@pytest.mark.parametrize("reason", [each for each in FailureReason if each != "rejected"])
def test_by_default_airflows_retries_decide(reason: FailureReason) -> None:
    result = job("FAILED", exit_code=3, requested_memory="1G", time_limit_minutes=5)
    action = SlurmRetryPolicy().decide(reason, result, options={"mem": "1G", "time": "5"})
    assert isinstance(action, Retry)
    assert action.why


@pytest.mark.parametrize(
    "result",
    [
        job("CANCELLED", cancelled_by="1001"),
        job("CANCELLED", limit="timeout"),
        job("CANCELLED", limit="held"),
        job("CANCELLED", limit="dependency"),
        job("DEADLINE"),
        job("UNKNOWN"),
        job("FAILED", exit_code=3, contradiction="they differ"),
    ],
)
def test_what_no_field_speaks_of_is_left_to_airflow(result: JobResult) -> None:
    assert isinstance(decide(EAGER, result), Retry)


def test_what_slurm_refused_is_not_asked_again() -> None:
    assert isinstance(EAGER.decide(FailureReason.REJECTED, job("UNKNOWN"), [], options={}), Fail)


# ---- infrastructure ----


NOT_LAUNCHED = job("FAILED", exit_code=0, signal=53)


@pytest.mark.parametrize("result", [job("NODE_FAIL"), job("BOOT_FAIL"), NOT_LAUNCHED])
def test_a_failed_node_is_excluded(result: JobResult) -> None:
    action = resubmit(EAGER, result, options={"mem": "1G"})
    assert action.options == {"exclude": "c1"}
    assert "resubmission 1 of 3" in action.why
    assert "without node c1" in action.why


def test_the_node_of_a_preempted_job_is_sound() -> None:
    assert resubmit(EAGER, job("PREEMPTED")).options == {}


def test_nodes_add_up() -> None:
    first = resubmit(EAGER, job("NODE_FAIL"), options={"exclude": "c[7-9]"})
    assert first.options == {"exclude": "c[7-9],c1"}
    second = resubmit(EAGER, job("NODE_FAIL", nodes="c2"), first.history, options=first.options)
    assert second.options == {"exclude": "c[7-9],c1,c2"}
    third = resubmit(EAGER, job("NODE_FAIL", nodes="c2"), second.history, options=second.options)
    assert third.options == {"exclude": "c[7-9],c1,c2"}


@pytest.mark.parametrize(
    ("nodes", "options", "why"),
    [
        ("c[1-4]", {}, "which of c[1-4] failed"),
        ("c1,c2", {}, "which of c1,c2 failed"),
        (None, {}, "not known which one"),
        ("None assigned", {}, "not known which one"),
        ("(null)", {}, "not known which one"),
        ("c1", {"nodelist": "c1"}, "names the nodes"),
        ("c1", {"nodefile": "/f"}, "names the nodes"),
    ],
)
def test_a_node_is_not_excluded_on_a_guess(
    nodes: str | None, options: dict[str, str], why: str
) -> None:
    action = resubmit(EAGER, job("NODE_FAIL", nodes=nodes), options=options)
    assert action.options == {}
    assert why in action.why


def test_excluding_can_be_turned_off() -> None:
    policy = SlurmRetryPolicy(infrastructure=1, exclude_failed_nodes=False)
    assert resubmit(policy, job("NODE_FAIL")).options == {}


def test_all_kinds_of_infrastructure_are_counted_together() -> None:
    history: list[PastSubmission] = []
    for state in ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL"):
        history = resubmit(EAGER, job(state), history).history
    last = decide(EAGER, NOT_LAUNCHED, history)
    assert last == Retry("infrastructure=3 resubmissions are used up; Airflow's retries decide.")


# ---- memory ----


@pytest.mark.parametrize(
    ("options", "fields", "changed"),
    [
        ({"mem": "4G"}, {}, {"mem": "6G"}),
        ({"mem": "1000"}, {}, {"mem": "1500M"}),
        ({"mem": "1K"}, {}, {"mem": "1M"}),
        ({"mem": "4G"}, {"memory_bytes": 2**30}, {"mem": "6G"}),
        ({"mem": "4G"}, {"memory_bytes": 5 * 2**30}, {"mem": "7680M"}),
        ({"mem": "4G"}, {"max_rss_bytes": 5 * 2**30}, {"mem": "7680M"}),
        ({"mem": "4G"}, {"memory_bytes": 12 * 2**30, "node_count": 2}, {"mem": "9G"}),
        ({"mem-per-cpu": "1G"}, {}, {"mem-per-cpu": "1536M"}),
        ({"mem_per_cpu": "1G"}, {}, {"mem-per-cpu": "1536M"}),
        (
            {"mem-per-cpu": "1G"},
            {"memory_bytes": 8 * 2**30, "cpus": 4, "max_rss_bytes": 7 * 2**30},
            {"mem-per-cpu": "3G"},
        ),
        ({"mem-per-cpu": "1G"}, {"memory_bytes": 8 * 2**30}, {"mem-per-cpu": "1536M"}),
        ({"mem-per-gpu": "60G"}, {"memory_bytes": 100 * 2**30}, {"mem-per-gpu": "90G"}),
        # Not asked for by the request, but by the partition's defaults.
        ({}, {"requested_memory": "1000M"}, {"mem": "1500M"}),
        ({}, {"requested_memory": "8G", "node_count": 2}, {"mem": "6G"}),
        ({}, {"requested_memory": "4Gn", "node_count": 2}, {"mem": "6G"}),
        ({}, {"requested_memory": "2Gc", "node_count": 2}, {"mem-per-cpu": "3G"}),
    ],
)
def test_memory_is_raised_in_the_option_that_asked(
    options: dict[str, str], fields: dict[str, Any], changed: dict[str, str]
) -> None:
    action = resubmit(EAGER, job("OUT_OF_MEMORY", **fields), options=options)
    assert action.options == changed
    assert next(iter(changed)) in action.why
    assert next(iter(changed.values())) in action.why


def test_memory_is_raised_from_what_a_real_slurm_told() -> None:
    """sacct's own words for what was asked; what it measured was less."""
    result = recorded_result("out-of-memory")
    assert result.requested_memory == "64M"
    assert (result.memory_bytes or 0) < 64 * 2**20
    assert resubmit(EAGER, result).options == {"mem": "96M"}


@pytest.mark.parametrize(
    ("options", "requested"),
    [({}, None), ({}, ""), ({}, "16?"), ({}, "0"), ({"mem": "0"}, "8G"), ({"mem": "lots"}, "8G")],
)
def test_memory_that_is_not_known_cannot_be_raised(
    options: dict[str, str], requested: str | None
) -> None:
    action = decide(EAGER, job("OUT_OF_MEMORY", requested_memory=requested), options=options)
    assert isinstance(action, Retry)


def test_memory_stops_at_the_cap() -> None:
    policy = SlurmRetryPolicy(out_of_memory=5, memory_cap="5G")
    first = resubmit(policy, job("OUT_OF_MEMORY"), options={"mem": "4G"})
    assert first.options == {"mem": "5G"}
    assert "up to memory_cap=5G" in first.why
    last = decide(policy, job("OUT_OF_MEMORY"), first.history, options={"mem": "5G"})
    assert isinstance(last, Fail)
    assert "memory_cap=5G already" in last.why


def test_memory_above_the_cap_is_not_lowered() -> None:
    policy = SlurmRetryPolicy(out_of_memory=5, memory_cap="5G")
    assert isinstance(decide(policy, job("OUT_OF_MEMORY"), options={"mem": "6G"}), Fail)


def test_memory_that_did_not_suffice_is_not_begun_from_the_start() -> None:
    history: list[PastSubmission] = []
    options = {"mem": "1G"}
    for _ in range(2):
        action = resubmit(EAGER, job("OUT_OF_MEMORY"), history, options=options)
        history, options = action.history, options | action.options
    assert options == {"mem": "2304M"}
    last = decide(EAGER, job("OUT_OF_MEMORY"), history, options=options)
    assert isinstance(last, Fail)
    assert "did not suffice" in last.why


# ---- time ----


@pytest.mark.parametrize(
    ("options", "fields", "changed"),
    [
        ({"time": "60"}, {}, "0-02:00:00"),
        ({"time": "01:30:00"}, {}, "0-03:00:00"),
        ({"time": "00:00:45"}, {}, "0-00:02:00"),
        ({}, {"time_limit_minutes": 15}, "0-00:30:00"),
        ({"time": "UNLIMITED"}, {"time_limit_minutes": 15}, "0-00:30:00"),
        ({"time": "soon"}, {"time_limit_minutes": 15}, "0-00:30:00"),
    ],
)
def test_time_is_raised(options: dict[str, str], fields: dict[str, Any], changed: str) -> None:
    action = resubmit(EAGER, job("TIMEOUT", **fields), options=options)
    assert action.options == {"time": changed}
    assert changed in action.why


def test_a_time_that_is_not_known_cannot_be_raised() -> None:
    assert isinstance(decide(EAGER, job("TIMEOUT"), options={"time": "UNLIMITED"}), Retry)


@pytest.mark.parametrize(
    ("cap", "most", "changed", "by"),
    [
        ("90", None, "0-01:30:00", "time_cap=0-01:30:00"),
        (None, 75, "0-01:15:00", "the partition's own limit"),
        ("90", 75, "0-01:15:00", "the partition's own limit"),
        ("70", 75, "0-01:10:00", "time_cap=0-01:10:00"),
        ("UNLIMITED", None, "0-02:00:00", ""),
    ],
)
def test_time_stops_at_the_cap_and_at_the_partitions_limit(
    cap: str | None, most: int | None, changed: str, by: str
) -> None:
    policy = SlurmRetryPolicy(time_limit=9, time_cap=cap)
    limits = PartitionLimits(max_minutes=most)
    action = resubmit(policy, job("TIMEOUT"), options={"time": "60"}, partition_limits=limits)
    assert action.options == {"time": changed}
    assert by in action.why
    if by:
        last = decide(
            policy, job("TIMEOUT"), action.history, options=action.options, partition_limits=limits
        )
        assert isinstance(last, Retry)
        assert by in last.why


# ---- the script's own fault ----


@pytest.mark.parametrize(
    ("result", "fails"),
    [
        (job("FAILED", exit_code=1), True),
        (job("FAILED", exit_code=139, signal=11), True),
        (job("FAILED", exit_code=0, signal=6), True),
        (job("FAILED", exit_code=137, signal=9), False),
        (job("FAILED", exit_code=143, signal=15), False),
        (job("FAILED"), False),
        (job("FAILED", exit_code=0), False),
    ],
)
def test_only_the_scripts_own_fault_fails_at_once(result: JobResult, *, fails: bool) -> None:
    assert isinstance(decide(EAGER, result), Fail if fails else Retry)
    assert isinstance(decide(SlurmRetryPolicy(), result), Retry)


# ---- what is handed on ----


def test_every_change_of_the_try_is_handed_on() -> None:
    first = resubmit(EAGER, job("OUT_OF_MEMORY"), options={"mem": "1G"})
    second = resubmit(EAGER, job("NODE_FAIL"), first.history, options={"mem": "1G"} | first.options)
    assert second.options == {"mem": "1536M", "exclude": "c1"}
    assert json.loads(json.dumps(second.history)) == [
        {
            "job_id": "123",
            "state": "OUT_OF_MEMORY",
            "reason": "out_of_memory",
            "nodes": "c1",
            "changed": {"mem": "1536M"},
            "why": first.why,
        },
        {
            "job_id": "123",
            "state": "NODE_FAIL",
            "reason": "node_failure",
            "nodes": "c1",
            "changed": {"exclude": "c1"},
            "why": second.why,
        },
    ]
    assert len(first.history) == 1


# ---- properties ----

MEMORY = st.integers(1, 2**22).map(lambda mib: f"{mib}M")
POLICIES = st.builds(
    SlurmRetryPolicy,
    infrastructure=st.integers(0, 4),
    exclude_failed_nodes=st.booleans(),
    out_of_memory=st.integers(0, 4),
    memory_factor=st.floats(1.01, 100),
    memory_cap=st.none() | MEMORY,
    time_limit=st.integers(0, 4),
    time_factor=st.floats(1.01, 100),
    time_cap=st.none() | st.integers(1, 2**20),
    user_errors=st.sampled_from(["retry", "fail"]),
)
STATES = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "TIMEOUT", "FAILED", "CANCELLED")
RESULTS = st.builds(
    job,
    st.sampled_from(STATES),
    nodes=st.sampled_from(["c1", "c2", "c[1-2]", None]),
    memory_bytes=st.none() | st.integers(1, 2**62),
    requested_memory=st.sampled_from([None, "", "16?", "4000M", "4Gn", "2Gc", "0"]),
    time_limit_minutes=st.none() | st.integers(0, 2**20),
    node_count=st.none() | st.integers(0, 9),
    cpus=st.none() | st.integers(0, 99),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "mem": MEMORY,
        "time": st.integers(1, 2**20).map(str),
        "exclude": st.sampled_from(["c7", "c[8-9]"]),
    },
)
LIMITS = st.none() | st.builds(PartitionLimits, max_minutes=st.none() | st.integers(1, 2**20))


@given(POLICIES, st.lists(RESULTS, min_size=20, max_size=20), OPTIONS, LIMITS)
def test_no_story_of_failures_breaks_a_promise(
    policy: SlurmRetryPolicy,
    results: list[JobResult],
    options: dict[str, str],
    limits: PartitionLimits | None,
) -> None:
    """It ends, keeps every cap, and no resubmission asks for less than the one before."""
    history: list[PastSubmission] = []
    for result in results:
        action = decide(policy, result, history, options=options, partition_limits=limits)
        if not isinstance(action, Resubmit):
            break
        assert len(action.history) == len(history) + 1
        for name, value in action.options.items():
            _check_step(policy, limits, name, options.get(name), value)
        history, options = action.history, options | action.options
    assert len(history) <= policy.infrastructure + policy.out_of_memory + policy.time_limit


def _check_step(
    policy: SlurmRetryPolicy,
    limits: PartitionLimits | None,
    name: str,
    before: str | None,
    after: str,
) -> None:
    if name.startswith("mem"):
        assert parse_memory(after) > 0
        assert before is None or parse_memory(after) >= parse_memory(before)
        if policy.memory_cap is not None and after != before:
            assert parse_memory(after) <= parse_memory(policy.memory_cap)
    elif name == "time":
        seconds = parse_time_limit(after)
        assert seconds  # never UNLIMITED
        assert before is None or seconds >= (parse_time_limit(before) or 0)
        if after != before:
            assert policy.time_cap is None or seconds <= (parse_time_limit(policy.time_cap) or 0)
            most = limits.max_minutes if limits else None
            assert most is None or seconds <= most * 60
    else:
        assert name == "exclude"
        assert set((before or "").split(",")) - {""} <= set(after.split(","))


@given(POLICIES)
def test_a_policy_survives_being_stored(policy: SlurmRetryPolicy) -> None:
    assert SlurmRetryPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


def test_a_policy_is_a_stored_format() -> None:
    assert SlurmRetryPolicy().to_dict() == {
        "infrastructure": 0,
        "exclude_failed_nodes": True,
        "out_of_memory": 0,
        "memory_factor": 1.5,
        "memory_cap": None,
        "time_limit": 0,
        "time_factor": 2.0,
        "time_cap": None,
        "user_errors": "retry",
    }


# ---- what is refused ----


@pytest.mark.parametrize(
    ("given_caps", "memory_cap", "time_cap"),
    [
        ({"memory_cap": "64G", "time_cap": "3-00:00:00"}, "64G", "3-00:00:00"),
        ({"memory_cap": 1000, "time_cap": 90}, "1000M", "0-01:30:00"),
        ({"memory_cap": "1500K", "time_cap": "00:01:59"}, "1M", "0-00:01:00"),
        ({"time_cap": timedelta(days=1, seconds=1)}, None, "1-00:00:00"),
        ({"time_cap": "UNLIMITED"}, None, None),
    ],
)
def test_caps_have_one_notation(
    given_caps: dict[str, Any], memory_cap: str | None, time_cap: str | None
) -> None:
    policy = SlurmRetryPolicy(**given_caps)
    assert (policy.memory_cap, policy.time_cap) == (memory_cap, time_cap)


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("infrastructure", -1, "0 to 100"),
        ("infrastructure", 101, "0 to 100"),
        ("infrastructure", True, "0 to 100"),
        ("out_of_memory", "2", "0 to 100"),
        ("time_limit", 1.5, "0 to 100"),
        ("memory_factor", 1, "1.01 to 100"),
        ("memory_factor", 0.5, "1.01 to 100"),
        ("memory_factor", float("nan"), "1.01 to 100"),
        ("memory_factor", float("inf"), "1.01 to 100"),
        ("time_factor", "2", "1.01 to 100"),
        ("time_factor", True, "1.01 to 100"),
        ("memory_cap", "64 gigs", "4G"),
        ("memory_cap", "0", "at least 1M"),
        ("memory_cap", "1K", "at least 1M"),
        ("time_cap", "soon", "1-12:00:00"),
        ("time_cap", "00:00:30", "one minute"),
        ("time_cap", timedelta(0), "1-12:00:00"),
        ("exclude_failed_nodes", 1, "True or False"),
        ("user_errors", "ignore", "'retry' or 'fail'"),
        ("memory", 2, "memory_factor"),
    ],
)
def test_a_wrong_value_is_named_with_a_remedy(field: str, value: object, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SlurmRetryPolicy.from_dict({field: value})
    message = str(caught.value)
    assert message.startswith(f"on_failure: {field} is {value!r}")
    assert remedy in message
    assert caught.value.details["field"] == f"on_failure.{field}"


def test_infrastructure_is_what_is_no_fault_of_the_job() -> None:
    assert {"node_failure", "boot_failure", "launch_failure", "preempted"} == INFRASTRUCTURE
