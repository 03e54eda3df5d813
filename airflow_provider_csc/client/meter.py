"""What a poller tells of its own costs, to whatever counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Meter(Protocol):
    """
    Takes in figures by their names, as Airflow's ``Stats`` does.

    It never raises: nobody's wait ends because a figure could not be sent.
    """

    def gauge(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Set what something amounts to now."""

    def incr(self, name: str, count: int, tags: Mapping[str, str]) -> None:
        """Add to a sum."""

    def timing(self, name: str, seconds: float, tags: Mapping[str, str]) -> None:
        """Note how long something took."""


class NoMeter:
    """Counts nothing."""

    def gauge(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Pass over what something amounts to."""

    def incr(self, name: str, count: int, tags: Mapping[str, str]) -> None:
        """Pass over a part of a sum."""

    def timing(self, name: str, seconds: float, tags: Mapping[str, str]) -> None:
        """Pass over how long something took."""
