"""A clock that is off, as a request's signature tells it to the object store."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def set_clock(monkeypatch: pytest.MonkeyPatch, shift: dt.timedelta) -> None:
    """Let botocore sign as a machine would whose clock is off; it takes no clock as argument."""
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime",
        lambda remove_tzinfo=True: (dt.datetime.now(dt.UTC) + shift).replace(
            tzinfo=None if remove_tzinfo else dt.UTC
        ),
    )
