"""
What is done around each request of an S3 client: handlers of botocore's events.

They sit on a session, so that they hold for every client made from it, and for every way to a
request: the methods inherited from S3Hook, boto3's own, transfers in threads, asynchronous
clients. The explanation of an error goes into its message and nowhere else. Its class and code stay
what botocore made of them, because S3Hook's own methods, and users', catch ClientError and look at
the code; raising errors of ours instead would break them.
"""

from __future__ import annotations

import datetime as dt
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from botocore.credentials import ReadOnlyCredentials  # noqa: TID253 - this file is botocore's
from botocore.handlers import validate_bucket_name  # noqa: TID253 - likewise
from botocore.utils import determine_content_length  # noqa: TID253 - likewise

from airflow_provider_csc.allas.faults import Circumstances, find_remedy
from airflow_provider_csc.allas.limits import find_put_problem
from airflow_provider_csc.allas.names import is_bucket_of_project
from airflow_provider_csc.allas.swift import check_not_swift_manifest
from airflow_provider_csc.errors import ConfigError, SwiftSegmentsError
from airflow_provider_csc.transport.s3 import explain_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_csc.allas.credentials import Keys

CREATING: Final = ("PutObject", "CreateMultipartUpload", "CopyObject")
"""Operations that may make one more object in a bucket."""

SIGV4_TIME: Final = "%Y%m%dT%H%M%SZ"

_OK: Final = 200
_SERVER_FAULT: Final = 500

_GOES_ON: Final = {
    "ListObjectsV2": b"<NextContinuationToken>",
    "ListParts": b"<NextPartNumberMarker>",
    "ListMultipartUploads": b"<NextKeyMarker>",
}
"""What a listing that is not complete has to say, by operation."""

_TARGET: Final = "csc_target"
"""Where a request's context has bucket and key."""


class Events(Protocol):
    """What is used of botocore's event emitters and sessions."""

    def register(
        self, event_name: str, handler: Callable[..., Any], unique_id: str | None = None
    ) -> None:
        """Call a handler at an event, once under an id."""
        ...

    def unregister(self, event_name: str, handler: Callable[..., Any]) -> None:
        """Call it no more."""
        ...


def attach_handlers(events: Events) -> None:
    """Let clients explain errors, keep to the limits of requests, and know Ceph's bucket names."""
    events.unregister("before-parameter-build.s3", validate_bucket_name)
    handlers: dict[str, Callable[..., None]] = {
        "before-parameter-build.s3": _check_bucket_name,
        "before-parameter-build.s3.PutObject": _check_size,
        "before-parameter-build.s3.UploadPart": _check_size,
        "before-parameter-build.s3.CopyObject": _check_copy,
        "before-parse.s3": _refuse_nothing,
        "after-call.s3": _explain_answer,
        "after-call.s3.GetObject": _refuse_segments,
        "after-call-error.s3": _explain_silence,
    }
    for event, handler in handlers.items():
        # A custom session factory may hand out one session again and again.
        events.register(event, handler, unique_id=f"csc-{event}")


def attach_keys(events: Events, read: Callable[[], Keys], *, is_async: bool) -> None:
    """Sign each request with the keys that ``read`` returns at that moment."""

    def choose_keys(request: Any, **_: object) -> None:
        signing = request.context.setdefault("signing", {})
        signing["request_credentials"] = (_AsyncCredentials if is_async else _Credentials)(read())

    events.register("before-sign.s3", choose_keys, unique_id="csc-keys")


def attach_watch(events: Events, watch: Callable[[str], None]) -> None:
    """Call ``watch`` with the bucket's name after each request that may have made an object."""

    def see_bucket(http_response: Any, context: Mapping[str, Any], **_: object) -> None:
        bucket, _key = context.get(_TARGET, (None, None))
        if bucket and http_response.status_code < 300:  # noqa: PLR2004 - as botocore has it
            watch(bucket)

    for operation in CREATING:
        events.register(
            f"after-call.s3.{operation}", see_bucket, unique_id=f"csc-watch-{operation}"
        )


class _Credentials:
    """What botocore's signer asks for, of one request; a pair is never mixed from two."""

    def __init__(self, keys: Keys) -> None:
        self._frozen = ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.session_token)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the keys."""
        return self._frozen


class _AsyncCredentials:
    """The same for aiobotocore's signer, which awaits them."""

    def __init__(self, keys: Keys) -> None:
        self._credentials = _Credentials(keys)

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the keys."""
        return self._credentials.get_frozen_credentials()


def _check_bucket_name(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    """
    Let ``project:bucket`` pass, leave other names to botocore, and keep both for later.

    Ceph takes a bucket of another tenant under that name, and botocore sends it as it should once
    it does not refuse it: LUMI-O's projects are tenants.
    """
    bucket = params.get("Bucket")
    context[_TARGET] = (bucket, params.get("Key"))
    if not (isinstance(bucket, str) and is_bucket_of_project(bucket)):
        validate_bucket_name(params)


def _check_size(params: Mapping[str, Any], **_: object) -> None:
    """Refuse before 5 GiB are sent what is refused after them, where a proxy does not ask first."""
    body = params.get("Body")
    size = params.get("ContentLength")
    if size is None and body is not None:
        size = determine_content_length(body)
    problem = find_put_problem(size or 0)
    if problem is not None:
        raise ConfigError(problem, bucket=params.get("Bucket"), key=params.get("Key"))


def _check_copy(params: Mapping[str, Any], **_: object) -> None:
    """
    Refuse the one copy that Ceph writes to another place than it is told.

    Between buckets of one name in two tenants, RGW 16.2 takes both for the source's and answers
    200: the copy lands in the other project's bucket (tests/cluster/test_allas_hook.py).
    """
    source, target = params.get("CopySource"), params.get("Bucket")
    # Where botocore's own handler was first, it is quoted text already.
    text = source.get("Bucket") if isinstance(source, dict) else unquote(str(source or ""))
    bucket = str(text).lstrip("/").partition("/")[0]
    if bucket == target or not (isinstance(target, str) and is_bucket_of_project(bucket)):
        return
    if bucket.rpartition(":")[2] == target.rpartition(":")[2]:
        raise ConfigError(
            f"An object of {bucket} cannot be copied to {target} within the store: for buckets of "
            "one name in two projects Ceph writes the copy into the source's. Copy to a bucket of "
            "another name, or download and upload it.",
            bucket=target,
            source_bucket=bucket,
        )


def _refuse_nothing(operation_model: Any, response_dict: dict[str, Any], **_: object) -> None:
    """
    Take an answer without the document it has to hold for a server's fault, which is asked again.

    http.client takes headers that break off for whole, and botocore nothing at all, or a proxy's
    page, for a listing without objects. A document that breaks off it takes for a fault itself.
    """
    shape, body = operation_model.output_shape, response_dict.get("body") or b""
    if response_dict.get("status_code") != _OK or not _has_document(shape):
        return
    if not body or ("IsTruncated" in shape.members and not _is_listing(operation_model.name, body)):
        response_dict["status_code"] = _SERVER_FAULT


def _is_listing(operation: str, body: bytes) -> bool:
    """Whether a document says that it is complete, or how it goes on."""
    if b"<IsTruncated>true" in body:
        return _GOES_ON.get(operation, b"<") in body
    return b"<IsTruncated" in body


def _has_document(shape: Any) -> bool:
    """Whether an answer's fields are in its body, which may be bytes of an object instead."""
    return (
        shape is not None
        and "payload" not in shape.serialization
        and any("location" not in member.serialization for member in shape.members.values())
    )


def _explain_answer(
    parsed: dict[str, Any], model: Any, http_response: Any, context: Mapping[str, Any], **_: object
) -> None:
    error = parsed.get("Error")
    status = http_response.status_code
    if not error or status < 300:  # noqa: PLR2004 - as botocore has it
        return
    url = getattr(http_response, "url", None) or ""
    circumstances = Circumstances(
        operation=model.name, endpoint_url=url, skew_seconds=_find_skew(parsed, context)
    )
    remedy = find_remedy(str(error.get("Code", "")), status, circumstances)
    if remedy is None:
        return
    said = error.get("Message")
    # botocore puts the status line into answers without a body.
    own = f" It said: {said}" if said and str(error.get("Code")) != str(status) else ""
    error["Explanation"] = remedy
    error["Message"] = f"{remedy}{own}{_describe_target(url)}"


def _describe_target(url: str) -> str:
    """Name what was asked for; never a query, in which links carry their signature."""
    parts = urlsplit(url)
    return f" ({parts.scheme}://{parts.netloc}{unquote(parts.path)})" if parts.netloc else ""


def _find_skew(parsed: Mapping[str, Any], context: Mapping[str, Any]) -> float | None:
    """Return by how much the request's signing time was ahead of the server's clock."""
    headers = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        answered = parsedate_to_datetime(headers["date"])
        signed = dt.datetime.strptime(context["timestamp"], SIGV4_TIME).replace(tzinfo=dt.UTC)
    except (KeyError, ValueError, TypeError):
        return None
    return (signed - answered).total_seconds()


def _explain_silence(exception: Exception, **_: object) -> None:
    """Add what is known of a request without an answer; Airflow's page shows no notes (PEP 678)."""
    said = explain_failure(exception)
    if said is not None and said not in str(exception):
        exception.args = (f"{exception} {said}", *exception.args[1:])


def _refuse_segments(parsed: Mapping[str, Any], context: Mapping[str, Any], **_: object) -> None:
    bucket, key = context.get(_TARGET, ("", ""))
    try:
        check_not_swift_manifest(parsed, bucket, key)
    except SwiftSegmentsError:
        if (body := parsed.get("Body")) is not None:
            body.close()
        raise
