"""How an object is cut into parts: few enough for the protocol, large enough to be quick."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_provider_csc.allas.endpoints import MAX_PARTS, MAX_SINGLE_PUT_BYTES, MIN_PART_BYTES
from airflow_provider_csc.notation import NotationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIB: Final = 1024**2

PART_BYTES: Final = 32 * MIB
"""What a part is given while 10,000 of them suffice, that is up to 312 GiB."""

MAX_OBJECT_BYTES: Final = 5 * 1024**4
"""The S3 protocol, "Amazon S3 multipart upload limits"; Ceph's rgw_multipart_part_upload_limit."""

_ETAG: Final = re.compile(r'"?([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?"?')


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``offset`` to ``offset + size`` of an object; parts are numbered from 1."""

    number: int
    offset: int
    size: int


def choose_part_size(size: int, *, wanted: int = PART_BYTES) -> int:
    """
    Return the size of all parts but the last (bytes, whole MiB).

    It is ``wanted`` as long as the object fits into 10,000 parts, and then as small as can be. It
    depends on nothing else: who resumes or verifies an upload comes to the same parts.
    """
    if not 0 <= size <= MAX_OBJECT_BYTES:
        raise NotationError(
            f"an object of {size} bytes is more than S3 stores (5 TiB)", "Divide it into several."
        )
    if not MIN_PART_BYTES <= wanted <= MAX_SINGLE_PUT_BYTES:
        raise NotationError(
            f"part size {wanted} is not between 5 MiB and 5 GiB", "For example 33554432 (32 MiB)."
        )
    needed = -(-size // MAX_PARTS)
    return -(-max(needed, wanted) // MIB) * MIB


def cut(size: int, part_size: int) -> Iterator[Part]:
    """Yield the parts of an object in order; one of no bytes has one part, which is empty."""
    yield Part(1, 0, min(size, part_size))
    for number, offset in enumerate(range(part_size, size, part_size), start=2):
        yield Part(number, offset, min(part_size, size - offset))


@dataclass(frozen=True, slots=True)
class ETag:
    """
    What an S3 server says of an object's content.

    Without ``parts`` it is the content's MD5; with them, the MD5 of the parts' MD5 digests
    ("Checking object integrity", S3 user guide; the same in Ceph). Objects that were encrypted by
    the server, or written through Swift in segments, have others.
    """

    digest: str
    parts: int | None = None

    def __str__(self) -> str:
        """Return it as the server does, without its quotes."""
        return self.digest if self.parts is None else f"{self.digest}-{self.parts}"


def parse_etag(text: str) -> ETag | None:
    """Read an ETag with or without quotes; None for one that says nothing of the content."""
    match = _ETAG.fullmatch(text.strip())
    if match is None:
        return None
    return ETag(match[1], int(match[2]) if match[2] else None)


def etag_of_parts(digests: Iterable[bytes]) -> ETag:
    """Return the ETag of an object that was uploaded in parts, from the MD5 digest of each."""
    known = list(digests)
    return ETag(hashlib.md5(b"".join(known), usedforsecurity=False).hexdigest(), len(known))
