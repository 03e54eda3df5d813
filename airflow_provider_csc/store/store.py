"""What is asked of an object store beside the bytes of its objects."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.allas.plan import Item
from airflow_provider_csc.allas.swift import check_not_swift_manifest
from airflow_provider_csc.errors import AllasError
from airflow_provider_csc.store.connection import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from airflow_provider_csc.store.connection import StoreSettings


_NOT_FOUND = 404
_HEADS = 3
# Statuses that a HEAD has for more than one reason.
_BODILESS = (400, 401, 403, _NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that was begun and neither completed nor aborted."""

    key: str
    upload_id: str
    initiated: datetime


class Store:
    """One endpoint with one project's keys; for any number of threads."""

    def __init__(self, client: Any, settings: StoreSettings) -> None:
        self._client = client
        self.settings = settings

    def list_objects(self, bucket: str, prefix: str = "") -> Iterator[Item]:
        """Yield all objects below a prefix, by their whole key, in S3's order (of UTF-8)."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in self._translated(lambda: pages, bucket, prefix):
            for found in page.get("Contents", ()):
                yield _item(found["Key"], found["Size"], found)

    def head(self, bucket: str, key: str) -> Item | None:
        """Return an object, or None when there is none."""
        found = self.describe(bucket, key)
        return None if found is None else _item(key, found["ContentLength"], found)

    def describe(self, bucket: str, key: str) -> Mapping[str, Any] | None:
        """Return what boto3's head_object answers, or None when there is no such object."""
        try:
            answer: Mapping[str, Any] = self._whole_head(bucket, key)
        except RequestError as error:
            if error.status not in _BODILESS:
                raise
            # The answer to a HEAD says no more than that; a listing does.
            self.call("list_objects_v2", bucket, "", Prefix=key, MaxKeys=1)
            if error.status == _NOT_FOUND:
                return None
            raise RequestError(
                f"s3://{bucket}/{key}: AccessDenied: the bucket may be listed with these keys, but "
                "not this object read. Its owner can allow that.",
                code="AccessDenied",
                status=error.status,
                is_passing=False,
            ) from error
        return answer

    def _whole_head(self, bucket: str, key: str) -> Mapping[str, Any]:
        for _ in range(_HEADS):
            # Headers that break off boto3 takes for whole, and stumbles over half a date.
            with suppress(ValueError):
                answer: Mapping[str, Any] = self.call("head_object", bucket, key)
                if "ETag" in answer:
                    check_not_swift_manifest(answer, bucket, key)
                    return answer
        raise RequestError(
            f"s3://{bucket}/{key}: the store's answers break off. Try again later.",
            code=None,
            status=None,
            is_passing=True,
        )

    def read_end(self, bucket: str, item: Item, size: int) -> bytes:
        """Return the last bytes of an object; none where it has fewer."""
        if item.size < size:
            return b""
        place = f"bytes={item.size - size}-{item.size - 1}"
        answer = self.call("get_object", bucket, item.path, Range=place)
        with self._translating(bucket, item.path):
            data: bytes = answer["Body"].read()
        return data if str(answer["ETag"]).strip('"') == item.etag else b""

    def begin_upload(self, bucket: str, key: str, arguments: Mapping[str, Any]) -> str:
        """Begin an upload in parts; return its id."""
        upload_id: str = self.call("create_multipart_upload", bucket, key, **arguments)["UploadId"]
        return upload_id

    def complete_upload(self, bucket: str, key: str, upload_id: str, etags: list[str]) -> None:
        """Make an object of the parts, of which these are the ETags."""
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, start=1)]
        self.call(
            "complete_multipart_upload",
            bucket,
            key,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
        )

    def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        """Have the parts of an upload deleted."""
        try:
            self.call("abort_multipart_upload", bucket, key, UploadId=upload_id)
        except RequestError as error:
            if error.code != "NoSuchUpload":
                raise

    def list_uploads(self, bucket: str, prefix: str = "") -> Iterator[Upload]:
        """Yield uploads that nobody completed, those of others who may write there included."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket, Prefix=prefix
        )
        for page in self._translated(lambda: pages, bucket, prefix):
            for found in page.get("Uploads", ()):
                yield Upload(found["Key"], found["UploadId"], found["Initiated"])

    def list_parts(self, bucket: str, key: str, upload_id: str) -> dict[int, tuple[int, str]]:
        """Return size and ETag of the parts an upload has, by their number."""
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=bucket, Key=key, UploadId=upload_id
        )
        return {
            part["PartNumber"]: (part["Size"], part["ETag"].strip('"'))
            for page in self._translated(lambda: pages, bucket, key)
            for part in page.get("Parts", ())
        }

    def delete(self, bucket: str, keys: list[str]) -> None:
        """Delete up to 1,000 objects."""
        answer = self.call(
            "delete_objects", bucket, "", Delete={"Objects": [{"Key": key} for key in keys]}
        )
        if errors := answer.get("Errors"):
            first = errors[0]
            reason = f"{first.get('Key')!r}: {first.get('Code')} {first.get('Message', '')}"
            raise AllasError(
                f"{len(errors)} of {len(keys)} objects of s3://{bucket} could not be deleted, such "
                f"as {reason}",
                bucket=bucket,
                keys=[each.get("Key") for each in errors][:20],
            )
        if len(deleted := answer.get("Deleted", ())) < len(set(keys)):
            raise AllasError(
                f"The store says of {len(deleted)} of {len(set(keys))} objects of s3://{bucket} "
                "that they are deleted, and of the others nothing. Try again.",
                bucket=bucket,
            )

    def presign(self, operation: str, bucket: str, key: str, seconds: int, **arguments: Any) -> str:
        """Return a URL by which anybody may do one thing for some time; nothing is asked."""
        named = {"Bucket": bucket, "Key": key, **arguments}
        url: str = self._client.generate_presigned_url(operation, Params=named, ExpiresIn=seconds)
        return url

    def presign_form(self, bucket: str, prefix: str, seconds: int) -> tuple[str, dict[str, str]]:
        """Return address and fields of a form that stores any objects below a prefix for a time."""
        status = {"success_action_status": "201"}
        made = self._client.generate_presigned_post(
            bucket,
            # botocore makes `starts-with` of it.
            f"{prefix}${{filename}}",
            Fields=dict(status),
            Conditions=[status],
            ExpiresIn=seconds,
        )
        fields = {name: value for name, value in made["fields"].items() if name != "key"}
        return made["url"], fields

    def call(self, operation: str, bucket: str, key: str, **arguments: Any) -> Any:
        """Call an operation of boto3's client, with its errors made ours."""
        named = {"Bucket": bucket, **({"Key": key} if key else {}), **arguments}
        with self._translating(bucket, key):
            return getattr(self._client, operation)(**named)

    def _translated(self, pages: Callable[[], Any], bucket: str, key: str) -> Iterator[Any]:
        with self._translating(bucket, key):
            yield from pages()

    @contextmanager
    def _translating(self, bucket: str, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            yield
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            raise self._error(error, bucket, key) from error

    def _error(self, error: Exception, bucket: str, key: str) -> RequestError:
        from airflow_provider_csc.transport.s3 import describe_failure  # noqa: PLC0415 - botocore

        # botocore's errors without an answer have one that is None.
        answer = getattr(error, "response", None) or {}
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return RequestError(
            f"s3://{bucket}/{key}: {describe_failure(error, self.settings.endpoint_url)}",
            code=answer.get("Error", {}).get("Code") if answer else None,
            status=status,
            # boto3 has tried again itself.
            is_passing=False,
        )


def _item(key: str, size: int, found: Mapping[str, Any]) -> Item:
    etag = str(found["ETag"]).strip('"')
    return Item(path=key, size=size, modified=found["LastModified"].timestamp(), etag=etag)
