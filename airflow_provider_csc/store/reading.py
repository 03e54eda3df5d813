"""An object that is read span by span, and has to stay what it was found to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.allas.swift import refuse_swift_manifest
from airflow_provider_csc.errors import AllasError, ChecksumError, ObjectChangedError
from airflow_provider_csc.store.connection import BUFFER_BYTES, RequestError
from airflow_provider_csc.store.upload import PART_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_csc.allas.plan import Item
    from airflow_provider_csc.store.connection import Answer
    from airflow_provider_csc.store.engine import Lane
    from airflow_provider_csc.store.store import Store

_PARTIAL = 206


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of an object that is read in one request; ``number`` from 0."""

    number: int
    offset: int
    size: int


class ObjectReader:
    """
    Reads spans of an object as long as it is the one that was listed.

    :param name: what is carried where, for messages.
    """

    def __init__(self, name: str, store: Store, bucket: str, item: Item) -> None:
        self.uri = f"s3://{bucket}/{item.path}"
        # Of the latest answer, in lower case.
        self.headers: Mapping[str, str] = {}
        self._name = name
        self._store = store
        self._bucket = bucket
        self._item = item

    @property
    def told_part_size(self) -> int | None:
        """The size of its parts (bytes), where this package uploaded it."""
        told = read_number(self.headers.get(f"x-amz-meta-{PART_SIZE}"), self._item.size)
        return int(told) if told else None

    def read(
        self, offset: int, size: int, lane: Lane, into: memoryview | None = None
    ) -> Iterator[memoryview]:
        """
        Yield what is read, piece by piece: in the lane's own buffer, unless told where to.

        Raises a RequestError where the answer breaks off, an ObjectChangedError where the object
        is another one by now, and a SwiftSegmentsError.
        """
        connection = lane.connection_to(self._store.settings)
        is_whole = size == self._item.size
        place = {} if is_whole else {"Range": f"bytes={offset}-{offset + size - 1}"}
        answer = connection.request("GET", self._bucket, self._item.path, headers=place)
        try:
            self._check(answer, is_whole=is_whole)
            done = 0
            while done < size:
                room = lane.buffer if into is None else into[done:]
                read = answer.read_into(room[: min(BUFFER_BYTES, size - done)])
                if not read:
                    raise self._broken_off(size - done)
                yield room[:read]
                done += read
                lane.passed(read)
            # The end of the body is read, so that the connection can be used again.
            if answer.read_into(lane.buffer[:1]):
                raise self.changed(answer.etag)
        except AllasError:
            connection.close()
            raise

    def changed(self, etag: str = "") -> ObjectChangedError:
        """Return the error of an object that is another one now, with the ETag it has if known."""
        return ObjectChangedError(
            f"{self.uri} was overwritten while it was read: its ETag was {self._item.etag} and is "
            f"{etag or 'not known'} now. Nothing was written. Try again when who writes it has "
            "ended.",
            uri=self.uri,
        )

    def mismatch(self) -> ChecksumError:
        """Return the error of bytes that are not what the ETag says."""
        return ChecksumError(
            f"{self._name}: what was read is not what the store's checksum (ETag "
            f"{self._item.etag}) says. Nothing was written. Try again; if that is so each time, "
            "the object is damaged, or was uploaded in parts of an odd size: "
            "verify_checksum=False takes it as it is.",
            uri=self.uri,
            etag=self._item.etag,
        )

    def _check(self, answer: Answer, *, is_whole: bool) -> None:
        refuse_swift_manifest(answer.headers, self._bucket, self._item.path)
        if answer.etag != self._item.etag:
            raise self.changed(answer.etag)
        if not is_whole and answer.status != _PARTIAL:
            raise AllasError(
                f"{self._name}: the store sent the whole object where a part was asked for.",
                uri=self.uri,
            )
        self.headers = answer.headers

    def _broken_off(self, left: int) -> RequestError:
        return RequestError(
            f"{self._name}: the connection ended {left} bytes too early. Try again.",
            code=None,
            status=None,
            is_passing=True,
        )


def read_number(text: str | None, most: float) -> float | None:
    """Return a number that a stranger wrote into an object's metadata, if it can be one."""
    try:
        number = float(text) if text else math.nan
    except ValueError:
        return None
    return number if 0 < number <= most else None
