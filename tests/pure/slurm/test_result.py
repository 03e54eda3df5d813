"""A result holds what the sources told, survives being stored, and says what a person can do."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.slurm.batch import parse_exit_record
from airflow_provider_csc.slurm.output import Answer, parse_accounting, parse_queue
from airflow_provider_csc.slurm.result import JobResult, build_result, describe_result, to_xcom
from airflow_provider_csc.slurm.verdict import Evidence
from tests.pure.slurm.evidence import (
    NO_ACCOUNTING,
    accounting_line,
    answer,
    exit_record,
    queue_line,
    recorded,
)

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.framing import Frame


def evidence(
    queue: Frame | None, accounting: Frame | None, record: bytes | None = None
) -> Evidence:
    return Evidence(
        queue=None if queue is None else parse_queue(queue),
        accounting=None if accounting is None else parse_accounting(accounting),
        exit_record=None if record is None else parse_exit_record(record),
    )


def recorded_result(name: str) -> JobResult:
    recording = recorded(f"squeue-{name}")
    return build_result(
        recording.job_id, evidence(recording.frame, recorded(f"sacct-{name}").frame)
    )


# ---- what is put together ----


def test_all_three_sources_make_one_result() -> None:
    found = build_result(
        "123",
        evidence(
            answer(queue_line(state="FAILED", reason="NonZeroExitCode", ended="1020")),
            answer(accounting_line(State="FAILED", ExitCode="9:0")),
            exit_record(code=137),
        ),
        run_dir="/run",
        stdout_path="/out",
        stderr_path="/err",
        limit="timeout",
    )
    assert to_xcom(found) == {
        "job_id": "123",
        "name": "hello.af0123456789abcdef0123.1",
        "cluster": "testcluster",
        "state": "FAILED",
        "exit_code": 137,
        "signal": 9,
        "reason": "NonZeroExitCode",
        "partition": "small",
        "nodes": "c1",
        "submit_time": "1970-01-01T00:16:40+00:00",
        "start_time": "1970-01-01T00:16:50+00:00",
        "end_time": "1970-01-01T00:17:00+00:00",
        "elapsed_seconds": 10,
        "cpu_efficiency": 0.5,
        "memory_efficiency": None,
        "max_rss_bytes": None,
        "run_dir": "/run",
        "stdout_path": "/out",
        "stderr_path": "/err",
        "pending_reasons": [],
    }
    assert (found.limit, found.requested_memory, found.time_limit_minutes) == (
        "timeout",
        "1000M",
        60,
    )
    assert found.accounting.splitlines()[1].startswith("job   FAILED")


def test_what_accounting_does_not_tell_the_job_and_the_queue_do() -> None:
    found = build_result(
        "123",
        evidence(answer(), NO_ACCOUNTING, exit_record(code=0, started=1010, ended=1025)),
    )
    assert (found.state, found.exit_code, found.nodes) == ("COMPLETED", 0, "c1")
    assert found.start_time == "1970-01-01T00:16:50+00:00"
    assert found.elapsed_seconds == 15
    assert found.accounting == ""
    assert found.partition is found.cluster is found.cpu_efficiency is None


def test_a_success_needs_no_reason() -> None:
    line = queue_line(state="COMPLETED", reason="Prolog")
    found = build_result("123", evidence(answer(line), answer(accounting_line())))
    assert (found.state, found.reason) == ("COMPLETED", None)


def test_of_a_live_job_there_is_a_result_that_is_not_final() -> None:
    found = build_result("123", evidence(answer(queue_line(ended="9999999")), answer()))
    assert (found.state, found.is_final, found.is_success) == ("RUNNING", False, False)
    assert found.end_time is None


def test_no_evidence_makes_an_unknown_result() -> None:
    found = build_result("123", Evidence(queue=Answer(()), accounting=Answer(())))
    assert found == JobResult(job_id="123", state="UNKNOWN")
    assert not found.is_final
    assert not found.is_success


@pytest.mark.parametrize(
    ("name", "state", "success"),
    [
        ("completed", "COMPLETED", True),
        ("steps", "COMPLETED", True),
        ("exit-3", "FAILED", False),
        ("timeout", "TIMEOUT", False),
        ("cancelled", "CANCELLED", False),
        ("out-of-memory", "OUT_OF_MEMORY", False),
        ("array", "FAILED", False),
    ],
)
def test_a_recorded_job_has_its_result(name: str, state: str, *, success: bool) -> None:
    found = recorded_result(name)
    assert (found.state, found.is_success, found.is_final) == (state, success, True)
    assert found.partition == "small"
    assert found.cluster == "testcluster"
    assert found.submit_time
    assert found.start_time
    assert found.end_time
    assert found.submit_time <= found.start_time <= found.end_time
    assert found.end_time.endswith("+00:00")


# ---- what contradicts ----


def ended(*, state: str, code: str = "0:0", record: int) -> JobResult:
    return build_result(
        "123",
        evidence(
            answer(), answer(accounting_line(State=state, ExitCode=code)), exit_record(code=record)
        ),
    )


@pytest.mark.parametrize(
    ("state", "code", "record", "said"),
    [
        ("COMPLETED", "0:0", 3, "sacct says COMPLETED but"),
        ("COMPLETED", "0:0", 137, "sacct says COMPLETED but"),
        ("FAILED", "3:0", 0, "sacct says FAILED, exit code 3, but"),
        ("FAILED", "0:9", 0, "sacct says FAILED but"),
        ("FAILED", "3:0", 5, "sacct says FAILED, exit code 3, but"),
    ],
)
def test_slurm_and_the_job_may_contradict_each_other(
    state: str, code: str, record: int, said: str
) -> None:
    found = ended(state=state, code=code, record=record)
    own = f"the job's own exit record says exit code {record}"
    assert found.contradiction == f"{said} {own}"
    assert found.state == "FAILED"
    assert own in describe_result(found)


@pytest.mark.parametrize(
    ("state", "code", "record"),
    [
        ("COMPLETED", "0:0", 0),
        ("FAILED", "3:0", 3),
        ("FAILED", "9:0", 137),  # sacct takes 128 off
        ("FAILED", "0:0", 128),
        ("FAILED", "0:9", 137),
        ("FAILED", "0:15", 143),
        ("CANCELLED by 1001", "0:0", 0),
        ("CANCELLED by 1001", "0:0", 143),
        ("TIMEOUT", "0:0", 143),
        ("TIMEOUT", "0:0", 0),
        ("OUT_OF_MEMORY", "0:125", 137),
        ("NODE_FAIL", "0:0", 1),
        ("PREEMPTED", "0:0", 143),
    ],
)
def test_what_slurm_ends_may_leave_a_record_of_any_code(state: str, code: str, record: int) -> None:
    assert ended(state=state, code=code, record=record).contradiction is None


def test_without_accounting_squeue_is_compared() -> None:
    line = queue_line(state="COMPLETED", ended="1020")
    found = build_result("123", evidence(answer(line), NO_ACCOUNTING, exit_record(code=2)))
    assert found.contradiction == (
        "squeue says COMPLETED but the job's own exit record says exit code 2"
    )
    assert (found.state, found.exit_code, found.without_accounting) == ("FAILED", 2, True)


def test_what_is_not_final_contradicts_nothing() -> None:
    """A requeued job has the exit record of its first run."""
    rows = answer(accounting_line(State="FAILED", ExitCode="1:0"))
    found = build_result("123", evidence(answer(queue_line()), rows, exit_record(code=0)))
    assert (found.state, found.contradiction) == ("RUNNING", None)


def test_a_row_that_is_only_half_there_contradicts_nothing() -> None:
    row = answer(accounting_line(JobName="allocation", ReqMem="16?", State="FAILED"))
    assert build_result("123", evidence(answer(), row, exit_record())).contradiction is None


def test_the_peak_of_all_tasks_is_told_besides_that_of_one() -> None:
    lines = [
        accounting_line(NNodes="2", AllocCPUS="8"),
        accounting_line(JobID="123.0", MaxRSS="100M", NTasks="8", TRESUsageInTot="mem=600M"),
    ]
    found = build_result("123", evidence(answer(), answer(*lines)))
    assert found.max_rss_bytes == 100 * 2**20
    assert found.memory_bytes == 600 * 2**20
    assert (found.node_count, found.cpus) == (2, 8)
    assert not found.without_accounting


# ---- stored ----


def test_a_result_survives_a_trigger_event() -> None:
    found = recorded_result("steps")
    assert JobResult.from_payload(json.loads(json.dumps(found.to_payload()))) == found


def test_a_result_of_a_newer_version_is_read() -> None:
    payload = {"job_id": "1", "state": "COMPLETED", "carbon_grams": 5}
    assert JobResult.from_payload(payload) == JobResult(job_id="1", state="COMPLETED")


def test_the_names_of_a_result_are_a_stored_format() -> None:
    assert [field.name for field in fields(JobResult)] == [
        *("job_id", "state", "name", "cluster", "exit_code", "signal", "reason", "partition"),
        *("nodes", "submit_time", "start_time", "end_time", "elapsed_seconds", "cpu_efficiency"),
        *("max_rss_bytes", "run_dir", "stdout_path", "stderr_path", "limit", "cancelled_by"),
        *("requested_memory", "time_limit_minutes", "accounting", "contradiction"),
        *("without_accounting", "restarts", "memory_bytes", "node_count", "cpus"),
        *("array", "pending_reasons", "memory_efficiency", "granted_memory_bytes", "shares"),
    ]


# ---- said ----


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"state": "COMPLETED"}, "Job 123 ended COMPLETED: exit code 0."),
        (
            {"state": "FAILED", "exit_code": 3, "elapsed_seconds": 7, "stdout_path": "/x.log"},
            "Job 123 ended FAILED after 7 s: exit code 3. Its log: /x.log.",
        ),
        (
            {"state": "FAILED", "exit_code": 127},
            "Job 123 ended FAILED: exit code 127: a command was not found or not executable.",
        ),
        ({"state": "FAILED"}, "Job 123 ended FAILED: exit code unknown."),
        (
            {
                "state": "CANCELLED",
                "limit": "queue_timeout",
                "pending_reasons": [
                    {"reason": "None", "seconds": 1},
                    {"reason": "Priority", "seconds": 500},
                    {"reason": "Resources", "seconds": 100},
                ],
            },
            (
                "Job 123 ended CANCELLED: this task cancelled it because queue_timeout was reached. "
                "In the queue it waited for: Priority (8 min 20 s), Resources (1 min 40 s)."
            ),
        ),
        (
            {
                "state": "FAILED",
                "exit_code": 1,
                "pending_reasons": [{"reason": "Priority", "seconds": 500}],
            },
            "Job 123 ended FAILED: exit code 1.",
        ),
        (
            {"state": "FAILED", "exit_code": 139, "signal": 11},
            "Job 123 ended FAILED: it was killed by signal 11 (SIGSEGV).",
        ),
        (
            {"state": "FAILED", "exit_code": 0, "signal": 61},
            "Job 123 ended FAILED: it was killed by signal 61 (unnamed).",
        ),
        (
            {"state": "FAILED", "exit_code": 0, "signal": 53},
            (
                "Job 123 ended FAILED: Slurm could not start it (0:53): most likely its output file "
                "could not be opened, or its directory not entered, on the compute node."
            ),
        ),
        (
            {"state": "OUT_OF_MEMORY", "requested_memory": "4G", "max_rss_bytes": 2**32},
            (
                "Job 123 ended OUT_OF_MEMORY: it used more memory than the 4G it asked for. It was "
                "seen to use 4.0 GiB in one task. Raise options['mem'] or ['mem-per-cpu']."
            ),
        ),
        (
            {"state": "OUT_OF_MEMORY"},
            (
                "Job 123 ended OUT_OF_MEMORY: it used more memory than the amount it asked for. Raise "
                "options['mem'] or ['mem-per-cpu']."
            ),
        ),
        (
            {"state": "TIMEOUT", "time_limit_minutes": 15},
            (
                "Job 123 ended TIMEOUT: it reached its time limit of 15 minutes. Raise "
                "options['time'], or let the script checkpoint."
            ),
        ),
        (
            {"state": "CANCELLED", "limit": "queue_timeout", "cancelled_by": "1001"},
            "Job 123 ended CANCELLED: this task cancelled it because queue_timeout was reached.",
        ),
        (
            {"state": "CANCELLED", "cancelled_by": "1001"},
            "Job 123 ended CANCELLED: it was cancelled by user id 1001, not by this task.",
        ),
        (
            {"state": "CANCELLED", "cancelled_by": "0"},
            (
                "Job 123 ended CANCELLED: it was cancelled by user id 0 (root: an administrator, or "
                "Slurm itself), not by this task."
            ),
        ),
        (
            {"state": "CANCELLED", "cancelled_by": "350"},
            (
                "Job 123 ended CANCELLED: it was cancelled by user id 350 (a service of the site; a "
                "refused burst buffer, options['bb'], ends so too, without a log), not by this task."
            ),
        ),
        (
            {"state": "CANCELLED"},
            "Job 123 ended CANCELLED: it was cancelled, not by this task.",
        ),
        (
            {"state": "CANCELLED", "limit": "held", "reason": "JobHeldUser"},
            (
                "Job 123 ended CANCELLED: this task cancelled it, because it was held (reason "
                "JobHeldUser), which only a person can undo. Find out who held it and why before "
                "running it again."
            ),
        ),
        (
            {"state": "CANCELLED", "limit": "dependency"},
            (
                "Job 123 ended CANCELLED: this task cancelled it, because its dependency can never "
                "be satisfied: a job it waits for ended otherwise than it asks. Correct "
                "options['dependency'], or see to that job first."
            ),
        ),
        (
            {"state": "CANCELLED", "reason": "DependencyNeverSatisfied", "cancelled_by": "0"},
            (
                "Job 123 ended CANCELLED: Slurm cancelled it, because its dependency can never be "
                "satisfied: a job it waits for ended otherwise than it asks. Correct "
                "options['dependency'], or see to that job first."
            ),
        ),
        (
            {"state": "FAILED", "exit_code": 143, "signal": 15, "limit": "timeout"},
            "Job 123 ended FAILED: this task cancelled it because timeout was reached.",
        ),
        (
            {"state": "FAILED", "exit_code": 1, "limit": "timeout"},
            "Job 123 ended FAILED: exit code 1.",
        ),
        (
            {"state": "FAILED", "signal": 9},
            (
                "Job 123 ended FAILED: it was killed by signal 9 (SIGKILL). Where a site limits "
                "memory by sampling, one that used too much ends so; compare what it used with "
                "options['mem']."
            ),
        ),
        (
            {"state": "FAILED", "exit_code": 3, "contradiction": "A says B but C says D"},
            (
                "Job 123 ended FAILED: exit code 3. Slurm and the job contradict each other: A says "
                "B but C says D. Look at its log and its results before running it again; a shell's "
                "start-up or logout file may have changed the exit code."
            ),
        ),
        (
            {"state": "FAILED", "exit_code": 3, "restarts": 2, "without_accounting": True},
            (
                "Job 123 ended FAILED: exit code 3. Slurm had requeued it 2 times. This site keeps "
                "no accounting: what it used, and who cancelled it, cannot be known."
            ),
        ),
        (
            {"state": "COMPLETED", "restarts": 1, "without_accounting": True},
            "Job 123 ended COMPLETED: exit code 0. Slurm had requeued it once.",
        ),
        (
            {"state": "NODE_FAIL", "reason": "NodeDown", "nodes": "c1"},
            (
                "Job 123 ended NODE_FAIL: node c1 failed. That is no fault of the job: run it "
                "again, elsewhere."
            ),
        ),
        (
            {"state": "NODE_FAIL", "nodes": "c[1-2]"},
            (
                "Job 123 ended NODE_FAIL: one of its nodes, c[1-2], failed. That is no fault of the "
                "job: run it again, elsewhere."
            ),
        ),
        (
            {"state": "BOOT_FAIL"},
            (
                "Job 123 ended BOOT_FAIL: a node did not get ready for it. That is no fault of the "
                "job: run it again."
            ),
        ),
        (
            {"state": "PREEMPTED"},
            (
                "Job 123 ended PREEMPTED: it made way for a job of higher priority. Run it again, "
                "with options['requeue'], or in a partition whose jobs are not preempted."
            ),
        ),
        (
            {"state": "DEADLINE"},
            (
                "Job 123 ended DEADLINE: it could not end before its deadline. Give a later "
                "options['deadline'] or less 'time'."
            ),
        ),
        (
            {"state": "REVOKED", "reason": "None"},
            "Job 123 ended REVOKED: Slurm gave the reason None.",
        ),
        (
            {"state": "UNKNOWN", "limit": "queue_timeout"},
            (
                "Job 123 ended UNKNOWN: squeue does not know it any more, sacct tells no end of it, "
                "and it left no exit record, so what became of it is not known. This task had "
                "cancelled it because of queue_timeout. Look for its output before running it again."
            ),
        ),
        (
            {"state": "UNKNOWN"},
            (
                "Job 123 ended UNKNOWN: squeue does not know it any more, sacct tells no end of it, "
                "and it left no exit record, so what became of it is not known. Look for its output "
                "before running it again."
            ),
        ),
    ],
)
def test_an_end_is_described(result: dict[str, object], text: str) -> None:
    assert describe_result(JobResult.from_payload({"job_id": "123", **result})) == text


def test_a_recorded_job_without_its_output_directory_is_described() -> None:
    assert "its output file could not be opened" in describe_result(
        recorded_result("no-output-directory")
    )


# ---- what it was given ----


def result_of(*lines: str) -> JobResult:
    return build_result("123", evidence(answer(), answer(*lines)))


def test_a_result_says_what_the_job_was_given_and_for_how_long() -> None:
    job = accounting_line(AllocTRES="billing=2,cpu=2,mem=4G,node=1", ElapsedRaw="90")
    step = accounting_line(JobID="123.batch", JobName="batch", MaxRSS="1G", NTasks="1")
    found = result_of(job, step)
    assert found.shares == [["small", "billing=2,cpu=2,mem=4G,node=1", 90]]
    assert (found.granted_memory_bytes, found.memory_efficiency) == (4 * 2**30, 0.25)


def test_a_job_that_never_ran_was_given_nothing() -> None:
    assert result_of(accounting_line(AllocTRES="", ElapsedRaw="0")).shares == []


@pytest.mark.parametrize(
    "fields",
    [
        {"AllocTRES": "", "ElapsedRaw": "90"},
        {"AllocTRES": "cpu=1", "ElapsedRaw": ""},
        {"AllocTRES": "cpu=1", "JobName": "allocation", "ReqMem": "16?"},
    ],
)
def test_what_accounting_does_not_say_yet_is_not_nothing(fields: dict[str, str]) -> None:
    assert result_of(accounting_line(**fields)).shares is None
