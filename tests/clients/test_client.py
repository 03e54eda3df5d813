"""
What a client of a site does, over a fake site and over the real cluster alike.

What needs a fault that a shared cluster cannot be given is asked of the fake alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from airflow_provider_csc.client import SlurmClient
from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConfigError,
    ConnectFailedError,
    ConnectionLostError,
    SlurmError,
    SubmitRejectedError,
    SubmitUnknownError,
    TransportError,
    UnreadableOutputError,
)
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.plan import JobSpec, build_request, read_source
from tests.pure.slurm.shell import HOSTILE_NAMES
from tests.support import fake_site as faults
from tests.support.fake_site import FakeSite, FaultyTransport, LocalTransport, fake_site
from tests.support.real_site import RealSite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.transport.base import Transport

pytestmark = pytest.mark.asyncio

LIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


@dataclass
class Bench:
    """A client of a site, a directory of its own there, and one task that is submitted."""

    site: FakeSite | RealSite
    client: SlurmClient
    scratch: Path
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    said: list[str] = field(default_factory=list)
    job_ids: set[str] = field(default_factory=set)

    @property
    def base_dir(self) -> Path:
        return self.scratch / "runs"

    def identity(self, try_number: int = 1, first_try: int = 1) -> TaskIdentity:
        return TaskIdentity(
            dag_id="contract",
            run_id=self.run_id,
            task_id="task",
            map_index=-1,
            try_number=try_number,
            first_try=first_try,
        )

    async def submit(
        self,
        command: str = "true",
        *,
        try_number: int = 1,
        first_try: int = 1,
        base_dir: Path | str | None = None,
        client: SlurmClient | None = None,
        hold: bool = False,
        run_began: int | None = None,
        **spec: Any,
    ) -> Submission:
        """Submit as the operator does; ``hold`` keeps the job alive without running it."""
        identity = self.identity(try_number, first_try)
        options = spec.pop("options", {}) | ({"hold": True} if hold else {})
        wanted = JobSpec(command=command, options=options, **spec)
        request, label = build_request(
            wanted,
            identity,
            script=read_source(wanted, None),
            defaults={"account": self.site.account},
            base_dir=str(base_dir or self.base_dir),
        )
        submission = await (client or self.client).submit(
            request,
            identity,
            label=label,
            since=run_began or int(time.time()),
            report=self.said.append,
        )
        self.job_ids.add(submission.job_id)
        return submission

    async def state(self, job_id: str) -> str:
        found = await self.client.query([job_id])
        return found[job_id].state if found else "(unknown)"

    async def until(self, job_id: str, *states: str) -> None:
        async with asyncio.timeout(30):
            while (state := await self.state(job_id)) not in states:
                assert state in (*LIVE, "(unknown)"), state
                await asyncio.sleep(0.1)

    async def jobs_of_this_task(self) -> set[str]:
        """All jobs of this task, whatever became of them."""
        answer = await self.client.run(f"squeue --noheader --states=all --me --format='%i {'%j'}'")
        key = self.identity().key
        rows = [line.split(" ", 1) for line in answer.text.splitlines()]
        return {job_id for job_id, name in rows if key in name}


@contextlib.contextmanager
def directory_of(site: FakeSite | RealSite) -> Iterator[Path]:
    scratch = site.home / f"contract-{secrets.token_hex(4)}"
    scratch.mkdir(mode=0o755)
    site.give(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(params=["fake", pytest.param("cluster", marks=pytest.mark.cluster)])
def site(request: pytest.FixtureRequest) -> Iterator[FakeSite | RealSite]:
    if request.param == "cluster":
        yield RealSite()
        return
    with fake_site() as fake:
        yield fake


@pytest_asyncio.fixture
async def bench(site: FakeSite | RealSite) -> AsyncIterator[Bench]:
    with directory_of(site) as scratch:
        async with bench_of(site, scratch, site.transport()) as bench:
            yield bench


@contextlib.asynccontextmanager
async def bench_of(
    site: FakeSite | RealSite, scratch: Path, transport: Transport
) -> AsyncIterator[Bench]:
    client = SlurmClient(transport, resolve_delays=(0.05, 0.1, 0.2))
    bench = Bench(site, client, scratch)
    try:
        yield bench
    finally:
        if bench.job_ids:
            await client.cancel(sorted(bench.job_ids))
        await client.close()


# Submitting


async def test_a_submitted_job_runs_and_leaves_its_files(bench: Bench) -> None:
    submission = await bench.submit("echo hello; echo oops >&2; exit 3")
    await bench.until(submission.job_id, "FAILED")
    run_dir = bench.base_dir / bench.identity().token
    assert submission.run_dir == str(run_dir)
    assert not submission.is_adopted
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert (run_dir / "job_id").read_text().strip() == submission.job_id
    assert (run_dir / "script").read_text() == "#!/bin/bash\necho hello; echo oops >&2; exit 3\n"
    assert Path(submission.stdout_path) == run_dir / "stdout.log" == Path(submission.stderr_path)
    assert sorted((run_dir / "stdout.log").read_text().split()) == ["hello", "oops"]
    assert '"exit_code": 3' in (run_dir / "exit.json").read_text()


async def test_the_paths_of_the_output_are_asked_where_the_user_chose_them(bench: Bench) -> None:
    out, err = bench.scratch / "out of %j.txt", bench.scratch / "err.txt"
    submission = await bench.submit(hold=True, options={"output": str(out), "error": str(err)})
    assert submission.stdout_path == str(out).replace("%j", submission.job_id)
    assert submission.stderr_path == str(err)
    again = await bench.submit(hold=True, options={"output": str(out), "error": str(err)})
    assert (again.stdout_path, again.stderr_path) == (
        submission.stdout_path,
        submission.stderr_path,
    )


async def test_the_same_try_submitted_twice_is_one_job(bench: Bench) -> None:
    first = await bench.submit(hold=True)
    second = await bench.submit(hold=True)
    assert second.job_id == first.job_id
    assert second.is_adopted
    assert await bench.jobs_of_this_task() == {first.job_id}
    assert f"submitted job {first.job_id}; it is adopted" in bench.said[-1]


async def test_two_clients_at_once_submit_one_job(bench: Bench) -> None:
    clients = [SlurmClient(bench.site.transport()) for _ in range(5)]
    try:
        done = await asyncio.gather(*(bench.submit(hold=True, client=client) for client in clients))
    finally:
        for client in clients:
            await client.close()
    assert len({each.job_id for each in done}) == 1
    assert len({each.stdout_path for each in done}) == 1
    assert [each.is_adopted for each in done].count(False) == 1
    assert await bench.jobs_of_this_task() == {done[0].job_id}


async def test_a_retry_adopts_a_live_job(bench: Bench) -> None:
    first = await bench.submit(hold=True)
    second = await bench.submit(hold=True, try_number=2)
    assert second.job_id == first.job_id
    assert second.is_adopted
    assert second.run_dir == first.run_dir
    assert second.stdout_path == first.stdout_path
    assert await bench.jobs_of_this_task() == {first.job_id}


async def test_a_retry_adopts_a_job_that_succeeded_unseen(bench: Bench) -> None:
    first = await bench.submit("true")
    await bench.until(first.job_id, "COMPLETED")
    second = await bench.submit("true", try_number=2)
    assert (second.job_id, second.is_adopted) == (first.job_id, True)


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_a_retry_does_not_adopt_what_did_not_succeed(bench: Bench, ending: str) -> None:
    first = await bench.submit("false", hold=ending == "cancelled")
    if ending == "cancelled":
        await bench.client.cancel([first.job_id])
    await bench.until(first.job_id, ending.upper())
    second = await bench.submit(hold=True, try_number=2)
    assert second.job_id != first.job_id
    assert not second.is_adopted
    assert second.run_dir != first.run_dir


async def test_a_new_generation_cancels_the_live_job_of_the_older(bench: Bench) -> None:
    first = await bench.submit(hold=True)
    second = await bench.submit(hold=True, try_number=2, first_try=2)
    assert second.job_id != first.job_id
    await bench.until(first.job_id, "CANCELLED")
    assert await bench.state(second.job_id) == "PENDING"
    assert f"job {first.job_id} (PENDING) is cancelled first" in bench.said[0]


async def test_a_new_generation_does_not_adopt_an_old_success(bench: Bench) -> None:
    first = await bench.submit("true")
    await bench.until(first.job_id, "COMPLETED")
    second = await bench.submit(hold=True, try_number=2, first_try=2)
    assert second.job_id != first.job_id


def make_older(submission: Submission, seconds: int) -> None:
    """Let a run directory look as if it had been made that long ago."""
    made = time.time() - seconds
    os.utime(Path(submission.run_dir) / "script", (made, made))


async def test_what_a_deleted_run_of_the_same_id_left_is_not_adopted(bench: Bench) -> None:
    old = await bench.submit("true")
    await bench.until(old.job_id, "COMPLETED")
    make_older(old, 600)

    new = await bench.submit("true", run_began=int(time.time()) - 30)

    assert new.job_id != old.job_id
    assert not new.is_adopted
    assert new.run_dir == old.run_dir
    kept = [path for path in Path(old.run_dir).parent.iterdir() if "~" in path.name]
    assert [(path / "job_id").read_text().strip() for path in kept] == [old.job_id]


async def test_a_job_of_a_deleted_run_is_gone_before_its_directory_is_anothers(
    bench: Bench,
) -> None:
    old = await bench.submit(hold=True)
    make_older(old, 600)

    new = await bench.submit(hold=True, run_began=int(time.time()) - 30)

    await bench.until(old.job_id, "CANCELLED")
    assert new.job_id != old.job_id
    assert await bench.state(new.job_id) == "PENDING"


async def test_a_retry_does_not_adopt_the_success_of_a_deleted_run_either(bench: Bench) -> None:
    old = await bench.submit("true")
    await bench.until(old.job_id, "COMPLETED")
    make_older(old, 600)

    new = await bench.submit("true", try_number=2, run_began=int(time.time()) - 30)

    assert new.job_id != old.job_id


async def test_another_task_is_not_taken_for_this_one(bench: Bench) -> None:
    first = await bench.submit(hold=True)
    bench.run_id += "x"
    second = await bench.submit(hold=True, try_number=2)
    assert second.job_id != first.job_id
    assert await bench.state(first.job_id) == "PENDING"


# What cannot be submitted leaves nothing behind


async def test_a_refused_job_leaves_neither_its_directory_nor_the_one_above(bench: Bench) -> None:
    with pytest.raises(SubmitRejectedError) as caught:
        await bench.submit(options={"partition": "nope"})
    assert "Invalid partition name specified" in caught.value.message
    assert "Nothing was submitted" in caught.value.message
    assert "--partition=nope" in caught.value.message
    assert list(bench.scratch.iterdir()) == []
    assert await bench.jobs_of_this_task() == set()


async def test_a_refused_job_spares_what_lies_beside_its_directory(bench: Bench) -> None:
    kept = await bench.submit(hold=True)
    bench.run_id += "x"
    with pytest.raises(SubmitRejectedError):
        await bench.submit(options={"partition": "nope"})
    assert [path.name for path in bench.base_dir.iterdir()] == [Path(kept.run_dir).name]


async def test_a_refused_job_spares_an_empty_directory_that_was_there(bench: Bench) -> None:
    """It may be shared, with a group and modes that a new one would not have."""
    bench.base_dir.mkdir()
    bench.site.give(bench.base_dir)
    with pytest.raises(SubmitRejectedError):
        await bench.submit(options={"partition": "nope"})
    assert list(bench.base_dir.iterdir()) == []


async def test_a_refused_try_can_be_submitted_again(bench: Bench) -> None:
    with pytest.raises(SubmitRejectedError):
        await bench.submit(options={"partition": "nope"})
    assert not (await bench.submit(hold=True)).is_adopted


async def test_a_missing_work_dir_is_named(bench: Bench) -> None:
    missing = bench.scratch / "no such"
    with pytest.raises(ConfigError) as caught:
        await bench.submit(work_dir=str(missing))
    assert caught.value.field == "work_dir"
    assert repr(str(missing)) in caught.value.message
    assert "No such file or directory" in caught.value.message
    assert list(bench.scratch.iterdir()) == []


async def test_a_work_dir_that_may_not_be_written_is_named(bench: Bench) -> None:
    locked = bench.scratch / "locked"
    locked.mkdir(mode=0o555)
    bench.site.give(locked)
    with pytest.raises(ConfigError) as caught:
        await bench.submit(work_dir=str(locked))
    assert caught.value.field == "work_dir"
    assert "may not write there" in caught.value.message
    assert [path.name for path in bench.scratch.iterdir()] == ["locked"]


async def test_a_base_directory_that_may_not_be_written_is_named(bench: Bench) -> None:
    locked = bench.scratch / "locked"
    locked.mkdir(mode=0o555)
    bench.site.give(locked)
    for base in (locked, locked / "below"):
        with pytest.raises(ConfigError) as caught:
            await bench.submit(base_dir=base)
        assert caught.value.field == "work_dir"
        assert repr(str(base)) in caught.value.message
        assert "Permission denied" in caught.value.message
        assert "Nothing was submitted" in caught.value.message
    assert list(locked.iterdir()) == []


async def test_a_base_directory_that_is_a_file_is_named(bench: Bench) -> None:
    base = bench.scratch / "file"
    base.touch()
    with pytest.raises(ConfigError, match="File exists"):
        await bench.submit(base_dir=base)
    assert base.is_file()


@contextlib.contextmanager
def small_volume(bench: Bench, **limits: object) -> Iterator[Path]:
    """A file system with hardly any room, as a used-up quota leaves it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = bench.scratch / "volume"
    place.mkdir()
    options = ",".join(f"{name}={value}" for name, value in {**limits, "mode": "777"}.items())
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


# The second and the third lack room for the files, the first for the directory itself.
@pytest.mark.parametrize(
    "limits", [{"nr_inodes": 2}, {"nr_inodes": 3}, {"size": "4k"}], ids=["claim", "inode", "bytes"]
)
async def test_a_used_up_quota_is_named_and_what_was_begun_is_removed(
    bench: Bench, limits: dict[str, object]
) -> None:
    with small_volume(bench, **limits) as place:
        with pytest.raises(ConfigError) as caught:
            await bench.submit("true # " + "x" * 5000, base_dir=place / "runs")
        assert caught.value.field == "work_dir"
        assert "No space left on device" in caught.value.message
        assert list(place.iterdir()) == []
    assert await bench.jobs_of_this_task() == set()


# Names that would like to be executed


# Below each other, so that a few jobs try them all.
@pytest.mark.parametrize("names", [HOSTILE_NAMES[start::4] for start in range(4)])
async def test_a_hostile_path_is_a_path(bench: Bench, names: list[str]) -> None:
    base, work_dir = bench.scratch.joinpath(*names), bench.scratch.joinpath("work", *names)
    work_dir.mkdir(parents=True)
    for path in (work_dir, *work_dir.parents):
        if path.is_relative_to(bench.scratch):
            bench.site.give(path)
    submission = await bench.submit(
        "pwd; printf '%s\\n' \"$WORDS\"",
        base_dir=base,
        work_dir=str(work_dir),
        env={"WORDS": "|".join(names)},
        job_name="|".join(names),
    )
    await bench.until(submission.job_id, "COMPLETED")
    assert (await bench.client.read_bytes(submission.stdout_path)).decode().split("\n") == [
        str(work_dir),
        "|".join(names),
        "",
    ]
    again = await bench.submit(base_dir=base, try_number=2, job_name="|".join(names))
    assert again.job_id == submission.job_id
    assert not [path for path in bench.scratch.rglob("pwned") if path.is_file()]
    assert not (bench.site.home / "pwned").exists()


# Asking and cancelling


async def test_a_job_nobody_knows_is_left_out(bench: Bench) -> None:
    known = await bench.submit(hold=True)
    found = await bench.client.query(["4000000", known.job_id, "4000001_3"])
    assert list(found) == [known.job_id]
    assert await bench.client.query(["4000000"]) == {}


async def test_a_live_job_is_cancelled(bench: Bench) -> None:
    job = await bench.submit("sleep 60")
    await bench.until(job.job_id, "RUNNING")
    await bench.client.cancel([job.job_id])
    await bench.until(job.job_id, "CANCELLED")


async def test_cancelling_what_has_ended_or_never_was_is_no_error(bench: Bench) -> None:
    ended = await bench.submit("true")
    await bench.until(ended.job_id, "COMPLETED")
    live = await bench.submit(hold=True, try_number=2, first_try=2)
    await bench.client.cancel([ended.job_id, "4000000", live.job_id])
    await bench.until(live.job_id, "CANCELLED")
    assert await bench.state(ended.job_id) == "COMPLETED"


async def test_the_probe_names_user_host_and_slurm(bench: Bench) -> None:
    probe = await bench.client.probe()
    assert probe.home == str(bench.site.home)
    assert probe.version == "22.05.8"
    assert probe.cluster
    assert probe.problem == ""


# Files


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [
        (0, 100, b"\x00\xffab\r\ncd\n\n"),
        (0, 3, b"\x00\xffa"),
        (4, 2, b"\r\n"),
        (9, 100, b"\n"),
        (10, 100, b""),
        (11, 100, b""),
        (-3, 100, b"d\n\n"),
        (-3, 1, b"d"),
        (-999, 2, b"\x00\xff"),
        (0, 0, b""),
    ],
)
async def test_bytes_are_read_from_an_offset(
    bench: Bench, offset: int, limit: int, expected: bytes
) -> None:
    (bench.scratch / "file").write_bytes(b"\x00\xffab\r\ncd\n\n")
    path = str(bench.scratch / "file")
    assert await bench.client.read_bytes(path, offset=offset, limit=limit) == expected


async def test_a_large_part_is_read_whole(bench: Bench) -> None:
    data = os.urandom(3_000_000)
    (bench.scratch / "file").write_bytes(data)
    path = str(bench.scratch / "file")
    assert (
        await bench.client.read_bytes(path, offset=1_000_001, limit=1 << 20)
        == (data[1_000_001 : 1_000_001 + (1 << 20)])
    )


@pytest.mark.parametrize("kind", ["missing", "directory", "forbidden"])
async def test_what_cannot_be_read_is_named(bench: Bench, kind: str) -> None:
    path = bench.scratch / "file"
    if kind == "directory":
        path.mkdir()
    if kind == "forbidden":
        path.write_text("secret")  # and stays root's, or loses its modes
        path.chmod(0o000)
    with pytest.raises(SlurmError) as caught:
        await bench.client.read_bytes(str(path))
    assert repr(str(path)) in caught.value.message


@pytest.mark.parametrize("name", ["plain", "with space", "-dash", "$(touch pwned)", "ümläut"])
async def test_a_file_is_written_whole_with_its_mode(bench: Bench, name: str) -> None:
    path = bench.scratch / name
    for text in ("first\n", "second ' \" $HOME \\ \n\n", "", "x" * 300_000):
        await bench.client.write_file(str(path), text, mode=0o640)
        assert path.read_text() == text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [each.name for each in bench.scratch.iterdir()] == [name]


async def test_a_file_appears_under_its_name_only_when_it_is_whole(bench: Bench) -> None:
    path = bench.scratch / "file"
    path.write_text("old")
    held = os.open(path, os.O_RDONLY)
    try:
        await bench.client.write_file(str(path), "new")
        assert os.read(held, 10) == b"old"
    finally:
        os.close(held)
    assert path.read_text() == "new"


async def test_a_place_below_home_means_the_same_to_reading_and_writing(bench: Bench) -> None:
    path = f"~/{bench.scratch.name}/file"
    await bench.client.write_file(path, "text\n")
    assert (bench.scratch / "file").read_text() == "text\n"
    assert await bench.client.read_bytes(path) == b"text\n"


async def test_a_file_that_cannot_be_written_is_named(bench: Bench) -> None:
    path = bench.scratch / "none" / "file"
    with pytest.raises(SlurmError) as caught:
        await bench.client.write_file(str(path), "text")
    assert repr(str(path)) in caught.value.message
    assert "No such file" in caught.value.message


async def test_a_command_gives_its_status_and_both_streams(bench: Bench) -> None:
    answer = await bench.client.run("echo out; echo 'err $HOME' >&2; exit 3")
    assert (answer.status, answer.text) == (3, "out\nerr $HOME")


# Faults: only the fake can be given them


@pytest.fixture
def fake() -> Iterator[FakeSite]:
    with fake_site() as fake:
        yield fake


@dataclass
class FaultyBench(Bench):
    """A bench whose connection fails as planned."""

    faulty: FaultyTransport = field(default_factory=lambda: FaultyTransport(None))

    def jobs(self) -> list[str]:
        assert isinstance(self.site, FakeSite)
        return list(self.site.jobs)


@pytest_asyncio.fixture
async def faulty_bench(fake: FakeSite) -> AsyncIterator[FaultyBench]:
    with directory_of(fake) as scratch:
        transport = FaultyTransport(LocalTransport(fake))
        client = SlurmClient(transport, resolve_delays=(0.02, 0.05, 0.1))
        yield FaultyBench(fake, client, scratch, faulty=transport)


SUBMIT, LOOK_UP, DISCARD = "sbatch --parsable", "--me", "ask discard"


@pytest.mark.parametrize(
    "fault",
    [faults.drop_before, faults.drop_after, faults.time_out, *map(faults.cut_at, (0, 60, -30, -2))],
    ids=["before", "after", "timeout", "cut at 0", "cut at 60", "cut 30 off", "cut 2 off"],
)
async def test_a_lost_answer_is_resolved_by_looking(faulty_bench: FaultyBench, fault: Any) -> None:
    faulty_bench.faulty.plan(SUBMIT, fault)
    submission = await faulty_bench.submit(hold=True)
    assert faulty_bench.jobs() == [submission.job_id]
    assert faulty_bench.site.calls("sbatch") == 1
    assert (Path(submission.run_dir) / "job_id").exists()
    assert "not known" in faulty_bench.said[0]


async def test_no_cut_of_an_answer_ever_submits_twice(faulty_bench: FaultyBench) -> None:
    done = []
    for size in range(0, 400, 23):
        faulty_bench.run_id = str(size)
        faulty_bench.faulty.plan(SUBMIT, faults.cut_at(size))
        done.append((await faulty_bench.submit(hold=True)).job_id)
    assert faulty_bench.jobs() == done


async def test_a_connection_lost_again_and_again_gives_up_without_a_second_job(
    faulty_bench: FaultyBench,
) -> None:
    for _ in range(3):
        faulty_bench.faulty.plan(SUBMIT, faults.drop_before)
    with pytest.raises(SubmitUnknownError):
        await faulty_bench.submit(hold=True)
    assert faulty_bench.jobs() == []


async def test_a_connection_that_also_fails_while_looking_is_tried_again(
    faulty_bench: FaultyBench,
) -> None:
    faulty_bench.faulty.plan(SUBMIT, faults.drop_after)
    faulty_bench.faulty.plan(LOOK_UP, faults.refuse)
    faulty_bench.faulty.plan(LOOK_UP, faults.drop_after)
    assert (await faulty_bench.submit(hold=True)).job_id in faulty_bench.jobs()


async def test_a_site_that_stays_away_leaves_the_outcome_to_the_next_try(
    faulty_bench: FaultyBench,
) -> None:
    faulty_bench.faulty.plan(SUBMIT, faults.drop_after)
    for _ in range(3):
        faulty_bench.faulty.plan(LOOK_UP, faults.refuse)
    with pytest.raises(SubmitUnknownError, match="looks for it again"):
        await faulty_bench.submit(hold=True)
    (job_id,) = faulty_bench.jobs()
    assert (await faulty_bench.submit(hold=True, try_number=2)).job_id == job_id


async def test_a_site_that_cannot_be_reached_at_all_is_said_at_once(
    faulty_bench: FaultyBench,
) -> None:
    faulty_bench.faulty.plan(SUBMIT, faults.refuse)
    with pytest.raises(ConnectFailedError):
        await faulty_bench.submit(hold=True)
    assert faulty_bench.jobs() == []


async def test_set_up_lines_that_end_the_shell_are_said_so(fake: FakeSite) -> None:
    with directory_of(fake) as scratch:
        client = SlurmClient(LocalTransport(fake), login_setup="exit 7", resolve_delays=(0, 0))
        with pytest.raises(UnreadableOutputError, match="set-up lines may have ended it"):
            await Bench(fake, client, scratch).submit()


async def test_a_job_accepted_behind_a_time_out_of_sbatch_is_found_by_name(
    faulty_bench: FaultyBench,
) -> None:
    with faulty_bench.site.fault("sbatch_times_out"):
        submission = await faulty_bench.submit(hold=True)
    assert faulty_bench.jobs() == [submission.job_id]
    assert "Socket timed out" in faulty_bench.said[0]
    assert submission.stdout_path == f"{submission.run_dir}/stdout.log"


async def test_a_time_out_of_sbatch_without_a_job_is_no_verdict(faulty_bench: FaultyBench) -> None:
    with (
        faulty_bench.site.fault("sbatch_times_out_for_nothing"),
        pytest.raises(SubmitUnknownError, match="Socket timed out"),
    ):
        await faulty_bench.submit(hold=True)
    assert faulty_bench.site.calls("sbatch") == 1


async def test_a_controller_that_is_down_is_no_verdict(faulty_bench: FaultyBench) -> None:
    with (
        faulty_bench.site.fault("controller_down"),
        pytest.raises(SubmitUnknownError, match="Unable to contact slurm controller"),
    ):
        await faulty_bench.submit(hold=True)


@pytest.mark.parametrize("fault", ["controller_down", "slurmdbd_down"])
async def test_nothing_is_submitted_while_an_earlier_try_cannot_be_looked_up(
    faulty_bench: FaultyBench, fault: str
) -> None:
    with (
        faulty_bench.site.fault(fault),
        pytest.raises(SubmitUnknownError, match="Nothing is submitted before that is known"),
    ):
        await faulty_bench.submit(hold=True, try_number=2)
    assert faulty_bench.site.calls("sbatch") == 0


async def test_a_refusal_is_said_even_when_clearing_up_fails(faulty_bench: FaultyBench) -> None:
    faulty_bench.faulty.plan(DISCARD, faults.drop_before)
    with pytest.raises(SubmitRejectedError, match="Invalid partition"):
        await faulty_bench.submit(options={"partition": "nope"})


async def test_a_try_refused_to_one_client_can_be_submitted_by_the_other(
    faulty_bench: FaultyBench,
) -> None:
    """The second sees the first one's directory, and then that it is gone."""
    faulty_bench.faulty.plan(DISCARD, faults.delay(0.3))
    slow = asyncio.ensure_future(faulty_bench.submit(options={"partition": "nope"}))
    await asyncio.sleep(0.2)
    other = SlurmClient(LocalTransport(faulty_bench.site), resolve_delays=(0.1,) * 9)
    submission = await faulty_bench.submit(hold=True, client=other)
    with pytest.raises(SubmitRejectedError):
        await slow
    assert faulty_bench.jobs() == [submission.job_id]


async def test_a_claim_left_by_a_broken_submission_is_taken_over_when_it_is_old(
    faulty_bench: FaultyBench,
) -> None:
    run_dir = faulty_bench.base_dir / faulty_bench.identity().token
    run_dir.mkdir(parents=True)
    for path in (run_dir.parent, run_dir):
        faulty_bench.site.give(path)
    with pytest.raises(SubmitUnknownError):
        await faulty_bench.submit(hold=True)
    assert faulty_bench.jobs() == []
    long_ago = time.time() - 3600
    os.utime(run_dir, (long_ago, long_ago))
    assert (await faulty_bench.submit(hold=True)).job_id in faulty_bench.jobs()


async def test_an_old_claim_is_kept_while_slurm_gives_no_complete_answer(
    faulty_bench: FaultyBench,
) -> None:
    run_dir = faulty_bench.base_dir / faulty_bench.identity().token
    run_dir.mkdir(parents=True)
    for path in (run_dir.parent, run_dir):
        faulty_bench.site.give(path)
    long_ago = time.time() - 3600
    os.utime(run_dir, (long_ago, long_ago))
    with faulty_bench.site.fault("slurmdbd_down"), pytest.raises(SubmitUnknownError):
        await faulty_bench.submit(hold=True)
    assert run_dir.exists()


async def test_a_job_known_to_accounting_alone_is_asked_there(faulty_bench: FaultyBench) -> None:
    job = await faulty_bench.submit("true")
    await faulty_bench.until(job.job_id, "COMPLETED")
    faulty_bench.site.change(job.job_id, in_queue="")
    assert await faulty_bench.state(job.job_id) == "COMPLETED"
    with (
        faulty_bench.site.fault("slurmdbd_down"),
        pytest.raises(SlurmError, match="sacct gave no answer"),
    ):
        await faulty_bench.client.query([job.job_id])


async def test_no_answer_of_squeue_is_not_an_empty_one(faulty_bench: FaultyBench) -> None:
    with (
        faulty_bench.site.fault("controller_down"),
        pytest.raises(SlurmError, match=r"squeue gave no answer: .*Unable to contact"),
    ):
        await faulty_bench.client.query(["1"])


async def test_a_controller_that_is_down_cannot_cancel(faulty_bench: FaultyBench) -> None:
    with faulty_bench.site.fault("controller_down"), pytest.raises(SlurmError) as caught:
        await faulty_bench.client.cancel(["1", "2"])
    assert "scancel could not cancel 1, 2" in caught.value.message


@pytest.mark.parametrize(
    ("said", "status", "expected"),
    [
        ("scancel: error: Kill job error on job id 1: Invalid job id specified", 1, None),
        (
            "scancel: error: Kill job error on job id 1: Job/step already completing or completed",
            1,
            None,
        ),
        (
            (
                "scancel: error: Kill job error on job id 1: Invalid job id specified\n"
                "scancel: error: Kill job error on job id 2: Access/permission denied"
            ),
            1,
            "Access/permission denied",
        ),
        ("", 3, "status 3 and said nothing"),
    ],
)
async def test_what_scancel_complains_of_counts_for_each_job(
    fake: FakeSite, said: str, status: int, expected: str | None
) -> None:
    """A job that is gone needs no cancelling; it must not hide one that may not be cancelled."""
    (fake.root / "bin" / "scancel").write_text(
        f"#!/bin/sh\ncat >&2 <<'EOF'\n{said}\nEOF\nexit {status}\n"
        if said
        else f"#!/bin/sh\nexit {status}\n"
    )
    client = SlurmClient(LocalTransport(fake))
    if expected is None:
        await client.cancel(["1", "2"])
    else:
        with pytest.raises(SlurmError) as caught:
            await client.cancel(["1", "2"])
        assert expected in caught.value.message
        assert "Invalid job id" not in caught.value.message


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "en_US.ISO-8859-1", "no_SUCH"])
async def test_answers_are_counted_in_bytes_in_every_locale(fake: FakeSite, locale: str) -> None:
    client = SlurmClient(LocalTransport(fake), login_setup=f"export LC_ALL={locale}")
    answer = await client.run("printf 'ümläut \\xff \\xc3'; exit 1")
    assert (answer.status, answer.data) == (1, "ümläut ".encode() + b"\xff \xc3")


async def test_what_set_up_lines_print_is_no_part_of_the_answer(fake: FakeSite) -> None:
    setup = "echo noise; echo @0123 end 0 0; printf '\\n' >&2; export GREETING=hello"
    client = SlurmClient(LocalTransport(fake), login_setup=setup)
    assert (await client.run('echo "$GREETING"')).text == "hello"


async def test_every_kind_of_lost_answer_stays_an_error_of_its_kind(
    faulty_bench: FaultyBench,
) -> None:
    kinds: list[tuple[Any, type[Exception]]] = [
        (faults.drop_before, ConnectionLostError),
        (faults.drop_after, ConnectionLostError),
        (faults.time_out, CommandTimeoutError),
        (faults.cut_at(10), UnreadableOutputError),
        (faults.refuse, ConnectFailedError),
    ]
    for fault, kind in kinds:
        faulty_bench.faulty.plan("squeue", fault)
        with pytest.raises((TransportError, UnreadableOutputError)) as caught:
            await faulty_bench.client.query(["1"])
        assert type(caught.value) is kind
