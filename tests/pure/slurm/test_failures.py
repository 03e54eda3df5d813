"""Every end of a job has one reason, and every reason one exception that carries the facts."""

from __future__ import annotations

import pickle
from inspect import get_annotations

import pytest

from airflow_provider_csc import errors
from airflow_provider_csc.slurm.failures import ERRORS, FailureReason, error_for, failure_of
from airflow_provider_csc.slurm.result import JobResult, build_result, describe_result
from airflow_provider_csc.slurm.states import STATES
from airflow_provider_csc.slurm.verdict import Evidence
from tests.pure.slurm.test_result import recorded_result

ENDS = [
    ({"state": "FAILED", "exit_code": 3}, "exit_code", errors.JobExitCodeError),
    ({"state": "FAILED"}, "exit_code", errors.JobExitCodeError),
    ({"state": "FAILED", "exit_code": 139, "signal": 11}, "signal", errors.JobSignalError),
    ({"state": "OUT_OF_MEMORY"}, "out_of_memory", errors.JobOutOfMemoryError),
    ({"state": "TIMEOUT"}, "time_limit", errors.JobTimeLimitError),
    ({"state": "NODE_FAIL"}, "node_failure", errors.JobNodeFailureError),
    ({"state": "BOOT_FAIL"}, "boot_failure", errors.JobBootFailureError),
    ({"state": "PREEMPTED"}, "preempted", errors.JobPreemptedError),
    ({"state": "CANCELLED"}, "cancelled", errors.JobCancelledError),
    ({"state": "CANCELLED", "cancelled_by": "0"}, "cancelled", errors.JobCancelledError),
    ({"state": "CANCELLED", "limit": "queue_timeout"}, "task_limit", errors.JobTaskLimitError),
    ({"state": "CANCELLED", "limit": "timeout"}, "task_limit", errors.JobTaskLimitError),
    ({"state": "CANCELLED", "limit": "execution_timeout"}, "task_limit", errors.JobTaskLimitError),
    ({"state": "CANCELLED", "limit": "dependency"}, "dependency", errors.JobDependencyError),
    (
        {"state": "CANCELLED", "reason": "DependencyNeverSatisfied", "cancelled_by": "0"},
        "dependency",
        errors.JobDependencyError,
    ),
    ({"state": "CANCELLED", "reason": "Dependency"}, "dependency", errors.JobDependencyError),
    # Somebody lost patience with a job that waited.
    (
        {"state": "CANCELLED", "reason": "DependencyNeverSatisfied", "cancelled_by": "1001"},
        "cancelled",
        errors.JobCancelledError,
    ),
    (
        {"state": "CANCELLED", "reason": "Dependency", "limit": "queue_timeout"},
        "task_limit",
        errors.JobTaskLimitError,
    ),
    ({"state": "CANCELLED", "limit": "held"}, "held", errors.JobHeldError),
    ({"state": "FAILED", "signal": 53}, "launch_failure", errors.JobLaunchFailureError),
    ({"state": "DEADLINE"}, "deadline", errors.JobDeadlineError),
    (
        {"state": "FAILED", "exit_code": 3, "contradiction": "they differ"},
        "contradiction",
        errors.JobContradictionError,
    ),
    ({"state": "UNKNOWN"}, "unknown", errors.JobUnknownError),
    ({"state": "UNKNOWN", "limit": "timeout"}, "unknown", errors.JobUnknownError),
    ({"state": "REVOKED"}, "unknown", errors.JobUnknownError),
    ({"state": "A_NEW_STATE"}, "unknown", errors.JobUnknownError),
]


@pytest.mark.parametrize(("fields", "reason", "error_type"), ENDS)
def test_each_end_has_its_reason_and_its_exception(
    fields: dict[str, object], reason: str, error_type: type[errors.JobFailedError]
) -> None:
    result = JobResult.from_payload({"job_id": "123", **fields})
    error = error_for(result)
    assert failure_of(result) == reason
    assert type(error) is error_type
    assert error.failure == reason
    assert str(error) == describe_result(result)


def test_no_reason_and_no_exception_is_left_out_above() -> None:
    assert {reason for _, reason, _ in ENDS} == set(FailureReason) - {FailureReason.REJECTED}
    assert {error_type for _, _, error_type in ENDS} == set(errors.JobFailedError.__subclasses__())
    assert set(ERRORS) == set(FailureReason) - {FailureReason.REJECTED}


def test_the_reasons_are_a_stored_format() -> None:
    assert [str(reason) for reason in FailureReason] == [
        *("exit_code", "signal", "out_of_memory", "time_limit", "node_failure", "boot_failure"),
        *("preempted", "cancelled", "task_limit", "dependency", "held", "launch_failure"),
        *("deadline", "contradiction", "unknown", "rejected"),
    ]


def test_a_success_is_no_failure() -> None:
    result = JobResult(job_id="123", state="COMPLETED", exit_code=0)
    assert failure_of(result) is None
    with pytest.raises(ValueError, match="no failure"):
        error_for(result)


@pytest.mark.parametrize("name", sorted(STATES))
def test_every_state_but_one_is_a_failure(name: str) -> None:
    found = failure_of(JobResult(job_id="123", state=name))
    assert (found is None) is (name == "COMPLETED")
    assert (found is FailureReason.UNKNOWN) is (not STATES[name].is_final)


@pytest.mark.parametrize(
    ("signal", "reason"), [(15, "task_limit"), (9, "task_limit"), (11, "signal")]
)
def test_without_accounting_a_job_cancelled_by_its_task_looks_as_if_killed(
    signal: int, reason: str
) -> None:
    result = JobResult(
        job_id="123", state="FAILED", exit_code=128 + signal, signal=signal, limit="timeout"
    )
    assert failure_of(result) == reason


def test_an_exit_code_of_its_own_is_not_laid_to_the_limit() -> None:
    result = JobResult(job_id="123", state="FAILED", exit_code=1, limit="timeout")
    assert failure_of(result) is FailureReason.EXIT_CODE


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("exit-3", "exit_code"),
        ("exit-127", "exit_code"),
        ("signal-9", "signal"),
        ("signal-15", "signal"),
        ("timeout", "time_limit"),
        ("out-of-memory", "out_of_memory"),
        ("cancelled", "cancelled"),
        ("cancelled-in-queue", "cancelled"),
        ("no-output-directory", "launch_failure"),
    ],
)
def test_what_a_real_slurm_told_has_its_reason(name: str, reason: str) -> None:
    assert failure_of(recorded_result(name)) == reason


def test_an_error_carries_the_facts_and_more_that_is_given() -> None:
    result = JobResult(
        job_id="123",
        state="OUT_OF_MEMORY",
        requested_memory="4G",
        max_rss_bytes=2**32,
        memory_bytes=2**33,
        nodes="c1",
        restarts=1,
    )
    error = error_for(result, history=[{"job_id": "122"}])
    assert isinstance(error, errors.JobOutOfMemoryError)
    assert (error.requested_memory, error.max_rss_bytes, error.memory_bytes) == (
        "4G",
        2**32,
        2**33,
    )
    assert (error.job_id, error.nodes, error.restarts) == ("123", "c1", 1)
    assert error.details["history"] == [{"job_id": "122"}]


@pytest.mark.parametrize("error_type", [*errors.JobFailedError.__subclasses__()])
def test_every_fact_that_a_class_promises_is_there(error_type: type[errors.JobFailedError]) -> None:
    fields = next(fields for fields, _, kind in ENDS if kind is error_type)
    error = error_for(JobResult.from_payload({"job_id": "123", **fields}))
    promised = {*get_annotations(errors.JobFailedError), *get_annotations(error_type)}
    assert promised <= error.details.keys()


@pytest.mark.parametrize("fields", [fields for fields, _, _ in ENDS])
def test_an_error_survives_pickling(fields: dict[str, object]) -> None:
    error = error_for(JobResult.from_payload({"job_id": "123", "nodes": "c1", **fields}))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.details == error.details


def test_no_evidence_is_an_unknown_failure() -> None:
    assert failure_of(build_result("123", Evidence())) is FailureReason.UNKNOWN
