"""Checksums of files as object stores make them, part by part."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from airflow_provider_csc.allas.parts import (
    ETag,
    choose_part_size,
    etag_of_parts,
    guess_part_sizes,
    parse_etag,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_csc.allas.parts import Part
    from airflow_provider_csc.allas.plan import Item
    from airflow_provider_csc.store.engine import Lane


class PartHasher:
    """Hashes a stream part by part (MD5)."""

    def __init__(self, part_size: int) -> None:
        self._part_size = max(part_size, 1)
        self._left = self._part_size
        self._digest = hashlib.md5(usedforsecurity=False)
        self._done: list[bytes] = []

    def update(self, piece: memoryview) -> None:
        """Take some bytes in."""
        while piece:
            part = piece[: self._left]
            self._digest.update(part)
            self._left -= len(part)
            piece = piece[len(part) :]
            if not self._left:
                self._end()

    def digests(self) -> list[bytes]:
        """Return the checksums of all parts; of nothing there is one."""
        if self._left < self._part_size or not self._done:
            self._end()
        return self._done

    def _end(self) -> None:
        self._done.append(self._digest.digest())
        self._digest = hashlib.md5(usedforsecurity=False)
        self._left = self._part_size


def read_file(fd: int, offset: int, size: int, buffer: memoryview) -> Iterator[memoryview]:
    """Yield what a file holds of some bytes, in the buffer; less where it is shorter."""
    end = offset + size
    while offset < end:
        read = os.preadv(fd, [buffer[: min(len(buffer), end - offset)]], offset)
        if not read:
            return
        yield buffer[:read]
        offset += read


def digests_of(fd: int, offset: int, size: int, part_size: int, lane: Lane) -> list[bytes]:
    """Return the MD5 of the parts of some bytes of a file."""
    hasher = PartHasher(part_size)
    for piece in read_file(fd, offset, size, lane.buffer):
        hasher.update(piece)
        lane.check()
    return hasher.digests()


def digest_of(fd: int, part: Part, lane: Lane) -> bytes:
    """Return the MD5 of one part of a file."""
    return digests_of(fd, part.offset, part.size, max(part.size, 1), lane)[0]


def is_content(item: Item, fd: int, lane: Lane) -> bool:
    """Whether a file has the size and the content of an object, as far as the ETag tells."""
    etag = parse_etag(item.etag)
    if etag is None or os.fstat(fd).st_size != item.size:
        return False
    return any(
        _etag(digests_of(fd, 0, item.size, size, lane), etag) == etag
        for size in part_sizes(item.size, etag)
    )


def part_sizes(size: int, etag: ETag, *, told: int | None = None) -> list[int]:
    """Return what the part size of an object may be, the likeliest first."""
    if etag.parts is None or size == 0:
        return [max(size, 1)]
    return list(guess_part_sizes(size, etag.parts, told=told)) or [choose_part_size(size)]


def _etag(digests: list[bytes], like: ETag) -> ETag:
    return ETag(digests[0].hex()) if like.parts is None else etag_of_parts(digests)
