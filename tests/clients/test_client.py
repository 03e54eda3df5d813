"""
What a client of a site does, over a fake site and over the real cluster alike.

What needs a fault that a shared cluster cannot be given is asked of the fake alone.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConnectFailedError,
    ConnectionLostError,
    SlurmError,
    TransportError,
    UnreadableOutputError,
)
from tests.support import fake_site as faults
from tests.support.fake_site import FakeSite, LocalTransport

if TYPE_CHECKING:
    from tests.support.bench import Bench, FaultyBench

pytestmark = pytest.mark.asyncio

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
