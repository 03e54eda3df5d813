"""What the triggers on one event loop share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_provider_csc.hooks.slurm import SlurmHook

if TYPE_CHECKING:
    from airflow_provider_csc.transport.base import SiteSettings

_readings: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[SiteSettings]]] = (
    WeakKeyDictionary()
)
_ends: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()


async def read_site(conn_id: str) -> SiteSettings:
    """
    Read a connection, once for all who want it at the time; that is never given up.

    Airflow 3.1 ends the triggerer with "Response read out of order" when a trigger is cancelled
    while it asks for its connection.
    """
    readings = _readings.setdefault(asyncio.get_running_loop(), {})
    if conn_id not in readings:
        reading = readings[conn_id] = asyncio.create_task(SlurmHook(conn_id).aget_settings())
        reading.add_done_callback(lambda _: readings.pop(conn_id))
    return await asyncio.shield(readings[conn_id])


def until_loop_ends() -> asyncio.Task[None]:
    """Return a task that nothing cancels but the end of the event loop, which cancels every one."""
    loop = asyncio.get_running_loop()
    if loop not in _ends:
        _ends[loop] = loop.create_task(_sleep_for_ever(), name="slurm-loop-end")
        # It holds the loop.
        _ends[loop].add_done_callback(lambda _: _ends.pop(loop, None))
    return _ends[loop]


async def _sleep_for_ever() -> None:
    await asyncio.get_running_loop().create_future()
