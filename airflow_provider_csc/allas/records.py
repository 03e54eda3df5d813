"""
Records: objects that several programs change, each change made of what is there now.

A change is read, computed and written back under the condition that the object is still the one
that was read. Two things are needed beside the condition.

*An ETag that names one write.* It is the MD5 of the content, so that a value which comes back would
make an old condition true again. Each write therefore ends in a line of blanks that no other has;
to a reader of JSON they are nothing.

*A trace of each write.* Where the answer to a write is lost, what is stored later must tell whether
it took place. Each writer has a session, in which it makes one write at a time; the object's
metadata holds the last write of each of the last sessions. So one finds one's own write also below
those of others, as long as not more than `MAX_RECENT` sessions wrote since.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES: Final = 1024**2
"""Of a record; each change moves all of it, twice."""

MAX_METADATA_BYTES: Final = 2048
"""S3 user guide, "Working with object metadata": names and values of user-defined metadata."""

MAX_RECENT: Final = 100
MAX_WRITER_BYTES: Final = 200

SIGNATURE_SECONDS: Final = 15 * 60
"""S3 refuses signed requests whose time differs by more from its own, so none arrives later."""

ABSENT: Final = "none"
"""What stands for the ETag where no object was."""

NO_SUCH_KEY: Final = "NoSuchKey"
"""
The code by which a store says that there is no such object, and all that is taken for it.

Another 404 is that of a proxy, or of a bucket that is gone.
"""

_VERSION, _WRITER, _LINE, _RECENT = "csc-version", "csc-writer", "csc-line", "csc-recent"
_WRITE: Final = re.compile(r"([A-Za-z0-9_-]+)\.([0-9]+)")
_LINE_NAME: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[01]-[0-9a-f]{1,16}")


@dataclass(frozen=True, slots=True)
class WriteId:
    """The ``number``-th write of a session; sessions have one write at a time."""

    session: str
    number: int

    def __str__(self) -> str:
        """Return it as in the metadata."""
        return f"{self.session}.{self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """
    What the metadata says of the write that made an object.

    ``line`` names an unbroken row of versions, which begins where a writer of ours found no record,
    or one without a stamp: with the ETag ``root``. ``recent`` are the last writes of the last
    sessions, the newest first; that is the write itself.
    """

    version: int
    writer: str
    line: str
    root: str
    recent: tuple[WriteId, ...]

    @property
    def write_id(self) -> WriteId:
        """The write that made the object."""
        return self.recent[0]

    def find(self, session: str) -> int | None:
        """Return the number of a session's last write, as far as it is known."""
        return next((each.number for each in self.recent if each.session == session), None)


def build_line(born: datetime, nonce: str) -> str:
    """Name a new row of versions; names sort by the time (UTC) at which they were given."""
    return f"{born:%Y%m%dT%H%M%SZ}-1-{nonce}"


def build_stamp(base: Stamp | None, root: str, line: str, writer: str, write: WriteId) -> Stamp:
    """
    Return the stamp of a write upon ``base``.

    Without one a new ``line`` begins there, at the ETag ``root``.
    """
    if base is None:
        return Stamp(version=1, writer=writer, line=line, root=root, recent=(write,))
    others = [each for each in base.recent if each.session != write.session]
    return Stamp(
        version=base.version + 1,
        writer=writer,
        line=base.line,
        root=base.root,
        recent=(write, *others)[:MAX_RECENT],
    )


def build_metadata(stamp: Stamp) -> dict[str, str]:
    """Return the metadata of a write; values are ASCII, as headers have it."""
    return {
        _VERSION: str(stamp.version),
        _WRITER: quote(stamp.writer, safe=" /:@+,=()"),
        _LINE: f"{stamp.line} {stamp.root}",
        _RECENT: " ".join(map(str, stamp.recent)),
    }


def shorten_writer(writer: str) -> str:
    """Return a writer's name that fits: its end, which tells more, where it is too long."""
    while len(quote(writer, safe=" /:@+,=()")) > MAX_WRITER_BYTES:
        writer = writer[max(1, len(writer) // 16) :]
    return writer.strip()


def parse_metadata(metadata: Mapping[str, str], body: bytes) -> Stamp | None:
    """
    Read the stamp of an object; None for one that another program wrote.

    Also where the metadata is ours and the content is not, as after a copy that kept the one and
    changed the other.
    """
    try:
        line, _, root = metadata[_LINE].partition(" ")
        stamp = Stamp(
            version=int(metadata[_VERSION]),
            writer=unquote(metadata[_WRITER]),
            line=line,
            root=root,
            recent=tuple(_parse_write(word) for word in metadata[_RECENT].split()),
        )
    except (KeyError, ValueError):
        return None
    is_whole = stamp.recent and stamp.version > 0 and _LINE_NAME.fullmatch(line) and root
    return stamp if is_whole and body.endswith(_build_mark(stamp.write_id)) else None


def build_body(text: str, write: WriteId) -> bytes:
    """Return the content of a write: a JSON text, and blanks that no other write has."""
    return text.encode() + _build_mark(write)


def _build_mark(write: WriteId) -> bytes:
    number = int.from_bytes(hashlib.sha256(str(write).encode()).digest()[:8], "big")
    return b"\n" + bytes(b" \t"[number >> bit & 1] for bit in range(64)) + b"\n"


def _parse_write(word: str) -> WriteId:
    match = _WRITE.fullmatch(word)
    if match is None:
        raise ValueError(word)
    return WriteId(match[1], int(match[2]))


# What became of a write


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """A write that was sent: its stamp, and ETag and stamp of what was to be replaced."""

    stamp: Stamp
    base_etag: str
    base: Stamp | None


class Fate(Enum):
    """What is known of a write whose answer was lost."""

    STORED = auto()
    """It took place; others may have written since."""
    OPEN = auto()
    """It did not take place yet, but may; sent again as it is, it takes place once at most."""
    SUPERSEDED = auto()
    """It did not take place, and never will: its condition cannot become true again."""
    UNKNOWN = auto()


def judge_write(write: Write, etag: str, present: Stamp | None) -> Fate:
    """Say what became of a write, from what is there now: an ETag (`ABSENT` too), and its stamp."""
    if etag == write.base_etag:
        return Fate.OPEN
    if present is None:
        return Fate.UNKNOWN  # another program wrote, perhaps over ours
    if present.line != write.stamp.line:
        # Who began another line upon the same base did so under the condition that we had not.
        is_rival = write.base is None and present.root == write.base_etag
        return Fate.SUPERSEDED if is_rival else Fate.UNKNOWN
    if write.base is None:
        return Fate.STORED  # the line is our own, and nobody else began it
    mine = write.stamp.write_id
    known = present.find(mine.session)
    if known is not None and known <= mine.number:
        return Fate.STORED if known == mine.number else Fate.SUPERSEDED
    has_room = len(present.recent) < MAX_RECENT
    is_covered = has_room or present.version - write.base.version <= MAX_RECENT
    return Fate.SUPERSEDED if known is None and is_covered else Fate.UNKNOWN


# Conditions


class EtagForm(Enum):
    """How a server wants the ETag in If-Match; all of them send it in quotes."""

    QUOTED = '"{}"'
    """RFC 9110, 13.1.1."""
    BARE = "{}"
    """Ceph 16.2: its rgw_rados.cc compares the header with the bare MD5."""

    def render(self, etag: str) -> str:
        """Return the header's value for an ETag without quotes."""
        return self.value.format(etag)


class Verdict(Enum):
    """What a refused write means."""

    CONFLICT = auto()
    """Another write was faster."""
    LOST = auto()
    """The server failed; whether the write took place is open."""
    REFUSED = auto()
    """It did not take place, and would not at a second try."""


def judge_refusal(code: str, status: int) -> Verdict:
    """Say what an S3 error means to a conditional write (S3 user guide, "Conditional requests")."""
    match status:
        case 409 | 412:
            return Verdict.CONFLICT
        case 404 if code == NO_SUCH_KEY:
            return Verdict.CONFLICT  # it was there, and was deleted
        case 408 | 429:
            return Verdict.LOST
        case _:
            return Verdict.LOST if status >= 500 else Verdict.REFUSED  # noqa: PLR2004 - HTTP


# Patience

# About as long as a read and a write of sixteen writers take one gateway. With a hundredth of a
# second they met more often, and took a third longer in all (Ceph 16.2, two cores).
_FIRST_PAUSE_SECONDS: Final = 0.08
_LONGEST_PAUSE_SECONDS: Final = 1.0


def choose_pause(conflicts: int, drawn: float) -> float:
    """
    Return how long (seconds) to wait after so many conflicts in a row.

    Full jitter, ``drawn`` evenly from 0 to 1: who lost together does not come back together
    (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    longest = _FIRST_PAUSE_SECONDS * 2.0 ** min(conflicts, 16)
    return drawn * min(_LONGEST_PAUSE_SECONDS, longest)


# History

_MODIFIED: Final = "csc-modified"
_HISTORY: Final = re.compile(r"(?P<line>[0-9]{8}T[0-9]{6}Z-[01]-[0-9a-f]{1,16})-[0-9]{10}\.json")


def build_history_key(prefix: str, etag: str, modified: datetime, stamp: Stamp | None) -> str:
    """
    Return the key under which an old version is kept.

    Keys sort as the versions followed each other, by their numbers and not by clocks. A value of
    another program stands before the line that was begun upon it.
    """
    if stamp is None:
        return f"{prefix}{modified:%Y%m%dT%H%M%SZ}-0-{etag[:8]}-{0:010}.json"
    return f"{prefix}{stamp.line}-{stamp.version:010}.json"


def build_history_metadata(stamp: Stamp | None, modified: datetime) -> dict[str, str]:
    """Return the metadata of an old version: what it had, and when it was written."""
    return {**(build_metadata(stamp) if stamp else {}), _MODIFIED: modified.isoformat()}


def parse_modified(metadata: Mapping[str, str]) -> datetime | None:
    """Return when the version was written that an object of the history is a copy of."""
    try:
        return datetime.fromisoformat(metadata[_MODIFIED])
    except (KeyError, ValueError):
        return None


def is_history_key(prefix: str, key: str) -> bool:
    """Whether a key was made by `build_history_key`; what else is below the prefix is not ours."""
    return key.startswith(prefix) and _HISTORY.fullmatch(key.removeprefix(prefix)) is not None
