"""
What a watcher of objects has told Airflow already, and what of a listing is news.

The cursor is one small JSON document. It is changed by compare-and-swap, and it names the event
that is being told before that is told, so that whoever goes on after a crash tells the very same
one again or, where it is known to be told, the next.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, NotRequired, TypedDict

from airflow_provider_csc.allas.objects import OWN_DIRECTORY, KeyPattern, ObjectFacts
from airflow_provider_csc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_provider_csc.allas.objects import StoredObject

FORMAT: Final = 1
MAX_NEWS: Final = 5_000
"""So much news is taken from one listing; the rest is news in the next."""

_MARKS: Final = struct.Struct(">QQ")


class ChangedObject(ObjectFacts):
    """An object in an event; ``metadata`` is its writer's own, where it was asked for."""

    change: Literal["new", "changed"]
    metadata: NotRequired[dict[str, str]]


class ObjectsEvent(TypedDict):
    """
    The payload of an event.

    ``id`` is the same wherever and however often the event is told, and ``is_repeat`` says that it
    may have been told before. ``planned_at`` is when it was first written down.
    """

    id: str
    watched: str
    planned_at: str
    is_repeat: bool
    objects: list[ChangedObject]


@dataclass(slots=True)
class Cursor:
    """
    What is known of a watch.

    ``owner`` is whoever moved it last, ``number`` how many events were begun, ``pending`` the one
    that is being told, and ``seen`` the version of each object that was told: two 64-bit digests,
    of its key and of what makes its version: the content, and unless ``by_content`` also when it
    was written. Of 50,000 objects these are 0.8 MB, and 8 MB here.
    """

    watched: str
    owner: str
    by_content: bool = False
    number: int = 0
    pending: ObjectsEvent | None = None
    seen: dict[int, int] = field(default_factory=dict)

    def finish(self) -> None:
        """Note the objects of the pending event as told."""
        for each in self.pending["objects"] if self.pending else ():
            modified = datetime.fromisoformat(each["last_modified"])
            version = _mark_version(each["etag"], each["size"], modified, self.by_content)
            self.seen[_mark(each["key"])] = version
        self.pending = None

    def encode(self) -> bytes:
        """Return it as a document."""
        packed = b"".join(_MARKS.pack(key, self.seen[key]) for key in sorted(self.seen))
        document = {
            "format": FORMAT,
            "watched": self.watched,
            "owner": self.owner,
            "by_content": self.by_content,
            "number": self.number,
            "pending": self.pending,
            "seen": base64.b64encode(packed).decode(),
        }
        return json.dumps(document, indent=1).encode()


def decode_cursor(data: bytes, where: str) -> Cursor:
    """Read a cursor's document; ``where`` it is goes into the error for what is none."""
    try:
        document = json.loads(data)
        if isinstance(document, Mapping) and document["format"] == FORMAT:
            packed = base64.b64decode(document["seen"], validate=True)
            return Cursor(
                watched=str(document["watched"]),
                owner=str(document["owner"]),
                by_content=bool(document["by_content"]),
                number=int(document["number"]),
                pending=document["pending"],
                seen=dict(_MARKS.iter_unpack(packed)),
            )
    except (ValueError, KeyError, TypeError, struct.error):
        pass
    raise ConfigError(
        f"{where} is no cursor of a watcher in the format that this version reads ({FORMAT}). "
        "Delete it to begin anew, or name another cursor.",
        uri=where,
    )


def cursor_key(name: str) -> str:
    """Return the key of a cursor's document."""
    return f"{OWN_DIRECTORY}cursors/{name}.json"


def default_cursor_name(deployment: str, bucket: str, pattern: KeyPattern) -> str:
    """
    Name the cursor of a watcher after what it watches, and for which Airflow.

    Other arguments have no part in it, so that they can be changed and nothing is missed.
    """
    parts = [deployment, bucket, pattern.text, pattern.has_wildcards]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class News:
    """An object that is new or changed."""

    object: StoredObject
    change: Literal["new", "changed"]


class Survey:
    """Compares listings with a cursor; in the first one of a baseline all counts as told."""

    def __init__(self, cursor: Cursor, pattern: KeyPattern, *, is_baseline: bool = False) -> None:
        self.is_baseline = is_baseline
        self._cursor = cursor
        self._pattern = pattern
        self._present: dict[int, int] = {}
        self._news: list[News] = []

    @property
    def exact(self) -> str | None:
        """The one key that is watched, if it is one."""
        return self._pattern.exact

    def begin(self) -> None:
        """Begin with a listing."""
        self._present = {}
        self._news = []

    def see(self, objects: Iterable[StoredObject]) -> None:
        """Take in a page of it."""
        known, present, matches = self._cursor.seen, self._present, self._pattern.matches
        for each in objects:
            if not matches(each.key):
                continue
            key_mark = _mark(each.key)
            version_mark = _mark_version(
                each.etag, each.size, each.last_modified, self._cursor.by_content
            )
            told = known.get(key_mark)
            if self.is_baseline:
                present[key_mark] = version_mark
                continue
            if told is not None:
                present[key_mark] = told
            if told != version_mark and len(self._news) < MAX_NEWS:
                change: Literal["new", "changed"] = "new" if told is None else "changed"
                self._news.append(News(each, change))

    def end(self) -> tuple[list[News], bool]:
        """
        End a complete listing: what is gone is forgotten, and comes back as new.

        Returns the news, the oldest first, and whether the cursor has to be written down.
        """
        is_changed = self.is_baseline or len(self._present) != len(self._cursor.seen)
        self._cursor.seen, self._present = self._present, {}
        self.is_baseline = False
        news, self._news = self._news, []
        news.sort(key=lambda each: (each.object.last_modified, each.object.key))
        return news, is_changed


def describe(news: News, bucket: str) -> ChangedObject:
    """Return an object as an event has it."""
    facts = news.object.to_facts(bucket)
    return {
        "uri": facts["uri"],
        "key": facts["key"],
        "size": facts["size"],
        "etag": facts["etag"],
        "last_modified": facts["last_modified"],
        "change": news.change,
    }


def batched(news: Sequence[News], size: int) -> Iterator[Sequence[News]]:
    """Yield the news in portions, each of which becomes one event."""
    for first in range(0, len(news), size):
        yield news[first : first + size]


def _mark_version(etag: str, size: int, modified: datetime, by_content: bool) -> int:  # noqa: FBT001 - a part of what is digested
    written = "" if by_content else f"{modified.timestamp():.3f}"
    return _mark(f"{etag} {size} {written}")


def _mark(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
