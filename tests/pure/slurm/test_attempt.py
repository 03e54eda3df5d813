"""What a try remembers survives the database, and other versions of itself."""

from __future__ import annotations

import json

from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.slurm.result import JobResult

FULL = Attempt(
    resubmission=2,
    changes={"mem": "8G"},
    asked=("--mem=4G",),
    history=({"job_id": "1"},),  # type: ignore[typeddict-item] # only carried here
    deadline=1.5,
    waits=3,
    looks=2,
    upstreams=({"kind": "afterok", "name": "up", "job_id": "7", "state": "deferred"},),
    replaced={"6": "FAILED"},
    unsatisfied=("6",),
    refusals=2,
    queued_since=2.5,
    uploads=({"bucket": "b", "key": "k", "upload_id": "i"},),
)


def test_an_attempt_is_plain_json_and_comes_back() -> None:
    assert Attempt.from_payload(json.loads(json.dumps(FULL.to_payload()))) == FULL


def test_nothing_is_the_first_attempt() -> None:
    assert Attempt.from_payload(None) == Attempt.from_payload({}) == Attempt()


def test_fields_of_a_newer_version_are_passed_over() -> None:
    assert Attempt.from_payload(FULL.to_payload() | {"something_new": 1}) == FULL


def test_what_a_job_is_to_wait_for_is_read_again() -> None:
    assert Attempt().needs is None
    needs = Attempt.from_payload(json.loads(json.dumps(FULL.to_payload()))).needs
    assert needs is not None
    assert needs.job_ids == ("7",)


def test_a_job_that_slurm_will_never_start_is_followed_by_one_look_at_what_it_waited_for() -> None:
    again = FULL.unlinked(JobResult(job_id="9", state="CANCELLED"))
    assert again is not None
    assert (again.resubmission, again.unsatisfied, again.upstreams) == (3, ("7",), FULL.upstreams)
    assert (again.history[-1]["job_id"], again.history[-1]["changed"]) == ("9", {})
    assert again.unlinked(JobResult(job_id="10", state="CANCELLED")) is None
    assert Attempt().unlinked(JobResult(job_id="10", state="CANCELLED")) is None


def test_pauses_grow_as_long_as_the_fate_of_a_submission_is_open() -> None:
    attempt, pauses = Attempt(), []
    for _ in range(19):
        pauses.append(attempt.pause_seconds)
        attempt = attempt.left_open().resumed()
    assert attempt.is_resumed
    assert pauses == [30] * 13 + [60, 120, 240, 480, 600, 600]


def test_waits_for_a_site_that_comes_back_at_once_lengthen_no_pause() -> None:
    """A claim that was left behind was looked at again only after eight minutes."""
    attempt = Attempt()
    for _ in range(30):
        attempt = attempt.resumed()
    assert attempt.pause_seconds == 30


def test_the_stored_form_is_that_of_the_first_release() -> None:
    """Tasks that wait hold it."""
    assert Attempt().to_payload() == {
        "resubmission": 0,
        "changes": {},
        "asked": [],
        "history": [],
        "deadline": None,
        "waits": 0,
        # Added since, with defaults.
        "looks": 0,
        "upstreams": None,
        "replaced": {},
        "unsatisfied": [],
        "refusals": 0,
        "queued_since": None,
        "array": None,
        "site": None,
        "costs": {},
        "uploads": [],
        "is_building": False,
        "environment": None,
    }
