"""What waits for objects asks of a store: nothing there is one thing, no usable answer another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.errors import ObjectChangedError, StoreAwayError, StoreRefusedError
from airflow_provider_csc.transport.object_store import S3Store
from tests.support.little_store import serve_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.little_store import LittleStore

pytestmark = pytest.mark.asyncio


@pytest.fixture
def little() -> Iterator[LittleStore]:
    with serve_store() as store:
        yield store


async def test_a_proxy_that_knows_nothing_is_no_missing_object(little: LittleStore) -> None:
    store = S3Store(little.client(), "test")
    assert await store.read("bucket", "key") is None
    etag = await store.replace("bucket", "key", b"1", etag=None)
    little.interrupt = lambda _method, _key: 404
    with pytest.raises(StoreRefusedError):
        await store.read("bucket", "key")
    with pytest.raises(StoreRefusedError):
        await store.replace("bucket", "key", b"2", etag=etag)


async def test_a_store_that_is_busy_is_away(little: LittleStore) -> None:
    store = S3Store(little.client(), "test")
    little.interrupt = lambda _method, _key: 503
    with pytest.raises(StoreAwayError):
        await store.read("bucket", "key")


async def test_what_was_written_meanwhile_is_not_overwritten(little: LittleStore) -> None:
    store = S3Store(little.client(), "test")
    etag = await store.replace("bucket", "key", b"1", etag=None)
    await store.replace("bucket", "key", b"2", etag=etag)
    with pytest.raises(ObjectChangedError):
        await store.replace("bucket", "key", b"3", etag=etag)
    document = await store.read("bucket", "key")
    assert document is not None
    assert document.data == b"2"
