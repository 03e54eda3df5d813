"""The submission of many tasks together, where this version of the provider has it."""

from __future__ import annotations

import asyncio
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from benchmarks.ours import HELD_SPEC, identity_of

if TYPE_CHECKING:
    from airflow_provider_csc.transport.base import SiteSettings

IS_THERE = find_spec("airflow_provider_csc.client.gatherer") is not None
# Seconds that the first waits for others, as the operator's default.
_WINDOW = 5.0


def plan(name: str, count: int) -> list[Any]:
    """Return what tasks hand over, each from its worker, before any of it is submitted."""
    from airflow_provider_csc.hooks.slurm import SlurmHook

    hook, since = SlurmHook(), int(time.time())
    return [
        hook.plan_shared(HELD_SPEC, identity_of(name, number), since=since, is_fresh=True)
        for number in range(count)
    ]


async def submit_together(settings: SiteSettings, members: list[Any]) -> None:
    """Submit for all of them, who come at the same time; each has its job's id then."""
    from airflow_provider_csc.client.gatherer import gatherer_for

    gatherer = gatherer_for(settings)
    await asyncio.gather(
        *(gatherer.submit(each, window=_WINDOW, report=lambda _text: None) for each in members)
    )
