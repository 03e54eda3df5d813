"""How fast files go to an object store and come back: ours beside what else there is."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Case, Headline, Measured, Part, Row, Table, figure, show, show_ratio
from benchmarks.plot import bar_chart
from benchmarks.store import bench_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.running import Bench
    from benchmarks.store import BenchStore

MIB = 1024**2
WORKERS = 8
OURS, HOOK, BOTO, RCLONE, S3CMD, CURL = "ours", "S3Hook", "boto3", "rclone", "s3cmd", "curl"
# As many bytes hashed as ours hashes: what it costs to verify with what verifies nothing.
BOTO_MD5, CURL_MD5 = "boto3 and MD5", "curl and md5sum"
# What cannot be beaten by who transfers, or transfers and verifies.
LIMITS = (CURL, CURL_MD5)
SUBJECTS = (OURS, HOOK, BOTO, BOTO_MD5, RCLONE, S3CMD, *LIMITS)
_PYTHON = (OURS, HOOK, BOTO, BOTO_MD5)
# Name, number of files, bytes of each; for a trial, too.
SHAPES = (
    ("1 x 4 GiB", 1, 4096 * MIB, 1, 64 * MIB),
    ("20 x 200 MB", 20, 200_000_000, 2, 10_000_000),
    ("2,000 x 64 kB", 2000, 64_000, 50, 64_000),
)
# Who compares checksums of all it transfers; the others compare none.
VERIFYING = (OURS, BOTO_MD5, RCLONE, S3CMD, CURL_MD5)
_CONN = "bench_store"
# As fast as the fastest other program ours is to be, and MB of memory it is to stay below.
_WANTED, _MOST_MEMORY = 0.9, 300
# How many times as fast as S3Hook ours is to be, by shape and direction.
_WANTED_OF_HOOK = {(0, "down"): 1.5, (2, "up"): 3, (2, "down"): 3}


@dataclass(frozen=True, slots=True)
class Load:
    """Files that are transferred, and where."""

    store: BenchStore
    bucket: str
    top: Path
    source: Path
    names: list[str]
    size: int

    @property
    def target(self) -> Path:
        """Return the directory that is downloaded to."""
        return self.top / "back"


def cases(bench: Bench) -> list[Case]:
    """
    Return each shape with each subject; both directions are measured together.

    The first case of a shape measures all its subjects in turns, so that what else the machine does
    falls upon each of them; the others take their share of that.
    """
    rounds: dict[str, dict[str, Measured]] = {}
    return [
        Case(
            name=f"{shape[0]}, {subject}",
            subject=subject,
            n=number,
            measure=lambda shape=shape, subject=subject: take(rounds, bench, shape, subject),  # type: ignore[misc]
            seconds=45.0 * bench.settings.repeats,
        )
        for number, shape in enumerate(SHAPES)
        for subject in SUBJECTS
    ]


Shape = tuple[str, int, int, int, int]


def take(
    rounds: dict[str, dict[str, Measured]], bench: Bench, shape: Shape, subject: str
) -> Measured:
    """Return what was measured of a subject, with the others of its shape."""
    if shape[0] not in rounds:
        rounds[shape[0]] = measure(bench, shape)
    return rounds[shape[0]][subject]


def measure(bench: Bench, shape: Shape) -> dict[str, Measured]:
    """Have everybody send and read the files once, and that some times."""
    there = [name for name in SUBJECTS if name in _PYTHON or shutil.which(name.split()[0])]
    count = bench.settings.pick(shape[1], shape[3])
    size = bench.settings.pick(shape[2], shape[4])
    found: dict[str, dict[str, list[float]]] = {subject: {} for subject in there}
    with load_of(count, size) as load:
        for number in range(bench.settings.repeats):
            # Nobody always comes after the same.
            for subject in [*there[number:], *there[:number]]:
                transfer(load, subject, found[subject])
    units = {"rate": "MB/s", "cpu": "s", "memory": "MB", "seconds": "s"}
    absent = {
        subject: Measured(notes=[f"{subject}: not measured, it is not installed"])
        for subject in SUBJECTS
    }
    return absent | {
        subject: Measured(
            figures={
                name: figure(values, units[name.partition("_")[2]])
                for name, values in samples.items()
            },
            detail={"files": count, "bytes": size, "in turns with": len(there)},
        )
        for subject, samples in found.items()
    }


def transfer(load: Load, subject: str, samples: dict[str, list[float]]) -> None:
    """Send and read the files once, in a process of its own for each."""
    for direction in ("up", "down"):
        for name, value in run_child(load, subject, direction).items():
            samples.setdefault(f"{direction}_{name}", []).append(value)
    check(load)
    shutil.rmtree(load.target)
    load.store.empty(load.bucket)


@contextmanager
def load_of(count: int, size: int) -> Iterator[Load]:
    """Make files in memory, where no disk limits what is measured, and a bucket."""
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        store = stack.enter_context(shared_store())
        bucket = stack.enter_context(store.bucket(f"bench-{os.getpid()}-{time.time_ns()}"))
        source = top / "source"
        source.mkdir()
        names = [f"f{number:05}" for number in range(count)]
        block = os.urandom(min(size, 64 * MIB))
        for number, name in enumerate(names):
            with (source / name).open("wb") as file:
                file.write(number.to_bytes(8))
                left = size - 8
                while left:
                    left -= file.write(block[:left])
        yield Load(store, bucket, top, source, names, size)


_stores: list[BenchStore] = []
_open = ExitStack()


@contextmanager
def shared_store() -> Iterator[BenchStore]:
    """Yield the one store that all cases use; it is taken down when the process ends."""
    import atexit

    if not _stores:
        _stores.append(_open.enter_context(bench_store()))
        atexit.register(_open.close)
    yield _stores[0]


def run_child(load: Load, subject: str, direction: str) -> dict[str, float]:
    """Transfer once; return MB/s, processor seconds and memory of the process and its children."""
    load.target.mkdir(exist_ok=True)
    command = commands(load, subject, direction)
    environment = {
        **os.environ,
        f"AIRFLOW_CONN_{_CONN.upper()}": load.store.connection(),
        "RCLONE_CONFIG": str(write_rclone(load)),
    }
    environment.pop("AWS_CA_BUNDLE", None)
    done = subprocess.run(
        [sys.executable, "-I", Path(__file__).with_name("used.py"), *command],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{subject} {direction}: exit code {done.returncode}")
    # Of Python programs the time counts that they transfer, not the import of Airflow.
    *told, used = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    used |= told[-1] if told else {}
    return {"rate": len(load.names) * load.size / used["seconds"] / 1e6, **used}


def commands(load: Load, subject: str, direction: str) -> list[str]:
    """Return the command that transfers everything."""
    if subject in _PYTHON:
        places = [str(load.source), load.bucket, str(load.target)]
        return [sys.executable, "-m", "benchmarks.transfer_once", subject, direction, *places]
    is_up = direction == "up"
    match subject:
        case "rclone":
            remote = f"store:{load.bucket}"
            places = [str(load.source), remote] if is_up else [remote, str(load.target)]
            return ["rclone", "copy", f"--transfers={WORKERS}", *places]
        case "s3cmd":
            remote = f"s3://{load.bucket}/"
            places = (
                ["put", f"{load.source}/", remote] if is_up else ["get", remote, f"{load.target}/"]
            )
            return ["s3cmd", "-q", "-c", str(write_s3cmd(load)), "--recursive", *places]
        case "curl":
            parallel = ["--parallel", "--parallel-max", str(WORKERS)]
            quiet = ["-sSf", "--no-progress-meter"]
            return ["curl", *quiet, *parallel, "--config", str(write_curl(load, direction))]
        case _:
            curl = shlex.join(commands(load, CURL, direction))
            place = shlex.quote(str(load.source if is_up else load.target))
            digest = f"find {place} -type f -exec md5sum {{}} + >/dev/null"
            return ["sh", "-c", " && ".join((digest, curl) if is_up else (curl, digest))]


def write_rclone(load: Load) -> Path:
    """Write rclone's configuration."""
    path, facts = load.top / "rclone.conf", load.store.facts
    path.write_text(
        "[store]\ntype=s3\nprovider=Ceph\nforce_path_style=true\nno_check_bucket=true\n"
        f"endpoint={load.store.url}\naccess_key_id={facts['s3_access_key']}\n"
        f"secret_access_key={facts['s3_secret_key']}\n"
    )
    return path


def write_s3cmd(load: Load) -> Path:
    """Write s3cmd's configuration, as CSC's tools do but for the parts."""
    path, facts = load.top / "s3cfg", load.store.facts
    host = load.store.url.partition("://")[2]
    path.write_text(
        f"[default]\naccess_key={facts['s3_access_key']}\nsecret_key={facts['s3_secret_key']}\n"
        f"host_base={host}\nhost_bucket={host}\nuse_https=False\n"
    )
    return path


def write_curl(load: Load, direction: str) -> Path:
    """Write a URL for each file, with which curl needs no key: the limit of a plain transfer."""
    client, lines = load.store.client(), []
    for name in load.names:
        method = "put_object" if direction == "up" else "get_object"
        url = client.generate_presigned_url(method, {"Bucket": load.bucket, "Key": name})
        if direction == "up":
            lines += [f'url = "{url}"', f'upload-file = "{load.source / name}"']
        else:
            lines += [f'url = "{url}"', f'output = "{load.target / name}"']
    path = load.top / "curl.conf"
    path.write_text("\n".join(lines))
    return path


def check(load: Load) -> None:
    """See that what came back is what was sent; the benchmark itself compares every byte."""
    for name in load.names:
        done = subprocess.run(["cmp", load.source / name, load.target / name], check=False)
        if done.returncode:
            raise RuntimeError(f"{name} is not what was sent")


# The page


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each shape and subject."""
    head = (
        "what", "by", "verified", "up, MB/s", "down, MB/s",
        "processor up, s", "processor down, s", "memory, MB",
    )  # fmt: skip
    names = ("up_rate", "down_rate", "up_cpu", "down_cpu", "down_memory")
    lines = [
        [SHAPES[row.n or 0][0], row.subject, "yes" if row.subject in VERIFYING else "no"]
        + [show(row.figures[name]) for name in names]
        for row in rows
    ]
    return Table(head, lines)


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """Hold ours against the fastest of the others, curl, and the Amazon provider's hook."""
    found: list[Headline] = []
    pairs: list[tuple[float, float]] = []
    memory: list[float] = []
    for number, shape in enumerate(SHAPES):
        same = {row.subject: row for row in rows if row.n == number}
        ours = same.pop(OURS, None)
        limits = [same.pop(name) for name in LIMITS if name in same]
        if ours is None or not same:
            continue
        for direction in ("up", "down"):
            key, what = f"{direction}_rate", f"{shape[0]} {direction}, MB/s"
            verifying = [row for name, row in same.items() if name in VERIFYING]
            for who, others, wanted in (
                ("the fastest that verifies", verifying, _WANTED),
                ("the fastest", same.values(), None),
            ):
                if others:
                    best = max(others, key=lambda row: row.figures[key].median)
                    found.append(_hold(what, key, ours, best, f"{best.subject}, {who}", wanted))
            found += [
                _hold(what, key, ours, limit, f"{limit.subject}, a limit") for limit in limits
            ]
            if HOOK in same and (number, direction) in _WANTED_OF_HOOK:
                wanted = _WANTED_OF_HOOK[number, direction]
                found.append(_hold(what, key, ours, same[HOOK], HOOK, wanted))
            pairs += [(ours.figures[key].median, row.figures[key].median) for row in verifying]
            memory.append(ours.figures[f"{direction}_memory"].spread[1])
    return [*found, _count_faster(pairs), _show_memory(memory)] if found else []


def _hold(
    what: str, key: str, ours: Row, other: Row, name: str, wanted: float | None = None
) -> Headline:
    share = ours.figures[key].median / other.figures[key].median
    return Headline(
        what=what,
        ours=show(ours.figures[key]),
        other=f"{name}: {show(other.figures[key])}",
        ratio=show_ratio(share),
        target="" if wanted is None else f"≥ {wanted} x",
        is_met=None if wanted is None else share >= wanted,
    )


def _count_faster(pairs: Sequence[tuple[float, float]]) -> Headline:
    faster = sum(ours > other for ours, other in pairs)
    return Headline(
        what="transfers in which ours is faster",
        ours=str(faster),
        other=f"of {len(pairs)}: each shape, direction and other that verifies",
        ratio=show_ratio(faster / len(pairs)),
        target="≥ 2 of 3",
        is_met=3 * faster >= 2 * len(pairs),
    )


def _show_memory(memory: Sequence[float]) -> Headline:
    return Headline(
        what="memory of a transfer, MB at most",
        ours=f"{max(memory):.0f}",
        other="",
        ratio="",
        target="< 300",
        is_met=max(memory) < _MOST_MEMORY,
    )


def plots(rows: Sequence[Row]) -> dict[str, str]:
    """Draw who is how fast; ours comes first in each group."""
    groups: dict[str, dict[str, float]] = {}
    for number, shape in enumerate(SHAPES):
        for direction in ("up", "down"):
            rates = {
                row.subject: row.figures[f"{direction}_rate"].median
                for row in rows
                if row.n == number
            }
            if OURS in rates:
                groups[f"{shape[0]} {direction}"] = rates
    chart = bar_chart("Files to an object store (up) and back (down)", "MB/s", groups)
    return {"transfer": chart} if chart else {}


PART = Part(
    name="transfer",
    about="files to an object store and back, beside other programs",
    cases=cases,
    table=table,
    headlines=headlines,
    plots=plots,
    needs_site=False,
)
