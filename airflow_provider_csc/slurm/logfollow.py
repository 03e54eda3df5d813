"""Follow the log files of one watched job: what to read next, what to show, how far that went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.commands import LogRequest
from airflow_provider_csc.slurm.logtext import LineReader
from airflow_provider_csc.slurm.output import parse_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame

_CHUNK_BYTES = 256 * 1024
_LONG_LINE_BYTES = 64 * 1024


@dataclass(slots=True)
class _Log:
    """One log file and how far it was read."""

    path: str
    offset: int = 0
    line_offset: int = 0
    reader: LineReader = field(default_factory=LineReader)
    size: int | None = None
    shown_bytes: int = 0
    is_capped: bool = False
    is_unreadable: bool = False

    @property
    def is_drained(self) -> bool:
        """Whether all there is was read."""
        return self.size is None or self.offset >= self.size or self.is_capped

    def take(self, size: int, offset: int, data: bytes, *, limit_bytes: int) -> list[str]:
        """Take in bytes that were read at an offset of a file of some size; return the lines."""
        if size < self.offset:
            # As when a requeued job opens it anew.
            self.offset = self.line_offset = 0
            note = f"[{self.path} was truncated; reading it from its beginning]"
            return [*self.reader.flush(), note]
        self.size, self.offset = size, offset + len(data)
        self.line_offset = self._after_last_line(offset, data)
        self.shown_bytes += len(data)
        lines = self.reader.feed(data)
        if self.shown_bytes >= limit_bytes and self.offset < size:
            self.is_capped = True
            note = f"[not shown: the rest of {self.path}, of which {size} bytes exist so far]"
            lines += [*self.reader.flush(), note]
        return lines

    def _after_last_line(self, offset: int, data: bytes) -> int:
        newline = data.rfind(b"\n")
        if newline >= 0:
            return offset + newline + 1
        is_long = self.offset - self.line_offset >= _LONG_LINE_BYTES
        return self.offset if is_long else self.line_offset

    def last_lines(self) -> list[str]:
        """Return what is left when nothing more will be read."""
        lines = self.reader.flush()
        if self.is_unreadable and not self.is_drained:
            lines.append(f"[{self.path} could not be read behind byte {self.offset}]")
        return lines


class LogFollower:
    """
    Follow some files, from where an earlier watcher stopped.

    How far they were shown is kept in the run directory, where there is one: `progress_request`
    asks for it, `acknowledge` says what to write there once `confirm` was told that the lines
    arrived. ``name`` makes its frames unique in an answer.
    """

    def __init__(
        self, name: str, paths: Sequence[str], *, run_dir: str | None, limit_bytes: int
    ) -> None:
        self._name = name
        self._run_dir = run_dir
        self._limit_bytes = limit_bytes
        self._logs = [_Log(path) for path in paths]
        # Until it is known how far an earlier watcher came, nothing is read.
        self._resumes = bool(run_dir and self._logs)
        self._acknowledged = self._confirmed = self.offsets

    @property
    def is_unread(self) -> bool:
        """Whether some file was not seen yet."""
        return any(log.size is None for log in self._logs)

    @property
    def has_more(self) -> bool:
        """Whether more of a file is known to exist than was read."""
        return not all(log.is_drained or log.is_unreadable for log in self._logs)

    def is_drained(self, *, is_late: bool) -> bool:
        """Whether all was read; when it is late, a file that cannot be read is not waited for."""
        return all(log.is_drained or (log.is_unreadable and is_late) for log in self._logs)

    @property
    def offsets(self) -> str:
        """How far the files were read, in whole lines; what `confirm` takes."""
        return " ".join(str(log.line_offset) for log in self._logs)

    def confirm(self, offsets: str) -> None:
        """Note that all lines up to here reached the task's log."""
        self._confirmed = offsets

    def acknowledge(self) -> tuple[tuple[str, str], ...]:
        """Return what to write down about how far the files were shown, where that has changed."""
        if not self._run_dir or self._confirmed == self._acknowledged:
            return ()
        self._acknowledged = self._confirmed
        return ((self._run_dir, self._confirmed),)

    def doubt_acknowledgement(self) -> None:
        """Note that what `acknowledge` gave out last may not have been written down."""
        self._acknowledged = ""

    def progress_request(self) -> tuple[tuple[str, str], ...]:
        """Return the question how far an earlier watcher came, until it is answered."""
        return ((self._progress_name, self._run_dir),) if self._resumes and self._run_dir else ()

    @property
    def _progress_name(self) -> str:
        return f"{self._name}.progress"

    def requests(self) -> tuple[LogRequest, ...]:
        """Return what to read next."""
        if self._resumes:
            return ()
        return tuple(
            LogRequest(
                name=f"{self._name}.log{number}",
                path=log.path,
                offset=log.offset,
                limit=_CHUNK_BYTES,
            )
            for number, log in enumerate(self._logs)
            if not log.is_capped
        )

    def resume(self, frames: Mapping[str, Frame]) -> bool:
        """Go on where an earlier watcher of the same job stopped; whether there was one."""
        frame = frames.get(self._progress_name)
        if frame is None or not self._resumes:
            return False
        self._resumes = False
        offsets = [int(word) for word in frame.text.split() if word.isdecimal()]
        if frame.status != 0 or len(offsets) != len(self._logs) or not any(offsets):
            return False
        for log, offset in zip(self._logs, offsets, strict=True):
            log.offset = log.line_offset = log.shown_bytes = offset
        self._acknowledged = self._confirmed = self.offsets
        return True

    def read(self, frames: Mapping[str, Frame]) -> list[str]:
        """Return the new lines of an answer."""
        lines: list[str] = []
        for number, log in enumerate(self._logs):
            frame = frames.get(f"{self._name}.log{number}")
            if frame is None:
                continue
            answer = parse_log(frame)
            log.is_unreadable = answer is None and log.size is not None
            if answer is not None:
                size, offset, data = answer
                log.is_unreadable = offset < size and not data
                lines += log.take(size, offset, data, limit_bytes=self._limit_bytes)
        return lines

    def last_lines(self) -> list[str]:
        """Return what is left when nothing more will be read."""
        return [line for log in self._logs for line in log.last_lines()]
