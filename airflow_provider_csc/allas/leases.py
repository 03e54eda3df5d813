"""
Leases: one of several programs does something, until it says that it is done, or is silent.

Time is the object store's, read from the Date of its answers, to the second. A holder counts from
the moment at which it *asked* for the time, by a clock of its own that only measures durations; who
would follow waits until the store's time is *past* the end. So clocks may be set as they like.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final

SKEW: Final = dt.timedelta(seconds=2)
"""By how much the clocks of a store's gateways may differ from each other."""

MIN_SECONDS: Final = 5.0
"""Of a lease; the store's time has whole seconds, and a renewal takes some."""

RENEWALS: Final = 3
"""Renewals within the time of a lease: two may fail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """
    What the record of a lease says.

    ``holder`` is one use by one program, None when it is free; ``owner`` is its name for people.
    ``token`` is the fencing number, which grows with each new holder and never goes back.
    ``expires`` is in the store's time.
    """

    token: int
    owner: str
    holder: str | None
    expires: dt.datetime

    def is_free(self, now: dt.datetime) -> bool:
        """Whether another may take it at this time of the store's."""
        return self.holder is None or now > self.expires + SKEW

    def to_value(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "token": self.token,
            "owner": self.owner,
            "holder": self.holder,
            "expires": self.expires.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def parse_term(value: object) -> Term | None:
    """Read what `Term.to_value` made; None where nothing is. Raises ValueError."""
    match value:
        case None:
            return None
        case {
            "token": int(token),
            "owner": str(owner),
            "holder": None | str() as holder,
            "expires": str(expires),
        }:
            when = dt.datetime.fromisoformat(expires)
            if when.tzinfo is not None:
                return Term(token=token, owner=owner, holder=holder, expires=when)
        case _:
            pass
    raise ValueError("the object is not that of a lease")


def take(
    term: Term | None, version: int, now: dt.datetime, *, owner: str, holder: str, seconds: float
) -> Term:
    """
    Return the term of a new holder, whoever had it; ask `Term.is_free` first.

    The fencing number is above that of the last holder, and above the record's ``version`` too,
    which is known when the lease itself was deleted.
    """
    return Term(
        token=max(term.token if term else 0, version) + 1,
        owner=owner,
        holder=holder,
        expires=_add(now, seconds),
    )


def renew(term: Term | None, holder: str, now: dt.datetime, seconds: float) -> Term | None:
    """Return the holder's next term; None when it is no longer the holder."""
    if term is None or term.holder != holder:
        return None
    return replace(term, expires=max(term.expires, _add(now, seconds)))


def release(term: Term | None, holder: str, now: dt.datetime) -> Term | None:
    """Return the free term after a holder's; None when it is no longer the holder."""
    if term is None or term.holder != holder:
        return None
    return replace(term, holder=None, expires=now)


def _add(now: dt.datetime, seconds: float) -> dt.datetime:
    # Whole seconds, upwards: the record must not end before the holder thinks it does.
    whole = -int(-seconds // 1)
    return now.replace(microsecond=0) + dt.timedelta(seconds=whole)
