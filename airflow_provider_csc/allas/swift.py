"""
Objects that were written through Swift in segments, recognised in the headers of an S3 answer.

Through S3, Ceph (16.2, tried) delivers the segments one after the other as one object, and yet it
is not to be trusted with them: the ETag is no MD5 of the content nor that of an upload in parts, so
nothing can be verified; where a segment is gone, a dynamic one is simply shorter, with its own
ETag and status 200, and a static one stops in the middle; listings show 0 bytes or the size of the
manifest; and a copy or a deletion concerns the manifest alone. CSC's user guide says of them
"corrupted on transfer: md5 hashes differ" (data/Allas, "S3 and Swift").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_provider_csc.errors import SwiftSegmentsError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class SwiftManifest:
    """A dynamic large object names its segments (``<bucket>/<prefix>``), a static one does not."""

    segments: str | None = None


def find_swift_manifest(headers: Mapping[str, str]) -> SwiftManifest | None:
    """Return what the headers of a HEAD or GET say of segments, or None."""
    lower = {name.lower(): value for name, value in headers.items()}
    if segments := lower.get("x-object-manifest"):
        return SwiftManifest(segments=unquote(segments))
    # The first is Ceph's name for it in S3 answers, the second Swift's own.
    for name in ("x-object-meta-static-large-object", "x-static-large-object"):
        if lower.get(name, "").lower() == "true":
            return SwiftManifest()
    return None


def check_not_swift_manifest(answer: Mapping[str, Any], bucket: str, key: str) -> None:
    """
    Refuse an object in segments, by the answer boto3 gave to HEAD or GET of it.

    Raises SwiftSegmentsError, with the way to read it.
    """
    refuse_swift_manifest(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}), bucket, key)


def refuse_swift_manifest(headers: Mapping[str, str], bucket: str, key: str) -> None:
    """Refuse an object in segments, by the headers of an answer to HEAD or GET of it."""
    manifest = find_swift_manifest(headers)
    if manifest is None:
        return
    where = f" (in {manifest.segments}…)" if manifest.segments else ""
    raise SwiftSegmentsError(
        f"s3://{bucket}/{key} was written through Swift in segments{where}. Read through S3 its "
        "checksum cannot be verified, and a missing segment would go unnoticed. Read it through "
        f"Swift: 'a-get --swift {bucket}/{key}', or after 'allas-conf --mode both' 'rclone copy "
        f"allas:{bucket}/{key} .'; and store it again through S3.",
        bucket=bucket,
        key=key,
        segments=manifest.segments,
    )
