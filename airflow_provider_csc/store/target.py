"""What is asked of a record, and what is found there."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_csc.allas.names import check_bucket, check_key
from airflow_provider_csc.allas.records import MAX_BYTES

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from airflow_provider_csc.allas.records import Stamp
    from airflow_provider_csc.transport.s3 import S3Client


class Special(Enum):
    """What a change may answer in place of a value."""

    DELETE = "DELETE"
    KEEP = "KEEP"


DELETE: Final = Special.DELETE
"""Returned in place of a new value: from now on there is none."""
KEEP: Final = Special.KEEP
"""Returned in place of a new value: nothing is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """
    How a record is treated.

    ``attempts`` and ``timeout_seconds`` bound one call. An attempt is a read and, where something
    is to be written, a write; the time is looked at between requests, each of which has the
    client's own limits. ``max_bytes`` is the most a record may hold. With ``history_prefix`` each
    version that is replaced is kept below it, the last ``history_keep`` of them: a prefix for one
    record, as those of another would count among them. With
    ``allow_unguarded`` it is written without conditions where the store honours none.
    """

    attempts: int = 1000
    timeout_seconds: float = 120.0
    max_bytes: int = MAX_BYTES
    history_prefix: str | None = None
    history_keep: int = 100
    allow_unguarded: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("attempts", "max_bytes", "history_keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.history_prefix == "":
            raise ValueError("history_prefix is empty; give one, for example 'history/'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """
    A record, and who changes it: ``writer`` is a name for people, kept with each write.

    ``sleep`` takes seconds and ``draw`` returns a number from 0 to 1; both are there for tests.
    """

    client: S3Client
    bucket: str
    key: str
    writer: str
    options: Options = field(default_factory=Options)
    # Who asks for a change waits for it; who must not be blocked asks from a thread.
    sleep: Callable[[float], object] = time.sleep  # noqa: TID251
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Refuse names that no object can have."""
        check_bucket(self.bucket)
        check_key(self.key)

    def __str__(self) -> str:
        """Return it as a URI."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def place(self) -> dict[str, str]:
        """The parameters of a request that name the object."""
        return {"Bucket": self.bucket, "Key": self.key}


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """
    A record at one moment.

    ``value`` is None where there is none. ``version`` counts the writes from 1; it is 0 where there
    is no object, or another program wrote it. ``writer`` is who wrote it, and ``modified`` when, by
    the store's clock. ``is_changed``: whether the call that returned this wrote it.
    """

    value: Any
    version: int = 0
    writer: str | None = None
    modified: dt.datetime | None = None
    is_changed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Present:
    """
    What a read found: the object's bytes, and what they and its metadata say.

    ``now`` is the store's time of its answer, ``asked_at`` a moment before that by `read_clock`.
    """

    body: bytes
    etag: str
    stamp: Stamp | None
    snapshot: Snapshot
    now: dt.datetime | None
    asked_at: float


def read_clock() -> float:
    """Return seconds by a clock that only goes forward, and also while the machine sleeps."""
    # Linux has it; where it is missing a machine that slept may think that less time passed.
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)
