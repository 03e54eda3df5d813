"""A directory on its way into an object store as one object."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import sys
import tarfile
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.allas.endpoints import MAX_PARTS
from airflow_provider_csc.allas.packing import SEAL_BYTES, TreeDigest, parse_seal, render_seal
from airflow_provider_csc.allas.parts import MOST_HELD_BYTES
from airflow_provider_csc.allas.plan import Item
from airflow_provider_csc.errors import AllasError, FileChangedError
from airflow_provider_csc.store.checksums import read_file
from airflow_provider_csc.store.connection import BUFFER_BYTES
from airflow_provider_csc.store.engine import LATER, Packed
from airflow_provider_csc.store.upload import (
    PART_SIZE,
    check_etag,
    complete,
    find_uploads,
    headers_of,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from pathlib import Path

    from airflow_provider_csc.allas.names import ObjectName
    from airflow_provider_csc.allas.packing import Seal
    from airflow_provider_csc.allas.plan import Compare
    from airflow_provider_csc.store.engine import Lane
    from airflow_provider_csc.store.local_tree import LocalTree
    from airflow_provider_csc.store.store import Store
    from airflow_provider_csc.store.transfer import Manner

# Many small files are given to zstd at once.
_BLOCK_BYTES = 256 * 1024
_LEVEL = 3
_CONTENT_TYPE = "application/zstd"


class Packer:
    """
    A tree as the bytes of an archive, which are the same whenever the tree is.

    Members are in the order of their names; they have mode and time of modification (whole
    seconds), and no owner. Where a file vanishes before it is read, ``note`` is told.
    """

    def __init__(
        self, tree: LocalTree, *, figures: Packed | None = None, note: Callable[[str], None]
    ) -> None:
        self._tree = tree
        self._figures = figures or Packed()
        self._note = note
        self._check: Callable[[], None] = lambda: None
        self._digest = TreeDigest()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._stream = self._compressed()
        self._rest: memoryview = memoryview(b"")

    def fill(self, buffer: memoryview, check: Callable[[], None]) -> int:
        """Write the next bytes to a buffer; return how many, which are fewer at the end."""
        self._check = check
        size = 0
        while size < len(buffer) and self._is_more():
            piece = self._rest[: len(buffer) - size]
            buffer[size : size + len(piece)] = piece
            self._rest = self._rest[len(piece) :]
            size += len(piece)
        return size

    def is_at_end(self) -> bool:
        """Whether nothing is left to take."""
        return not self._is_more()

    def seal(self, check: Callable[[], None]) -> Seal:
        """Return what would be in the archive, which is not made."""
        self._check = check
        for _ in self._tar():
            self._check()
        return self._digest.seal()

    def close(self) -> None:
        """Close the file that is being read."""
        self._stream.close()

    def _is_more(self) -> bool:
        if not self._rest:
            self._rest = memoryview(next(self._stream, b""))
        return bool(self._rest)

    def _compressed(self) -> Generator[bytes]:
        compressor = zstd.ZstdCompressor(
            options={
                zstd.CompressionParameter.compression_level: _LEVEL,
                zstd.CompressionParameter.checksum_flag: 1,
            }
        )
        block = bytearray()
        for piece in self._tar():
            block += piece
            if len(block) >= _BLOCK_BYTES:
                if made := compressor.compress(block):
                    yield made
                block = bytearray()
                self._check()
        yield compressor.compress(block, zstd.ZstdCompressor.FLUSH_FRAME)
        yield render_seal(self._digest.seal())

    def _tar(self) -> Iterator[bytes | memoryview]:
        size = 0
        for item in self._tree:
            for piece in self._member(item):
                size += len(piece)
                yield piece
        # Two empty blocks, and what fills a record (POSIX pax, "ustar Interchange Format").
        size += 2 * tarfile.BLOCKSIZE
        yield bytes(2 * tarfile.BLOCKSIZE + -size % tarfile.RECORDSIZE)

    def _member(self, item: Item) -> Iterator[bytes | memoryview]:
        path = self._tree.root / item.path
        if item.path.endswith("/"):
            self._digest.begin(item)
            yield _header(item, tarfile.DIRTYPE, 0o755)
            return
        try:
            # A pipe would keep who opens it waiting.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            self._note(f"{path} is gone; it is skipped")
            return
        try:
            yield from self._file(path, item.path, fd)
        finally:
            os.close(fd)

    def _file(self, path: Path, name: str, fd: int) -> Iterator[bytes | memoryview]:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _changed(path)
        item = Item(name, status.st_size, status.st_mtime)
        self._digest.begin(item, is_executable=bool(status.st_mode & stat.S_IXUSR))
        yield _header(item, tarfile.REGTYPE, stat.S_IMODE(status.st_mode))
        size = 0
        for piece in read_file(fd, 0, status.st_size, self._buffer):
            self._digest.update(piece)
            size += len(piece)
            self._figures.bytes += len(piece)
            yield piece
        now = os.fstat(fd)
        if (size, now.st_size, now.st_mtime_ns) != (
            status.st_size, status.st_size, status.st_mtime_ns,
        ):  # fmt: skip
            raise _changed(path)
        self._figures.files += 1
        yield bytes(-size % tarfile.BLOCKSIZE)


def _header(item: Item, kind: bytes, mode: int) -> bytes:
    info = tarfile.TarInfo(item.path)
    info.type, info.mode, info.size, info.mtime = kind, mode, item.size, int(item.modified)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _changed(path: Path) -> FileChangedError:
    return FileChangedError(
        f"{path} changed while it was packed. Pack the directory when nobody writes there, exclude "
        "the file, or pack a copy.",
        path=str(path),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _PackedPart:
    """Bytes of the archive that were packed and have to be sent."""

    number: int
    data: memoryview

    @property
    def md5(self) -> bytes:
        """Return its MD5."""
        return hashlib.md5(self.data, usedforsecurity=False).digest()


# What is to be done, as a part that is carried: the next of the archive is packed.
_PACK = object()


class PackedUpload:
    """
    Send a tree as one object, packed while it is sent; it appears when all is there and verified.

    Packing the next part is itself a part that one of the engine's threads carries, while others
    send; so many are held in memory as `MOST_HELD_BYTES` has room for. An unfinished upload that
    begins with the same bytes is continued: of its parts those are sent that are not the same now.

    :param make_tree: lists the tree, each time anew.
    :param existing: the object that is there, if it is to be compared.
    :param figures: is kept up to date; its totals are given.
    """

    def __init__(
        self,
        store: Store,
        make_tree: Callable[[], LocalTree],
        target: ObjectName,
        *,
        part_size: int,
        figures: Packed,
        manner: Manner,
        existing: Item | None = None,
    ) -> None:
        self._make_tree = make_tree
        self._figures = figures
        self._compare: Compare = manner.compare
        self._existing = existing
        self._packer = Packer(make_tree(), figures=figures, note=manner.note)
        self.name = f"{make_tree().root} to {target}"
        self.is_skipped = False
        self._store = store
        self._target = target
        self._arguments = {"ContentType": _CONTENT_TYPE, **manner.arguments}
        self._part_size = part_size
        self._most_held = max(MOST_HELD_BYTES // part_size, 1)
        self._upload_id = ""
        self._there: Mapping[int, tuple[int, str]] = {}
        self._digests: dict[int, bytes] = {}
        # How many parts there were, and those of them that nobody sends yet.
        self._count = 0
        self._waiting: deque[_PackedPart] = deque()
        # Memory is used again: freed by other threads than took it, it piles up in the heap.
        self._free: list[memoryview] = []
        self._is_packing = self._is_packed = False

    def prepare(self, lane: Lane) -> Iterable[object]:
        """See whether the tree is there already; else have it packed and sent."""
        if self._is_there(lane):
            self.is_skipped = True
            return ()
        return self._parts()

    def carry(self, part: Any, lane: Lane) -> None:
        """Pack the next part, or send one."""
        if part is _PACK:
            self._pack(lane)
            return
        digest: bytes = part.md5
        lane.check()
        if self._there.get(part.number) == (len(part.data), digest.hex()):
            lane.skipped(len(part.data))
        elif self._upload_id:
            self._send_part(part, digest.hex(), lane)
        else:
            self._send_whole(part, digest, lane)
        self._free.append(memoryview(part.data.obj))
        self._digests[part.number] = digest

    def finish(self, lane: Lane) -> None:  # noqa: ARG002 - as every carriage
        """Have the object made, and see that it is what was packed."""
        if self._upload_id:
            digests = [self._digests[number] for number in sorted(self._digests)]
            complete(self._store, self._target, self._upload_id, digests)
            self._upload_id = ""

    def give_up(self) -> None:
        """Have the server forget the parts."""
        self._packer.close()
        self._waiting.clear()
        upload_id, self._upload_id = self._upload_id, ""
        if upload_id:
            self._store.abort_upload(self._target.bucket, self._target.key, upload_id)

    def _is_there(self, lane: Lane) -> bool:
        """Whether the object's seal is that of the tree."""
        if self._existing is None:
            return False
        end = self._store.read_end(self._target.bucket, self._existing, SEAL_BYTES)
        seal = parse_seal(end)
        figures = self._figures
        if seal is None or (seal.files, seal.bytes) != (figures.files_total, figures.bytes_total):
            return False
        is_same = is_sealed(seal, self._make_tree(), self._compare, lane.check)
        if is_same:
            figures.files, figures.bytes = seal.files, seal.bytes
        return is_same

    def _parts(self) -> Iterator[object]:
        while True:
            # In this order: the last part is put down before it is said to be the last.
            is_packed = self._is_packed
            if self._waiting:
                yield self._waiting.popleft()
            elif is_packed:
                return
            elif not self._is_packing and self._count - len(self._digests) < self._most_held:
                self._is_packing = True
                yield _PACK
            else:
                yield LATER

    def _pack(self, lane: Lane) -> None:
        buffer = self._free.pop() if self._free else memoryview(bytearray(self._part_size))
        size = self._packer.fill(buffer, lane.check)
        self._count += 1
        part = _PackedPart(self._count, buffer[:size])
        is_last = self._packer.is_at_end()
        if part.number == 1 and not is_last:
            self._upload_id = self._adopt(part) or self._begin()
        if part.number == MAX_PARTS and not is_last:
            raise self._too_large()
        if is_last and max(self._there, default=0) > part.number:
            raise self._too_many_parts()
        self._waiting.append(part)
        self._is_packed = is_last
        self._is_packing = False

    def _begin(self) -> str:
        metadata = {PART_SIZE: str(self._part_size), **self._arguments.get("Metadata", {})}
        arguments = {**self._arguments, "Metadata": metadata}
        return self._store.begin_upload(self._target.bucket, self._target.key, arguments)

    def _adopt(self, first: _PackedPart) -> str:
        """Return an unfinished upload that begins with the same part, and note what it has."""
        known = (len(first.data), first.md5.hex())
        bucket, key = self._target.bucket, self._target.key
        for upload_id, there in find_uploads(self._store, bucket, key):
            if there.get(1) == known:
                self._there = there
                return upload_id
        return ""

    def _send_whole(self, part: _PackedPart, digest: bytes, lane: Lane) -> None:
        headers = {
            "Content-MD5": base64.b64encode(digest).decode(),
            **headers_of(self._arguments),
        }
        self._put(part, digest.hex(), lane, headers=headers)

    def _send_part(self, part: _PackedPart, digest: str, lane: Lane) -> None:
        query = {"partNumber": part.number, "uploadId": self._upload_id}
        self._put(part, digest, lane, query=query)

    def _put(self, part: _PackedPart, digest: str, lane: Lane, **request: Any) -> None:
        answer = lane.connection.request(
            "PUT",
            self._target.bucket,
            self._target.key,
            size=len(part.data),
            body=_slices(part.data, lane),
            **request,
        )
        answer.drain(lane.buffer)
        check_etag(self.name, answer.etag, digest)

    def _too_many_parts(self) -> AllasError:
        # Ceph completes no upload of which a part is left out, and S3 deletes none.
        return AllasError(
            f"{self.name}: an earlier attempt was killed and has sent more than there is to be "
            "packed now. What it sent is deleted; try again.",
            uri=str(self._target),
        )

    def _too_large(self) -> AllasError:
        most = MAX_PARTS * self._part_size / 1024**3
        return AllasError(
            f"{self.name}: the archive has more than {most:,.0f} GiB, and packed is no more than "
            "that. Pack its subdirectories one by one.",
            uri=str(self._target),
        )


def is_sealed(seal: Seal, tree: LocalTree, compare: Compare, check: Callable[[], None]) -> bool:
    """Whether a tree has what a seal says: its content, or what a listing tells."""
    if compare == "time":
        digest = TreeDigest()
        for item in tree:
            check()
            digest.begin(item)
        return digest.seal().listing == seal.listing
    return Packer(tree, note=lambda _: None).seal(check).content == seal.content


def _slices(data: memoryview, lane: Lane) -> Iterator[memoryview]:
    for begin in range(0, len(data), BUFFER_BYTES):
        piece = data[begin : begin + BUFFER_BYTES]
        yield piece
        lane.passed(len(piece))
