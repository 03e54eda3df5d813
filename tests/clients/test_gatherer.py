"""
Instances of a mapped task are one array, each submitted exactly once, whatever is lost.

The tests run over a fake site and over the real cluster, but for those that need a fault.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from airflow_provider_csc.client import queue_watch
from airflow_provider_csc.client.poller import SitePoller
from airflow_provider_csc.client.queue_watch import QueueWatch
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.errors import (
    ConfigError,
    ConnectFailedError,
    SiteUnavailableError,
    SubmitKilledError,
    SubmitRejectedError,
    SubmitUnknownError,
)
from airflow_provider_csc.slurm.cancel_commands import build_cancel_submission
from airflow_provider_csc.slurm.inventory import build_inventory, parse_inventory
from airflow_provider_csc.slurm.queue_limits import QueueScope, build_queue_probe, read_tokens
from airflow_provider_csc.slurm.submission import Submission
from airflow_provider_csc.transport.base import Hop, SiteSettings, SshSettings
from tests.support import fake_site as faults
from tests.support.bench import directory_of
from tests.support.coalescing import Mapped, mapped_on, with_run_of
from tests.support.fake_site import FakeSite, FaultyTransport, LocalTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.real_site import RealSite

pytestmark = pytest.mark.asyncio

ARRAY = "\nsubmit_array\n"


@pytest_asyncio.fixture
async def mapped(site: FakeSite | RealSite) -> AsyncIterator[Mapped]:
    with directory_of(site) as scratch:
        async with mapped_on(site, scratch, site.transport()) as mapped:
            yield mapped


@pytest_asyncio.fixture
async def faulty(fake: FakeSite) -> AsyncIterator[Mapped]:
    """A mapped task on a fake site, whose connection fails as planned."""
    with directory_of(fake) as scratch:
        async with mapped_on(fake, scratch, FaultyTransport(LocalTransport(fake))) as mapped:
            mapped.delays = (0.02, 0.05, 0.1)
            mapped.gatherer = mapped.another_gatherer()
            yield mapped


def plan(mapped: Mapped, word: str, fault: Any) -> None:
    assert isinstance(mapped.transport, FaultyTransport)
    mapped.transport.plan(word, fault)


def fake_of(mapped: Mapped) -> FakeSite:
    assert isinstance(mapped.site, FakeSite)
    return mapped.site


def array_of(submissions: list[Any]) -> str:
    """The one array that all of them are elements of."""
    assert all(isinstance(one, Submission) for one in submissions), submissions
    (base,) = {one.job_id.partition("_")[0] for one in submissions}
    return str(base)


# Together


async def test_instances_that_come_together_are_one_array(mapped: Mapped) -> None:
    done = await mapped.submit_all([mapped.member(index) for index in range(5)])

    base = array_of(done)
    assert [one.job_id for one in done] == [f"{base}_{index}" for index in range(5)]
    assert not any(one.is_adopted for one in done)
    for index, one in enumerate(done):
        await mapped.until(one.job_id, "COMPLETED")
        run_dir = mapped.run_dir(index)
        assert one.run_dir == str(run_dir)
        assert (run_dir / "stdout.log").read_text() == f"I am {index}\n"
        assert (run_dir / "job_id").read_text().strip() == one.job_id
        record = json.loads((run_dir / "exit.json").read_text())
        assert (record["job_id"], record["exit_code"]) == (one.job_id, 0)
        assert record["stdout_bytes"] == len(f"I am {index}\n")
        identity = json.loads((run_dir / "identity.json").read_text())
        assert (identity["group"], identity["index"]) == (one.array_token, index)
        assert mapped.said[index] == [f"Submitted as job {one.job_id}, one of an array of 5."]


async def test_an_element_is_a_job_like_any_other(mapped: Mapped) -> None:
    """It starts in its own directory, and its script sees no array."""
    command = 'pwd; echo "${SLURM_ARRAY_TASK_ID-none} ${SLURM_ARRAY_JOB_ID-none}"; exit $ME'
    done = await mapped.submit_all([mapped.member(index, command) for index in range(2)])

    await mapped.until(done[0].job_id, "COMPLETED")
    await mapped.until(done[1].job_id, "FAILED")
    for index in range(2):
        run_dir = mapped.run_dir(index)
        assert (run_dir / "stdout.log").read_text() == f"{run_dir}\nnone none\n"
        assert json.loads((run_dir / "exit.json").read_text())["exit_code"] == index


async def test_a_directory_of_the_users_own_is_where_all_start(mapped: Mapped) -> None:
    work_dir = mapped.scratch / "work here"
    work_dir.mkdir()
    mapped.site.give(work_dir)
    done = await mapped.submit_all(
        [mapped.member(index, "pwd", work_dir=str(work_dir)) for index in range(2)]
    )

    array_of(done)
    for index, one in enumerate(done):
        await mapped.until(one.job_id, "COMPLETED")
        assert (mapped.run_dir(index) / "stdout.log").read_text() == f"{work_dir}\n"


async def test_scripts_may_differ_and_variables_may_hold_anything(mapped: Mapped) -> None:
    hostile = "it's $(touch pwned)\n`x` \\ ü"
    members = [
        mapped.member(index, f'echo script {index % 2}; printf %s "$NAME"', env={"NAME": hostile})
        for index in range(3)
    ]
    done = await mapped.submit_all(members)

    array_of(done)
    for index, one in enumerate(done):
        await mapped.until(one.job_id, "COMPLETED")
        log = (mapped.run_dir(index) / "stdout.log").read_text()
        assert log == f"script {index % 2}\n{hostile}"


async def test_who_asks_for_something_else_is_in_another_array_or_alone(mapped: Mapped) -> None:
    members = [
        *(mapped.member(index, hold=True) for index in range(2)),
        *(mapped.member(index, hold=True, options={"time": 5}) for index in range(2, 4)),
        mapped.member(4, hold=True, options={"time": 6}),
        mapped.member(5, hold=True, options={"output": str(mapped.scratch / "mine.txt")}),
    ]
    done = await mapped.submit_all(members)

    assert array_of(done[:2]) != array_of(done[2:4])
    assert all(one.job_id.isdecimal() for one in done[4:])
    assert done[5].stdout_path == str(mapped.scratch / "mine.txt")


async def test_one_that_comes_alone_is_no_array_and_finds_its_variables(mapped: Mapped) -> None:
    (done,) = await mapped.submit_all([mapped.member(3)])

    assert done.job_id.isdecimal()
    await mapped.until(done.job_id, "COMPLETED")
    assert (mapped.run_dir(3) / "stdout.log").read_text() == "I am 3\n"


async def test_seven_that_are_cleared_are_an_array_of_seven(mapped: Mapped) -> None:
    first = await mapped.submit_all([mapped.member(index, "true") for index in range(10)])
    for one in first:
        await mapped.until(one.job_id, "COMPLETED")

    cleared = (0, 2, 3, 5, 6, 8, 9)
    again = await mapped.submit_all(
        [mapped.member(index, hold=True, try_number=2, first_try=2) for index in cleared]
    )

    base = array_of(again)
    assert base != array_of(first)
    assert [one.job_id for one in again] == [f"{base}_{place}" for place in range(7)]
    assert {one.run_dir for one in again} == {str(mapped.run_dir(i, 2)) for i in cleared}
    rows = await mapped.rows()
    assert [job_id for job_id in rows if job_id.startswith(base)] == [f"{base}_[0-6]"] or len(
        rows
    ) == 11


async def test_a_cleared_instance_whose_job_lives_is_submitted_when_that_is_gone(
    mapped: Mapped,
) -> None:
    first = await mapped.submit_all([mapped.member(index, hold=True) for index in range(3)])
    mapped.delays = (0.2,) * 50
    mapped.gatherer = mapped.another_gatherer()

    again = await mapped.submit_all(
        [mapped.member(index, hold=True, try_number=2, first_try=2) for index in range(2)]
    )

    await mapped.until(first[0].job_id, "CANCELLED")
    await mapped.until(first[1].job_id, "CANCELLED")
    await mapped.until(first[2].job_id, "PENDING")
    assert {one.job_id for one in again}.isdisjoint(one.job_id for one in first)


# Exactly once


async def test_a_triggerer_that_starts_again_finds_every_element(mapped: Mapped) -> None:
    members = [mapped.member(index, hold=True) for index in range(4)]
    first = await mapped.submit_all(members)

    again = await mapped.submit_all(members, mapped.another_gatherer())

    assert [one.job_id for one in again] == [one.job_id for one in first]
    assert all(one.is_adopted for one in again)
    assert [one.array_token for one in again] == [one.array_token for one in first]
    assert list((await mapped.rows()).values()) == ["PENDING"]


async def test_a_retry_finds_the_elements_of_the_try_before(mapped: Mapped) -> None:
    first = await mapped.submit_all([mapped.member(index, hold=True) for index in range(3)])

    again = await mapped.submit_all(
        [mapped.member(index, hold=True, try_number=2) for index in range(3)]
    )

    assert [one.job_id for one in again] == [one.job_id for one in first]
    assert [one.array_token for one in again] == [one.array_token for one in first]


async def test_two_triggerers_at_once_submit_each_instance_once(mapped: Mapped) -> None:
    members = [mapped.member(index, hold=True) for index in range(6)]
    mapped.delays = (0.3,) * 10
    gatherers = [mapped.another_gatherer() for _ in range(3)]

    rounds = await asyncio.gather(*(mapped.submit_all(members, one) for one in gatherers))

    assert len({tuple(one.job_id for one in done) for done in rounds}) == 1
    job_ids = {one.job_id for one in rounds[0]}
    assert len(job_ids) == 6
    live = [job_id for job_id, state in (await mapped.rows()).items() if state == "PENDING"]
    assert len(live) == len({job_id.partition("_")[0] for job_id in job_ids})


async def test_an_array_that_was_submitted_twice_runs_each_instance_once(mapped: Mapped) -> None:
    """As if the first submission had been thought lost, and was not."""
    command = f'echo "$ME" >>{mapped.scratch}/ran'
    (mapped.scratch / "ran").touch()
    mapped.site.give(mapped.scratch / "ran")
    done = await mapped.submit_all([mapped.member(index, command) for index in range(4)])
    array_dir = mapped.base_dir / done[0].array_token
    options = f"--account={mapped.site.account}" if mapped.site.account else ""
    again = await mapped.client.run(
        f"cd {array_dir} && sbatch --parsable {options} --array=0-3 "
        f"--job-name=coalesced.task.{done[0].array_token} --output={array_dir}/%a.log "
        f"{array_dir}/batch.sh {array_dir} members"
    )

    for index, one in enumerate(done):
        await mapped.until(one.job_id, "COMPLETED")
        await mapped.until(f"{again.text}_{index}", "CANCELLED", "FAILED")
    assert sorted((mapped.scratch / "ran").read_text().split()) == ["0", "1", "2", "3"]
    for index, one in enumerate(done):
        assert (mapped.run_dir(index) / "job_id").read_text().strip() == one.job_id


async def test_instances_that_were_submitted_before_drop_out(mapped: Mapped) -> None:
    alone = await mapped.submit(mapped.member(1, hold=True))

    done = await mapped.submit_all([mapped.member(index, hold=True) for index in range(3)])

    assert done[1].job_id == alone.job_id
    assert done[1].is_adopted
    base = array_of([done[0], done[2]])
    assert {one.job_id for one in (done[0], done[2])} == {f"{base}_0", f"{base}_2"}


async def test_what_a_deleted_run_left_is_not_taken_for_ours(mapped: Mapped) -> None:
    old = await mapped.submit_all([mapped.member(index, hold=True) for index in range(2)])
    later = "2026-11-21T08:00:00+00:00"
    mapped.delays = (0.3,) * 20
    mapped.gatherer = mapped.another_gatherer()

    new = await mapped.submit_all(
        [with_run_of(mapped.member(index, hold=True), later) for index in range(2)]
    )

    assert {one.job_id for one in new}.isdisjoint(one.job_id for one in old)
    for one in old:
        await mapped.until(one.job_id, "CANCELLED")


# Kills


async def kill(mapped: Mapped, index: int) -> None:
    member = mapped.member(index)
    program = build_cancel_submission(
        base_dir=str(mapped.base_dir), token=member.token, identity=member.request.identity
    )
    await mapped.client.ask(program)


async def test_one_that_is_killed_before_is_not_submitted(mapped: Mapped) -> None:
    await kill(mapped, 1)

    done = await mapped.submit_all([mapped.member(index, hold=True) for index in range(3)])

    assert isinstance(done[1], SubmitKilledError)
    base = array_of([done[0], done[2]])
    states = await mapped.client.query([f"{base}_{index}" for index in range(3)])
    assert set(states) == {f"{base}_0", f"{base}_2"}


async def test_one_that_is_killed_afterwards_is_cancelled_alone(mapped: Mapped) -> None:
    done = await mapped.submit_all([mapped.member(index, hold=True) for index in range(3)])

    await kill(mapped, 1)

    await mapped.until(done[1].job_id, "CANCELLED")
    await mapped.until(done[0].job_id, "PENDING")
    await mapped.until(done[2].job_id, "PENDING")


async def test_one_that_is_killed_while_sbatch_is_at_work_is_cancelled(faulty: Mapped) -> None:
    with fake_of(faulty).fault("sbatch_is_slow", "1"):
        work = asyncio.ensure_future(
            faulty.submit_all([faulty.member(index, hold=True) for index in range(3)])
        )
        while not (faulty.run_dir(1) / "identity.json").exists():
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        await kill(faulty, 1)
        done = await work

    assert isinstance(done[1], SubmitKilledError)
    states = {job_id: job["state"] for job_id, job in fake_of(faulty).jobs.items()}
    assert Counter(states.values()) == {"PENDING": 2, "CANCELLED": 1}
    assert states[done[1].details["job_id"]] == "CANCELLED"


async def test_one_that_leaves_the_window_is_not_submitted(mapped: Mapped) -> None:
    mapped.window = 0.5
    work = [
        asyncio.ensure_future(mapped.submit(mapped.member(index, hold=True))) for index in range(3)
    ]
    await asyncio.sleep(0.1)
    work[1].cancel()
    done = await asyncio.gather(*work, return_exceptions=True)

    assert isinstance(done[1], asyncio.CancelledError)
    array_of([done[0], done[2]])
    assert not mapped.run_dir(1).exists()


async def test_a_submission_goes_on_when_its_triggers_are_gone(faulty: Mapped) -> None:
    """Whoever takes over from the triggerer finds what it left."""
    members = [faulty.member(index, hold=True) for index in range(3)]
    with fake_of(faulty).fault("sbatch_is_slow", "0.5"):
        work = asyncio.ensure_future(faulty.submit_all(members))
        while not (faulty.run_dir(2) / "identity.json").exists():
            await asyncio.sleep(0.02)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        faulty.delays = (0.3,) * 10
        done = await faulty.submit_all(members, faulty.another_gatherer())

    assert len(fake_of(faulty).jobs) == 3
    assert {one.job_id for one in done} == set(fake_of(faulty).jobs)


# Lost answers


@pytest.mark.parametrize(
    "fault",
    [
        faults.drop_before,
        faults.drop_after,
        faults.time_out,
        faults.cut_at(200),
        faults.cut_at(-30),
        faults.cut_program_at(-200),
    ],
    ids=["before", "after", "timeout", "cut", "cut at the end", "program cut"],
)
async def test_an_array_is_submitted_once_whatever_becomes_of_the_answer(
    faulty: Mapped, fault: Any
) -> None:
    plan(faulty, ARRAY, fault)

    done = await faulty.submit_all([faulty.member(index, hold=True) for index in range(4)])

    base = array_of(done)
    assert sorted(fake_of(faulty).jobs) == [f"{base}_{index}" for index in range(4)]
    for index, one in enumerate(done):
        assert (faulty.run_dir(index) / "job_id").read_text().strip() == one.job_id
    assert "is not known" in faulty.said[0][0]


@pytest.mark.parametrize("fault", ["sbatch_times_out", "sbatch_times_out_for_nothing"])
async def test_an_sbatch_without_a_verdict_is_looked_for(faulty: Mapped, fault: str) -> None:
    with fake_of(faulty).fault(fault):
        work = asyncio.ensure_future(
            faulty.submit_all([faulty.member(index, hold=True) for index in range(3)])
        )
        while not list(faulty.base_dir.glob("*/no_verdict")):
            await asyncio.sleep(0.02)
            assert not work.done()
    for path in faulty.base_dir.glob("*/no_verdict"):  # as if slurmctld had had its time
        faults.os.utime(path, (1, 1))
    done = await work

    base = array_of(done)
    assert sorted(fake_of(faulty).jobs) == [f"{base}_{index}" for index in range(3)]


async def test_while_it_is_open_nobody_submits(faulty: Mapped) -> None:
    members = [faulty.member(index, hold=True) for index in range(3)]
    with (
        fake_of(faulty).fault("sbatch_times_out"),
        fake_of(faulty).fault("slurmdbd_down"),
    ):
        done = await faulty.submit_all(members)
        # squeue shows the job, so it is known after all; sacct is not needed for that.
        assert {type(one) for one in done} <= {Submission, SubmitUnknownError}
    again = await faulty.submit_all(members, faulty.another_gatherer())

    assert len(fake_of(faulty).jobs) == 3
    assert {one.job_id for one in again} == set(fake_of(faulty).jobs)


async def test_a_triggerer_that_died_before_the_ids_were_recorded(faulty: Mapped) -> None:
    """The claims have no id; the array's own directory, or its name in the queue, tells it."""
    members = [faulty.member(index, hold=True) for index in range(3)]
    first = await faulty.submit_all(members)
    for index in range(3):
        (faulty.run_dir(index) / "job_id").unlink()
    again = await faulty.submit_all(members, faulty.another_gatherer())
    assert [one.job_id for one in again] == [one.job_id for one in first]
    assert [one.array_token for one in again] == [one.array_token for one in first]

    (faulty.base_dir / first[0].array_token / "job_id").unlink()
    third = await faulty.submit_all(members, faulty.another_gatherer())
    retry = await faulty.submit_all(
        [faulty.member(index, hold=True, try_number=2) for index in range(3)]
    )
    assert [one.job_id for one in third] == [one.job_id for one in first]
    assert [one.job_id for one in retry] == [one.job_id for one in first]
    for found in (third, retry):
        assert [one.array_token for one in found] == [one.array_token for one in first]
    assert len(fake_of(faulty).jobs) == 3


@pytest.mark.parametrize("job_name", ["plain", "työ [1]"])
async def test_an_array_of_any_name_is_found_and_its_directory_known_for_what_it_is(
    mapped: Mapped, job_name: str
) -> None:
    members = [mapped.member(index, hold=True, job_name=job_name) for index in range(3)]
    first = await mapped.submit_all(members)
    program = build_inventory(str(mapped.base_dir), limit=99, with_sizes=False)
    inventory = parse_inventory(await mapped.client.ask(program))
    shared = inventory.directory_of(first[0].array_token)
    assert shared is not None
    assert shared.is_array
    assert [one.is_array for one in inventory.directories].count(True) == 1

    for index in range(3):
        (mapped.run_dir(index) / "job_id").unlink()
    (mapped.base_dir / first[0].array_token / "job_id").unlink()
    again = await mapped.submit_all(members, mapped.another_gatherer())

    assert [one.job_id for one in again] == [one.job_id for one in first]


async def test_an_array_that_came_to_nothing_is_submitted_again_as_one(faulty: Mapped) -> None:
    """slurmctld was away for longer than anybody waits within a submission."""
    members = [faulty.member(index, hold=True) for index in range(4)]
    with fake_of(faulty).fault("controller_down"):
        first = await faulty.submit_all(members)
        assert {type(one) for one in first} == {SubmitUnknownError}
        # Nor does anybody know better who comes again meanwhile.
        again = await faulty.submit_all(members, faulty.another_gatherer())
        assert {type(one) for one in again} == {SubmitUnknownError}
    for path in faulty.base_dir.glob("*/no_verdict"):
        faults.os.utime(path, (1, 1))

    done = await faulty.submit_all(members, faulty.another_gatherer())

    base = array_of(done)
    assert sorted(fake_of(faulty).jobs) == [f"{base}_{index}" for index in range(4)]
    assert fake_of(faulty).calls("sbatch") == 2
    assert "came to nothing" in " ".join(faulty.said[0])


async def test_what_comes_late_of_an_array_that_was_given_up_runs_nothing(faulty: Mapped) -> None:
    """sbatch gave no verdict, and slurmctld took the job after everybody had looked for it."""
    ran = faulty.scratch / "ran"
    ran.touch()
    faulty.site.give(ran)
    members = [faulty.member(index, f'echo "$ME" >>{ran}') for index in range(3)]
    with fake_of(faulty).fault("sbatch_is_late", "3"):
        work = asyncio.ensure_future(faulty.submit_all(members))
        while not list(faulty.base_dir.glob("*/no_verdict")):
            await asyncio.sleep(0.02)
    for path in faulty.base_dir.glob("*/no_verdict"):
        faults.os.utime(path, (1, 1))
    done = await work
    array_of(done)
    # On a busy machine the late one may have come before anybody gave it up.
    expected = 3 if "accepted" in " ".join(faulty.said[0]) else 6
    async with asyncio.timeout(30):
        while len(fake_of(faulty).jobs) < expected:
            await asyncio.sleep(0.1)
        while {job["state"] for job in fake_of(faulty).jobs.values()} & {"PENDING", "RUNNING"}:
            await asyncio.sleep(0.1)

    assert sorted(ran.read_text().split()) == ["0", "1", "2"]


async def test_a_site_that_lets_nobody_in_is_told_to_all(faulty: Mapped) -> None:
    plan(faulty, ARRAY, faults.refuse)

    done = await faulty.submit_all([faulty.member(index, hold=True) for index in range(3)])

    assert {type(one) for one in done} == {ConnectFailedError}
    assert fake_of(faulty).jobs == {}


# What cannot be submitted


async def test_a_refusal_is_told_to_all_and_leaves_nothing(mapped: Mapped) -> None:
    members = [mapped.member(index, options={"partition": "nope"}) for index in range(3)]

    done = await mapped.submit_all(members)

    assert {type(one) for one in done} == {SubmitRejectedError}
    assert "nvalid partition" in done[0].message
    assert "--partition=nope" in done[2].message
    assert list(mapped.scratch.iterdir()) == []


async def test_a_bad_directory_is_told_to_all(mapped: Mapped) -> None:
    members = [mapped.member(index, work_dir="/no/such/place") for index in range(2)]

    done = await mapped.submit_all(members)

    assert {type(one) for one in done} == {ConfigError}
    assert "/no/such/place" in done[0].message
    assert list(mapped.scratch.iterdir()) == []


@pytest.mark.parametrize("limit", ["max_array", "max_submit"])
async def test_a_limit_leads_to_smaller_arrays(faulty: Mapped, limit: str) -> None:
    with fake_of(faulty).fault(limit, "5"):
        done = await faulty.submit_all([faulty.member(index, hold=True) for index in range(9)])

    made = [one for one in done if isinstance(one, Submission)]
    sizes = Counter(one.job_id.partition("_")[0] for one in made)
    if limit == "max_array":
        assert sorted(sizes.values()) == [4, 5]
    else:
        assert len(made) == 5
        refused = [one for one in done if isinstance(one, SubmitRejectedError)]
        assert len(refused) == 4
        assert all(one.details["is_temporary"] for one in refused)
        for index in range(5, 9):
            assert not faulty.run_dir(index).exists()


async def test_a_submission_of_an_array_is_seen_by_those_who_wait_for_room(mapped: Mapped) -> None:
    """Its jobs bear the name of the array, and not what names each submission."""
    members = [mapped.member(index, hold=True) for index in range(3)]
    array_of(await mapped.submit_all(members[:2]))

    tokens = [member.token for member in members]
    program = build_queue_probe(QueueScope(), tokens, str(mapped.base_dir))

    assert read_tokens(await mapped.client.ask(program)) == set(tokens[:2])


async def test_those_who_are_submitted_together_count_once_in_the_queue(
    faulty: Mapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_watch, "_JITTER_SECONDS", 0)
    fake, members = fake_of(faulty), [faulty.member(index, hold=True) for index in range(4)]
    poller = SitePoller(SlurmClient(LocalTransport(fake)), floor=0.01)
    settings = SiteSettings(
        ssh=SshSettings(target=Hop(host="fake", port=22, username="somebody")),
        work_dir=str(faulty.base_dir),
    )
    scope = QueueScope(account="project", code="AssocMaxSubmitJobLimit")
    watch = QueueWatch(lambda: poller, settings, scope)

    def wait(index: int) -> asyncio.Task[SiteSettings | None]:
        token = members[index].token
        waiting = watch.wait(since=index, needed=1, token=token, interval=0.05)
        return asyncio.create_task(waiting)

    async with asyncio.timeout(60):
        with fake.fault("max_submit", "4"):
            with fake.fault("max_submit_shown", "2\n"):
                waits = [wait(index) for index in range(4)]
                await asyncio.gather(*waits[:2])
                array_of(await faulty.submit_all(members[:2]))
            await asyncio.gather(*waits[2:])


async def test_a_controller_that_has_too_many_jobs_is_told_to_all_and_leaves_nothing(
    faulty: Mapped,
) -> None:
    said = "sbatch: error: Batch job submission failed: Unable to create job record, try again"
    with fake_of(faulty).fault("sbatch_says", said):
        done = await faulty.submit_all([faulty.member(index) for index in range(9)])

    assert {type(one) for one in done} == {SiteUnavailableError}
    # Fewer might have been taken: nine, five, three, two, one. Then nobody else is tried.
    assert fake_of(faulty).calls("sbatch") == 5
    assert list(faulty.scratch.iterdir()) == []


async def test_a_full_disk_leaves_no_claims(faulty: Mapped) -> None:
    base = faulty.base_dir
    base.mkdir()
    fake_of(faulty).give(base)
    members = [faulty.member(index, hold=True) for index in range(3)]
    base.chmod(0o500)
    done = await faulty.submit_all(members)
    base.chmod(0o700)

    assert {type(one) for one in done} == {ConfigError}
    assert list(base.iterdir()) == []
    array_of(await faulty.submit_all(members))


async def test_the_directory_of_an_array_that_is_gone_does_not_matter_to_those_who_have_an_id(
    mapped: Mapped,
) -> None:
    members = [mapped.member(index, hold=True) for index in range(2)]
    first = await mapped.submit_all(members)
    shutil.rmtree(mapped.base_dir / first[0].array_token)

    again = await mapped.submit_all(members, mapped.another_gatherer())

    assert [one.job_id for one in again] == [one.job_id for one in first]
