"""One object on its way into a file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_provider_csc.allas.parts import PART_BYTES, etag_of_parts, parse_etag
from airflow_provider_csc.errors import (
    AllasError,
    ObjectChangedError,
)
from airflow_provider_csc.store.checksums import PartHasher, digests_of, is_content, part_sizes
from airflow_provider_csc.store.local_tree import LEFTOVER_PREFIX
from airflow_provider_csc.store.reading import ObjectReader, Span, read_number
from airflow_provider_csc.store.upload import MTIME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from airflow_provider_csc.allas.plan import Item
    from airflow_provider_csc.store.engine import Lane
    from airflow_provider_csc.store.store import Store

# What a file system can hold as a time (seconds since 1970); metadata may say anything.
_LATEST = 2.0**33


class Download:
    """
    Read an object into a file, which appears under its name when all is there and verified.

    Until then it is a hidden file beside it, with a journal of the spans that are there: a killed
    attempt is continued, after its bytes were compared with the journal's checksums. With
    ``compare_first`` nothing is read where the file has the object's content already.

    :param verify_checksum: whether an object in parts of unknown size is an error.
    :param keep_time: whether the file gets the time of modification that the object's metadata has.
    """

    def __init__(
        self,
        store: Store,
        bucket: str,
        item: Item,
        path: Path,
        *,
        compare_first: bool = False,
        verify_checksum: bool = True,
        keep_time: bool = True,
    ) -> None:
        self.name = f"s3://{bucket}/{item.path} to {path}"
        self.is_skipped = False
        self._store = store
        self._bucket = bucket
        self._item = item
        self._path = path
        self._reader = ObjectReader(self.name, store, bucket, item)
        self._compare_first = compare_first
        self._verify_checksum = verify_checksum
        self._keep_time = keep_time
        self._etag = parse_etag(item.etag)
        self._part_size = PART_BYTES
        self._fd = self._journal = -1
        self._is_open = False
        self._is_stale = False
        self._digests: dict[int, list[bytes]] = {}
        seed = "\n".join(
            (store.settings.endpoint_url, bucket, item.path, item.etag, str(item.size), path.name)
        )
        mark = hashlib.sha256(seed.encode()).hexdigest()[:16]
        self._temporary = path.parent / f"{LEFTOVER_PREFIX}{mark}.part"
        self._journal_path = path.parent / f"{LEFTOVER_PREFIX}{mark}.done"

    def prepare(self, lane: Lane) -> Iterable[Span]:
        """Open the hidden file, and see what is there already."""
        if self._compare_first and self._is_there(lane):
            self.is_skipped = True
            lane.skipped(self._item.size)
            return ()
        if self._etag is not None and self._etag.parts:
            self._part_size = part_sizes(self._item.size, self._etag)[0]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        spans = list(self._spans())
        if len(spans) == 1:
            return spans
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_APPEND
        self._journal = os.open(self._journal_path, flags, 0o666)
        self._read_journal(spans, lane)
        os.ftruncate(self._fd, self._item.size)
        return (span for span in spans if span.number not in self._digests)

    def carry(self, part: Span, lane: Lane) -> None:
        """Read one span."""
        try:
            digests = self._receive(part, lane)
        except ObjectChangedError:
            self._is_stale = True
            raise
        self._digests[part.number] = digests
        if self._journal >= 0:
            words = (str(part.number), str(self._part_size), *(each.hex() for each in digests))
            write_all(self._journal, memoryview(f"{' '.join(words)}\n".encode()))

    def finish(self, lane: Lane) -> None:
        """Verify the whole, and give it its name."""
        if self.is_skipped:
            return
        os.ftruncate(self._fd, self._item.size)
        self._verify(lane)
        mtime = read_number(self._reader.headers.get(f"x-amz-meta-{MTIME}"), _LATEST)
        if mtime is not None and self._keep_time:
            os.utime(self._fd, (mtime, mtime))
        with suppress(FileNotFoundError):
            # A file that is replaced keeps who may read it.
            os.fchmod(self._fd, stat.S_IMODE(self._path.stat().st_mode))
        if self._journal >= 0:
            # What was worth continuing is worth being on disk.
            os.fdatasync(self._fd)
        # A network file system may tell only now that it could not write.
        fd, self._fd = self._fd, -1
        os.close(fd)
        self._temporary.replace(self._path)
        self._close()
        self._journal_path.unlink(missing_ok=True)

    def give_up(self) -> None:
        """Keep what a later attempt can use, and nothing else."""
        is_usable = self._journal >= 0 and bool(self._digests) and not self._is_stale
        if self._is_open and not is_usable:
            self._temporary.unlink(missing_ok=True)
            self._journal_path.unlink(missing_ok=True)
        self._close()

    def _is_there(self, lane: Lane) -> bool:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        try:
            return is_content(self._item, fd, lane)
        finally:
            os.close(fd)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._temporary, flags, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise AllasError(
                f"{self.name}: another process is writing the same file. Wait until it has ended.",
                path=str(self._path),
            ) from None
        except OSError:
            # Some network file systems know no locks.
            pass
        self._fd, self._is_open = fd, True
        if not _is_same(fd, self._temporary):
            # Who had the lock before has given the file its name meanwhile.
            self._close()
            self._is_open = False
            raise AllasError(
                f"{self.name}: another process has just written the same file. Try again.",
                path=str(self._path),
            )

    def _spans(self) -> Iterator[Span]:
        """Let spans consist of whole parts of the object, whose checksums its ETag is made of."""
        size = self._item.size
        each = max(PART_BYTES // self._part_size, 1) * self._part_size
        for number, offset in enumerate(range(0, max(size, 1), each)):
            yield Span(number, offset, min(each, size - offset))

    def _receive(self, span: Span, lane: Lane) -> list[bytes]:
        """Write a span to the file; return the checksums of its parts."""
        offset = span.offset
        hasher = PartHasher(self._part_size)
        for piece in self._reader.read(span.offset, span.size, lane):
            hasher.update(piece)
            write_all(self._fd, piece, offset)
            offset += len(piece)
        return hasher.digests()

    def _verify(self, lane: Lane) -> None:
        if self._etag is None:
            reason = f"its ETag {self._item.etag!r} is no checksum"
        elif self._is_whole(lane):
            return
        elif self._etag.parts is None or self._verify_checksum:
            self._is_stale = True
            raise self._reader.mismatch()
        else:
            reason = "it was uploaded in parts of unknown size"
        lane.note_unverified(f"{self.name}: only its size was verified, for {reason}.")

    def _is_whole(self, lane: Lane) -> bool:
        digests = [each for number in sorted(self._digests) for each in self._digests[number]]
        etag, size = self._etag, self._item.size
        if etag is None:
            return False
        if etag.parts is None:
            whole = digests if len(digests) == 1 else digests_of(self._fd, 0, size, size, lane)
            return whole[0].hex() == etag.digest
        if etag_of_parts(digests) == etag:
            return True
        # It was uploaded in parts of another size; what is in the file can be cut differently.
        return any(
            etag_of_parts(digests_of(self._fd, 0, size, part_size, lane)) == etag
            for part_size in part_sizes(size, etag, told=self._reader.told_part_size)
            if part_size != self._part_size
        )

    def _read_journal(self, spans: list[Span], lane: Lane) -> None:
        """Take what an earlier attempt has read, as far as the file still holds it."""
        data = os.pread(self._journal, os.fstat(self._journal).st_size, 0)
        for line in data.decode("ascii", "replace").splitlines():
            match line.split():
                # A line may have broken off.
                case [number, part_size, *digests] if (
                    number.isdecimal()
                    and int(number) < len(spans)
                    and part_size == str(self._part_size)
                ):
                    span = spans[int(number)]
                    found = digests_of(self._fd, span.offset, span.size, self._part_size, lane)
                    if [each.hex() for each in found] == digests:
                        self._digests[span.number] = found
                        lane.skipped(span.size)

    def _close(self) -> None:
        fds, self._fd, self._journal = (self._fd, self._journal), -1, -1
        for fd in fds:
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)


def _is_same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def write_all(fd: int, data: memoryview, offset: int | None = None) -> None:
    """Write all of some bytes, at the end or at an offset."""
    while data:
        written = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
        data, offset = data[written:], None if offset is None else offset + written
