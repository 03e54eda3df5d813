"""
The logs of a job array's tasks: all of them while they grow, or the ends of those that failed.

Every line is shown behind the id of its task, ``[7]``.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.arrays import array_of, format_array, read_ids
from airflow_provider_csc.slurm.commands import LogRequest
from airflow_provider_csc.slurm.logfollow import LogFollower
from airflow_provider_csc.slurm.logtext import LineReader
from airflow_provider_csc.slurm.output import is_put_off, parse_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.batch import ExitRecord
    from airflow_provider_csc.slurm.framing import Frame

# Of a task that failed so much is shown, and of so many tasks; the others are named.
_TAIL_BYTES = 16 * 1024
_MAX_TAILS = 20
# So many logs are read in one remote command, each task in its turn.
_MAX_READ = 16
# How long the end of a log is waited for that the log-in node does not see yet (seconds).
_SETTLE_SECONDS = 30
_STILL_SECONDS = 4

_SPECIFIER = re.compile(r"%(?P<width>\d*)(?P<letter>.)")


def expand_pattern(pattern: str, job_id: str, slurm_id: int) -> str | None:
    """
    Return the file of one task for an sbatch pattern: ``%A``, ``%a`` and ``%%``.

    None for a pattern with anything else in it, which only Slurm can expand.
    """
    if "\\" in pattern:
        return None
    values = {"A": job_id, "a": str(slurm_id), "%": "%"}
    if any(match["letter"] not in values for match in _SPECIFIER.finditer(pattern)):
        return None
    return _SPECIFIER.sub(
        lambda match: values[match["letter"]].zfill(min(int(match["width"] or 0), 10)), pattern
    )


def resolve_pattern(pattern: str, directory: str) -> str:
    """Return an absolute pattern; a relative one is meant from where the job starts."""
    return posixpath.join(directory, pattern)


class _TaskLog(LogFollower):
    """The log of one task, from where an earlier watcher stopped."""

    def __init__(self, name: str, paths: Sequence[str], *, limit_bytes: int, start: str) -> None:
        super().__init__(name, paths, run_dir=None, limit_bytes=limit_bytes)
        self.over_since: float | None = None
        self.turn = 0
        offsets = [int(word) for word in start.split()]
        if len(offsets) == len(self._logs):
            for log, offset in zip(self._logs, offsets, strict=True):
                log.offset = log.line_offset = log.shown_bytes = offset

    def requests(self) -> tuple[LogRequest, ...]:
        """Return what to read next; after the task's end its size is wanted in any case."""
        if self.over_since is None:
            return super().requests()
        # What has not changed is not told, and whether all was read is judged by an answer.
        return tuple(replace(request, known=-1) for request in super().requests())

    @property
    def shown_bytes(self) -> int:
        """How much of it was shown."""
        return sum(log.shown_bytes for log in self._logs)


@dataclass(slots=True)
class _Tail:
    """The end of the log of a task that failed; ``expected`` is its length, where that is known."""

    index: int
    path: str
    expected: int | None
    over_since: float


@dataclass(slots=True)
class _Progress:
    """What is written down for who watches next: whose log was shown, and how far the others."""

    shown: set[int] = field(default_factory=set)
    begun: dict[int, str] = field(default_factory=dict)

    def format(self) -> str:
        known = {"shown": format_array(array_of(self.shown)), "begun": self.begun}
        return json.dumps(known, separators=(",", ":")) if self.shown or self.begun else ""

    @classmethod
    def parse(cls, text: str) -> _Progress:
        """Read what `format` made; nothing of a line that is not whole."""
        try:
            known = json.loads(text)
            begun = {int(each): str(offsets) for each, offsets in known["begun"].items()}
            is_whole = all(re.fullmatch("[0-9 ]*", offsets) for offsets in begun.values())
            shown = set(read_ids(known["shown"]))
        except (ValueError, KeyError, TypeError, AttributeError, NotationError, RecursionError):
            return cls()
        return cls(shown, begun) if is_whole else cls()


class ArrayLogs(LogFollower):
    """
    Follow the logs of a job array; used as a `LogFollower` is.

    ``patterns`` are those of standard output and, where it is another file, of standard error.
    ``shift`` is by how much Slurm's ids are lower than those shown. The limit is for all together.
    """

    def __init__(
        self,
        name: str,
        patterns: Sequence[str],
        *,
        which: str,
        job_id: str,
        shift: int,
        run_dir: str | None,
        limit_bytes: int,
    ) -> None:
        self._progress = _Progress()
        self._text = ""
        super().__init__(name, (), run_dir=run_dir, limit_bytes=limit_bytes)
        self._patterns = tuple(patterns)
        self._which = which if patterns else "none"
        self._job_id = job_id
        self._shift = shift
        self._followed: dict[int, _TaskLog] = {}
        self._tails: list[_Tail] = []
        self._untold: set[int] = set()
        self._done_bytes = 0
        self._is_full = False
        self._turns = 0

    @property
    def whence(self) -> str:
        """Where the logs go on, in words: each has a place of its own."""
        return "what was shown of the logs is not repeated"

    @property
    def offsets(self) -> str:
        """How far the logs were shown; what `confirm` takes."""
        return self._text

    def _update(self) -> None:
        begun = {each: log.offsets for each, log in self._followed.items() if log.is_resumed}
        # What an earlier watcher began and this one has not come to yet must not be forgotten.
        self._progress.begun |= begun
        self._text = self._progress.format()

    def resume(self, frames: Mapping[str, Frame]) -> str | None:
        """Go on where an earlier watcher of the array stopped; return its memo."""
        frame = frames.get(self._progress_name)
        if frame is None or not self._resumes:
            return None
        self._resumes = False
        if frame.status != 0:
            return None
        first, _, memo = frame.data.decode(errors="replace").rstrip("\n").partition("\n")
        self._progress = _Progress.parse(first)
        self._update()
        self._acknowledged = self._confirmed = self.offsets
        self.memo = self._noted_memo = memo.strip()
        return self.memo

    @property
    def is_resumed(self) -> bool:
        """Whether some log was shown before, or a part of it."""
        return bool(self._text)

    @property
    def is_unread(self) -> bool:
        """Whether a log that is followed was not seen yet."""
        return any(log.is_unread for log in self._followed.values())

    @property
    def has_more(self) -> bool:
        """Whether more of a log is known to exist than was read."""
        return not self._is_full and any(log.has_more for log in self._followed.values())

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be read, if no task runs any more."""
        return not self._followed and not self._tails

    def is_whole(self, *, now: float, over_since: float, is_late: bool) -> bool:  # noqa: ARG002
        """Let every task end for itself; its log is read to the end after that."""
        return True

    def begin(self, index: int) -> None:
        """Follow the log of a task that runs."""
        is_known = index in self._followed or index in self._progress.shown
        if self._which != "all" or is_known or self._is_full:
            return
        paths = [expand_pattern(each, self._job_id, index - self._shift) for each in self._patterns]
        self._followed[index] = _TaskLog(
            f"{self._name}.{index}",
            [path for path in dict.fromkeys(paths) if path],
            limit_bytes=self._limit_bytes,
            start=self._progress.begun.get(index, ""),
        )

    def note_requeued(self, index: int) -> None:
        """Note that a task runs again, so that its log may become shorter."""
        self._progress.shown.discard(index)
        if index in self._followed:
            self._followed[index].over_since = None
            self._followed[index].expect_anew()

    def end(self, index: int, record: ExitRecord | None, *, is_success: bool, now: float) -> None:
        """Read the rest of the log of a task that has ended, as far as that is wanted."""
        if self._which == "all":
            self.begin(index)
            if index in self._followed:
                self._followed[index].over_since = now
                self._followed[index].expect(self._sizes(index, record))
        elif self._which == "failed" and not is_success:
            self._add_tails(index, record, now)

    def paths_of(self, index: int, record: ExitRecord | None) -> list[str]:
        """Return where a task's output is, as far as that can be known; standard output first."""
        told = (record.stdout_path, record.stderr_path) if record else (None, None)
        patterns = (*self._patterns, None, None)[:2]
        paths = [
            own or (pattern and expand_pattern(pattern, self._job_id, index - self._shift))
            for own, pattern in zip(told, patterns, strict=True)
        ]
        return [path for path in dict.fromkeys(paths) if path]

    def _sizes(self, index: int, record: ExitRecord | None) -> dict[str, int]:
        sizes = (record.stderr_bytes, record.stdout_bytes) if record else ()
        paths = self.paths_of(index, record)
        # Where both are one file, its length is that of standard output.
        pairs = zip((paths[-1], paths[0]) if paths else (), sizes, strict=False)
        return {path: size for path, size in pairs if size >= 0}

    def _add_tails(self, index: int, record: ExitRecord | None, now: float) -> None:
        if index in self._progress.shown:
            return
        begun = {tail.index for tail in self._tails}
        if len(self._progress.shown | begun) >= _MAX_TAILS:
            self._untold.add(index)
            return
        sizes = self._sizes(index, record)
        self._tails += [
            _Tail(index, path, sizes.get(path), now) for path in self.paths_of(index, record)
        ]

    def requests(self) -> tuple[LogRequest, ...]:
        """Return what to read next."""
        if self._resumes or self._is_full:
            return ()
        # Least recently read first.
        logs = sorted(self._followed.items(), key=lambda each: each[1].turn)[:_MAX_READ]
        self._turns += 1
        for _, log in logs:
            log.turn = self._turns
        tails = [
            LogRequest(
                name=self._tail_name(tail), path=tail.path, offset=-_TAIL_BYTES, limit=_TAIL_BYTES
            )
            for tail in self._tails
        ]
        return (*(request for _, log in logs for request in log.requests()), *tails)

    def _tail_name(self, tail: _Tail) -> str:
        number = [each.path for each in self._tails if each.index == tail.index].index(tail.path)
        return f"{self._name}.tail{tail.index}.{number}"

    def read(self, frames: Mapping[str, Frame], *, now: float) -> list[str]:
        """Return the new lines of an answer; ``now`` in seconds of a steady clock."""
        lines: list[str] = []
        for index, log in list(self._followed.items()):
            if any(request.name in frames for request in log.requests()):
                lines += self._prefixed(index, log.read(frames, now=now))
                lines += self._finish(index, log, now)
        names = {self._tail_name(tail): tail for tail in self._tails}
        for name, tail in names.items():
            if name in frames:
                lines += self._read_tail(tail, frames[name], now)
        lines += self._check_limit()
        self._update()
        return lines

    def _finish(self, index: int, log: _TaskLog, now: float) -> list[str]:
        """Leave a log whose task has ended and that was read to its end."""
        since = log.over_since
        if since is None:
            return []
        is_late = now - since >= _SETTLE_SECONDS
        if not log.is_whole(now=now, over_since=since, is_late=is_late):
            return []
        rest = log.last_lines()
        self._done_bytes += log.shown_bytes
        self._followed.pop(index)
        self._progress.begun.pop(index, None)
        self._progress.shown.add(index)
        return self._prefixed(index, rest)

    def _check_limit(self) -> list[str]:
        shown = self._done_bytes + sum(log.shown_bytes for log in self._followed.values())
        if self._is_full or shown < self._limit_bytes:
            return []
        self._is_full = True
        rest: list[str] = []
        for index, log in self._followed.items():
            rest += self._prefixed(index, log.last_lines())
            self._progress.shown.add(index)
        self._followed.clear()
        self._progress.begun.clear()
        where = " and ".join(self._patterns)
        return [*rest, f"[not shown: the rest of the logs of array {self._job_id}, {where}]"]

    def _read_tail(self, tail: _Tail, frame: Frame, now: float) -> list[str]:
        if is_put_off(frame):
            return []
        answer = parse_log(frame)
        is_late = now - tail.over_since >= _SETTLE_SECONDS
        if not is_late and not self._is_there(tail, answer, now):
            return []
        self._tails.remove(tail)
        if all(each.index != tail.index for each in self._tails):
            self._progress.shown.add(tail.index)
        if answer is None:
            return self._prefixed(tail.index, [f"[no log could be read at {tail.path}]"])
        size, offset, data = answer
        head = f"[the end of {tail.path}, {len(data)} of {size} bytes]"
        if offset:
            # The first line is not whole.
            data = data.partition(b"\n")[2] or data
        reader = LineReader()
        return self._prefixed(tail.index, [head, *reader.feed(data), *reader.flush()])

    @staticmethod
    def _is_there(tail: _Tail, answer: tuple[int, int, bytes] | None, now: float) -> bool:
        if answer is None:
            return False
        if tail.expected is not None:
            return answer[0] >= tail.expected
        return now - tail.over_since >= _STILL_SECONDS

    @staticmethod
    def _prefixed(index: int, lines: list[str]) -> list[str]:
        return [f"[{index}] {line}" for line in lines]

    def last_lines(self) -> list[str]:
        """Return what is to be said when nothing more will be read."""
        if not self._untold:
            return []
        where = " and ".join(self._patterns)
        told = (
            f"[the logs of {len(self._untold)} more tasks that failed are not shown: "
            f"{format_array(array_of(self._untold))}, in {where}]"
        )
        return [told]
