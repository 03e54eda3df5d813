"""An outage is told when it begins, when it becomes another, and when it ends; nothing twice."""

from __future__ import annotations

import logging

import pytest

from airflow_provider_csc.slurm.events import Moment
from airflow_provider_csc.slurm.parking import (
    Outage,
    Parking,
    accounting_outage,
    controller_outage,
    describe_seconds,
)

BEGAN = Moment(wall=1_790_000_000, steady=100)
LATER = Moment(wall=1_790_000_400, steady=500)


def test_an_outage_says_why_since_when_and_what_a_person_can_do() -> None:
    (note,) = Parking().park(Outage(reason="The certificate at /c EXPIRED; renew it.", since=BEGAN))
    assert note.level == logging.WARNING
    assert note.text == (
        "No answer from the site since 2026-09-21 14:13:20 UTC: The certificate at /c EXPIRED; "
        "renew it. The task waits: it uses up no retry, its own limits still hold, and the job is "
        "not affected."
    )


def test_a_reason_that_differs_in_a_number_only_is_the_same() -> None:
    parking = Parking()
    assert parking.park(Outage(reason="no answer after 31 s", since=BEGAN))
    assert parking.park(Outage(reason="no answer after 32 s.", since=LATER)) == []


def test_the_end_of_an_outage_says_how_long_it_was() -> None:
    parking = Parking()
    assert parking.resume(LATER) == []
    parking.park(Outage(reason="x", since=BEGAN))
    assert parking.is_parked
    (note,) = parking.resume(LATER)
    assert (note.text, note.level) == ("The site answers again after 6 min 40 s.", logging.INFO)
    assert parking.resume(LATER) == []
    assert parking.park(Outage(reason="x", since=LATER))


def test_what_happens_within_an_outage_is_not_told() -> None:
    parking = Parking()
    parking.park(Outage(reason="refused", since=BEGAN))
    assert parking.park(Outage(reason="lost", since=LATER, is_passing=True)) == []
    (note,) = parking.park(Outage(reason="expired", since=LATER))
    assert note.text == (
        "Still no answer from the site (since 2026-09-21 14:13:20 UTC), now for another reason: "
        "expired."
    )


def test_what_is_the_sites_is_called_so() -> None:
    for outage in (controller_outage("down.", BEGAN), accounting_outage("down", BEGAN)):
        assert "down. " in outage.reason
        assert "is the site's to mend" in outage.reason


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.9, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3661, "1 h 1 min")],
)
def test_a_duration_is_easy_to_read(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text
