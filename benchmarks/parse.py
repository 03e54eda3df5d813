"""How long Airflow needs for a DAG file with a hundred of our tasks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.child import clean_environment
from benchmarks.figures import Case, Headline, Measured, Part, Row, Table, figure, show
from benchmarks.site import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.running import Bench

_FILES = {"ours": "slurm.py", "bash": "bash.py"}
_TARGET = 1.2
_RUN_SECONDS = 7.0
# The whole process; what a DAG processor's child does; the same with all imports done.
_KINDS = {
    "process": "a fresh process, all imports",
    "first": "parsing, with the import of the operators",
    "again": "parsing alone",
}


def cases(bench: Bench) -> list[Case]:
    """Return the one case: both files in turn."""
    runs = bench.settings.pick(10, 2)
    return [
        Case(
            name="100 tasks",
            subject="ours",
            n=100,
            measure=lambda: measure(runs),
            seconds=2 * _RUN_SECONDS * (runs + 1),
        )
    ]


def measure(runs: int) -> Measured:
    """Parse both files in turn, each time in a fresh process; the first of each is not counted."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _FILES}
    with tempfile.TemporaryDirectory(prefix="bench-parse-") as home:
        for turn in range(runs + 1):
            for name, file in _FILES.items():
                seconds = parse_in_process(file, home)
                if turn:
                    found[name].append(seconds)
    figures = {
        f"{name}_{kind}": figure([each[kind] for each in seconds], "s")
        for name, seconds in found.items()
        for kind in _KINDS
    }
    return Measured(figures=figures)


def parse_in_process(file: str, home: str) -> dict[str, float]:
    """Return the seconds that parsing took inside, and those of the whole process."""
    path = Path(__file__).parent / "parsed" / file
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.parse_once", str(path)],
        cwd=CHECKOUT,
        env={**clean_environment(home), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
    )
    passed = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    inside: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**inside, "process": passed}


# The page


def times(row: Row, kind: str) -> float:
    """Return how many times as long ours takes."""
    return row.figures[f"ours_{kind}"].median / row.figures[f"bash_{kind}"].median


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each thing that is timed."""
    lines = [
        [
            words,
            show(row.figures[f"ours_{kind}"], factor=1000),
            show(row.figures[f"bash_{kind}"], factor=1000),
            f"{times(row, kind):.2f} x",
        ]
        for row in rows
        for kind, words in _KINDS.items()
    ]
    return Table(("100 tasks in one file, ms", "ours", "BashOperator", "ratio"), lines)


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """Return each ratio against its target."""
    return [
        Headline(
            f"100 tasks, {words}, ms",
            show(row.figures[f"ours_{kind}"], factor=1000),
            f"BashOperator: {show(row.figures[f'bash_{kind}'], factor=1000)}",
            f"{times(row, kind):.2f} x",
            f"≤ {_TARGET} x",
            times(row, kind) <= _TARGET,
        )
        for row in rows
        for kind, words in _KINDS.items()
    ]


PART = Part(
    name="parse",
    about="the parsing of a DAG file with 100 tasks",
    cases=cases,
    table=table,
    headlines=headlines,
    needs_site=False,
)
