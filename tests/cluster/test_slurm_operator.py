"""SlurmSubmitOperator on the real cluster: what a job did is reported as exactly that."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_csc.errors import JobFailedError
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.triggers.slurm import SlurmSiteTrigger
from tests.support.task import after, build_context, resume, run_task

if TYPE_CHECKING:
    from tests.cluster.conftest import SlurmConnection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

HOSTILE = [
    "a b",
    'it\'s "quoted"',
    "$(touch /tmp/pwned)`id`",
    "ünïcødé 漢字",
    "-leading --dash",
    "100%j %% back\\slash",
    "; rm -rf x & | > < * ? [a] {b} ~ #!",
]


def operator(**arguments: Any) -> SlurmSubmitOperator:
    return SlurmSubmitOperator(
        **{"task_id": "job", "poll_interval": 0.5, "deferrable": True} | arguments
    )


def as_alice(command: str) -> str:
    done = subprocess.run(
        ["runuser", "-u", "alice", "--", "bash", "-c", command],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def jobs_in_queue() -> list[str]:
    return as_alice("squeue --me --noheader --format=%j").splitlines()


def final_state(job_id: str) -> str:
    """The state a job ends in, waited for."""
    for _ in range(60):
        found = SlurmHook().query([job_id])[job_id]
        if found.is_final:
            return found.state
        time.sleep(0.5)
    raise AssertionError(f"job {job_id} is still {found.state}")


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_job_that_succeeds_returns_all_documented_fields(deferrable: bool) -> None:
    task = operator(
        command="sleep 1; echo done", deferrable=deferrable, options={"time": "00:05:00"}
    )
    context = build_context(task)

    result = run_task(task, context)

    assert set(result) == {
        *("job_id", "name", "cluster", "state", "exit_code", "signal", "reason", "partition"),
        *("nodes", "submit_time", "start_time", "end_time", "elapsed_seconds"),
        *("cpu_efficiency", "max_rss_bytes", "run_dir", "stdout_path", "stderr_path"),
        *("resubmissions", "memory_efficiency", "billing_units", "advice", "pending_reasons"),
    }
    assert context["ti"].xcoms["job_id"] == result["job_id"]
    assert (result["state"], result["exit_code"], result["signal"]) == ("COMPLETED", 0, None)
    assert (result["cluster"], result["partition"]) == ("testcluster", "small")
    assert re.fullmatch(r"c[1-4]", result["nodes"])
    times = [datetime.fromisoformat(result[f"{name}_time"]) for name in ("submit", "start", "end")]
    assert times == sorted(times)
    assert all(time.utcoffset().total_seconds() == 0 for time in times)
    assert 1 <= result["elapsed_seconds"] <= 5
    assert 0 <= result["cpu_efficiency"] <= 1


def test_the_run_directory_is_private_and_small() -> None:
    result = run_task(operator(command="echo hello"))

    listing = as_alice(f"stat --format='%a %F' {result['run_dir']}; ls {result['run_dir']}")

    mode, *files = listing.splitlines()
    assert mode == "700 directory"
    assert set(files) == {
        *("batch.sh", "exit.json", "identity.json", "job_id", "log_offsets", "script"),
        *("stdout.log", "verdict"),
    }


@pytest.mark.parametrize(
    ("command", "exit_code", "signal", "words"),
    [
        ("exit 3", 3, None, "exit code 3"),
        ("true; true; false", 1, None, "exit code 1"),
        ("exit 200", 200, None, "exit code 200"),
        ("kill -9 $$", 137, 9, "killed by signal 9 (SIGKILL)"),
        ("kill -SEGV $$", 139, 11, "killed by signal 11 (SIGSEGV)"),
        ("no-such-program-anywhere", 127, None, "not found"),
    ],
)
def test_a_failing_script_is_reported_as_what_it_did(
    command: str, exit_code: int, signal: int | None, words: str
) -> None:
    with pytest.raises(JobFailedError, match=re.escape(words)) as caught:
        run_task(operator(command=command))

    assert (caught.value.state, caught.value.exit_code, caught.value.signal) == (
        "FAILED",
        exit_code,
        signal,
    )


def test_a_script_whose_interpreter_is_missing_fails_at_its_first_line() -> None:
    with pytest.raises(JobFailedError) as caught:
        run_task(operator(script="#!/no/such/interpreter\necho never\n"))

    assert caught.value.exit_code in (126, 127)


def test_a_job_beyond_its_time_limit_is_reported_as_timeout() -> None:
    with pytest.raises(JobFailedError, match=r"TIMEOUT.*time limit of 1 minutes") as caught:
        run_task(operator(command="sleep 600", options={"time": 1}))

    assert caught.value.state == "TIMEOUT"


def test_a_job_beyond_its_memory_is_reported_as_what_slurm_makes_of_it(
    cluster: dict[str, Any],
) -> None:
    hog = "python3 -c 'import time; x = bytearray(400 << 20); x[::4096] = b\"x\" * len(x[::4096]); time.sleep(30)'"

    with pytest.raises(JobFailedError) as caught:
        run_task(
            operator(command=f"{hog}\nstatus=$?\nsleep 3\nexit $status", options={"mem": "100M"})
        )

    if cluster["slurm_memory_limits"] == "cgroup":
        assert caught.value.state == "OUT_OF_MEMORY"
        assert "Raise options['mem']" in str(caught.value)
    else:
        # Slurm's sampling kills the job and accounts it as any other that was killed.
        assert (caught.value.state, caught.value.signal) == ("FAILED", 9)


def test_a_job_cancelled_by_somebody_says_so_and_by_whom() -> None:
    task = operator(command="sleep 60", wait_for_completion=False)
    context = build_context(task)
    job_id = run_task(task, context)["job_id"]
    as_alice(f"scancel {job_id}")

    retry = operator(command="sleep 60", retries=1)
    with pytest.raises(TaskDeferred) as deferred:
        retry.execute(context)
    import asyncio

    from tests.support.task import first_event, stored

    event = asyncio.run(first_event(stored(deferred.value.trigger)))
    with pytest.raises(JobFailedError, match=r"cancelled by user id \d+, not by this task"):
        retry.execute_complete(context, event)


def test_log_lines_and_state_changes_reach_the_task_log(task_log: list[str]) -> None:
    run_task(operator(command="echo to stdout; echo to stderr >&2; sleep 1; printf 'no newline'"))

    lines = task_log
    assert [line for line in lines if line in ("to stdout", "to stderr", "no newline")] == [
        "to stdout",
        "to stderr",
        "no newline",
    ]
    assert any(re.match(r"Job \d+ is (PENDING|RUNNING)", line) for line in lines)
    assert any("cpu time" in line and "batch" in line for line in lines), "no accounting table"


def test_streaming_can_be_switched_off(task_log: list[str]) -> None:
    result = run_task(operator(command="echo not in the log", stream_logs=False))

    assert "not in the log" not in task_log
    assert b"not in the log" in SlurmHook().read_bytes(result["stdout_path"])


def test_a_log_of_100_mb_is_capped_with_a_pointer_to_the_file(
    task_log: list[str],
) -> None:
    command = "yes 'a line of a very long log' | head -c 100000000"

    result = run_task(operator(command=command, log_limit_bytes=1_000_000))

    lines = task_log
    shown = sum(len(line) + 1 for line in lines if line == "a line of a very long log")
    assert 900_000 <= shown <= 1_400_000
    assert any(result["stdout_path"] in line and "not shown" in line for line in lines)


def test_progress_bars_colours_and_bad_bytes_do_not_hurt_the_log(
    task_log: list[str],
) -> None:
    command = r"printf '10%%\r50%%\r100%%\n\033[31mred\033[0m\nbad \xff byte\n'"

    run_task(operator(command=command))

    lines = task_log
    assert {"100%", "red", "bad � byte"} <= set(lines)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_neither_executed_nor_mangled(text: str, task_log: list[str]) -> None:
    task = operator(
        command=["printf", "%s\n", text],
        env={"HOSTILE": text},
        job_name=text,
    )
    result = run_task(task)
    inherited = run_task(operator(command='printf "env %s\\n" "$HOSTILE"', env={"HOSTILE": text}))

    assert {text, f"env {text}"} <= set(task_log)
    assert result["name"].startswith(text)
    assert inherited["state"] == "COMPLETED"
    subprocess.run(["test", "!", "-e", "/tmp/pwned"], check=True)


def test_a_work_directory_with_a_hostile_name_is_used_as_it_is(
    task_log: list[str],
) -> None:
    path = "/tmp/csc test 'dir' $(id) ünï %j"
    as_alice(f"mkdir -p {shlex.quote(path)}")

    run_task(operator(command="pwd; echo $SLURM_SUBMIT_DIR", work_dir=path))

    assert task_log.count(path) == 2


def test_modules_environment_and_variables_are_prepared(task_log: list[str]) -> None:
    as_alice("test -d ~/venv || python3 -m venv --without-pip ~/venv")

    run_task(
        operator(
            command='echo "$VIRTUAL_ENV" "$LOADEDMODULES" "$GREETING"',
            modules=["python-data"],
            environment="~/venv",
            env={"GREETING": "hei"},
        )
    )

    assert any(
        line.startswith("/home/alice/venv python-data/") and line.endswith(" hei")
        for line in task_log
    )


def test_the_directives_of_a_script_are_honoured_and_the_task_wins_over_them() -> None:
    script = (
        "#!/bin/bash\n#SBATCH --partition=test --ntasks=2\n#SBATCH -t 3\n#SBATCH -J mine\n"
        "srun --label hostname\n"
    )

    result = run_task(operator(script=script, options={"time": "00:02:00"}))
    asked = as_alice(
        f"sacct -X -n -P -j {result['job_id']} -o Partition,NTasks,AllocCPUS,TimelimitRaw,JobName"
    )

    partition, _tasks, cpus, minutes, name = asked.strip().split("|")
    assert (partition, cpus, minutes) == ("test", "2", "2")
    assert name.startswith("mine.af")


def test_the_users_script_lies_unmodified_in_the_run_directory() -> None:
    script = "#!/bin/bash\n# keep   me\n\techo 'as I am'   \n\n\n"

    result = run_task(operator(script=script))

    assert SlurmHook().read_bytes(f"{result['run_dir']}/script").decode() == script


def test_a_script_that_lies_on_the_cluster_runs_in_its_own_directory(
    task_log: list[str],
) -> None:
    as_alice(
        "mkdir -p ~/jobs; printf '#!/bin/bash\\n#SBATCH --comment=remote\\npwd\\n' > ~/jobs/job.sh"
    )

    run_task(operator(remote_script="~/jobs/job.sh"))

    assert "/home/alice/jobs" in task_log


def test_output_and_error_files_of_the_users_choice_are_streamed(
    task_log: list[str],
) -> None:
    result = run_task(
        operator(
            command="echo to out; echo to err >&2",
            options={"output": "/home/alice/out-%j.log", "error": "/home/alice/err-%j.log"},
        )
    )

    assert result["stdout_path"] == f"/home/alice/out-{result['job_id']}.log"
    assert result["stderr_path"] == f"/home/alice/err-{result['job_id']}.log"
    assert {"to out", "to err"} <= set(task_log)


def test_without_waiting_the_task_returns_right_after_submission() -> None:
    task = operator(command="sleep 20", wait_for_completion=False)

    result = run_task(task)

    assert result["state"] == "PENDING"
    assert any(result["run_dir"].rpartition("/")[2] in name for name in jobs_in_queue())
    SlurmHook().cancel([result["job_id"]])


def test_a_killed_task_cancels_its_job() -> None:
    task = operator(command="sleep 60")
    with pytest.raises(TaskDeferred):
        task.execute(build_context(task))

    task.on_kill()

    found = SlurmHook().query([task._job_id])[task._job_id]
    assert found.state == "CANCELLED"


def test_the_run_time_limit_does_not_count_the_queue_and_cancels_the_job() -> None:
    with pytest.raises(JobFailedError, match="timeout was reached") as caught:
        run_task(operator(command="sleep 60", timeout=1))

    assert caught.value.state == "CANCELLED"


def test_the_queue_limit_cancels_a_job_that_does_not_start() -> None:
    with pytest.raises(JobFailedError, match="queue_timeout was reached") as caught:
        run_task(operator(command="true", options={"partition": "down"}, queue_timeout=1))

    assert caught.value.state == "CANCELLED"


def test_the_same_try_executed_twice_gives_one_job() -> None:
    task = operator(command="sleep 5", wait_for_completion=False)
    context = build_context(task)

    first, second = (
        task.execute(context),
        operator(command="sleep 5", wait_for_completion=False).execute(context),
    )

    assert first["job_id"] == second["job_id"]
    SlurmHook().cancel([first["job_id"]])


def test_a_retry_after_a_lost_worker_adopts_the_running_job(
    task_log: list[str],
) -> None:
    task = operator(command="sleep 3; echo survived", retries=2)
    first = build_context(task, run_id=f"adopt-{uuid4()}", try_number=1, max_tries=2)
    with pytest.raises(TaskDeferred):
        task.execute(first)

    again = build_context(task, run_id=first["ti"].run_id, try_number=2, max_tries=2)
    result = run_task(task, again)

    assert result["job_id"] == first["ti"].xcoms["job_id"]
    assert any("it is adopted" in line for line in task_log)


def test_a_retry_after_a_failed_job_submits_a_new_one() -> None:
    task = operator(command="exit 1", retries=2)
    first = build_context(task, run_id=f"retry-{uuid4()}", try_number=1, max_tries=2)
    with pytest.raises(JobFailedError) as failed:
        run_task(task, first)

    again = build_context(task, run_id=first["ti"].run_id, try_number=2, max_tries=2)
    with pytest.raises(JobFailedError) as failed_again:
        run_task(task, again)

    assert failed.value.job_id != failed_again.value.job_id


def test_a_cleared_task_cancels_what_still_runs_and_submits_anew() -> None:
    task = operator(command="sleep 30", wait_for_completion=False)
    first = build_context(task, run_id=f"clear-{uuid4()}", try_number=1, max_tries=0)
    old = run_task(task, first)

    again = build_context(task, run_id=first["ti"].run_id, try_number=2, max_tries=1)
    new = run_task(task, again)

    assert new["job_id"] != old["job_id"]
    assert final_state(old["job_id"]) == "CANCELLED"
    SlurmHook().cancel([new["job_id"]])


def parked(task: SlurmSubmitOperator, context: dict[str, Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    assert isinstance(deferred.value.trigger, SlurmSiteTrigger)
    return deferred.value


def test_a_task_waits_for_a_site_that_takes_no_connections(
    slurm_connection: SlurmConnection, task_log: list[str]
) -> None:
    slurm_connection.set(port=1)
    task = operator(command="true")
    context = build_context(task)
    deferred = parked(task, context)
    slurm_connection.set()

    result = resume(task, context, after(task, context, deferred))

    assert result["state"] == "COMPLETED"
    assert any("Waiting since" in line and "port 1" in line for line in task_log)
    assert any("can take jobs again" in line for line in task_log)


def test_a_task_waits_for_room_in_its_work_directory(slurm_connection: SlurmConnection) -> None:
    place = Path(f"/tmp/csc-full-{uuid4()}")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=777", "tmpfs", place], check=True)
    try:
        slurm_connection.set(work_dir=f"{place}/runs")
        task = operator(command="true # " + "x" * 5000)
        context = build_context(task)
        deferred = parked(task, context)
        assert list(place.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=10m", place], check=True)

        result = resume(task, context, after(task, context, deferred))

        assert result["state"] == "COMPLETED"
        assert result["run_dir"].startswith(f"{place}/runs/")
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def test_a_job_whose_run_directory_was_deleted_is_found_by_its_name() -> None:
    # One that begins needs its directory.
    options = {"hold": True}
    task = operator(command="true", options=options, wait_for_completion=False, retries=1)
    first = build_context(task, run_id=f"deleted-{uuid4()}", max_tries=1)
    lost = run_task(task, first)
    as_alice(f"rm -r {lost['run_dir']}")

    again = build_context(task, run_id=first["ti"].run_id, try_number=2, max_tries=1)
    found = run_task(task, again)

    assert found["job_id"] == lost["job_id"]
    SlurmHook().cancel([lost["job_id"]])
