"""How long to leave a service alone that does not answer."""

from __future__ import annotations

import random

_MAX_BACKOFF_SECONDS = 300.0


def backoff_seconds(failures: int, shortest: float) -> float:
    """Return the wait after some failures in a row: doubling, capped, with a quarter of jitter."""
    grown = min(shortest * 2.0 ** min(failures - 1, 16), _MAX_BACKOFF_SECONDS)
    return max(grown * random.uniform(0.75, 1.0), shortest)  # noqa: S311 - no secret hangs on it
