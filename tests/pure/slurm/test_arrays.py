"""The task ids of an array are counted and listed without being spelt out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.arrays import ArraySpec, format_array, parse_array


@pytest.mark.parametrize(
    ("text", "ids", "throttle"),
    [
        ("5", [5], None),
        (7, [7], None),
        ("0-3", [0, 1, 2, 3], None),
        ("0-15:4", [0, 4, 8, 12], None),
        ("1,3,5-7", [1, 3, 5, 6, 7], None),
        ("7,1-2", [1, 2, 7], None),
        ("1-4,3-6", [1, 2, 3, 4, 5, 6], None),
        ("2,2,2", [2], None),
        ("0-9:3,0-9:2", [0, 2, 3, 4, 6, 8, 9], None),
        ("1-3%2", [1, 2, 3], 2),
        ("[1-3]%2", [1, 2, 3], 2),
        (range(4), [0, 1, 2, 3], None),
        (range(0, 10, 5), [0, 5], None),
    ],
)
def test_ids_are_listed_once_in_order_and_counted(
    text: Any, ids: list[int], throttle: int | None
) -> None:
    spec = parse_array(text)
    assert list(spec) == ids
    assert len(spec) == len(ids)
    assert spec.throttle == throttle


@pytest.mark.parametrize("text", ["0-4000000", "0-4000000:7", "0-4000000,0-4000000:3"])
def test_the_largest_arrays_are_counted_at_once(text: str) -> None:
    spec = parse_array(text)
    assert len(spec) > 500_000
    assert next(iter(spec)) == 0
    assert 3_999_996 in spec or spec.ranges[0].step == 7


def test_an_id_between_the_steps_is_not_in_the_array() -> None:
    spec = parse_array("0-15:4,20")
    assert [task_id in spec for task_id in (4, 5, 15, 16, 20)] == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "without ids"),
        (",", "without ids"),
        ("%4", "without ids"),
        (True, "without ids"),
        ("-1", "not an array: '-1'"),
        (-1, "not an array: '-1'"),
        ("1-", "not an array: '1-'"),
        ("a", "not an array: 'a'"),
        ("1-3;rm", "not an array"),
        ("5-1", "5-1 ends before it begins"),
        ("1-5:0", "step of zero"),
        ("1-5%", "after '%'"),
        ("1-5%x", "after '%'"),
        ("1%2,3%4", "after '%'"),
        ("4000001", "no Slurm site can allow"),
        ("99999999", "no Slurm site can allow"),
        (range(0), "ascending order"),
        (range(5, 0, -1), "ascending order"),
        (range(-3, 2), "no Slurm site can allow"),
    ],
)
def test_what_is_no_array_is_refused_with_the_reason_and_an_example(value: Any, why: str) -> None:
    with pytest.raises(NotationError, match="for example '0-99%10'") as caught:
        parse_array(value)
    assert why in caught.value.problem


RANGES = st.builds(
    lambda first, length, step: range(first, first + length, step),
    st.integers(0, 500),
    st.integers(1, 200),
    st.integers(1, 20),
)


@given(st.lists(RANGES, min_size=1, max_size=6), st.none() | st.integers(1, 100))
def test_an_array_survives_writing_and_reading(ranges: list[range], throttle: int | None) -> None:
    spec = ArraySpec(ranges=tuple(ranges), throttle=throttle)
    again = parse_array(format_array(spec))
    expected = sorted({task_id for each in ranges for task_id in each})
    assert (list(again), len(again), again.throttle) == (expected, len(expected), throttle)


@given(st.text(alphabet="0123456789,-:%[] ", max_size=30))
def test_any_text_is_an_array_with_ids_or_is_refused(text: str) -> None:
    try:
        spec = parse_array(text)
    except NotationError:
        return
    assert parse_array(format_array(spec)) == spec
