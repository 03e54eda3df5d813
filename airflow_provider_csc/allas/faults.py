"""What the object store's error codes mean to a person, and what to do about them."""

from __future__ import annotations

from typing import Final

_WRONG_STORE: Final = "Check that the keys belong to this endpoint"

REMEDIES: Final[dict[str, str]] = {
    "InvalidAccessKeyId": (
        "the object store does not know this access key. "
        f"{_WRONG_STORE}, that Access key holds the access key and not the secret, and that it was "
        "not deleted (openstack ec2 credentials list) or, on LUMI-O, did not expire."
    ),
    "SignatureDoesNotMatch": (
        "the secret key does not belong to this access key. "
        "Enter the pair again, and look for a character lost in copying."
    ),
    "RequestTimeTooSkewed": (
        "the clocks of this machine and of the object store differ by more than 15 minutes. "
        "Set this machine's clock (chronyc tracking, timedatectl)."
    ),
    "AccessDenied": (
        f"the object store refuses what was asked. {_WRONG_STORE}, and that their project may do "
        "this."
    ),
    "QuotaExceeded": "the project's quota is used up. Delete data, or ask for more in MyCSC.",
    "NoSuchBucket": "no bucket of that name exists. Names are shared by all projects.",
    "BucketAlreadyExists": (
        "the bucket's name is taken, perhaps by another project. Put your project number in it."
    ),
    "EntityTooLarge": "one request may carry 5 GiB at most. Send the object in parts.",
    "SlowDown": "the object store asks for fewer requests. Try again later, with fewer at once.",
}
"""S3 error code to cause and remedy: CSC user guide, data/Allas/using_allas/error_messages.md, and
the codes of Ceph (src/rgw/rgw_common.cc, 16.2)."""


def explain(code: str, message: str = "", status: int | None = None) -> str:
    """
    Explain an S3 error answer: its code, what it means, else the server's own words.

    ``status`` is the HTTP status, for answers that are no S3 error at all.
    """
    remedy = REMEDIES.get(code)
    if remedy is not None:
        return f"{code}: {remedy}"
    if code in ("", str(status)):
        words = f"{status}: {message}" if message and message != code else str(status)
        return f"HTTP status {words}, which is no answer of an S3 service. Check the endpoint URL."
    return f"{code}: {message}" if message else code
