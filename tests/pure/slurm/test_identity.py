"""A task's token is the same whoever computes it, and of no other task; its job's name holds it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.identity import (
    TOKEN_PATTERN,
    TaskIdentity,
    build_job_name,
    first_try_of_generation,
    parse_token,
    split_token,
)

TASK = TaskIdentity(
    dag_id="dag",
    run_id="manual__2026-11-21T07:00:00+00:00",
    task_id="group.train",
    map_index=-1,
    try_number=1,
    first_try=1,
)


def test_the_token_is_a_stored_format() -> None:
    """Run directories and jobs on clusters bear it; it must never change for the same task."""
    assert TASK.token == "afd71b95c05850d2fcab75.1"


def test_a_retry_keeps_the_key_and_has_a_token_of_its_own() -> None:
    retry = replace(TASK, try_number=2)
    assert retry.key == TASK.key
    assert (TASK.token, retry.token) == (f"{TASK.key}.1", f"{TASK.key}.2")


def test_the_generation_is_no_part_of_the_token() -> None:
    assert replace(TASK, try_number=3, first_try=3).token == replace(TASK, try_number=3).token


def test_every_part_of_a_tasks_name_makes_another_key() -> None:
    others = [
        replace(TASK, dag_id="other"),
        replace(TASK, run_id="other"),
        replace(TASK, task_id="other"),
        replace(TASK, map_index=0),
        replace(TASK, map_index=1),
        replace(TASK, deployment="https://other.example.org"),
    ]
    assert len({TASK.key, *(other.key for other in others)}) == len(others) + 1


_TEXT = st.text(max_size=10)


@given(_TEXT, _TEXT, _TEXT, _TEXT)
def test_names_do_not_run_into_each_other(one: str, two: str, three: str, four: str) -> None:
    """("a", "bc") and ("ab", "c") are two tasks."""
    first = replace(TASK, dag_id=one, task_id=two)
    second = replace(TASK, dag_id=three, task_id=four)
    assert (first.key == second.key) is ((one, two) == (three, four))


@pytest.mark.parametrize(
    ("map_index", "label"),
    [(-1, "dag.group.train"), (0, "dag.group.train.0"), (12, "dag.group.train.12")],
)
def test_the_default_name_is_readable(map_index: int, label: str) -> None:
    assert replace(TASK, map_index=map_index).default_label == label


@given(st.text(max_size=400), st.integers(1, 10**6))
def test_a_jobs_name_fits_and_gives_the_token_back(label: str, try_number: int) -> None:
    token = replace(TASK, try_number=try_number).token
    name = build_job_name(label.encode("utf-8", "ignore").decode(), token)
    assert parse_token(name) == token
    assert len(name.encode()) <= 255


def test_a_long_name_is_cut_between_two_letters() -> None:
    assert build_job_name("ä" * 150, TASK.token) == "ä" * 100 + "." + TASK.token
    assert build_job_name("x" + "ä" * 150, TASK.token) == "x" + "ä" * 99 + "." + TASK.token


def test_of_two_tokens_in_a_name_the_last_is_the_jobs() -> None:
    other = "af" + "0" * 20 + ".7"
    assert parse_token(build_job_name(other, TASK.token)) == TASK.token


@pytest.mark.parametrize(
    "name",
    [
        *("", "wrap", "af.1", f"{TASK.key}", f"{TASK.key}.", f"{TASK.key}.0", f"{TASK.key}.1x"),
        *(f"{TASK.token}.suffix", f"{TASK.key.upper()}.1", "af" + "g" * 20 + ".1"),
    ],
)
def test_a_strangers_job_has_no_token(name: str) -> None:
    assert parse_token(name) is None


def test_a_token_needs_no_quoting_anywhere() -> None:
    assert TOKEN_PATTERN.fullmatch(TASK.token)
    assert TASK.token.replace(".", "").isalnum()


@pytest.mark.parametrize(
    ("try_number", "max_tries", "retries", "first"),
    [
        (1, 0, 0, 1),  # the first try, without retries
        (1, 3, 3, 1),
        (2, 3, 3, 1),  # a retry
        (4, 3, 3, 1),
        (2, 1, 0, 2),  # cleared after its first try: max_tries = try_number + retries
        (3, 5, 3, 3),  # cleared after its second, of four
        (4, 5, 3, 3),  # and its first retry since
        (1, 0, 3, 1),  # the DAG was given retries after the run had begun
        (2, 9, 3, 2),  # the DAG was given fewer: never later than the present try
    ],
)
def test_a_generation_begins_where_airflow_meant_to_run_again(
    try_number: int, max_tries: int, retries: int, first: int
) -> None:
    found = first_try_of_generation(try_number=try_number, max_tries=max_tries, retries=retries)
    assert found == first


@pytest.mark.parametrize(("resubmission", "suffix"), [(0, "3"), (1, "3.1"), (12, "3.12")])
def test_a_resubmission_within_a_try_has_a_token_of_its_own(resubmission: int, suffix: str) -> None:
    task = replace(TASK, try_number=3, resubmission=resubmission)
    assert task.token == f"{TASK.key}.{suffix}"
    assert split_token(task.token) == (TASK.key, *task.number)
    assert parse_token(build_job_name("x", task.token)) == task.token


@pytest.mark.parametrize(
    "text",
    [
        *("", TASK.key, f"{TASK.key}.0", f"{TASK.key}.1.0", f"{TASK.key}.01", f"{TASK.key}.1.1.1"),
        *(f"x{TASK.token}", f"{TASK.token}\n", f"{TASK.token}~123"),
    ],
)
def test_what_is_no_token_is_not_split(text: str) -> None:
    with pytest.raises(ValueError, match="is not a token"):
        split_token(text)


def test_submissions_come_in_the_order_they_were_made() -> None:
    numbers = [
        replace(TASK, try_number=each, resubmission=again).number
        for each in (1, 2, 10)
        for again in (0, 1, 10)
    ]
    assert numbers == sorted(numbers)


def test_the_identity_is_one_line_of_json_with_all_a_reaper_needs() -> None:
    task = replace(
        TASK, deployment="ö\n", resubmission=2, run_started="2026-11-21T07:00:00+00:00", waits=False
    )
    text = task.to_json()
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text) == {
        "version": 1,
        "deployment": "ö\n",
        "dag_id": "dag",
        "run_id": TASK.run_id,
        "task_id": "group.train",
        "map_index": -1,
        "try_number": 1,
        "resubmission": 2,
        "run_started": "2026-11-21T07:00:00+00:00",
        "waits": False,
    }
