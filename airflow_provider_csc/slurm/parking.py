"""Say when a wait is parked because a source is away, why, and when it goes on."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.events import Note

if TYPE_CHECKING:
    from airflow_provider_csc.slurm.events import Moment

_WAITS = (
    "The task waits: it uses up no retry, its own limits still hold, and the job is not affected."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """
    Why there is no answer.

    ``is_passing`` is for what merely began it or happens in between (a connection that broke), so
    that it is not worth a line beside the reason that keeps the site away. With ``is_answer`` there
    was an answer, and none that helps.
    """

    reason: str
    since: Moment
    is_passing: bool = False
    is_answer: bool = False


def controller_outage(reason: str, since: Moment) -> Outage:
    """Return that squeue, which means slurmctld, gave no answer."""
    return Outage(
        reason=(
            f"squeue gave no answer: {reason.rstrip('.')}. The Slurm controller is the site's to "
            "mend; see its status page"
        ),
        since=since,
    )


def accounting_outage(reason: str, since: Moment) -> Outage:
    """Return that sacct, which means slurmdbd, gave no answer."""
    return Outage(
        reason=(
            f"sacct gave no answer: {reason.rstrip('.')}. Slurm's accounting, which knows how the "
            "job ended, is the site's to mend; see its status page"
        ),
        since=since,
    )


@dataclass(slots=True)
class Parking:
    """Whether a wait is parked; each reason of one outage is said once."""

    source: str = "site"
    effect: str = _WAITS
    _since: Moment | None = None
    _said: tuple[str, ...] = ()

    @property
    def is_parked(self) -> bool:
        """Whether there is an outage."""
        return self._since is not None

    def park(self, outage: Outage) -> list[Note]:
        """Note that there is no answer, where that is news."""
        reason = outage.reason.rstrip(".")
        # "after 31 s" and "after 32 s" are one reason.
        kind = re.sub(r"\d+", "", reason)
        no_answer = "no usable answer" if outage.is_answer else "no answer"
        if self._since is None:
            self._since = outage.since
            text = (
                f"{no_answer.capitalize()} from the {self.source} since "
                f"{_clock_time(outage.since)}: {reason}. {self.effect}"
            )
        elif kind in self._said or outage.is_passing:
            return []
        else:
            text = (
                f"Still {no_answer} from the {self.source} (since {_clock_time(self._since)}), now "
                f"for another reason: {reason}."
            )
        self._said = (*self._said, kind)
        return [Note(text, logging.WARNING)]

    def resume(self, now: Moment) -> list[Note]:
        """Note that there are answers again, where there were none."""
        if self._since is None:
            return []
        away = describe_seconds(now.steady - self._since.steady)
        self._since = None
        self._said = ()
        return [Note(f"The {self.source} answers again after {away}.")]


def _clock_time(moment: Moment) -> str:
    return f"{datetime.fromtimestamp(moment.wall, UTC):%Y-%m-%d %H:%M:%S} UTC"


def describe_seconds(seconds: float) -> str:
    """Return a duration to read: ``42 s``, ``5 min 3 s``, ``2 h 10 min``."""
    whole = max(int(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
