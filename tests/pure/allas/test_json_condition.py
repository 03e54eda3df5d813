"""What a JSON document must say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.allas.json_condition import parse_condition, read_document
from airflow_provider_csc.notation import NotationError

DOCUMENT: dict[str, Any] = {
    "status": "done",
    "epoch": 12,
    "ok": True,
    "none": None,
    "run": {"state": "ended", "losses": [0.5, 0.25]},
    "a.b": 1,
    "tags": ["x", "y"],
}

HOLDS: list[dict[str, Any]] = [
    {"status": "done"},
    {"status": "done", "epoch": 12},
    {"epoch": 12.0},
    {"epoch": {">=": 12, "<": 13}},
    {"epoch": {"!=": 11}},
    {"epoch": {"in": [1, 12]}},
    {"ok": True},
    {"none": None},
    {"run": {"state": "ended"}},
    {"run.state": "ended"},
    {"run.losses.1": 0.25},
    {"run.losses.1": {"<": 0.3}},
    {"a.b": 1},
    {"tags": {"contains": "x"}},
    {"tags": ["x", "y"]},
    {"run": {"==": {"state": "ended", "losses": [0.5, 0.25]}}},
    {"gone": {"exists": False}},
    {"none": {"exists": True}},
    {"status": {">": "da", "<=": "done"}},
]

DOES_NOT: list[tuple[dict[str, Any], str]] = [
    ({"status": "Done"}, "status is the text 'done', not == the text 'Done'"),
    ({"epoch": "12"}, "epoch is the number 12, not == the text '12'"),
    ({"epoch": {">": "9"}}, "epoch is the number 12, not > the text '9'"),
    ({"epoch": True}, "not == the truth value True"),
    ({"ok": 1}, "ok is the truth value True"),
    ({"ok": {">=": 1}}, "not >="),
    ({"gone": 1}, "gone is not there"),
    ({"gone": {"!=": 1}}, "gone is not there"),
    ({"gone": {"exists": True}}, "gone is not there"),
    ({"none": {"exists": False}}, "none is null"),
    ({"run.losses.7": 1}, "not there"),
    ({"status.x": 1}, "not there"),
    ({"status": {"contains": "d"}}, "not contains"),
    ({"tags": ["y", "x"]}, "not =="),
    ({"epoch": {"in": [[12], "12"]}}, "not in"),
    ({"none": {"<": 1}}, "none is null"),
]


@pytest.mark.parametrize("given_", HOLDS, ids=str)
def test_it_holds(given_: dict[str, Any]) -> None:
    assert parse_condition(given_).unmet(DOCUMENT) is None


@pytest.mark.parametrize(("given_", "said"), DOES_NOT, ids=str)
def test_it_does_not_hold_and_says_why(given_: dict[str, Any], said: str) -> None:
    unmet = parse_condition(given_).unmet(DOCUMENT)
    assert unmet is not None
    assert said in unmet


@pytest.mark.parametrize("document", [[], 3, "text", None, True, [{"status": "done"}]])
def test_a_document_that_is_no_object_has_no_keys(document: object) -> None:
    assert parse_condition({"status": "done"}).unmet(document) == "status is not there"


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, "no condition"),
        ("done", "no condition"),
        ({1: 2}, "no key"),
        ({"": 2}, "no key"),
        ({"a": {}}, "is empty"),
        ({"a": {">": 1, "b": 2}}, "mixes"),
        ({"a": {"in": "text"}}, "needs a list"),
        ({"a": {"exists": 1}}, "needs true or false"),
        ({"a": {">": None}}, "needs a number or a text"),
        ({"a": {">": True}}, "needs a number or a text"),
    ],
)
def test_what_is_no_condition_is_refused(given_: object, said: str) -> None:
    with pytest.raises(NotationError, match=said):
        parse_condition(given_)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"NaN", b'{"a": Infinity}', b"[" * 9000])
def test_what_is_no_json_is_no_document(data: bytes) -> None:
    with pytest.raises(NotationError, match="no JSON document"):
        read_document(data)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON, JSON)
def test_no_document_and_no_operand_is_executed_or_raises(document: object, wanted: object) -> None:
    data = json.dumps(document).encode()
    for name in ("==", "!=", "contains"):
        parse_condition({"a": {name: wanted}}).unmet(read_document(data))


@given(JSON)
def test_every_value_equals_itself_as_json(value: object) -> None:
    again = json.loads(json.dumps(value))
    assert parse_condition({"a": {"==": value}}).unmet({"a": again}) is None
