"""A job is known again by what stood in its rows, and a stranger of the same id is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.output import (
    AccountingRow,
    Answer,
    QueueRow,
    parse_accounting,
    parse_queue,
)
from airflow_provider_csc.slurm.ownership import (
    Memory,
    own_rows,
    read_memories,
    write_memories,
)
from tests.pure.slurm.evidence import accounting_line, answer, queue_line

TOKEN = "af0123456789abcdef0123.1"


def row(**fields: str) -> QueueRow:
    found = parse_queue(answer(queue_line(**fields)))
    assert isinstance(found, Answer)
    return found.rows[0]


def accounted(**fields: str) -> AccountingRow:
    found = parse_accounting(answer(accounting_line(**fields)))
    assert isinstance(found, Answer)
    return found.rows[0]


def test_a_job_is_known_by_its_token() -> None:
    assert own_rows((row(),), TOKEN, Memory()) == (row(),)
    assert own_rows((row(name="other"),), TOKEN, Memory()) == ()


def test_a_job_that_was_renamed_is_known_by_its_time_or_by_its_new_name() -> None:
    memory = Memory()
    memory.note_row(row())
    renamed = row(name="renamed")
    assert own_rows((renamed,), TOKEN, memory) == (renamed,)
    memory.note_row(renamed)
    requeued = row(name="renamed", submitted="5000")
    assert own_rows((requeued,), TOKEN, memory) == (requeued,)
    stranger = row(name="stranger", submitted="5000")
    assert own_rows((stranger,), TOKEN, memory) == ()


def test_what_is_not_known_makes_nobody_known() -> None:
    stranger = row(name="", submitted="N/A")
    assert own_rows((row(name="x", submitted="N/A"),), TOKEN, Memory()) == ()
    assert own_rows((stranger,), TOKEN, Memory()) == ()


def test_an_accounting_row_that_is_not_whole_yet_is_believed() -> None:
    half = accounted(JobName="allocation", ReqMem="16?")
    assert own_rows((half,), TOKEN, Memory()) == (half,)


def test_a_requeue_is_seen_by_the_time_of_submission_and_adds_up_the_queue() -> None:
    memory = Memory()
    assert not memory.note_row(row(state="PENDING", submitted="1000", started="N/A", nodes=""))
    assert not memory.note_row(row(submitted="1000", started="1060"))
    assert memory.note_row(row(state="PENDING", submitted="2000", started="2120", nodes=""))
    assert memory.queued_before == 60
    assert not memory.note_row(row(state="PENDING", submitted="2000", started="2120", nodes=""))
    # Requeued once more before it ran again.
    assert memory.note_row(row(state="PENDING", submitted="2100", started="N/A", nodes=""))
    assert memory.queued_before == 160


def test_a_row_without_a_time_changes_nothing() -> None:
    memory = Memory(submitted=1000)
    assert not memory.note_row(row(submitted="N/A"))
    assert memory.submitted == 1000


@given(
    st.dictionaries(
        st.text(max_size=9),
        st.builds(
            Memory,
            submitted=st.integers(1, 2**40),
            started=st.none() | st.integers(0, 2**40),
            name=st.text(max_size=30),
            queued_before=st.integers(0, 2**40),
        ),
        max_size=4,
    )
)
def test_memories_survive_being_written(memories: dict[str, Memory]) -> None:
    line = write_memories(memories)
    assert "\n" not in line
    assert read_memories(line) == memories


def test_what_is_not_known_is_not_written() -> None:
    assert write_memories({"1": Memory()}) == ""


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "[]", "null", "1", '{"1": 2}', '{"1": {}}', "[" * 10**5),
        json.dumps({"1": {"submitted": "2", "started": None, "name": "", "queued_before": 0}}),
        json.dumps({"1": {"submitted": True, "started": None, "name": "", "queued_before": 0}}),
    ],
)
def test_what_is_not_a_whole_memory_is_none(text: str) -> None:
    assert read_memories(text) == {}
