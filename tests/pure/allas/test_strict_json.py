"""Which JSON is read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.allas.strict_json import (
    MAX_DEPTH,
    JsonError,
    parse_json,
    render_json,
    render_sorted,
)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Lone surrogates are no characters.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_every_value_comes_back_as_it_went(value: object) -> None:
    text = render_json(value)
    assert "\n" not in text
    assert parse_json(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "it is no JSON"),
        (b"{'a': 1}", "it is no JSON"),
        (b"[1,]", "it is no JSON"),
        (b"1 2", "it is no JSON"),
        (b"NaN", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "the number 1e999 is too large"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "has the key 'b' twice"),
        (b'"\xe4"', r"it is not UTF-8 \(byte 1\)"),
        ("\ufeff1".encode(), "it is no JSON"),
        (b"[" * 100_000, "nested"),
        (b"1" * 5_000, "it is no JSON"),
    ],
)
def test_what_programs_read_differently_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(JsonError, match=said):
        parse_json(text)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def looped() -> object:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "the value is nan"),
        ({"a": [1, float("-inf")]}, "'a' is -inf"),
        ([0, {3: 1}], r"\[1\] of the value has the key 3; keys are strings"),
        ({"a": {1}}, "'a' is of type set"),
        (b"x", "the value is of type bytes"),
        ("\ud800", "half a character"),
        (10**5000, "digits"),
        (nested(MAX_DEPTH + 1), "nested more than 200"),
        (looped(), "contains itself"),
    ],
    ids=lambda case: case if isinstance(case, str) and case.isascii() else "",
)
def test_what_json_does_not_have_is_refused(value: object, said: str) -> None:
    with pytest.raises(JsonError, match=said):
        render_json(value)


def test_the_deepest_that_is_written_is_read() -> None:
    deepest = nested(MAX_DEPTH)
    assert parse_json(render_json(deepest).encode()) == deepest


def test_tuples_are_arrays_and_keys_keep_their_order() -> None:
    assert render_json({"b": (1, 2), "a": "ä"}) == '{"b":[1,2],"a":"ä"}'


def test_equal_values_have_one_sorted_text_and_true_is_not_one() -> None:
    assert render_sorted({"a": 1, "b": 2}) == render_sorted({"b": 2, "a": 1})
    assert render_sorted([True]) != render_sorted([1])
