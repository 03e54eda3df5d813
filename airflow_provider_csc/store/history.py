"""Old versions of a record, each an object of its own below a prefix."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_csc.allas.records import (
    build_history_key,
    build_history_metadata,
    is_history_key,
)
from airflow_provider_csc.errors import RecordError
from airflow_provider_csc.store.effort import Effort, read
from airflow_provider_csc.transport.s3 import Refusal, Silence, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_csc.store.target import Present, Snapshot, Target
    from airflow_provider_csc.transport.s3 import S3Client

_log: Final = logging.getLogger(__name__)


class History:
    """
    The versions of one record that were replaced, below a prefix of its own.

    A version is stored before it is replaced, by each who would replace it, with the same content
    under the same key: so none is missing, whenever who is killed.
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix

    def save(self, present: Present) -> dict[str, Any] | Refusal | Silence:
        """Keep what is there, to the byte; return the answer."""
        modified = present.snapshot.modified
        assert modified is not None, "an object has a time"  # noqa: S101
        key = build_history_key(self._prefix, present.etag, modified, present.stamp)
        return ask(
            self._client,
            lambda: self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=present.body,
                ContentType="application/json",
                Metadata=build_history_metadata(present.stamp, modified),
            ),
        )

    def list_keys(self) -> list[str] | Refusal | Silence:
        """Return the keys of the versions, the oldest first."""
        return ask(self._client, lambda: sorted(self._walk()))

    def trim(self, keep: int) -> None:
        """Delete all but the last versions; what fails is done after the next change."""
        keys = self.list_keys()
        if isinstance(keys, Refusal | Silence):
            _log.warning("Old versions below %s were not listed: %s", self._prefix, keys.said)
            return
        for key in keys[:-keep]:
            answer = self._delete(key)
            if isinstance(answer, Refusal | Silence):
                _log.warning("The old version %s was not deleted: %s", key, answer.said)
                return

    def _delete(self, key: str) -> dict[str, Any] | Refusal | Silence:
        place = {"Bucket": self._bucket, "Key": key}
        return ask(self._client, lambda: self._client.delete_object(**place))

    def _walk(self) -> Iterator[str]:
        more: dict[str, Any] = {}
        while True:
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, **more)
            for row in page.get("Contents", []):
                if is_history_key(self._prefix, row["Key"]):
                    yield row["Key"]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}


def read_history(target: Target) -> Iterator[Snapshot]:
    """
    Read the versions of a record that were replaced and are kept, the oldest first.

    A version that is deleted meanwhile is left out. Raises RecordError.
    """
    prefix = target.options.history_prefix
    if prefix is None:
        return
    keys = History(target.client, target.bucket, prefix).list_keys()
    if isinstance(keys, Refusal | Silence):
        raise Effort(target).build(RecordError, f"has a history that is not listed: {keys.said}")
    for key in keys:
        present = read(replace(target, key=key))
        if present.body:
            yield present.snapshot
