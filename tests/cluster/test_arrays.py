"""One task that is a whole job array, on the real cluster."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_csc.client import array_submitter
from airflow_provider_csc.client.kill import kill_jobs
from airflow_provider_csc.errors import JobExitCodeError
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.sensors.slurm import SlurmJobSensor
from airflow_provider_csc.slurm.array_parts import ArrayLimits
from airflow_provider_csc.slurm.policy import SlurmRetryPolicy
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger
from tests.support.task import build_context, first_event, resume, run_task, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

SAY = 'echo "task $SLURM_ARRAY_TASK_ID"'
# Until where a log was shown is only kept of an array that was seen before its end.
UNTIL_SHOWN = """
run_dir=$(dirname "$(readlink /proc/$$/fd/1)")
for _ in {1..300}; do [[ ! -e $run_dir/log_offsets ]] || break; sleep 0.2; done
"""
COUNTS = re.compile(r"Array \d+: (\d+) tasks: .*\.")


def operator(array: str, command: str = SAY, **arguments: Any) -> SlurmSubmitOperator:
    options = {"array": array, "mem": "20M", "time": "00:05:00"} | arguments.pop("options", {})
    return SlurmSubmitOperator(
        **{
            "task_id": "job",
            "poll_interval": 0.5,
            "deferrable": True,
            "command": command,
            "options": options,
        }
        | arguments
    )


def failing(*indices: int) -> str:
    return f"{SAY}; case $SLURM_ARRAY_TASK_ID in {'|'.join(map(str, indices))}) exit 4;; esac"


def triggered(task: SlurmSubmitOperator, context: dict[str, Any]) -> SlurmJobTrigger:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    trigger = stored(caught.value.trigger)
    assert isinstance(trigger, SlurmJobTrigger)
    return trigger


def followed(trigger: SlurmJobTrigger) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(json.dumps(asyncio.run(first_event(trigger))))
    return event


def as_tries(array: str, command: str, **arguments: Any) -> Callable[..., Any]:
    """Runs a try of one task instance; ``max_tries`` as Airflow would have it."""
    run_id = f"test__{uuid4()}"

    def run(try_number: int, max_tries: int = 1, command: str = command) -> Any:
        task = operator(array, command, retries=1, **arguments)
        context = build_context(task, run_id=run_id, try_number=try_number, max_tries=max_tries)
        return run_task(task, context)

    return run


@pytest.fixture
def marks() -> Iterator[Path]:
    """A directory in which the tasks of an array leave a mark each time they run."""
    hook = SlurmHook()
    path = hook.run(f"mkdir -p ~/marks/{uuid4().hex[:8]} && cd $_ && pwd").text
    yield Path(path)
    hook.run(f"rm -rf -- {path}")


def marking(marks: Path, then: str = "true") -> str:
    return f'echo "$SLURM_ARRAY_TASK_ID" >>{marks}/ran; {then}'


def ran(marks: Path) -> list[int]:
    return sorted(map(int, (marks / "ran").read_text().split()))


def limit_site(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    monkeypatch.setattr(
        array_submitter, "parse_limits", lambda *_args, **_more: ArrayLimits(**limits)
    )


# ---- what became of it ----


def test_twenty_tasks_of_which_two_fail(task_log: list[str]) -> None:
    task = operator("0-19%10", failing(3, 7))

    with pytest.raises(JobExitCodeError) as caught:
        run_task(task)

    text = str(caught.value)
    assert "20 tasks: 18 COMPLETED, 2 FAILED" in text
    assert re.search(r"task 3 \(\d+_3\) FAILED with exit code 4, log \S+/stdout\.3\.log", text)
    assert "task 7" in text
    lines = list(task_log)
    counts = [line for line in lines if COUNTS.fullmatch(line)]
    assert all("20 tasks" in line for line in counts)
    assert len(counts) == len(set(counts)) < 20
    assert counts[-1].endswith("20 tasks: 18 COMPLETED, 2 FAILED.")
    assert [line for line in lines if line.endswith("] task 3")] == ["[3] task 3"]
    assert [line for line in lines if line.startswith("[3] [the end of")]
    assert not [line for line in lines if line.endswith("] task 4")]


def test_what_may_fail_is_a_success_and_is_told() -> None:
    result = run_task(operator("0-19%10", failing(3, 7), max_failed_tasks=0.1))

    assert (result["state"], result["exit_code"]) == ("COMPLETED", 0)
    array = result["array"]
    assert array["spec"] == "0-19%10"
    assert array["counts"] == {"COMPLETED": 18, "FAILED": 2}
    assert set(array["tasks"]) == {str(index) for index in range(20)}
    job_id = result["job_id"]
    assert array["tasks"]["4"] == {"job_id": f"{job_id}_4", "state": "COMPLETED", "exit_code": 0}
    assert array["tasks"]["3"] | {"nodes": "", "reason": ""} == {
        "job_id": f"{job_id}_3",
        "state": "FAILED",
        "exit_code": 4,
        "reason": "",
        "nodes": "",
        "log": f"{result['run_dir']}/stdout.3.log",
    }
    assert result["stdout_path"] == f"{result['run_dir']}/stdout.%a.log"


def test_a_sparse_array_runs_what_was_written(marks: Path) -> None:
    result = run_task(operator("1,3,9-15:3%2", marking(marks)))

    assert ran(marks) == [1, 3, 9, 12, 15]
    assert result["array"]["counts"] == {"COMPLETED": 5}
    assert list(result["array"]["tasks"]) == ["1", "3", "9", "12", "15"]


def test_an_array_of_a_script_and_of_a_range(marks: Path) -> None:
    script = f"#!/bin/bash\n#SBATCH --array=4-6\n{marking(marks)}\n"
    task = operator("0", script=script, command=None)
    task.options = {"mem": "20M"}
    run_task(task)
    assert ran(marks) == [4, 5, 6]

    task = operator("0", marking(marks))
    task.options = {"mem": "20M", "array": range(0, 4, 2)}
    assert set(run_task(task)["array"]["tasks"]) == {"0", "2"}


def test_all_logs_are_followed_with_their_index(task_log: list[str]) -> None:
    command = f"{SAY} begins; sleep 3; {SAY} ends"
    run_task(operator("0-3", command, array_logs="all"))

    lines = [line for line in task_log if re.match(r"\[\d\] task", line)]
    assert sorted(lines) == sorted(
        f"[{index}] task {index} {what}" for index in range(4) for what in ("begins", "ends")
    )


def test_output_of_the_users_own_choosing_is_found(task_log: list[str], marks: Path) -> None:
    options = {"output": f"{marks}/%x-%A-%2a-%j.txt"}
    with pytest.raises(JobExitCodeError):
        run_task(operator("0-2", failing(1), options=options))

    assert "[1] task 1" in task_log
    assert [line for line in task_log if re.match(rf"\[1\] \[the end of {marks}/\S+-01-", line)]


@pytest.mark.parametrize("kill_grace", [0, 2])
def test_a_time_limit_of_the_task_holds_for_each_task_of_the_array(kill_grace: float) -> None:
    """The tasks that reach it are cancelled; those that start later run all the same."""
    command = f"{SAY}; case $SLURM_ARRAY_TASK_ID in 1|2) sleep 300;; 0) sleep 5;; esac"
    task = operator("0-5%3", command, timeout=8, kill_grace=kill_grace, max_failed_tasks=2)

    tasks = run_task(task)["array"]["tasks"]

    states = {index: each["state"] for index, each in tasks.items()}
    assert states.pop("1") in {"CANCELLED", "FAILED"}
    assert states.pop("2") in {"CANCELLED", "FAILED"}
    assert set(states.values()) == {"COMPLETED"}


def test_who_watches_again_finds_what_ended_before(task_log: list[str]) -> None:
    task = operator("0-5", failing(2))
    context = build_context(task)
    trigger = triggered(task, context)

    first, second = followed(trigger), followed(stored(trigger))

    assert first["results"][0]["array"] == second["results"][0]["array"]
    assert task_log.count("[2] task 2") == 1


# ---- tries ----


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_retry_runs_only_what_did_not_complete(marks: Path, is_noted: bool) -> None:
    then = f"[ -e {marks}/mended ] || case $SLURM_ARRAY_TASK_ID in 2|5) exit 3;; esac"
    run = as_tries("0-7", marking(marks, then))
    with pytest.raises(JobExitCodeError) as caught:
        run(1)
    first = caught.value.details["job_id"]
    if not is_noted:
        Path(caught.value.details["run_dir"], "verdict").unlink()
    (marks / "mended").touch()

    result = run(2)

    assert ran(marks) == sorted([*range(8), 2, 5])
    assert result["state"] == "COMPLETED"
    assert result["array"]["counts"] == {"COMPLETED": 8}
    second = result["job_id"]
    owners = {index: task["job_id"] for index, task in result["array"]["tasks"].items()}
    assert owners == {
        str(index): f"{second if index in (2, 5) else first}_{index}" for index in range(8)
    }


def test_a_retry_of_a_part_tells_the_script_of_the_whole(marks: Path) -> None:
    tell = "$SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_MIN $SLURM_ARRAY_TASK_MAX"
    tell += " $SLURM_ARRAY_TASK_COUNT $SLURM_ARRAY_TASK_STEP"
    run = as_tries("2-8:2", f'echo "{tell}" >>{marks}/told; [ -e {marks}/mended ]')
    with pytest.raises(JobExitCodeError):
        run(1)
    first = sorted((marks / "told").read_text().splitlines())
    (marks / "told").unlink()
    (marks / "mended").touch()

    run(2)

    assert sorted((marks / "told").read_text().splitlines()) == first
    assert first[0] == "2 2 8 4 2"


def test_a_cleared_task_runs_the_whole_array(marks: Path) -> None:
    run = as_tries("0-3", marking(marks))
    run(1)
    result = run(2, max_tries=2)

    assert ran(marks) == sorted([*range(4), *range(4)])
    assert {task["job_id"].partition("_")[0] for task in result["array"]["tasks"].values()} == {
        result["job_id"]
    }


def test_a_retry_after_a_lost_worker_adopts_the_running_array(marks: Path) -> None:
    command = marking(marks, "sleep 5")
    run_id = f"test__{uuid4()}"
    lost = operator("0-3%2", command, retries=1)
    trigger = triggered(lost, build_context(lost, run_id=run_id, max_tries=1))

    again = operator("0-3%2", command, retries=1)
    result = run_task(again, build_context(again, run_id=run_id, try_number=2, max_tries=1))

    assert result["job_id"] == trigger.job_ids[0]
    assert ran(marks) == [0, 1, 2, 3]
    assert result["array"]["counts"] == {"COMPLETED": 4}


def test_a_retry_of_what_completed_unseen_submits_nothing(marks: Path) -> None:
    run_id = f"test__{uuid4()}"
    lost = operator("0-3", marking(marks), retries=1)
    trigger = triggered(lost, build_context(lost, run_id=run_id, max_tries=1))
    followed(trigger)

    again = operator("0-3", marking(marks), retries=1)
    result = run_task(again, build_context(again, run_id=run_id, try_number=2, max_tries=1))

    assert result["job_id"] == trigger.job_ids[0]
    assert ran(marks) == [0, 1, 2, 3]


def test_a_policy_gives_more_memory_to_the_tasks_that_failed(
    cluster: dict[str, Any], marks: Path
) -> None:
    if cluster["slurm_memory_limits"] != "cgroup":
        pytest.skip("the kernel limits no memory here: nothing ends OUT_OF_MEMORY")
    hog = "python3 -c 'x = bytearray(150 << 20); x[::4096] = b\"x\" * len(x[::4096])'"
    command = marking(marks, f"[ $SLURM_ARRAY_TASK_ID != 2 ] || {hog} || exit 1; sleep 1")
    policy = SlurmRetryPolicy(out_of_memory=2, memory_factor=4.0)

    result = run_task(operator("0-3", command, options={"mem": "50M"}, on_failure=policy))

    assert ran(marks) == [0, 1, 2, 2, 3]
    assert result["array"]["counts"] == {"COMPLETED": 4}
    (past,) = result["resubmissions"]
    assert (past["reason"], past["changed"]) == ("out_of_memory", {"mem": "200M"})
    first = past["job_id"]
    owners = [result["array"]["tasks"][str(index)]["job_id"] for index in range(4)]
    assert owners == [f"{first}_0", f"{first}_1", f"{result['job_id']}_2", f"{first}_3"]


# ---- limits of the site ----


def test_what_cannot_be_queued_at_once_is_submitted_in_parts(
    marks: Path, monkeypatch: pytest.MonkeyPatch, task_log: list[str]
) -> None:
    limit_site(monkeypatch, max_queued=4)

    result = run_task(operator("0-9", marking(marks, "[ $SLURM_ARRAY_TASK_ID != 1 ]"),
                               max_failed_tasks=1))  # fmt: skip

    assert ran(marks) == list(range(10))
    assert result["array"]["counts"] == {"COMPLETED": 9, "FAILED": 1}
    jobs = {task["job_id"].partition("_")[0] for task in result["array"]["tasks"].values()}
    assert len(jobs) == 3
    told = [line for line in task_log if "MaxSubmit=4" in line]
    assert len(told) == 2
    assert "10 tasks are more than this site takes at once (MaxSubmit=4)" in told[0]
    assert "runs 4 of them, 0-3;" in told[0]


def test_ids_beyond_the_limit_reach_the_script_as_promised(
    marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_site(monkeypatch, max_id=4)
    tell = "$SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_MAX"
    command = f"""echo "{tell}" >>{marks}/told; srun -n1 bash -c 'echo "{tell}"' >>{marks}/steps"""

    result = run_task(operator("2-3,100-105", f"{command}; [ $SLURM_ARRAY_TASK_ID != 103 ]",
                               max_failed_tasks=1))  # fmt: skip

    expected = [f"{index} 105" for index in (100, 101, 102, 103, 104, 105, 2, 3)]
    assert sorted((marks / "told").read_text().splitlines()) == expected
    assert sorted((marks / "steps").read_text().splitlines()) == expected
    tasks = result["array"]["tasks"]
    assert result["array"]["counts"] == {"COMPLETED": 7, "FAILED": 1}
    assert [tasks[index]["job_id"].partition("_")[2] for index in ("2", "100", "103", "105")] == [
        *("2", "0", "3", "1"),
    ]
    assert tasks["103"]["log"].endswith("/stdout.3.log")


def test_a_retry_of_shifted_tasks_runs_only_those(
    marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_site(monkeypatch, max_id=3)
    then = f"[ -e {marks}/mended ] || case $SLURM_ARRAY_TASK_ID in 1|11) exit 3;; esac"
    run = as_tries("0-2,10-12", marking(marks, then))
    with pytest.raises(JobExitCodeError):
        run(1)
    (marks / "mended").touch()

    result = run(2)

    assert ran(marks) == sorted([0, 1, 2, 10, 11, 12, 1, 11])
    assert result["array"]["counts"] == {"COMPLETED": 6}


def test_the_limits_of_the_real_site_are_read() -> None:
    hook = SlurmHook()
    limits: list[ArrayLimits] = []
    task = operator("0-1")
    original = array_submitter.parse_limits

    def spy(*args: Any, **more: Any) -> ArrayLimits:
        limits.append(original(*args, **more))
        return limits[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_submitter, "parse_limits", spy)
        run_task(task)
    told = hook.run("scontrol show config | grep MaxArraySize").text
    assert limits[0].max_id == int(told.split()[-1])


def test_a_part_is_refused_where_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_site(monkeypatch, max_queued=4)
    with pytest.raises(AirflowFailException, match=r"wait_for_completion.*MaxSubmit=4"):
        run_task(operator("0-9", wait_for_completion=False))


# ---- kill ----


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, *args: object) -> None:
        self.log(logging.INFO, message, *args)

    def log(self, _level: int, message: str, /, *args: object) -> None:
        self.lines.append(message % args if args else message)


@pytest.mark.parametrize("grace", [0, 3])
def test_a_kill_ends_the_whole_array_and_is_confirmed(grace: float) -> None:
    task = operator("0-9%2", "sleep 300")
    trigger = triggered(task, build_context(task))
    (job_id,) = trigger.job_ids
    hook = SlurmHook()
    end = time.monotonic() + 60
    while "RUNNING" not in hook.run(f"squeue --noheader --format=%T --jobs={job_id}").text:
        assert time.monotonic() < end
        time.sleep(0.3)
    log = Log()

    report = asyncio.run(
        kill_jobs(
            hook.get_settings(),
            trigger.job_ids,
            log,
            run_dirs=[trigger.run_dir or ""],
            grace=grace,
            patience=40,
        )
    )

    assert report.is_confirmed, log.lines
    states = hook.run(f"squeue --noheader --states=all --format='%i %T' --jobs={job_id}").text
    assert states
    assert {line.split()[1] for line in states.splitlines()} <= {"CANCELLED", "FAILED"}
    event = followed(trigger)
    counts = event["results"][0]["array"]["ended"]
    assert {state for _, _, state, _ in counts} <= {"CANCELLED", "FAILED"}


def test_the_task_cancels_the_whole_array_at_its_execution_timeout() -> None:
    task = operator("0-9%2", "sleep 300", max_failed_tasks=None)
    context = build_context(task)
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    deferred = caught.value
    trigger = stored(deferred.trigger)
    trigger.deadline = time.time() + 3
    event = followed(trigger)

    with pytest.raises(Exception, match="cancelled the array because of execution_timeout"):
        resume(task, context, functools.partial(task.execute_complete, context, event=event))


# ---- the sensor ----


def test_the_sensor_waits_for_arrays_and_for_single_tasks() -> None:
    task = operator("0-3", "sleep 2", wait_for_completion=False)
    submitted = run_task(task)
    job_id = submitted["job_id"]
    assert submitted["state"] == "PENDING"

    for waited in (job_id, f"{job_id}_2"):
        sensor = SlurmJobSensor(task_id="wait", job_id=waited, deferrable=True, poke_interval=0.5)
        assert run_task(sensor)["state"] == "COMPLETED"


def test_the_listed_directory_has_two_files_for_each_task() -> None:
    result = run_task(operator("0-2", SAY + UNTIL_SHOWN))
    names = {path.name for path in Path(result["run_dir"]).iterdir()}
    assert names == {
        *("batch.sh", "identity.json", "job_id", "script", "verdict", "log_offsets"),
        *(f"exit.{index}.json" for index in range(3)),
        *(f"stdout.{index}.log" for index in range(3)),
    }
