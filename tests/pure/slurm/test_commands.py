"""Our remote programs, run by a real bash beside fake Slurm commands that take notes."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.slurm import commands
from airflow_provider_csc.slurm.cancel_commands import build_kill
from airflow_provider_csc.slurm.commands import (
    LOG_BYTES,
    LogRequest,
    PollRequest,
    build_poll,
    build_probe,
    build_query,
    build_read_bytes,
    build_read_file,
    build_write_file,
)
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.output import (
    ACCOUNTING_FORMAT,
    QUEUE_FORMAT,
    SEPARATOR,
    is_put_off,
    parse_log,
)
from tests.pure.slurm.shell import HOSTILE_NAMES, HOSTILE_VALUES, FakeSite, list_files

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "af0123456789abcdef0123.1"


@pytest.fixture
def site(tmp_path: Path) -> FakeSite:
    site = FakeSite(tmp_path / "site")
    site.command("sbatch", "echo 4711")
    return site


# ---- polling ----


def poll(site: FakeSite, setup: str = "", **parts: object) -> dict[str, Frame]:
    return site.ask(build_poll(PollRequest(**parts)), setup=setup)  # type: ignore[arg-type]


def test_squeue_and_sacct_are_asked_once_for_all(site: FakeSite) -> None:
    poll(site, queued=("3", "1_4", "2"), accounted=("7",))
    squeue, sacct = site.calls("squeue"), site.calls("sacct")
    assert [call.args for call in squeue] == [
        ["--noheader", "--states=all", f"--format={QUEUE_FORMAT}", "--jobs=1_4,2,3"]
    ]
    assert [call.args for call in sacct] == [
        [
            "--noheader",
            "--parsable2",
            f"--delimiter={SEPARATOR}",
            f"--format={','.join(ACCOUNTING_FORMAT)}",
            "--jobs=7",
        ]
    ]


def test_times_and_arrays_come_in_a_form_of_our_own(site: FakeSite) -> None:
    poll(site, queued=("1",), accounted=("1",))
    for call in (*site.calls("squeue"), *site.calls("sacct")):
        assert call.env["SLURM_TIME_FORMAT"] == "%s"
        assert call.env["SLURM_BITSTR_LEN"] == "0"


def test_filters_in_a_users_environment_hide_no_job(site: FakeSite) -> None:
    """Tried on 22.05: with SQUEUE_PARTITION=gpu, squeue --jobs leaves out a job elsewhere."""
    setup = "export SQUEUE_PARTITION=gpu SQUEUE_NAMES=x SCANCEL_STATE=R SBATCH_ACCOUNT=mine"
    poll(site, setup=setup, queued=("1",))
    site.ask(build_kill(["1"]), setup=setup)
    for name in ("squeue", "scancel"):
        for call in site.calls(name):
            assert not [each for each in call.env if each.startswith(("SQUEUE", "SCANCEL"))]


def test_nothing_is_asked_that_was_not_requested(site: FakeSite) -> None:
    assert poll(site).keys() == {"clock"}
    assert site.calls("squeue") == site.calls("sacct") == []
    assert not PollRequest()
    assert PollRequest(queued=("1",))


def test_a_failed_command_is_an_answer_among_the_others(site: FakeSite) -> None:
    site.command("squeue", "echo 'slurm_load_jobs error' >&2; exit 1")
    site.command("sacct", "echo row")
    frames = poll(site, queued=("1",), accounted=("1",))
    assert frames["squeue"] == Frame(1, b"slurm_load_jobs error")
    assert frames["sacct"] == Frame(0, b"row")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_exit_records_and_progress_are_read_and_written_in_any_directory(
    site: FakeSite, tmp_path: Path, name: str
) -> None:
    run_dir = tmp_path / name / TOKEN
    run_dir.mkdir(parents=True)
    (run_dir / "exit.json").write_text('{"job_id": "1"}')
    poll(site, acknowledged=((str(run_dir), "10 20"),))
    frames = poll(
        site, exit_records=(("w0.exit", str(run_dir)),), progress=(("w0.progress", str(run_dir)),)
    )
    assert frames["w0.exit"] == Frame(0, b'{"job_id": "1"}')
    assert frames["w0.progress"] == Frame(0, b"10 20")
    assert list_files(site.home) == set()


def test_a_missing_exit_record_is_a_failed_command(site: FakeSite, tmp_path: Path) -> None:
    frames = poll(site, exit_records=(("w0.exit", str(tmp_path)),))
    assert frames["w0.exit"].status == 1
    assert "No such file or directory" in frames["w0.exit"].text


def test_progress_that_cannot_be_written_disturbs_nothing(site: FakeSite) -> None:
    frames = poll(site, acknowledged=(("/no/such/dir", "5"),), queued=("1",))
    assert frames["squeue"] == Frame(0, b"")


def test_what_was_noted_before_survives_a_full_disk(site: FakeSite, tmp_path: Path) -> None:
    poll(site, acknowledged=((str(tmp_path), "10"),))
    (tmp_path / "log_offsets.new").mkdir()  # Nothing can be written under this name.
    poll(site, acknowledged=((str(tmp_path), "20"),))
    assert (tmp_path / "log_offsets").read_text() == "10\n"


def test_a_verdict_is_noted_beside_how_far_the_log_was_shown(
    site: FakeSite, tmp_path: Path
) -> None:
    poll(site, acknowledged=((str(tmp_path), "8\n{}"),), verdicts=((str(tmp_path), "FAILED"),))
    names = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    assert names["log_offsets"] == "8\n{}\n"
    assert names["verdict"] == "FAILED\n"


def test_the_controller_is_asked_for_each_job_once(site: FakeSite) -> None:
    site.command("scontrol", "echo JobId=$4")
    frames = poll(site, detailed=("7_1", "8", "8"))
    assert frames["scontrol.7_1"] == Frame(0, b"JobId=7_1")
    assert frames["scontrol.8"] == Frame(0, b"JobId=8")
    assert [call.args for call in site.calls("scontrol")] == [
        ["--oneliner", "show", "job", "7_1"],
        ["--oneliner", "show", "job", "8"],
    ]


# ---- logs ----


def read(site: FakeSite, path: Path | str, offset: int, limit: int = 1000) -> object:
    request = LogRequest(name="w0.log0", path=str(path), offset=offset, limit=limit)
    frames = site.ask(build_read_bytes(request) + "\nask after true\n")
    assert frames["after"] == Frame(0, b"")
    return parse_log(frames["w0.log0"])


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [
        (0, 100, (10, 0, b"0123456789")),
        (0, 4, (10, 0, b"0123")),
        (4, 3, (10, 4, b"456")),
        (9, 5, (10, 9, b"9")),
        (10, 5, (10, 10, b"")),
        (11, 5, (10, 11, b"")),
        (-3, 100, (10, 7, b"789")),
        (-3, 2, (10, 7, b"78")),
        (-99, 4, (10, 0, b"0123")),
    ],
)
def test_a_part_of_a_log_is_read(
    site: FakeSite, tmp_path: Path, offset: int, limit: int, expected: object
) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"0123456789")
    assert read(site, log, offset, limit) == expected


def test_a_log_is_read_byte_for_byte(site: FakeSite, tmp_path: Path) -> None:
    data = bytes(range(256)) * 300 + b"\n\n\n"
    log = tmp_path / "log"
    log.write_bytes(data)
    assert read(site, log, 0, 10**6) == (len(data), 0, data)
    assert read(site, log, 65_530, 70_000) == (len(data), 65_530, data[65_530:])


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_log_of_any_name_is_read(site: FakeSite, tmp_path: Path, name: str) -> None:
    log = tmp_path / f"{name}.d" / name
    log.parent.mkdir()
    log.write_bytes(b"hi")
    assert read(site, log, 0) == (2, 0, b"hi")


def test_what_is_no_log_is_none(site: FakeSite, tmp_path: Path) -> None:
    """A directory had broken the whole answer, and with it that of every other job."""
    os.mkfifo(tmp_path / "fifo")
    assert read(site, tmp_path / "missing", 0) is None
    assert read(site, tmp_path, 0) is None
    assert read(site, "/dev/null", 0) == (0, 0, b"")
    assert read(site, tmp_path / "fifo", 0) == (0, 0, b"")


def test_a_log_that_breaks_off_disturbs_no_other_answer(site: FakeSite) -> None:
    """A file of sysfs says that it has 4096 bytes, and gives fewer, as one with an error does."""
    path = "/sys/devices/system/cpu/online"
    size, offset, data = read(site, path, 0, 10_000)  # type: ignore[misc]
    assert (size, offset) == (4096, 0)
    assert 0 < len(data) < size


def test_several_logs_are_read_in_one_program(site: FakeSite, tmp_path: Path) -> None:
    requests = []
    for number in range(3):
        (tmp_path / f"log{number}").write_bytes(b"x" * number)
        path = str(tmp_path / f"log{number}")
        requests.append(LogRequest(name=f"w{number}.log0", path=path, offset=0, limit=10))
    frames = poll(site, logs=tuple(requests))
    found = [parse_log(frames[f"w{number}.log0"]) for number in range(3)]
    assert found == [(0, 0, b""), (1, 0, b"x"), (2, 0, b"xx")]


# ---- the rest ----


@pytest.mark.parametrize("job_id", ["123", "123_4", "123_[1-5]", "-1", "$(touch pwned)", "a b"])
def test_a_job_id_reaches_scancel_as_one_word(site: FakeSite, job_id: str) -> None:
    site.ask(build_kill([job_id, "7"]))
    assert site.calls("scancel")[0].args == ["--", job_id, "7"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_small_file_of_any_name_is_read(site: FakeSite, tmp_path: Path, name: str) -> None:
    path = tmp_path / "files" / name
    path.parent.mkdir()
    path.write_bytes(b"hi\n")
    frames = site.ask(build_read_file(str(path), 100))
    assert frames["file"] == Frame(0, b"hi\n.")
    assert frames["resolved"].data.decode() == str(path)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n\n\n", b"a\0b\r\n", b"\xff\xfe", "ü".encode()])
def test_a_small_file_is_read_byte_for_byte(site: FakeSite, tmp_path: Path, data: bytes) -> None:
    """A NUL byte had silently been left out, so a script with one was run without it."""
    (tmp_path / "file").write_bytes(data)
    assert site.ask(build_read_file(f"{tmp_path}/file", 100))["file"] == Frame(0, data + b".")


def test_of_a_long_file_only_the_beginning_is_read(site: FakeSite, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"0123456789")
    assert site.ask(build_read_file(f"{tmp_path}/long", 4))["file"].data == b"0123."


def test_a_link_and_a_home_relative_path_are_resolved(site: FakeSite) -> None:
    (site.home / "real").write_text("text")
    (site.home / "link").symlink_to("real")
    frames = site.ask(build_read_file("~/link", 100))
    assert frames["resolved"].text == str(site.home / "real")
    assert frames["file"].data == b"text."


def test_a_file_that_cannot_be_read_is_told(site: FakeSite, tmp_path: Path) -> None:
    frames = site.ask(build_read_file("/no/such/script", 100))
    assert frames["resolved"].status == 1
    assert "No such file or directory" in frames["resolved"].text
    assert "file" not in frames
    frames = site.ask(build_read_file(str(tmp_path), 100))
    assert frames["file"].status == 1
    assert "Is a directory" in frames["file"].text


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_small_file_is_written_as_a_whole(site: FakeSite, tmp_path: Path, name: str) -> None:
    path = tmp_path / "files" / name
    path.parent.mkdir()
    text = "".join(HOSTILE_VALUES)
    frames = site.ask(build_write_file(str(path), text, 0o640))
    assert frames["write"].status == 0
    assert path.read_bytes().decode() == text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list_files(path.parent) == {name}


def test_a_file_that_cannot_be_written_is_told(site: FakeSite) -> None:
    frame = site.ask(build_write_file("/no/such/directory/file", "x", 0o600))["write"]
    assert frame.status == 1
    assert "No such file or directory" in frame.text


def test_a_query_asks_both_sources(site: FakeSite) -> None:
    assert site.ask(build_query(["1", "2"])).keys() == {"clock", "squeue", "sacct"}


def test_a_probe_tells_who_and_where_we_are(site: FakeSite) -> None:
    site.command("sbatch", "echo slurm-wlm 22.05.8")
    site.command("scontrol", "echo 'ClusterName = testcluster'")
    frames = site.ask(build_probe())
    assert frames["home"].text == str(site.home)
    assert frames["sbatch"] == Frame(0, f"{site.bin}/sbatch".encode())
    assert frames["version"].text == "slurm-wlm 22.05.8"
    assert frames["config"].text == "ClusterName = testcluster"
    assert frames["user"].status == frames["host"].status == 0


def test_a_probe_without_slurm_is_an_answer(site: FakeSite) -> None:
    (site.bin / "sbatch").unlink()
    frames = site.ask(build_probe(), setup=f"PATH={site.bin}")
    assert frames["sbatch"].status != 0
    assert frames["path"].text == str(site.bin)


# ---- many logs ----


def log_request(number: int, path: Path, **changes: int) -> LogRequest:
    values = {"offset": 0, "limit": 256 * 1024, "known": -1} | changes
    return LogRequest(name=f"w{number}.log0", path=str(path), **values)


def test_of_a_log_that_has_the_known_size_nothing_is_said(site: FakeSite, tmp_path: Path) -> None:
    (tmp_path / "same").write_bytes(b"123")
    (tmp_path / "longer").write_bytes(b"1234")
    (tmp_path / "shorter").write_bytes(b"12")
    names = ("same", "longer", "shorter", "missing")
    requests = [
        log_request(number, tmp_path / name, offset=3, known=3) for number, name in enumerate(names)
    ]
    frames = poll(site, logs=tuple(requests))
    assert "w0.log0" not in frames
    assert parse_log(frames["w1.log0"]) == (4, 3, b"4")
    assert parse_log(frames["w2.log0"]) == (2, 3, b"")
    assert parse_log(frames["w3.log0"]) is None


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_logs_of_any_names_are_read_together(site: FakeSite, tmp_path: Path, name: str) -> None:
    paths = [tmp_path / name / "a" / name, tmp_path / name / "b" / "log", tmp_path / "log"]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    for some in (paths, paths[:2], paths[:1], [paths[0], paths[0]]):
        requests = [log_request(number, path) for number, path in enumerate(some)]
        frames = poll(site, logs=tuple(requests))
        found = [parse_log(frames[f"w{number}.log0"]) for number in range(len(some))]
        assert found == [(1, 0, path.read_bytes()) for path in some]
    assert list_files(site.home) == set()


def count_processes(site: FakeSite, *names: str) -> None:
    """Have these programs take note of each time they are started."""
    for name in names:
        path = site.bin / name
        real = f"/usr/bin/{name}"
        path.write_text(f'#!/bin/sh\necho {name} >>"{site.notes}/started"\nexec {real} "$@"\n')
        path.chmod(0o755)


def started(site: FakeSite) -> list[str]:
    path = site.notes / "started"
    return path.read_text().split() if path.exists() else []


def test_quiet_logs_cost_one_process_for_all(site: FakeSite, tmp_path: Path) -> None:
    count_processes(site, "stat", "dd", "base64", "cat")
    for number in range(300):
        (tmp_path / f"log{number}").write_bytes(b"x")
    requests = [
        log_request(number, tmp_path / f"log{number}", offset=1, known=1) for number in range(300)
    ]
    (tmp_path / "log7").write_bytes(b"xy")
    frames = poll(site, logs=tuple(requests))
    assert frames.keys() == {"clock", "w7.log0"}
    assert sorted(started(site)) == ["base64", "dd", "stat"]


def test_exit_records_and_progress_cost_no_process(site: FakeSite, tmp_path: Path) -> None:
    count_processes(site, "stat", "cat")  # an older bash reads its program with cat
    (tmp_path / "exit.json").write_text("{}\n\n")
    records = tuple((f"w{number}.exit", str(tmp_path)) for number in range(20))
    frames = poll(site, exit_records=records, progress=(("w0.progress", str(tmp_path)),))
    assert frames["w9.exit"] == Frame(0, b"{}")
    assert frames["w0.progress"].status == 1
    assert started(site) == []


def test_what_is_no_record_is_a_failed_command(site: FakeSite, tmp_path: Path) -> None:
    """A pipe would have kept everybody waiting."""
    (tmp_path / "a" / "exit.json").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "exit.json")
    records = tuple((f"{name}.exit", str(tmp_path / name)) for name in "ab")
    frames = poll(site, exit_records=records)
    assert [frames[f"{name}.exit"].status for name in "ab"] == [1, 1]


def test_many_paths_go_into_several_calls(site: FakeSite, tmp_path: Path) -> None:
    count_processes(site, "stat")
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    for number in range(600):
        (directory / f"log{number}").write_bytes(b"x" * (number % 3))
    requests = [log_request(number, directory / f"log{number}", limit=9) for number in range(600)]
    frames = poll(site, logs=tuple(requests))
    sizes = [parse_log(frames[f"w{number}.log0"]) for number in range(600)]
    assert sizes == [(number % 3, 0, b"x" * (number % 3)) for number in range(600)]
    assert len(started(site)) == 3


def test_a_log_that_vanishes_meanwhile_is_no_other_logs(site: FakeSite, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() * ord(name))
    # It is gone when stat looks.
    (site.bin / "stat").write_text(f'#!/bin/sh\nrm -f "{tmp_path}/b"\nexec /usr/bin/stat "$@"\n')
    (site.bin / "stat").chmod(0o755)
    requests = [log_request(number, tmp_path / name) for number, name in enumerate("abc")]
    frames = poll(site, logs=tuple(requests))
    assert parse_log(frames["w0.log0"]) == (97, 0, b"a" * 97)
    assert parse_log(frames["w1.log0"]) is None
    assert parse_log(frames["w2.log0"]) == (99, 0, b"c" * 99)


def test_the_room_is_shared_and_what_short_logs_leave_goes_to_longer_ones(
    site: FakeSite, tmp_path: Path
) -> None:
    sizes = {"short": 1000, "middle": 1_500_000, "long": 9_000_000, "other": 9_000_000}
    requests = []
    for number, (name, size) in enumerate(sizes.items()):
        (tmp_path / name).write_bytes(b"x" * size)
        requests.append(log_request(number, tmp_path / name, limit=8_000_000))
    frames = poll(site, logs=tuple(requests))
    found = [parse_log(frames[f"w{number}.log0"]) for number in range(4)]
    got = [len(each[2]) for each in found if each]
    assert got[0] == 1000
    least = [min(size, LOG_BYTES // 4) for size in sizes.values()]
    assert all(each >= size for each, size in zip(got, least, strict=True))
    assert LOG_BYTES - 4096 <= sum(got) <= LOG_BYTES
    assert not any(is_put_off(frames[f"w{number}.log0"]) for number in range(4))


def test_for_more_logs_than_there_is_room_some_are_put_off(
    site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes processes on the log-in node, however short it is: 1,024 of them at the most."""
    assert commands.LOG_BYTES == 1024 * commands._LEAST_LOG_BYTES
    monkeypatch.setattr(commands, "LOG_BYTES", 32 * commands._LEAST_LOG_BYTES)
    (tmp_path / "log").write_bytes(b"one\n")
    requests = [log_request(number, tmp_path / "log") for number in range(40)]
    frames = poll(site, logs=tuple(requests))
    off = [number for number in range(40) if is_put_off(frames[f"w{number}.log0"])]
    assert off == list(range(32, 40))
    assert parse_log(frames["w32.log0"]) == (4, 0, b"")
    assert parse_log(frames["w31.log0"]) == (4, 0, b"one\n")
