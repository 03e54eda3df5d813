"""An archive in an object store on its way into a directory."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import shutil
import stat
import sys
import tarfile
import threading
import zlib
from tarfile import HeaderError, ReadError, TarFile
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from airflow_provider_csc.allas.packing import SEAL_BYTES, check_link, member_path, parse_seal
from airflow_provider_csc.allas.parts import etag_of_parts, parse_etag
from airflow_provider_csc.errors import (
    AllasError,
    CscError,
)
from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.store.checksums import PartHasher, part_sizes
from airflow_provider_csc.store.connection import BUFFER_BYTES, RequestError
from airflow_provider_csc.store.download import write_all
from airflow_provider_csc.store.engine import LATER
from airflow_provider_csc.store.local_tree import LEFTOVER_PREFIX
from airflow_provider_csc.store.pack import is_sealed
from airflow_provider_csc.store.reading import ObjectReader, Span

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from airflow_provider_csc.allas.packing import Seal
    from airflow_provider_csc.allas.plan import Item
    from airflow_provider_csc.store.engine import Lane, Packed
    from airflow_provider_csc.store.local_tree import LocalTree
    from airflow_provider_csc.store.store import Store
    from airflow_provider_csc.store.transfer import Manner

# What is read in one request, and how many of these are held in memory.
_SPAN_BYTES = 8 * 1024**2
_MOST_HELD = 6
_LOOK_SECONDS = 0.2
# What a file system can hold as a time (seconds since 1970).
_LATEST = 2.0**33
# A long name or an extended header is read into memory; none has to be longer (bytes).
_LONGEST_HEADER = 1024**2
_HEADER_TYPES = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes((n, 0x2A, 0x4D, 0x18)) for n in range(0x50, 0x60)))
_GZIP = (b"\x1f\x8b",)
_TAR_MAGIC = slice(257, 262)
_DAMAGES = (tarfile.TarError, zstd.ZstdError, zlib.error, gzip.BadGzipFile, EOFError)


class _Window:
    """Spans of an object that any threads read ahead, and one takes in order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.count = -(-size // _SPAN_BYTES)
        self._changed = threading.Condition()
        self._there: dict[int, memoryview] = {}
        # Buffers are used again: freed by other threads than took them, they pile up in the heap.
        self._free: list[memoryview] = []
        self._out: memoryview | None = None
        self._error: Exception | None = None
        # Spans before these were claimed by who reads them, and taken.
        self._claimed = self._taken = 0

    def claim(self, number: int | None = None) -> Span | None:
        """Return the next span to be read; None where there is no room, or it is not ``number``."""
        with self._changed:
            if number is not None and number != self._claimed:
                return None
            if not self.is_claimed and self._claimed - self._taken < _MOST_HELD:
                self._claimed += 1
                return self._span(self._claimed - 1)
            return None

    @property
    def is_claimed(self) -> bool:
        """Whether somebody reads, or has read, each span."""
        return self._claimed == self.count

    def buffer_for(self, span: Span) -> memoryview:
        """Return where a span is to be read to."""
        with self._changed:
            whole = self._free.pop() if self._free else memoryview(bytearray(_SPAN_BYTES))
        return whole[: span.size]

    def put(self, span: Span, data: memoryview) -> None:
        """Put down what was read."""
        with self._changed:
            self._there[span.number] = data
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Have the taker meet an error that one of the readers met."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def wait_for(self, number: int, check: Callable[[], None]) -> memoryview:
        """Return a span that somebody has claimed; the one before is not used any more."""
        with self._changed:
            if self._out is not None:
                self._free.append(memoryview(self._out.obj))
                self._out = None
            while number not in self._there:
                if self._error is not None:
                    raise self._error
                check()
                self._changed.wait(_LOOK_SECONDS)
            self._taken = number + 1
            self._out = self._there.pop(number)
            return self._out

    def _span(self, number: int) -> Span:
        offset = number * _SPAN_BYTES
        return Span(number, offset, min(_SPAN_BYTES, self._size - offset))


class _ObjectStream:
    """The bytes of an object in order, as a file that is read; they are hashed as they pass."""

    def __init__(self, window: _Window, get: Callable[[int], memoryview], etag: str) -> None:
        self._window = window
        self._get = get
        self._etag = parse_etag(etag)
        self._hashers: list[PartHasher] | None = None
        self._number = 0
        self._rest = memoryview(b"")

    def read(self, size: int = BUFFER_BYTES) -> bytes:
        """Return some bytes, none at the end."""
        piece = bytes(self.peek()[: max(size, 0)])
        self._rest = self._rest[len(piece) :]
        return piece

    def peek(self) -> memoryview:
        """Return what is read next, some of it, and leave it there."""
        if not self._rest and self._number < self._window.count:
            self._rest = self._get(self._number)
            self._number += 1
            for hasher in self._hashers or ():
                hasher.update(self._rest)
        return self._rest

    def hash_parts(self, sizes: Iterable[int]) -> None:
        """Hash parts of each of these sizes; before anything is read."""
        self._hashers = [PartHasher(size) for size in sizes]

    def drain(self) -> None:
        """Read to the end."""
        while self.peek():
            self._rest = memoryview(b"")

    def is_whole(self) -> bool:
        """Whether it was what the ETag says."""
        if self._etag is None:
            return False
        for hasher in self._hashers or ():
            digests = hasher.digests()
            if self._etag.parts is None:
                if digests[0].hex() == self._etag.digest:
                    return True
            elif etag_of_parts(digests) == self._etag:
                return True
        return False


class _Member(tarfile.TarInfo):
    """A member whose header is not believed: tarfile takes what it cannot read for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise ReadError(f"it breaks off, or is damaged ({error})") from error
        except (ValueError, LookupError, OverflowError, RecursionError) as error:
            raise ReadError(f"a header is damaged ({error})") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header from its block."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADER_TYPES and member.size > _LONGEST_HEADER:
            raise ReadError(f"a name has {member.size} bytes")
        return member


class PackedDownload:
    """
    Unpack an archive while it is read: a tar, compressed with zstd or gzip or not at all.

    Everything is written into a hidden directory first, and gets its place when the whole object
    was read and found to be what its ETag says. One thread unpacks, the others read ahead. Nothing
    is continued after a kill.

    :param make_tree: lists what is in the directory, each time anew.
    :param figures: is kept up to date.
    """

    def __init__(
        self,
        store: Store,
        bucket: str,
        item: Item,
        root: Path,
        *,
        make_tree: Callable[[], LocalTree],
        figures: Packed,
        manner: Manner,
    ) -> None:
        self.name = f"s3://{bucket}/{item.path} to {root}"
        self.is_skipped = False
        self.deleted = 0
        self._store = store
        self._bucket = bucket
        self._item = item
        self._root = root
        self._make_tree = make_tree
        self._figures = figures
        self._manner = manner
        self._reader = ObjectReader(self.name, store, bucket, item)
        self._window = _Window(item.size)
        seed = f"{store.settings.endpoint_url}\n{bucket}\n{item.path}\n{root.name}"
        mark = hashlib.sha256(seed.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._hidden_name = f"{LEFTOVER_PREFIX}{mark}.part"
        self._hidden: Path | None = None
        self._lock = -1
        self._writer: TreeWriter | None = None

    def prepare(self, lane: Lane) -> Iterable[object]:
        """See whether the directory holds the same already; else have the object read."""
        if self._is_there(lane):
            self.is_skipped = True
            return ()
        self._open()
        return self._parts()

    def carry(self, part: Any, lane: Lane) -> None:
        """Unpack all, or read a span ahead."""
        if isinstance(part, TreeWriter):
            self._unpack(part, lane)
        else:
            self._fetch(part, lane)

    def finish(self, lane: Lane) -> None:
        """Give everything its place."""
        if self.is_skipped or self._writer is None:
            return
        top = self._writer.top
        if not self._root.exists():
            top.rename(self._root)
        else:
            _check_places(top, self._root, lane.check)
            gone = self._find_extra(top, lane) if self._manner.delete_extra else []
            _place(top, self._root)
            for path in gone:
                path.unlink(missing_ok=True)
            self.deleted = len(gone)
        self._close()

    def give_up(self) -> None:
        """Leave nothing behind."""
        self._close()

    def _is_there(self, lane: Lane) -> bool:
        if self._manner.compare == "never" or not self._root.is_dir():
            return False
        seal = parse_seal(self._store.read_end(self._bucket, self._item, SEAL_BYTES))
        try:
            return seal is not None and self._has(seal, lane)
        except (CscError, OSError):
            # What cannot be packed is not what was.
            lane.check()
            return False

    def _has(self, seal: Seal, lane: Lane) -> bool:
        figures = self._figures
        found = [item.size for item in self._make_tree() if not item.path.endswith("/")]
        if (len(found), sum(found)) != (seal.files, seal.bytes):
            return False
        figures.files, figures.bytes = seal.files, seal.bytes
        is_same = is_sealed(seal, self._make_tree(), self._manner.compare, lane.check)
        if not is_same:
            figures.files = figures.bytes = 0
        return is_same

    def _open(self) -> None:
        """Make the hidden directory: in the directory where there is one, else beside it."""
        parent = self._root if self._root.is_dir() else self._root.parent
        parent.mkdir(parents=True, exist_ok=True)
        hidden = parent / self._hidden_name
        hidden.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise AllasError(
                f"{self.name}: another process is unpacking it there. Wait until it has ended.",
                path=str(self._root),
            ) from None
        except OSError:
            # Some network file systems know no locks.
            pass
        self._hidden, self._lock = hidden, lock
        top = hidden / "tree"
        if top.exists():
            # A killed attempt left it.
            shutil.rmtree(top)
        top.mkdir()
        self._writer = TreeWriter(top, self._manner.is_selected, self._figures)

    def _parts(self) -> Iterator[object]:
        yield self._writer
        while not self._window.is_claimed:
            yield self._window.claim() or LATER

    def _unpack(self, writer: TreeWriter, lane: Lane) -> None:
        def get(number: int) -> memoryview:
            # Where nobody reads it already, as with one thread, it is read here.
            span = self._window.claim(number)
            if span is not None:
                self._fetch(span, lane)
            data = self._window.wait_for(number, lane.check)
            lane.wake()
            if not number:
                stream.hash_parts(self._part_sizes())
            return data

        stream = _ObjectStream(self._window, get, self._item.etag)
        archive = self._decompress(stream)
        damage: Exception | None = None
        try:
            _write_members(archive, writer, lane)
        except _DAMAGES as error:
            damage = error
        # Whether the archive is damaged, or what was read of it, only its checksum can tell.
        stream.drain()
        self._verify(stream, lane)
        if damage is not None:
            raise self._damaged(damage) from damage
        if not self._figures.files:
            raise AllasError(
                f"There is nothing in {self._reader.uri} that is meant. Check include and exclude.",
                uri=self._reader.uri,
            )

    def _decompress(self, stream: _ObjectStream) -> BinaryIO:
        begin = bytes(stream.peek()[: tarfile.BLOCKSIZE])
        plain = cast("BinaryIO", stream)
        if not begin:
            raise AllasError(f"{self._reader.uri} is empty, and no archive.", uri=self._reader.uri)
        if begin.startswith(_ZSTD):
            return cast("BinaryIO", zstd.ZstdFile(plain))
        if begin.startswith(_GZIP):
            return cast("BinaryIO", gzip.GzipFile(fileobj=plain, mode="rb"))
        if begin[_TAR_MAGIC] == b"ustar" or not any(begin):
            return plain
        raise AllasError(
            f"{self._reader.uri} is no tar archive, neither plain nor compressed with zstd or "
            f"gzip: it begins with {begin[:8]!r}. Read it without unpack=True.",
            uri=self._reader.uri,
        )

    def _fetch(self, span: Span, lane: Lane) -> None:
        """Read a span into the window, as often as that has any use."""
        data = self._window.buffer_for(span)
        try:
            lane.retry(lambda: self._read(span, data, lane))
        except RequestError as error:
            # Nobody tries again what was tried here.
            final = RequestError(error.message, **{**error.details, "is_passing": False})
            self._window.fail(final)
            raise final from error
        except Exception as error:
            self._window.fail(error)
            raise
        self._window.put(span, data)

    def _read(self, span: Span, data: memoryview, lane: Lane) -> None:
        for _ in self._reader.read(span.offset, span.size, lane, data):
            pass

    def _part_sizes(self) -> list[int]:
        etag = parse_etag(self._item.etag)
        if etag is None:
            return []
        return part_sizes(self._item.size, etag, told=self._reader.told_part_size)

    def _verify(self, stream: _ObjectStream, lane: Lane) -> None:
        if stream.is_whole():
            return
        etag = parse_etag(self._item.etag)
        if etag is not None and (etag.parts is None or self._manner.verify_checksum):
            raise self._reader.mismatch()
        reason = (
            f"its ETag {self._item.etag!r} is no checksum"
            if etag is None
            else "it was uploaded in parts of unknown size"
        )
        lane.note_unverified(f"{self.name}: only its size was verified, for {reason}.")

    def _find_extra(self, top: Path, lane: Lane) -> list[Path]:
        """Return the files that were not in the archive."""
        extra = []
        for item in self._make_tree():
            lane.check()
            if not item.path.endswith("/") and not os.path.lexists(top / item.path):
                extra.append(self._root / item.path)
        return extra

    def _damaged(self, error: Exception) -> AllasError:
        return AllasError(
            f"{self._reader.uri} cannot be unpacked: {error}. It is stored as it was sent, so it "
            "was cut off or damaged before that. Nothing was written; have it made again.",
            uri=self._reader.uri,
        )

    def _close(self) -> None:
        hidden, lock, self._hidden, self._lock = self._hidden, self._lock, None, -1
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


class TreeWriter:
    """Writes members of an archive below a directory of its own, whatever their names are."""

    def __init__(self, top: Path, is_selected: Callable[[str], bool], figures: Packed) -> None:
        self.top = top.resolve()
        self._is_selected = is_selected
        self._figures = figures
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        # A directory that is known to be one, and to lie where its name says.
        self._known: Path | None = None

    def write(self, member: tarfile.TarInfo, tar: TarFile, check: Callable[[], None]) -> None:
        """Write the member an archive is at; those that are not meant are left out."""
        # What is not meant may be called as it likes.
        if not self._is_meant(member):
            return
        name = member_path(member.name)
        path = self.top / name
        if member.isdir():
            self._enter(path)
            return
        self._enter(path.parent)
        self._make_room(path, member.name)
        if member.isreg():
            self._write_file(path, member, tar, check)
        elif member.issym():
            check_link(name, member.linkname)
            path.symlink_to(member.linkname)
            self._known = None
        elif member.islnk():
            os.link(self._linked(member), path, follow_symlinks=False)
        else:
            raise NotationError(
                f"the member {member.name!r} of the archive is a device or a pipe", "Exclude it."
            )
        self._figures.files += 1

    def _is_meant(self, member: tarfile.TarInfo) -> bool:
        path = member.name.removeprefix("./").rstrip("/")
        return path not in ("", ".") and self._is_selected(f"{path}/" if member.isdir() else path)

    def _write_file(
        self,
        path: Path,
        member: tarfile.TarInfo,
        tar: TarFile,
        check: Callable[[], None],
    ) -> None:
        source = cast("Any", tar.extractfile(member))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            while read := source.readinto(self._buffer):
                write_all(fd, self._buffer[:read])
                self._figures.bytes += read
                check()
            os.fchmod(fd, _mode_of(member))
            if 0 <= member.mtime <= _LATEST:
                os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _enter(self, directory: Path) -> None:
        """See that a directory is there, and that no symbolic link leads to it."""
        if directory == self._known:
            return
        directory.mkdir(parents=True, exist_ok=True)
        if os.path.realpath(directory) != str(directory):
            raise NotationError(
                f"the archive has {directory.relative_to(self.top)!s} both as a symbolic link and "
                "as a directory",
                "Exclude one of them.",
            )
        self._known = directory

    def _make_room(self, path: Path, name: str) -> None:
        """Let a later member of the same name take the place of an earlier one."""
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            raise NotationError(
                f"the archive has {name!r} both as a file and as a directory",
                "Exclude one of them.",
            )
        path.unlink()

    def _linked(self, member: tarfile.TarInfo) -> Path:
        path = self.top / member_path(member.linkname)
        self._enter(path.parent)
        if not path.is_symlink() and path.is_file():
            return path
        raise NotationError(
            f"the member {member.name!r} of the archive is a link to {member.linkname!r}, which is "
            "no file before it that is meant",
            "Exclude it, or include both.",
        )


def _write_members(archive: BinaryIO, writer: TreeWriter, lane: Lane) -> None:
    with tarfile.open(
        fileobj=archive,
        mode="r|",
        bufsize=BUFFER_BYTES,
        tarinfo=_Member,
        encoding="utf-8",
        errors="surrogateescape",
    ) as tar:
        while (member := tar.next()) is not None:
            # It keeps all members, in an attribute that its type does not tell of.
            vars(tar)["members"].clear()
            lane.check()
            try:
                writer.write(member, tar, lane.check)
            except NotationError as error:
                raise AllasError(f"{error} Nothing was written.", member=member.name) from error
    # What compresses has a checksum at its end.
    while archive.read(BUFFER_BYTES):
        lane.check()


def _mode_of(member: tarfile.TarInfo) -> int:
    """Return the mode a file gets, as tarfile's filter "data" has it (PEP 706)."""
    mode = member.mode & 0o755
    if not mode & stat.S_IXUSR:
        mode &= ~0o111
    return mode | stat.S_IRUSR | stat.S_IWUSR


def _check_places(top: Path, root: Path, check: Callable[[], None]) -> None:
    """Refuse what has no place, before anything is placed."""
    check()
    with os.scandir(top) as entries:
        for entry in entries:
            place = root / entry.name
            is_directory = place.is_dir() and not place.is_symlink()
            if entry.is_dir(follow_symlinks=False):
                if is_directory:
                    _check_places(top / entry.name, place, check)
                elif os.path.lexists(place):
                    raise _no_place(place, "is no directory, as it is in the archive")
            elif is_directory:
                raise _no_place(place, "is a directory, and none in the archive")


def _no_place(place: Path, how: str) -> AllasError:
    return AllasError(
        f"{place} {how}. Nothing was written. Remove it, or choose another directory.",
        path=str(place),
    )


def _place(top: Path, root: Path) -> None:
    """Move everything to where it belongs, whole directories where they are new."""
    with os.scandir(top) as entries:
        for entry in entries:
            place = root / entry.name
            if entry.is_dir(follow_symlinks=False) and place.is_dir():
                _place(top / entry.name, place)
            else:
                (top / entry.name).replace(place)
    # It would not be gone if anything had been left in it.
    top.rmdir()
