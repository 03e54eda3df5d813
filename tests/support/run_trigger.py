"""
Run a stored trigger as a process of its own, the way a triggerer does, so that it can be killed.

It prints each line it would log, then "EVENT {...}". SIGTERM stops it as a triggerer's shutdown
does: its tasks are cancelled.
"""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger
from tests.support import children

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path


def start_trigger(trigger: SlurmJobTrigger, output: Path) -> ForkServerProcess:
    """Start it; what it prints is appended to a file."""
    return children.start(_main, json.dumps(trigger.serialize()[1]), output=output)


class PrintedLog:
    def info(self, message: str, /, *args: object) -> None:
        print(message % args if args else message, flush=True)

    def log(self, _level: int, message: str, /, *args: object) -> None:
        self.info(message, *args)


async def run(kwargs: dict[str, Any]) -> None:
    trigger = SlurmJobTrigger(**kwargs)
    work = asyncio.ensure_future(
        trigger.wait(await SlurmHook(trigger.slurm_conn_id).aget_settings(), PrintedLog())
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    results = await work
    print("EVENT", json.dumps([result.to_payload() for result in results]), flush=True)


def _main(kwargs: str) -> None:
    asyncio.run(run(json.loads(kwargs)))
