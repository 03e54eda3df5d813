"""One answer serves all who asked: each finds its own job in it, and none another's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.answers import Answers
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.output import Answer, NoAnswer, belongs_to
from tests.pure.slurm.evidence import (
    NO_CONTROLLER,
    NO_DATABASE,
    accounting_line,
    answer,
    queue_line,
)

CLOCK = {"clock": Frame(0, b"1000")}


def test_what_was_not_asked_is_none() -> None:
    answers = Answers(CLOCK)
    assert answers.clock == 1000
    assert answers.queue is answers.accounting is answers.accounting_of("1") is None


def test_a_silent_source_is_silent_about_every_job() -> None:
    answers = Answers(CLOCK | {"squeue": NO_CONTROLLER, "sacct": NO_DATABASE})
    assert isinstance(answers.queue, NoAnswer)
    assert isinstance(answers.accounting_of("1"), NoAnswer)


def test_a_job_without_rows_is_an_answer() -> None:
    answers = Answers(CLOCK | {"squeue": answer(queue_line(job_id="2")), "sacct": answer()})
    assert answers.queue_of("1") == Answer(())
    assert answers.accounting_of("1") == Answer(())


def test_steps_come_with_their_job() -> None:
    lines = [accounting_line(JobID=job_id) for job_id in ("1", "1.batch", "1.0", "11", "11.batch")]
    found = Answers(CLOCK | {"sacct": answer(*lines)}).accounting_of("1")
    assert isinstance(found, Answer)
    assert [row.job_id for row in found.rows] == ["1", "1.batch", "1.0"]


IDS = st.one_of(
    st.integers(1, 30).map(str),
    st.tuples(st.integers(1, 30), st.integers(0, 12)).map("{0[0]}_{0[1]}".format),
    st.integers(1, 30).map("{}_[0-9%2]".format),
    st.integers(1, 30).map("{}+1".format),
)


@given(st.lists(IDS, max_size=30), IDS)
def test_a_job_finds_every_row_that_belongs_to_it(rows: list[str], job_id: str) -> None:
    answers = Answers(CLOCK | {"squeue": answer(*(queue_line(job_id=each) for each in rows))})
    found = [row.job_id for row in answers.queue_of(job_id).rows]
    assert found == [each for each in rows if belongs_to(each, job_id)]
