"""
What this provider costs, beside what else there is, measured on the real cluster.

    python -m benchmarks [PART ...] [--resume] [--trial] [--cluster DIR] [--keep] [--seed N]
    python -m benchmarks --list      the parts, and how long they take
    python -m benchmarks --page      put what was measured onto docs/performance.md

Starts a cluster of its own (/var/lib/csc-bench, ports + 2000) and takes it down at the end; with
``--cluster`` it uses one that is up, and leaves it alone. Each part writes results/PART.json as it
goes; ``--resume`` measures only what is missing there. ``--trial`` sees with small numbers that it
works: its results go to build/bench and onto no page. Needs root, for the user it becomes and for
the kernel's record of processes.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.page import read_results, render_summary, render_table, update_page
from benchmarks.running import Bench, Settings, run_part
from benchmarks.site import site_for

if TYPE_CHECKING:
    from benchmarks.figures import Part


def load_parts() -> list[Part]:
    """Return all parts, in the order in which they are run; the quick ones first."""
    from benchmarks import (
        deferred,
        latency,
        mapped,
        overhead,
        parse,
        records,
        stream,
        submit,
        transfer,
        waiting,
    )

    modules = (
        parse, submit, records, latency, stream, overhead, deferred, mapped, transfer, waiting,
    )  # fmt: skip
    return [module.PART for module in modules]


def main() -> int:
    """Run what was asked for, and print the table."""
    prepare_airflow()
    given, parts = parse_arguments()
    if given.list:
        return list_parts(parts)
    if given.page:
        update_page(parts)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("benchmark: ended by SIGTERM"))
    settings = Settings.for_trial(given.seed) if given.trial else Settings(seed=given.seed)
    chosen = [part for part in parts if not given.parts or part.name in given.parts]
    with ExitStack() as stack:
        site = None
        if any(part.needs_site for part in chosen):
            site = stack.enter_context(site_for(given.cluster, keep=given.keep))
        for part in chosen:
            bench = Bench(settings, site if part.needs_site else None)
            results = run_part(part, bench, resume=given.resume)
            print(f"\n{render_table(part.table(results.measured))}", flush=True)
    if settings.is_trial:
        print("\nA trial: small numbers on whatever machine; these are no figures.")
    else:
        update_page(parts)
    known = read_results(chosen, is_trial=settings.is_trial)
    print(f"\n{render_summary(chosen, known)}")
    return 0 if all(results.is_complete for results in known.values()) else 1


def prepare_airflow() -> None:
    """Give this process, which runs operators, a home of its own and a quiet log."""
    home = tempfile.mkdtemp(prefix="bench-airflow-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["AIRFLOW_HOME"] = home
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"


def list_parts(parts: list[Part]) -> int:
    """Print what there is; how long a part takes is known from its cases."""
    bench = Bench(Settings(), None)
    for part in parts:
        minutes = sum(case.seconds for case in part.cases(bench)) / 60
        print(f"{part.name:10} {minutes:4.0f} min  {part.about}")
    return 0


def parse_arguments() -> tuple[argparse.Namespace, list[Part]]:
    """Read the command line; the parts are loaded for their names."""
    parts = load_parts()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in parts]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default all: {' '.join(names)}")
    parser.add_argument("--resume", action="store_true", help="keep what results/ has already")
    parser.add_argument("--trial", action="store_true", help="small numbers, to see that it works")
    parser.add_argument("--cluster", type=Path, help="directory of a cluster that is up")
    parser.add_argument("--keep", action="store_true", help="leave the benchmark's cluster up")
    parser.add_argument("--seed", type=int, default=1, help="of every random number")
    parser.add_argument("--page", action="store_true", help="update docs/performance.md and end")
    parser.add_argument("--list", action="store_true", help="list the parts and end")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(names):
        parser.error(f"no part {sorted(unknown)}; there are: {' '.join(names)}")
    return given, parts


if __name__ == "__main__":
    sys.exit(main())
