"""A state means what Slurm's manual says of it; a word that is in no table means nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.states import STATES, Phase, parse_cancelled_by, parse_state

# squeue(1) and sacct(1), JOB STATE CODES, Slurm 22.05 to 25.11.
DOCUMENTED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "CONFIGURING", "COMPLETING", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "PREEMPTED", "RUNNING", "RESV_DEL_HOLD"),
    *("REQUEUE_FED", "REQUEUE_HOLD", "REQUEUED", "RESIZING", "REVOKED", "SIGNALING"),
    *("SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED", "TIMEOUT", "LAUNCH_FAILED"),
    *("RECONFIG_FAIL", "POWER_UP_NODE", "UPDATE_DB", "EXPEDITING"),
}
FINAL = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "TIMEOUT", "LAUNCH_FAILED", "RECONFIG_FAIL"),
}


def test_every_documented_state_is_known() -> None:
    assert STATES.keys() == DOCUMENTED


def test_the_final_states_are_these_and_one_is_success() -> None:
    assert {name for name, state in STATES.items() if state.is_final} == FINAL
    assert {name for name, state in STATES.items() if state.is_success} == {"COMPLETED"}


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
