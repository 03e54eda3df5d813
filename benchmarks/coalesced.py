"""Where the submission of many tasks as one array is plugged in; None while there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from airflow_provider_csc.transport.base import SiteSettings

# Submits so many held jobs under a name, together; returns when all have their ids.
Coalesced = Callable[[SiteSettings, str, int], Awaitable[None]]

COALESCED: Coalesced | None = None
