"""One poller for all who wait: over a fake site whose real programs are counted."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import logging
import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest
import pytest_asyncio

from airflow_provider_csc.client import poller as pollers
from airflow_provider_csc.client.meter import NoMeter
from airflow_provider_csc.client.pauses import backoff_seconds
from airflow_provider_csc.client.poller import Moved, SitePoller, Source, poller_for
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.client.submitter import Submitter
from airflow_provider_csc.errors import ConfigError, ConnectFailedError
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.plan import JobSpec, build_request, read_source
from airflow_provider_csc.slurm.tracking import (
    Ended,
    Event,
    JobTracker,
    LogLines,
    Note,
    WatchSpec,
)
from airflow_provider_csc.transport.base import Hop, Secret, SiteSettings, SshSettings
from tests.support import fake_site as faults
from tests.support.fake_site import FakeSite, FaultyTransport, LocalTransport, fake_site
from tests.support.garbage import only_new_garbage
from tests.support.ssh_server import public_line, serve_ssh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.transport.base import CommandResult

pytestmark = pytest.mark.asyncio

FLOOR = 0.1
POLL = "squeue --noheader"
ACKNOWLEDGE = "/log_offsets"
KEY = asyncssh.generate_private_key("ssh-ed25519")
KEY_TEXT = KEY.export_private_key().decode()
_NUMBERS = itertools.count(1)


@dataclass
class Watching:
    """One who waits, as a trigger does: in a task of its own."""

    events: list[Event | Moved] = field(default_factory=list)
    task: asyncio.Task[None] = field(init=False)

    @property
    def lines(self) -> list[str]:
        return [line for each in self.events if isinstance(each, LogLines) for line in each.lines]

    @property
    def notes(self) -> list[str]:
        return [each.text for each in self.events if isinstance(each, Note)]

    @property
    def warnings(self) -> list[str]:
        return [
            each.text
            for each in self.events
            if isinstance(each, Note) and each.level == logging.WARNING
        ]

    @property
    def parked(self) -> list[str]:
        return [text for text in self.warnings if "o answer from the site" in text]

    @property
    def states(self) -> list[str]:
        return [result.state for result in self.ended.results] if self.ended else []

    @property
    def ended(self) -> Ended | None:
        return next((each for each in self.events if isinstance(each, Ended)), None)

    async def leave(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@dataclass
class Bench:
    """A poller over a connection that can be made to fail, and the jobs it watches."""

    site: FakeSite
    local: LocalTransport
    faulty: FaultyTransport
    idle: list[float] = field(default_factory=list)
    watching: list[Watching] = field(default_factory=list)
    poller: SitePoller = field(init=False)
    client: SlurmClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = SlurmClient(LocalTransport(self.site))
        self.poller = SitePoller(
            SlurmClient(self.faulty),
            floor=FLOOR,
            on_idle=lambda: self.idle.append(time.monotonic()),
        )

    async def submit(self, command: str = "true", *, hold: bool = False) -> Submission:
        number = next(_NUMBERS)
        identity = TaskIdentity(
            dag_id="d", run_id=str(number), task_id="t", map_index=-1, try_number=1, first_try=1
        )
        spec = JobSpec(command=command, options={"hold": True} if hold else {})
        request, label = build_request(
            spec, identity, script=read_source(spec, None), defaults={}, base_dir="~/runs"
        )
        return await Submitter(
            client=self.client,
            request=request,
            identity=identity,
            label=label,
            since=int(time.time()),
            report=lambda _: None,
        ).submit()

    def watch(
        self,
        *jobs: Submission,
        interval: float = 0.01,
        source: Source | None = None,
        tracker: JobTracker | None = None,
        **changes: Any,
    ) -> Watching:
        watching = Watching()

        async def follow() -> None:
            watched = tracker or watch_spec(*jobs, **changes)
            events = self.poller.watch(watched, interval=interval, source=source)
            async with contextlib.aclosing(events):
                async for event in events:
                    watching.events.append(event)
                    if isinstance(event, Moved):
                        return

        watching.task = asyncio.ensure_future(follow())
        self.watching.append(watching)
        return watching

    def polls(self) -> list[float]:
        """When squeue was asked."""
        return [
            moment
            for moment, program in zip(self.local.moments, self.local.programs, strict=True)
            if POLL in program
        ]


def watch_spec(*jobs: Submission, **changes: Any) -> WatchSpec:
    first = jobs[0]
    values = {
        "job_ids": tuple(job.job_id for job in jobs),
        "run_dir": first.run_dir,
        "stdout_path": first.stdout_path,
        "stderr_path": first.stderr_path,
    }
    return WatchSpec(**(values | changes))


@pytest.fixture(scope="module", autouse=True)
def _only_new_garbage() -> Iterator[None]:
    with only_new_garbage():
        yield


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with fake_site() as site:
        yield site


@pytest_asyncio.fixture
async def bench(site: FakeSite) -> AsyncIterator[Bench]:
    """A bench; at its end nobody is left behind, and asyncio has nothing to complain of."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
    local = LocalTransport(site)
    bench = Bench(site, local, FaultyTransport(local))
    yield bench
    for watching in bench.watching:
        watching.task.cancel()
    await asyncio.gather(*(each.task for each in bench.watching), return_exceptions=True)
    await site.settle()
    gc.collect()
    assert complaints == []
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "slurm-site-poller"], (
        "the poller outlived its watchers"
    )


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


def answers_again(watching: Watching) -> int:
    return sum(note.startswith("The site answers again after ") for note in watching.notes)


def shown(offsets: Path) -> str:
    """How far a log was shown, as it is noted in the run directory."""
    return offsets.read_text().partition("\n")[0] if offsets.exists() else ""


# What a watcher is told


async def test_a_watcher_hears_states_lines_and_the_end(bench: Bench) -> None:
    job = await bench.submit("echo one; echo two; sleep 0.4; printf three; exit 3")
    watching = bench.watch(job)
    await until(watching.task.done)
    assert watching.lines == ["one", "two", "three"]
    assert watching.states == ["FAILED"]
    assert isinstance(watching.events[-1], Ended)
    assert [note for note in watching.notes if f"Job {job.job_id} is RUNNING" in note]


async def test_a_job_that_ended_before_anybody_watched_is_told_whole(bench: Bench) -> None:
    job = await bench.submit("echo one")
    await until(lambda: bench.site.jobs[job.job_id]["state"] == "COMPLETED")
    watching = bench.watch(job)
    await until(watching.task.done)
    assert (watching.lines, watching.states) == (["one"], ["COMPLETED"])


async def test_several_jobs_of_one_watcher_end_together(bench: Bench) -> None:
    jobs = [await bench.submit("true"), await bench.submit("exit 1")]
    watching = bench.watch(*jobs, stream_logs=False, run_dir=None)
    await until(watching.task.done)
    assert watching.states == ["COMPLETED", "FAILED"]


async def test_a_limit_that_is_reached_cancels_the_job(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    watching = bench.watch(job, queue_timeout=-1)
    await until(watching.task.done)
    assert watching.states == ["CANCELLED"]
    assert any("queue_timeout" in warning for warning in watching.warnings)


async def test_a_cancel_that_slurm_refuses_is_told_and_tried_again(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    scancel = bench.site.root / "bin" / "scancel"
    works = scancel.read_text()
    scancel.write_text("#!/bin/sh\necho 'scancel: error: Access/permission denied' >&2; exit 1\n")
    watching = bench.watch(job, queue_timeout=-1)
    await until(lambda: any("permission denied" in note for note in watching.warnings))
    scancel.write_text(works)
    await until(watching.task.done)
    assert watching.states == ["CANCELLED"]


# One connection, one question


async def test_many_watchers_share_one_question_per_round(bench: Bench) -> None:
    jobs = [await bench.submit(hold=True) for _ in range(12)]
    everyone = [bench.watch(job) for job in jobs]
    await until(lambda: len(bench.polls()) >= 3)
    assert all("PENDING" in watching.notes[0] for watching in everyone)
    (listed,) = re.findall(r"--jobs=(\S+)", bench.local.programs[-1])
    assert listed.split(",") == sorted(job.job_id for job in jobs)
    assert bench.local.peak == 1
    assert len(bench.local.programs) == len(bench.polls())


async def test_the_floor_is_respected(bench: Bench) -> None:
    bench.watch(await bench.submit(hold=True), interval=0.001)
    await until(lambda: len(bench.polls()) >= 4)
    assert min(gaps(bench.polls())) >= FLOOR * 0.95


async def test_the_shortest_interval_of_all_decides(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    bench.watch(job, interval=60)
    quick = bench.watch(job, interval=2 * FLOOR)
    await until(lambda: len(bench.polls()) >= 4)
    assert min(gaps(bench.polls())[1:]) >= 2 * FLOOR * 0.95
    await quick.leave()
    asked = len(bench.polls())
    await asyncio.sleep(4 * FLOOR)
    assert len(bench.polls()) <= asked + 1


async def test_a_newcomer_does_not_wait_for_a_long_interval_but_for_the_floor(
    bench: Bench,
) -> None:
    job = await bench.submit(hold=True)
    bench.watch(job, interval=60)
    await until(bench.polls)
    newcomer = bench.watch(job, interval=60)
    await until(lambda: newcomer.notes)
    assert len(bench.polls()) == 2
    assert FLOOR * 0.95 <= gaps(bench.polls())[0] < FLOOR + 1


async def test_a_newcomer_during_a_round_is_served_by_the_next(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    bench.faulty.plan(POLL, faults.delay(0.1))
    bench.watch(job, interval=60)
    await asyncio.sleep(0.05)
    newcomer = bench.watch(job, interval=60)
    await until(lambda: newcomer.notes)
    assert len(bench.polls()) == 2


async def test_newcomers_together_cost_one_round(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    bench.watch(job, interval=60)
    await until(bench.polls)
    newcomers = [bench.watch(job, interval=60) for _ in range(10)]
    await until(lambda: all(each.notes for each in newcomers))
    await asyncio.sleep(2 * FLOOR)
    assert len(bench.polls()) == 2


async def test_the_end_of_a_job_does_not_wait_for_a_long_interval(bench: Bench) -> None:
    """Accounting comes a little later than the end; it is asked for at the floor."""
    job = await bench.submit("true")
    bench.site.change(job.job_id, in_accounting="")
    await until(lambda: bench.site.jobs[job.job_id]["state"] == "COMPLETED")
    watching = bench.watch(job, interval=60)
    await until(lambda: len(bench.polls()) >= 3)
    bench.site.change(job.job_id, in_accounting="yes")
    await until(watching.task.done)
    assert watching.states == ["COMPLETED"]


# When the site is away


async def test_an_outage_is_told_once_and_its_end_once(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    watching = bench.watch(job)
    await until(lambda: watching.notes)
    for fault in (faults.refuse, faults.drop_after, faults.cut_at(10)):
        bench.faulty.plan(POLL, fault)
    await until(lambda: answers_again(watching))
    await until(lambda: len(bench.polls()) >= 6)
    (warning,) = watching.parked
    assert "nobody is let in" in warning
    assert answers_again(watching) == 1


@pytest.mark.parametrize("fault", ["controller_down", "slurmdbd_down"])
async def test_an_outage_of_slurm_itself_ends_nothing(bench: Bench, fault: str) -> None:
    job = await bench.submit("sleep 0.3")
    with bench.site.fault(fault):
        watching = bench.watch(job)
        await asyncio.sleep(1)
        assert watching.ended is None
        assert not watching.task.done()
        assert len(watching.warnings) == (fault == "controller_down")
    await until(watching.task.done)
    assert watching.states == ["COMPLETED"]


async def test_a_vanished_key_is_an_outage_too(bench: Bench) -> None:
    async def without_key(_send: Any) -> CommandResult:
        raise ConfigError("key_file: '/k' cannot be read on this machine")

    job = await bench.submit(hold=True)
    bench.faulty.plan(POLL, without_key)
    watching = bench.watch(job)
    await until(lambda: answers_again(watching))
    assert "'/k' cannot be read" in watching.warnings[0]


async def test_a_newcomer_hears_of_an_outage_at_once(bench: Bench) -> None:
    """Between two attempts it may be minutes; nobody should wait in silence so long."""
    job = await bench.submit(hold=True)
    for _ in range(100):
        bench.faulty.plan(POLL, faults.refuse)
    first = bench.watch(job, interval=60)
    await until(lambda: first.warnings)
    newcomer = bench.watch(job, interval=60)
    await until(lambda: newcomer.warnings, 2)
    assert newcomer.warnings == first.warnings


async def test_questions_become_rarer_while_slurmctld_is_away(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    with bench.site.fault("controller_down"):
        watching = bench.watch(job)
        await until(lambda: len(bench.polls()) >= 6)
    assert watching.parked
    # Twice as long each time, less a quarter of jitter.
    waits = gaps(bench.polls()[:6])
    assert waits[3] >= 0.95 * 6 * FLOOR
    assert waits[4] >= 0.95 * 12 * FLOOR
    await until(lambda: answers_again(watching))


async def test_attempts_become_rarer_while_a_site_is_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long the waits are is tested below; a busy machine makes others of them."""
    job = await bench.submit(hold=True)
    waits: list[tuple[int, float]] = []

    def note(failures: int, shortest: float) -> float:
        waits.append((failures, shortest))
        return backoff_seconds(failures, shortest)

    async def refuse(_send: Any) -> CommandResult:
        raise ConnectFailedError("nobody is let in")

    monkeypatch.setattr(pollers, "backoff_seconds", note)
    for _ in range(4):
        bench.faulty.plan(POLL, refuse)
    watching = bench.watch(job)
    await until(lambda: answers_again(watching))
    assert waits == [(failures, FLOOR) for failures in (1, 2, 3, 4)]


async def test_the_wait_after_failures_doubles_up_to_a_cap_and_never_below_the_interval() -> None:
    for failures in range(1, 2000):
        for shortest in (0.5, 15.0, 600.0):
            wait = backoff_seconds(failures, shortest)
            ideal = min(shortest * 2 ** (min(failures, 20) - 1), 300.0)
            assert max(0.75 * ideal, shortest) <= wait <= max(ideal, shortest)


async def test_the_waits_of_two_pollers_differ() -> None:
    """Or all triggerers of the world would come back in the same second."""
    assert len({backoff_seconds(5, 15.0) for _ in range(20)}) > 10


async def test_a_deadline_that_passes_in_an_outage_is_told_at_once_and_kept(bench: Bench) -> None:
    """The next attempt may be minutes away; so the one who waits is told before it."""
    job = await bench.submit(hold=True)
    tried = 0

    async def refuse(_send: Any) -> CommandResult:
        nonlocal tried
        tried += 1
        raise ConnectFailedError("nobody is let in")

    for _ in range(3):
        bench.faulty.plan(POLL, refuse)
    watching = bench.watch(job, interval=2, deadline=time.time() + 0.5)
    await until(lambda: any("execution_timeout is reached" in text for text in watching.warnings))
    assert tried == 1
    assert bench.site.jobs[job.job_id]["state"] == "PENDING"
    bench.faulty.plans.clear()
    await until(watching.task.done)
    assert watching.states == ["CANCELLED"]
    assert sum("execution_timeout is reached; job" in text for text in watching.warnings) == 1


async def test_a_deadline_does_not_wait_for_a_long_interval(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    watching = bench.watch(job, interval=60, deadline=time.time() + 1)
    await until(watching.task.done)
    assert watching.states == ["CANCELLED"]


async def test_another_reason_within_an_outage_is_told_once(bench: Bench) -> None:
    async def expired(_send: Any) -> CommandResult:
        raise ConnectFailedError("Its certificate EXPIRED at /c; renew it.")

    job = await bench.submit(hold=True)
    for fault in (faults.drop_before, faults.refuse, expired, faults.time_out, expired):
        bench.faulty.plan(POLL, fault)
    watching = bench.watch(job)
    await until(lambda: answers_again(watching))
    reasons = [text.partition(": ")[2].partition(".")[0] for text in watching.parked]
    assert reasons[0] == "dropped before it was sent"
    assert [text for text in watching.parked if "nobody is let in" in text] == watching.parked[1:2]
    assert [text for text in watching.parked if "renew it" in text] == watching.parked[2:]
    assert len(watching.parked) == 3


async def test_an_end_is_noted_only_when_it_was_taken(bench: Bench) -> None:
    job = await bench.submit("exit 3")
    bench.site.change(job.job_id, in_accounting="")
    verdict = bench.site.home / job.run_dir / "verdict"
    await until(lambda: bench.site.jobs[job.job_id]["state"] == "FAILED")
    events = bench.poller.watch(watch_spec(job), interval=0.01)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(2 * FLOOR)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await events.aclose()
    assert not verdict.exists()
    bench.site.change(job.job_id, in_accounting="yes")
    watching = bench.watch(job)
    await until(watching.task.done)
    assert verdict.read_text() == "FAILED\n"


async def test_the_end_of_a_job_whose_directory_is_gone_is_noted_nowhere(bench: Bench) -> None:
    job = await bench.submit("true")
    watching = bench.watch(job, run_dir="", stream_logs=False)
    await until(watching.task.done)
    assert watching.states == ["COMPLETED"]
    assert not [program for program in bench.local.programs if "/verdict" in program]


async def test_an_end_that_could_not_be_noted_is_noted_later(bench: Bench) -> None:
    """As long as anybody of this site is there to do it."""
    stays = bench.watch(await bench.submit(hold=True))
    job = await bench.submit("true")
    verdict = bench.site.home / job.run_dir / "verdict"
    bench.faulty.plan("/verdict COMPLETED", faults.drop_before)
    watching = bench.watch(job)
    await until(watching.task.done)
    assert watching.states == ["COMPLETED"]
    await until(verdict.exists)
    assert not stays.parked


# Certificates


def certify(seconds: int) -> str:
    """A certificate that is valid for so long yet."""
    signed = KEY.generate_user_certificate(
        KEY, "test", principals=["alice"], valid_before=int(time.time()) + seconds
    )
    return signed.export_certificate().decode()


def told_of(watching: Watching) -> list[str]:
    return [text for text in watching.warnings if text.startswith("The SSH certificate ")]


async def test_each_task_is_told_once_of_a_certificate_that_will_expire(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_csc.client.poller._CERTIFICATE_SECONDS", 0.0)
    file = tmp_path / "id-cert.pub"
    file.write_text(certify(7100))
    ssh = SshSettings(target=Hop(host="h"), key_file=str(tmp_path / "id"))
    bench.poller.settings = SiteSettings(ssh=ssh)
    left: list[float] = []

    class Figures(NoMeter):
        def gauge(self, name: str, value: float, tags: Any) -> None:
            if name == "slurm.poller.certificate_seconds":
                left.append(value)

    bench.poller.meter = Figures()

    async def rounds(number: int = 3) -> None:
        wanted = len(bench.polls()) + number
        await until(lambda: len(bench.polls()) >= wanted)

    everyone = [bench.watch(await bench.submit(hold=True)) for _ in range(2)]
    await until(lambda: all(map(told_of, everyone)))
    await rounds()
    assert [len(told_of(each)) for each in everyone] == [1, 1]
    assert f"and put it at {file}" in told_of(everyone[0])[0]
    assert 0 < left[-1] <= 7100
    # Half of one, one that lasts, and one that does not.
    for text in (certify(7000)[:80], certify(90_000)):
        file.write_text(text)
        await rounds()
        assert [len(told_of(each)) for each in everyone] == [1, 1]
    file.write_text(certify(60))
    await until(lambda: all(len(told_of(each)) == 2 for each in everyone))
    assert not any(each.parked for each in everyone)


async def test_a_certificate_that_ends_before_the_job_may_is_told_of(
    bench: Bench, tmp_path: Path
) -> None:
    file = tmp_path / "id-cert.pub"
    file.write_text(certify(86_400))
    ssh = SshSettings(target=Hop(host="h"), key_file=str(tmp_path / "id"))
    bench.poller.settings = SiteSettings(ssh=ssh)
    long, short = await bench.submit(hold=True), await bench.submit(hold=True)
    now = int(time.time())
    bench.site.change(long.job_id, ended=str(now + 90_000))
    bench.site.change(short.job_id, ended=str(now + 80_000))
    watching, other = bench.watch(long), bench.watch(short)
    await until(lambda: told_of(watching))
    assert "and the job may run until " in told_of(watching)[0]
    assert told_of(other) == []


async def test_a_certificate_that_is_renewed_in_the_connection_is_taken_before_it_is_missed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_csc.client.poller._CERTIFICATE_SECONDS", 0.0)

    def site_of(text: str) -> SiteSettings:
        key = Secret(value=KEY_TEXT)
        return SiteSettings(
            ssh=SshSettings(target=Hop(host="h"), private_key=key, certificate=text)
        )

    old, new = site_of(certify(60)), site_of(certify(90_000))
    bench.poller.settings, known = old, [old]

    async def read() -> SiteSettings:
        return known[-1]

    watching = bench.watch(await bench.submit(hold=True), source=Source("c", read))
    await until(lambda: told_of(watching))
    known.append(new)
    await until(watching.task.done)
    moved = watching.events[-1]
    assert isinstance(moved, Moved)
    assert moved.settings == new
    assert not watching.parked


# Coming and going


async def test_a_watcher_that_leaves_early_affects_nobody(bench: Bench) -> None:
    stays = bench.watch(await bench.submit("sleep 3; echo done"))
    leaves = bench.watch(await bench.submit("sleep 60"))
    await until(lambda: leaves.notes)
    await leaves.leave()
    assert bench.local.closed == 0
    await until(stays.task.done)
    assert (stays.lines, stays.states) == (["done"], ["COMPLETED"])
    assert bench.site.jobs["102"]["state"] == "RUNNING"


async def test_a_watcher_that_leaves_in_the_middle_of_a_round_affects_nobody(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    stays = bench.watch(job)
    leaves = bench.watch(job)
    bench.faulty.plan(POLL, faults.delay(0.1))
    await asyncio.sleep(0.05)
    await leaves.leave()
    await until(lambda: stays.notes)
    assert not leaves.events


async def test_the_last_one_out_closes_the_connection(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    first, second = bench.watch(job), bench.watch(job)
    await until(lambda: first.notes and second.notes)
    await first.leave()
    assert (bench.local.closed, bench.idle) == (0, [])
    await second.leave()
    assert bench.local.closed == 1
    assert len(bench.idle) == 1
    asked = len(bench.local.programs)
    await asyncio.sleep(2 * FLOOR)
    assert len(bench.local.programs) == asked


async def test_nobody_closes_the_connection_on_one_who_is_leaving(bench: Bench) -> None:
    """As one does who waited for the site only, over the same poller."""
    job = await bench.submit("echo one")
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(send: Callable[[], Awaitable[CommandResult]]) -> CommandResult:
        reached.set()
        await go_on.wait()
        return await send()

    bench.faulty.plan("/verdict", slowly)
    watching = bench.watch(job)
    await asyncio.wait_for(reached.wait(), 10)
    async with bench.poller.hold():
        pass
    go_on.set()
    await until(watching.task.done)
    assert watching.task.exception() is None
    assert (watching.states, len(bench.idle)) == (["COMPLETED"], 1)


async def test_the_last_one_out_may_leave_in_the_middle_of_a_command(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    bench.faulty.plan(POLL, faults.delay(60))
    watching = bench.watch(job)
    await asyncio.sleep(0.05)
    await watching.leave()
    assert bench.local.closed == 1


async def test_after_the_last_one_left_a_new_one_is_served(bench: Bench) -> None:
    """Also by a poller that somebody had at hand while it was closing."""
    job = await bench.submit(hold=True)
    first = bench.watch(job)
    await until(lambda: first.notes)
    first.task.cancel()
    await asyncio.sleep(0)
    second = bench.watch(job)
    await until(lambda: second.notes)


async def test_a_poller_that_was_just_cancelled_serves_the_next_watcher(bench: Bench) -> None:
    """Its old task was not done yet, so no new one was begun, and the watcher hung."""
    job = await bench.submit(hold=True)
    events = bench.poller.watch(watch_spec(job), interval=1)
    assert isinstance(await anext(events), Note)
    await events.aclose()
    again = bench.poller.watch(watch_spec(job), interval=1)
    async with asyncio.timeout(2), contextlib.aclosing(again):
        assert isinstance(await anext(again), Note)


async def test_the_connection_is_closed_even_when_the_last_command_fails_oddly(
    bench: Bench,
) -> None:
    async def fail(_send: Any) -> CommandResult:
        raise ZeroDivisionError

    job = await bench.submit("echo one; sleep 60")
    watching = bench.watch(job)
    await until(lambda: watching.lines)
    bench.faulty.plan(ACKNOWLEDGE, fail)
    with contextlib.suppress(ZeroDivisionError):
        await watching.leave()
    await until(lambda: bench.local.closed)
    assert len(bench.idle) == 1


async def test_a_watcher_killed_twice_still_closes_the_connection(bench: Bench) -> None:
    job = await bench.submit("echo one; sleep 60")
    watching = bench.watch(job)
    await until(lambda: watching.lines)
    bench.faulty.plan(ACKNOWLEDGE, faults.delay(60))
    watching.task.cancel()
    await asyncio.sleep(0.05)
    watching.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching.task
    assert bench.local.closed == 1
    assert len(bench.idle) == 1


async def test_watchers_that_end_together_write_down_how_far_they_came_in_one_command(
    bench: Bench,
) -> None:
    jobs = [await bench.submit("echo one") for _ in range(8)]
    for job in jobs:
        await until(lambda job=job: bench.site.jobs[job.job_id]["state"] == "COMPLETED")
    everyone = [bench.watch(job) for job in jobs]
    await until(lambda: all(each.task.done() for each in everyone))
    written = [program for program in bench.local.programs if "/log_offsets 4\n" in program]
    assert all(shown(bench.site.home / job.run_dir / "log_offsets") == "4" for job in jobs)
    assert all(
        (bench.site.home / job.run_dir / "verdict").read_text() == "COMPLETED\n" for job in jobs
    )
    assert len(written) == 1
    assert written[0].count("/verdict COMPLETED\n") == len(jobs)


# The log, over a watcher's end


async def test_lines_count_as_shown_only_when_the_watcher_took_them(bench: Bench) -> None:
    job = await bench.submit("echo one; sleep 60")
    offsets = bench.site.home / job.run_dir / "log_offsets"
    events = bench.poller.watch(watch_spec(job), interval=0.01)
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, LogLines):
                break
        asked = len(bench.polls())
        await until(lambda: len(bench.polls()) >= asked + 3)
        assert shown(offsets) in {"", "0"}
        pending = asyncio.ensure_future(anext(events))  # Asking for more says the lines are out.
        await until(lambda: shown(offsets) == "4")
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pending


async def test_a_watcher_killed_before_it_passed_lines_on_leaves_them_to_the_next(
    bench: Bench,
) -> None:
    job = await bench.submit("echo one; sleep 60")
    events = bench.poller.watch(watch_spec(job), interval=0.01)
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, LogLines):
                break
    second = bench.watch(job)
    await until(lambda: second.lines)
    assert second.lines == ["one"]


async def test_over_watchers_killed_between_rounds_each_line_is_shown_once(bench: Bench) -> None:
    job = await bench.submit("for i in $(seq 20); do echo $i; sleep 0.1; done; printf end")
    shown: list[str] = []
    for _ in range(3):
        watching = bench.watch(job)
        await until(lambda watching=watching: watching.lines or watching.task.done())
        await asyncio.sleep(0.2)
        await watching.leave()
        shown += watching.lines
    last = bench.watch(job)
    await until(last.task.done)
    assert shown + last.lines == [*map(str, range(1, 21)), "end"]
    assert any("Watching again" in note for note in last.notes)


async def test_a_lost_acknowledgement_is_given_again(bench: Bench) -> None:
    """Or what was shown would be shown again to the next watcher."""
    job = await bench.submit("echo one; sleep 60")
    offsets = bench.site.home / job.run_dir / "log_offsets"
    bench.faulty.plan(f"{offsets} '4\n", faults.drop_before)
    watching = bench.watch(job)
    await until(lambda: shown(offsets) == "4")
    assert bench.faulty.plans == deque()
    assert watching.warnings == []


async def test_a_watcher_killed_while_it_is_written_down_waits_for_that(bench: Bench) -> None:
    """The command was cancelled with the poller, and the next watcher showed the lines again."""
    job = await bench.submit("echo one; sleep 60")
    offsets = bench.site.home / job.run_dir / "log_offsets"
    bench.faulty.plan(f"{offsets} '4\n", faults.delay(0.2))
    watching = bench.watch(job)
    await until(lambda: watching.lines and not bench.faulty.plans)
    await watching.leave()
    assert shown(offsets) == "4"


# When something is badly wrong


async def test_a_connection_that_was_changed_in_an_outage_is_taken_up(bench: Bench) -> None:
    job = await bench.submit(hold=True)
    was, now = settings_of(1), settings_of(2)
    reads: list[str] = []

    async def read() -> SiteSettings:
        reads.append("")
        return was if len(reads) < 3 else now

    bench.poller = SitePoller(SlurmClient(bench.faulty), floor=FLOOR, settings=was)
    sources = (Source("one", read), Source("one", read))
    both = [bench.watch(job, source=source) for source in sources]
    await until(lambda: all(watching.notes for watching in both))
    for _ in range(4):
        bench.faulty.plan(POLL, faults.refuse)
    await until(lambda: all(watching.task.done() for watching in both))
    moved = [watching.events[-1] for watching in both]
    assert [isinstance(each, Moved) and each.settings for each in moved] == [now, now]
    assert len(reads) == 3  # once for both, once for each attempt


async def test_who_moves_to_a_changed_connection_is_shown_nothing_twice(bench: Bench) -> None:
    """What was shown could not be written down any more, and was read there."""
    job = await bench.submit("echo one; sleep 1; echo two; sleep 1; echo three")
    was, now = settings_of(1), settings_of(2)

    async def read() -> SiteSettings:
        return now

    bench.poller = SitePoller(SlurmClient(bench.faulty), floor=FLOOR, settings=was)
    offsets = bench.site.home / job.run_dir / "log_offsets"
    bench.faulty.plan(f"{offsets} '4\n", faults.drop_before)
    before = bench.watch(job, source=Source("one", read))
    await until(lambda: before.lines)
    bench.faulty.plan(POLL, faults.refuse)
    await until(before.task.done)
    moved = before.events[-1]
    assert isinstance(moved, Moved)
    assert before.lines == ["one"]
    assert shown(offsets) in {"", "0"}
    bench.poller = SitePoller(bench.client, floor=FLOOR, settings=now)
    after = bench.watch(tracker=moved.tracker)
    await until(after.task.done)
    assert after.lines == ["two", "three"]
    assert after.states == ["COMPLETED"]
    assert answers_again(after) == 1
    # Nothing of what was known was forgotten on the way.
    assert not [note for note in after.notes if "Watching again" in note]
    assert shown(offsets) == "14"


async def test_a_connection_that_cannot_be_read_changes_nothing(bench: Bench) -> None:
    job = await bench.submit(hold=True)

    async def read() -> SiteSettings:
        raise RuntimeError("no such connection")

    watching = bench.watch(job, source=Source("gone", read))
    await until(lambda: watching.notes)
    bench.faulty.plan(POLL, faults.refuse)
    await until(lambda: answers_again(watching))
    assert not watching.task.done()


async def test_an_unexpected_error_reaches_everyone(bench: Bench) -> None:
    async def fail(_send: Any) -> CommandResult:
        raise ZeroDivisionError("nobody thought of that")

    job = await bench.submit(hold=True)
    everyone = [bench.watch(job) for _ in range(3)]
    await until(lambda: all(each.notes for each in everyone))
    bench.faulty.plan(POLL, fail)
    await until(lambda: all(each.task.done() for each in everyone))
    for watching in everyone:
        with pytest.raises(ZeroDivisionError, match="nobody thought of that"):
            watching.task.result()
    assert bench.local.closed == 1
    late = bench.watch(job)
    await until(lambda: late.notes)


# Who shares, and who does not


def settings_of(port: int, key: str = KEY_TEXT, **changes: Any) -> SiteSettings:
    return SiteSettings(
        ssh=SshSettings(
            target=Hop(host="127.0.0.1", port=port, username="alice"),
            private_key=Secret(value=key),
            no_host_key_check=True,
        ),
        poll_interval_floor=FLOOR,
        **changes,
    )


async def test_equal_settings_share_a_poller_and_others_do_not() -> None:
    one = poller_for(settings_of(1))
    assert poller_for(settings_of(1)) is one
    others = [settings_of(2), settings_of(1, "another key"), settings_of(1, account="x")]
    assert len({id(one), *(id(poller_for(each)) for each in others)}) == 4


async def test_different_event_loops_do_not_share() -> None:
    async def find() -> SitePoller:
        return poller_for(settings_of(1))

    def elsewhere() -> SitePoller:
        return asyncio.run(find())

    # Both are held, so that the second cannot have got the first one's address.
    here, there = await find(), await asyncio.to_thread(elsewhere)
    assert here is not there
    assert await find() is here


async def test_a_poller_whose_last_watcher_left_is_forgotten(bench: Bench) -> None:
    async with serve_ssh(public_line(KEY)) as server:
        server.shell = bench.site.run
        settings = settings_of(server.port)
        poller = poller_for(settings)
        events = poller.watch(watch_spec(await bench.submit(hold=True)), interval=1)
        await anext(events)
        assert poller_for(settings) is poller
        await events.aclose()
        fresh = poller_for(settings)
        assert fresh is not poller
        # The old one, used once more, must not take the new one with it.
        events = poller.watch(watch_spec(await bench.submit(hold=True)), interval=1)
        await anext(events)
        await events.aclose()
        assert poller_for(settings) is fresh


async def test_all_watchers_of_one_site_share_one_log_in(bench: Bench) -> None:
    jobs = [await bench.submit(hold=True) for _ in range(15)]
    async with serve_ssh(public_line(KEY)) as server:
        server.shell = bench.site.run
        bench.poller = poller_for(settings_of(server.port))
        everyone = [bench.watch(job) for job in jobs]
        await until(lambda: all(each.notes for each in everyone))
        await until(lambda: len(server.commands) >= 3)
        assert len(server.logins) == 1
        assert server.peak_sessions == 1
        server.drop_all()
        await until(lambda: len(server.logins) == 2)
        for each in everyone:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in everyone), return_exceptions=True)
        await until(lambda: all(login.is_closed() for login in server.logins))


WHOSE = contextvars.ContextVar("WHOSE", default="nobody's")


async def test_each_watcher_keeps_its_own_context_and_the_poller_has_none(bench: Bench) -> None:
    """Airflow routes a log record by the context variables of the task that writes it."""
    seen_by_poller: list[str] = []

    async def look(send: Callable[[], Awaitable[CommandResult]]) -> CommandResult:
        seen_by_poller.append(WHOSE.get())
        return await send()

    job = await bench.submit(hold=True)
    seen: dict[str, str] = {}

    async def follow(name: str) -> None:
        WHOSE.set(name)
        events = bench.poller.watch(watch_spec(job), interval=0.01)
        async with contextlib.aclosing(events):
            await anext(events)
            seen[name] = WHOSE.get()

    for _ in range(4):
        bench.faulty.plan(POLL, look)
    await asyncio.gather(*(follow(name) for name in ("one's", "two's")))
    assert seen == {"one's": "one's", "two's": "two's"}
    assert set(seen_by_poller) == {"nobody's"}
