"""How an object is cut into parts: few enough for the protocol, large enough to be quick."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from airflow_provider_csc.allas.endpoints import MAX_SINGLE_PUT_BYTES, MIN_PART_BYTES
from airflow_provider_csc.notation import NotationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIB: Final = 1024**2

PART_BYTES: Final = 32 * MIB
"""What a part is given while ``MOST_PARTS`` of them suffice, that is up to 31 GiB."""

MOST_PARTS: Final = 1000
"""S3 takes 10,000; CSC sets 1,000 for LUMI-O (LUMI user guide, storage/lumio), which is plenty."""

MAX_OBJECT_BYTES: Final = 5 * 1024**4
"""The S3 protocol, "Amazon S3 multipart upload limits"; Ceph's rgw_multipart_part_upload_limit."""

MOST_HELD_BYTES: Final = 64 * MIB
"""What is packed is held in memory until it was sent: so much at a time."""

# Defaults of boto3 and the AWS CLI, s3cmd, rclone and s5cmd, and of CSC's tools (s3cmd: 5000 MB).
_USUAL_PART_BYTES: Final = tuple(count * MIB for count in (8, 15, 5, 50, 16, 64, 5000, 100, 512))
_MOST_GUESSES: Final = 6

_ETAG: Final = re.compile(r'"?([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?"?')


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``offset`` to ``offset + size`` of an object; parts are numbered from 1."""

    number: int
    offset: int
    size: int


def choose_part_size(size: int, *, wanted: int | None = None) -> int:
    """
    Return the size of all parts but the last (bytes, whole MiB).

    It is ``wanted`` (`PART_BYTES`) while the object fits into 1,000 parts, then as small as can be.
    It depends on nothing else: who resumes or verifies an upload comes to the same parts.
    """
    if not 0 <= size <= MAX_OBJECT_BYTES:
        raise NotationError(
            f"an object of {size} bytes is more than S3 stores (5 TiB)", "Divide it into several."
        )
    wanted = PART_BYTES if wanted is None else wanted
    if not MIN_PART_BYTES <= wanted <= MAX_SINGLE_PUT_BYTES:
        raise NotationError(
            f"part size {wanted} is not between 5 MiB and 5 GiB", "For example 33554432 (32 MiB)."
        )
    needed = min(-(-size // MOST_PARTS), MAX_SINGLE_PUT_BYTES)
    return -(-max(needed, wanted) // MIB) * MIB


def choose_packed_part_size(most: int) -> int:
    """
    Return the part size of what is made while it is sent and has ``most`` bytes at the most.

    It is half of what a file's is, so that several are held at once, and grows as a file's does,
    as long as memory holds one; of 1,000 parts there are more then, up to `MAX_PARTS`.
    """
    wanted = max(PART_BYTES // 2, MIN_PART_BYTES)
    return min(choose_part_size(min(most, MAX_OBJECT_BYTES), wanted=wanted), MOST_HELD_BYTES)


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


def guess_part_sizes(size: int, parts: int, *, told: int | None = None) -> Iterator[int]:
    """
    Yield what the part size of an uploaded object may be, the likeliest first (bytes).

    S3 does not tell; all parts but the last are of one size with every client that is known, a
    whole number of MiB or of MB. ``told`` is what the object's own metadata says.
    """
    if parts == 1:
        yield size
        return
    least, most = -(-size // parts), (size - 1) // (parts - 1)
    usual = [told or 0, choose_part_size(size), *_USUAL_PART_BYTES]
    regular = (
        unit * count
        for unit in (MIB, 10**6)
        for count in islice(range(-(-least // unit), most // unit + 1), _MOST_GUESSES)
    )
    yielded: set[int] = set()
    for candidate in (*usual, *regular):
        if least <= candidate <= most and candidate not in yielded:
            yielded.add(candidate)
            yield candidate
