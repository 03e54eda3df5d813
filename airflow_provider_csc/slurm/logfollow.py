"""Follow the log files of one watched job: what to read next, what to show, how far that went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.commands import LogRequest
from airflow_provider_csc.slurm.logtext import LineReader
from airflow_provider_csc.slurm.output import is_put_off, parse_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame

# Of one log in one command. To cut as much into lines keeps the event loop for 20 ms.
_CHUNK_BYTES = 1024 * 1024
_LONG_LINE_BYTES = 64 * 1024
# A log whose length nobody recorded is whole when it was still for so long after the job's end; a
# shorter one than was read was cut off, not merely seen late, when it stays so (seconds).
_STILL_SECONDS = 4
_CUT_OFF_SECONDS = 30


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
    expected: int | None = None
    changed: float = 0
    short_since: float | None = None
    is_begun_anew: bool = False

    @property
    def is_drained(self) -> bool:
        """Whether all there is was read."""
        if self.short_since is not None:
            return False
        return self.size is None or self.offset >= self.size or self.is_capped

    @property
    def known_size(self) -> int:
        """Its size, where nothing need be said while it has that; -1 where something must."""
        is_quiet = self.size == self.offset and self.short_since is None and not self.is_unreadable
        return self.offset if is_quiet else -1

    def room(self, limit_bytes: int) -> int:
        """How much to read next; one byte behind the limit tells whether anything is not shown."""
        return max(min(_CHUNK_BYTES, limit_bytes - self.shown_bytes), 1)

    def is_whole(self, now: float, over_since: float) -> bool:
        """Whether all was read that the job wrote until it was over (seconds of a steady clock)."""
        if self.is_capped:
            return True
        if self.expected is not None:
            return self.is_drained and self.offset >= self.expected
        return self.is_drained and now - max(self.changed, over_since) >= _STILL_SECONDS

    def take(
        self, size: int, offset: int, data: bytes, *, limit_bytes: int, now: float
    ) -> list[str]:
        """Take in bytes that were read at an offset of a file of some size; return the lines."""
        if size < self.offset:
            return self._take_short(now)
        self.short_since = None
        if size != self.size:
            self.changed = now
        self.size, self.offset = size, offset + len(data)
        self.line_offset = self._after_last_line(offset, data)
        self.shown_bytes += len(data)
        lines = self.reader.feed(data)
        if self.shown_bytes >= limit_bytes and self.offset < size:
            self.is_capped = True
            note = f"[not shown: the rest of {self.path}, of which {size} bytes exist so far]"
            lines += [*self.reader.flush(), note]
        return lines

    def _take_short(self, now: float) -> list[str]:
        """
        Begin anew when the file stays shorter than what was read of it.

        That is so when a requeued job opens it anew. It looks the same for a moment where another
        log-in node has not seen the file's end yet.
        """
        self.short_since = now if self.short_since is None else self.short_since
        # What was read cannot be of the run that wrote less.
        is_known = self.is_begun_anew or (self.expected or self.offset) < self.offset
        if not is_known and now - self.short_since < _CUT_OFF_SECONDS:
            return []
        self.short_since, self.is_begun_anew = None, False
        self.offset = self.line_offset = 0
        return [*self.reader.flush(), f"[{self.path} was truncated; reading it from its beginning]"]

    def _after_last_line(self, offset: int, data: bytes) -> int:
        newline = data.rfind(b"\n")
        if newline >= 0:
            return offset + newline + 1
        is_long = self.offset - self.line_offset >= _LONG_LINE_BYTES
        return self.offset if is_long else self.line_offset

    def last_lines(self) -> list[str]:
        """Return what is left when nothing more will be read."""
        lines = self.reader.flush()
        # A last line without an end is shown as well: who watches again must not repeat it.
        self.line_offset = self.offset
        if self.is_unreadable and not self.is_drained:
            lines.append(f"[{self.path} could not be read behind byte {self.offset}]")
        elif not self.is_capped and self.expected is not None and self.offset < self.expected:
            lines.append(
                f"[the job wrote {self.expected} bytes to {self.path}, of which {self.offset} "
                "could be seen from the log-in node in time; look there for the rest]"
            )
        return lines


class LogFollower:
    """
    Follow some files, from where an earlier watcher stopped.

    How far they were shown is kept in the run directory, where there is one: `progress_request`
    asks for it, `acknowledge` says what to write there once `confirm` was told that the lines
    arrived. With it goes ``memo``, a line of whoever follows. ``name`` makes its frames unique in
    an answer.
    """

    __slots__ = (
        "_acknowledged",
        "_confirmed",
        "_limit_bytes",
        "_logs",
        "_name",
        "_noted_memo",
        "_resumes",
        "_run_dir",
        "memo",
    )

    def __init__(
        self, name: str, paths: Sequence[str], *, run_dir: str | None, limit_bytes: int
    ) -> None:
        self._name = name
        self._run_dir = run_dir
        self._limit_bytes = limit_bytes
        self._logs = [_Log(path) for path in paths]
        # Until it is known how far an earlier watcher came, nothing is read.
        self._resumes = bool(run_dir)
        self._acknowledged = self._confirmed = self.offsets
        self.memo = self._noted_memo = ""

    @property
    def is_unread(self) -> bool:
        """Whether some file was not seen yet."""
        return any(log.size is None for log in self._logs)

    @property
    def has_more(self) -> bool:
        """Whether more of a file is known to exist than was read."""
        return not all(
            log.is_drained or log.is_unreadable or log.short_since is not None for log in self._logs
        )

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Note how long files are, by their paths, as the job itself saw them at its end."""
        for log in self._logs:
            log.expected = sizes.get(log.path, log.expected)

    def forget_expectations(self) -> None:
        """Note that the job was not over after all."""
        for log in self._logs:
            log.expected = None

    def expect_anew(self) -> None:
        """Note that the job was requeued, so that files which become shorter were opened anew."""
        for log in self._logs:
            log.is_begun_anew = True

    def is_whole(self, *, now: float, over_since: float, is_late: bool) -> bool:
        """
        Whether all was read; times in seconds of a steady clock.

        When it is late, only what is known to be there, and can be read, is waited for.
        """
        return all(
            log.is_whole(now, over_since) or (is_late and (log.is_drained or log.is_unreadable))
            for log in self._logs
        )

    @property
    def whence(self) -> str:
        """Where the logs go on, in words, when somebody showed their beginning before."""
        return f"the log goes on behind byte {self.offsets}"

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
        return self._write_down(self._run_dir)

    def acknowledge_memo(self) -> tuple[tuple[str, str], ...]:
        """Return what to write down where the memo has changed; that has time."""
        if not self._run_dir or self._resumes or self.memo == self._noted_memo:
            return ()
        return self._write_down(self._run_dir)

    def _write_down(self, run_dir: str) -> tuple[tuple[str, str], ...]:
        self._acknowledged, self._noted_memo = self._confirmed, self.memo
        text = f"{self._confirmed}\n{self.memo}" if self.memo else self._confirmed
        return ((run_dir, text),)

    def doubt_acknowledgement(self) -> None:
        """Note that what `acknowledge` gave out last may not have been written down."""
        self._acknowledged = self._noted_memo = ""

    def doubt_memo(self) -> None:
        """Note that what `acknowledge_memo` gave out last may not have been written down."""
        self._noted_memo = ""

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
                limit=log.room(self._limit_bytes),
                known=log.known_size,
            )
            for number, log in enumerate(self._logs)
            if not log.is_capped
        )

    def resume(self, frames: Mapping[str, Frame]) -> str | None:
        """
        Go on where an earlier watcher of the same job stopped.

        :return: its memo, perhaps empty; None when there was none.
        """
        frame = frames.get(self._progress_name)
        if frame is None or not self._resumes:
            return None
        self._resumes = False
        if frame.status != 0:
            return None
        first, _, memo = frame.text.partition("\n")
        # Without files to follow there is no first line.
        first, memo = ("", first) if not self._logs else (first, memo)
        words = first.split()
        offsets = [int(word) for word in words if word.isdecimal()]
        if len(offsets) == len(words) == len(self._logs):
            for log, offset in zip(self._logs, offsets, strict=True):
                log.offset = log.line_offset = log.shown_bytes = offset
        self._acknowledged = self._confirmed = self.offsets
        self.memo = self._noted_memo = memo
        return memo

    @property
    def is_resumed(self) -> bool:
        """Whether some file is read from a place behind its beginning."""
        return any(log.line_offset for log in self._logs)

    def read(self, frames: Mapping[str, Frame], *, now: float) -> list[str]:
        """Return the new lines of an answer; ``now`` in seconds of a steady clock."""
        lines: list[str] = []
        for number, log in enumerate(self._logs):
            frame = frames.get(f"{self._name}.log{number}")
            if frame is None:
                continue
            answer = parse_log(frame)
            log.is_unreadable = answer is None and log.size is not None
            if answer is not None:
                size, offset, data = answer
                log.is_unreadable = offset < size and not data and not is_put_off(frame)
                lines += log.take(size, offset, data, limit_bytes=self._limit_bytes, now=now)
        return lines

    def last_lines(self) -> list[str]:
        """Return what is left when nothing more will be read."""
        return [line for log in self._logs for line in log.last_lines()]
