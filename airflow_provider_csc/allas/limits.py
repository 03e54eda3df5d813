"""What Allas and LUMI-O allow, asked of a bucket or an object before it hurts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_provider_csc.allas.endpoints import (
    MAX_OBJECTS_PER_BUCKET,
    MAX_SINGLE_PUT_BYTES,
    PRESETS,
    RECOMMENDED_MAX_OBJECT_BYTES,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

NEARLY_FULL: Final = 0.9

_GB: Final = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketUsage:
    """How much is in a bucket; ``max_objects`` is None where no limit is known."""

    bucket: str
    objects: int
    size_bytes: int
    max_objects: int | None = None

    @property
    def is_nearly_full(self) -> bool:
        """Whether nine tenths of the objects there can be are there."""
        return self.max_objects is not None and self.objects >= NEARLY_FULL * self.max_objects

    def describe(self) -> str:
        """Return one line; of a bucket that is nearly full with what to do."""
        limit = f" of {self.max_objects:,}" if self.max_objects is not None else ""
        line = f"Bucket {self.bucket} holds {self.objects:,}{limit} objects"
        if not self.is_nearly_full:
            return line
        return (
            f"{line}, and takes no more than that. Write to another bucket, or pack small files "
            "into archives."
        )


def read_usage(headers: Mapping[str, str], bucket: str, endpoint_url: str) -> BucketUsage | None:
    """
    Read the answer to HEAD of a bucket; None from a server that does not count.

    Ceph counts for everyone who may read the bucket, and tells its owner the quota (16.2:
    X-RGW-Object-Count, X-RGW-Quota-Bucket-Objects, -1 for none). Where the server names no quota,
    the limits hold that CSC publishes for the stores it runs.
    """
    try:
        objects, size = int(headers["x-rgw-object-count"]), int(headers["x-rgw-bytes-used"])
        quota = int(headers.get("x-rgw-quota-bucket-objects", -1))
    except (KeyError, ValueError):
        return None
    known = any(endpoint.url == endpoint_url for endpoint in PRESETS.values())
    published = MAX_OBJECTS_PER_BUCKET if known else None
    return BucketUsage(
        bucket=bucket,
        objects=objects,
        size_bytes=size,
        max_objects=quota if quota >= 0 else published,
    )


def find_put_problem(size: int) -> str | None:
    """Return why a body cannot be sent in one request, or None."""
    if size <= MAX_SINGLE_PUT_BYTES:
        return None
    return (
        f"A request would carry {size:,} bytes, and 5 GiB is the most. Send the object in parts: "
        "load_file does so from multipart_threshold (8 MiB) on."
    )


def find_size_warning(size: int) -> str | None:
    """Return what speaks against an object of this size, or None."""
    if size <= RECOMMENDED_MAX_OBJECT_BYTES:
        return None
    return (
        f"An object of {size / _GB:,.0f} GB is larger than CSC recommends (100 GB): what breaks "
        "off begins anew, and few tools can copy it. Better divide it into several."
    )
