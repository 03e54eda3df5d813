"""Nodes, GPUs, signals, dependencies and job ids come out in one spelling or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.specs import (
    parse_dependency,
    parse_gpus,
    parse_gres,
    parse_job_id,
    parse_nodes,
    parse_signal,
    parse_switches,
)


@pytest.mark.parametrize("text", ["2", "2-4", "1k-2K", "1m", "0-2", "2-0", "1,2,4", "1-15:4"])
def test_numbers_of_nodes_are_kept(text: str) -> None:
    assert parse_nodes(text) == text


def test_more_nodes_at_least_than_at_most_is_refused() -> None:
    with pytest.raises(NotationError, match="at least 2048 and at most 100 nodes"):
        parse_nodes("2k-100")


@pytest.mark.parametrize("text", ["gpu:gh200:2,nvme:100", "gpu:4G", "gpu:1,gpu:2", "lustre"])
def test_generic_resources_are_kept(text: str) -> None:
    assert parse_gres(text) == text


def test_spaces_and_empty_items_between_resources_are_left_out() -> None:
    assert parse_gres("gpu:1, nvme:100,") == "gpu:1,nvme:100"
    assert parse_gpus("gh200:1, a100:2") == "gh200:1,a100:2"


def test_a_list_of_what_there_is_is_no_request() -> None:
    with pytest.raises(NotationError, match="print a list and submit nothing"):
        parse_gres("help")


@pytest.mark.parametrize(
    ("value", "text"),
    [("SIGUSR1@090", "USR1@90"), (10, "10"), ("br:term", "BR:TERM"), ("B:9@1", "B:9@1")],
)
def test_a_signal_gets_one_spelling(value: Any, text: str) -> None:
    assert parse_signal(value) == text


def test_a_wrong_signal_is_told_the_names_there_are() -> None:
    with pytest.raises(NotationError, match=r"'WINCH' is not a signal.*TERM, TSTP.*XCPU"):
        parse_signal("WINCH")


def test_switches_have_a_count_and_may_have_a_time() -> None:
    assert parse_switches("2") == "2"
    assert parse_switches("2@1:00:00") == "2@0-01:00:00"


def test_a_wrong_dependency_is_told_the_types_there_are() -> None:
    with pytest.raises(NotationError, match=r"'afterok' is not a dependency.*afterok:123:124"):
        parse_dependency("afterok")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["after", "afterany", "afterok", "afternotok", "aftercorr", "expand"]),
            st.lists(st.integers(1, 10**7), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(",?"),
)
def test_dependencies_with_one_separator_are_kept(
    terms: list[tuple[str, list[int]]], separator: str
) -> None:
    text = separator.join(f"{name}:{':'.join(map(str, ids))}" for name, ids in terms)
    assert parse_dependency(text) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (123, "123"),
        ("123", "123"),
        (" 0123 ", "123"),
        ("123_4", "123_4"),
        ("123_04", "123_4"),
        ("123_[1-5]", "123_[1-5]"),
        ("123_[1,3-5%2]", "123_[1,3-5%2]"),
        ("123+1", "123+1"),
        ("123;lumi", "123;lumi"),
        ("123_4;lumi", "123_4;lumi"),
        ("123_[1-5];roihu-gpu", "123_[1-5];roihu-gpu"),
    ],
)
def test_a_job_id_gets_one_spelling(value: Any, text: str) -> None:
    assert parse_job_id(value) == text


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, True, None, "", "0", "abc", "123_", "123_[", "123_[]", "123_[5-1]", "123+", "1 2"),
        *("123;", "123;;x", "123;$(id)", "123;-M", "--me", "-1", "123\n", "123.batch", "123,124"),
        *("123; rm -rf ~", "123\x00", "١٢٣", "4294967296", "1" * 400),
    ],
)
def test_what_is_no_job_id_is_refused(value: Any) -> None:
    """A newline at the end is stripped, as sbatch prints it; everything else is refused."""
    if value == "123\n":
        assert parse_job_id(value) == "123"
        return
    with pytest.raises(NotationError):
        parse_job_id(value)


@given(st.text())
def test_nothing_that_a_shell_would_read_gets_through(text: str) -> None:
    for parse in (parse_job_id, parse_dependency, parse_signal, parse_nodes, parse_switches):
        try:
            result = parse(text)
        except NotationError:
            continue
        assert not set(result) & set("\n\0 $`'\"\\|&<>"), parse
