"""Transfers as tests make them: small parts, known bytes, and a look at what is there afterwards."""

from __future__ import annotations

import hashlib
import random
import threading
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import AllasError
from airflow_provider_csc.transfers.allas import (
    AllasCopyOperator,
    AllasToLocalOperator,
    LocalToAllasOperator,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1024**2
# Small parts, so that few bytes are many of them.
PART = 5 * MIB
LARGE = 23 * MIB + 12345
# Each has to be written otherwise somewhere: in a URL, a shell, XML, a tar.
ODD_NAMES = (
    "deep/er/est.txt",
    "with space.txt",
    "åäö/šž.txt",
    "rocket 🚀.bin",
    "plus+and&equals=question?.txt",
    "percent%20and#hash.txt",
    "-leading-dash",
    "quote'\"`$(id).txt",
    "back\\slash",
    "tilde~star*[x].txt",
)


def content(size: int, seed: int = 1) -> bytes:
    """Return bytes that differ from part to part."""
    block = hashlib.shake_128(str(seed).encode()).digest(MIB + 7)
    return (block * (size // len(block) + 1))[:size]


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that cannot be compressed."""
    return random.Random(seed).randbytes(size)


def fill(top: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return top


def tree_of(top: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return content, mode and time of each file, and which directories are empty."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_file():
            status = path.stat()
            found[name] = (path.read_bytes(), status.st_mode & 0o777, int(status.st_mtime))
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = (b"", 0, 0)
    return found


def read(client: Any, bucket: str, key: str) -> bytes:
    data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return data


def keys(client: Any, bucket: str) -> list[str]:
    return [each["Key"] for each in client.list_objects_v2(Bucket=bucket).get("Contents", ())]


def hidden(directory: Path) -> list[Path]:
    return list(directory.rglob(".airflow-*"))


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


def pack(source: Path, destination: str, **arguments: Any) -> dict[str, Any]:
    return send(source, destination, pack=True, **arguments)


def unpack(source: str, destination: Path, **arguments: Any) -> dict[str, Any]:
    return fetch(source, destination, unpack=True, **arguments)


def race(transfer: Callable[[], dict[str, Any]], times: int = 3) -> list[object]:
    """Make a transfer several times at once; return how much each transferred, or its message."""
    outcomes: list[object] = []

    def work() -> None:
        try:
            outcomes.append(transfer()["transferred"])
        except AllasError as error:
            outcomes.append(error.message)

    threads = [threading.Thread(target=work) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
