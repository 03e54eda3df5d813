"""The judge of the chaos suite: each kind of lie must be seen, and nothing else."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.chaos.ledger import Attempt, Job, Rules, Story, build_job, judge, parse_ledger

if TYPE_CHECKING:
    from pathlib import Path


def attempt(outcome: str = "success", **changes: object) -> Attempt:
    fields = {"number": 1, "began": 0.0, "ended": 10.0, "job_id": "1", **changes}
    return Attempt(outcome=outcome, **fields)  # type: ignore[arg-type]


def job(job_id: str = "1", started: float = 1.0, **changes: object) -> Job:
    fields = {"last": started + 1, "exit_code": 0, **changes}
    return Job(job_id=job_id, started=started, **fields)  # type: ignore[arg-type]


HONEST = Story(
    name="t",
    attempts=(attempt(),),
    final="success",
    jobs=(job(),),
    accepted=frozenset({"1"}),
)
FAILED = replace(
    HONEST, attempts=(attempt("failed"),), final="failed", jobs=(job(exit_code=3),), expects="any"
)


def findings(story: Story, rules: Rules | None = None) -> set[str]:
    return {name for name, found in judge(story, rules or Rules()).all.items() if found}


@pytest.mark.parametrize(
    "story",
    [
        HONEST,
        FAILED,
        # A retry after a failed job, and one after a job of a lost worker.
        replace(
            HONEST,
            attempts=(attempt("failed"), attempt(job_id="2", number=2, began=11, ended=20)),
            jobs=(job(exit_code=3), job("2", 12)),
        ),
        replace(HONEST, attempts=(attempt("lost", job_id=None), attempt(number=2))),
        # Cleared after success, and while the job ran.
        replace(
            HONEST,
            attempts=(attempt(), attempt(job_id="2", number=2, began=11, ended=20)),
            jobs=(job(), job("2", 12)),
            clears=(10.0,),
        ),
        replace(
            HONEST,
            attempts=(attempt("killed"), attempt(job_id="2", number=2, began=3, ended=20)),
            jobs=(job(exit_code=None, was_terminated=True), job("2", 4)),
            clears=(1.9,),
        ),
        # Cancelled by the kill before it began.
        replace(
            HONEST,
            attempts=(attempt("killed"),),
            final="killed",
            jobs=(),
            kills=(2.0,),
            expects="killed",
        ),
    ],
)
def test_what_is_right_is_not_blamed(story: Story) -> None:
    assert findings(story) == set()


@pytest.mark.parametrize(
    ("kind", "story"),
    [
        ("duplicates", replace(HONEST, jobs=(job(last=5.0), job("2", 3)))),
        ("duplicates", replace(HONEST, jobs=(job("2", 1), job("1", 5)))),
        ("duplicates", replace(HONEST, accepted=frozenset({"1", "2"}))),
        ("lost jobs", replace(HONEST, final=None, attempts=())),
        (
            "lost jobs",
            replace(FAILED, attempts=(attempt("failed", message="Job 1 ended UNKNOWN"),)),
        ),
        ("false successes", replace(HONEST, jobs=())),
        ("false successes", replace(HONEST, jobs=(job(exit_code=3),))),
        ("false successes", replace(HONEST, jobs=(job(exit_code=None),))),
        ("false successes", replace(HONEST, jobs=(job(last=11.0),))),
        ("false successes", replace(HONEST, attempts=(attempt(job_id="7"),))),
        ("false failures", replace(FAILED, expects="success")),
        ("false failures", replace(FAILED, jobs=(job(),))),
        ("false failures", replace(FAILED, jobs=(job(last=12.0, exit_code=None),))),
        ("false failures", replace(FAILED, jobs=(job(exit_code=None),))),
        ("false failures", replace(FAILED, attempts=(attempt("failed", job_id=None),))),
        ("orphans", replace(HONEST, live=frozenset({"1"}))),
        ("orphans", replace(HONEST, jobs=(job(last=40.0, exit_code=None),), kills=(5.0,))),
    ],
)
def test_each_lie_is_seen(kind: str, story: Story) -> None:
    assert kind in findings(story)


def test_a_job_that_a_node_took_with_it_is_no_false_failure() -> None:
    story = replace(FAILED, jobs=(job(exit_code=None),))

    assert findings(story, Rules(jobs_may_die=True)) == set()


def test_a_full_disk_may_fail_a_task_that_has_no_job() -> None:
    story = replace(
        FAILED, attempts=(attempt("failed", job_id=None),), jobs=(), accepted=frozenset()
    )

    assert findings(story) == {"false failures"}
    assert findings(story, Rules(may_fail_before_submission=True)) == set()


def run_job(ledger: Path, job_id: str, *, beats: int = 1, fails: int = 0) -> int:
    command = build_job(str(ledger), beats=beats, fails=fails)
    environment = {**os.environ, "SLURM_JOB_ID": job_id, "SLURMD_NODENAME": "c1"}
    return subprocess.run(["bash", "-c", command], env=environment, check=False).returncode


def test_jobs_tell_their_own_story(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    assert run_job(ledger, "1", fails=1) == 3
    assert run_job(ledger, "2", beats=2, fails=1) == 0

    first, second = parse_ledger(ledger.read_text())
    assert (first.job_id, first.exit_code) == ("1", 3)
    assert (second.job_id, second.exit_code) == ("2", 0)
    assert 0.9 < second.last - second.started < 5


def test_of_a_requeued_job_the_last_incarnation_counts() -> None:
    (found,) = parse_ledger("start 7 0 1.0 c1\nterm 7 0 2.0\nstart 7 1 9.0 c2\nbeat 7 1 9.5 \n")

    assert found == Job(job_id="7", started=1.0, last=9.5)
