"""
Find out by trying which conditions an object store honours, and in which form it wants them.

Servers differ: Ceph 16.2 takes the ETag of If-Match only without quotes, newer ones and others in
quotes, and some ignore conditions, whose writers would overwrite each other without a word. So
before the first conditional write of a process to a bucket, a small object beside the record is
written, overwritten with the right ETag and with one that was right before, and deleted.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_csc.allas.records import EtagForm, Verdict, judge_refusal
from airflow_provider_csc.transport.s3 import Refusal, Silence, ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_csc.transport.s3 import S3Client

_known: Final[dict[tuple[str, str], EtagForm]] = {}
"""By endpoint and bucket: buckets may have rules of their own."""


class UnguardedError(Exception):
    """The store does not honour the conditions that a record needs; the text says which."""


class InconclusiveError(Exception):
    """The experiment was disturbed; another may succeed."""


class RefusedError(Exception):
    """The experiment itself was refused."""


def find_form(client: S3Client, bucket: str, key: str) -> EtagForm:
    """
    Return in which form the store takes an ETag in If-Match.

    Tries it out the first time, beside ``key``. Raises UnguardedError, InconclusiveError or
    RefusedError.
    """
    place = (client.meta.endpoint_url, bucket)
    if place not in _known:
        _known[place] = _Experiment(client, bucket, f"{key}.try-{secrets.token_hex(8)}").run()
    return _known[place]


def forget_form(client: S3Client, bucket: str) -> None:
    """Try it out anew next time, as the server may be another than it was."""
    _known.pop((client.meta.endpoint_url, bucket), None)


def honours_delete(client: S3Client, bucket: str, key: str, form: EtagForm) -> bool:
    """
    Whether the store deletes an object only where If-Match is true.

    Tries it out beside ``key``. Raises InconclusiveError or RefusedError.
    """
    return _Experiment(client, bucket, f"{key}.try-{secrets.token_hex(8)}").run_delete(form)


class _Experiment:
    def __init__(self, client: S3Client, bucket: str, key: str) -> None:
        self._client = client
        self._place = {"Bucket": bucket, "Key": key}

    def run(self) -> EtagForm:
        first = self._create()
        try:
            if self._put(b"1", IfNoneMatch="*"):
                raise UnguardedError("If-None-Match: an object was created twice")
            form = self._find_form(first)
            if self._put(b"3", IfMatch=form.render(first)):
                raise UnguardedError("If-Match: an object was overwritten that had changed")
        finally:
            self._clear()
        return form

    def run_delete(self, form: EtagForm) -> bool:
        first = self._create()
        try:
            second = self._put(b"2", IfMatch=form.render(first))
            if second is None:
                raise InconclusiveError("a condition that holds was said not to")
            return not self._delete(form.render(first)) and self._delete(form.render(second))
        finally:
            self._clear()

    def _create(self) -> str:
        etag = self._put(b"0", IfNoneMatch="*")
        if etag is None:
            raise InconclusiveError("a new object was said to be there already")
        return etag

    def _find_form(self, etag: str) -> EtagForm:
        for form in EtagForm:
            if self._put(b"2", IfMatch=form.render(etag)):
                return form
        raise UnguardedError("If-Match: the ETag of an object is taken neither in quotes nor bare")

    def _put(self, body: bytes, **condition: str) -> str | None:
        """Return the new ETag; None when the condition was said not to hold."""
        answer = self._ask(self._client.put_object, Body=body, **condition)
        return None if answer is None else str(answer["ETag"]).strip('"')

    def _delete(self, etag: str) -> bool:
        return self._ask(self._client.delete_object, IfMatch=etag) is not None

    def _ask(self, call: Callable[..., dict[str, Any]], **parameters: object) -> Any:
        answer = ask(self._client, lambda: call(**self._place, **parameters))
        if isinstance(answer, Silence):
            raise InconclusiveError(answer.said)
        if not isinstance(answer, Refusal):
            return answer
        match judge_refusal(answer.code, answer.status):
            case Verdict.CONFLICT if not answer.was_repeated:
                return None
            case Verdict.REFUSED:
                raise RefusedError(f"{self._place['Key']}: {answer.said}")
            case Verdict.CONFLICT | Verdict.LOST:
                # What was repeated may have met its own first try.
                raise InconclusiveError(answer.said)

    def _clear(self) -> None:
        # Where this fails a few bytes stay behind, and nothing depends on them.
        ask(self._client, lambda: self._client.delete_object(**self._place))
