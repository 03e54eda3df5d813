"""
flytekitplugins-slurm's connector, asked for each job as Flyte's backend asks it.

    python -m benchmarks.peers.flyte LOG_FILE

Each wait is ``{"job_id", "user", "key_file", "interval"}``. FlytePropeller's ten workers ask the
connector for one job after the other; the propeller, and gRPC between it and the connector, are not
here, which is in the peer's favour. The host's name and port stand in ``~/.ssh/config``, because
its connection has no field for a port. What goes wrong is logged, and asked again, as there.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from flytekitplugins.slurm.script.connector import SlurmJobMetadata, SlurmScriptConnector

from benchmarks import serving
from benchmarks.peers import FLYTE_HOST

_WORKERS = 10


async def main() -> None:
    """Serve until the parent says the end."""
    logging.basicConfig(filename=sys.argv[1])
    connector = SlurmScriptConnector()
    workers = asyncio.Semaphore(_WORKERS)

    async def ask_on(_index: int, what: dict[str, Any]) -> None:
        config = {"host": FLYTE_HOST, "username": what["user"], "client_keys": [what["key_file"]]}
        job = SlurmJobMetadata(job_id=what["job_id"], ssh_config=config, outputs={})
        while True:
            async with workers:
                # One failed answer ends no wait there: it is logged, then asked again.
                try:
                    await connector.get(job)
                except Exception:
                    logging.exception("asking for a job")  # noqa: LOG015 - the process is its own
            await asyncio.sleep(what["interval"])

    await serving.serve(ask_on)


if __name__ == "__main__":
    asyncio.run(main())
