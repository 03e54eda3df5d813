"""One change of a record: attempts until its write is stored, or there is nothing to write."""

from __future__ import annotations

import datetime as dt
import logging
import os
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from airflow_provider_csc.allas.records import (
    ABSENT,
    Fate,
    Verdict,
    Write,
    WriteId,
    build_body,
    build_line,
    build_metadata,
    build_stamp,
    judge_refusal,
    judge_write,
)
from airflow_provider_csc.allas.strict_json import JsonError, render_json, render_sorted
from airflow_provider_csc.errors import (
    RecordError,
    RecordInvalidError,
    RecordUnguardedError,
    RecordUnknownError,
)
from airflow_provider_csc.store.conditions import (
    InconclusiveError,
    RefusedError,
    UnguardedError,
    find_form,
    forget_form,
)
from airflow_provider_csc.store.effort import Effort
from airflow_provider_csc.store.history import History
from airflow_provider_csc.store.target import DELETE, KEEP, Snapshot
from airflow_provider_csc.transport.s3 import Refusal, Silence, ask, read_date

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_csc.store.target import Present, Target

_log: Final = logging.getLogger(__name__)

UNMOVED_LIMIT: Final = 2
"""Conflicts over an object that did not change, after which conditions are tried out anew."""


class _Session:
    """Numbers for writes, one write at a time."""

    def __init__(self) -> None:
        self._name = secrets.token_urlsafe(6)
        self._number = 0

    def next(self) -> WriteId:
        self._number += 1
        return WriteId(self._name, self._number)


_sessions: Final[list[_Session]] = []
"""Those not in use; one that is used again takes no further room in the metadata."""

# A child of fork() would count on in the sessions of its parent.
os.register_at_fork(after_in_child=_sessions.clear)


def change(target: Target, compute: Callable[[Present], object]) -> Snapshot:
    """
    Replace the value by what ``compute`` makes of what is there; return what is there then.

    ``compute`` is called again each time another writer was faster, so it should do nothing but
    compute. It may answer `KEEP` or `DELETE`; where its value equals the present one, nothing is
    written either. What it raises passes, and nothing was written then.

    Raises RecordConflictError, RecordUnknownError, RecordInvalidError, RecordUnguardedError, or
    RecordError.
    """
    try:
        session = _sessions.pop()
    except IndexError:
        session = _Session()
    done = _Change(target, compute, session).run()
    # Not after an error: a write of the session may still be under way.
    _sessions.append(session)
    return done


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pending:
    """A write to be made; ``is_doubtful`` when it was sent and nobody knows with what effect."""

    write: Write
    value: object
    body: bytes
    is_doubtful: bool = False


class _Change:
    def __init__(
        self, target: Target, compute: Callable[[Present], object], session: _Session
    ) -> None:
        self._target, self._compute, self._session = target, compute, session
        self._effort = Effort(target)
        self._pending: _Pending | None = None
        self._refused_etag: str | None = None
        self._unmoved = 0
        prefix = target.options.history_prefix
        self._history = None if prefix is None else History(target.client, target.bucket, prefix)

    def run(self) -> Snapshot:
        """Try until it is done."""
        try:
            while True:
                self._effort.begin()
                present = self._effort.read()
                if present is None:
                    continue
                done = self._settle(present) or self._make(present)
                if done is not None:
                    return done
        except RecordError as error:
            if self._pending is not None and self._pending.is_doubtful:
                raise self._build_doubt(self._pending.write, error) from error
            raise

    def _settle(self, present: Present) -> Snapshot | None:
        """Find out what became of a write that was sent; return what it made, if it did."""
        self._watch(present.etag)
        if self._pending is None or not self._pending.is_doubtful:
            self._pending = None
            return None
        match judge_write(self._pending.write, present.etag, present.stamp):
            case Fate.STORED:
                return self._describe(self._pending, present.now)
            case Fate.SUPERSEDED:
                self._pending = None
            case Fate.OPEN:
                pass  # it is sent again as it is
            case Fate.UNKNOWN:
                raise self._effort.build(
                    RecordError,
                    "was replaced by another program, or by very many writers, in between",
                )
        return None

    def _make(self, present: Present) -> Snapshot | None:
        """Write what is pending, or is computed now; None when it was not stored."""
        if self._pending is None:
            value = self._find_value(present)
            if value is KEEP:
                return present.snapshot
            self._pending = self._prepare(present, value)
        condition = self._find_condition(present.etag)
        if condition is None:
            return None
        if not self._save(present):
            return None
        return self._send(self._pending, condition)

    def _save(self, present: Present) -> bool:
        """Keep the old version where that was asked for; False when it is not known to be kept."""
        if self._history is None or present.etag == ABSENT:
            return True
        answer = self._history.save(present)
        if isinstance(answer, Refusal):
            if judge_refusal(answer.code, answer.status) is Verdict.REFUSED:
                raise self._effort.build(
                    RecordError, f"was not changed: its history is not written: {answer.said}"
                )
        elif not isinstance(answer, Silence):
            return True
        self._effort.note(answer.said)
        return False

    def _find_value(self, present: Present) -> object:
        """Return the value to be written, None where it is deleted; or KEEP."""
        old = present.snapshot.value
        # Of its own: what is handed out may be changed in place.
        before = render_sorted(old)
        new = self._compute(present)
        if new is DELETE:
            return KEEP if old is None else None
        if new is KEEP:
            return KEEP
        if new is None:
            if render_sorted(old) == before:
                return KEEP
            raise self._effort.build(
                RecordInvalidError,
                "was not changed: the function changed its argument and returned None. Let it "
                "return the new value.",
            )
        try:
            render_json(new)
        except JsonError as error:
            raise self._effort.build(
                RecordInvalidError, f"was not changed, for the new value is not JSON: {error}."
            ) from error
        return KEEP if render_sorted(new) == before else new

    def _prepare(self, present: Present, value: object) -> _Pending:
        write_id = self._session.next()
        body = build_body(render_json(value), write_id)
        if len(body) > self._target.options.max_bytes:
            raise self._effort.build_too_large(len(body), "was not changed: the new value has")
        born = present.now or dt.datetime.now(dt.UTC)
        line = build_line(born, secrets.token_hex(4))
        stamp = build_stamp(present.stamp, present.etag, line, self._target.writer, write_id)
        write = Write(stamp=stamp, base_etag=present.etag, base=present.stamp)
        return _Pending(write=write, value=value, body=body)

    def _find_condition(self, etag: str) -> dict[str, str] | None:
        """Return the parameters that guard the write; None when that cannot be known yet."""
        target = self._target
        try:
            form = find_form(target.client, target.bucket, target.key)
        except InconclusiveError as error:
            self._effort.note(str(error))
            return None
        except RefusedError as error:
            raise self._effort.build(
                RecordError,
                "was not changed: whether the store honours conditions was to be tried out on an "
                f"object beside it, which was refused: {error}",
            ) from error
        except UnguardedError as error:
            if target.options.allow_unguarded:
                _log.warning("%s is written without protection: %s", target, error)
                return {}
            raise self._effort.build(
                RecordUnguardedError,
                f"was not changed, for {target.client.meta.endpoint_url} does not guard it against "
                f"other writers. {error}. Take a bucket without versioning, or another store, or "
                "see that only one program writes and set allow_unguarded.",
            ) from error
        return {"IfNoneMatch": "*"} if etag == ABSENT else {"IfMatch": form.render(etag)}

    def _send(self, pending: _Pending, condition: Mapping[str, str]) -> Snapshot | None:
        target = self._target
        answer = ask(
            target.client,
            lambda: target.client.put_object(
                **target.place,
                Body=pending.body,
                ContentType="application/json",
                Metadata=build_metadata(pending.write.stamp),
                **condition,
            ),
        )
        if isinstance(answer, Silence):
            self._doubt(pending, answer.said)
            return None
        if isinstance(answer, Refusal):
            self._weigh(pending, answer)
            return None
        if self._history is not None:
            self._history.trim(target.options.history_keep)
        return self._describe(pending, read_date(answer))

    def _weigh(self, pending: _Pending, refusal: Refusal) -> None:
        """Take a refused write as what it means; raises where no second try would help."""
        match judge_refusal(refusal.code, refusal.status):
            case Verdict.LOST:
                self._doubt(pending, refusal.said)
            case Verdict.CONFLICT if refusal.was_repeated:
                # Perhaps with its own first try.
                self._doubt(pending, refusal.said)
            case Verdict.CONFLICT:
                self._refused_etag = pending.write.base_etag
                self._effort.note(refusal.said, is_conflict=True)
            case Verdict.REFUSED:
                if refusal.was_repeated:
                    self._doubt(pending, refusal.said)
                raise self._effort.build(RecordError, f"was not changed: {refusal.said}")

    def _doubt(self, pending: _Pending, problem: str) -> None:
        self._pending = replace(pending, is_doubtful=True)
        self._effort.note(problem)

    def _watch(self, etag: str) -> None:
        """Notice a server that refuses a condition although it holds."""
        self._unmoved = self._unmoved + 1 if etag == self._refused_etag else 0
        self._refused_etag = None
        if self._unmoved >= UNMOVED_LIMIT:
            self._unmoved = 0
            forget_form(self._target.client, self._target.bucket)

    def _describe(self, pending: _Pending, when: dt.datetime | None) -> Snapshot:
        stamp = pending.write.stamp
        return Snapshot(
            value=pending.value,
            version=stamp.version,
            writer=stamp.writer,
            modified=when,
            is_changed=True,
        )

    def _build_doubt(self, write: Write, error: RecordError) -> RecordError:
        return self._effort.build(
            RecordUnknownError,
            "may have been changed, or not: the answer to a write was lost, and then "
            f"{error.message}. Look whether csc-recent in the metadata holds "
            f"{write.stamp.write_id}; repeat the change only if it may be made twice.",
            writer=write.stamp.writer,
            write_id=str(write.stamp.write_id),
        )
