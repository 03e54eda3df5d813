"""One answer of a site about many jobs, read once and looked up by job id."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from airflow_provider_csc.slurm.commands import (
    ALL_JOBS_FRAME,
    CONTROLLER_FRAME,
    PollRequest,
    accounting_questions,
    queue_questions,
)
from airflow_provider_csc.slurm.output import (
    AccountingRow,
    Answer,
    ControllerRow,
    NoAnswer,
    QueueRow,
    base_of,
    parse_accounting,
    parse_controller,
    parse_pending,
    parse_queue,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from airflow_provider_csc.slurm.commands import Question
    from airflow_provider_csc.slurm.framing import Frame
    from airflow_provider_csc.slurm.output import RowMemo


class _About(Protocol):
    """A row about one job."""

    @property
    def job_id(self) -> str:  # pyright: ignore[reportReturnType] - a protocol
        """Whom it is about."""


Row = TypeVar("Row", bound=_About)


class Answers:
    """
    One answer of a site, read once for all who asked.

    ``request`` is what was asked, where ids were too many for one call of a command: it tells which
    jobs a call that failed was about. ``memo`` keeps squeue's rows from one answer to the next.
    """

    def __init__(
        self,
        frames: Mapping[str, Frame],
        request: PollRequest | None = None,
        memo: RowMemo | None = None,
    ) -> None:
        self.clock = int(frames["clock"].text)
        self.frames = frames
        asked = request or PollRequest()
        self._queue = _Source(
            _frames_of(frames, "squeue"),
            lambda: queue_questions(asked),
            lambda frame: parse_queue(frame, memo),
        )
        self._accounting = _Source(
            _frames_of(frames, "sacct"), lambda: accounting_questions(asked), parse_accounting
        )
        self._controller = _Source(
            {name: frame for name, frame in frames.items() if name == ALL_JOBS_FRAME},
            list,
            parse_controller,
        )

    @property
    def queue(self) -> Answer[QueueRow] | NoAnswer | None:
        """What squeue said of all jobs; where a call failed, it said nothing."""
        return self._queue.whole

    @property
    def accounting(self) -> Answer[AccountingRow] | NoAnswer | None:
        """What sacct said of all jobs; where a call failed, it said nothing."""
        return self._accounting.whole

    def queue_about(self, job_ids: Iterable[str]) -> Answer[QueueRow] | NoAnswer | None:
        """Return what squeue said, where it answered about all of these jobs."""
        return self._queue.about(job_ids)

    def accounting_about(self, job_ids: Iterable[str]) -> Answer[AccountingRow] | NoAnswer | None:
        """Return what sacct said, where it answered about all of these jobs."""
        return self._accounting.about(job_ids)

    def queue_of(self, job_id: str) -> Answer[QueueRow]:
        """Return squeue's rows of one job; it must have answered."""
        return Answer(self._queue.rows_of(job_id))

    def accounting_of(self, job_id: str) -> Answer[AccountingRow] | NoAnswer | None:
        """Return sacct's rows of one job and its steps, or that it was not asked or not heard."""
        found = self._accounting.about((job_id,))
        return Answer(self._accounting.rows_of(job_id)) if isinstance(found, Answer) else found

    def controller_of(self, job_id: str) -> Answer[ControllerRow] | NoAnswer | None:
        """Return scontrol's rows of one job, or that it was not asked or not heard."""
        frame = self.frames.get(f"{CONTROLLER_FRAME}{job_id}")
        if frame:
            return parse_controller(frame)
        found = self._controller.whole
        return Answer(self._controller.rows_of(job_id)) if isinstance(found, Answer) else found


def _frames_of(frames: Mapping[str, Frame], command: str) -> dict[str, Frame]:
    return {
        name: frame
        for name, frame in frames.items()
        if name == command or name.startswith(f"{command}.")
    }


class _Source(Generic[Row]):
    """What one command said, in as many calls as it took."""

    def __init__(
        self,
        frames: Mapping[str, Frame],
        questions: Callable[[], Sequence[Question]],
        parse: Callable[[Frame], Answer[Row] | NoAnswer],
    ) -> None:
        parts = {name: parse(frame) for name, frame in frames.items()}
        failed = {name: part for name, part in parts.items() if isinstance(part, NoAnswer)}
        heard = [part for part in parts.values() if isinstance(part, Answer)]
        self._known: Answer[Row] = heard[0] if len(heard) == 1 else _joined(heard)
        self._is_asked = bool(parts)
        self._failure = next(iter(failed.values()), None)
        self._unheard = {
            job_id: failed[question.frame]
            for question in (questions() if failed and heard else ())
            if question.frame in failed
            for job_id in question.job_ids
        }
        self._index: _Index[Row] = _Index(self._known.rows)

    @property
    def whole(self) -> Answer[Row] | NoAnswer | None:
        if not self._is_asked:
            return None
        return self._failure or self._known

    def about(self, job_ids: Iterable[str]) -> Answer[Row] | NoAnswer | None:
        if not self._unheard:
            return self.whole
        for job_id in job_ids:
            failure = self._unheard.get(job_id) or self._unheard.get(base_of(job_id))
            if failure is not None:
                return failure
        return self._known

    def rows_of(self, job_id: str) -> tuple[Row, ...]:
        return self._index.select(job_id)


def _joined(parts: Iterable[Answer[Row]]) -> Answer[Row]:
    """Put answers together; a job that stands in two of them is one."""
    return Answer(tuple({row.job_id: row for part in parts for row in part.rows}.values()))


class _Index(Generic[Row]):
    """
    Rows by the ids they belong to, as `output.belongs_to` says; in the order they came.

    A row is found under its own id and under each id that it is a part of, so that to look up
    every element of an array takes no longer than to read it once.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._places: dict[str, list[int]] = {}
        self._pending: dict[str, list[tuple[int, _Ids]]] = {}
        for place, row in enumerate(rows):
            for job_id in _wholes(row.job_id):
                self._places.setdefault(job_id, []).append(place)
            if row.job_id.endswith("]") and (pending := parse_pending(row.job_id)):
                base, ranges = pending
                self._pending.setdefault(base, []).append((place, _Ids(ranges)))

    def select(self, job_id: str) -> tuple[Row, ...]:
        places = self._places.get(job_id, ())
        base, _, index = job_id.partition("_")
        if index.isdecimal() and base in self._pending:
            element = int(index)
            waiting = [place for place, ids in self._pending[base] if element in ids]
            places = sorted({*places, *waiting})
        return tuple(self._rows[place] for place in places)


def _wholes(row_id: str) -> list[str]:
    """Return ``123_4.batch`` and all it is a part of: ``123_4``, ``123``."""
    if row_id.isdecimal():
        return [row_id]
    ends = [place for place, letter in enumerate(row_id) if letter in "_+."]
    return [row_id, *(row_id[:end] for end in ends)]


class _Ids:
    """The elements of a pending array, of which there may be many ranges."""

    def __init__(self, ranges: Iterable[range]) -> None:
        self._ranges = sorted((ids for ids in ranges if ids), key=lambda ids: ids.start)
        is_apart = all(one[-1] < other[0] for one, other in pairwise(self._ranges))
        self._starts = [ids.start for ids in self._ranges] if is_apart else None

    def __contains__(self, element: int) -> bool:
        if self._starts is None:
            return any(element in ids for ids in self._ranges)
        place = bisect_right(self._starts, element)
        return place > 0 and element in self._ranges[place - 1]
