"""What an earlier job of an array completed is told by the site itself."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.array_parts import ArrayPart, format_part
from airflow_provider_csc.slurm.arrays import format_array, parse_array
from airflow_provider_csc.slurm.batch import Environment, parse_exit_record, render_batch_script
from airflow_provider_csc.slurm.commands import PollRequest, build_poll
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.identity import TaskIdentity
from airflow_provider_csc.slurm.plan import JobSpec, build_request
from airflow_provider_csc.slurm.submission import (
    Decision,
    LookUp,
    Previous,
    decide,
    read_look_up,
    read_submit_answer,
)
from airflow_provider_csc.slurm.submit_commands import build_look_up, build_submit
from tests.pure.slurm.evidence import accounting_line, answer, exit_record, queue_line
from tests.pure.slurm.shell import FakeSite

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = TaskIdentity(
    dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=2, first_try=1
)
KEY = IDENTITY.key
NAME = f"d.t.{KEY}.1"


def looked_up(
    *, array: str = "0-9%2", squeue: Frame | None = None, sacct: Frame | None = None, **files: bytes
) -> Previous:
    """The first try's submission, by its files and by what Slurm says."""
    frames = {
        "clock": Frame(0, b"5000"),
        "squeue": squeue or answer(),
        "sacct": sacct or answer(),
        "dir.1": Frame(0, f"/runs/{KEY}.1".encode()),
        "job_id.1": Frame(0, b"123"),
        "array.1": Frame(0, array.encode()),
        **{f"{name}.1": Frame(0, data) for name, data in files.items()},
    }
    (found,) = read_look_up(frames, KEY, run_seconds=9999).previous
    return found


def decided(previous: Previous, **changes: Any) -> Decision:
    identity = replace(IDENTITY, **changes)
    complete = LookUp(previous=(previous,), is_complete=True)
    return decide(complete, identity, run_seconds=9999)


def test_a_verdict_says_what_completed() -> None:
    found = looked_up(verdict=b"FAILED\ncompleted 0-6,8-9\n")
    assert found.array is not None
    assert format_part(found.array) == "0-9%2"
    assert (format_array(found.completed), found.noted) == ("0-6,8-9", "FAILED")
    assert not found.is_live
    decision = decided(found)
    assert (decision.adopt, decision.mine) == (None, (found,))
    assert decision.why.endswith("(UNKNOWN) is over: what it did not complete is submitted.")


def test_without_a_verdict_each_task_is_judged() -> None:
    sacct = answer(
        accounting_line(JobID="123_0", JobName=NAME),
        accounting_line(JobID="123_1", JobName=NAME, State="FAILED", ExitCode="1:0"),
        accounting_line(JobID="123_2", JobName=NAME, State="RUNNING"),
        accounting_line(JobID="123_3", JobName=NAME),
        accounting_line(JobID="123_[4-9]", JobName=NAME, State="CANCELLED by 1"),
    )
    exits = exit_record(job_id="123_3", code=7) + exit_record(job_id="123_2") + b"{half"
    found = looked_up(sacct=sacct, exits=exits)
    # 2 has left its record while slurmdbd lags; 3 says that it failed.
    assert format_array(found.completed) == "0,2"


def test_what_runs_has_not_completed_whatever_it_left() -> None:
    squeue = answer(
        queue_line(job_id="123_0", name=NAME), queue_line(job_id="123_[1-9]", name=NAME)
    )
    found = looked_up(squeue=squeue, exits=exit_record(job_id="123_0"))
    assert not found.completed
    assert found.is_live
    assert decided(found).adopt is found


def test_completed_tasks_of_a_shifted_job_are_those_of_the_author() -> None:
    found = looked_up(array="1000-1009 shifted by 1000", exits=exit_record(job_id="123_4"))
    assert format_array(found.completed) == "1004"


def test_an_array_that_succeeded_unseen_is_not_run_again_nor_taken_for_the_whole() -> None:
    rows = [accounting_line(JobID=f"123_{index}", JobName=NAME) for index in range(10)]
    found = looked_up(sacct=answer(*rows))
    assert (found.state.name, format_array(found.completed)) == ("COMPLETED", "0-9")
    assert decided(found).adopt is None


def test_what_a_cleared_task_completed_before_does_not_count() -> None:
    found = looked_up(verdict=b"COMPLETED\ncompleted 0-9\n")
    assert decided(found, first_try=2).mine == ()


def test_a_live_array_without_its_directory_is_adopted_by_its_base_id() -> None:
    frames = {
        "clock": Frame(0, b"5000"),
        "squeue": answer(queue_line(job_id="123_[0-9%2]", name=NAME, state="PENDING")),
        "sacct": answer(),
    }
    (found,) = read_look_up(frames, KEY, run_seconds=9999).previous
    assert (found.job_id, found.array) == ("123", None)


@pytest.mark.parametrize("text", ["", "nonsense", "9-0"])
def test_an_array_that_cannot_be_read_is_none(text: str) -> None:
    assert looked_up(array=text, verdict=b"FAILED\ncompleted 0-3").array is None


def test_who_comes_second_hears_which_tasks_the_job_runs() -> None:
    frames = {
        "run_dir": Frame(0, b"/runs/x"),
        "existing": Frame(0, b"123\n"),
        "array": Frame(0, b"3,7%2"),
    }
    found = read_submit_answer(frames, work_dir=None, base_dir="/runs", log_name="stdout.log")
    assert getattr(found, "array", None) == ArrayPart(spec=parse_array("3,7%2"))


# ---- the request ----


def requested(part: ArrayPart | None = None, base_dir: str = "/runs", **spec: Any) -> Any:
    wanted = JobSpec(**{"command": "true"} | spec)
    script = wanted.script or "#!/bin/bash\ntrue\n"
    return build_request(
        wanted, IDENTITY, script=script, defaults={}, base_dir=base_dir, part=part
    )[0]


def test_an_array_of_the_options_or_of_the_script_is_submitted() -> None:
    request = requested(options={"array": "0-9%2"})
    assert request.array == "0-9%2"
    assert "--array=0-9%2" in request.options
    assert json.loads(request.identity)["array"] == "0-9%2"
    request = requested(script="#!/bin/bash\n#SBATCH -a 1-3\n", command=None)
    assert request.array == "1-3"
    assert "--array=1-3" in request.options
    assert requested().array == ""
    assert "array" not in json.loads(requested().identity)


def test_a_part_is_submitted_and_the_whole_is_asked() -> None:
    part = ArrayPart(spec=parse_array("13,17%2"), shift=13)
    request = requested(part, options={"array": "10-19%2"})
    assert "--array=0,4%2" in request.options
    assert "--array=10-19%2" in request.asked
    assert request.array == "13,17%2 shifted by 13"
    assert "export SLURM_ARRAY_TASK_ID=$((SLURM_ARRAY_TASK_ID + 13))" in request.batch
    assert "SLURM_ARRAY_TASK_COUNT=10" in request.batch


def test_a_backslash_in_the_place_of_the_logs_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds a backslash"):
        requested(options={"array": "0-9"}, base_dir="/a\\b")


@pytest.mark.parametrize(
    ("output", "is_fine"),
    [
        ("log-%A_%a", True),
        ("log-%3a", True),
        ("/dev/null", True),
        ("log-%A", False),
        ("log-%a-%j", False),
        ("a\\%a", False),
    ],
)
def test_all_logs_can_be_followed_only_where_each_task_has_one(output: str, is_fine: bool) -> None:
    options = {"array": "0-9", "output": output}
    requested(options=options)
    if is_fine:
        requested(options=options, array_logs="all")
    else:
        with pytest.raises(ConfigError, match="array_logs"):
            requested(options=options, array_logs="all")


# ---- the programs ----


@pytest.fixture
def site(tmp_path: Path) -> FakeSite:
    site = FakeSite(tmp_path / "site")
    site.command("sbatch", "echo 123")
    return site


def test_the_log_of_each_task_is_one_of_its_own(site: FakeSite, tmp_path: Path) -> None:
    request = requested(options={"array": "0-9"}, base_dir=str(tmp_path / "50% of it"))
    site.ask(build_submit(request))
    (call,) = site.calls("sbatch")
    run_dir = f"{tmp_path}/50%% of it/{request.token}"
    assert f"--output={run_dir}/stdout.%a.log" in call.args


def test_the_look_up_tells_of_arrays_what_their_directories_know(
    site: FakeSite, tmp_path: Path
) -> None:
    base = tmp_path / "runs"
    request = requested(options={"array": "0-9"}, base_dir=str(base))
    frames = site.ask(build_submit(request))
    run_dir = base / request.token
    assert frames["run_dir"].text == str(run_dir)
    for index in (0, 3):
        (run_dir / f"exit.{index}.json").write_bytes(exit_record(job_id=f"123_{index}"))
    program = build_look_up(base_dir=str(base), key=KEY, names=[NAME], since=0)

    (found,) = read_look_up(site.ask(program), KEY, run_seconds=9).previous
    assert format_array(found.completed) == "0,3"

    (run_dir / "verdict").write_text("FAILED\ncompleted 0,3,5\n")
    again = site.ask(program)
    assert not any(name.startswith("exits.") for name in again)
    (found,) = read_look_up(again, KEY, run_seconds=9).previous
    assert format_array(found.completed) == "0,3,5"
    # And whoever submits the same once more hears which tasks it was.
    assert site.ask(build_submit(request))["array"].text == "0-9"


def test_exit_records_of_tasks_are_read_in_one_answer(site: FakeSite, tmp_path: Path) -> None:
    run_dir = tmp_path / "it's a dir%a"
    run_dir.mkdir()
    for index in (3, 11):
        (run_dir / f"exit.{index}.json").write_bytes(exit_record(job_id=f"123_{index}"))
    request = PollRequest(array_records=(("w0.exit", str(run_dir), (2, 3, 11)),))
    frame = site.ask(build_poll(request))["w0.exit"]
    ids = [record.job_id for line in frame.data.splitlines() if (record := parse_exit_record(line))]
    assert ids == ["123_3", "123_11"]


# ---- the wrapper ----


def run_task(
    run_dir: Path,
    index: int,
    script: str,
    *,
    job_id: str = "123",
    promised: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    run_dir.mkdir(exist_ok=True)
    text = render_batch_script(directives=[], environment=Environment(), promised=promised)
    (run_dir / "batch.sh").write_text(text)
    (run_dir / "script").write_text(f"#!/bin/bash\n{script}\n")
    (run_dir / "script").chmod(0o700)
    with (run_dir / f"stdout.{index}.log").open("wb") as log:
        return subprocess.run(
            ["/bin/bash", str(run_dir / "batch.sh"), str(run_dir)],
            stdout=log,
            stderr=log,
            check=False,
            timeout=20,
            env={
                "PATH": f"{run_dir.parent}/bin:{os.environ['PATH']}",
                "SLURM_JOB_ID": str(int(job_id) + index),
                "SLURM_ARRAY_JOB_ID": job_id,
                "SLURM_ARRAY_TASK_ID": str(index),
                "SLURMD_NODENAME": "c1",
            },
        )


def test_each_task_leaves_a_record_of_its_own(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert run_task(run_dir, 7, "echo hello; exit 3").returncode == 3
    assert run_task(run_dir, 8, "exit 0").returncode == 0
    record = parse_exit_record((run_dir / "exit.7.json").read_bytes())
    assert record is not None
    assert (record.job_id, record.exit_code, record.stdout_bytes) == ("123_7", 3, 6)
    assert record.stdout_path == record.stderr_path == str(run_dir / "stdout.7.log")
    assert (run_dir / "job_id").read_text() == "123\n"
    assert {path.name for path in run_dir.iterdir()} == {
        *("batch.sh", "script", "job_id", "exit.7.json", "exit.8.json"),
        *("stdout.7.log", "stdout.8.log"),
    }


def test_tasks_of_an_array_that_is_not_the_one_do_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (tmp_path / "bin").mkdir()
    scancel = tmp_path / "bin" / "scancel"
    scancel.write_text(f'#!/bin/bash\necho "$@" >>{tmp_path}/cancelled\n')
    scancel.chmod(0o755)
    run_task(run_dir, 0, "echo ran")
    assert run_task(run_dir, 1, "echo ran", job_id="200").returncode == 1
    assert "ran" not in (run_dir / "stdout.1.log").read_text().split()
    assert (tmp_path / "cancelled").read_text() == "200\n"
    assert not (run_dir / "exit.1.json").exists()


def test_a_task_finds_the_ids_it_was_promised(tmp_path: Path) -> None:
    promised = {
        "SLURM_ARRAY_TASK_ID": "$((SLURM_ARRAY_TASK_ID + 1000))",
        "SLURM_ARRAY_TASK_MIN": "0",
    }
    run_task(
        tmp_path / "run", 7, "echo $SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_MIN", promised=promised
    )
    assert (tmp_path / "run" / "stdout.7.log").read_text() == "1007 0\n"
    # Slurm's own id names the record.
    assert (tmp_path / "run" / "exit.7.json").exists()


@pytest.mark.parametrize("name", ['with "quotes"', "back\\slash", "ünï"])
def test_a_record_is_whole_wherever_the_log_is(tmp_path: Path, name: str) -> None:
    run_dir = tmp_path / name
    run_task(run_dir, 7, "exit 4")
    record = parse_exit_record((run_dir / "exit.7.json").read_bytes())
    assert record is not None
    assert record.exit_code == 4
