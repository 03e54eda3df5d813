"""Which tasks of an array one job runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.array_parts import (
    ArrayLimits,
    ArrayPart,
    choose_part,
    describe_part,
    format_part,
    parse_limits,
    parse_part,
    promise,
    subtract,
)
from airflow_provider_csc.slurm.arrays import array_of, format_array, parse_array, read_ids
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.queue_limits import QueueLimit
from tests.pure.slurm.evidence import answer

ids = st.sets(st.integers(0, 500), min_size=1, max_size=60)
limits = st.builds(
    ArrayLimits,
    max_id=st.none() | st.integers(1, 300),
    max_tasks=st.none() | st.integers(1, 50),
    max_queued=st.none() | st.integers(1, 50),
)


@given(ids)
def test_ids_are_written_in_ranges_and_read_again(wanted: set[int]) -> None:
    spec = array_of(wanted, 3)
    assert list(parse_array(format_array(spec))) == sorted(wanted)
    assert parse_array(format_array(spec)).throttle == 3


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (range(100), "0-99"),
        ([3, 1, 2, 2], "1-3"),
        ([0, 4, 8, 12], "0-12:4"),
        ([1, 5], "1,5"),
        ([0, 1, 2, 7, 20, 21], "0-2,7,20-21"),
        ([1, 3, 9, 12, 15], "1,3,9-15:3"),
        ([], ""),
    ],
)
def test_ranges_are_few(wanted: list[int], text: str) -> None:
    assert format_array(array_of(wanted)) == text
    assert list(read_ids(text)) == sorted(set(wanted))


@given(ids, limits)
def test_the_parts_of_an_array_are_all_of_it_and_each_is_allowed(
    wanted: set[int], site: ArrayLimits
) -> None:
    todo, seen = array_of(wanted, 2), []
    while todo:
        part = choose_part(todo, site)
        lower = parse_part(part.slurm_spec).spec
        assert [each + part.shift for each in lower] == list(part.spec)
        assert lower.throttle == part.spec.throttle == 2
        assert site.most is None or len(lower) <= site.most
        assert site.max_id is None or all(0 <= each < site.max_id for each in lower)
        seen += part.spec
        todo = subtract(todo, set(part.spec))
    assert seen == sorted(wanted)


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (ArrayLimits(), "0-99%10"),
        (ArrayLimits(max_id=100, max_queued=100), "0-99%10"),
        (ArrayLimits(max_queued=30), "0-29%10"),
        (ArrayLimits(max_tasks=30, max_queued=40), "0-29%10"),
        (ArrayLimits(max_id=30), "0-29%10"),
    ],
)
def test_the_first_part_is_as_long_as_the_site_allows(site: ArrayLimits, expected: str) -> None:
    assert format_part(choose_part(parse_array("0-99%10"), site)) == expected


def test_only_ids_that_slurm_would_refuse_are_shifted() -> None:
    site = ArrayLimits(max_id=1001)
    first = choose_part(parse_array("5,1000-1010"), site)
    assert format_part(first) == "5,1000"
    second = choose_part(parse_array("1001-1010%2"), site)
    assert (format_part(second), second.slurm_spec) == ("1001-1010%2 shifted by 1001", "0-9%2")


def test_it_is_said_why_a_job_runs_only_a_part() -> None:
    whole, site = parse_array("0-1500"), ArrayLimits(max_id=1001, max_queued=2000)
    part = choose_part(whole, site)
    assert describe_part(part, whole, site) == (
        "1501 tasks are more than this site takes at once (MaxArraySize=1001, MaxSubmit=2000): "
        "this job runs 1001 of them, 0-1000; the others follow in jobs of their own, one after "
        "the other."
    )
    rest = parse_array("1001-1500")
    assert "lower by 1001" in describe_part(choose_part(rest, site), rest, site)
    assert describe_part(ArrayPart(spec=rest), rest, ArrayLimits()) == ""


@pytest.mark.parametrize("text", ["0-99%10", "7", "1000-1999%10 shifted by 1000"])
def test_a_part_is_a_stored_format(text: str) -> None:
    assert format_part(parse_part(text)) == text


@pytest.mark.parametrize("text", ["", "x", "0-9 shifted by", "0-9 shifted by -1", "9-0"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(NotationError):
        parse_part(text)


def test_a_script_is_promised_the_whole_array_only_where_it_gets_a_part() -> None:
    whole = parse_array("2-8:2%2")
    assert promise(whole, ArrayPart(spec=whole)) == {}
    assert promise(whole, ArrayPart(spec=parse_array("4,8"))) == {
        "SLURM_ARRAY_TASK_ID": "$((SLURM_ARRAY_TASK_ID + 0))",
        "SLURM_ARRAY_TASK_MIN": "2",
        "SLURM_ARRAY_TASK_MAX": "8",
        "SLURM_ARRAY_TASK_COUNT": "4",
        "SLURM_ARRAY_TASK_STEP": "2",
    }
    assert promise(whole, ArrayPart(spec=whole, shift=2))["SLURM_ARRAY_TASK_ID"].endswith("+ 2))")


@pytest.mark.parametrize(
    ("text", "step"), [("1,5,9-15:3", "3"), ("4-8:2,20", "2"), ("0-9", "1"), ("1,3", "1")]
)
def test_the_step_is_told_as_slurm_tells_it(text: str, step: str) -> None:
    """As printed by Slurm 22.05 for these arrays."""
    part = ArrayPart(spec=parse_array("1"))
    assert promise(parse_array(text), part)["SLURM_ARRAY_TASK_STEP"] == step


def test_nothing_is_subtracted_from_a_whole_array() -> None:
    whole = parse_array("5-9,1%3")
    assert subtract(whole, set()) is whole
    assert format_array(subtract(whole, {5, 7})) == "1,6,8-9%3"
    assert not subtract(whole, set(range(10)))


CONFIG = answer(
    "MaxArraySize            = 1001", "SchedulerParameters = max_array_tasks=500,bf_x=1"
)


@pytest.mark.parametrize(
    ("limits", "queued"), [([400], 400), ([400, 50, 70], 50), ([0], None), ([0, 7], 7), ([], None)]
)
def test_the_narrowest_limit_on_jobs_in_the_queue_counts(
    limits: list[int], queued: int | None
) -> None:
    found = parse_limits(
        {"config": CONFIG},
        [QueueLimit(code="x", words="x", limit=each, queued=None) for each in limits],
    )
    assert found == ArrayLimits(max_id=1001, max_tasks=500, max_queued=queued)


def test_what_is_not_told_is_no_limit() -> None:
    silent = Frame(1, b"Unable to contact slurm controller|a|5")
    assert parse_limits({"config": silent}, []) == ArrayLimits()
    assert ArrayLimits().most is None
