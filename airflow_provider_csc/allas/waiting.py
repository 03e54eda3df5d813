"""When the objects that a sensor waits for are there: enough of them, at rest, saying the right."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from airflow_provider_csc.allas.json_condition import MAX_DOCUMENT_BYTES, read_document
from airflow_provider_csc.notation import NotationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_csc.allas.json_condition import Condition
    from airflow_provider_csc.allas.objects import KeyPattern, StoredObject

MAX_READS: Final = 100
"""
So many documents are read after one listing by who shares a process with others; the rest have
their turn after the next listing.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitSpec:
    """
    What is waited for; ``quiet_seconds`` is for how long nothing may have changed.

    ``max_reads`` documents are read after one listing, without one all.
    """

    pattern: KeyPattern
    min_count: int = 1
    quiet_seconds: float = 0.0
    condition: Condition | None = None
    max_results: int = 1000
    max_reads: int | None = MAX_READS


@dataclass(slots=True)
class _Round:
    """What one listing has shown so far; it holds no more than what is asked for."""

    count: int = 0
    kept: list[StoredObject] = field(default_factory=list)
    unread: list[StoredObject] = field(default_factory=list)
    newest: float = 0.0
    digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    # What is known of the documents in this listing; of others nothing is kept.
    verdicts: dict[bytes, bool] = field(default_factory=dict)


class ObjectWait:
    """
    Takes in one listing after the other and decides.

    Every listing is begun, seen page by page, and ended; then the documents it names are judged.
    Nothing changed lately, says the age of the newest object by the store's own clock, so that no
    restart begins the wait anew; what this has itself seen change (also a deletion) counts as well.
    """

    def __init__(self, spec: WaitSpec) -> None:
        self.spec = spec
        self._round = _Round()
        self._verdicts: dict[bytes, bool] = {}
        self._digest: bytes | None = None
        self._changed: float | None = None
        self._idle = 0.0
        self._told: set[str] = set()
        self.progress = ""

    @property
    def exact(self) -> str | None:
        """The one key that is waited for, if it is one."""
        return self.spec.pattern.exact

    def begin(self) -> None:
        """Begin with a listing."""
        self._round = _Round()

    def see(self, objects: Iterable[StoredObject]) -> None:
        """Take in a page of it."""
        now, matches = self._round, self.spec.pattern.matches
        for each in objects:
            if not matches(each.key):
                continue
            version = _digest_version(each)
            now.digest.update(version)
            now.newest = max(now.newest, each.last_modified.timestamp())
            if self.spec.condition is None:
                self._take(each)
            else:
                self._recall(each, version)

    def end(self, *, clock: float, steady: float) -> list[StoredObject]:
        """
        End a listing; return what is to be read and judged.

        ``clock`` is the store's (seconds since 1970), ``steady`` one that nobody sets.
        """
        digest = self._round.digest.digest()
        if self._digest not in (None, digest):
            self._changed = steady
        self._digest = digest
        seen = float("inf") if self._changed is None else steady - self._changed
        self._idle = min(clock - self._round.newest, seen)
        self._verdicts, self._round.verdicts = self._round.verdicts, {}
        return self._round.unread

    def judge(self, each: StoredObject, data: bytes | None) -> str | None:
        """
        Note what a document says; return what is to be told of it, once.

        Without ``data`` it is not there any more in that version; the next listing shows what is.
        """
        if self.spec.condition is None:
            raise ValueError("nothing is asked of the documents")
        if data is None:
            return None
        try:
            unmet = self.spec.condition.unmet(read_document(data))
        except NotationError as error:
            unmet = error.problem
        self._verdicts[_digest_version(each)] = unmet is None
        if unmet is None:
            self._take(each)
            return None
        return self._tell_once(f"{each.key}: {unmet}.")

    def refuse_large(self, each: StoredObject) -> str | None:
        """Note that a document is too large to be read; return what is to be told of it, once."""
        self._verdicts[_digest_version(each)] = False
        return self._tell_once(
            f"{each.key} has {each.size} bytes; only documents of up to {MAX_DOCUMENT_BYTES} are "
            "read, so it does not meet the condition."
        )

    @property
    def is_met(self) -> bool:
        """Whether all is as it should be; ``progress`` says how it stands."""
        now, spec = self._round, self.spec
        what = "object is" if now.count == 1 else "objects are"
        meeting = " that meet the condition" if spec.condition else ""
        self.progress = f"{now.count} of {spec.min_count} {what} there{meeting}."
        if now.count < spec.min_count:
            return False
        if self._idle < spec.quiet_seconds:
            self.progress += f" Waiting until nothing has changed for {spec.quiet_seconds:g} s."
            return False
        return True

    @property
    def count(self) -> int:
        """How many there are."""
        return self._round.count

    @property
    def found(self) -> list[StoredObject]:
        """The first of them, by key, and no more than are wanted."""
        return sorted(self._round.kept, key=lambda each: each.key.encode())

    def _take(self, each: StoredObject) -> None:
        self._round.count += 1
        if len(self._round.kept) < self.spec.max_results:
            self._round.kept.append(each)

    def _recall(self, each: StoredObject, version: bytes) -> None:
        verdict = self._verdicts.get(version)
        if verdict is None:
            limit = self.spec.max_reads
            if limit is None or len(self._round.unread) < limit:
                self._round.unread.append(each)
            return
        self._round.verdicts[version] = verdict
        if verdict:
            self._take(each)

    def _tell_once(self, text: str) -> str | None:
        # Somebody who writes another epoch every second is not told of each for ever.
        if text in self._told or len(self._told) > MAX_READS:
            return None
        self._told.add(text)
        return text


def _digest_version(each: StoredObject) -> bytes:
    version = f"{each.key}\0{each.etag}\0{each.last_modified.timestamp()}".encode()
    return hashlib.blake2b(version, digest_size=16).digest()
