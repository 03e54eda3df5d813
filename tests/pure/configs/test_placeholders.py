"""Which brackets are placeholders, and what becomes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.configs.placeholders import fill, open_names, values_of


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("/users/(csc-user)", ["csc-user"]),
        ("run(id).log, (id) and (key)", ["id", "key"]),
        ("(copy 2)", []),
        ("(Copy)", []),
        ("()", []),
        ("ray (>=2)", []),
        ("$(hostname)", []),
        ("((id))", []),
        ("\\(id)", []),
        ("(-id)", []),
        ("(csc--user)", []),
        ("(csc_user)", []),
    ],
)
def test_what_is_a_placeholder(text: str, names: list[str]) -> None:
    assert open_names({"work_dir": text}) == names


def test_a_known_one_is_filled_wherever_it_stands() -> None:
    said = {"venv": {"path": "/users/(csc-user)", "packages": ["(project)"]}, "n": 1}

    filled, problems = fill(said, {"csc-user": "alice", "project": "project_2001234"})

    assert filled == {
        "venv": {"path": "/users/alice", "packages": ["project_2001234"]},
        "n": 1,
    }
    assert problems == []


@pytest.mark.parametrize("field", ["command", "script"])
def test_brackets_in_a_program_are_the_shells(field: str) -> None:
    assert fill({field: "(cd) (id)"}, {"id": "7"}) == ({field: "(cd) (id)"}, [])


def test_one_that_is_known_but_not_here_stays_unless_none_may() -> None:
    assert fill({"a": "(csc-user)"}, {}) == ({"a": "(csc-user)"}, [])

    _, problems = fill({"a": "(csc-user)/(id)"}, {}, must_close=True)

    assert [problem.path for problem in problems] == [("a",), ("a",)]
    assert "(csc-user) is not known here: it is the log-in" in problems[0].text
    assert "take (key)" in problems[1].text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("csc-usr", "Did you mean (csc-user)?"),
        ("bucket-rol", "Did you mean (bucket-role)?"),
        ("zzz", "Known are csc-user,"),
    ],
)
def test_an_unknown_one_is_named_with_the_nearest(name: str, hint: str) -> None:
    (problem,) = fill({"a": f"({name})"}, {"bucket-role": "data"})[1]

    assert f"({name}) is unknown. {hint}" in problem.text


def test_a_value_that_would_make_another_placeholder_is_refused() -> None:
    _, problems = fill({"a": "(x(key)-y)"}, {"key": "1"})

    assert "(x1-y) would be a placeholder again" in problems[0].text


PIECES = st.sampled_from(
    ["(", ")", "(id)", "(key)", "(csc-user)", "(zz)", "a", "-", "$", "\\", " "]
)


@given(
    st.lists(PIECES).map("".join),
    st.dictionaries(st.sampled_from(["id", "key", "zz"]), st.lists(PIECES).map("".join)),
)
def test_filling_in_twice_changes_nothing_more(text: str, values: dict[str, str]) -> None:
    once, problems = fill({"a": text}, values)
    if problems:
        return

    assert fill(once, values) == (once, [])


def test_a_context_says_texts_and_numbers_and_who_the_task_instance_is() -> None:
    ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=2)
    context: dict[str, Any] = {"ti": ti, "csc_user": "alice", "flag": True, "ds": "2026-11-21"}

    assert values_of(context) == {
        "dag-id": "d",
        "task-id": "t",
        "run-id": "r",
        "map-index": "-1",
        "try-number": "2",
        "csc-user": "alice",
        "ds": "2026-11-21",
    }
    assert values_of(None) == {}


def test_nothing_is_fetched_that_a_context_only_promises() -> None:
    class Promise:
        @property
        def __class__(self) -> type:  # as in a lazy proxy
            raise AssertionError("it was looked at")

    assert values_of({"later": Promise(), "ds": "2026-11-21"}) == {"ds": "2026-11-21"}
