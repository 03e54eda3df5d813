"""Names of buckets and objects: which there can be, and which become files of what name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_provider_csc.notation import NotationError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_KEY_BYTES: Final = 1024
"""S3 user guide, "Naming Amazon S3 objects"; Ceph refuses longer ones with InvalidObjectName."""

MAX_NAME_BYTES: Final = 255
MAX_PATH_BYTES: Final = 4095
"""Linux, limits.h: NAME_MAX, and PATH_MAX without its end."""

# S3 user guide, "General purpose bucket naming rules".
_NEW_BUCKET: Final = re.compile(r"(?=.{3,63}$)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_ADDRESS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
# What there is already may have come by Swift, or by the a-commands of old: 2001234-puhti-SCRATCH.
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
# Ceph's tenants, which LUMI-O's projects are: 465000001:bucket.
_OF_PROJECT: Final = re.compile(r"[A-Za-z0-9_]+:[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
_URI: Final = re.compile(r"(?:s3|s3a|s3n)://([^/]*)(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """An object, or with a key that is empty or ends with a slash, all below it."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        """Return it as a URI."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def is_prefix(self) -> bool:
        """Whether it means a tree rather than one object."""
        return not self.key or self.key.endswith("/")


def parse_uri(text: str) -> ObjectName:
    """
    Read ``s3://bucket/key``.

    A key is taken to the letter: S3 knows no escapes, no ``..`` and no query.
    """
    match = _URI.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise NotationError(
            f"{shown(text)} is no URI of an object",
            "Write s3://bucket/key, or s3://bucket/prefix/.",
        )
    bucket, key = match[1], match[2] or ""
    check_bucket(bucket)
    if key:
        check_key(key)
    return ObjectName(bucket, key)


def check_bucket(name: str) -> str:
    """
    Return the name of a bucket that may be there; old ones have names that no new one gets.

    On LUMI-O a bucket of another project is ``project:bucket``.
    """
    if _BUCKET.fullmatch(name) is None and not is_bucket_of_project(name):
        raise NotationError(
            f"{shown(name)} is no name of a bucket",
            "Names have 3 to 255 letters, digits, dots, hyphens and underscores; one of another "
            "project on LUMI-O is 465000001:name.",
        )
    return name


def is_bucket_of_project(name: str) -> bool:
    """Whether a name says whose the bucket is: ``465000001:name``."""
    return _OF_PROJECT.fullmatch(name) is not None


def check_new_bucket(name: str) -> str:
    """Return a name that a new bucket can have: all of Allas shares these names, as host names."""
    problem = _find_problem(name)
    if problem:
        raise NotationError(
            f"{shown(name)} cannot be the name of a new bucket: {problem}",
            "Names are shared by all projects and seen by all; for example 2001234-results.",
        )
    return name


def _find_problem(name: str) -> str:
    if not 3 <= len(name) <= 63:  # noqa: PLR2004 - as S3 has it
        return f"it has {len(name)} characters, and not 3 to 63"
    if name != name.lower():
        return "it has capital letters"
    if _NEW_BUCKET.fullmatch(name) is None:
        return "it has other characters than a-z, 0-9, dots and hyphens, or one of these at an end"
    if ".." in name or ".-" in name or "-." in name:
        return "it has two dots, or a dot and a hyphen, side by side"
    if _ADDRESS.fullmatch(name):
        return "it is an IP address"
    return ""


def check_key(key: str) -> str:
    """Return a key that an object can have (UTF-8, 1 to 1024 bytes)."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise NotationError(
            f"{shown(key)} is not Unicode", "Rename the file; keys of objects are UTF-8."
        ) from None
    if not 1 <= size <= MAX_KEY_BYTES:
        raise NotationError(
            f"the key {shown(key)} has {size} bytes", f"There can be 1 to {MAX_KEY_BYTES}."
        )
    if "\0" in key:
        raise NotationError(f"the key {shown(key)} has a NUL character", "Rename it.")
    return key


class NameConflictError(NotationError):
    """Two objects that cannot both become files; ``keys`` are theirs."""

    def __init__(self, problem: str, remedy: str, keys: tuple[str, ...]) -> None:
        super().__init__(problem, remedy)
        self.keys = keys


def path_for(key: str, prefix: str = "") -> str:
    """
    Return the relative path of the file an object becomes below a directory.

    Only what follows the prefix counts. Nothing leads out of the directory, and no two objects
    become one file: a key with an empty segment, ``.`` or ``..`` is refused rather than changed.
    """
    if not key.startswith(prefix):
        raise NotationError(f"the key {shown(key)} does not begin with {shown(prefix)}")
    path = key.removeprefix(prefix)
    segments = path.split("/")
    for segment in segments:
        if segment in ("", ".", ".."):
            what = "an empty segment" if not segment else f"the segment {segment!r}"
            raise NotationError(
                f"the object {shown(key)} cannot become a file: its name has {what}",
                "Read it by its key, as one object, to a file of another name.",
            )
        if len(segment.encode()) > MAX_NAME_BYTES:
            raise NotationError(
                f"the object {shown(key)} cannot become a file: {shown(segment)} is longer than "
                f"{MAX_NAME_BYTES} bytes",
                "Read it by its key, as one object, to a file of another name.",
            )
    if "\0" in path or len(path.encode()) > MAX_PATH_BYTES:
        raise NotationError(f"the object {shown(key)} cannot become a file", "Rename it.")
    return path


def check_tree(paths: Iterable[str]) -> None:
    """Refuse a file that would have to be a directory as well: ``a`` beside ``a/b``."""
    known = set(paths)
    for path in sorted(known):
        parent = path
        while parent := parent.rpartition("/")[0]:
            if parent in known:
                raise NameConflictError(
                    f"{shown(parent)} is an object, and the beginning of {shown(path)}: no file "
                    "can be a directory too",
                    "Exclude one of them.",
                    (parent, path),
                )
