"""What is kept of an array's tasks: small, mergeable, and with evidence for each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.errors import ConfigError, JobOutOfMemoryError
from airflow_provider_csc.slurm.array_attempt import ArrayAttempt
from airflow_provider_csc.slurm.array_record import (
    ArrayRecord,
    TaskEnd,
    check_failure_limit,
    describe_counts,
    describe_failures,
    failures_allowed,
    format_note,
    is_tolerable,
    parse_note,
)
from airflow_provider_csc.slurm.array_result import (
    error_for_array,
    is_success,
    most_telling,
    sum_up,
)
from airflow_provider_csc.slurm.arrays import format_array, parse_array
from airflow_provider_csc.slurm.result import JobResult

ends = st.builds(
    TaskEnd,
    job_id=st.sampled_from(["123", "130"]),
    state=st.sampled_from(["COMPLETED", "FAILED", "TIMEOUT", "UNKNOWN"]),
    shift=st.sampled_from([0, 1000]),
    exit_code=st.just(0),
)


def record_of(**states: str) -> ArrayRecord:
    """States by ids in words of an array, as ``record_of(COMPLETED="0-3", FAILED="4")``."""
    record = ArrayRecord()
    for state, text in states.items():
        code = 0 if state == "COMPLETED" else 1
        end = TaskEnd(job_id="123", state=state, exit_code=code, log=f"/{state}")
        record.ends |= dict.fromkeys(parse_array(text), end)
    return record


@given(st.dictionaries(st.integers(1000, 1100), ends, max_size=40))
def test_a_record_survives_being_stored(known: dict[int, TaskEnd]) -> None:
    record = ArrayRecord(known)
    again = ArrayRecord.from_payload(json.loads(json.dumps(record.to_payload())))
    assert again == record


def test_a_record_of_thousands_is_small() -> None:
    record = record_of(COMPLETED="0-8999", FAILED="9000-9999")
    stored = json.dumps(record.to_payload())
    assert len(stored) < 40_000
    again = ArrayRecord.from_payload(json.loads(stored))
    assert again.counts == record.counts == {"COMPLETED": 9000, "FAILED": 1000}


def test_a_record_of_another_version_is_read() -> None:
    payload = record_of(FAILED="1").to_payload()
    payload["details"]["1"]["new"] = 5
    assert ArrayRecord.from_payload(payload | {"other": 1}) == record_of(FAILED="1")
    assert ArrayRecord.from_payload(None) == ArrayRecord()


def test_what_ran_later_counts() -> None:
    first, second = record_of(COMPLETED="0", FAILED="1-2"), record_of(COMPLETED="1", FAILED="2")
    merged = first.merged(second)
    assert merged.counts == {"COMPLETED": 2, "FAILED": 1}
    assert list(merged.successes().ends) == [0, 1]


def test_the_result_lists_every_task() -> None:
    value = record_of(COMPLETED="0-1", FAILED="2").to_xcom(parse_array("0-2%2"))
    assert value == {
        "spec": "0-2%2",
        "counts": {"COMPLETED": 2, "FAILED": 1},
        "tasks": {
            "0": {"job_id": "123_0", "state": "COMPLETED", "exit_code": 0},
            "1": {"job_id": "123_1", "state": "COMPLETED", "exit_code": 0},
            "2": {"job_id": "123_2", "state": "FAILED", "exit_code": 1, "log": "/FAILED"},
        },
    }


def test_the_result_of_a_large_array_lists_what_failed() -> None:
    value = record_of(COMPLETED="0-9997", FAILED="9998").to_xcom(parse_array("0-9998"))
    assert list(value["tasks"]) == ["9998"]
    assert value["completed"] == "0-9997"
    assert len(json.dumps(record_of(FAILED="0-9999").to_xcom(parse_array("0-9999")))) < 100_000


def test_counts_are_told_in_the_order_of_a_jobs_life() -> None:
    counts = {"PENDING": 49, "RUNNING": 10, "TIMEOUT": 2, "FAILED": 1, "COMPLETED": 40}
    assert describe_counts("123", counts) == (
        "Array 123: 102 tasks: 40 COMPLETED, 1 FAILED, 2 TIMEOUT, 10 RUNNING, 49 PENDING."
    )


# ---- how many may fail ----


@pytest.mark.parametrize(
    ("limit", "size", "allowed"),
    [(0, 10, 0), (3, 10, 3), (0.1, 20, 2), (0.1, 19, 1), (0.0, 9, 0), (None, 10, 10)],
)
def test_a_limit_is_a_number_or_a_part(limit: Any, size: int, allowed: int) -> None:
    check_failure_limit(limit)
    assert failures_allowed(limit, size) == allowed


@pytest.mark.parametrize("limit", [-1, 1.0, 1.5, -0.1, True, "3", float("nan")])
def test_what_is_no_limit_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigError, match="max_failed_tasks") as caught:
        check_failure_limit(limit)
    assert caught.value.field == "max_failed_tasks"


@pytest.mark.parametrize(
    ("states", "limit", "expected"),
    [
        ({"COMPLETED": "0-9"}, 0, True),
        ({"COMPLETED": "0-8", "FAILED": "9"}, 0, False),
        ({"COMPLETED": "0-8", "FAILED": "9"}, 1, True),
        ({"COMPLETED": "0-8", "FAILED": "9"}, 0.1, True),
        ({"COMPLETED": "0-7", "FAILED": "8-9"}, 1, False),
        ({"FAILED": "0-9"}, None, True),
        # Nobody knows what became of these.
        ({"COMPLETED": "0-8", "UNKNOWN": "9"}, None, False),
        ({"COMPLETED": "0-8"}, None, False),
    ],
)
def test_an_array_succeeds_by_evidence_of_each_task(
    states: dict[str, str], limit: Any, expected: bool
) -> None:
    assert is_tolerable(record_of(**states), parse_array("0-9"), limit) is expected


def test_an_array_that_its_task_cancelled_is_no_success() -> None:
    record, whole = record_of(COMPLETED="0", CANCELLED="1"), parse_array("0-1")
    for limit, expected in (("execution_timeout", False), ("held", False), ("timeout", True)):
        telling = JobResult(job_id="123", state="CANCELLED", limit=limit)
        assert is_success(telling, record, whole, None) is expected
    assert is_success(None, record_of(COMPLETED="0-1"), whole, 0)


def test_failures_are_named_and_the_rest_counted() -> None:
    text = describe_failures(record_of(COMPLETED="0-9", FAILED="10-19"), 2, 20)
    assert text.startswith("max_failed_tasks=2 allows 2. Failed: task 10 (123_10) FAILED with exit")
    assert text.endswith(
        "task 14 (123_14) FAILED with exit code 1, log /FAILED; and 5 more: 15-19."
    )
    unknown = describe_failures(record_of(COMPLETED="0", UNKNOWN="1"), None, 2)
    assert "which max_failed_tasks cannot allow" in unknown


# ---- one result of many ----


def result(job_id: str, state: str, **fields: Any) -> JobResult:
    return JobResult(job_id=job_id, state=state, **fields)


def test_the_most_telling_failure_speaks_for_the_array() -> None:
    results = [
        result("1_0", "COMPLETED", max_rss_bytes=9),
        result("1_1", "FAILED", exit_code=1),
        result("1_2", "OUT_OF_MEMORY", memory_bytes=5, nodes="c1"),
        result("1_3", "OUT_OF_MEMORY", memory_bytes=7, nodes="c2"),
        result("1_4", "NODE_FAIL"),
    ]
    telling = most_telling(results)
    assert telling is results[3]
    record = record_of(COMPLETED="0", FAILED="1", OUT_OF_MEMORY="2-3", NODE_FAIL="4")
    found = sum_up("1", results, record, run_dir="/r", stdout_path="/o", stderr_path="/o")
    assert (found.job_id, found.state, found.nodes) == ("1", "OUT_OF_MEMORY", "c2")
    assert (found.run_dir, found.max_rss_bytes) == ("/r", 9)
    error = error_for_array(found, record, parse_array("0-4"), 0)
    assert isinstance(error, JobOutOfMemoryError)
    assert "5 tasks: 1 COMPLETED, 1 FAILED" in error.message
    assert error.details["array"]["counts"]["OUT_OF_MEMORY"] == 2


def test_times_are_from_the_first_to_the_last() -> None:
    def at(minute: int) -> str:
        return f"2026-11-21T10:{minute:02}:00+00:00"

    results = [
        result("1_0", "COMPLETED", submit_time=at(0), start_time=at(2), end_time=at(3), nodes="c1"),
        result("1_1", "COMPLETED", submit_time=at(0), start_time=at(1), end_time=at(5), nodes="c2"),
        result("1_2", "COMPLETED"),
    ]
    found = sum_up(
        "1", results, record_of(COMPLETED="0-2"), run_dir=None, stdout_path=None, stderr_path=None
    )
    assert (found.submit_time, found.start_time, found.end_time) == (at(0), at(1), at(5))
    assert (found.elapsed_seconds, found.nodes) == (240, None)


def test_what_all_tasks_were_given_is_added_unless_it_is_unknown_of_one() -> None:
    given = [["small", "cpu=1", 60]]
    results = [
        result("1_0", "COMPLETED", shares=given, memory_efficiency=0.1),
        result("1_1", "FAILED", shares=given, memory_efficiency=0.4),
        # Of one that was cancelled in the queue accounting may have no trace.
        result("1_2", "CANCELLED"),
        result("1_3", "COMPLETED", shares=[]),
    ]

    def shares_of(*more: JobResult) -> list[list[Any]] | None:
        record = record_of(COMPLETED="0")
        return sum_up(
            "1", [*results, *more], record, run_dir=None, stdout_path=None, stderr_path=None
        ).shares

    assert shares_of() == [["small", "cpu=1", 120]]
    assert shares_of(result("1_4", "COMPLETED")) is None
    ran = result("1_4", "CANCELLED", start_time="2026-11-21T10:00:00+00:00")
    assert shares_of(ran) is None
    # Sacct shows the last run of one that was requeued.
    assert shares_of(result("1_4", "COMPLETED", shares=given, restarts=1)) is None


# ---- from one job to the next ----


def test_a_note_says_what_need_not_be_run_again() -> None:
    record = record_of(COMPLETED="0-6,8", FAILED="7")
    assert format_note(record) == "completed 0-6,8"
    found = parse_note("completed 0-6,8")
    assert found is not None
    assert format_array(found) == "0-6,8"
    assert parse_note(format_note(record_of(FAILED="1"))) is not None
    assert not parse_note("completed")


@pytest.mark.parametrize("text", ["", "COMPLETED", "completed x", "completed0-3", "done 0-3"])
def test_what_is_no_note_says_nothing(text: str) -> None:
    assert parse_note(text) is None


def test_a_try_knows_what_is_still_to_do() -> None:
    known = ArrayAttempt(whole=parse_array("0-9%2"))
    first = result(
        "1", "FAILED", exit_code=1, array=record_of(COMPLETED="0-2", FAILED="3").to_payload()
    )
    second = result("2", "COMPLETED", array=record_of(COMPLETED="4-9").to_payload())
    known = ArrayAttempt.from_payload(json.loads(json.dumps(known.with_result(first).to_payload())))
    assert format_array(known.todo) == "4-9%2"
    known = known.with_result(second)
    assert not known.todo
    assert known.telling is not None
    assert known.telling.job_id == "1"
    other = result("3", "COMPLETED", array=record_of(COMPLETED="3,50").to_payload())
    assert list(known.with_result(other).record.ends) == list(range(10))
    again = known.without_failures()
    assert (format_array(again.todo), again.telling) == ("3%2", None)
    assert ArrayAttempt.from_payload(None) == ArrayAttempt()
