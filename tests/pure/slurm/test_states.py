"""A state means what Slurm's manual says of it; a word that is in no table means nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.states import (
    STATES,
    Phase,
    parse_cancelled_by,
    parse_state,
)

# job_state_codes.html, squeue(1) and sacct(1), Slurm 22.05 to 25.11.
DOCUMENTED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "CONFIGURING", "COMPLETING", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "PREEMPTED", "RUNNING", "RESV_DEL_HOLD"),
    *("REQUEUE_FED", "REQUEUE_HOLD", "REQUEUED", "RESIZING", "REVOKED", "SIGNALING"),
    *("SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED", "TIMEOUT", "LAUNCH_FAILED"),
    *("RECONFIG_FAIL", "POWER_UP_NODE", "UPDATE_DB", "EXPEDITING"),
}
FINAL = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "TIMEOUT"),
}


def test_every_documented_state_is_known() -> None:
    assert STATES.keys() == DOCUMENTED


def test_the_final_states_are_these_and_one_is_success() -> None:
    assert {name for name, state in STATES.items() if state.is_final} == FINAL
    assert {name for name, state in STATES.items() if state.is_success} == {"COMPLETED"}


def test_a_word_that_marks_a_request_to_requeue_ends_nothing() -> None:
    """slurmctld stores these flags with no job; the job may be requeued as well as ended."""
    assert STATES["LAUNCH_FAILED"].phase is STATES["RECONFIG_FAIL"].phase is Phase.UNKNOWN


def test_a_job_that_goes_to_the_front_of_the_queue_does_not_run() -> None:
    """EXPEDITING is set together with REQUEUE (src/slurmctld/job_mgr.c, 25.11)."""
    assert STATES["EXPEDITING"].phase is Phase.QUEUED
    assert STATES["EXPEDITING"].since == "25.11"


def test_the_base_states_are_these() -> None:
    """Enum job_states of slurm.h, the same in each release from 22.05 to 25.11."""
    assert [name for name, state in STATES.items() if not state.is_flag] == [
        *("PENDING", "RUNNING", "SUSPENDED", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT"),
        *("NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"),
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RUNNING,COMPLETING", "COMPLETING"),
        ("RUNNING+COMPLETING", "COMPLETING"),
        ("COMPLETED,COMPLETING", "COMPLETING"),
        ("FAILED,COMPLETING,REQUEUED", "COMPLETING"),
        ("NODE_FAIL,REQUEUED,COMPLETING", "COMPLETING"),
        ("PENDING,REQUEUED,EXPEDITING", "EXPEDITING"),
        ("PENDING,REQUEUE_HOLD", "REQUEUE_HOLD"),
        ("RUNNING,CONFIGURING,POWER_UP_NODE", "CONFIGURING"),
        ("COMPLETED,UPDATE_DB", "COMPLETED"),
        ("PENDING,LAUNCH_FAILED", "PENDING"),
    ],
)
def test_of_a_base_state_and_flags_what_slurm_would_print_counts(text: str, name: str) -> None:
    """job_state_string and job_state_string_complete, src/common/slurm_protocol_defs.c."""
    assert parse_state(text) is STATES[name]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("OUT_OF_ME+", "OUT_OF_MEMORY"),
        ("CONFIGURI+", "CONFIGURING"),
        ("REQUEUE_H+", "REQUEUE_HOLD"),
        ("REQUEUE_F+", "REQUEUE_FED"),
        ("SPECIAL_E+", "SPECIAL_EXIT"),
        ("RESV_DEL_+", "RESV_DEL_HOLD"),
    ],
)
def test_a_state_that_sacct_cut_to_its_columns_width_is_read(text: str, name: str) -> None:
    assert parse_state(text) is STATES[name]


def test_every_state_has_a_name_and_a_code_of_its_own() -> None:
    codes = [state.code for state in STATES.values()]
    assert len(set(codes)) == len(codes)
    assert not set(codes) & STATES.keys()
    for name, state in STATES.items():
        assert parse_state(name) is parse_state(state.code) is state


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_a_state_is_read_in_every_form_slurm_prints(name: str) -> None:
    """sacct cuts a column that is too narrow and marks it with a plus."""
    assert parse_state(f" {name}\n") is parse_state(f"{name}+") is parse_state(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CANCELLED by 1001", "CANCELLED"),
        ("CANCELLED by 0", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
    ],
)
def test_a_cancelled_job_may_say_by_whom(text: str, name: str) -> None:
    assert parse_state(text).name == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "COMPLETE", "COMPLET+", "COMPLETEDX", "completed", "Completed", "C", "UNKNOWN"),
        *("COMPLETED,TIMEOUT", "COMPLETED:0", "NODE FAIL", "DREAMING", "0", "None", "(null)"),
        *(
            "COMPLETED,DREAMING",
            "COMPLETING,COMPLETED",
            "COMPLETING,REQUEUED",
            "COMPLETED,",
            "OUT_OF_M+",
            "?",
            "CD,CG",
        ),
    ],
)
def test_a_word_in_no_table_is_unknown(text: str) -> None:
    state = parse_state(text)
    assert state.phase is Phase.UNKNOWN
    assert not state.is_final
    assert not state.is_success
    assert state.name == ((text.split() or ["(none)"])[0].rstrip("+"))


def test_a_job_that_another_cluster_took_over_has_not_ended() -> None:
    """A sibling of the federation runs it."""
    assert STATES["REVOKED"].phase is Phase.UNKNOWN


@given(st.text(max_size=30))
def test_no_text_is_success_but_its_own_word(text: str) -> None:
    word = (text.split() or [""])[0].rstrip("+")
    assert parse_state(text).is_success is (word in ("COMPLETED", "CD"))


@pytest.mark.parametrize(
    ("text", "user_id"),
    [
        ("CANCELLED by 1001", "1001"),
        ("CANCELLED by 0", "0"),
        ("CANCELLED", None),
        ("CANCELLED by", None),
        ("FAILED by 1001", None),
        ("", None),
    ],
)
def test_who_cancelled_is_read(text: str, user_id: str | None) -> None:
    assert parse_cancelled_by(text) == user_id
