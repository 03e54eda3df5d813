"""How long many writers of one record take, beside writers that take turns by a lock in Redis."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import (
    Case,
    Figure,
    Headline,
    Measured,
    Part,
    Row,
    Table,
    figure,
    find,
    show,
    show_ratio,
)
from benchmarks.object_store import bucket, object_store
from benchmarks.peers import BENCH_PYTHON
from benchmarks.site import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.running import Bench

OURS = "ours, no lock"
EAGER = "lock in Redis, value in the object store, looked at each 5 ms"
DEFAULT = "lock in Redis, value in the object store, looked at each 100 ms"
INSIDE = "lock and value in Redis, looked at each 5 ms"
_LOCKS: dict[str, dict[str, Any]] = {
    EAGER: {"place": "object", "look": 0.005},
    DEFAULT: {"place": "object", "look": None},
    INSIDE: {"place": "redis", "look": 0.005},
}
_TARGET = 3.0
_START_SECONDS = 20.0


def cases(bench: Bench) -> list[Case]:
    """Return the one case: all ways in turn, so that what else goes on meets all."""
    writers, updates = bench.settings.pick((16, 25), (4, 5))
    return [
        Case(
            name=f"{writers} writers, {updates} updates each",
            subject=OURS,
            n=writers * updates,
            measure=lambda: measure(bench, writers, updates),
            seconds=_START_SECONDS + 60.0 * bench.settings.repeats,
        )
    ]


def measure(bench: Bench, writers: int, updates: int) -> Measured:
    """Let each way make all updates, several times."""
    seconds: dict[str, list[float]] = {}
    steps: dict[str, list[float]] = {}
    notes: list[str] = []
    with object_store(bench.cluster) as facts, bucket(facts) as name, redis() as socket:
        if socket is None:
            notes.append("the lock in Redis: not measured, there is no redis-server or redis-py")
        ways = {OURS: ("benchmarks.record_writers", sys.executable, {})}
        if socket is not None:
            ways |= {
                lock: ("benchmarks.peers.redis_lock", str(BENCH_PYTHON), settings)
                for lock, settings in _LOCKS.items()
            }
        for _ in range(bench.settings.repeats):
            for way, (module, python, settings) in ways.items():
                plan = {
                    **settings,
                    "writers": writers,
                    "updates": updates,
                    "bucket": name,
                    "key": f"record-{secrets.token_hex(4)}",
                    "endpoint_url": facts["s3_endpoint_url"],
                    "access_key": facts["s3_access_key"],
                    "secret_key": facts["s3_secret_key"],
                    "socket": socket,
                }
                done = run(python, module, plan)
                if done["count"] != writers * updates:
                    raise RuntimeError(f"{way}: {done['count']} of {writers * updates} updates")
                seconds.setdefault(way, []).append(done["seconds"])
                steps.setdefault(way, []).append(statistics.median(done["steps"]))
    return Measured(
        figures={
            **{way: figure(values, "s") for way, values in seconds.items()},
            **{f"{way}, one": figure(values, "s") for way, values in steps.items()},
        },
        notes=notes,
    )


def run(python: str, module: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Run the writers of one way."""
    done = subprocess.run(
        [python, "-m", module],
        input=f"{json.dumps(plan)}\n",
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def redis() -> Iterator[str | None]:
    """Run a Redis that only listens on a socket file; yields that, or None where there is none."""
    program = shutil.which("redis-server")
    if program is None or not has_redis_py():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as home:
        socket = f"{home}/redis.sock"
        words = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", home]
        process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
        try:
            wait_for(Path(socket), process)
            yield socket
        finally:
            process.terminate()
            process.wait()


def has_redis_py() -> bool:
    """Whether the peers' environment has what the lock needs."""
    if not BENCH_PYTHON.exists():
        return False
    words = [str(BENCH_PYTHON), "-c", "import boto3, redis"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server has made its socket."""
    end = time.monotonic() + _START_SECONDS
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("redis-server did not start")
        time.sleep(0.05)


# The page


def times(ours: Figure, other: Figure) -> float:
    """Return how many times as long ours takes."""
    return ours.median / other.median


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each way."""
    lines = []
    for row in rows:
        ours = row.figures[OURS]
        for way in (OURS, *_LOCKS):
            if way in row.figures:
                whole, one = row.figures[way], row.figures[f"{way}, one"]
                ratio = show_ratio(times(ours, whole))
                lines.append([way, show(whole), show(one, factor=1000), ratio])
    count = rows[0].n if rows else 0
    return Table((f"{count} updates of one record", "all, s", "one, ms", "ours takes"), lines)


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """Return ours against the lock that guards the same object, where it is looked at often."""
    found = find(rows, OURS, rows[0].n) if rows else None
    if found is None or EAGER not in found.figures:
        return []
    ours, other = found.figures[OURS], found.figures[EAGER]
    return [
        Headline(
            f"{found.n} updates of one record by many, s",
            show(ours),
            f"{EAGER}: {show(other)}",
            show_ratio(times(ours, other)),
            f"≤ {_TARGET:g} x",
            times(ours, other) <= _TARGET,
        )
    ]


PART = Part(
    name="records",
    about="many writers of one record, beside a lock in Redis",
    cases=cases,
    table=table,
    headlines=headlines,
)
