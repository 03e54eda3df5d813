"""
Hold a lease on a record: the I/O of `airflow_provider_csc.allas.leases`.

Whoever holds it is told when it is lost, but a process that was paused learns so only when it goes
on. What must never happen twice is therefore given the fencing number, and refuses one that is
below another it has seen (Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from airflow_provider_csc.allas.leases import (
    MIN_SECONDS,
    RENEWALS,
    SKEW,
    Term,
    parse_term,
    release,
    renew,
    take,
)
from airflow_provider_csc.errors import (
    AllasError,
    LeaseError,
    LeaseHeldError,
    LeaseLostError,
    RecordConflictError,
)
from airflow_provider_csc.store.change import change
from airflow_provider_csc.store.target import KEEP, read_clock

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable
    from types import TracebackType

    from airflow_provider_csc.store.target import Present, Target

_log: Final = logging.getLogger(__name__)

_LONGEST_LOOK_SECONDS: Final = 5.0
_RELEASE_SECONDS: Final = 10.0
_LATE: Final = "it was not renewed in time"


class Lease:
    """
    "Only one of us does this": a context manager that holds a lease, and renews it in time.

    ``connect`` returns the lease's record, when it is needed. ``owner`` is a name for people.
    ``seconds`` is how long others wait when this process vanishes (5 or more). The context waits
    ``wait_seconds`` for the lease, None for ever. ``on_lost`` is called once, in a thread of its
    own, with the LeaseLostError, when the lease is lost while the context lasts.
    """

    def __init__(
        self,
        connect: Callable[[], Target],
        *,
        owner: str,
        seconds: float = 60.0,
        wait_seconds: float | None = 0.0,
        on_lost: Callable[[LeaseLostError], object] | None = None,
    ) -> None:
        if seconds < MIN_SECONDS:
            raise ValueError(f"seconds is {seconds:g}; a lease lasts {MIN_SECONDS:g} or more")
        self._connect, self._owner, self._seconds = connect, owner, seconds
        self._wait_seconds, self._on_lost = wait_seconds, on_lost
        self._holding: _Holding | None = None

    def __enter__(self) -> Self:
        """Acquire it. Raises LeaseHeldError when somebody else holds it for longer than we wait."""
        self.acquire(self._wait_seconds)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release it. Raises LeaseLostError where it was lost and nothing else was raised."""
        lost = None
        try:
            if self._holding is not None:
                self._holding.check()
        except LeaseLostError as loss:
            lost = loss
        self.release()
        if lost is not None and kind is None:
            raise lost

    @property
    def token(self) -> int:
        """The fencing number, higher than that of every holder before; raises as `check`."""
        return self.check()

    @property
    def is_held(self) -> bool:
        """Whether it is held; by the time one reads this that may have changed."""
        try:
            self.check()
        except LeaseError:
            return False
        return True

    def check(self) -> int:
        """
        Return the fencing number, or raise LeaseLostError; asks no server.

        To be called before each step that only one may take.
        """
        if self._holding is None:
            raise LeaseError("The lease is not acquired.", owner=self._owner)
        return self._holding.check()

    def acquire(self, wait_seconds: float | None = 0.0) -> int:
        """
        Take the lease, and return its fencing number; renewed from now on until `release`.

        Waits for who holds it, None for ever. Raises LeaseHeldError after that, RecordError, and
        LeaseLostError where the store took as long to answer as the lease lasts.
        """
        if self._holding is not None:
            raise LeaseError("The lease is acquired already; release it first.", owner=self._owner)
        target, began = self._connect(), read_clock()
        while True:
            attempt = _Attempt(target, self._owner, self._seconds)
            if attempt.run():
                break
            pause = target.draw() * min(_LONGEST_LOOK_SECONDS, max(0.5, attempt.left_seconds))
            if wait_seconds is not None:
                patience = began + wait_seconds - read_clock()
                if patience <= 0:
                    raise attempt.build_error()
                pause = min(pause, patience)
            target.sleep(pause)
        self._holding = _Holding(target, attempt, self._on_lost)
        try:
            token = self._holding.check()
        except LeaseLostError:  # taking it took as long as it lasts
            self.release()
            raise
        self._holding.start()
        return token

    def release(self) -> None:
        """Give it back at once, if it is still ours; where that fails it ends by itself."""
        holding, self._holding = self._holding, None
        if holding is not None:
            holding.end()


class _Attempt:
    """One attempt to take a lease."""

    def __init__(self, target: Target, owner: str, seconds: float) -> None:
        self.target, self.owner, self.seconds = target, owner, seconds
        self.holder = secrets.token_urlsafe(12)
        self.left_seconds = 0.0
        self.asked_at = 0.0
        self.term: Term | None = None
        self._other: Term | None = None

    def run(self) -> bool:
        """Whether it was taken."""
        try:
            change(self.target, self._take)
        except RecordConflictError:  # so many want it that another try is due
            self.term = None
        return self.term is not None

    def build_error(self) -> LeaseHeldError:
        """Say who holds it."""
        other = self._other
        who = f"held by {other.owner} until {other.expires}" if other else "wanted by many"
        return LeaseHeldError(
            f"The lease {self.target} is {who}, for as long as that is renewed. Wait longer with "
            "wait_seconds, or see to its holder.",
            bucket=self.target.bucket,
            key=self.target.key,
            owner=self.owner,
            holder=other.owner if other else "",
            expires=other.expires.isoformat() if other else "",
        )

    def _take(self, present: Present) -> object:
        now, before = _read_time(self.target, present, self.owner), _read_term(self, present)
        self.term, self._other, self.left_seconds = None, before, 0.0
        if before is not None and not before.is_free(now):
            self.left_seconds = (before.expires + SKEW - now).total_seconds()
            return KEEP
        self.asked_at = present.asked_at
        self.term = take(
            before,
            present.snapshot.version,
            now,
            owner=self.owner,
            holder=self.holder,
            seconds=self.seconds,
        )
        return self.term.to_value()


class _Holding:
    """A lease that is held: renewed by one thread, and watched by another."""

    def __init__(
        self,
        target: Target,
        taken: _Attempt,
        on_lost: Callable[[LeaseLostError], object] | None,
    ) -> None:
        assert taken.term is not None  # noqa: S101 - it was taken
        self.target, self.owner = target, taken.owner
        self._token, self._holder, self._seconds = taken.term.token, taken.holder, taken.seconds
        self._on_lost = on_lost
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._has_ended = threading.Event()
        self._lost: str | None = None
        self._until = taken.asked_at + taken.seconds

    def start(self) -> None:
        """Renew and watch from now on."""
        for work in (self._keep, self._watch):
            threading.Thread(target=work, name=f"lease {self.target}", daemon=True).start()

    def check(self) -> int:
        """Return the fencing number, or raise LeaseLostError."""
        if os.getpid() != self._pid:
            raise self._build_lost("another process holds it, from which this one was forked")
        if read_clock() >= self._until:
            self._lose(_LATE)
        if self._lost is not None:
            raise self._build_lost(self._lost)
        return self._token

    def end(self) -> None:
        """Stop, and give the lease back."""
        if os.getpid() != self._pid:
            return
        self._has_ended.set()
        with self._changed:
            self._changed.notify_all()
        options = replace(self.target.options, timeout_seconds=_RELEASE_SECONDS)
        try:
            change(replace(self.target, options=options), self._release)
        except AllasError as error:
            _log.warning("The lease %s was not given back, and ends by itself: %s", self, error)

    def __str__(self) -> str:
        return str(self.target)

    def _keep(self) -> None:
        """Renew, a few times in each period."""
        while not self._has_ended.wait(self._seconds / RENEWALS * (0.8 + 0.4 * self.target.draw())):
            if self._lost is not None:
                return
            self._renew()

    def _watch(self) -> None:
        """Notice the end in time, also while a renewal hangs."""
        with self._changed:
            while self._lost is None and not self._has_ended.is_set():
                left = self._until - read_clock()
                if left > 0:
                    self._changed.wait(left)
                else:
                    self._lost = _LATE
        if self._lost is not None and self._on_lost is not None:
            self._on_lost(self._build_lost(self._lost))

    def _renew(self) -> None:
        asked_at = 0.0

        def compute(present: Present) -> object:
            nonlocal asked_at
            asked_at = present.asked_at
            now = _read_time(self.target, present, self.owner)
            before = _read_term(self, present)
            after = renew(before, self._holder, now, self._seconds)
            if after is None:
                taker = before.owner if before and before.holder else "nobody"
                raise self._build_lost(f"it is held by {taker} now")
            return after.to_value()

        options = replace(self.target.options, timeout_seconds=self._seconds / RENEWALS)
        try:
            change(replace(self.target, options=options), compute)
        except LeaseLostError as error:
            self._lose(error.reason)
        except AllasError as error:
            _log.warning("The lease %s was not renewed, which is tried again: %s", self, error)
        else:
            self._extend(asked_at + self._seconds)

    def _extend(self, until: float) -> None:
        with self._changed:
            # Who was told that it is lost is not told otherwise later.
            if self._lost is None and read_clock() < self._until:
                self._until = max(self._until, until)

    def _lose(self, reason: str) -> None:
        with self._changed:
            # A renewal that was under way finds nobody where the lease was given back.
            if not self._has_ended.is_set():
                self._lost = self._lost or reason
            self._changed.notify_all()

    def _release(self, present: Present) -> object:
        now = _read_time(self.target, present, self.owner)
        after = release(_read_term(self, present), self._holder, now)
        return KEEP if after is None else after.to_value()

    def _build_lost(self, reason: str) -> LeaseLostError:
        return LeaseLostError(
            f"The lease {self.target} (fencing number {self._token}) is lost: {reason}. Stop what "
            "only its holder may do.",
            bucket=self.target.bucket,
            key=self.target.key,
            owner=self.owner,
            token=self._token,
            reason=reason,
        )


def _read_time(target: Target, present: Present, owner: str) -> dt.datetime:
    if present.now is None:
        raise LeaseError(
            f"{target.client.meta.endpoint_url} does not say what time it is (Date), by which "
            "leases end.",
            bucket=target.bucket,
            key=target.key,
            owner=owner,
        )
    return present.now


def _read_term(part: _Attempt | _Holding, present: Present) -> Term | None:
    try:
        return parse_term(present.snapshot.value)
    except ValueError as error:
        raise LeaseError(
            f"{part.target} holds something else than a lease. Give the lease another key.",
            bucket=part.target.bucket,
            key=part.target.key,
            owner=part.owner,
        ) from error
