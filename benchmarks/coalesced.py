"""The submission of many tasks together, where this version of the provider has it."""

from __future__ import annotations

import asyncio
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks.ours import held_request

if TYPE_CHECKING:
    from airflow_provider_csc.transport.base import SiteSettings

IS_THERE = find_spec("airflow_provider_csc.client.gatherer") is not None
# Seconds that the first waits for others, as the operator's default.
_WINDOW = 5.0


async def submit_together(settings: SiteSettings, name: str, count: int) -> None:
    """Submit so many held jobs as their tasks would at the same time; all have their ids then."""
    from airflow_provider_csc.client.gatherer import gatherer_for
    from airflow_provider_csc.slurm.coalescing import Member

    gatherer, since = gatherer_for(settings), int(time.time())
    members = []
    for number in range(count):
        request, identity, label = held_request(settings, name, number)
        members.append(
            Member(request=request, identity=identity, label=label, since=since, is_fresh=True)
        )
    await asyncio.gather(
        *(gatherer.submit(each, window=_WINDOW, report=lambda _text: None) for each in members)
    )
