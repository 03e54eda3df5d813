"""The object stores this package knows by name, and what their S3 service allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

AddressingStyle = Literal["path", "virtual", "auto"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """
    One S3 service: its URL without a trailing slash, and how requests to it are made.

    ``region_name`` goes into each request's signature. Ceph takes any value there; it is
    "us-east-1" because that is the one region for which S3 clients leave LocationConstraint out
    when they create a bucket, and Ceph refuses constraints it does not know.
    """

    name: str
    url: str
    region_name: str = "us-east-1"
    addressing_style: AddressingStyle = "path"


# CSC user guide, data/Allas/introduction.md and using_allas/python_boto3.md (August 2026): no
# region is needed; virtual-host addressing (https://<bucket>.a3s.fi) works as well as path style.
ALLAS: Final = Endpoint(name="allas", url="https://a3s.fi")

# LUMI user guide, storage/lumio (August 2026): keys live for 168 hours at most; path style only.
LUMI_O: Final = Endpoint(name="lumi-o", url="https://lumidata.eu")

PRESETS: Final = {endpoint.name: endpoint for endpoint in (ALLAS, LUMI_O)}

CUSTOM: Final = "custom"
"""The form's choice for a service that is not in ``PRESETS``."""

# CSC user guide, data/Allas/introduction.md (August 2026); LUMI-O has the same numbers.
MAX_BUCKETS: Final = 1_000
MAX_OBJECTS_PER_BUCKET: Final = 500_000
MAX_SINGLE_PUT_BYTES: Final = 5 * 1024**3
RECOMMENDED_MAX_OBJECT_BYTES: Final = 100 * 10**9

# The S3 protocol, "Amazon S3 multipart upload limits": every part but the last has a least size.
MIN_PART_BYTES: Final = 5 * 1024**2
MAX_PARTS: Final = 10_000
MAX_KEYS_PER_REQUEST: Final = 1_000

# Signature version 4 carries its validity in the URL and allows a week.
MAX_PRESIGNED_SECONDS: Final = 7 * 24 * 3_600
