"""One file on its way into an object store."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.allas.faults import explain
from airflow_provider_csc.allas.parts import ETag, Part, choose_part_size, cut, etag_of_parts
from airflow_provider_csc.errors import AllasError, ConfigError, FileChangedError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.store.checksums import digest_of, is_content, read_file
from airflow_provider_csc.store.connection import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_provider_csc.allas.names import ObjectName
    from airflow_provider_csc.allas.plan import Item
    from airflow_provider_csc.store.engine import Lane
    from airflow_provider_csc.store.store import Store

SINGLE_BYTES = 32 * 1024**2
"""Up to this size a file is sent in one request."""

MTIME = "mtime"
"""Name of the metadata that holds a file's time of modification (seconds), as rclone has it."""

PART_SIZE = "part-size"
"""Name of the metadata that holds the part size (bytes), without which no ETag can be verified."""


class Upload:
    """
    Send a file, in parts where it is large; the object appears when all is there and verified.

    Of each part the server's MD5 must be ours: a small file announces its own, which the server
    checks before it stores anything; of a part its answer is compared. An unfinished upload of the
    same content, which a killed attempt left, is continued, whoever began it. Where ``existing``
    has the same content, nothing is sent.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        target: ObjectName,
        *,
        arguments: Mapping[str, Any] | None = None,
        existing: Item | None = None,
    ) -> None:
        self.name = f"{path} to {target}"
        self.is_skipped = False
        self._store = store
        self._path = path
        self._target = target
        self._arguments = dict(arguments or {})
        self._existing = existing
        self._fd = -1
        self._size = self._modified = 0
        self._upload_id = ""
        self._digests: dict[int, bytes] = {}

    def prepare(self, lane: Lane) -> Iterable[Part]:
        """Open the file and begin, or continue, an upload."""
        # A pipe would keep who opens it waiting.
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise AllasError(f"{self._path} is no file. Exclude it.", path=self._path)
        self._size, self._modified = status.st_size, status.st_mtime_ns
        if self._existing is not None and is_content(self._existing, self._fd, lane):
            self.is_skipped = True
            lane.skipped(self._size)
            return ()
        if self._size <= SINGLE_BYTES:
            return (Part(1, 0, self._size),)
        part_size = choose_part_size(self._size)
        parts = list(cut(self._size, part_size))
        self._upload_id = self._adopt(parts, lane) or self._begin(part_size)
        return (part for part in parts if part.number not in self._digests)

    def carry(self, part: Part, lane: Lane) -> None:
        """Send one part."""
        if self._upload_id:
            self._send_part(part, lane)
        else:
            self._send_whole(part, lane)

    def finish(self, lane: Lane) -> None:  # noqa: ARG002 - as every carriage
        """Have the object made, and see that it is what was read."""
        if not self.is_skipped:
            # In parts, nothing is visible yet.
            self._check_unchanged()
            if self._upload_id:
                self._complete()
        self._close()

    def give_up(self) -> None:
        """Have the server forget the parts."""
        self._close()
        upload_id, self._upload_id = self._upload_id, ""
        if upload_id:
            self._store.abort_upload(self._target.bucket, self._target.key, upload_id)

    def _begin(self, part_size: int) -> str:
        metadata = {**self._metadata(), PART_SIZE: str(part_size)}
        arguments = {**self._arguments, "Metadata": metadata}
        return self._store.begin_upload(self._target.bucket, self._target.key, arguments)

    def _adopt(self, parts: list[Part], lane: Lane) -> str:
        """Return an unfinished upload whose parts are ours, and note which it has."""
        for upload_id, there in find_uploads(self._store, self._target.bucket, self._target.key):
            digests = self._compare(parts, there, lane)
            if digests is not None:
                self._digests = digests
                lane.skipped(sum(part.size for part in parts if part.number in digests))
                return upload_id
        return ""

    def _compare(
        self, parts: list[Part], there: dict[int, tuple[int, str]], lane: Lane
    ) -> dict[int, bytes] | None:
        """Return the MD5 of the parts an upload has; None when one of them is not ours."""
        digests: dict[int, bytes] = {}
        for part in parts:
            if part.number not in there:
                continue
            digest = digest_of(self._fd, part, lane)
            if there[part.number] != (part.size, digest.hex()):
                return None
            digests[part.number] = digest
        return digests if len(digests) == len(there) else None

    def _send_whole(self, part: Part, lane: Lane) -> None:
        digest = digest_of(self._fd, part, lane)
        # Of a file that somebody is writing nothing should become visible.
        self._check_unchanged()
        headers = {
            "Content-MD5": base64.b64encode(digest).decode(),
            **headers_of({**self._arguments, "Metadata": self._metadata()}),
        }
        answer = lane.connection.request(
            "PUT",
            self._target.bucket,
            self._target.key,
            headers=headers,
            size=part.size,
            body=self._read(part, lane, None),
        )
        answer.drain(lane.buffer)
        check_etag(self.name, answer.etag, digest.hex())
        self._digests[part.number] = digest

    def _send_part(self, part: Part, lane: Lane) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        answer = lane.connection.request(
            "PUT",
            self._target.bucket,
            self._target.key,
            query={"partNumber": part.number, "uploadId": self._upload_id},
            size=part.size,
            body=self._read(part, lane, digest),
        )
        answer.drain(lane.buffer)
        check_etag(self.name, answer.etag, digest.hexdigest())
        self._digests[part.number] = digest.digest()

    def _read(self, part: Part, lane: Lane, digest: Any) -> Iterator[memoryview]:
        """Yield the bytes of a part, in the lane's buffer."""
        for piece in read_file(self._fd, part.offset, part.size, lane.buffer):
            if digest is not None:
                digest.update(piece)
            yield piece
            lane.passed(len(piece))
        if os.fstat(self._fd).st_size < part.offset + part.size:
            raise self._changed("became shorter")

    def _check_unchanged(self) -> None:
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._size, self._modified):
            raise self._changed("changed")

    def _changed(self, how: str) -> FileChangedError:
        return FileChangedError(
            f"{self._path} {how} while it was sent to {self._target}. Transfer it when it is "
            "complete, or from a copy.",
            path=self._path,
            uri=str(self._target),
        )

    def _complete(self) -> None:
        digests = [self._digests[number] for number in sorted(self._digests)]
        complete(self._store, self._target, self._upload_id, digests)
        self._upload_id = ""

    def _metadata(self) -> dict[str, str]:
        own = self._arguments.get("Metadata", {})
        return {MTIME: f"{self._modified / 1e9:.9f}", **own}

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def find_uploads(
    store: Store, bucket: str, key: str
) -> Iterator[tuple[str, dict[int, tuple[int, str]]]]:
    """Yield unfinished uploads of a key, the latest first: id, and size and MD5 of each part."""
    try:
        begun = [each for each in store.list_uploads(bucket, key) if each.key == key]
    except RequestError as error:
        # Who may only write there begins anew.
        if error.code == "AccessDenied":
            return
        raise
    for upload in sorted(begun, key=lambda each: each.initiated, reverse=True):
        yield upload.upload_id, store.list_parts(bucket, key, upload.upload_id)


def check_etag(name: str, theirs: str, ours: str) -> None:
    """Refuse an answer that tells another MD5 than that of what was sent."""
    if theirs != ours:
        raise RequestError(
            f"{name}: {explain('BadDigest')} (Its MD5 is {theirs}, ours {ours}.)",
            code="BadDigest",
            status=None,
            is_passing=True,
        )


def complete(store: Store, target: ObjectName, upload_id: str, digests: Sequence[bytes]) -> ETag:
    """Have an object made of the parts with these MD5, and see that it is; return its ETag."""
    expected = etag_of_parts(digests)
    refusal: RequestError | None = None
    try:
        store.complete_upload(
            target.bucket, target.key, upload_id, [each.hex() for each in digests]
        )
    except RequestError as error:
        # Another attempt may have completed it, or the answer was lost.
        refusal = error
    # Ceph 16.2 tells no ETag when it completes an upload.
    found = store.head(target.bucket, target.key)
    if found is not None and found.etag == str(expected):
        return expected
    if refusal is not None:
        raise refusal
    raise AllasError(
        f"{target}: the store's checksum of the object, {found.etag if found else 'none'}, is not "
        f"that of what was sent, {expected}. Delete the object and transfer it again.",
        uri=str(target),
    )


_HEADERS = {
    "ACL": "x-amz-acl",
    "CacheControl": "Cache-Control",
    "ContentDisposition": "Content-Disposition",
    "ContentEncoding": "Content-Encoding",
    "ContentLanguage": "Content-Language",
    "ContentType": "Content-Type",
    "StorageClass": "x-amz-storage-class",
    "Tagging": "x-amz-tagging",
}


def check_arguments(arguments: object) -> dict[str, Any]:
    """Return arguments of boto3's put_object that an object can be given here."""
    if not isinstance(arguments, Mapping):
        raise ConfigError(
            f"extra_args: {shown(arguments)} is no dict of arguments of put_object.",
            field="extra_args",
        )
    known = (*_HEADERS, "Metadata")
    for name in arguments:
        if name not in known:
            raise ConfigError(
                f"extra_args: {shown(name)} cannot be given here. There are {', '.join(known)}.",
                field="extra_args",
            )
    metadata = arguments.get("Metadata", {})
    is_text = isinstance(metadata, Mapping) and all(
        isinstance(each, str) and each.isascii() and each.isprintable()
        for pair in metadata.items()
        for each in pair
    )
    if not is_text:
        raise ConfigError(
            f"extra_args: Metadata {shown(metadata)} is no dict of ASCII texts, as S3 has it.",
            field="extra_args",
        )
    return dict(arguments)


def headers_of(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that boto3's arguments of put_object mean."""
    metadata = arguments.get("Metadata", {})
    return {f"x-amz-meta-{name}": value for name, value in metadata.items()} | {
        _HEADERS[name]: str(value) for name, value in arguments.items() if name != "Metadata"
    }
