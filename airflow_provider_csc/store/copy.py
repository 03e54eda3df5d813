"""One object on its way to another bucket, of the same store or of another."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.allas.endpoints import MAX_SINGLE_PUT_BYTES, MIN_PART_BYTES
from airflow_provider_csc.allas.faults import explain
from airflow_provider_csc.allas.parts import (
    Part,
    choose_part_size,
    cut,
    etag_of_parts,
    parse_etag,
)
from airflow_provider_csc.errors import ChecksumError
from airflow_provider_csc.store.checksums import part_sizes
from airflow_provider_csc.store.connection import RequestError
from airflow_provider_csc.store.reading import ObjectReader
from airflow_provider_csc.store.upload import PART_SIZE, complete, headers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_csc.allas.names import ObjectName
    from airflow_provider_csc.allas.plan import Item
    from airflow_provider_csc.store.engine import Lane
    from airflow_provider_csc.store.store import Store

# What an object has beside its content, as head_object answers and put_object takes it.
_PROPERTIES = (
    "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType",
    "Metadata",
)  # fmt: skip


class _Copy:
    """
    What both ways of copying share.

    A copy is cut into parts as its original was, so that its ETag has to be the original's. Which
    size they have, the object itself tells where this package uploaded it; else it is guessed.
    """

    def __init__(
        self,
        source: Store,
        bucket: str,
        item: Item,
        target_store: Store,
        target: ObjectName,
        *,
        verify_checksum: bool = True,
    ) -> None:
        self.name = f"s3://{bucket}/{item.path} to {target}"
        self.is_skipped = False
        self._source = source
        self._bucket = bucket
        self._item = item
        self._store = target_store
        self._target = target
        self._verify_checksum = verify_checksum
        self._etag = parse_etag(item.etag)
        self._upload_id = ""
        self._reader = ObjectReader(self.name, source, bucket, item)

    def give_up(self) -> None:
        """Have the server forget the parts."""
        upload_id, self._upload_id = self._upload_id, ""
        if upload_id:
            self._store.abort_upload(self._target.bucket, self._target.key, upload_id)

    def _properties(self) -> dict[str, Any]:
        found = self._source.describe(self._bucket, self._item.path)
        if found is None or str(found["ETag"]).strip('"') != self._item.etag:
            raise self._reader.changed()
        return {name: found[name] for name in _PROPERTIES if name in found}

    def _begin(self, properties: Mapping[str, Any]) -> Iterator[Part]:
        size = self._choose_part_size(properties)
        metadata = {**properties.get("Metadata", {}), PART_SIZE: str(size)}
        arguments = {**properties, "Metadata": metadata}
        self._upload_id = self._store.begin_upload(self._target.bucket, self._target.key, arguments)
        return cut(self._item.size, size)

    def _choose_part_size(self, properties: Mapping[str, Any]) -> int:
        size = self._item.size
        if self._etag is None or self._etag.parts is None:
            return choose_part_size(size)
        told = properties.get("Metadata", {}).get(PART_SIZE, "")
        likely = part_sizes(size, self._etag, told=int(told) if told.isdecimal() else None)
        is_small = self._etag.parts == 1
        fit = (
            each
            for each in likely
            if (is_small or each >= MIN_PART_BYTES) and each <= MAX_SINGLE_PUT_BYTES
        )
        return next(fit, choose_part_size(size))

    def _check_digests(self, digests: list[bytes], lane: Lane) -> None:
        """See that the parts make up the original, before anything is visible."""
        made = etag_of_parts(digests)
        if made == self._etag:
            return
        is_comparable = self._etag is not None and self._etag.parts == made.parts
        if is_comparable and self._verify_checksum:
            raise self._reader.mismatch()
        lane.note_unverified(
            f"{self.name}: the original's ETag {self._item.etag!r} does not tell the checksum of "
            "its content, so that only the way from here to the copy was verified."
        )


class ServerCopy(_Copy):
    """Have a store copy an object itself, which moves no bytes here."""

    _digests: dict[int, bytes]

    def prepare(self, lane: Lane) -> Iterable[Part]:  # noqa: ARG002 - as every carriage
        """Begin an upload in parts where the object is too large for one request."""
        self._digests = {}
        if self._item.size <= MAX_SINGLE_PUT_BYTES:
            return (Part(1, 0, self._item.size),)
        return self._begin(self._properties())

    def carry(self, part: Part, lane: Lane) -> None:
        """Have one part copied, if the original is still what it was."""
        arguments: dict[str, Any] = {
            "CopySource": {"Bucket": self._bucket, "Key": self._item.path},
            "CopySourceIfMatch": self._item.etag,
        }
        bucket, key = self._target.bucket, self._target.key
        try:
            if not self._upload_id:
                self._store.call("copy_object", bucket, key, **arguments)
            else:
                last = part.offset + part.size - 1
                answer = self._store.call(
                    "upload_part_copy",
                    bucket,
                    key,
                    CopySourceRange=f"bytes={part.offset}-{last}",
                    PartNumber=part.number,
                    UploadId=self._upload_id,
                    **arguments,
                )
                self._digests[part.number] = self._read_digest(answer)
        except RequestError as error:
            if error.code == "PreconditionFailed":
                raise self._reader.changed() from error
            raise
        lane.passed(part.size)

    def _read_digest(self, answer: Mapping[str, Any]) -> bytes:
        # S3 may begin with 200 long before it knows, and botocore takes nothing for an answer.
        etag = str(answer.get("CopyPartResult", {}).get("ETag", "")).strip('"')
        if not etag:
            raise RequestError(
                f"{self.name}: the store did not say that it copied a part. Try again later.",
                code=None,
                status=None,
                is_passing=True,
            )
        return bytes.fromhex(etag)

    def finish(self, lane: Lane) -> None:
        """See that the copy is what the original is."""
        if self._upload_id:
            digests = [self._digests[number] for number in sorted(self._digests)]
            self._check_digests(digests, lane)
            complete(self._store, self._target, self._upload_id, digests)
            self._upload_id = ""
            return
        copy = self._store.head(self._target.bucket, self._target.key)
        if copy is None or (copy.size, copy.etag) != (self._item.size, self._item.etag):
            found = f"ETag {copy.etag}, {copy.size} bytes" if copy else "nothing"
            raise ChecksumError(
                f"{self.name}: the copy ({found}) is not the original (ETag {self._item.etag}, "
                f"{self._item.size} bytes). Somebody else may have written it; try again.",
                uri=str(self._target),
            )


class StreamCopy(_Copy):
    """
    Carry an object from one store into another, through this machine's memory only.

    The MD5 of the parts, which the other store confirms one by one, make the original's ETag. Where
    that cannot be told, only the sizes are known to be the same.
    """

    _digests: dict[int, bytes]
    _headers: dict[str, str]

    def prepare(self, lane: Lane) -> Iterable[Part]:  # noqa: ARG002 - as every carriage
        """Begin an upload in parts, unless the original was sent in one request."""
        self._digests = {}
        properties = self._properties()
        is_single = self._etag is not None and self._etag.parts is None
        if is_single and self._item.size <= MAX_SINGLE_PUT_BYTES:
            self._headers = headers_of(properties)
            return (Part(1, 0, self._item.size),)
        return self._begin(properties)

    def carry(self, part: Part, lane: Lane) -> None:
        """Carry one part."""
        digest = hashlib.md5(usedforsecurity=False)
        headers: dict[str, str] = {}
        query: dict[str, Any] = {}
        if self._upload_id:
            query = {"partNumber": part.number, "uploadId": self._upload_id}
        elif self._etag is not None:
            # The store itself sees to it that it stores nothing else.
            wanted = base64.b64encode(bytes.fromhex(self._etag.digest)).decode()
            headers = {**self._headers, "Content-MD5": wanted}
        answer = lane.connection_to(self._store.settings).request(
            "PUT",
            self._target.bucket,
            self._target.key,
            query=query,
            headers=headers,
            size=part.size,
            body=self._read(part, lane, digest),
        )
        answer.drain(lane.buffer)
        if answer.etag != digest.hexdigest():
            raise RequestError(
                f"{self.name}: {explain('BadDigest')}",
                code="BadDigest",
                status=None,
                is_passing=True,
            )
        self._digests[part.number] = digest.digest()

    def finish(self, lane: Lane) -> None:
        """Have the object made, and see that it is what was read."""
        if not self._upload_id:
            return
        digests = [self._digests[number] for number in sorted(self._digests)]
        self._check_digests(digests, lane)
        complete(self._store, self._target, self._upload_id, digests)
        self._upload_id = ""

    def _read(self, part: Part, lane: Lane, digest: Any) -> Iterator[memoryview]:
        for piece in self._reader.read(part.offset, part.size, lane):
            digest.update(piece)
            yield piece
