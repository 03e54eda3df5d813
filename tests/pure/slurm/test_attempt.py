"""What a try remembers survives the database, and other versions of itself."""

from __future__ import annotations

import json

from airflow_provider_csc.slurm.attempt import Attempt

FULL = Attempt(
    resubmission=2,
    changes={"mem": "8G"},
    asked=("--mem=4G",),
    history=({"job_id": "1"},),  # type: ignore[typeddict-item] # only carried here
    deadline=1.5,
    waits=3,
)


def test_an_attempt_is_plain_json_and_comes_back() -> None:
    assert Attempt.from_payload(json.loads(json.dumps(FULL.to_payload()))) == FULL


def test_nothing_is_the_first_attempt() -> None:
    assert Attempt.from_payload(None) == Attempt.from_payload({}) == Attempt()


def test_fields_of_a_newer_version_are_passed_over() -> None:
    assert Attempt.from_payload(FULL.to_payload() | {"something_new": 1}) == FULL


def test_pauses_grow_as_long_as_the_fate_of_a_submission_is_open() -> None:
    attempt, pauses = Attempt(), []
    for _ in range(19):
        pauses.append(attempt.pause_seconds)
        attempt = attempt.resumed()
    assert attempt.is_resumed
    assert pauses == [30] * 13 + [60, 120, 240, 480, 600, 600]


def test_the_stored_form_is_that_of_the_first_release() -> None:
    """Tasks that wait hold it."""
    assert Attempt().to_payload() == {
        "resubmission": 0,
        "changes": {},
        "asked": [],
        "history": [],
        "deadline": None,
        "waits": 0,
        # From here on what came later.
        "array": None,
    }
