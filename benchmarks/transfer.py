"""How fast files go to an object store and come back: ours beside what else there is."""

from __future__ import annotations

import json
import os
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
from benchmarks.store import bench_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.running import Bench
    from benchmarks.store import BenchStore

MIB = 1024**2
WORKERS = 8
OURS, HOOK, BOTO, RCLONE, S3CMD, CURL = "ours", "S3Hook", "boto3", "rclone", "s3cmd", "curl"
SUBJECTS = (OURS, HOOK, BOTO, RCLONE, S3CMD, CURL)
# Name, number of files, bytes of each; for a trial, too.
SHAPES = (
    ("1 x 4 GiB", 1, 4096 * MIB, 1, 64 * MIB),
    ("20 x 200 MB", 20, 200_000_000, 2, 10_000_000),
    ("2,000 x 64 kB", 2000, 64_000, 50, 64_000),
)
# Who compares checksums of all it transfers; the others compare none.
VERIFIES = {OURS: "yes", HOOK: "no", BOTO: "no", RCLONE: "yes", S3CMD: "yes", CURL: "no"}
_CONN = "bench_store"


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
    """Return each shape with each subject; both directions are measured together."""
    return [
        Case(
            name=f"{shape[0]}, {subject}",
            subject=subject,
            n=number,
            measure=lambda shape=shape, subject=subject: measure(bench, shape, subject),  # type: ignore[misc]
            seconds=60.0 * bench.settings.repeats,
        )
        for number, shape in enumerate(SHAPES)
        for subject in SUBJECTS
    ]


def measure(bench: Bench, shape: tuple[str, int, int, int, int], subject: str) -> Measured:
    """Send and read files some times, each time in a process of its own."""
    if subject in (RCLONE, S3CMD, CURL) and shutil.which(subject) is None:
        return Measured(notes=[f"{subject}: not measured, it is not installed"])
    count = bench.settings.pick(shape[1], shape[3])
    size = bench.settings.pick(shape[2], shape[4])
    found: dict[str, list[float]] = {}
    with load_of(count, size) as load:
        for _ in range(bench.settings.repeats):
            for direction in ("up", "down"):
                run = run_child(load, subject, direction)
                for name, value in run.items():
                    found.setdefault(f"{direction}_{name}", []).append(value)
            check(load)
            shutil.rmtree(load.target)
            load.store.empty(load.bucket)
    units = {"rate": "MB/s", "cpu": "s", "memory": "MB", "seconds": "s"}
    return Measured(
        figures={
            name: figure(values, units[name.partition("_")[2]]) for name, values in found.items()
        },
        detail={"files": count, "bytes": size},
    )


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
    began = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    output = child.stdout.read() if child.stdout else ""
    _, status, usage = os.wait4(child.pid, 0)
    passed = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{subject} {direction}: exit code {child.returncode}")
    # Of Python programs the time counts that they transfer, not the import of Airflow.
    told = json.loads(output.splitlines()[-1]) if output.startswith("{") else {}
    seconds = told.get("seconds", passed)
    return {
        "rate": len(load.names) * load.size / seconds / 1e6,
        "seconds": seconds,
        "cpu": told.get("cpu", usage.ru_utime + usage.ru_stime),
        "memory": usage.ru_maxrss / 1024,
    }


def commands(load: Load, subject: str, direction: str) -> list[str]:
    """Return the command that transfers everything."""
    if subject in (OURS, HOOK, BOTO):
        places = [str(load.source), load.bucket, str(load.target)]
        return [sys.executable, "-m", "benchmarks.transfer_once", subject, direction, *places]
    remote = f"store:{load.bucket}"
    match subject, direction:
        case "rclone", "up":
            return ["rclone", "copy", f"--transfers={WORKERS}", str(load.source), remote]
        case "rclone", "down":
            return ["rclone", "copy", f"--transfers={WORKERS}", remote, str(load.target)]
        case "s3cmd", "up":
            settings = ["-q", "-c", str(write_s3cmd(load)), "--recursive"]
            return ["s3cmd", *settings, "put", f"{load.source}/", f"s3://{load.bucket}/"]
        case "s3cmd", "down":
            settings = ["-q", "-c", str(write_s3cmd(load)), "--recursive"]
            return ["s3cmd", *settings, "get", f"s3://{load.bucket}/", f"{load.target}/"]
        case _:
            parallel = ["--parallel", f"--parallel-max={WORKERS}"]
            return ["curl", "-sSf", *parallel, "--config", str(write_curl(load, direction))]


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
        [SHAPES[row.n or 0][0], row.subject, VERIFIES[row.subject]]
        + [show(row.figures[name]) for name in names]
        for row in rows
    ]
    return Table(head, lines)


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """Hold ours against the fastest of the others, for each shape and direction."""
    found = []
    for number, shape in enumerate(SHAPES):
        same = {row.subject: row for row in rows if row.n == number}
        ours = same.pop(OURS, None)
        if ours is None or not same:
            continue
        for direction in ("up", "down"):
            key = f"{direction}_rate"
            best = max(same.values(), key=lambda row: row.figures[key].median)
            share = ours.figures[key].median / best.figures[key].median
            found.append(
                Headline(
                    what=f"{shape[0]} {direction}, MB/s",
                    ours=show(ours.figures[key]),
                    other=f"{best.subject}, the fastest: {show(best.figures[key])}",
                    ratio=show_ratio(share),
                    target="≥ 0.9 x",
                    is_met=share >= 0.9,  # noqa: PLR2004 - as it says
                )
            )
    return found


PART = Part(
    name="transfer",
    about="files to an object store and back, beside other programs",
    cases=cases,
    table=table,
    headlines=headlines,
    needs_site=False,
)
