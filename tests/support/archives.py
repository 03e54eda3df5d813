"""Tar archives as no honest program makes them."""

from __future__ import annotations

import io
import tarfile
from typing import Any


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **more: Any
) -> tarfile.TarInfo:
    """Return the header of an empty member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    for key, value in more.items():
        setattr(info, key, value)
    return info


def archive_of(*members: tarfile.TarInfo) -> bytes:
    """Return an archive of members that have no content."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for each in members:
            tar.addfile(each)
    return made.getvalue()
