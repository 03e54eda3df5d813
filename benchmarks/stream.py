"""How late, and at what cost, the lines of jobs come to their tasks' logs: 1 MB/s in all."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.child import child
from benchmarks.figures import (
    Case,
    Measured,
    Part,
    Row,
    Table,
    figure,
    percent,
    short,
    show,
)
from benchmarks.login_node import install_program, login_node
from benchmarks.ours import connections, deferred_trigger, open_gate
from benchmarks.plot import line_chart
from benchmarks.processes import family_memory, family_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.child import Child
    from benchmarks.login_node import LoginNode
    from benchmarks.running import Bench

SIZES = (1, 50, 200)
RATE = 1_000_000
LINE = 100
INTERVAL = 5.0
_WRITE_SECONDS = 40.0
# For the estimate of how long it takes.
_SUBMIT_SECONDS = 0.35
_SETTLE_SECONDS = 10.0
_PATIENCE = 240.0
_WRITER = Path(__file__).parent / "writer.py"
_LINE = re.compile(r"bench (\d+\.\d+) ")


def cases(bench: Bench) -> list[Case]:
    """Return one case for each number of jobs, repeated."""
    settings = bench.settings
    return [
        Case(
            name=f"{n} jobs, {repeat + 1}",
            subject="ours",
            n=n,
            measure=lambda n=n: measure(bench, n),  # type: ignore[misc]
            seconds=40 + _WRITE_SECONDS + n * (_SUBMIT_SECONDS + 0.1),
        )
        for repeat in range(settings.repeats if not settings.is_trial else 1)
        for n in settings.pick(SIZES, (1, 4))
    ]


def measure(bench: Bench, n: int) -> Measured:
    """Let N jobs write at the same time, and read their tasks' logs."""
    site = bench.cluster
    free = site.free_processors()
    if n > free:
        return Measured(notes=[f"{n} jobs: not measured, the cluster runs {free} more at a time"])
    rate = bench.settings.pick(RATE, RATE // 10)
    seconds = bench.settings.pick(_WRITE_SECONDS, 10.0)
    with site.jobs() as jobs, site.scratch() as scratch, login_node(site) as node:
        install_program(_WRITER, scratch)
        variables = site.connections(node, work_dir=scratch / "runs")
        with connections(variables), child(["benchmarks.triggers"], variables) as process:
            # Many writers are woken less often each, so that they cost little beside what is
            # measured.
            tick = 0.05 if n == 1 else 0.25
            gate = scratch / "gate"
            words = [str(gate), str(seconds), str(rate / n), str(tick)]
            for _ in range(n):
                trigger = deferred_trigger(
                    command=["/usr/bin/python3", str(scratch / _WRITER.name), *words],
                    options={"mem": "30M", "time": "00:15:00", "ntasks": 1},
                    poll_interval=INTERVAL,
                    log_limit_bytes=RATE * int(seconds) * 2,
                    job_name=jobs.name,
                )
                process.add([trigger])
            begin = open_gate(gate, _SETTLE_SECONDS)
            measured = look_while_written(process, node, begin, seconds)
            process.wait_for(range(n), _PATIENCE)
            lags = list(read_lags(process.log))
            resident, _ = family_memory(process.pid)
    expected = int(n * int(seconds / tick) * (rate / n * tick / LINE))
    measured.figures |= {
        "lag_p50": figure(figure(lags).quantile(0.5), "s"),
        "lag_p99": figure(figure(lags).quantile(0.99), "s"),
        "lag_max": figure(max(lags), "s"),
        "shown": figure(len(lags) / expected, "of the lines written"),
        "resident": figure(resident, "MB"),
    }
    measured.detail = {"interval": INTERVAL, "lines": len(lags), "bytes_per_second": rate}
    return measured


def look_while_written(process: Child, node: LoginNode, begin: float, seconds: float) -> Measured:
    """Return the processor time of both sides while the jobs write."""
    time.sleep(max(begin - time.time(), 0))
    before, commands = (family_seconds(process.pid), node.seconds()), node.commands()
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    after = family_seconds(process.pid), node.seconds()
    ours, theirs = (percent((b - a) / passed) for a, b in zip(before, after, strict=True))
    return Measured(
        figures={
            "cpu": figure(ours, "% of a core"),
            "site_cpu": figure(theirs, "% of a core"),
            "commands": figure((node.commands() - commands) * 60 / passed, "per minute"),
        }
    )


def read_lags(log: Path) -> Iterator[float]:
    """Yield the seconds from the writing of each line to its record in the log."""
    with log.open() as file:
        for line in file:
            record = json.loads(line)
            if found := _LINE.match(str(record.get("event", ""))):
                shown = datetime.fromisoformat(record["timestamp"]).timestamp()
                yield shown - float(found.group(1))


# The page


def by_size(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Return the rows of each number of jobs."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.n or 0, []).append(row)
    return found


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each number of jobs, over its repetitions."""
    head = (
        "jobs that write", "times", "lag p50, s", "lag p99, s", "lines shown",
        "our side, % of a core", "sshd and children, % of a core", "remote commands/min",
    )  # fmt: skip
    names = ("lag_p50", "lag_p99", "shown", "cpu", "site_cpu", "commands")
    lines = []
    for n, same in sorted(by_size(rows).items()):
        joined = [figure([row.figures[name].median for row in same]) for name in names]
        lines.append([str(n), str(len(same)), *(show(each) for each in joined)])
    return Table(head, lines)


def plots(rows: Sequence[Row]) -> dict[str, str]:
    """Draw the lag over the number of jobs."""
    series = {
        name: [
            (float(n), figure([row.figures[key].median for row in same]).median)
            for n, same in by_size(rows).items()
        ]
        for name, key in (("p99", "lag_p99"), ("p50", "lag_p50"))
    }
    title = f"From a line's writing to the task's log, {short(RATE / 1e6)} MB/s in all"
    drawing = line_chart(title, "jobs that write", "s", series)
    return {"stream-lag": drawing} if drawing else {}


# No headlines: no peer streams many jobs' logs over one connection.
PART = Part(
    name="stream",
    about="log lines of jobs that write 1 MB/s in all",
    cases=cases,
    table=table,
    plots=plots,
)
