"""
A triggerer's inside alone: stored triggers on one event loop, run by Airflow's own `TriggerRunner`.

    python -m benchmarks.triggers LOG_FILE [--trace]

Each is ``{"path": CLASS_PATH, "kwargs": {...}}``; see `serving` for the rest. Their log lines go to
LOG_FILE as JSON, with the time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from airflow.jobs.triggerer_job_runner import TriggerRunner
from airflow.sdk.log import configure_logging

from benchmarks import serving

if TYPE_CHECKING:
    from collections.abc import Coroutine


class _Outbox(deque[Any]):
    """The runner's events, told as soon as they are there."""

    def append(self, entry: Any) -> None:
        serving.tell(fired=entry[0], at=time.time(), payload=_describe(entry[1].payload))


def _describe(payload: Any) -> dict[str, Any]:
    """Return what says whether the wait ended well."""
    if isinstance(payload, dict) and "results" in payload:
        return {"states": [result["state"] for result in payload["results"]]}
    return {"status": payload.get("status")} if isinstance(payload, dict) else {}


async def main(log_file: str, *, trace: bool) -> None:
    """Serve until the parent says the end."""
    with open(log_file, "wb", buffering=0) as output:  # noqa: ASYNC230, PTH123 - before all
        configure_logging(json_output=True, output=output)
        runner = TriggerRunner()
        runner.events = _Outbox()

        def begin(index: int, what: dict[str, Any]) -> Coroutine[Any, Any, None]:
            trigger = runner.get_trigger_by_classpath(what["path"])(**what["kwargs"])
            trigger.task_instance = None
            trigger.trigger_id = index
            runner.triggers[index] = {"name": f"ID {index}", "events": 0, "is_watcher": False}
            return runner.run_trigger(index, trigger)

        if trace:
            serving.start_tracing()
        await serving.serve(begin)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], trace="--trace" in sys.argv))
