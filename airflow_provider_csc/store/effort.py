"""The attempts of one call on a record: how long they go on, and what each of them reads."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_csc.allas.records import (
    ABSENT,
    NO_SUCH_KEY,
    Verdict,
    choose_pause,
    judge_refusal,
    parse_metadata,
    parse_modified,
)
from airflow_provider_csc.allas.strict_json import JsonError, parse_json
from airflow_provider_csc.errors import RecordConflictError, RecordError, RecordInvalidError
from airflow_provider_csc.store.target import Present, Snapshot, read_clock
from airflow_provider_csc.transport.s3 import Refusal, Silence, ask, read_date

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.store.target import Target


class Effort:
    """The attempts of one call, and what came to nothing last."""

    def __init__(self, target: Target) -> None:
        self.problem = ""
        self._target = target
        self._began = read_clock()
        self._attempts = 0
        self._is_conflict = False
        # How many attempts in a row came to nothing; it makes the pauses longer.
        self._row = 0

    def begin(self) -> None:
        """Begin an attempt, after a pause; raises RecordError when there is none left."""
        if self._attempts:
            options = self._target.options
            # After a first silence one look at once tells more than a later one.
            is_urgent = self._row == 1 and not self._is_conflict
            pause = 0.0 if is_urgent else choose_pause(self._row, self._target.draw())
            is_late = read_clock() + pause > self._began + options.timeout_seconds
            if is_late or self._attempts >= options.attempts:
                self._give_up()
            if pause:
                self._target.sleep(pause)
        self._attempts += 1

    def note(self, problem: str, *, is_conflict: bool = False) -> None:
        """Remember why this attempt came to nothing."""
        self.problem, self._is_conflict = problem, is_conflict
        self._row += 1

    def build(self, kind: type[RecordError], text: str, **details: object) -> RecordError:
        """Build an error about the record."""
        target = self._target
        return kind(
            f"{target} {text}",
            bucket=target.bucket,
            key=target.key,
            attempts=self._attempts,
            **details,
        )

    def build_too_large(self, size: int, what: str) -> RecordError:
        """Build the error of a value with too many bytes."""
        return self.build(
            RecordInvalidError,
            f"{what} {size:,} bytes, and a record has {self._target.options.max_bytes:,} at most. "
            "Keep large data in objects of their own and their names here, or raise max_bytes.",
        )

    def read(self) -> Present | None:
        """Read what is there; None when no answer came."""
        target, asked_at = self._target, read_clock()
        answer = ask(target.client, lambda: _fetch(target))
        if isinstance(answer, Silence):
            self.note(answer.said)
            return None
        if isinstance(answer, Refusal):
            return self._read_refusal(answer, asked_at)
        found, body = answer
        if len(body) > target.options.max_bytes:
            raise self.build_too_large(found["ContentLength"], "has")
        return self._parse(found, body, asked_at)

    def _read_refusal(self, refusal: Refusal, asked_at: float) -> Present | None:
        if refusal.code == NO_SUCH_KEY:
            return Present(
                body=b"",
                etag=ABSENT,
                stamp=None,
                snapshot=Snapshot(value=None),
                now=refusal.date,
                asked_at=asked_at,
            )
        if judge_refusal(refusal.code, refusal.status) is Verdict.REFUSED:
            raise self.build(RecordError, f"cannot be read: {refusal.said}")
        self.note(refusal.said)
        return None

    def _parse(self, found: Mapping[str, Any], body: bytes, asked_at: float) -> Present:
        stamp = parse_metadata(found["Metadata"], body)
        try:
            value = parse_json(body)
        except JsonError as error:
            raise self.build(
                RecordInvalidError,
                f"is no record: {error}. Records are JSON; give another key, or mend the object.",
            ) from error
        return Present(
            body=body,
            etag=str(found["ETag"]).strip('"'),
            stamp=stamp,
            snapshot=Snapshot(
                value=value,
                version=stamp.version if stamp else 0,
                writer=stamp.writer if stamp else None,
                modified=parse_modified(found["Metadata"])
                or found["LastModified"].astimezone(dt.UTC),
            ),
            now=read_date(found),
            asked_at=asked_at,
        )

    def _give_up(self) -> NoReturn:
        tried = f"in {self._attempts} attempts and {read_clock() - self._began:.1f} s"
        if self._is_conflict:
            raise self.build(
                RecordConflictError,
                f"was not changed {tried}: others changed it each time. Let fewer write at the "
                "same time, or allow more attempts or time.",
            )
        raise self.build(RecordError, f"could not be used {tried}: {self.problem}")


def read(target: Target) -> Present:
    """Read a record. Raises RecordError, or RecordInvalidError for what is none."""
    effort = Effort(target)
    while True:
        effort.begin()
        present = effort.read()
        if present is not None:
            return present


def _fetch(target: Target) -> tuple[dict[str, Any], bytes]:
    """Read an object, and no more of it than tells that it is too large."""
    found = target.client.get_object(**target.place)
    stream = found["Body"]
    try:
        return found, bytes(stream.read(target.options.max_bytes + 1))
    finally:
        stream.close()
