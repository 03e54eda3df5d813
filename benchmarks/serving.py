"""
The inside of a measured process: an event loop on which much waits, told what by its parent.

One JSON object a line. In: ``{"add": [...], "per_second": R}``, ``{"memory": true}``,
``{"end": true}``. Out: ``{"added": N}``, ``{"fired": INDEX, "at": T}``, ``{"failed": INDEX, "why":
TEXT}``, ``{"memory": {...}}``. It knows no Airflow, since a peer's process has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Begin = Callable[[int, dict[str, Any]], Coroutine[Any, Any, None]]

_LINE_LIMIT = 64 * 1024 * 1024


def tell(**message: Any) -> None:
    """Write one message to the parent."""
    os.write(1, json.dumps(message).encode() + b"\n")


async def serve(begin: Begin) -> None:
    """
    Run what ``begin(index, what)`` returns for each thing that is added, until the end is said.

    What was said of a thing is not kept, for its memory would be taken for that of the wait.
    """
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=_LINE_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    running: set[asyncio.Task[None]] = set()
    number = 0
    while line := await orders.readline():
        order = json.loads(line)
        if order.get("end"):
            break
        if order.get("memory"):
            tell(memory=measure_memory())
        for what in order.get("add", ()):
            task = asyncio.create_task(_run(number, begin(number, what)))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            # What arrives in one go would be refused by sshd, where each makes a connection.
            await asyncio.sleep(1 / order["per_second"] if order.get("per_second") else 0)
        if "add" in order:
            order = what = None
            tell(added=number)
    for task in list(running):
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def _run(index: int, wait: Coroutine[Any, Any, None]) -> None:
    try:
        await wait
    except Exception as error:  # noqa: BLE001 - the parent reports it
        tell(failed=index, why=repr(error)[:500])


def start_tracing() -> None:
    """Begin to trace memory; what was there before does not count."""
    gc.collect()
    tracemalloc.start()


def measure_memory() -> dict[str, Any]:
    """Return traced bytes, in all and by the file they were asked for in."""
    gc.collect()
    if not tracemalloc.is_tracing():
        return {}
    traced, _peak = tracemalloc.get_traced_memory()
    by_file: dict[str, int] = {}
    for each in tracemalloc.take_snapshot().statistics("filename"):
        name = _short(each.traceback[0].filename)
        by_file[name] = by_file.get(name, 0) + each.size
    return {"traced": traced, "by_file": by_file}


def _short(filename: str) -> str:
    parts = Path(filename).parts
    with contextlib.suppress(ValueError):
        return "/".join(parts[parts.index("site-packages") + 1 :])
    return "/".join(parts[-2:])
