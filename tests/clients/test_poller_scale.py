"""What thousands who wait cost: in commands, memory and turns of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import itertools
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.client import poller as poller_module
from airflow_provider_csc.client import turns
from airflow_provider_csc.client.poller import SitePoller, merge, quiet_seconds
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.slurm.commands import LogRequest, PollRequest
from airflow_provider_csc.slurm.tracking import Ended, Event, LogLines, Note, WatchSpec
from tests.support.fake_site import FakeSite, LocalTransport, fake_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from types import ModuleType

FLOOR = 0.1
CHECKOUT = Path(__file__).parents[2]


# ---- how often ----


@pytest.mark.parametrize(
    ("quiet", "interval", "pause"),
    [
        (0, 15, 15),
        (300, 15, 15),
        (600, 15, 30),
        (1200, 15, 60),
        (10**6, 15, 60),
        (100, 1, 5),
        # An interval that is longer stays as it is.
        (10**6, 120, 120),
    ],
)
def test_pauses_grow_with_how_long_nothing_has_changed(
    quiet: float, interval: float, pause: float
) -> None:
    assert quiet_seconds(quiet, interval) == pause


# ---- one request for all ----


def test_the_logs_take_turns_and_none_is_lost() -> None:
    logs = tuple(LogRequest(name=f"w{n}.log0", path="/l", offset=0, limit=1) for n in range(50))
    merged = [merge([PollRequest(logs=logs)]).logs for _ in range(20)]
    assert all(sorted(one, key=logs.index) == list(logs) for one in merged)
    assert len({one[0].name for one in merged}) > 1


# ---- over a fake site ----


@dataclass
class Figures:
    """A meter that remembers."""

    gauges: dict[str, list[float]] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    timings: dict[str, list[float]] = field(default_factory=dict)
    tags: list[Mapping[str, str]] = field(default_factory=list)

    def gauge(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        self.gauges.setdefault(name, []).append(value)
        self.tags.append(tags)

    def incr(self, name: str, count: int, tags: Mapping[str, str]) -> None:
        self.sums[name] = self.sums.get(name, 0) + count

    def timing(self, name: str, seconds: float, tags: Mapping[str, str]) -> None:
        self.timings.setdefault(name, []).append(seconds)


@dataclass
class Watching:
    events: list[Event] = field(default_factory=list)
    task: asyncio.Task[None] = field(init=False)

    @property
    def states(self) -> list[str]:
        ends = [each for each in self.events if isinstance(each, Ended)]
        return [result.state for end in ends for result in end.results]

    @property
    def lines(self) -> list[str]:
        return [line for each in self.events if isinstance(each, LogLines) for line in each.lines]


class Bench:
    """A poller over a fake site, jobs of which are made by writing down what Slurm knows of them."""

    def __init__(self, site: FakeSite) -> None:
        self.site = site
        self.local = LocalTransport(site)
        self.figures = Figures()
        self.poller = SitePoller(SlurmClient(self.local), floor=FLOOR, meter=self.figures)
        self.everybody: list[Watching] = []
        self.jobs = 0

    def make_job(self, state: str = "PENDING", log: bytes = b"") -> WatchSpec:
        """Make a job of ours that is in a state, without submitting it."""
        self.jobs += 1
        job_id, token = str(100 + self.jobs), f"af{self.jobs:020x}.1"
        run_dir = self.site.home / "runs" / token
        run_dir.mkdir(parents=True)
        (run_dir / "stdout.log").write_bytes(log)
        for path in (run_dir.parent, run_dir, run_dir / "stdout.log"):
            self.site.give(path)
        now = str(int(time.time()))
        known = {
            **dict.fromkeys(("reason", "argument", "group", "ended"), ""),
            **dict.fromkeys(("in_queue", "in_accounting"), "yes"),
            **dict.fromkeys(("code", "signal"), "0"),
            "name": f"dag.task.{token}",
            "state": state,
            "partition": "small",
            "submitted": now,
            "started": "" if state == "PENDING" else now,
            "work_dir": str(run_dir),
            "stdout": str(run_dir / "stdout.log"),
            "stderr": str(run_dir / "stdout.log"),
        }
        directory = self.site.root / "jobs" / job_id
        directory.mkdir()
        self.site.give(directory)
        for name, value in known.items():
            (directory / name).write_text(value)
            self.site.give(directory / name)
        path = str(run_dir / "stdout.log")
        return WatchSpec(
            job_ids=(job_id,), run_dir=str(run_dir), stdout_path=path, stderr_path=path
        )

    def end_job(self, spec: WatchSpec, state: str = "COMPLETED") -> None:
        self.site.change(spec.job_ids[0], state=state, ended=str(int(time.time())))

    def watch(self, spec: WatchSpec, interval: float = 0.01) -> Watching:
        watching = Watching()

        async def follow() -> None:
            events = self.poller.watch(spec, interval=interval)
            async with contextlib.aclosing(events):
                async for event in events:
                    watching.events.append(event)  # type: ignore[arg-type]

        watching.task = asyncio.ensure_future(follow())
        self.everybody.append(watching)
        return watching

    def polls(self) -> list[str]:
        return [program for program in self.local.programs if "squeue --noheader" in program]


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with fake_site() as site:
        yield site


@contextlib.asynccontextmanager
async def bench_of(site: FakeSite) -> AsyncIterator[Bench]:
    bench = Bench(site)
    try:
        yield bench
    finally:
        for each in bench.everybody:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in bench.everybody), return_exceptions=True)
        await site.settle()


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_many_who_wait_cost_one_command_a_round(site: FakeSite) -> None:
    async with bench_of(site) as bench:
        everybody = [bench.watch(bench.make_job("RUNNING")) for _ in range(60)]
        await until(lambda: all(each.events for each in everybody))
        asked = len(bench.local.programs)
        called = site.calls("squeue")
        await until(lambda: len(bench.polls()) >= 4)
        rounds = len(bench.local.programs) - asked
        assert len(bench.polls()) >= rounds
        assert site.calls("squeue") - called <= rounds + 1
        assert site.calls("sacct") == 0
        assert bench.local.peak == 1
        assert " --me --jobs=" in bench.polls()[-1]


@pytest.mark.asyncio
async def test_while_nothing_changes_the_site_is_left_alone_and_a_change_ends_that(
    site: FakeSite,
) -> None:
    async with bench_of(site) as bench:
        first = bench.watch(bench.make_job())
        await until(lambda: first.events)
        bench.poller._changed -= 1200
        asked = len(bench.polls())
        # The round that is due by now may still come; the one after it is a minute away.
        await asyncio.sleep(10 * FLOOR)
        assert len(bench.polls()) <= asked + 1
        # One who comes is served at once, and the pauses are short again.
        newcomer = bench.watch(bench.make_job())
        await until(lambda: newcomer.events, 5)
        asked = len(bench.polls())
        await until(lambda: len(bench.polls()) > asked + 2, 5)


@pytest.mark.asyncio
@pytest.mark.parametrize("change", ["state", "line"])
async def test_whatever_changes_makes_the_pauses_short_again(site: FakeSite, change: str) -> None:
    async with bench_of(site) as bench:
        spec = bench.make_job("RUNNING", b"one\n")
        watching = bench.watch(spec)
        await until(lambda: watching.lines)
        bench.poller._changed -= 10
        asked = len(bench.polls())
        told = len(watching.events)
        await until(lambda: len(bench.polls()) > asked)
        assert bench.poller._changed < time.monotonic() - 10
        if change == "state":
            bench.site.change(spec.job_ids[0], state="SUSPENDED")
        else:
            write(Path(spec.stdout_path or ""), "two\n")
        await until(lambda: len(watching.events) > told)
        assert bench.poller._changed > time.monotonic() - 10


@pytest.mark.asyncio
async def test_many_that_end_together_are_asked_about_together(site: FakeSite) -> None:
    async with bench_of(site) as bench:
        specs = [bench.make_job("RUNNING", b"one\n") for _ in range(40)]
        everybody = [bench.watch(spec) for spec in specs]
        await until(lambda: all(each.lines for each in everybody))
        for spec in specs:
            record = Path(spec.run_dir or "") / "exit.json"
            now = int(time.time())
            record.write_text(
                f'{{"job_id": "{spec.job_ids[0]}", "exit_code": 0, "started": {now}, '
                f'"ended": {now}, "node": "c1", "stdout_bytes": 4, "stderr_bytes": 4}}'
            )
            record.chmod(0o644)
            bench.end_job(spec)
        await until(lambda: all(each.task.done() for each in everybody))
        assert all(each.states == ["COMPLETED"] for each in everybody)
        # In a few rounds at most, for they were ended one by one.
        assert site.calls("sacct") <= 4
        written = [program for program in bench.local.programs if "/verdict COMPLETED" in program]
        assert len(written) <= 4


@pytest.mark.asyncio
async def test_a_job_that_is_not_among_ours_is_asked_for_by_its_id(site: FakeSite) -> None:
    """As when the connection logs in as somebody else by now."""
    squeue = site.root / "bin" / "squeue"
    works = squeue.with_name("real-squeue")
    works.write_text(squeue.read_text().replace("${0##*/}", "squeue"))
    works.chmod(0o755)
    squeue.write_text(f'#!/bin/bash\n[[ " $* " == *" --me "* ]] && exit\nexec {works} "$@"\n')
    async with bench_of(site) as bench:
        specs = [bench.make_job("RUNNING") for _ in range(3)]
        everybody = [bench.watch(spec) for spec in specs]
        await until(lambda: all(each.events for each in everybody))
        await until(lambda: "--me" not in bench.polls()[-1])
        assert all("is RUNNING" in str(each.events[0]) for each in everybody)
        bench.end_job(specs[0])
        await until(everybody[0].task.done)
        assert everybody[0].states == ["COMPLETED"]
        assert not everybody[1].task.done()


@pytest.mark.asyncio
async def test_a_call_that_fails_parks_those_it_was_about_and_no_others(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_csc.slurm import shell

    monkeypatch.setattr(shell, "_MAX_LIST_BYTES", 8)  # Two ids.
    squeue = site.root / "bin" / "squeue"
    works = squeue.with_name("real-squeue")
    works.write_text(squeue.read_text().replace("${0##*/}", "squeue"))
    works.chmod(0o755)
    async with bench_of(site) as bench:
        specs = [bench.make_job("RUNNING") for _ in range(4)]
        first = specs[0].job_ids[0]
        squeue.write_text(
            f'#!/bin/bash\n[[ "$*" == *"{first}"* ]] && {{ echo away >&2; exit 1; }}\n'
            f'exec {works} "$@"\n'
        )
        everybody = [bench.watch(spec) for spec in specs]
        await until(lambda: all(each.events for each in everybody))
        told = [str(each.events[0]) for each in everybody]
        assert ["squeue gave no answer" in text for text in told] == [True, True, False, False]
        assert all("is RUNNING" in text for text in told[2:])


def write(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def read(log: Path) -> list[str]:
    return log.read_text().splitlines()


@pytest.mark.asyncio
async def test_who_takes_nothing_is_read_no_more_for(site: FakeSite) -> None:
    """What a job writes must not pile up where nobody takes it."""
    async with bench_of(site) as bench:
        spec = bench.make_job("RUNNING")
        log = Path(spec.stdout_path or "")
        events = bench.poller.watch(spec, interval=0.01)
        try:
            assert isinstance(await anext(events), Note)
            await asyncio.sleep(0)
            (watcher,) = bench.poller._watchers.values()
            for number in range(100):
                if watcher.is_behind:
                    break
                write(log, f"line {number}\n")
                asked = len(bench.polls())
                await until(lambda asked=asked: len(bench.polls()) > asked)
            assert watcher.is_behind
            held = len(watcher.box)
            write(log, "more\n")
            asked = len(bench.polls())
            await until(lambda: len(bench.polls()) > asked + 2)
            assert len(watcher.box) == held
            shown: list[str] = []
            async for event in events:
                shown += event.lines if isinstance(event, LogLines) else []
                if "more" in shown:
                    break
            assert shown == read(log)
        finally:
            await events.aclose()


@pytest.mark.asyncio
async def test_a_long_log_is_read_until_the_next_round_is_due(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that wrote a megabyte a second was half a minute behind, while nobody else wrote."""
    monkeypatch.setattr(poller_module, "_LEAST_READING_SECONDS", 0)
    async with bench_of(site) as bench:
        spec = bench.make_job("RUNNING", (b"x" * 99 + b"\n") * 80_000)
        watching = bench.watch(replace(spec, log_limit_bytes=10**9), interval=3600)
        await until(lambda: len(watching.lines) == 80_000)
        assert len(bench.polls()) == 1


@pytest.mark.asyncio
async def test_others_have_their_turn_between_those_who_wait(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_TURN_SECONDS", -1.0)
    async with bench_of(site) as bench:
        for _ in range(30):
            bench.watch(bench.make_job())
        observed: list[str] = []
        observe = poller_module.Watcher.observe

        def note(watcher: Any, *arguments: Any) -> Any:
            observed.append("watcher")
            return observe(watcher, *arguments)

        monkeypatch.setattr(poller_module.Watcher, "observe", note)

        async def other() -> None:
            while observed.count("watcher") < 30:
                observed.append("other")
                await asyncio.sleep(0)

        await asyncio.wait_for(other(), 30)
        last = [name for name, later in itertools.pairwise(observed) if name != later]
        assert last.count("watcher") >= 20


@pytest.mark.asyncio
async def test_what_is_held_for_a_watcher_is_let_go_when_it_was_taken(site: FakeSite) -> None:
    """The last lines of each would otherwise stay until it writes again."""
    async with bench_of(site) as bench:
        spec = bench.make_job("RUNNING", b"one\n")
        watching = bench.watch(spec)
        await until(lambda: watching.lines)
        (watcher,) = bench.poller._watchers.values()
        await until(lambda: not watcher.box)
        (lines,) = (each for each in watching.events if isinstance(each, LogLines))
        holders = [getattr(each, "__qualname__", "") for each in gc.get_referrers(lines)]
        # The one who took them may hold them, the poller not.
        assert any("follow" in name for name in holders)
        assert not [name for name in holders if "SitePoller" in name or "Watcher" in name]


# ---- figures ----


@pytest.mark.asyncio
async def test_the_figures_tell_what_waits_and_how_late_an_end_was_seen(site: FakeSite) -> None:
    async with bench_of(site) as bench:
        pending, running = bench.make_job(), bench.make_job("RUNNING")
        bench.watch(pending)
        ends = bench.watch(running)
        await until(lambda: len(bench.polls()) >= 2)
        figures = bench.figures
        assert figures.gauges["slurm.poller.jobs.queued"][-1] == 1
        assert figures.gauges["slurm.poller.jobs.running"][-1] == 1
        assert figures.gauges["slurm.poller.parked"][-1] == 0
        assert figures.sums["slurm.poller.bytes"] > 0
        assert len(figures.timings["slurm.poller.query_duration"]) >= 2
        # By the clock of the cluster, in whole seconds, the end is later than the first answer.
        await asyncio.sleep(1.1)
        bench.end_job(running)
        await until(ends.task.done)
        (latency,) = figures.timings["slurm.poller.detection_latency"]
        assert 0 <= latency < 30
        with site.fault("controller_down"):
            await until(lambda: figures.gauges["slurm.poller.parked"][-1] == 1)
        assert all(set(tags) <= {"site"} for tags in figures.tags)


@pytest.mark.asyncio
async def test_of_a_job_that_had_ended_before_nobody_says_how_late_it_was_seen(
    site: FakeSite,
) -> None:
    async with bench_of(site) as bench:
        spec = bench.make_job("RUNNING")
        bench.end_job(spec)
        watching = bench.watch(spec)
        await until(watching.task.done)
        assert watching.states == ["COMPLETED"]
        assert "slurm.poller.detection_latency" not in bench.figures.timings
        assert bench.figures.gauges["slurm.poller.jobs.running"][-1] == 0


# ---- memory ----


def load_benchmark() -> ModuleType:
    path = CHECKOUT / "benchmarks" / "poller_memory.py"
    spec = importlib.util.spec_from_file_location("poller_memory", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_waiting_job_takes_less_than_four_kilobytes() -> None:
    benchmark = load_benchmark()
    held, _ = asyncio.run(benchmark.measure(400))
    assert held / 400 < 4000
