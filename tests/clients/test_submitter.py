"""
A job is submitted exactly once, over a fake site and over the real cluster alike.

What needs a fault that a shared cluster cannot be given is asked of the fake alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.errors import (
    ConfigError,
    ConnectFailedError,
    SiteUnavailableError,
    SubmitKilledError,
    SubmitRejectedError,
    SubmitUnknownError,
    TransportError,
    UnreadableOutputError,
)
from airflow_provider_csc.slurm.cancel_commands import (
    build_cancel_submission,
    read_cancelled_submission,
)
from tests.pure.slurm.shell import HOSTILE_NAMES
from tests.support import fake_site as faults
from tests.support.bench import Bench, FaultyBench, directory_of
from tests.support.fake_site import FakeSite, LocalTransport

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.asyncio


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
    assert f"This very try had submitted job {first.job_id} already" in bench.said[-1]


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
    assert f"job {first.job_id} (PENDING) of before is cancelled" in bench.said[1]


async def test_a_new_generation_does_not_adopt_an_old_success(bench: Bench) -> None:
    first = await bench.submit("true")
    await bench.until(first.job_id, "COMPLETED")
    second = await bench.submit(hold=True, try_number=2, first_try=2)
    assert second.job_id != first.job_id


EARLIER, LATER = "2026-11-21T07:00:00+00:00", "2026-11-21T08:00:00.250000+00:00"


async def test_what_a_deleted_run_of_the_same_id_left_is_not_adopted(bench: Bench) -> None:
    old = await bench.submit("true", run_started=EARLIER)
    await bench.until(old.job_id, "COMPLETED")

    new = await bench.submit("true", run_started=LATER)

    assert new.job_id != old.job_id
    assert not new.is_adopted
    assert new.run_dir == old.run_dir
    kept = [path for path in Path(old.run_dir).parent.iterdir() if "~" in path.name]
    assert [(path / "job_id").read_text().strip() for path in kept] == [old.job_id]


@pytest.mark.parametrize(("age", "is_adopted"), [(7200, False), (0, True)])
@pytest.mark.parametrize("is_fresh", [True, False])
async def test_a_run_directory_that_does_not_say_whose_it_is_is_known_by_its_age(
    bench: Bench, *, is_fresh: bool, age: int, is_adopted: bool
) -> None:
    """As version 0.1 left them."""
    old = await bench.submit("true")
    await bench.until(old.job_id, "COMPLETED")
    (Path(old.run_dir) / "identity.json").unlink()
    made = time.time() - age
    os.utime(Path(old.run_dir) / "script", (made, made))

    new = await bench.submit("true", run_started=LATER, is_fresh=is_fresh)

    assert new.is_adopted is is_adopted
    assert (new.job_id == old.job_id) is is_adopted


@pytest.mark.parametrize("is_fresh", [True, False])
async def test_a_job_of_a_deleted_run_is_gone_before_its_directory_is_anothers(
    bench: Bench, *, is_fresh: bool
) -> None:
    old = await bench.submit(hold=True, run_started=EARLIER)

    new = await bench.submit(hold=True, run_started=LATER, is_fresh=is_fresh)

    await bench.until(old.job_id, "CANCELLED")
    assert new.job_id != old.job_id
    assert await bench.state(new.job_id) == "PENDING"


async def test_a_job_of_a_deleted_run_whose_directory_is_gone_is_known_by_its_age(
    bench: Bench,
) -> None:
    old = await bench.submit("true")
    await bench.until(old.job_id, "COMPLETED")
    shutil.rmtree(old.run_dir)
    long_after = int(time.time()) + 300  # the run began, and the job is, five minutes ago

    new = await bench.submit(hold=True, try_number=2, since=long_after)
    assert new.is_adopted  # a clock that is off makes no job older than its run
    assert new.job_id == old.job_id


async def test_a_worker_of_the_deleted_run_submits_nothing_any_more(bench: Bench) -> None:
    new = await bench.submit(hold=True, run_started=LATER)
    for try_number in (1, 2):
        with pytest.raises(ConfigError, match="began later"):
            await bench.submit(hold=True, try_number=try_number, run_started=EARLIER)
    with pytest.raises(ConfigError, match="began later"):
        await bench.submit(hold=True, run_started=EARLIER, is_fresh=True)
    assert await bench.jobs_of_this_task() == {new.job_id}
    assert await bench.state(new.job_id) == "PENDING"


async def test_a_retry_does_not_adopt_the_success_of_a_deleted_run_either(bench: Bench) -> None:
    old = await bench.submit("true", run_started=EARLIER)
    await bench.until(old.job_id, "COMPLETED")

    new = await bench.submit("true", try_number=2, run_started=LATER)

    assert new.job_id != old.job_id


async def test_a_job_without_its_directory_is_found_by_name_in_the_queue(bench: Bench) -> None:
    first = await bench.submit(hold=True)
    shutil.rmtree(first.run_dir)
    second = await bench.submit(hold=True, try_number=2)
    assert (second.job_id, second.is_adopted, second.run_dir) == (first.job_id, True, "")
    assert second.stdout_path == first.stdout_path


async def test_an_end_that_was_noted_as_unknown_is_not_waited_for_again(bench: Bench) -> None:
    first = await bench.submit(hold=True)
    await bench.client.cancel([first.job_id])
    job_id = Path(first.run_dir) / "job_id"
    job_id.write_text("3999999\n")  # a job of which no source knows anything
    assert (await bench.submit(hold=True, try_number=2)).job_id == "3999999"
    (Path(first.run_dir) / "verdict").write_text("UNKNOWN\n")
    bench.job_ids.discard("3999999")
    third = await bench.submit(hold=True, try_number=3)
    assert third.job_id not in (first.job_id, "3999999")
    assert not third.is_adopted


async def test_a_cleared_task_waits_until_the_old_job_is_gone(bench: Bench) -> None:
    first = await bench.submit("trap '' TERM; sleep 60 & wait; sleep 60")
    await bench.until(first.job_id, "RUNNING")
    bench.delays = (0.2,) * 100
    await bench.submit(hold=True, try_number=2, first_try=2)
    assert await bench.state(first.job_id) == "CANCELLED"


async def test_a_resubmission_is_a_job_of_its_own_and_is_adopted_by_the_next_try(
    bench: Bench,
) -> None:
    first = await bench.submit("false")
    await bench.until(first.job_id, "FAILED")
    again = await bench.submit(hold=True, resubmission=1)
    assert again.job_id != first.job_id
    assert Path(again.run_dir).name == f"{bench.identity().token}.1"
    assert (await bench.submit(hold=True, resubmission=1)).job_id == again.job_id
    assert (await bench.submit(hold=True, try_number=2)).job_id == again.job_id


async def test_a_kill_before_sbatch_leaves_no_job(bench: Bench) -> None:
    run_dir = bench.base_dir / bench.identity().token
    run_dir.mkdir(parents=True)
    (run_dir / "cancel").write_text("0\n")
    for path in (run_dir.parent, run_dir, run_dir / "cancel"):
        bench.site.give(path)
    with pytest.raises(SubmitKilledError, match="nothing was submitted"):
        await bench.submit(hold=True)
    assert await bench.jobs_of_this_task() == set()
    # Who killed it may want it again; nothing is waited for then.
    assert not (await bench.submit(hold=True, try_number=2)).is_adopted


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
async def test_a_used_up_quota_is_worth_waiting_for_and_what_was_begun_is_removed(
    bench: Bench, limits: dict[str, object]
) -> None:
    with small_volume(bench, **limits) as place:
        for is_fresh in (True, False):
            with pytest.raises(SiteUnavailableError) as caught:
                await bench.submit(
                    "true # " + "x" * 5000, base_dir=place / "runs", is_fresh=is_fresh
                )
            assert "No space left on device" in caught.value.message
            assert "Nothing was submitted" in caught.value.message
            assert list(place.iterdir()) == []
    assert await bench.jobs_of_this_task() == set()


async def test_a_disk_that_fills_up_before_the_id_is_recorded_hides_no_job(bench: Bench) -> None:
    """Room for the directory and its three files, and for none with the id."""
    with small_volume(bench, nr_inodes=5) as place:
        first = await bench.submit(hold=True, base_dir=place)
        assert not (Path(first.run_dir) / "job_id").exists()
        for try_number in (1, 2):
            found = await bench.submit(hold=True, base_dir=place, try_number=try_number)
            assert (found.job_id, found.is_adopted) == (first.job_id, True)
        assert await bench.jobs_of_this_task() == {first.job_id}


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


# Faults: only the fake can be given them

SUBMIT, LOOK_UP, DISCARD = "\nsubmit\n", "--me", "ask discard"


@pytest.mark.parametrize(
    "fault",
    [faults.drop_before, faults.drop_after, faults.time_out, *map(faults.cut_at, (0, 60, -30, -2))],
    ids=["before", "after", "timeout", "cut at 0", "cut at 60", "cut 30 off", "cut 2 off"],
)
async def test_a_lost_answer_is_resolved_by_looking(faulty_bench: FaultyBench, fault: Any) -> None:
    faulty_bench.faulty.plan(SUBMIT, fault)
    submission = await faulty_bench.submit(hold=True, is_fresh=True)
    assert faulty_bench.jobs() == [submission.job_id]
    assert faulty_bench.site.calls("sbatch") == 1
    assert (Path(submission.run_dir) / "job_id").exists()
    assert "not known" in faulty_bench.said[0]


@pytest.mark.parametrize("start", range(4))
async def test_no_cut_of_an_answer_ever_submits_twice(
    faulty_bench: FaultyBench, start: int
) -> None:
    done = []
    for size in range(start * 5, 420, 20):
        faulty_bench.run_id = str(size)
        faulty_bench.faulty.plan(SUBMIT, faults.cut_at(size))
        done.append((await faulty_bench.submit(hold=True, is_fresh=True)).job_id)
    assert faulty_bench.jobs() == done


@pytest.mark.parametrize("start", range(4))
async def test_no_cut_of_a_program_ever_submits_twice(
    faulty_bench: FaultyBench, start: int
) -> None:
    """Half a program does nothing, a whole one of which nobody hears submits."""
    done = []
    for size in (*range(1000 * start, 8000, 4000), -(start + 1), -20 * (start + 1)):
        faulty_bench.run_id = str(size)
        faulty_bench.faulty.plan(SUBMIT, faults.cut_program_at(size))
        done.append((await faulty_bench.submit(hold=True, is_fresh=True)).job_id)
    assert faulty_bench.jobs() == done


@pytest.mark.parametrize("size", [0, 100, 1000, 4000, -2])
async def test_a_look_up_that_is_cut_decides_nothing(faulty_bench: FaultyBench, size: int) -> None:
    first = await faulty_bench.submit(hold=True)
    faulty_bench.faulty.plan(LOOK_UP, faults.cut_program_at(size))
    with pytest.raises((TransportError, UnreadableOutputError)):
        await faulty_bench.submit(hold=True, try_number=2)
    assert faulty_bench.jobs() == [first.job_id]


async def test_a_connection_lost_again_and_again_gives_up_without_a_second_job(
    faulty_bench: FaultyBench,
) -> None:
    for _ in range(3):
        faulty_bench.faulty.plan(SUBMIT, faults.drop_before)
    with pytest.raises(SubmitUnknownError):
        await faulty_bench.submit(hold=True)
    assert faulty_bench.jobs() == []


@pytest.mark.parametrize("lost", [faults.refuse, faults.drop_after, faults.cut_at(50)])
async def test_a_connection_that_also_fails_while_looking_is_tried_again(
    faulty_bench: FaultyBench, lost: Any
) -> None:
    faulty_bench.faulty.plan(SUBMIT, faults.drop_after)
    faulty_bench.faulty.plan(LOOK_UP, lost)
    faulty_bench.faulty.plan(LOOK_UP, lost)
    submission = await faulty_bench.submit(hold=True, is_fresh=True)
    assert faulty_bench.jobs() == [submission.job_id]


async def test_a_site_that_stays_away_leaves_the_outcome_to_whoever_looks_next(
    faulty_bench: FaultyBench,
) -> None:
    faulty_bench.faulty.plan(SUBMIT, faults.drop_after)
    for _ in range(3):
        faulty_bench.faulty.plan(LOOK_UP, faults.refuse)
    with pytest.raises(SubmitUnknownError, match="looked for again"):
        await faulty_bench.submit(hold=True, is_fresh=True)
    (job_id,) = faulty_bench.jobs()
    assert (await faulty_bench.submit(hold=True)).job_id == job_id
    assert (await faulty_bench.submit(hold=True, try_number=2)).job_id == job_id


async def test_a_site_that_cannot_be_reached_at_all_is_said_at_once(
    faulty_bench: FaultyBench,
) -> None:
    faulty_bench.faulty.plan(SUBMIT, faults.refuse)
    with pytest.raises(ConnectFailedError):
        await faulty_bench.submit(hold=True)
    assert faulty_bench.jobs() == []


@pytest.mark.parametrize("is_fresh", [True, False])
async def test_set_up_lines_that_end_the_shell_are_said_so(
    fake: FakeSite, *, is_fresh: bool
) -> None:
    with directory_of(fake) as scratch:
        client = SlurmClient(LocalTransport(fake), login_setup="exit 7")
        bench = Bench(fake, client, scratch, delays=(0, 0))
        with pytest.raises(UnreadableOutputError, match="set-up lines may have ended it"):
            await bench.submit(is_fresh=is_fresh)


def make_old(run_dir: Path, seconds: float) -> None:
    moment = time.time() - seconds
    for path in (*run_dir.iterdir(), run_dir):
        os.utime(path, (moment, moment))


def aged(bench: FaultyBench, seconds: float) -> Any:
    """Let the run directory look so much older before a look at it."""

    async def look(send: Any) -> Any:
        make_old(bench.base_dir / bench.identity().token, seconds)
        return await send()

    return look


async def test_a_job_accepted_behind_a_time_out_of_sbatch_is_found_by_name(
    faulty_bench: FaultyBench,
) -> None:
    with faulty_bench.site.fault("sbatch_times_out"):
        submission = await faulty_bench.submit(hold=True, is_fresh=True)
    assert faulty_bench.jobs() == [submission.job_id]
    assert "Socket timed out" in faulty_bench.said[0]
    assert submission.stdout_path == f"{submission.run_dir}/stdout.log"


async def test_a_time_out_of_sbatch_without_a_job_is_no_verdict_for_a_while(
    faulty_bench: FaultyBench,
) -> None:
    with (
        faulty_bench.site.fault("sbatch_times_out_for_nothing"),
        pytest.raises(SubmitUnknownError, match="Socket timed out"),
    ):
        await faulty_bench.submit(hold=True, is_fresh=True)
    assert faulty_bench.site.calls("sbatch") == 1


async def test_a_time_out_of_sbatch_without_a_job_is_submitted_again_in_the_end(
    faulty_bench: FaultyBench,
) -> None:
    with faulty_bench.site.fault("sbatch_times_out_for_nothing"), pytest.raises(SubmitUnknownError):
        await faulty_bench.submit(hold=True, is_fresh=True)
    faulty_bench.faulty.plan(LOOK_UP, faults.delay(0))
    faulty_bench.faulty.plan(LOOK_UP, aged(faulty_bench, 20))
    submission = await faulty_bench.submit(hold=True)
    assert faulty_bench.jobs() == [submission.job_id]
    assert "Submitting again, in the same run directory." in faulty_bench.said[-1]


@pytest.mark.parametrize("moment", [0.3, 1.0])
async def test_of_a_lost_sbatch_that_turns_up_after_all_and_its_repetition_one_runs(
    faulty_bench: FaultyBench, moment: float
) -> None:
    """Before the second is recorded, or after."""
    command = "echo ran >>../../ran; sleep 0.5"
    faulty_bench.delays = (0.01,)
    with faulty_bench.site.fault("sbatch_is_late", f"{moment}"), pytest.raises(SubmitUnknownError):
        await faulty_bench.submit(command, is_fresh=True)
    faulty_bench.delays = (0.05, 0.1, 0.2)
    faulty_bench.faulty.plan(LOOK_UP, aged(faulty_bench, 20))
    faulty_bench.faulty.plan(LOOK_UP, aged(faulty_bench, 20))
    submission = await faulty_bench.submit(command)
    await asyncio.sleep(moment + 0.2)
    await faulty_bench.until(submission.job_id, "COMPLETED")
    await asyncio.sleep(0.5)
    assert (faulty_bench.scratch / "ran").read_text().split() == ["ran"]
    assert (await faulty_bench.submit(command)).job_id == submission.job_id
    assert (await faulty_bench.submit(command, try_number=2)).job_id == submission.job_id
    states = [job["state"] for job in faulty_bench.site.jobs.values()]
    assert states.count("COMPLETED") == 1
    assert "RUNNING" not in states


@pytest.mark.parametrize("seconds", [301, 3600, -3600, 10**8])
async def test_the_job_of_a_claim_that_a_later_try_gave_up_does_nothing(
    faulty_bench: FaultyBench, seconds: float
) -> None:
    """Also where a clock that jumped makes the claim of a moment ago look old."""
    command = "echo ran >>../../ran; sleep 0.3"
    faulty_bench.delays = (0.01,)
    with faulty_bench.site.fault("sbatch_is_late", "1"), pytest.raises(SubmitUnknownError):
        await faulty_bench.submit(command, is_fresh=True)
    faulty_bench.faulty.plan(LOOK_UP, aged(faulty_bench, seconds))
    second = await faulty_bench.submit(command, try_number=2)
    assert any("is given up" in line for line in faulty_bench.said)
    await asyncio.sleep(1.5)
    await faulty_bench.until(second.job_id, "COMPLETED")
    assert len(faulty_bench.jobs()) == 2
    assert (faulty_bench.scratch / "ran").read_text().split() == ["ran"]
    assert (await faulty_bench.submit(command, try_number=3)).job_id == second.job_id
    with pytest.raises(SubmitKilledError, match="later try"):
        await faulty_bench.submit(command)
    assert len(faulty_bench.jobs()) == 2


async def test_a_claim_that_gets_its_id_while_it_is_given_up_is_adopted(
    faulty_bench: FaultyBench,
) -> None:
    faulty_bench.faulty.plan(SUBMIT, faults.delay(0))
    first = await faulty_bench.submit(hold=True, is_fresh=True)
    job_id = Path(first.run_dir) / "job_id"
    job_id.rename(job_id.with_name("hidden"))
    faulty_bench.site.change(first.job_id, name="hidden")

    async def record(send: Any) -> Any:
        job_id.with_name("hidden").rename(job_id)
        return await send()

    faulty_bench.faulty.plan(LOOK_UP, aged(faulty_bench, 400))
    faulty_bench.faulty.plan("give_up", record)
    second = await faulty_bench.submit(hold=True, try_number=2)
    assert (second.job_id, second.is_adopted) == (first.job_id, True)
    assert faulty_bench.site.calls("sbatch") == 1


async def test_a_controller_that_is_down_is_no_verdict(faulty_bench: FaultyBench) -> None:
    with (
        faulty_bench.site.fault("controller_down"),
        pytest.raises(SubmitUnknownError, match="Unable to contact slurm controller"),
    ):
        await faulty_bench.submit(hold=True, is_fresh=True)


async def test_a_job_that_cannot_be_cancelled_now_is_waited_for(faulty_bench: FaultyBench) -> None:
    """Its controller went away between the look-up and scancel."""
    first = await faulty_bench.submit(hold=True)

    async def go_away(send: Any) -> Any:
        with faulty_bench.site.fault("controller_down"):
            return await send()

    faulty_bench.faulty.plan("ask scancel", go_away)
    with pytest.raises(SubmitUnknownError, match="has to be cancelled first"):
        await faulty_bench.submit(hold=True, try_number=2, first_try=2)
    assert faulty_bench.jobs() == [first.job_id]


async def test_a_job_that_a_controller_forgot_keeps_nobody_waiting(
    faulty_bench: FaultyBench,
) -> None:
    """It stays RUNNING in sacct for ever; its id may be given out again (seen on 22.05)."""
    first = await faulty_bench.submit(hold=True)
    faulty_bench.site.change(first.job_id, in_queue="", state="RUNNING")
    second = await faulty_bench.submit(hold=True, try_number=2, first_try=2)
    assert second.job_id != first.job_id
    assert faulty_bench.site.calls("scancel") == 0


@pytest.mark.parametrize("resubmission", [0, 1, 5])
async def test_a_job_that_left_the_queue_and_lost_its_directory_is_found_in_accounting(
    faulty_bench: FaultyBench, resubmission: int
) -> None:
    first = await faulty_bench.submit("true", resubmission=resubmission)
    await faulty_bench.until(first.job_id, "COMPLETED")
    shutil.rmtree(first.run_dir)
    faulty_bench.site.change(first.job_id, in_queue="")
    second = await faulty_bench.submit(hold=True, try_number=2)
    assert (second.job_id, second.is_adopted) == (first.job_id, True)


async def test_the_job_of_a_deleted_run_is_not_taken_for_that_of_a_lost_sbatch(
    faulty_bench: FaultyBench,
) -> None:
    """Both have the same name; the directory of the first is gone."""
    old = await faulty_bench.submit("true", run_started=EARLIER)
    await faulty_bench.until(old.job_id, "COMPLETED")
    shutil.rmtree(old.run_dir)
    faulty_bench.site.change(old.job_id, submitted=str(int(time.time()) - 600))
    with (
        faulty_bench.site.fault("sbatch_times_out_for_nothing"),
        pytest.raises(SubmitUnknownError),
    ):
        await faulty_bench.submit("true", run_started=LATER)
    faulty_bench.faulty.plan(LOOK_UP, aged(faulty_bench, 20))
    assert (await faulty_bench.submit("true", run_started=LATER)).job_id != old.job_id


async def test_a_lost_program_does_not_make_the_directory_of_a_deleted_run_its_own(
    faulty_bench: FaultyBench,
) -> None:
    old = await faulty_bench.submit("true", run_started=EARLIER)
    await faulty_bench.until(old.job_id, "COMPLETED")
    faulty_bench.faulty.plan(SUBMIT, faults.drop_before)
    new = await faulty_bench.submit("true", run_started=LATER)
    assert new.job_id != old.job_id
    assert not new.is_adopted


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
    faulty_bench.faulty.plan(DISCARD, faults.delay(0.5))
    slow = asyncio.ensure_future(faulty_bench.submit(options={"partition": "nope"}, is_fresh=True))
    await asyncio.sleep(0.3)
    faulty_bench.delays = (0.2,) * 9
    other = SlurmClient(LocalTransport(faulty_bench.site))
    submission = await faulty_bench.submit(hold=True, client=other, is_fresh=True)
    with pytest.raises(SubmitRejectedError):
        await slow
    assert faulty_bench.jobs() == [submission.job_id]
    assert (Path(submission.run_dir) / "job_id").exists()


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
    submissions = await asyncio.gather(*(faulty_bench.submit(hold=True) for _ in range(3)))
    assert len({each.job_id for each in submissions}) == 1
    live = [job for job, facts in faulty_bench.site.jobs.items() if facts["state"] == "PENDING"]
    assert live == [submissions[0].job_id]


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
        await faulty_bench.submit(hold=True, is_fresh=True)
    assert run_dir.exists()
    assert faulty_bench.site.calls("sbatch") == 0


async def test_a_kill_while_sbatch_is_at_work_cancels_what_comes_of_it(
    faulty_bench: FaultyBench,
) -> None:
    with faulty_bench.site.fault("sbatch_is_slow", "0.6"):
        submitting = asyncio.ensure_future(faulty_bench.submit(hold=True, is_fresh=True))
        run_dir = faulty_bench.base_dir / faulty_bench.identity().token
        while not (run_dir / "batch.sh").exists():
            await asyncio.sleep(0.02)
        kill = build_cancel_submission(
            base_dir=str(faulty_bench.base_dir), token=faulty_bench.identity().token
        )
        await faulty_bench.client.ask(kill)
        with pytest.raises(SubmitKilledError, match="was cancelled"):
            await submitting
    assert [job["state"] for job in faulty_bench.site.jobs.values()] == ["CANCELLED"]


async def test_a_kill_cancels_no_job_of_another_name(faulty_bench: FaultyBench) -> None:
    """Also none whose name ends like a word of our own."""
    for name in ("something.none", "something.", "none"):
        program = f"cd; printf '#!/bin/sh\\n' >job; ask job sbatch --hold --job-name={name} job"
        await faulty_bench.client.ask(program)
    kill = build_cancel_submission(
        base_dir=str(faulty_bench.base_dir), token=faulty_bench.identity().token
    )

    frames = await faulty_bench.client.ask(kill)

    assert read_cancelled_submission(frames) == ()
    assert [job["state"] for job in faulty_bench.site.jobs.values()] == ["PENDING"] * 3


# Where Slurm itself starts the job that came second


@pytest.mark.parametrize(
    "site", [pytest.param("cluster", marks=pytest.mark.cluster)], indirect=True
)
@pytest.mark.parametrize("try_number", [1, 2])
async def test_a_job_thought_lost_that_starts_after_all_runs_nothing(
    bench: Bench, try_number: int
) -> None:
    """Taken over by the same try, or given up by the next."""
    command = f"echo ran >>{bench.scratch}/ran"
    lost = await bench.submit(command, hold=True, is_fresh=True)
    run_dir = Path(lost.run_dir)
    (run_dir / "job_id").unlink()
    await bench.client.run(f"scontrol update JobId={lost.job_id} JobName=hidden")
    make_old(run_dir, 3600)

    found = await bench.submit(command, try_number=try_number)
    await bench.until(found.job_id, "COMPLETED")
    await bench.client.run(f"scontrol release {lost.job_id}")
    await bench.until(lost.job_id, "CANCELLED", "FAILED")

    assert found.job_id != lost.job_id
    assert (bench.scratch / "ran").read_text().split() == ["ran"]
    assert f"job {lost.job_id} does nothing" in (run_dir / "stdout.log").read_text()
    assert '"exit_code": 0' in (Path(found.run_dir) / "exit.json").read_text()


@pytest.mark.parametrize(
    "site", [pytest.param("cluster", marks=pytest.mark.cluster)], indirect=True
)
async def test_of_a_lost_job_that_starts_first_and_its_repetition_the_first_stands(
    bench: Bench,
) -> None:
    """It has written its id down itself, so the second gives way."""
    command = f"echo ran >>{bench.scratch}/ran; sleep 2"
    lost = await bench.submit(command, hold=True, is_fresh=True)
    run_dir = Path(lost.run_dir)
    (run_dir / "job_id").unlink()
    await bench.client.run(f"scontrol update JobId={lost.job_id} JobName=hidden")
    await bench.client.run(f"scontrol release {lost.job_id}")
    await bench.until(lost.job_id, "RUNNING", "COMPLETED")
    async with asyncio.timeout(10):
        while not (run_dir / "job_id").exists():
            await asyncio.sleep(0.1)

    found = await bench.submit(command)

    assert found.job_id == lost.job_id
    await bench.until(lost.job_id, "COMPLETED")
    assert (bench.scratch / "ran").read_text().split() == ["ran"]
