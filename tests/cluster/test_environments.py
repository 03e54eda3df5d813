"""Python environments on the real cluster: built once, whole or not at all, used by other jobs."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_csc.environments import commands
from airflow_provider_csc.errors import JobFailedError
from airflow_provider_csc.operators.environments import (
    PythonEnvironmentOperator,
    PythonEnvironmentPruneOperator,
)
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.triggers.slurm import SlurmSiteTrigger
from tests.support.task import after, build_context, resume, run_task
from tests.support.wheels import write_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slurm_connection")]

OPTIONS = {"time": "00:10:00", "mem": "500M"}


class Place:
    """A prefix and a folder of wheels, in alice's home; uv, which takes a tenth of pip's time."""

    def __init__(self, home: Path, uv: Path) -> None:
        self.root = home / f"environments-{uuid.uuid4().hex[:8]}"
        self.env = {"PATH": f"{uv.parent}:/usr/local/bin:/usr/bin:/bin"}
        self.prefix, self.wheels = self.root / "env s", self.root / "wheels"
        self.wheels.mkdir(parents=True)
        self.give()

    def give(self) -> None:
        subprocess.run(["chown", "-R", "alice:alice", self.root], check=True)

    def wheel(self, name: str, version: str = "1.0", **what: Any) -> None:
        write_wheel(self.wheels, name, version, **what)
        self.give()

    def recipe(self, *packages: str, **changes: Any) -> dict[str, Any]:
        local = {"no_index": True, "find_links": [str(self.wheels)], "installer": "uv"}
        return {"packages": list(packages), "python": "/usr/bin/python3", **local, **changes}

    def operator(self, *packages: str, **arguments: Any) -> PythonEnvironmentOperator:
        recipe = arguments.pop("recipe", None) or self.recipe(*packages)
        given = {"task_id": "env", "poll_interval": 0.5, "deferrable": True, "options": OPTIONS}
        return PythonEnvironmentOperator(
            recipe=recipe, prefix=str(self.prefix), env=self.env, **{**given, **arguments}
        )

    def left(self) -> list[str]:
        """All that lies below the prefix, save what is complete and its build."""
        if not self.prefix.exists():
            return []
        links = {each for each in self.prefix.iterdir() if each.is_symlink() and each.exists()}
        whole = {Path(each).resolve() for each in links}
        inside = set((self.prefix / ".builds").iterdir())
        return sorted(
            str(each.relative_to(self.prefix))
            for each in {*self.prefix.iterdir(), *inside} - links - whole
            if each.name != ".builds"
        )

    def prune(self, **arguments: Any) -> dict[str, Any]:
        task = PythonEnvironmentPruneOperator(task_id="prune", prefix=str(self.prefix), **arguments)
        pruned: dict[str, Any] = task.execute({})  # type: ignore[arg-type]
        return pruned


@pytest.fixture(scope="module")
def uv(cluster: dict[str, Any]) -> Iterator[Path]:
    """uv, where alice's jobs can run it."""
    program = shutil.which("uv")
    assert program, "the development environment has it"
    folder = Path(cluster["users"]["alice"]["home"]) / f"uv-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    shutil.copy(program, folder / "uv")
    subprocess.run(["chown", "-R", "alice:alice", folder], check=True)
    yield folder / "uv"
    shutil.rmtree(folder)


@pytest.fixture
def place(cluster: dict[str, Any], uv: Path) -> Iterator[Place]:
    place = Place(Path(cluster["users"]["alice"]["home"]), uv)
    yield place
    shutil.rmtree(place.root)


def as_alice(command: str) -> str:
    done = subprocess.run(
        ["runuser", "-u", "alice", "--", "bash", "-c", command],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def jobs_of_builds(place: Place) -> int:
    """How many jobs have built below a prefix, by what is in their scripts."""
    return int(as_alice(f"grep -l -F -r --include=script -- {place.root.name} ~ | wc -l"))


def test_an_environment_is_built_once_and_used_by_a_job(place: Place, task_log: list[str]) -> None:
    place.wheel("alpha", "1.5", needs=["beta"])
    place.wheel("beta", "2.0")

    built = run_task(place.operator("alpha"))
    again = run_task(place.operator("alpha"))
    run_task(
        SlurmSubmitOperator(
            task_id="use",
            command="python -c 'import alpha, sys; print(\"uses\", alpha.VERSION, sys.prefix)'",
            environment=built,
            poll_interval=0.5,
            deferrable=True,
        )
    )

    assert (built["reused"], again["reused"]) == (False, True)
    assert built["job"]["state"] == "COMPLETED"
    assert again == {**built, "reused": True, "job": None}
    assert built["requirements"] == "alpha==1.5\nbeta==2.0\n"
    assert built["files"] > 10
    assert built["bytes"] > 10_000
    assert "environment: imported alpha" in task_log
    assert any(line.startswith("uses 1.5 ") and ".builds/env-" in line for line in task_log)
    assert jobs_of_builds(place) == 1
    assert place.left() == []


def test_modules_of_the_recipe_are_loaded_where_it_is_built_and_where_it_is_used(
    place: Place, task_log: list[str]
) -> None:
    recipe = {"modules": ["python-data"], "system_site_packages": True, "name": "data"}

    built = run_task(place.operator(recipe=recipe))
    run_task(
        SlurmSubmitOperator(
            task_id="use",
            command='echo "module $PYTHON_DATA_VERSION"; python -c "import numpy"',
            environment=built,
            modules=["gcc/13", "python-data"],
            poll_interval=0.5,
            deferrable=True,
        )
    )

    assert built["modules"] == ["python-data"]
    assert "module 3.11" in task_log


def test_a_changed_recipe_makes_another_environment_beside_the_old_one(place: Place) -> None:
    for version in ("1.0", "2.0"):
        place.wheel("alpha", version)

    old = run_task(place.operator("alpha==1.0"))
    new = run_task(place.operator("alpha==2.0"))

    assert old["path"] != new["path"]
    assert "alpha==1.0" in (Path(old["path"]) / "csc-requirements.txt").read_text()
    assert "alpha==2.0" in (Path(new["path"]) / "csc-requirements.txt").read_text()


def test_a_build_with_pip_has_it_in_it(place: Place) -> None:
    place.wheel("alpha")

    built = run_task(place.operator(recipe=place.recipe("alpha", installer="pip")))

    lines = [line.partition("==")[0] for line in built["requirements"].splitlines()]
    assert lines == ["alpha", "pip", "setuptools"]


@pytest.mark.parametrize(
    ("code", "packages"), [("", ["alpha", "missing"]), ("import missing", ["alpha"])]
)
def test_a_build_that_fails_leaves_nothing_and_the_next_try_builds(
    place: Place, code: str, packages: list[str]
) -> None:
    place.wheel("alpha", code=code)
    task = place.operator(*packages, retries=1)
    context = build_context(task)

    with pytest.raises(JobFailedError):
        run_task(task, context)
    assert place.left() == []

    # Of a version that it has seen uv does not look at the file again.
    place.wheel("alpha", "1.1")
    place.wheel("missing")
    context["ti"].try_number = 2
    assert run_task(task, context)["reused"] is False
    assert place.left() == []


SLEEPS = (
    "import time, pathlib; pathlib.Path(__file__).with_name('reached').touch(); time.sleep(120)"
)


def wait_for_build(place: Place) -> None:
    for _ in range(120):
        if list(place.prefix.glob(".builds/*/lib/*/site-packages/reached")):
            return
        time.sleep(0.5)
    raise AssertionError("no build has come that far")


def test_a_job_that_is_killed_leaves_no_environment_and_the_next_try_builds(place: Place) -> None:
    place.wheel("alpha", code=SLEEPS)
    task = place.operator("alpha", retries=1)
    context = build_context(task)
    deferred = deferred_by(task, context)
    wait_for_build(place)
    job_id = context["ti"].xcoms["job_id"]
    # No signal that the script hears of.
    as_alice(f"scancel --batch --signal=KILL {job_id}")

    with pytest.raises(JobFailedError):
        resume(task, context, after(task, context, deferred))

    assert not [each for each in place.prefix.glob("env-*") if each.exists()]
    place.wheel("alpha", "1.1")
    context["ti"].try_number = 2
    assert run_task(task, context)["reused"] is False
    # What the killed job left is not in place, and can be told from what is.
    assert place.left()
    assert place.prune(older_than=0, dry_run=False)["removed"] == []


def test_a_task_that_is_killed_takes_its_half_built_environment_away(place: Place) -> None:
    place.wheel("alpha", code=SLEEPS)
    task = place.operator("alpha")
    context = build_context(task)
    deferred_by(task, context)
    wait_for_build(place)
    as_alice(f"scancel {context['ti'].xcoms['job_id']}")

    for _ in range(60):
        if place.left() == []:
            return
        time.sleep(0.5)
    raise AssertionError(place.left())


def test_two_who_want_the_same_at_the_same_time_build_it_once(place: Place) -> None:
    place.wheel("alpha", code="import time; time.sleep(3)")
    results: dict[str, Any] = {}

    def run(dag_id: str) -> None:
        task = place.operator("alpha", deferrable=False)
        results[dag_id] = run_task(task, build_context(task, dag_id=dag_id))

    threads = [threading.Thread(target=run, args=(f"dag_{number}",)) for number in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(results) == 2
    first, second = results.values()
    assert first["path"] == second["path"]
    assert sorted([first["reused"], second["reused"]]) == [False, True]
    assert jobs_of_builds(place) == 1
    assert place.left() == []


def deferred_by(task: Any, context: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    return caught.value


def test_who_finds_a_build_under_way_waits_without_a_worker_and_says_for_what(
    place: Place, task_log: list[str]
) -> None:
    place.wheel("alpha", code="import time; time.sleep(3)")
    first, second = place.operator("alpha"), place.operator("alpha")
    contexts = build_context(first, dag_id="one"), build_context(second, dag_id="two")
    building = deferred_by(first, contexts[0])

    waiting = deferred_by(second, contexts[1])
    assert isinstance(waiting.trigger, SlurmSiteTrigger)
    built = resume(first, contexts[0], after(first, contexts[0], building))
    found = resume(second, contexts[1], after(second, contexts[1], waiting))

    assert (built["reused"], found["reused"]) == (False, True)
    job_id = built["job"]["job_id"]
    assert any("is being built by af" in line and f"job {job_id}" in line for line in task_log)


def test_a_lock_whose_owner_has_no_job_is_taken_over_when_it_is_old(place: Place) -> None:
    place.wheel("alpha")
    task = place.operator("alpha")
    context = build_context(task)
    lock = Path(f"{run_task(task)['path']}.lock")
    Path(str(lock).removesuffix(".lock")).unlink()
    lock.symlink_to("af00000000000000000000@alice")
    subprocess.run(["chown", "-h", "alice:alice", lock], check=True)

    assert isinstance(deferred_by(task, context).trigger, SlurmSiteTrigger)

    old = time.time() - commands.LOCK_GRACE_SECONDS - 1
    subprocess.run(["touch", "-h", "-d", f"@{old}", lock], check=True)
    assert run_task(task, context)["reused"] is False
    assert not lock.is_symlink()


def test_a_refused_submission_leaves_no_lock(place: Place) -> None:
    task = place.operator(options={"partition": "restricted"})

    with pytest.raises(AirflowFailException):
        run_task(task)

    assert place.left() == []


def test_a_prefix_that_cannot_be_written_is_refused_by_name(place: Place) -> None:
    task = place.operator()
    task.prefix = "/etc/environments"

    with pytest.raises(AirflowFailException, match=r"prefix: .*/etc/environments.*denied"):
        run_task(task)


def test_a_job_builds_its_own_environment_before_it_runs(place: Place, task_log: list[str]) -> None:
    place.wheel("alpha", "1.5")
    given = {
        "recipe": place.recipe("alpha", installer="pip"),
        "prefix": str(place.prefix),
        "options": OPTIONS,
    }

    def use(task_id: str) -> Any:
        return SlurmSubmitOperator(
            task_id=task_id,
            command="python -c 'import alpha; print(\"uses\", alpha.VERSION)'",
            environment=given,
            poll_interval=0.5,
            deferrable=True,
        )

    results = [run_task(use(name)) for name in ("first", "second")]

    assert [result["state"] for result in results] == ["COMPLETED", "COMPLETED"]
    assert task_log.count("uses 1.5") == 2
    assert jobs_of_builds(place) == 1


def test_what_a_configuration_describes_is_built_and_used(
    place: Place, task_log: list[str]
) -> None:
    place.wheel("alpha", "1.5")
    config = {
        "venv": {"name": "described", "path": str(place.prefix), "packages": ["alpha"]},
        "command": "python -c 'import alpha, sys; print(\"uses\", alpha.VERSION, sys.prefix)'",
    }
    recipe = place.recipe()
    del recipe["packages"]
    given: dict[str, Any] = {"config": config, "poll_interval": 0.5, "deferrable": True}

    built = run_task(
        PythonEnvironmentOperator(
            task_id="env", recipe=recipe, env=place.env, options=OPTIONS, **given
        )
    )
    use = {"config": config, "recipe": recipe}
    run_task(SlurmSubmitOperator(task_id="use", environment=use, **given))

    assert Path(built["path"]).name.startswith("described-")
    assert any(line.startswith("uses 1.5 ") and ".builds/described-" in line for line in task_log)
    assert jobs_of_builds(place) == 1


def test_a_retry_of_a_job_does_not_take_the_build_for_it(place: Place) -> None:
    place.wheel("alpha")
    task = SlurmSubmitOperator(
        task_id="use",
        command="exit 3",
        environment={
            "recipe": place.recipe("alpha", installer="pip"),
            "prefix": str(place.prefix),
        },
        poll_interval=0.5,
        deferrable=True,
        retries=1,
    )
    context = build_context(task)
    for _ in range(2):
        with pytest.raises(JobFailedError, match="exit code 3"):
            run_task(task, context)
        context["ti"].try_number += 1

    assert jobs_of_builds(place) == 1


def test_pruning_lists_all_and_removes_only_what_is_old_and_ours(place: Place) -> None:
    for version in ("1.0", "2.0", "3.0"):
        place.wheel("alpha", version)
    built = [run_task(place.operator(f"alpha=={each}.0")) for each in (1, 2, 3)]
    foreign = place.prefix / ".builds" / "notes"
    outside = place.root / "outside"
    for each in (foreign, outside):
        each.mkdir()
        (each / "file").touch()
    first = Path(built[0]["path"]).resolve()
    (first / "link").symlink_to(outside)
    (place.prefix / ".builds" / f"env-x86_64-{'0' * 12}.7").symlink_to(outside)
    place.give()
    for each in built[:2]:
        old = ["touch", "-d", "@1000000000", f"{each['path']}/csc-last-used"]
        subprocess.run(old, check=True)
        record = Path(each["path"]) / "csc-environment.json"
        text = record.read_text()
        place_of = text.index('"built": ')
        record.write_text(
            text[:place_of] + '"built": 1000000000, ' + text[text.index('"recipe"') :]
        )

    shown = place.prune(keep=[built[1]["path"]])
    assert shown["dry_run"] is True
    assert shown["removed"] == [first.name]
    assert {each["path"] for each in shown["environments"]} == {each["path"] for each in built}
    assert all(Path(each["path"]).exists() for each in built)

    removed = place.prune(keep=[built[1]["path"]], dry_run=False)

    assert removed["removed"] == [first.name]
    assert removed["freed_files"] == built[0]["files"]
    assert not first.exists()
    assert not Path(built[0]["path"]).is_symlink()
    assert all(Path(each["path"]).exists() for each in built[1:])
    assert (foreign / "file").exists()
    assert (outside / "file").exists()


def test_using_an_environment_keeps_it_from_being_pruned(place: Place) -> None:
    built = run_task(place.operator())
    used = Path(built["path"]) / "csc-last-used"
    subprocess.run(["touch", "-d", "@1000000000", used], check=True)

    run_task(
        SlurmSubmitOperator(
            task_id="use", command="true", environment=built["path"], poll_interval=0.5
        )
    )

    assert used.stat().st_mtime > time.time() - 600


def test_pruning_a_prefix_without_environments_finds_none(place: Place) -> None:
    assert place.prune(dry_run=False)["environments"] == []
