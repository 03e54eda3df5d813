"""Open the store of a connection for what waits for objects; equal connections share a client."""

from __future__ import annotations

import asyncio
import hashlib
import json
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from asgiref.sync import sync_to_async
from botocore.config import Config  # noqa: TID253 - S3Hook, which AllasHook extends, has loaded it

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.transport.object_store import S3Store

if TYPE_CHECKING:
    from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper

# Who waits asks again anyway, and a thread that hangs is one that others wait for.
_CONFIG = Config(retries={"total_max_attempts": 2}, connect_timeout=5, read_timeout=30)
_stores: WeakValueDictionary[str, S3Store] = WeakValueDictionary()
_lock = Lock()


def open_store(conn_id: str | None, bucket_name: str | None) -> tuple[S3Store, str]:
    """Return the store of a connection, and the bucket, by default the connection's own."""
    hook = AllasHook(conn_id, config=_CONFIG)
    identity = _identify(hook.conn_config, conn_id)
    with _lock:
        store = _stores.get(identity)
        if store is None:
            client: Any = hook.get_conn()
            store = _stores[identity] = S3Store(client, identity)
    bucket = bucket_name or hook.service_config.get("bucket_name")
    if not bucket:
        raise ConfigError(
            f"No bucket is named, and connection {conn_id!r} has no default bucket. Give a URI "
            "(s3://bucket/key) or bucket_name.",
            conn_id=conn_id,
        )
    return store, str(bucket)


async def aopen_store(conn_id: str | None, bucket_name: str | None) -> tuple[S3Store, str]:
    """Do the same without blocking."""
    # Shielded, because Airflow 3.1 reads its next answer wrongly when one is given up.
    opening = asyncio.ensure_future(sync_to_async(open_store)(conn_id, bucket_name))
    return await asyncio.shield(opening)


def _identify(connection: AwsConnectionWrapper, conn_id: str | None) -> str:
    """Digest what the client is made of: endpoint, credentials and settings, but not the id."""
    extra = {**connection.extra_config, "project": None}
    parts = [connection.login, connection.password, extra, None if connection.login else conn_id]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
