"""What a job was given is read from AllocTRES, as far as a site records it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.errors import UnreadableOutputError
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.output import SEPARATOR
from airflow_provider_csc.slurm.tres import (
    Granted,
    Share,
    build_ask_shares,
    merge_shares,
    parse_granted,
    parse_shares,
)

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "granted"),
    [
        ("", Granted()),
        ("billing=2,cpu=2,mem=4G,node=1", Granted(cpus=2, memory_bytes=4 * GIB, nodes=1)),
        ("cpu=1,mem=1500M,node=1", Granted(cpus=1, memory_bytes=1500 * 2**20, nodes=1)),
        ("cpu=1,mem=2.50G", Granted(cpus=1, memory_bytes=int(2.5 * GIB))),
        # As 22.05 printed it.
        (
            "billing=2,cpu=2,gres/gpu:gh200=8,gres/gpu=8,mem=100M,node=2",
            Granted(cpus=2, gpus=8, memory_bytes=100 * 2**20, nodes=2),
        ),
        ("gres/gpu:gh200=2,gres/gpu=2", Granted(gpus=2)),
        ("gres/gpu=4", Granted(gpus=4)),
        ("gres/gpu:gh200=2,gres/gpu:l40=1", Granted(gpus=3)),
        ("gres/nvme=100", Granted(local_disk_bytes=100 * GIB)),
        ("cpu=?,mem=lots,node=", Granted()),
        ("energy=12,license/x=1,bb/datawarp=5", Granted()),
    ],
)
def test_what_is_not_recorded_is_none(text: str, granted: Granted) -> None:
    assert parse_granted(text) == granted


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    assert isinstance(parse_granted(text), Granted)


def test_shares_of_the_same_are_added() -> None:
    given_ = [Share("small", "cpu=1", 5), Share("large", "cpu=1", 7), Share("small", "cpu=1", 6)]
    assert merge_shares(given_) == [Share("large", "cpu=1", 7), Share("small", "cpu=1", 11)]


def answer(*rows: tuple[str, ...], status: int = 0) -> Frame:
    return Frame(status, "\n".join(SEPARATOR.join(row) for row in rows).encode())


def test_all_runs_of_a_requeued_job_count() -> None:
    """Sacct shows one row for each with --duplicates; one that never started has no AllocTRES."""
    found = parse_shares(
        answer(
            ("7", "small", "30", "cpu=1"),
            ("7", "small", "12", "cpu=1"),
            ("7", "small", "0", ""),
        ),
        "7",
    )
    assert found == [Share("small", "cpu=1", 42)]
    assert "--duplicates" in build_ask_shares("7")
    assert "--jobs=7_3\n" in build_ask_shares("7_3")


@pytest.mark.parametrize(
    "frame",
    [
        answer(),
        Frame(1, b"sacct: error: Connection refused"),
        answer(("7", "small", "30", "")),
        answer(("7", "small", "", "cpu=1")),
        answer(("7", "small", "30")),
    ],
)
def test_an_answer_that_does_not_say_it_is_no_cost_of_nothing(frame: Frame) -> None:
    with pytest.raises(UnreadableOutputError, match="sacct does not"):
        parse_shares(frame, "7")
