"""Long work on an event loop, in pieces."""

from __future__ import annotations

import asyncio
import time

# Nothing that is done for all who wait keeps the event loop from others for longer (seconds).
_TURN_SECONDS = 0.02


class Turns:
    """Gives the other tasks of the event loop their turn in the middle of long work."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether this turn has lasted long enough."""
        return time.monotonic() - self._since > _TURN_SECONDS

    async def give(self) -> None:
        """Let others run."""
        await asyncio.sleep(0)
        self._since = time.monotonic()
