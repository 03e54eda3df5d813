"""The object store as what waits for objects needs it: few requests, none of which blocks."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_provider_csc.allas.objects import StoredObject
from airflow_provider_csc.errors import ObjectChangedError, StoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Value = TypeVar("Value")

_PAGE_OBJECTS = 1000
# Threads per store and process. What waits behind them waits politely, also for the store.
_THREADS = 4
_NO_SUCH_KEY = "NoSuchKey"
# What botocore makes of the answer to a HEAD, which has no document.
_NO_DOCUMENT = "404"


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing; ``clock`` is the store's (seconds since 1970)."""

    objects: Sequence[StoredObject]
    next_token: str | None
    clock: float


@dataclass(frozen=True, slots=True)
class Document:
    """The content of a small object, and the ETag it had."""

    data: bytes
    etag: str


class ObjectStore(Protocol):
    """What is asked of a store; each raises an AllasError, and says by its type whether to wait."""

    @property
    def identity(self) -> str:  # pyright: ignore[reportReturnType] - a protocol
        """Equal for equal endpoint and credentials."""

    async def list_page(  # pyright: ignore[reportReturnType] - likewise
        self, bucket: str, prefix: str, *, token: str | None = None, limit: int = _PAGE_OBJECTS
    ) -> Page:  # pyright: ignore[reportReturnType] - likewise
        """Return a page of the objects whose keys begin with a prefix, in order of their keys."""

    async def read(self, bucket: str, key: str, *, limit: int | None = None) -> Document | None:
        """Return an object, or None where there is none, or one of more bytes than ``limit``."""

    async def read_metadata(self, bucket: str, key: str) -> tuple[str, Mapping[str, str]] | None:
        """Return an object's ETag and its writer's metadata, or None where there is none."""

    async def replace(  # pyright: ignore[reportReturnType] - likewise
        self, bucket: str, key: str, data: bytes, *, etag: str | None
    ) -> str:  # pyright: ignore[reportReturnType] - likewise
        """
        Write an object in place of the one with this ETag, or of none; return its ETag.

        Raises ObjectChangedError, and writes nothing, where another one is there.
        """


class S3Store:
    """A store behind a boto3 client, which may be shared by threads."""

    def __init__(self, client: Any, identity: str) -> None:
        # Imported where it is used: botocore has no place in the process of a DAG file.
        from airflow_provider_csc.transport import s3  # noqa: PLC0415

        self._s3 = s3
        self._client = client
        self._identity = identity
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="allas")
        self._is_quoted: bool | None = None

    @property
    def identity(self) -> str:
        """Equal for equal endpoint and credentials."""
        return self._identity

    @property
    def endpoint_url(self) -> str:
        """Where it is."""
        return str(self._client.meta.endpoint_url)

    async def list_page(
        self, bucket: str, prefix: str, *, token: str | None = None, limit: int = _PAGE_OBJECTS
    ) -> Page:
        """Return a page of the objects whose keys begin with a prefix, in order of their keys."""
        more = {"ContinuationToken": token} if token else {}
        answer = await self._ask(
            lambda: self._client.list_objects_v2(
                Bucket=bucket, Prefix=prefix, MaxKeys=limit, **more
            )
        )
        rows = [
            StoredObject(row["Key"], row["Size"], row["ETag"].strip('"'), row["LastModified"])
            for row in answer.get("Contents", ())
        ]
        following = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
        return Page(rows, following, _read_clock(answer))

    async def read(self, bucket: str, key: str, *, limit: int | None = None) -> Document | None:
        """Return an object, or None where there is none, or one of more bytes than ``limit``."""

        def fetch() -> Document | None:
            answer = self._client.get_object(Bucket=bucket, Key=key)
            with answer["Body"] as body:
                if limit is not None and answer["ContentLength"] > limit:
                    return None
                return Document(body.read(), answer["ETag"].strip('"'))

        return await self._ask_for(fetch, absent=_NO_SUCH_KEY)

    async def read_metadata(self, bucket: str, key: str) -> tuple[str, Mapping[str, str]] | None:
        """Return an object's ETag and its writer's metadata, or None where there is none."""

        def fetch() -> tuple[str, Mapping[str, str]]:
            answer = self._client.head_object(Bucket=bucket, Key=key)
            return answer["ETag"].strip('"'), answer.get("Metadata", {})

        return await self._ask_for(fetch, absent=_NO_DOCUMENT)

    async def replace(self, bucket: str, key: str, data: bytes, *, etag: str | None) -> str:
        """Write an object in place of the one with this ETag, or of none; return its ETag."""
        if etag is None:
            return await self._put(bucket, key, data, IfNoneMatch="*")
        # RGW 16.2 compares an ETag with quotes to its own without, so that none ever matches; S3
        # itself wants the quotes. Where another object is there, neither form writes anything.
        forms = (False, True) if self._is_quoted is None else (self._is_quoted,)
        for is_quoted in forms:
            try:
                new = await self._put(bucket, key, data, IfMatch=f'"{etag}"' if is_quoted else etag)
            except ObjectChangedError:
                if is_quoted is forms[-1]:
                    raise
                continue
            self._is_quoted = is_quoted
            return new
        raise AssertionError("one of the forms has returned or raised")

    async def _put(self, bucket: str, key: str, data: bytes, **condition: str) -> str:
        try:
            answer = await self._ask(
                lambda: self._client.put_object(
                    Bucket=bucket,
                    Key=key,
                    Body=data,
                    ContentType="application/json",
                    **condition,
                )
            )
        except StoreRefusedError as error:
            # What was to be replaced is gone.
            if error.code == _NO_SUCH_KEY:
                raise ObjectChangedError(error.message, code=error.code) from error
            raise
        return str(answer["ETag"]).strip('"')

    async def _ask_for(self, fetch: Callable[[], Value], *, absent: str) -> Value | None:
        try:
            return await self._ask(fetch)
        except StoreRefusedError as error:
            # Any other 404 is the word of a proxy, or of a store without that bucket.
            if error.code == absent:
                return None
            raise

    async def _ask(self, request: Callable[[], Value]) -> Value:
        """Make a request in a thread; given up, it ends there by its own time limits."""

        def ask() -> Value:
            with self._s3.told(self.endpoint_url):
                return request()

        return await asyncio.get_running_loop().run_in_executor(self._pool, ask)


def _read_clock(answer: Mapping[str, Any]) -> float:
    """Return the store's time from an answer, or this machine's where it tells none."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return time.time()
