"""``@task.slurm`` on the real cluster: what a function did there is what its task does."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, task

from airflow_provider_csc.errors import (
    JobFunctionError,
    JobNoResultError,
    JobSignalError,
)
from tests.support.task import build_context, run_task

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

FACTOR = 3
SLURM = {"poll_interval": 0.5, "deferrable": True, "options": {"mem": "200M", "time": 5}}


def operator_of(decorated: Any, *args: Any, **kwargs: Any) -> Any:
    with DAG("test_dag", schedule=None):
        return decorated(*args, **kwargs).operator


def run(decorated: Any, *args: Any, **kwargs: Any) -> Any:
    return run_task(operator_of(decorated, *args, **kwargs))


@pytest.fixture
def home(cluster: dict[str, Any]) -> Iterator[Path]:
    """A directory of alice's own, on the file system that all nodes share."""
    path = Path(cluster["users"]["alice"]["home"]) / f"python-{uuid4().hex[:8]}"
    path.mkdir()
    shutil.chown(path, "alice", "alice")
    try:
        yield path
    finally:
        shutil.rmtree(path)


def triple(x: Any) -> Any:
    return x * FACTOR


@task.slurm(**SLURM)
def describe(x: int, *, names: list[str]) -> dict[str, Any]:
    import os
    import socket
    from pathlib import Path

    print("working on", socket.gethostname())
    return {
        "product": x * FACTOR,
        "names": names,
        "job": os.environ["SLURM_JOB_ID"],
        "here": sorted(path.name for path in Path.cwd().iterdir()),
    }


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_function_runs_as_a_job_and_its_result_comes_back(
    deferrable: bool, task_log: list[str]
) -> None:
    operator = operator_of(describe.override(deferrable=deferrable), 4, names=["ä", "$(id)"])
    context = build_context(operator)

    value = run_task(operator, context)

    assert (value["product"], value["names"]) == (12, ["ä", "$(id)"])
    assert value["job"] == context["ti"].xcoms["job_id"]
    assert context["ti"].xcoms["slurm_job"]["state"] == "COMPLETED"
    assert any(line.startswith("working on ") for line in task_log)
    # Where it runs there lies nothing new but what was submitted.
    assert set(value["here"]) <= {
        *("batch.sh", "identity.json", "job_id", "script", "stdout.log"),
        *("log_offsets", "log_offsets.new"),  # the second of these while it is being written
    }


def test_an_exception_comes_back_with_its_traceback(task_log: list[str]) -> None:
    @task.slurm(**SLURM)
    def fails(x: int) -> float:
        return 1 / x

    with pytest.raises(JobFunctionError, match=r"fails raised ZeroDivisionError.*Job") as caught:
        run(fails, 0)

    error = caught.value
    line = fails.function.__code__.co_firstlineno + 2
    assert f'File "{__file__}", line {line}, in fails\n    return 1 / x' in error.traceback
    assert (error.state, error.exit_code, error.failure) == ("FAILED", 1, "exit_code")
    assert "ZeroDivisionError: division by zero" in list(task_log)


def test_every_mapped_instance_has_its_own_job_and_result() -> None:
    with DAG("test_dag", schedule=None):
        mapped = describe.partial(names=[]).expand(x=[1, 2, 3]).operator
    values = []
    for index in range(3):
        context = {
            **build_context(mapped, map_index=index, run_id=f"m{os.getpid()}"),
            "run_id": "m",
        }
        context["ti"].task = mapped
        kwargs, _ = mapped._expand_mapped_kwargs(context)
        values.append(run_task(mapped.unmap(kwargs), context))

    assert [value["product"] for value in values] == [3, 6, 9]
    assert len({value["job"] for value in values}) == 3


def test_much_output_and_a_large_result_arrive_whole(task_log: list[str]) -> None:
    @task.slurm(**SLURM)
    def large(lines: int, size: int) -> dict[str, str]:
        for number in range(lines):
            print("line", number)
        return {"text": "x" * size}

    value = run(large, 20000, 1_000_000)

    assert value == {"text": "x" * 1_000_000}
    said = [line for line in task_log if line.startswith("line ")]
    assert said == [f"line {number}" for number in range(20000)]


def test_a_result_beyond_the_limit_fails_without_a_retry() -> None:
    @task.slurm(**SLURM)
    def larger() -> str:
        return "x" * 2_000_000

    with pytest.raises(AirflowFailException, match="2000013 bytes of JSON, and 1048576 are taken"):
        run(larger)


def test_a_result_that_is_no_json_fails_without_a_retry() -> None:
    @task.slurm(**SLURM)
    def when() -> Any:
        import datetime as dt

        return {"when": [dt.datetime.fromtimestamp(0, dt.UTC)]}

    with pytest.raises(
        AirflowFailException,
        match=r"result\['when'\]\[0\] is of type datetime\.datetime.*isoformat",
    ):
        run(when)


def test_who_leaves_without_a_result_has_no_success() -> None:
    @task.slurm(**SLURM)
    def leaves() -> None:
        import os

        os._exit(0)

    with pytest.raises(
        JobNoResultError, match=r"ended COMPLETED, but leaves left no result"
    ) as caught:
        run(leaves)
    assert caught.value.state == "COMPLETED"


def test_who_is_killed_is_reported_as_that() -> None:
    @task.slurm(**SLURM)
    def dies() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(JobSignalError, match="SIGSEGV"):
        run(dies)


def test_another_version_of_python_is_named(home: Path) -> None:
    @task.slurm(**SLURM, serializer="cloudpickle", python=str(home / "python"))
    def never(path: str) -> None:
        from pathlib import Path

        Path(path).touch()

    # A real Python that says it were another; there is only one on this cluster.
    lie = "import sys; sys.version_info = (3, 6, 1, 'final', 0); code = sys.argv[2]; "
    (home / "python").write_text(
        '#!/bin/sh\n[ "$1" != -S ] || { echo 3.6.1; exit; }\n'
        f'exec python3 -c "{lie}sys.argv[1:] = sys.argv[3:]; exec(code)" "$@"\n'
    )
    (home / "python").chmod(0o755)
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"

    with pytest.raises(
        AirflowFailException, match=rf"pickled by Python {here}, and .* is Python 3\.6"
    ):
        run(never, str(home / "trace"))
    assert not (home / "trace").exists()


def test_an_interpreter_that_is_missing_is_named() -> None:
    with pytest.raises(JobFunctionError, match=r"/no/such/python is no Python on c\d") as caught:
        run(describe.override(python="/no/such/python"), 1, names=[])

    assert caught.value.exit_code == 127


def test_with_srun_each_task_calls_the_function_and_the_first_gives_the_result(
    task_log: list[str],
) -> None:
    options = {**SLURM["options"], "ntasks": 2, "nodes": 2}

    @task.slurm(**{**SLURM, "options": options}, python=["srun", "--mem=0", "python3"])
    def rank(failing: str) -> str:
        import os

        own = os.environ["SLURM_PROCID"]
        print("rank", own, "of", os.environ["SLURM_NTASKS"], flush=True)
        if own == failing:
            raise RuntimeError("rank " + own)
        return own

    assert run(rank, "") == "0"
    assert {"rank 0 of 2", "rank 1 of 2"} <= set(task_log)
    with pytest.raises(JobFunctionError, match="RuntimeError: rank 1"):
        run(rank, "1")


def test_with_cloudpickle_any_argument_and_helper_goes_along(home: Path) -> None:
    import cloudpickle

    # The cluster's Python is this one's minor version, and has no cloudpickle of its own.
    shutil.copytree(Path(cloudpickle.__file__).parent, home / "cloudpickle")

    @task.slurm(**SLURM, serializer="cloudpickle", env={"PYTHONPATH": str(home)})
    def uses(values: set[int]) -> Any:
        return sorted(triple(value) for value in values)

    assert run(uses, {1, 2}) == [3, 6]


def test_without_cloudpickle_on_the_cluster_it_is_named() -> None:
    # The version of Python is the same at both ends here.
    with pytest.raises(AirflowFailException, match=r"python3.* has no cloudpickle"):
        run(describe.override(serializer="cloudpickle"), 1, names=[])


def test_a_function_runs_in_a_virtual_environment_and_after_modules(home: Path) -> None:
    (home / "venv" / "bin").mkdir(parents=True)
    (home / "venv" / "bin" / "activate").write_text(f"export VIRTUAL_ENV={home}/venv\n")

    @task.slurm(
        **SLURM, environment=str(home / "venv"), modules=["python-data"], work_dir=str(home)
    )
    def where() -> Any:
        import os
        from pathlib import Path

        import numpy as np

        return [os.environ["VIRTUAL_ENV"], str(Path.cwd()), float(np.ones(3).sum())]

    assert run(where) == [f"{home}/venv", str(home), 3.0]


def test_the_run_directory_holds_the_result_and_no_more() -> None:
    operator = operator_of(describe, 1, names=[])
    context = build_context(operator)
    run_task(operator, context)

    run_dir = Path(context["ti"].xcoms["slurm_job"]["run_dir"])
    assert {path.name for path in run_dir.iterdir()} == {
        *("batch.sh", "exit.json", "identity.json", "job_id", "log_offsets", "script"),
        *("stdout.log", "verdict", "result.json"),
    }
    assert json.loads((run_dir / "result.json").read_text())["value"]["product"] == 3
