"""
Real daemons, real kills: break everything at random while tasks run, and count what went wrong.

    python -m tests.chaos [--short] [--seed N] [--only NAME ...] [--scale X] [--directory DIR]
    python -m tests.chaos --page     put the last run's table onto docs/reliability.md

Starts a cluster of its own and takes it down at the end. Exits with 1 unless every count but the
first two is 0.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import platform
import random
import shutil
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.chaos import real_airflow, report
from tests.chaos.cluster import CHECKOUT, DEFAULT_DIR, Cluster
from tests.chaos.faults import Names
from tests.chaos.processes import Forks
from tests.chaos.proxy import Proxy
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.stage import Options, Stage

BUILD = CHECKOUT / "build" / "chaos"


def main() -> int:
    given = parse_arguments()
    if given.page:
        report.update_page(BUILD / "table.md")
        return 0
    seed = given.seed if given.seed is not None else random.randrange(10**6)
    options = Options(
        seed=seed, scale=given.scale, short=given.short, kind=given.kind, source=given.source
    )
    names = given.only or [
        name for name, scenario in SCENARIOS.items() if scenario.is_short or not given.short
    ]
    print(f"seed {seed}; the same again: --seed {seed}", flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    lock = (BUILD / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # a second run waits for the first
    cluster = Cluster.start(given.directory)
    try:
        rows = asyncio.run(run(cluster, options, names, given))
    finally:
        if not given.keep:
            asyncio.run(real_airflow.end(cluster))
            asyncio.run(cluster.control("wipe"))
    report.write(BUILD, rows, conditions(cluster, options))
    print(f"\n{report.render_table(rows)}\n\n{report.render_figures(rows)}")
    return 0 if all(row.is_clean for row in rows) else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the form that is part of make test")
    parser.add_argument("--seed", type=int, help="of every random number; a new one by default")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many tasks")
    parser.add_argument("--workers", type=int, default=12, help="worker slots")
    parser.add_argument("--kind", choices=("slurm", "naive"), default="slurm")
    parser.add_argument("--directory", default=os.environ.get("CHAOS_DIR", DEFAULT_DIR))
    parser.add_argument("--source", type=Path, default=CHECKOUT, help="where the provider lies")
    parser.add_argument("--keep", action="store_true", help="leave all of it running")
    parser.add_argument("--page", action="store_true", help="update docs/reliability.md and end")
    return parser.parse_args()


async def run(
    cluster: Cluster, options: Options, names: list[str], given: argparse.Namespace
) -> list[report.Row]:
    rows: dict[str, report.Row] = {}
    logs = BUILD / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    (logs / "outcomes").mkdir(parents=True)
    hosts = Names(BUILD / "hosts")
    with tempfile.TemporaryDirectory(prefix="chaos-airflow-") as home:
        environment = {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": os.pathsep.join([str(given.source), str(CHECKOUT)]),
        }
        print(report.render_line(report.HEAD), flush=True)
        async with Forks(logs, environment, hosts.path, workers=given.workers) as forks:

            async def play(name: str) -> None:
                row = await perform(name, cluster, options, forks, hosts)
                rows[name] = row
                print(report.render_line(row.cells), flush=True)
                for line in (*row.all_findings, *row.notes):
                    print(f"    {line}", flush=True)

            # Local ones run two at a time, since their tasks mostly wait. In the short form they all
            # run at once, also beside the outages of the others, and suffer with them.
            local = [name for name in names if SCENARIOS[name].is_local]
            turns = asyncio.Semaphore(len(local) if options.short else 2)

            async def play_beside(name: str) -> None:
                async with turns:
                    await play(name)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(play_beside(name)) for name in local]
                if not options.short:
                    await asyncio.gather(*tasks)
                for name in names:
                    if name not in local:
                        await play(name)
    return [rows[name] for name in names]


async def perform(
    name: str, cluster: Cluster, options: Options, forks: Forks, hosts: Names
) -> report.Row:
    directory = cluster.shared("ledger")
    for left in directory.glob(f"{name}-{options.seed}-*"):
        left.unlink()
    async with Proxy(target=cluster.facts["ssh_port"]) as proxy:
        stage = Stage(
            name=name,
            options=options,
            cluster=cluster,
            forks=forks,
            names=hosts,
            rng=random.Random(f"{options.seed} {name}"),
            proxy=proxy,
            directory=directory,
        )
        began = time.monotonic()
        try:
            await SCENARIOS[name].play(stage)
            return await stage.reckon(time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - the others are still worth running
            await cluster.control("up")
            traceback.print_exc()
            return report.Row.broken(name, repr(error))
        finally:
            await stage.close()


def conditions(cluster: Cluster, options: Options) -> dict[str, Any]:
    return {
        "form": "short" if options.short else "full",
        "seed": options.seed,
        "scale": options.scale,
        "cores": os.cpu_count(),
        "Slurm": cluster.facts["slurm_version"],
        "Airflow": metadata.version("apache-airflow"),
        "Python": platform.python_version(),
        "kernel": platform.release(),
        "date": time.strftime("%F"),
    }


if __name__ == "__main__":
    sys.exit(main())
