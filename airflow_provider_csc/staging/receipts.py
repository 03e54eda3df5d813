"""What the helper says it has done: lines of fields between tabs, in the order it was done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Sent:
    """
    One output as it was sent: a file with its MD5, in parts, or the files of a tree by name.

    ``parts`` are size and MD5 of each by their number; ``part_size`` is that of all but the last.
    """

    size: int = 0
    md5: str = ""
    part_size: int = 0
    parts: dict[int, tuple[int, str]] = field(default_factory=dict)
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    is_missing: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all of it was sent."""
        if not self.part_size:
            return bool(self.md5 or self.files)
        count = -(-self.size // self.part_size)
        sizes = [self.parts.get(number, (0, ""))[0] for number in range(1, count + 1)]
        return all(sizes) and sum(sizes) == self.size


@dataclass(frozen=True, slots=True)
class Moved:
    """How much was fetched or delivered: files, bytes, and seconds."""

    count: int
    size: int
    seconds: int


@dataclass(slots=True)
class Receipts:
    """
    What one start of a job has done.

    ``problem`` is what ended it in the phase ``in`` or ``out``, if something did, and
    ``is_passing`` whether that was all due to a store that gave no answer, or said to come later.
    ``fetched`` and ``delivered`` are None where it came to no end.
    """

    epoch: str = ""
    fetched: Moved | None = None
    delivered: Moved | None = None
    outputs: dict[int, Sent] = field(default_factory=dict)
    problem: str = ""
    phase: str = ""
    is_passing: bool = False

    def of(self, number: int) -> Sent:
        """Return what became of an output, by its place in the declaration."""
        return self.outputs.setdefault(number, Sent())


def parse_receipts(data: bytes) -> Receipts:
    """Read receipts; a line that broke off, or that another version wrote, is left out."""
    found = Receipts()
    for words in _lines(data):
        try:
            _take(found, words)
        except (ValueError, IndexError):
            continue
    return found


def _lines(data: bytes) -> Iterator[list[str]]:
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.split(b"\n"):
        if line:
            yield line.decode("utf-8", "surrogateescape").split("\t")


def _take(found: Receipts, words: list[str]) -> None:  # noqa: C901 - one case for each kind of line
    match words:
        case ["epoch", epoch]:
            found.epoch = epoch
        case ["fetched", count, size, seconds, *_]:
            found.fetched = Moved(int(count), int(size), int(seconds))
        case ["delivered", count, size, seconds]:
            found.delivered = Moved(int(count), int(size), int(seconds))
        case ["failed", phase, *text]:
            found.phase, found.problem = phase, " ".join(text)
        case ["passing"]:
            found.is_passing = True
        case ["missing", number]:
            found.of(int(number)).is_missing = True
        case ["put", number, size, md5]:
            sent = found.of(int(number))
            sent.size, sent.md5 = int(size), md5
        case ["parts", number, size, part_size]:
            sent = found.of(int(number))
            sent.size, sent.part_size = int(size), int(part_size)
        case ["part", number, part, size, md5]:
            found.of(int(number)).parts[int(part)] = int(size), md5
        case ["file", number, size, md5, name]:
            found.of(int(number)).files[name] = int(size), md5
        case _:
            pass  # of another version
