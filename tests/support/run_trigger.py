"""Run a stored trigger as a process of its own, the way a triggerer does, so that it can be killed.

usage: run_trigger.py KWARGS_JSON; prints each line it would log, then "EVENT {...}".
SIGTERM stops it as a triggerer's shutdown does: its tasks are cancelled.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger


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


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
