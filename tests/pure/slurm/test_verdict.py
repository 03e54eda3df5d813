"""The verdict follows the evidence, and no evidence is no verdict."""

from __future__ import annotations

import pytest

from airflow_provider_csc.slurm.batch import ExitRecord
from airflow_provider_csc.slurm.output import Answer, NoAnswer, parse_accounting, parse_queue
from airflow_provider_csc.slurm.states import STATES
from airflow_provider_csc.slurm.verdict import Evidence, judge, split_exit_code
from tests.pure.slurm.evidence import accounting_line, answer, queue_line, recorded


def queue(*states: str) -> Answer:  # type: ignore[type-arg]
    rows = [queue_line(job_id=f"123_{n}", state=state) for n, state in enumerate(states)]
    found = parse_queue(answer(*rows))
    assert isinstance(found, Answer)
    return found


def accounting(*states: str, code: str = "0:0") -> Answer:  # type: ignore[type-arg]
    rows = [
        accounting_line(JobID=f"123_{n}", State=state, ExitCode=code)
        for n, state in enumerate(states)
    ]
    found = parse_accounting(answer(*rows))
    assert isinstance(found, Answer)
    return found


def record(code: int, signals: int | None = None) -> ExitRecord:
    return ExitRecord(job_id="123", exit_code=code, started=1, ended=2, nodes="c1", signals=signals)


SILENT = NoAnswer("Connection refused")
DISABLED = NoAnswer("Slurm accounting storage is disabled")
EMPTY: Answer[object] = Answer(())


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(),
        Evidence(queue=EMPTY),
        Evidence(accounting=EMPTY),
        Evidence(queue=EMPTY, accounting=EMPTY),
        Evidence(queue=SILENT, accounting=SILENT),
        Evidence(queue=EMPTY, accounting=SILENT),
        Evidence(queue=SILENT, accounting=EMPTY),
    ],
)
def test_no_information_decides_nothing(evidence: Evidence) -> None:
    verdict = judge(evidence)
    assert (verdict.state.name, verdict.is_final, verdict.exit_code) == ("UNKNOWN", False, None)


@pytest.mark.parametrize(
    ("evidence", "denied"),
    [
        (Evidence(queue=EMPTY, accounting=EMPTY), True),
        (Evidence(queue=EMPTY, accounting=SILENT), False),
        (Evidence(queue=SILENT, accounting=EMPTY), False),
        (Evidence(queue=EMPTY, accounting=DISABLED), True),
        (Evidence(queue=queue("FAILED"), accounting=DISABLED), False),
        (Evidence(queue=EMPTY), False),
        (Evidence(accounting=EMPTY), False),
        (Evidence(queue=EMPTY, accounting=accounting("PENDING")), False),
        (Evidence(queue=queue("PENDING"), accounting=EMPTY), False),
    ],
)
def test_a_job_is_denied_only_by_both_who_answered(evidence: Evidence, *, denied: bool) -> None:
    assert evidence.is_denied is denied


def test_a_row_of_a_job_that_another_cluster_runs_says_nothing() -> None:
    for state in ("COMPLETED", "FAILED"):
        told = Evidence(queue=queue("REVOKED"), accounting=accounting(state, "REVOKED"))
        assert judge(told).state.name == state
    untold = Evidence(queue=queue("REVOKED"), accounting=accounting("REVOKED"))
    assert judge(untold).state.name == "UNKNOWN"
    assert not untold.is_denied
    assert not untold.is_forgotten


LIVE = [name for name, state in STATES.items() if not state.is_final and name != "REVOKED"]


@pytest.mark.parametrize("state", LIVE)
def test_a_live_row_beats_every_other_evidence(state: str) -> None:
    evidence = Evidence(
        queue=queue(state), accounting=accounting("COMPLETED"), exit_record=record(0)
    )
    assert judge(evidence).state is STATES[state]
    assert not judge(evidence).is_final


@pytest.mark.parametrize(
    "word", ["COMPLETE", "COMPLETEDX", "completed", "COMPLETED,FAILED", "", "D"]
)
def test_only_the_word_itself_means_completed(word: str) -> None:
    assert not judge(Evidence(queue=queue(word))).is_final
    assert not judge(Evidence(accounting=accounting(word))).is_final


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("COMPLETED",), "COMPLETED"),
        (("COMPLETED", "TIMEOUT", "COMPLETED"), "TIMEOUT"),
        (("COMPLETED", "PENDING"), "UNKNOWN"),
        (("FAILED", "RUNNING"), "UNKNOWN"),
        (("FAILED", "DREAMING"), "UNKNOWN"),
    ],
)
def test_several_accounted_elements_are_as_good_as_their_worst(
    states: tuple[str, ...], expected: str
) -> None:
    assert judge(Evidence(queue=EMPTY, accounting=accounting(*states))).state.name == expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("COMPLETED", "RUNNING"), "RUNNING"),
        (("PENDING", "RUNNING", "FAILED"), "RUNNING"),
        (("COMPLETED", "PENDING"), "PENDING"),
        (("COMPLETED", "FAILED"), "FAILED"),
        (("COMPLETED", "DREAMING"), "DREAMING"),
    ],
)
def test_of_several_elements_in_the_queue_the_live_one_counts(
    states: tuple[str, ...], expected: str
) -> None:
    assert judge(Evidence(queue=queue(*states))).state.name == expected


def test_steps_do_not_speak_for_their_job() -> None:
    rows = answer(
        accounting_line(State="FAILED", ExitCode="3:0"),
        accounting_line(JobID="123.batch", State="COMPLETED"),
        accounting_line(JobID="123.0", State="RUNNING"),
    )
    found = parse_accounting(rows)
    assert judge(Evidence(accounting=found)).state.name == "FAILED"


@pytest.mark.parametrize(
    ("state", "accounted", "code", "expected"),
    [
        # sacct takes 128 off an exit code above 127; the job itself knows better.
        ("FAILED", "9:0", 137, ("FAILED", 137, 9)),
        ("FAILED", "72:0", 200, ("FAILED", 200, None)),
        ("FAILED", "9:0", 9, ("FAILED", 9, None)),
        # A job that Slurm ended is accounted as 0.
        ("TIMEOUT", "0:0", 143, ("TIMEOUT", 143, 15)),
        ("CANCELLED by 1001", "0:0", 143, ("CANCELLED", 143, 15)),
        ("OUT_OF_MEMORY", "0:125", 137, ("OUT_OF_MEMORY", 137, 9)),
        # The script came to its end, and Slurm says it failed all the same.
        ("NODE_FAIL", "1:0", 0, ("NODE_FAIL", 1, None)),
        ("TIMEOUT", "0:0", 0, ("TIMEOUT", 0, None)),
        # Slurm saw a success, and the script says it was none.
        ("COMPLETED", "0:0", 3, ("FAILED", 3, None)),
        ("COMPLETED", "0:0", 0, ("COMPLETED", 0, None)),
    ],
)
def test_accounting_knows_why_and_the_job_knows_its_code(
    state: str, accounted: str, code: int, expected: tuple[str, int, int | None]
) -> None:
    evidence = Evidence(
        queue=EMPTY, accounting=accounting(state, code=accounted), exit_record=record(code)
    )
    verdict = judge(evidence)
    assert (verdict.state.name, verdict.exit_code, verdict.signal) == expected


@pytest.mark.parametrize(
    ("queued", "code", "expected"),
    [
        (None, 0, ("COMPLETED", 0, None)),
        (None, 3, ("FAILED", 3, None)),
        (None, 143, ("FAILED", 143, 15)),
        ("TIMEOUT", 143, ("TIMEOUT", 143, 15)),
        ("COMPLETED", 0, ("COMPLETED", 0, None)),
        ("COMPLETED", 3, ("FAILED", 3, None)),
        ("NODE_FAIL", 0, ("NODE_FAIL", 0, None)),
    ],
)
def test_the_exit_record_is_proof_without_accounting(
    queued: str | None, code: int, expected: tuple[str, int, int | None]
) -> None:
    rows = queue(queued) if queued else EMPTY
    for silence in (SILENT, EMPTY, None):
        verdict = judge(Evidence(queue=rows, accounting=silence, exit_record=record(code)))
        assert (verdict.state.name, verdict.exit_code, verdict.signal) == expected


@pytest.mark.parametrize("is_accounted", [True, False])
@pytest.mark.parametrize(
    ("state", "code", "signals", "expected"),
    [
        ("NODE_FAIL", 0, 0, ("COMPLETED", 0, "NODE_FAIL")),
        # Slurm ends what is left of a job on its other nodes by signals.
        ("NODE_FAIL", 0, 1, ("NODE_FAIL", 0, None)),
        ("NODE_FAIL", 0, None, ("NODE_FAIL", 0, None)),
        ("NODE_FAIL", 3, 0, ("NODE_FAIL", 3, None)),
        ("TIMEOUT", 0, 0, ("TIMEOUT", 0, None)),
        ("PREEMPTED", 0, 0, ("PREEMPTED", 0, None)),
        ("COMPLETED", 3, 0, ("FAILED", 3, "COMPLETED")),
    ],
)
def test_a_script_that_had_ended_before_its_node_was_lost_has_succeeded(
    state: str,
    code: int,
    signals: int | None,
    expected: tuple[str, int, str | None],
    *,
    is_accounted: bool,
) -> None:
    evidence = Evidence(
        queue=EMPTY if is_accounted else queue(state),
        accounting=accounting(state, code="0:0") if is_accounted else SILENT,
        exit_record=record(code, signals),
    )
    verdict = judge(evidence)
    disputed = verdict.disputed and verdict.disputed.name
    assert (verdict.state.name, verdict.exit_code, disputed) == expected


def test_a_row_without_its_beginning_is_no_evidence_yet() -> None:
    found = parse_accounting(answer(accounting_line(JobName="allocation", ReqMem="16?")))
    assert not judge(Evidence(queue=EMPTY, accounting=found)).is_final


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, (0, None)),
        (1, (1, None)),
        (127, (127, None)),
        (128, (128, None)),
        (129, (129, 1)),
        (137, (137, 9)),
        (192, (192, 64)),
        (193, (193, None)),
        (255, (255, None)),
    ],
)
def test_an_exit_code_above_128_names_a_signal_that_exists(
    code: int, expected: tuple[int, int | None]
) -> None:
    assert split_exit_code(code) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("completed", ("COMPLETED", 0, None)),
        ("exit-3", ("FAILED", 3, None)),
        ("exit-126", ("FAILED", 126, None)),
        ("exit-127", ("FAILED", 127, None)),
        ("signal-9", ("FAILED", 0, 9)),
        ("signal-15", ("FAILED", 0, 15)),
        ("no-output-directory", ("FAILED", 0, 53)),
        ("timeout", ("TIMEOUT", 0, None)),
        ("out-of-memory", ("OUT_OF_MEMORY", 0, 125)),
        ("steps", ("COMPLETED", 0, None)),
        ("array", ("FAILED", 5, None)),
        ("cancelled", ("CANCELLED", 0, None)),
        ("cancelled-in-queue", ("CANCELLED", 0, None)),
        ("array-cancelled", ("CANCELLED", 0, None)),
        ("array-cancelled-in-queue", ("CANCELLED", 0, None)),
    ],
)
def test_what_was_recorded_is_judged(name: str, expected: tuple[str, int, int | None]) -> None:
    queued = parse_queue(recorded(f"squeue-{name}").frame)
    accounted = parse_accounting(recorded(f"sacct-{name}").frame)
    verdict = judge(Evidence(queue=queued, accounting=accounted))
    assert (verdict.state.name, verdict.exit_code, verdict.signal) == expected
    assert judge(Evidence(queue=queued)).state.name == expected[0]


@pytest.mark.parametrize("name", ["running", "array-running", "held", "requeued", "partition-down"])
def test_what_was_recorded_of_a_live_job_ends_nothing(name: str) -> None:
    queued = parse_queue(recorded(f"squeue-{name}").frame)
    accounted = parse_accounting(recorded(f"sacct-{name}").frame)
    assert not judge(Evidence(queue=queued, accounting=accounted)).is_final
    assert not judge(Evidence(queue=EMPTY, accounting=accounted)).is_final
