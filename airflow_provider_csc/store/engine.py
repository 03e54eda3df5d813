"""
Carry the parts of many files at once over kept connections.

A `Carriage` is one file or object: it says which parts it has, carries each, and is finished or
given up. The engine's threads take parts, of one large object as of many small ones; what one part
meets is tried again by itself.
"""

from __future__ import annotations

import errno
import random
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from airflow_provider_csc.errors import AllasError, CscError, TransferCancelledError
from airflow_provider_csc.store.connection import BUFFER_BYTES, RequestError, StoreConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_provider_csc.store.connection import StoreSettings

ATTEMPTS = 6
_LONGEST_PAUSE = 20.0
_REPORT_SECONDS = 10.0
# A thread without work looks up so often whether all is to end; work wakes it (seconds).
_LOOK_SECONDS = 0.2
_SHOWN_FAILURES = 20
# What every other file would meet as well, unless some got through.
_ACCESS_CODES = (
    "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed",
    "ExpiredToken",
)  # fmt: skip
_GENERAL_CODES = ("NoSuchBucket", "QuotaExceeded", "SlowDown", "ServiceUnavailable")
_FULL = {
    errno.ENOSPC: "Make room there, or choose another directory.",
    errno.EDQUOT: "The quota of the directory is used up: make room there, or choose another.",
}


LATER: Final = object()
"""Among a carriage's parts: there will be another, when one that is under way is done."""


class Carriage(Protocol):
    """One file on its way, in parts of its own kind; all is called in the engine's threads."""

    name: str
    is_skipped: bool
    """Whether `prepare` found that there is nothing to do."""

    def prepare(self, lane: Lane) -> Iterable[Any]:
        """
        Begin, and return the parts that are still to be carried.

        They are asked for under a lock, so they only say what is to be done. `LATER` among them is
        for as long as some part is being carried: its end, or `Lane.wake`, has them asked again.
        """
        ...

    def carry(self, part: Any, lane: Lane) -> None:
        """Carry one part; may be called again for it after a failure."""

    def finish(self, lane: Lane) -> None:
        """Make the target visible, after all parts, with evidence that it is whole."""

    def give_up(self) -> None:
        """Leave nothing behind that a later attempt cannot use."""


@dataclass(slots=True)
class Packed:
    """What has gone into one archive, or come out of it; totals of what came out are not known."""

    files: int = 0
    bytes: int = 0
    files_total: int = 0
    bytes_total: int = 0


@dataclass(slots=True)
class Progress:
    """
    How far a transfer is; bytes of the files' content, and seconds.

    With an archive they are the archive's own; ``packed`` tells of the files in it.
    """

    bytes_total: int = 0
    bytes_done: int = 0
    bytes_skipped: int = 0
    files_total: int = 0
    files_done: int = 0
    files_skipped: int = 0
    unverified: list[str] = field(default_factory=list)
    failures: dict[str, CscError] = field(default_factory=dict)
    packed: Packed | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Bytes per second so far; what was there already does not count."""
        return self.bytes_done / max(self.seconds, 1e-6)


class SpeedLimit:
    """Keeps all threads together below a number of bytes per second."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def reserve(self, size: int) -> float:
        """Return how many seconds to wait before as many bytes are carried."""
        with self._lock:
            now = time.monotonic()
            begin = max(self._free_at, now)
            self._free_at = begin + size / self._rate
            return begin - now


class Lane:
    """What one thread carries with: its connections and its buffer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.connection = StoreConnection(engine.settings)
        self._others: dict[StoreSettings, StoreConnection] = {}
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self._passed = 0

    def connection_to(self, settings: StoreSettings) -> StoreConnection:
        """Return this thread's connection to a store."""
        if settings == self._engine.settings:
            return self.connection
        return self._others.setdefault(settings, StoreConnection(settings))

    def close(self) -> None:
        """Close its connections."""
        for connection in (self.connection, *self._others.values()):
            connection.close()

    def interrupt(self) -> None:
        """Have a request that is under way end at once."""
        for connection in (self.connection, *list(self._others.values())):
            connection.interrupt()

    def check(self) -> None:
        """Raise when the transfer is to end."""
        self._engine.check()

    def wake(self) -> None:
        """Have threads that were told `LATER` ask again."""
        self._engine.wake()

    def passed(self, size: int) -> None:
        """Account for bytes that were just carried; raise when nobody wants them any more."""
        self._passed += size
        self._engine.passed(size)

    def skipped(self, size: int) -> None:
        """Account for bytes that need not be carried."""
        self._engine.skipped(size)

    def note_unverified(self, what: str) -> None:
        """Note of a file that only its size could be verified, and why."""
        self._engine.note_unverified(what)

    def retry(self, work: Callable[[], None]) -> None:
        """Do something that may be done again, until it succeeds or that has no use."""
        for attempt in range(1, ATTEMPTS + 1):
            self._engine.check()
            self._passed = 0
            was_used = self.connection.was_used
            try:
                return work()
            except RequestError as error:
                self._engine.took_back(self._passed)
                self._passed = 0
                self.close()
                if not error.is_passing or attempt == ATTEMPTS:
                    raise
                # A server may close a kept connection at any moment; that says nothing about it.
                if attempt == 1 and was_used and error.status is None:
                    continue
            longest = min(0.2 * 4**attempt, _LONGEST_PAUSE)
            self._engine.sleep(random.uniform(0.1, longest))  # noqa: S311 - no secret hangs on it
        return None


@dataclass(slots=True, eq=False)
class _Running:
    """A carriage that was begun and has not ended; ``open`` is how many threads are at it."""

    carriage: Carriage
    parts: Iterator[Any] = field(default_factory=lambda: iter(()))
    open: int = 1
    error: CscError | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """What a thread is to do next: begin a file, carry a part of it, or end it."""

    running: _Running
    part: Any = None
    is_begin: bool = False
    is_end: bool = False


class Engine:
    """Carries; one use only."""

    def __init__(
        self,
        settings: StoreSettings,
        *,
        workers: int = 8,
        bytes_per_second: float | None = None,
        report: Callable[[Progress], None] = lambda _: None,
        report_seconds: float = _REPORT_SECONDS,
    ) -> None:
        self.settings = settings
        self.progress = Progress()
        self._workers = workers
        self._limit = SpeedLimit(bytes_per_second) if bytes_per_second else None
        self._report = report
        self._report_seconds = report_seconds
        self._cancelled = threading.Event()
        # Guards all that follows. The thread that waits in `run`, and a signal handler in it, never
        # take it while the others work.
        self._changed = threading.Condition()
        self._waiting: Iterator[Carriage] = iter(())
        # Files whose parts may be taken, and all that have not ended.
        self._ready: deque[_Running] = deque()
        self._begun: set[_Running] = set()
        self._taken = self._ended = 0
        self._error: BaseException | None = None
        self._lanes: list[Lane] = []

    def run(self, carriages: Iterable[Carriage]) -> Progress:
        """
        Carry all; those that fail by themselves do not keep the others back.

        Raises what concerns all (no access, no space, `TransferCancelledError`), or an AllasError
        that names the files that failed.
        """
        self._waiting = iter(carriages)
        try:
            self._work_in_threads()
        finally:
            self._give_up_rest()
        if self._error is not None:
            raise self._error
        if self.progress.failures:
            raise _sum_up(self.progress)
        if self._ended != self._taken:
            raise RuntimeError(f"of {self._taken} files only {self._ended} have ended")
        return self.progress

    def cancel(self) -> None:
        """Have `run` end soon, from any thread or signal handler."""
        self._fail(TransferCancelledError("The transfer was cancelled."))

    def check(self) -> None:
        """Raise when the transfer is to end."""
        if self._cancelled.is_set():
            raise TransferCancelledError("The transfer was cancelled.")

    def sleep(self, seconds: float) -> None:
        """Wait, unless the transfer is to end."""
        self._cancelled.wait(seconds)
        self.check()

    def wake(self) -> None:
        """Have threads without work look for some."""
        with self._changed:
            self._changed.notify_all()

    def passed(self, size: int) -> None:
        """Account for bytes that were just carried."""
        with self._changed:
            self.progress.bytes_done += size
        if self._limit is not None and (pause := self._limit.reserve(size)) > 0:
            self.sleep(pause)
        self.check()

    def skipped(self, size: int) -> None:
        """Account for bytes that need not be carried."""
        with self._changed:
            self.progress.bytes_skipped += size

    def took_back(self, size: int) -> None:
        """Account for bytes that were carried in vain."""
        with self._changed:
            self.progress.bytes_done -= size

    def note_unverified(self, what: str) -> None:
        """Note of a file that only its size could be verified, and why."""
        with self._changed:
            self.progress.unverified.append(what)

    def _work_in_threads(self) -> None:
        with ThreadPoolExecutor(self._workers, thread_name_prefix="allas") as pool:
            working = {pool.submit(self._work) for _ in range(self._workers)}
            try:
                while working:
                    working = wait(working, self._report_seconds).not_done
                    if working:
                        self._report(self.progress)
            finally:
                if working:
                    self.cancel()

    def _give_up_rest(self) -> None:
        """When all ended early, give up what nobody will finish."""
        for running in self._begun:
            with suppress(CscError, OSError):
                running.carriage.give_up()

    def _work(self) -> None:
        try:
            lane = Lane(self)
            self._lanes.append(lane)
            try:
                while (work := self._take()) is not None:
                    self._do(work, lane)
            finally:
                lane.close()
        except BaseException as error:  # noqa: BLE001 - it is raised where the transfer is waited for
            self._fail(error)

    def _take(self) -> _Work | None:
        """Return what to do next, as soon as there is something; None at the end."""
        with self._changed:
            while True:
                self.check()
                work = self._next_part() or self._next_file()
                if work is not None:
                    return work
                if not self._begun:
                    return None
                self._changed.wait(_LOOK_SECONDS)

    def _next_part(self) -> _Work | None:
        for _ in range(len(self._ready)):
            running = self._ready[0]
            part = None if running.error else next(running.parts, None)
            if part is LATER:
                self._ready.rotate(-1)
                continue
            if part is not None:
                running.open += 1
                return _Work(running, part)
            self._ready.popleft()
            if not running.open:
                return _Work(running, is_end=True)
        return None

    def _next_file(self) -> _Work | None:
        carriage = next(self._waiting, None)
        if carriage is None:
            return None
        running = _Running(carriage)
        self._begun.add(running)
        self._taken += 1
        return _Work(running, is_begin=True)

    def _do(self, work: _Work, lane: Lane) -> None:
        running = work.running
        if work.is_end:
            self._end(running, lane)
            return
        try:
            if work.is_begin:
                running.parts = iter(running.carriage.prepare(lane))
            else:
                lane.retry(lambda: running.carriage.carry(work.part, lane))
        except Exception as error:  # noqa: BLE001 - its file is given up before anything ends
            self._note(running, error)
        with self._changed:
            running.open -= 1
            if work.is_begin:
                self._ready.append(running)
            is_last = not running.open and running not in self._ready
            self._changed.notify_all()
        if is_last:
            self._end(running, lane)

    def _end(self, running: _Running, lane: Lane) -> None:
        carriage, progress = running.carriage, self.progress
        if running.error is None:
            try:
                carriage.finish(lane)
            except Exception as error:  # noqa: BLE001 - its file is given up before anything ends
                self._note(running, error)
        if running.error is not None:
            with suppress(CscError, OSError):
                carriage.give_up()
        with self._changed:
            if running.error is not None:
                progress.failures[carriage.name] = running.error
            elif carriage.is_skipped:
                progress.files_skipped += 1
            else:
                progress.files_done += 1
            is_general = running.error is not None and _concerns_all(running.error, progress)
            self._ended += 1
            self._begun.discard(running)
            self._changed.notify_all()
        if is_general and running.error is not None:
            self._fail(running.error)

    def _note(self, running: _Running, error: Exception) -> None:
        """Note why a file fails; what is no error of its own ends everything, after it is left."""
        match error:
            case CscError():
                known: CscError = error
            case OSError():
                known = _local_error(error, running.carriage)
            case _:
                self._fail(error)
                known = AllasError(f"{running.carriage.name}: {error!r}")
        with self._changed:
            running.error = running.error or known

    def _fail(self, error: BaseException) -> None:
        # No lock is taken: a signal handler may call this at any moment.
        self._error = self._error or error
        self._cancelled.set()
        # Threads that wait for bytes would look up only after their time-out.
        for lane in list(self._lanes):
            lane.interrupt()


def _concerns_all(error: CscError, progress: Progress) -> bool:
    """Whether it would happen to every other file, too."""
    if isinstance(error, TransferCancelledError):
        return True
    if isinstance(error, RequestError):
        is_first = not progress.files_done
        return (
            (error.status is None and error.code is None)
            or error.code in _GENERAL_CODES
            or (is_first and error.code in _ACCESS_CODES)
        )
    return error.details.get("errno") in _FULL


def _local_error(error: OSError, carriage: Carriage) -> AllasError:
    remedy = _FULL.get(error.errno or 0, "")
    return AllasError(
        f"{carriage.name}: {error.strerror or error}. {remedy}".rstrip(),
        errno=error.errno,
        path=str(error.filename or ""),
    )


def _sum_up(progress: Progress) -> CscError:
    failures = progress.failures
    if progress.files_total == 1:
        return next(iter(failures.values()))
    shown = "\n".join(str(error) for error in list(failures.values())[:_SHOWN_FAILURES])
    more = len(failures) - _SHOWN_FAILURES
    rest = f"\nand {more} more" if more > 0 else ""
    return AllasError(
        f"{len(failures)} of {progress.files_total} files could not be transferred:\n{shown}{rest}",
        failed=sorted(failures)[:_SHOWN_FAILURES],
        failures=len(failures),
    )
