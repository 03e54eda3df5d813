"""An object store in memory, which counts what it is asked and breaks when it is told to."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_csc.allas.objects import StoredObject
from airflow_provider_csc.errors import ObjectChangedError
from airflow_provider_csc.transport.object_store import Document, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class _Kept:
    data: bytes
    etag: str
    modified: datetime
    metadata: Mapping[str, str]


@dataclass
class MemoryStore:
    """One bucket; keys in order, pages as large as is said."""

    identity: str = "memory"
    page_size: int = 1000
    honours_conditions: bool = True
    objects: dict[str, _Kept] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    # Called before each request with what it is; it may raise or wait.
    before: Callable[[str], object] = lambda _request: None
    # Called when a write is done, before it is answered.
    after_write: Callable[[], object] = lambda: None
    clock: datetime = START

    def put(self, key: str, data: bytes = b"x", **metadata: str) -> str:
        """Write as somebody else would; the clock goes on a second."""
        self.clock += timedelta(seconds=1)
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.objects[key] = _Kept(data, etag, self.clock, metadata)
        return etag

    async def _ask(self, request: str) -> None:
        self.requests.append(request)
        await asyncio.sleep(0)
        self.before(request)

    async def list_page(
        self, bucket: str, prefix: str, *, token: str | None = None, limit: int = 1000
    ) -> Page:
        await self._ask(f"list {prefix} {limit}")
        keys = [
            key for key in sorted(self.objects) if key.startswith(prefix) and key > (token or "")
        ]
        shown = keys[: min(limit, self.page_size)]
        rows = [
            StoredObject(key, len(kept.data), kept.etag, kept.modified)
            for key, kept in ((key, self.objects[key]) for key in shown)
        ]
        return Page(rows, shown[-1] if len(keys) > len(shown) else None, self.clock.timestamp())

    async def read(self, bucket: str, key: str, *, limit: int | None = None) -> Document | None:
        await self._ask(f"read {key}")
        kept = self.objects.get(key)
        if kept is None or (limit is not None and len(kept.data) > limit):
            return None
        return Document(kept.data, kept.etag)

    async def read_metadata(self, bucket: str, key: str) -> tuple[str, Mapping[str, str]] | None:
        await self._ask(f"head {key}")
        kept = self.objects.get(key)
        return (kept.etag, kept.metadata) if kept else None

    async def replace(self, bucket: str, key: str, data: bytes, *, etag: str | None) -> str:
        await self._ask(f"write {key}")
        kept = self.objects.get(key)
        if self.honours_conditions and (kept.etag if kept else None) != etag:
            raise ObjectChangedError(f"{key} is another one")
        new = self.put(key, data)
        self.after_write()
        return new
