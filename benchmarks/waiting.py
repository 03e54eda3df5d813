"""What it costs to wait for many jobs: of ours, and of what else waits over SSH."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.child import child
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
    percent,
    ratio,
    short,
    show,
    show_ratio,
)
from benchmarks.login_node import install_program, login_node
from benchmarks.peers import BENCH_PYTHON, FLYTE_HOST
from benchmarks.plot import line_chart
from benchmarks.processes import family_memory, family_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.child import Child
    from benchmarks.login_node import LoginNode
    from benchmarks.running import Bench
    from benchmarks.site import Jobs, Site

OURS, SSH, FLYTE, BLOCKING = "ours", "SSHRemoteJobTrigger", "flyte connector", "sbatch --wait"
# A trigger that asks no site: what Airflow's runner itself keeps for any trigger.
IDLE = "FileTrigger"
SIZES = (10, 100, 300, 1000, 5000)
# A connection each, or one process of Airflow each: more does not fit into the time, or the machine.
PEER_SIZES = (10, 100, 300)
BLOCKING_SIZES = (3, 10)
# Of what makes a connection for each job, so that sshd's MaxStartups refuses none of them.
PER_SECOND = 8.0
IDLE_SIZES = (1000,)
# Begin in a traced process before it is looked at first, for much is imported late.
FIRST = 10
COMPARED = 300
FEWER, MOST = 1000, 5000
_MAX_COMMANDS, _MAX_BYTES = 2, 4096
_SHIM = Path(__file__).parent / "peers" / "scontrol"


@dataclass(frozen=True, slots=True)
class Waiters:
    """How the waits of one subject are started: in which process, and with what."""

    words: list[str]
    environment: dict[str, str]
    things: list[dict[str, Any]]
    per_second: float | None = None
    python: str = sys.executable
    ssh_config: str | None = None


def cases(bench: Bench) -> list[Case]:
    """Return every subject with every number of jobs, small numbers first."""
    pick = bench.settings.pick
    sizes: dict[str, Sequence[int]] = {
        OURS: pick(SIZES, (5, 20)),
        SSH: pick(PEER_SIZES, (5, 20)),
        FLYTE: pick(PEER_SIZES, (5,)),
        BLOCKING: pick(BLOCKING_SIZES, (2,)),
        IDLE: pick(IDLE_SIZES, (20,)),
    }
    pairs = sorted((n, subject) for subject, numbers in sizes.items() for n in numbers)
    return [
        Case(
            name=f"{subject}, {n} jobs",
            subject=subject,
            n=n,
            measure=lambda subject=subject, n=n: measure(bench, subject, n),  # type: ignore[misc]
            seconds=expected_seconds(bench, subject, n),
        )
        for n, subject in pairs
    ]


def expected_seconds(bench: Bench, subject: str, n: int) -> float:
    """Return how long a case should take."""
    settings = bench.settings
    watched = 10 + settings.interval * (2 + settings.windows * settings.window_intervals)
    traced = 15 + 4 * settings.interval if subject in (OURS, SSH, IDLE) else 0
    starts = 2 * n / PER_SECOND if subject == SSH else 0
    return 10 + 0.02 * n + (watched if subject != IDLE else 0) + traced + starts


def measure(bench: Bench, subject: str, n: int) -> Measured:
    """Have N held jobs waited for, and look at everybody meanwhile."""
    if subject == FLYTE and not Path(BENCH_PYTHON).exists():
        return Measured(notes=[f"{FLYTE}: not measured, it is not installed in .venv-bench"])
    site = bench.cluster
    with site.jobs() as jobs, site.scratch() as scratch:
        path_first = scratch / "bin" if subject == FLYTE else None
        if path_first is not None:
            site.run("mkdir", str(path_first))
            install_program(_SHIM, path_first)
        with login_node(site, path_first=path_first) as node:
            build = {OURS: ours, SSH: ssh, FLYTE: flyte, BLOCKING: blocking, IDLE: idle}[subject]
            waiters = build(bench, node, scratch, jobs, n)
            if subject == IDLE:
                return trace(bench, waiters)
            measured = watch(bench, node, waiters)
            if failures := measured.detail["tracebacks"]:
                measured.notes.append(f"{subject}, {n} jobs: {failures} tracebacks in its log.")
            if subject in (OURS, SSH):
                traced = trace(bench, waiters)
                measured.figures |= traced.figures
                measured.detail |= traced.detail
    return measured


def ours(bench: Bench, node: LoginNode, scratch: Path, jobs: Jobs, n: int) -> Waiters:
    """Return our triggers, as the operator stores them, with a run directory for each job."""
    runs, held = scratch / "runs", jobs.submit_held(n)
    make_directories(bench.cluster, [runs / job.token for job in held])
    things = [
        our_trigger(job.job_id, str(runs / job.token), bench.settings.interval) for job in held
    ]
    environment = bench.cluster.connections(node, work_dir=runs)
    return Waiters(["benchmarks.triggers"], environment, things)


def our_trigger(job_id: str, run_dir: str, interval: float) -> dict[str, Any]:
    """Return one of our triggers in its stored form."""
    return {
        "path": "airflow_provider_csc.triggers.slurm.SlurmJobTrigger",
        "kwargs": {
            "slurm_conn_id": "slurm_default",
            "job_ids": [job_id],
            "run_dir": run_dir,
            "stdout_path": f"{run_dir}/stdout.log",
            "poll_interval": interval,
        },
    }


def ssh(bench: Bench, node: LoginNode, scratch: Path, jobs: Jobs, n: int) -> Waiters:
    """
    Return the SSH provider's triggers, each with a job directory as its operator makes one.

    What the operator would run there, an ``sbatch --wait`` for each job, is left out, which is in
    the peer's favour.
    """
    places = [scratch / "ssh-jobs" / job.token for job in jobs.submit_held(n)]
    make_directories(bench.cluster, places)
    touch = 'while read -r path; do : >"$path/stdout.log" || exit; done'
    bench.cluster.run("bash", "-c", touch, stdin="".join(f"{place}\n" for place in places))
    things = [
        {
            "path": "airflow.providers.ssh.triggers.ssh_remote_job.SSHRemoteJobTrigger",
            "kwargs": {
                "ssh_conn_id": "ssh_default",
                "remote_host": None,
                "job_id": place.name,
                "job_dir": str(place),
                "log_file": f"{place}/stdout.log",
                "exit_code_file": f"{place}/exit_code",
                "remote_os": "posix",
                "poll_interval": bench.settings.interval,
            },
        }
        for place in places
    ]
    environment = bench.cluster.connections(node, work_dir=scratch)
    return Waiters(["benchmarks.triggers"], environment, things, per_second=PER_SECOND)


def flyte(bench: Bench, node: LoginNode, _scratch: Path, jobs: Jobs, n: int) -> Waiters:
    """Return what asks flytekitplugins-slurm's connector for each job."""
    site = bench.cluster
    job = {"user": site.user, "key_file": site.key_file, "interval": bench.settings.interval}
    things = [{**job, "job_id": each.job_id} for each in jobs.submit_held(n)]
    config = f"Host {FLYTE_HOST}\n  HostName {site.facts['ssh_host']}\n  Port {node.port}\n"
    words = ["benchmarks.peers.flyte"]
    return Waiters(words, {}, things, python=str(BENCH_PYTHON), ssh_config=config)


def blocking(bench: Bench, node: LoginNode, scratch: Path, jobs: Jobs, n: int) -> Waiters:
    """Return workers that each run SSHOperator with ``sbatch --wait``."""
    command = (
        f"sbatch --wait --hold --mem=10M --output=/dev/null --job-name={jobs.name} --wrap=true"
    )
    environment = bench.cluster.connections(node, work_dir=scratch)
    return Waiters(["benchmarks.peers.blocking", command], environment, [{}] * n)


def idle(_bench: Bench, _node: LoginNode, _scratch: Path, _jobs: Jobs, n: int) -> Waiters:
    """Return triggers that look for a file once an hour."""
    trigger = {
        "path": "airflow.providers.standard.triggers.file.FileTrigger",
        "kwargs": {"filepath": "/nonexistent/bench", "poke_interval": 3600.0},
    }
    return Waiters(["benchmarks.triggers"], {}, [trigger] * n)


def make_directories(site: Site, paths: Sequence[Path]) -> None:
    """Make directories of the user."""
    lines = "".join(f"{path}\n" for path in paths)
    site.run("xargs", "--delimiter=\\n", "mkdir", "--parents", stdin=lines)


@contextmanager
def waiting(waiters: Waiters, *options: str) -> Iterator[Child]:
    """Start the process, and all waits in it."""
    with child(
        [*waiters.words, *options],
        waiters.environment,
        python=waiters.python,
        ssh_config=waiters.ssh_config,
    ) as process:
        process.add(waiters.things, per_second=waiters.per_second)
        yield process


def watch(bench: Bench, node: LoginNode, waiters: Waiters) -> Measured:
    """Let all begin, and then measure some windows of time."""
    settings = bench.settings
    with waiting(waiters) as process:
        time.sleep(2 * settings.interval)
        windows = [window(bench, node, process.pid) for _ in range(settings.windows)]
        resident, proportional = family_memory(process.pid)
        check_all_wait(process)
        troubles = process.log.read_text(errors="replace").count("Traceback")
    measured = Measured(
        figures={
            **collect(windows),
            "memory": figure(proportional, "MB, proportional"),
            "resident": figure(resident, "MB"),
        },
        detail={
            "windows": windows,
            "interval": settings.interval,
            "tracebacks": troubles,
        },
    )
    if windows[0]["processes"] is None:
        measured.notes.append(
            "The kernel lets us keep no record of processes: they are not counted."
        )
    return measured


_UNITS = {
    "cpu": "% of a core",
    "site_cpu": "% of a core",
    "controller_cpu": "% of a core",
    "connections": "at most",
    "commands": "per minute",
    "processes": "per minute",
    "requests": "per minute",
}


def collect(windows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """Return one figure of each kind, with a sample from each window."""
    return {
        name: figure([each[name] for each in windows], unit)
        for name, unit in _UNITS.items()
        if all(each[name] is not None for each in windows)
    }


def window(bench: Bench, node: LoginNode, pid: int) -> dict[str, Any]:
    """Return what was used and asked within one window of time."""
    site, settings = bench.cluster, bench.settings
    node.look()
    record, requests, commands = node.record_size(), site.requests_of_user(), node.commands()
    began = time.monotonic()
    used = [family_seconds(pid), node.seconds(), site.controller_seconds()]
    connections = 0
    while time.monotonic() < began + settings.interval * settings.window_intervals:
        connections = max(connections, node.connections())
        node.look()
        time.sleep(1)
    seconds = time.monotonic() - began
    now = [family_seconds(pid), node.seconds(), site.controller_seconds()]
    shares = [percent((after - before) / seconds) for before, after in zip(used, now, strict=True)]
    ended = node.ended_since(record)
    asked = {
        name: count - requests.get(name, 0)
        for name, count in site.requests_of_user().items()
        if count > requests.get(name, 0)
    }
    per_minute = 60 / seconds
    return {
        "seconds": seconds,
        "cpu": shares[0],
        "site_cpu": shares[1],
        "controller_cpu": shares[2],
        "connections": connections,
        "commands": (node.commands() - commands) * per_minute,
        "processes": None if ended is None else sum(ended.values()) * per_minute,
        "processes_by_command": ended,
        "requests": asked.pop("user", 0) * per_minute,
        "requests_by_type": asked,
    }


def check_all_wait(process: Child) -> None:
    """Raise when a wait has ended, for all are for what does not happen."""
    ended = [*process.failed.values(), *process.fired.values()]
    if ended:
        raise RuntimeError(f"{len(ended)} waits have ended: {ended[0]}")


def trace(bench: Bench, waiters: Waiters) -> Measured:
    """
    Return what one more wait takes of memory: some first, then the others, in a traced process.

    That is another process than the one whose time was measured, for tracing takes time.
    """
    few = min(FIRST, len(waiters.things) // 2)
    with waiting(replace(waiters, things=waiters.things[:few]), "--trace") as process:
        time.sleep(2 * bench.settings.interval)
        before = process.memory()
        process.add(waiters.things[few:], per_second=waiters.per_second)
        time.sleep(2 * bench.settings.interval)
        after = process.memory()
        check_all_wait(process)
    more = len(waiters.things) - few
    by_file = {
        name: (size - before["by_file"].get(name, 0)) / more
        for name, size in after["by_file"].items()
    }
    largest = dict(sorted(by_file.items(), key=lambda item: -item[1])[:20])
    grown = figure((after["traced"] - before["traced"]) / more, "bytes for each more")
    return Measured(figures={"traced": grown}, detail={"traced_by_file": largest})


# The page


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return ours first, each by the number of jobs."""
    return sorted(rows, key=lambda row: (row.subject != OURS, row.subject, row.n or 0))


def table(rows: Sequence[Row]) -> Table:
    """Return a line for each subject and number of jobs."""
    head = (
        "who waits", "jobs", "our side, % of a core", "MB", "bytes a job", "connections",
        "remote commands/min", "remote processes/min", "sshd and children, % of a core",
        "requests to slurmctld/min", "slurmctld, % of a core",
    )  # fmt: skip
    names = ("commands", "processes", "site_cpu", "requests", "controller_cpu")
    lines = []
    for row in in_order(rows):
        known = row.figures
        lines.append(
            [
                row.subject,
                f"{row.n:,}",
                show(known.get("cpu")),
                show(known.get("memory")),
                show(known.get("traced")),
                show(known.get("connections")),
                *(show(known.get(name)) for name in names),
            ]
        )
    return Table(head, lines)


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """Return ours against each peer at the same number, and against the targets."""
    found = [line for peer in (SSH, FLYTE) for line in against(rows, peer)]
    if (most := find(rows, OURS, MOST)) is not None:
        found += at_most(rows, most)
    return found


def against(rows: Sequence[Row], peer: str) -> list[Headline]:
    """Return how many times more a peer uses."""
    mine, theirs = find(rows, OURS, COMPARED), find(rows, peer, COMPARED)
    if mine is None or theirs is None:
        return []
    targets = {"cpu": 50.0, "processes": 100.0} if peer == SSH else {}
    words = {
        "cpu": "processor of our side, % of a core",
        "processes": "remote processes a minute",
        "commands": "remote commands a minute",
        "connections": "SSH connections",
        "site_cpu": "sshd and children, % of a core",
    }
    lines = []
    for name, what in words.items():
        if name not in mine.figures or name not in theirs.figures:
            continue
        times = ratio(theirs.figures[name].median, mine.figures[name].median)
        goal = targets.get(name)
        lines.append(
            Headline(
                f"{COMPARED} waits: {what}",
                show(mine.figures[name]),
                f"{peer}: {show(theirs.figures[name])}",
                show_ratio(times),
                f"≥ {goal:.0f} x" if goal else "",
                is_met=None if goal is None or times is None else times >= goal,
            )
        )
    return lines


def at_most(rows: Sequence[Row], most: Row) -> list[Headline]:
    """Return what the largest number is held to."""
    figures, prefix = most.figures, f"{MOST:,} waits:"
    opened = figures["connections"]
    commands = figures["commands"].median * most.detail["interval"] / 60
    found = [
        Headline(
            f"{prefix} SSH connections", show(opened), "", "", "1", is_met=opened.spread[1] <= 1
        ),
        Headline(
            f"{prefix} remote commands per interval",
            short(commands),
            "",
            "",
            f"≤ {_MAX_COMMANDS}",
            is_met=commands <= _MAX_COMMANDS,
        ),
    ]
    if (base := find(rows, IDLE, IDLE_SIZES[0])) is not None:
        whole, alone = figures["traced"].median, base.figures["traced"].median
        found.append(
            Headline(
                f"{prefix} memory of one more, without what Airflow keeps for any trigger, bytes",
                short(whole - alone),
                f"with it: {short(whole)}",
                "",
                f"< {_MAX_BYTES:,}",
                is_met=whole - alone < _MAX_BYTES,
            )
        )
    if (fewer := find(rows, OURS, FEWER)) is not None:
        times = ratio(figures["cpu"].median, fewer.figures["cpu"].median)
        linear = MOST / FEWER
        found.append(
            Headline(
                f"{prefix} processor of our side, % of a core",
                show(figures["cpu"]),
                f"{FEWER:,} waits: {show(fewer.figures['cpu'])}",
                show_ratio(times),
                f"< {linear:g} x",
                is_met=None if times is None else times < linear,
            )
        )
    return found


def plots(rows: Sequence[Row]) -> dict[str, str]:
    """Draw what grows with the number of jobs."""
    drawn = {
        "waiting-cpu": ("Processor time of the waiting side", "% of a core", "cpu"),
        "waiting-processes": ("Processes on the log-in node", "per minute", "processes"),
        "waiting-site-cpu": ("Processor time of sshd and its children", "% of a core", "site_cpu"),
    }
    made = {
        name: line_chart(title, "jobs that are waited for", unit, series(rows, key))
        for name, (title, unit, key) in drawn.items()
    }
    return {name: drawing for name, drawing in made.items() if drawing}


def series(rows: Sequence[Row], key: str) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each subject."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in in_order(rows):
        if row.n and key in row.figures:
            points.setdefault(row.subject, []).append((row.n, row.figures[key].median))
    return points


PART = Part(
    name="waiting",
    about="the cost of waiting for 10 to 5,000 jobs",
    cases=cases,
    table=table,
    headlines=headlines,
    plots=plots,
)
