"""What the object store's error codes mean to a person, and what to do about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from airflow_provider_csc.allas.endpoints import LUMI_O, MAX_OBJECTS_PER_BUCKET

_WRONG_STORE: Final = "Check that the keys belong to this endpoint"
_CHECKSUMS: Final = (
    "the request carries a checksum of a kind the object store does not take. AllasHook sends none "
    "unless asked; a client made otherwise needs request_checksum_calculation and "
    "response_checksum_validation 'when_required'."
)

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
        "the object store refuses what was asked. The bucket or object belongs to another project "
        "that has not shared it, or the keys are of another project or another store than was "
        f"meant. {_WRONG_STORE}, and that their project may do this."
    ),
    "UserSuspended": (
        "the object store has suspended the user these keys belong to, for example because the "
        "project ended. Ask the service desk."
    ),
    "Unauthorized": (
        "the log-in is not accepted. A token of Swift lives for 8 hours; S3 keys do not expire on "
        "Allas, and are made with allas-conf --mode S3."
    ),
    "QuotaExceeded": (
        "a quota is used up: the project's space, or the objects a bucket can hold "
        f"({MAX_OBJECTS_PER_BUCKET:,} on Allas and LUMI-O). Delete data or ask for more in MyCSC; "
        "write to another bucket, or pack small files into archives."
    ),
    "TooManyBuckets": (
        "the project has as many buckets as it can have (1,000 on Allas and LUMI-O). Delete some, "
        "or use prefixes in one."
    ),
    "NoSuchBucket": (
        "no bucket of that name exists anywhere in this store; one of another project would be "
        "AccessDenied. Check its name and the endpoint."
    ),
    "NoSuchKey": "the bucket holds no object of that name. Names are case-sensitive.",
    "NoSuchUpload": (
        "the upload in parts is not there any more: it was completed or aborted. Begin it anew."
    ),
    "BucketAlreadyExists": (
        "the bucket's name is taken, perhaps by another project: all projects share the names. "
        "Put your project number in it."
    ),
    "BucketNotEmpty": "there are objects, or unfinished uploads, in the bucket. Delete them first.",
    "InvalidBucketName": (
        "a bucket cannot have that name. New ones have 3 to 63 of a-z, 0-9, dots and hyphens."
    ),
    "BadDigest": (
        "the object store has received other bytes than were sent: something on the way changes "
        "them. Try again, and reach the store by https."
    ),
    "EntityTooLarge": "one request may carry 5 GiB at most. Send the object in parts.",
    "XAmzContentSHA256Mismatch": _CHECKSUMS,
    "MissingContentLength": _CHECKSUMS,
    "InvalidArgument": (
        "the object store does not understand an argument; where it is an upload, perhaps its "
        "checksum: clients other than AllasHook need request_checksum_calculation "
        "'when_required'."
    ),
    "SlowDown": "the object store asks for fewer requests. Try again later, with fewer at once.",
    "ServiceUnavailable": "the object store is busy or being maintained. Try again later.",
    "InternalError": "the object store failed within itself. Try again later.",
}
"""S3 error code to cause and remedy: CSC user guide, data/Allas/using_allas/error_messages.md, and
the codes of Ceph (src/rgw/rgw_common.cc, 16.2), which sends no words with them."""

# The same as Swift, and answers without a code, have it.
REMEDIES["Too Large Object"] = REMEDIES["QuotaExceeded"]
REMEDIES["401"] = REMEDIES["Unauthorized"]

_EXPIRED_ON_LUMI_O: Final = (
    "LUMI-O does not know this access key: keys live for 168 hours at most there, so it has "
    "probably expired. Make a new pair, or extend one in time, at https://auth.lumidata.eu."
)

# An answer to HEAD has no body, so no code either.
_HEAD_REMEDIES: Final[dict[tuple[str, str], str]] = {
    ("HeadBucket", "403"): (
        "the bucket belongs to another project that has not shared it, or the keys are wrong. "
        "Test the connection to tell which."
    ),
    ("HeadObject", "403"): (
        "bucket or object belong to another project that has not shared them, or the keys are "
        "wrong. Test the connection to tell which."
    ),
    ("HeadBucket", "404"): REMEDIES["NoSuchBucket"],
    ("HeadObject", "404"): "there is no object of that name, or no such bucket.",
}

MAX_SKEW_SECONDS: Final = 15 * 60
"""How far from its own a time in a signature may be for Ceph (RGW_AUTH_GRACE)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """
    What is known of a refused request beside its answer.

    ``skew_seconds`` is by how much the clock that signed it was ahead of the server's.
    """

    operation: str = ""
    endpoint_url: str = ""
    skew_seconds: float | None = None


def explain(code: str, message: str = "", status: int | None = None) -> str:
    """
    Explain an S3 error answer: its code, what it means, else the server's own words.

    ``status`` is the HTTP status, for answers that are no S3 error at all.
    """
    remedy = find_remedy(code, status, Circumstances())
    if remedy is not None:
        return f"{code}: {remedy}"
    if code in ("", str(status)):
        words = f"{status}: {message}" if message and message != code else str(status)
        return f"HTTP status {words}, which is no answer of an S3 service. Check the endpoint URL."
    return f"{code}: {message}" if message else code


def find_remedy(code: str, status: int | None, circumstances: Circumstances) -> str | None:
    """Return cause and remedy of an error answer, or None of one that says nothing known."""
    skew = circumstances.skew_seconds or 0
    # The answer to HEAD does not say why, so the difference must. (Other answers do; and one that
    # comes at the end of a long upload is far from its signature with the best of clocks.)
    if abs(skew) > MAX_SKEW_SECONDS and code in ("RequestTimeTooSkewed", "403"):
        return _describe_skew(skew)
    if code == "InvalidAccessKeyId" and circumstances.endpoint_url.startswith(LUMI_O.url):
        return _EXPIRED_ON_LUMI_O
    if code == str(status):
        return _HEAD_REMEDIES.get((circumstances.operation, code), REMEDIES.get(code))
    return REMEDIES.get(code)


def _describe_skew(seconds: float) -> str:
    minutes, rest = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    side = "ahead of" if seconds > 0 else "behind"
    return (
        f"this machine's clock is {hours}:{minutes:02}:{rest:02} {side} the object store's, and "
        "15 minutes is the most. Set it (chronyc tracking, timedatectl)."
    )
