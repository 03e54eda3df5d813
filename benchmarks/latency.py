"""How soon the end of a job is known, while many others wait."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from benchmarks.child import child
from benchmarks.figures import Case, Figure, Headline, Measured, Part, Row, Table, figure, short
from benchmarks.login_node import login_node
from benchmarks.ours import connections, deferred_trigger, open_gate
from benchmarks.plot import line_chart
from benchmarks.waiting import make_directories, our_trigger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.child import Child
    from benchmarks.running import Bench

SIZES = (10, 100, 1000)
INTERVAL = 5.0
_SAMPLES = 60
# Seconds from the first to the last end of a batch of jobs.
_SPREAD = 45.0
# For the estimate of how long it takes.
_SUBMIT_SECONDS = 0.35
# How often a job looks whether it may begin, and how long it has to see that (seconds).
_LOOK_SECONDS = 1
_BEGIN_SECONDS = 4.0
_PATIENCE = 120.0


def cases(bench: Bench) -> list[Case]:
    """Return one case for each number of other waits."""
    batches = bench.settings.repeats
    each = _SAMPLES * _SUBMIT_SECONDS + _SPREAD + 2 * INTERVAL
    return [
        Case(
            name=f"beside {n} waits",
            subject="ours",
            n=n,
            measure=lambda n=n: measure(bench, n),  # type: ignore[misc]
            seconds=20 + 0.02 * n + batches * each,
        )
        for n in bench.settings.pick(SIZES, (5,))
    ]


def measure(bench: Bench, n: int) -> Measured:
    """Let short jobs end at random instants beside N held ones; compare clocks."""
    site, chance = bench.cluster, random.Random(f"{bench.settings.seed} {n}")
    count = min(bench.settings.pick(_SAMPLES, 6), site.free_processors())
    with site.jobs() as jobs, site.scratch() as scratch, login_node(site) as node:
        runs = scratch / "runs"
        held = jobs.submit_held(n)
        make_directories(site, [runs / job.token for job in held])
        others = [our_trigger(job.job_id, str(runs / job.token), INTERVAL) for job in held]
        variables = site.connections(node, work_dir=runs)
        with connections(variables), child(["benchmarks.triggers"], variables) as process:
            process.add(others)
            time.sleep(2 * INTERVAL)
            batches = [
                end_some(process, scratch / f"ends-{number}", jobs.name, count, chance)
                for number in range(bench.settings.repeats)
            ]
    everything = [seconds for batch in batches for seconds in batch]
    return Measured(
        figures={
            "latency": figure(everything, "s"),
            "batch_p50": figure([quantile(batch, 0.5) for batch in batches], "s"),
            "batch_p99": figure([quantile(batch, 0.99) for batch in batches], "s"),
        },
        detail={"interval": INTERVAL, "floor": 1.0, "samples": len(everything)},
    )


def quantile(samples: Sequence[float], share: float) -> float:
    """Return a quantile of some samples."""
    return Figure(tuple(samples)).quantile(share)


def end_some(
    process: Child, ends: Path, name: str, count: int, chance: random.Random
) -> list[float]:
    """Submit jobs that end at instants drawn beforehand; return how late each event came."""
    gate, known = ends.with_name(f"{ends.name}-gate"), {}
    for number in range(count):
        mark = ends.with_name(f"{ends.name}-{number}")
        trigger = deferred_trigger(
            command=end_after(gate, chance.uniform(0, _SPREAD), mark),
            options={"mem": "10M", "time": "00:10:00", "ntasks": 1},
            poll_interval=INTERVAL,
            job_name=name,
        )
        known[process.add([trigger]) - 1] = mark
    open_gate(gate, _BEGIN_SECONDS)
    process.wait_for(known, _SPREAD + _PATIENCE)
    late = []
    for index, mark in known.items():
        event = process.fired[index]
        if event["payload"]["states"] != ["COMPLETED"]:
            raise RuntimeError(f"a job ended otherwise: {event}")
        late.append(event["at"] - float(mark.read_text()))
    return late


def end_after(gate: Path, seconds: float, mark: Path) -> str:
    """Return the command of a job that ends so long after all have begun, and writes down when."""
    left = (
        f"awk -v begin=$begin -v now=$(date +%s.%N) "
        f"'BEGIN {{ s = begin + {seconds:.3f} - now; print (s > 0 ? s : 0) }}'"
    )
    return (
        f"until [ -s {gate} ]; do sleep {_LOOK_SECONDS}; done; read -r begin <{gate}; "
        f'sleep "$({left})"; date +%s.%N >{mark}'
    )


# The page


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each number of other waits."""
    head = ("jobs beside", "ends", "interval, s", "p50, s", "p99, s", "latest, s")
    lines = []
    for row in rows:
        late = row.figures["latency"]
        lines.append(
            [
                f"{row.n:,}",
                str(len(late.samples)),
                short(row.detail["interval"]),
                *(short(value) for value in (late.quantile(0.5), late.quantile(0.99))),
                short(late.spread[1]),
            ]
        )
    return Table(head, lines)


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """Return the largest number against its target."""
    if not rows:
        return []
    most = max(rows, key=lambda row: row.n or 0)
    late, limit = most.figures["latency"].quantile(0.99), most.detail["interval"] + 1
    what = f"end to event beside {most.n:,} waits: p99, s"
    return [Headline(what, short(late), "", "", f"≤ {limit:g} (interval + 1)", late <= limit)]


def plots(rows: Sequence[Row]) -> dict[str, str]:
    """Draw the latency over the number of waits."""
    series = {
        name: [(float(row.n or 0), row.figures["latency"].quantile(share)) for row in rows]
        for name, share in (("p99", 0.99), ("p50", 0.5))
    }
    drawing = line_chart("From a job's end to its event", "jobs that wait beside", "s", series)
    return {"latency": drawing} if drawing else {}


PART = Part(
    name="latency",
    about="from a job's end to the trigger's event",
    cases=cases,
    table=table,
    headlines=headlines,
    plots=plots,
)
