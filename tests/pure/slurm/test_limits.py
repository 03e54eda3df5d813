"""Each limit is measured by its own clock, and a clock that is wrong or is set changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.events import Moment
from airflow_provider_csc.slurm.limits import Limits, QueuedRow
from airflow_provider_csc.slurm.output import Answer, parse_queue
from tests.pure.slurm.evidence import answer, queue_line


def row(state: str, *, submitted: int = 0, started: int = 0, queued_before: int = 0) -> QueuedRow:
    line = queue_line(state=state, submitted=str(submitted or "N/A"), started=str(started or "N/A"))
    found = parse_queue(answer(line))
    assert isinstance(found, Answer)
    return QueuedRow(found.rows[0], queued_before)


def at(steady: float, wall: float = 0) -> Moment:
    return Moment(wall=wall, steady=steady)


@pytest.mark.parametrize("offset", [0, 3600, -3600, 10**9])
def test_a_cluster_whose_clock_is_wrong_measures_its_own_times(offset: int) -> None:
    limits = Limits(queue_timeout=60, run_timeout=60)
    now = 2 * 10**9 + offset
    assert limits.find([row("PENDING", submitted=now - 60)], now, at(0)) is None
    assert limits.find([row("PENDING", submitted=now - 61)], now, at(0)) == ("queue_timeout", 60)
    assert limits.find([row("RUNNING", started=now - 60)], now, at(0)) is None
    assert limits.find([row("RUNNING", started=now - 61)], now, at(0)) == ("timeout", 60)


@pytest.mark.parametrize("jump", [3600, -3600])
def test_a_clock_that_is_set_while_a_job_waits_is_not_counted(jump: int) -> None:
    limits = Limits(queue_timeout=60)
    pending = [row("PENDING", submitted=10_000)]
    assert limits.find(pending, 10_000, at(0)) is None
    assert limits.find(pending, 10_030 + jump, at(30)) is None
    assert limits.find(pending, 10_061 + jump, at(61)) == ("queue_timeout", 60)


def test_a_time_that_is_in_the_clusters_future_is_now() -> None:
    limits = Limits(run_timeout=60)
    assert limits.find([row("RUNNING", started=20_000)], 10_000, at(0)) is None
    assert limits.find([row("RUNNING", started=20_000)], 10_061, at(61)) == ("timeout", 60)


def test_what_a_job_queued_before_it_was_requeued_counts() -> None:
    limits = Limits(queue_timeout=60)
    assert limits.find([row("PENDING", submitted=1000, queued_before=50)], 1010, at(0)) is None
    found = limits.find([row("PENDING", submitted=1000, queued_before=51)], 1010, at(0))
    assert found == ("queue_timeout", 60)


def test_what_a_job_ran_before_it_was_requeued_does_not_count() -> None:
    limits = Limits(run_timeout=60)
    assert limits.find([row("RUNNING", started=1000)], 1060, at(0)) is None
    assert limits.find([row("RUNNING", started=1060, queued_before=99)], 1061, at(1)) is None


@given(st.integers(0, 2**32), st.floats(0, 10**6))
def test_a_deadline_is_this_machines_alone(clock: int, steady: float) -> None:
    limits = Limits(deadline=5000)
    running = [row("RUNNING", started=1)]
    assert limits.find(running, clock, at(steady, wall=5000)) is None
    assert limits.find(running, clock, at(steady, wall=5000.1)) == ("execution_timeout", None)


def test_a_limit_of_zero_is_a_limit() -> None:
    limits = Limits(run_timeout=0)
    assert limits.find([row("RUNNING", started=10)], 11, at(0)) == ("timeout", 0)
