"""Transfers as tests make them: small parts, known bytes, and a look at what is there afterwards."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.transfers.allas import (
    AllasCopyOperator,
    AllasToLocalOperator,
    LocalToAllasOperator,
)

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024**2
# Small parts, so that few bytes are many of them.
PART = 5 * MIB
LARGE = 23 * MIB + 12345


def content(size: int, seed: int = 1) -> bytes:
    """Return bytes that differ from part to part."""
    block = hashlib.shake_128(str(seed).encode()).digest(MIB + 7)
    return (block * (size // len(block) + 1))[:size]


def read(client: Any, bucket: str, key: str) -> bytes:
    data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return data


def keys(client: Any, bucket: str) -> list[str]:
    return [each["Key"] for each in client.list_objects_v2(Bucket=bucket).get("Contents", ())]


def hidden(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob(".airflow-*")]


def send(source: Path, destination: str, **arguments: Any) -> dict[str, Any]:
    task = LocalToAllasOperator(
        task_id="send", source=str(source), destination=destination, **arguments
    )
    return task.execute({})  # type: ignore[typeddict-item]


def fetch(source: str, destination: Path, **arguments: Any) -> dict[str, Any]:
    task = AllasToLocalOperator(
        task_id="fetch", source=source, destination=str(destination), **arguments
    )
    return task.execute({})  # type: ignore[typeddict-item]


def copy(source: str, destination: str, **arguments: Any) -> dict[str, Any]:
    task = AllasCopyOperator(task_id="copy", source=source, destination=destination, **arguments)
    return task.execute({})  # type: ignore[typeddict-item]
