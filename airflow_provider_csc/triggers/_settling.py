"""Keep a trigger from bringing its task back before Airflow's scheduler can take it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from airflow import __version__ as airflow_version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Value = TypeVar("Value")

# Up to 3.3.2 at least, the scheduler fails a task that its trigger has brought back before the
# scheduler has heard that the process which deferred it has ended (apache/airflow#66374, #67287,
# #72716). It heard three to seven seconds after the deferral in three of the reports, and 27 in
# one, so this makes it rare and does not exclude it. Before 3.3 such a task is failed also while it
# is only scheduled again, so that a busy scheduler has to be waited for longer.
SETTLE_SECONDS = 30.0 if airflow_version.startswith(("3.1.", "3.2.")) else 10.0


async def settled(follow: Callable[[], Awaitable[Value]]) -> Value:
    """Return what a trigger waits for, and not within the trigger's first seconds."""
    began = time.monotonic()
    value = await follow()
    await settle(began)
    return value


async def settle(began: float) -> None:
    """Wait for the rest of the first seconds of a trigger that began then."""
    await asyncio.sleep(began + SETTLE_SECONDS - time.monotonic())
