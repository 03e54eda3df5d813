"""
What one more waiting trigger takes of a triggerer's memory.

    python -m benchmarks.trigger_memory [N] [--lines]

Runs N (default 2000) of our triggers in Airflow's own `TriggerRunner`, with all the arguments that
the operator gives them, over a site that answers at once (see `poller_memory`); and, in another
process, as many that look for a file once an hour. Prints what tracemalloc sees of each and how
much more ours take; with ``--lines``, where that is allocated.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from typing import Any
from unittest.mock import patch

from benchmarks import poller_memory as site_of

OURS, FILE = "ours", "file"
# So many begin before it is looked at first, for much is imported late.
FIRST = 20
_LINES = 40


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in (OURS, FILE):
        asyncio.run(measure(sys.argv[1], int(sys.argv[2]), has_lines="--lines" in sys.argv))
        return
    jobs = next((word for word in sys.argv[1:] if word.isdigit()), "2000")
    options = ["--lines"] if "--lines" in sys.argv else []
    sizes = {subject: run(subject, jobs, options) for subject in (FILE, OURS)}
    print(f"{sizes[FILE]} {sizes[OURS]} {sizes[OURS] - sizes[FILE]}")


def run(subject: str, jobs: str, options: list[str]) -> int:
    """Measure one subject in a process of its own, since Airflow configures the process's logs."""
    words = [sys.executable, "-m", "benchmarks.trigger_memory", subject, jobs, *options]
    connection = {
        "conn_type": "slurm",
        "host": "login.example.org",
        "login": "a_users_name",
        "extra": {"no_host_key_check": True, "work_dir": site_of.BASE},
    }
    environment = {**os.environ, "AIRFLOW_CONN_SLURM_DEFAULT": json.dumps(connection)}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    *lines, size = done.stdout.splitlines()
    for line in lines:
        print(line)
    return int(size)


def stored(subject: str, number: int) -> str:
    """Return a trigger as Airflow stores it."""
    if subject == FILE:
        path = "airflow.providers.standard.triggers.file.FileTrigger"
        kwargs: dict[str, Any] = {"filepath": "/nonexistent/bench", "poke_interval": 3600.0}
        return json.dumps([path, kwargs])
    from airflow_provider_csc.slurm.attempt import Attempt
    from airflow_provider_csc.triggers.slurm import SlurmJobTrigger

    spec = site_of.spec(number)
    trigger = SlurmJobTrigger(
        slurm_conn_id="slurm_default",
        job_ids=spec.job_ids,
        run_dir=spec.run_dir,
        stdout_path=spec.stdout_path,
        stderr_path=spec.stderr_path,
        attempt=Attempt(deadline=2e9).to_payload(),
        task_key={
            "dag_id": "a_dag_of_mine",
            "run_id": "manual__2026-01-01T00:00:00+00:00",
            "task_id": "a_task_of_mine",
            "map_index": number,
        },
    )
    return json.dumps(trigger.serialize())


async def measure(subject: str, jobs: int, *, has_lines: bool) -> None:
    """Print the bytes that each more takes; those of the site's answer about it are its own."""
    from airflow.jobs.triggerer_job_runner import TriggerRunner
    from airflow.sdk.log import configure_logging

    from airflow_provider_csc.client import poller as pollers

    with open(os.devnull, "wb", buffering=0) as output:  # noqa: ASYNC230, PTH123 - before all
        configure_logging(json_output=True, output=output)
        runner = TriggerRunner()
        site = site_of.QuietSite(jobs)
        everything, site.squeue = site.squeue, b"\n".join(site.squeue.split(b"\n")[:FIRST])
        things = [stored(subject, number) for number in range(jobs)]

        async def begin(numbers: range) -> None:
            for number in numbers:
                path, kwargs = json.loads(things[number])
                trigger = runner.get_trigger_by_classpath(path)(**kwargs)
                trigger.task_instance = trigger.timeout_after = None
                trigger.trigger_id = number
                name = f"ID {number}"
                runner.triggers[number] = {
                    "name": name,
                    "events": 0,
                    "is_watcher": False,
                    "task": asyncio.create_task(runner.run_trigger(number, trigger), name=name),
                }
                await asyncio.sleep(0)
            await settle()

        async def settle() -> None:
            """Let all begin, and the poller hear of all."""
            await asyncio.sleep(1)
            for poller in pollers._pollers.get(asyncio.get_running_loop(), {}).values():  # noqa: SLF001
                assert len(poller._watchers) == len(runner.triggers)  # noqa: SLF001
                # In the second one it is written down by what each job is known again.
                await site_of.round_of(poller)
                await site_of.round_of(poller)
            await asyncio.sleep(0.5)
            gc.collect()

        with patch.object(pollers, "SshTransport", lambda _: site):
            tracemalloc.start()
            await begin(range(FIRST))
            before = tracemalloc.take_snapshot() if has_lines else None
            held = tracemalloc.get_traced_memory()[0]
            site.squeue = everything
            await begin(range(FIRST, jobs))
            grown = tracemalloc.get_traced_memory()[0] - held
        if before is not None:
            found = tracemalloc.take_snapshot().compare_to(before, "lineno")
            for each in found[:_LINES]:
                place = each.traceback[0]
                where = f"{'/'.join(place.filename.split('/')[-3:])}:{place.lineno}"
                print(f"{subject:>6} {each.size_diff / (jobs - FIRST):8.0f} {where}")
        print(round(grown / (jobs - FIRST)), flush=True)
    # Thousands need not leave one by one.
    os._exit(0)


if __name__ == "__main__":
    main()
