"""Times, sizes and counts are read as Slurm reads them, and written so that Slurm reads them."""

from __future__ import annotations

import contextlib
import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.notation import NotationError, shown
from airflow_provider_csc.slurm.values import (
    UNLIMITED,
    format_elapsed,
    format_memory,
    format_size,
    format_time_limit,
    parse_count,
    parse_delay,
    parse_elapsed,
    parse_integer,
    parse_memory,
    parse_size,
    parse_time_limit,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = [
    *("", " ", "-", "$(id)", "`id`", "'; rm -rf ~", '"', "\\", "5\x00", "5\n5", "--help", "٣", "½"),
    *("1e3", "0x10", "5;6", "5|6", "nan", "inf", "None", "True", "9" * 400, "1-" * 50, "日本"),
]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 5400),
        ("90", 5400),
        (" 90 ", 5400),
        ("00:30", 30),
        ("2:30:00", 9000),
        ("1-0", 86400),
        ("1-", 86400),
        ("1-02:03", 93780),
        ("1-02:03:04", 93784),
        ("0:90:0", 5400),
        (timedelta(hours=1), 3600),
        (timedelta(milliseconds=1), 1),
        (timedelta(seconds=59.5), 60),
        ("UNLIMITED", UNLIMITED),
        ("infinite", UNLIMITED),
        ("-1", UNLIMITED),
        ("0", UNLIMITED),
        (0, UNLIMITED),
        ("00:00:00", UNLIMITED),
    ],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(value: Any, seconds: Any) -> None:
    assert parse_time_limit(value) == seconds


@pytest.mark.parametrize(
    "value",
    ["1h", "90m", "1.5", "1:2:3:4", "1-2-3", "5:", ":5", "1:2-3", -5, True, "-5", 36_000_000],
)
def test_what_is_no_time_limit_is_refused_with_the_notations_there_are(value: Any) -> None:
    with pytest.raises(NotationError, match=r"HH:MM:SS.*for example '02:30:00'") as caught:
        parse_time_limit(value)
    assert shown(value) in caught.value.problem


@pytest.mark.parametrize("value", [timedelta(0), timedelta(seconds=-1)])
def test_a_computed_time_limit_that_is_not_positive_does_not_become_unlimited(value: Any) -> None:
    with pytest.raises(NotationError, match="not a positive time"):
        parse_time_limit(value)


def test_a_delay_of_zero_is_zero() -> None:
    assert parse_delay("0") == 0
    assert parse_delay("UNLIMITED") is UNLIMITED


@given(st.integers(1, 2**31 - 1))
def test_a_time_limit_survives_writing_and_reading(seconds: Any) -> None:
    assert parse_time_limit(format_time_limit(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(30, "0-00:00:30"), (93784, "1-02:03:04"), (0, "0-00:00:00"), (UNLIMITED, "UNLIMITED")],
)
def test_a_time_limit_is_written_with_days(seconds: Any, text: str) -> None:
    assert format_time_limit(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:00", 0),
        ("00:12:41", 761),
        ("1-02:03:04", 93784),
        ("12-00:00:00", 12 * 86400),
        ("00:01.500", 1.5),
        ("01:02:03.250", 3723.25),
        ("59:59.999", 3599.999),
        ("1-00:00:00.5", 86400.5),
        ("", None),
        ("  ", None),
    ],
)
def test_elapsed_times_are_read_as_sacct_prints_them(text: str, seconds: Any) -> None:
    assert parse_elapsed(text) == seconds


@pytest.mark.parametrize("text", ["INVALID", "Unknown", "UNLIMITED", "5", "1:2:3:4", "1-2:3"])
def test_what_is_no_elapsed_time_is_refused(text: str) -> None:
    with pytest.raises(NotationError, match="not a duration"):
        parse_elapsed(text)


@given(st.integers(0, 10**9))
def test_an_elapsed_time_survives_writing_and_reading(seconds: Any) -> None:
    assert parse_elapsed(format_elapsed(seconds)) == seconds


def test_an_elapsed_time_of_less_than_a_day_is_written_without_days() -> None:
    assert format_elapsed(761.9) == "00:12:41"


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        ("0", 0),
        (4000, 4000 * 2**20),
        ("4000", 4000 * 2**20),
        ("4G", 2**32),
        ("4g", 2**32),
        ("4GB", 2**32),
        ("1T", 2**40),
        ("1K", 1024),
        (" 4G ", 2**32),
    ],
)
def test_memory_is_read_in_megabytes_unless_a_unit_follows(value: Any, size_bytes: Any) -> None:
    assert parse_memory(value) == size_bytes


@pytest.mark.parametrize("value", ["1.5G", "4GiB", "4 G", "10B", "G", "-1", "", True, 4.5, "1P"])
def test_what_is_no_memory_size_is_refused_with_an_example(value: Any) -> None:
    with pytest.raises(NotationError, match="for example '1536M' or '4G'"):
        parse_memory(value)


@given(st.integers(0, 2**50))
def test_memory_survives_writing_and_reading_but_for_a_part_of_a_kilobyte(size_bytes: Any) -> None:
    assert 0 <= parse_memory(format_memory(size_bytes)) - size_bytes < 1024


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0"), (1, "1K"), (1500 * 1024, "1500K"), (1536 * 2**20, "1536M"), (2**32, "4G")],
)
def test_memory_is_written_in_the_largest_exact_unit(size_bytes: Any, text: str) -> None:
    assert format_memory(size_bytes) == text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1234K", 1234 * 1024),
        ("12.50M", 13107200),
        ("0", 0),
        ("512", 512),
        ("4G", 2**32),
        ("4Gn", 2**32),
        ("3900Mc", 3900 * 2**20),
        ("0n", 0),
        ("1.21T", round(1.21 * 2**40)),
        ("", None),
    ],
)
def test_sizes_are_read_as_sacct_prints_them(text: str, size_bytes: Any) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["4GB", "K", "-1K", "1,5M", "4 G", "16?"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(NotationError, match="not a size"):
        parse_size(text)


@given(st.integers(0, 2**62))
def test_a_size_for_reading_is_right_to_a_tenth_of_its_unit(size_bytes: Any) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.06)


def test_a_size_for_reading_is_short() -> None:
    assert [format_size(n) for n in (0, 512, 1536, 2**32)] == ["0", "512", "1.5K", "4G"]


@pytest.mark.parametrize(("value", "count"), [(4, 4), ("4", 4), ("+4", 4), ("007", 7)])
def test_a_count_is_a_whole_number(value: Any, count: int) -> None:
    assert parse_count(value) == count


@pytest.mark.parametrize("value", [0, -1, "1.0", "4k", True, 2**31, "", "four"])
def test_what_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(NotationError, match="at least 1"):
        parse_count(value)


def test_an_integer_may_be_negative() -> None:
    assert parse_integer("-100") == -100
    with pytest.raises(NotationError, match="between -2147483645 and 2147483645"):
        parse_integer("-2147483646")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "parse", [parse_time_limit, parse_memory, parse_count, parse_integer, parse_delay]
)
def test_hostile_text_is_refused_and_shown_in_one_line(
    parse: Callable[..., object], text: str
) -> None:
    with pytest.raises(NotationError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(caught.value.problem) < 200


@given(st.text())
def test_any_text_is_read_or_refused_but_breaks_nothing(text: str) -> None:
    for parse in (parse_time_limit, parse_memory, parse_count, parse_size, parse_elapsed):
        with contextlib.suppress(NotationError):
            parse(text)


def test_a_long_value_is_shown_by_its_ends() -> None:
    assert shown("a" * 500 + "z").startswith("'aaa")
    assert shown("a" * 500 + "z").endswith("aaz'")
    assert len(shown("a" * 500)) < 80


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(NotationError("'x' is not a time", "Write '1:00'.")))
    assert (str(error), error.problem, error.remedy) == (
        "'x' is not a time. Write '1:00'.",
        "'x' is not a time",
        "Write '1:00'.",
    )
