"""Remove the object that the deletion of a record has left."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from airflow_provider_csc.allas.records import (
    ABSENT,
    SIGNATURE_SECONDS,
    Verdict,
    judge_refusal,
)
from airflow_provider_csc.errors import RecordError, RecordUnguardedError
from airflow_provider_csc.store.conditions import (
    InconclusiveError,
    RefusedError,
    UnguardedError,
    find_form,
    honours_delete,
)
from airflow_provider_csc.store.effort import Effort
from airflow_provider_csc.transport.s3 import Refusal, Silence, ask

if TYPE_CHECKING:
    from airflow_provider_csc.allas.records import EtagForm
    from airflow_provider_csc.store.target import Present, Target

REST: Final = dt.timedelta(seconds=SIGNATURE_SECONDS)


def purge(target: Target) -> bool:
    """
    Remove the object of a deleted record; False where there is none, or it holds a value.

    Versions are counted from 1 again afterwards. Raises RecordUnguardedError where the store
    deletes without looking at If-Match, as Ceph 16 does, and RecordError within fifteen minutes of
    the deletion, while a write from before could still arrive.
    """
    effort = Effort(target)
    while True:
        effort.begin()
        present = effort.read()
        if present is None:
            continue
        if present.etag == ABSENT or present.snapshot.value is not None:
            return False
        _check_rest(effort, present)
        form = _find_form(target, effort)
        if form is not None and _delete(target, effort, form.render(present.etag)):
            return True


def _check_rest(effort: Effort, present: Present) -> None:
    modified, now = present.snapshot.modified, present.now
    if modified is None or now is None or now - modified < REST:
        raise effort.build(
            RecordError,
            f"was deleted less than {SIGNATURE_SECONDS // 60} minutes ago, so that a write from "
            "before could still arrive. Remove it later.",
        )


def _find_form(target: Target, effort: Effort) -> EtagForm | None:
    """Return the form of If-Match, where it guards deletions; None when that is not known yet."""
    try:
        form = find_form(target.client, target.bucket, target.key)
        if honours_delete(target.client, target.bucket, target.key, form):
            return form
    except InconclusiveError as error:
        effort.note(str(error))
        return None
    except RefusedError as error:
        raise effort.build(RecordError, f"was not removed: {error}") from error
    except UnguardedError as error:
        raise effort.build(RecordUnguardedError, f"was not removed: {error}.") from error
    raise effort.build(
        RecordUnguardedError,
        f"was not removed: {target.client.meta.endpoint_url} deletes without looking at If-Match, "
        "and might delete what somebody writes just now. It holds no value; let it be.",
    )


def _delete(target: Target, effort: Effort, etag: str) -> bool:
    answer = ask(target.client, lambda: target.client.delete_object(**target.place, IfMatch=etag))
    if isinstance(answer, Refusal):
        if judge_refusal(answer.code, answer.status) is Verdict.REFUSED:
            raise effort.build(RecordError, f"was not removed: {answer.said}")
        effort.note(answer.said, is_conflict=True)
        return False
    if isinstance(answer, Silence):
        effort.note(answer.said)
        return False
    return True
