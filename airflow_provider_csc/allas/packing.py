"""
Trees that are one object, a tar compressed with zstd: what it says of itself, and whose names.

Beside its members such an archive ends in a seal: digests of what is in it, as a frame that zstd
skips. They are known only when all was packed, and an object's metadata is given before that.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from airflow_provider_csc.notation import NotationError, shown

if TYPE_CHECKING:
    from airflow_provider_csc.allas.names import ObjectName
    from airflow_provider_csc.allas.plan import Item

SUFFIXES: Final = (".tar.zst", ".tzst")
"""What the names of packed trees end with; the first is what CSC's a-put gives them."""

SEAL_BYTES: Final = 512
# RFC 8878, 3.1.2: frames that begin with one of sixteen numbers are skipped; this one is ours.
_SEAL_MAGIC: Final = 0x184D2A5C
_HEAD: Final = struct.Struct("<II")
_SEAL_FORMAT: Final = "airflow-provider-csc 1"

# A header, another for what does not fit into it, with its content, and what fills the last block.
_MEMBER_BYTES: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """
    What is in an archive: numbers of files and of their bytes, and two digests (SHA-256, hex).

    ``content`` is of names, contents and whether files can be run; ``listing`` of names, sizes and
    times of modification, which need no reading.
    """

    files: int
    bytes: int
    content: str
    listing: str


class TreeDigest:
    """Makes a `Seal`, of files and empty directories in the order of their tree."""

    def __init__(self) -> None:
        self._content, self._listing = hashlib.sha256(), hashlib.sha256()
        self._files = self._bytes = 0

    def begin(self, item: Item, *, is_executable: bool = False) -> None:
        """Take the next file, or directory, whose content follows."""
        kind = "directory" if item.path.endswith("/") else "program" if is_executable else "file"
        # A tar has whole seconds.
        times = f"{item.path}\0{item.size}\0{int(item.modified)}\n"
        self._listing.update(times.encode())
        self._content.update(f"{item.path}\0{item.size}\0{kind}\n".encode())
        if kind != "directory":
            self._files += 1
            self._bytes += item.size

    def update(self, piece: memoryview) -> None:
        """Take some of its content."""
        self._content.update(piece)

    def seal(self) -> Seal:
        """Return what it all was."""
        return Seal(
            files=self._files,
            bytes=self._bytes,
            content=self._content.hexdigest(),
            listing=self._listing.hexdigest(),
        )


def render_seal(seal: Seal) -> bytes:
    """Return the last bytes of an archive."""
    text = json.dumps({"format": _SEAL_FORMAT, **asdict(seal)})
    size = SEAL_BYTES - _HEAD.size
    return _HEAD.pack(_SEAL_MAGIC, size) + text.encode().ljust(size)


def parse_seal(data: bytes) -> Seal | None:
    """Read the last bytes of an archive; None where another program made it."""
    if data[: _HEAD.size] != _HEAD.pack(_SEAL_MAGIC, SEAL_BYTES - _HEAD.size):
        return None
    try:
        match json.loads(data[_HEAD.size :]):
            case {
                "format": str(known),
                "files": int(files),
                "bytes": int(size),
                "content": str(content),
                "listing": str(listing),
            } if known == _SEAL_FORMAT:
                return Seal(files=files, bytes=size, content=content, listing=listing)
    except ValueError:
        pass
    return None


def packed_name(target: ObjectName, directory: str) -> ObjectName:
    """Return what a packed directory is called: below a prefix, by the directory's own name."""
    if target.is_prefix:
        return replace(target, key=f"{target.key}{directory}{SUFFIXES[0]}")
    if not target.key.endswith(SUFFIXES):
        raise NotationError(
            f"{str(target)!r} does not end with {' or '.join(SUFFIXES)}, as what is packed is",
            "Or give a prefix, which ends with a slash.",
        )
    return target


def packed_bytes(item: Item) -> int:
    """Return how many bytes a file takes in an archive at the most."""
    # What cannot be compressed is a little longer in zstd.
    return item.size + item.size // 256 + _MEMBER_BYTES + 3 * len(item.path)


def member_path(name: str) -> str:
    """
    Return the relative path a member of an archive gets; empty for the directory itself.

    Nothing leads out of the directory: absolute names and ``..`` are refused.
    """
    segments = [segment for segment in name.split("/") if segment not in ("", ".")]
    if name.startswith("/") or ".." in segments or "\0" in name:
        raise NotationError(
            f"the member {shown(name)} of the archive would lie outside of the directory",
            "Exclude it, or unpack the archive by hand.",
        )
    return "/".join(segments)


def check_link(path: str, target: str) -> None:
    """
    Refuse a symbolic link that could lead out of the directory.

    It may go up as far as it lies deep, and then only down: that holds whatever other links it
    leads through, for they are all checked alike.
    """
    segments = [segment for segment in target.split("/") if segment not in ("", ".")]
    ups = next((n for n, segment in enumerate(segments) if segment != ".."), len(segments))
    is_inside = ups <= path.count("/") and ".." not in segments[ups:]
    if not target or target.startswith("/") or "\0" in target or not is_inside:
        raise NotationError(
            f"the member {shown(path)} of the archive is a symbolic link to {shown(target)}, which "
            "may lie outside of the directory",
            "Exclude it, or unpack the archive by hand.",
        )
