"""Whatever a user clicks, the job is gone within seconds; whatever is restarted, it lives on."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_provider_csc.hooks.slurm import SlurmHook
from docker.lib.airflow_rest import DagRun, RefusedError
from tests.dags.conftest import control, wait_until_healthy
from tests.dags.kill_dags.kill import RUN_SECONDS, TASK_SECONDS
from tests.support.bad_input import build_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker.lib.airflow_rest import Airflow

pytestmark = pytest.mark.cluster

LIMIT_SECONDS = 30
START_SECONDS = 150
SLOW_SBATCH = """
mkdir -p ~/.csc-slow && cat >~/.csc-slow/sbatch.$$ <<'END'
#!/bin/bash
sleep 10
PATH=${PATH#*/.csc-slow:} exec sbatch "$@"
END
chmod 700 ~/.csc-slow/sbatch.$$ && mv -f ~/.csc-slow/sbatch.$$ ~/.csc-slow/sbatch
PATH=~/.csc-slow:$PATH
"""


@dataclass
class Victim:
    """One run whose task is killed, and what was seen of its job."""

    run: DagRun
    click: Callable[[DagRun], object] | None
    job_id: str = ""
    clicked_at: float = 0.0
    seconds: float | None = None
    state: str = ""
    log: list[str] = field(default_factory=list)

    def find_job(self) -> bool:
        with suppress(RefusedError):
            self.job_id = self.job_id or str(self.run.xcom("job", "job_id"))
        return bool(self.job_id)

    def read_log(self) -> None:
        with suppress(RefusedError):  # of a deleted run there is none
            self.log = [line["event"] for line in self.run.log("job")]


def mark(state: str) -> Callable[[DagRun], object]:
    return lambda run: call(run, "PATCH", f"{path(run)}/taskInstances/job", {"new_state": state})


def mark_run(run: DagRun) -> object:
    return call(run, "PATCH", path(run), {"state": "failed"})


def clear(run: DagRun) -> object:
    what = {"dry_run": False, "only_failed": False, "task_ids": ["job"], "dag_run_id": run.run_id}
    return call(run, "POST", f"/dags/{run.dag_id}/clearTaskInstances", what)


def delete(run: DagRun) -> object:
    try:
        return call(run, "DELETE", path(run))
    except RefusedError:  # Airflow 3.3 deletes no run that goes on
        mark_run(run)
        return call(run, "DELETE", path(run))


def path(run: DagRun) -> str:
    return f"/dags/{run.dag_id}/dagRuns/{quote(run.run_id)}"


def call(run: DagRun, method: str, where: str, body: object = None) -> object:
    return run._airflow.call(method, where, body)


CLICKS = {
    "mark failed": mark("failed"),
    "mark success": mark("success"),
    "mark run failed": mark_run,
    "clear": clear,
    "delete run": delete,
}
IS_OLD = not hasattr(BaseTrigger, "on_kill")
WAITS = ("deferred",) if IS_OLD else ("deferred", "waiting")
TIMEOUTS = {"run_timeout": RUN_SECONDS, "task_timeout": TASK_SECONDS}


@pytest.fixture(scope="module")
def airflow(airflow: Airflow) -> Airflow:
    slow = airflow.get("/connections/slurm_default")
    extra = json.loads(slow["extra"]) | {"login_setup": SLOW_SBATCH}
    # A password of a connection is not shown; there is none.
    wanted = {key: slow[key] for key in ("conn_type", "host", "port", "login")}
    airflow.set_connection({"connection_id": "slurm_slow", "extra": json.dumps(extra), **wanted})
    return airflow


@pytest.fixture(scope="module")
def site(cluster: dict[str, Any]) -> Iterator[SlurmHook]:
    """The cluster, asked without the Airflow under test."""
    with pytest.MonkeyPatch.context() as patch:
        connection = json.dumps(build_connection(cluster, user="alice"))
        patch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", connection)
        yield SlurmHook()


@dataclass
class Story:
    """What was seen, in the order in which it was done."""

    victims: dict[str, Victim] = field(default_factory=dict)
    lived_through: dict[str, set[str]] = field(default_factory=dict)
    second_job: dict[str, str] = field(default_factory=dict)

    @property
    def clicked(self) -> list[Victim]:
        return [victim for victim in self.victims.values() if victim.click is not None]


@pytest.fixture(scope="module")
def story(airflow: Airflow, settings: dict[str, str], site: SlurmHook) -> Iterator[Story]:
    """All kills at once, after the triggerer was stopped and killed."""
    story = Story()
    try:
        start(story, airflow, site)
        wait_until_healthy(settings)
        for command in ("stop", "kill"):
            before = triggers_seen(story)
            control(settings, command, "triggerer")
            control(settings, "start", "triggerer")
            wait_for_triggers(story, before)
            story.lived_through[command] = live_jobs(site, story.clicked)
        start_timed(story, airflow, site)
        click(story)
        watch(story.victims.values(), site)
        look_back(story)
        yield story
    finally:
        for victim in story.victims.values():
            with suppress(RefusedError):
                mark("failed")(victim.run)
        left = [victim.job_id for victim in story.victims.values() if victim.job_id]
        site.cancel([*left, *filter(None, story.second_job.values())])


def start(story: Story, airflow: Airflow, site: SlurmHook) -> None:
    for waits in WAITS:
        airflow.wait_for_dag(f"kill_{waits}")
        for name, click in CLICKS.items():
            victim = Victim(airflow.trigger(f"kill_{waits}"), click)
            story.victims[f"{waits}: {name}"] = victim
    wait_for_jobs(story.clicked, site)
    wait_for_triggers(story, [0] * len(CLICKS))


def start_timed(story: Story, airflow: Airflow, site: SlurmHook) -> None:
    timed = [
        Victim(airflow.trigger(f"kill_{waits}_{name}"), None)
        for waits in WAITS
        for name in TIMEOUTS
    ]
    story.victims |= {
        one.run.dag_id.removeprefix("kill_").replace("_", ": ", 1): one for one in timed
    }
    # Each is seen to wait for a live job, but not all at once: the first may have had its time.
    unseen = timed
    end = time.monotonic() + START_SECONDS
    while unseen:
        assert time.monotonic() < end, [(v.run.dag_id, v.job_id, v.run.tasks()) for v in unseen]
        waiting = [victim for victim in unseen if victim.find_job() and is_waiting(victim)]
        live = live_jobs(site, waiting) if waiting else set()
        unseen = [victim for victim in unseen if victim.job_id not in live]
        time.sleep(0.5)  # between two looks


def click(story: Story) -> None:
    for victim in story.victims.values():
        if victim.click is None:
            victim.clicked_at = timed_out_at(victim)
        else:
            victim.clicked_at = time.time()
            victim.click(victim.run)


def look_back(story: Story) -> None:
    for key, victim in story.victims.items():
        victim.read_log()
        if key.endswith("clear"):
            story.second_job[key] = second_job(victim)
        seconds = "never" if victim.seconds is None else f"{victim.seconds:.1f} s"
        print(f"\n{key:32} {seconds:>8}  {victim.state}", end="")


def triggers_seen(story: Story) -> list[int]:
    """
    Say of each deferred task how many triggers have looked at its job.

    A triggerer that has just started does nothing for seconds after it has taken its triggers; while
    none looks, nobody hears of a click.
    """
    deferred = [victim for victim in story.clicked if "deferred" in victim.run.dag_id]
    for victim in deferred:
        victim.read_log()
    return [sum(" is RUNNING on " in line for line in victim.log) for victim in deferred]


def wait_for_triggers(story: Story, before: list[int]) -> None:
    end = time.monotonic() + START_SECONDS
    while any(now <= then for now, then in zip(triggers_seen(story), before, strict=True)):
        assert time.monotonic() < end
        time.sleep(2)  # a question for a whole log is dear


def timed_out_at(victim: Victim) -> float:
    if victim.run.dag_id.endswith("run_timeout"):
        started = victim.run._airflow.get(path(victim.run))["start_date"]
        return datetime.fromisoformat(started).timestamp() + RUN_SECONDS
    (task,) = victim.run.tasks()
    return datetime.fromisoformat(task["start_date"]).timestamp() + TASK_SECONDS


def wait_for_jobs(victims: list[Victim], site: SlurmHook) -> None:
    end = time.monotonic() + START_SECONDS
    while not all(victim.find_job() and is_waiting(victim) for victim in victims):
        assert time.monotonic() < end, [(v.run.dag_id, v.job_id, v.run.tasks()) for v in victims]
        time.sleep(0.5)
    assert len(live_jobs(site, victims)) == len(victims)


def is_waiting(victim: Victim) -> bool:
    (task,) = victim.run.tasks()
    wanted = "deferred" if "deferred" in victim.run.dag_id else "running"
    return bool(task["state"] == wanted)


def live_jobs(site: SlurmHook, victims: Any) -> set[str]:
    found = site.query([victim.job_id for victim in victims])
    return {job_id for job_id, result in found.items() if not result.is_final}


def watch(victims: Any, site: SlurmHook) -> None:
    """Look until all jobs are gone, and note after how many seconds each was."""
    open_ones = list(victims)
    end = max(victim.clicked_at for victim in open_ones) + LIMIT_SECONDS + 15
    while open_ones and time.time() < end:
        found = site.query([victim.job_id for victim in open_ones])
        now = time.time()
        for victim in open_ones:
            result = found.get(victim.job_id)
            victim.state = result.state if result else "(unknown)"
            if result and result.is_final:
                victim.seconds = now - victim.clicked_at
        open_ones = [victim for victim in open_ones if victim.seconds is None]
        time.sleep(0.3)


def second_job(victim: Victim) -> str:
    """The job of the try that follows a clearing."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with suppress(RefusedError):
            job_id = str(victim.run.xcom("job", "job_id"))
            if job_id != victim.job_id:
                return job_id
        time.sleep(0.5)
    return ""


KILLS = [f"{waits}: {name}" for waits in WAITS for name in (*CLICKS, *TIMEOUTS)]


@pytest.mark.parametrize("key", KILLS)
def test_the_job_of_a_killed_task_is_gone_within_30_seconds(key: str, story: Story) -> None:
    victim = story.victims[key]

    assert victim.seconds is not None, (victim.state, victim.log)
    assert victim.seconds < LIMIT_SECONDS
    assert victim.state == "CANCELLED"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_no_job_is_cancelled_when_the_triggerer_is_stopped_or_killed(
    how: str, story: Story
) -> None:
    assert story.lived_through[how] == {victim.job_id for victim in story.clicked}


@pytest.mark.parametrize("waits", WAITS)
def test_a_cleared_task_runs_again_with_a_new_job(waits: str, story: Story) -> None:
    assert story.second_job[f"{waits}: clear"]


@pytest.mark.parametrize("waits", WAITS)
def test_the_log_says_that_slurm_confirmed_it(waits: str, story: Story) -> None:
    victim = story.victims[f"{waits}: mark failed"]
    # The trigger asks squeue by itself, and may hear of it later than this test did.
    end = time.monotonic() + LIMIT_SECONDS
    while not any(f"Cancelled job {victim.job_id}" in line for line in victim.log):
        assert time.monotonic() < end, victim.log
        time.sleep(0.5)
        victim.read_log()


@pytest.mark.skipif(IS_OLD, reason="workers are the same on every Airflow")
def test_no_job_comes_of_a_submission_whose_task_is_killed(
    airflow: Airflow, site: SlurmHook
) -> None:
    airflow.wait_for_dag("kill_submitting")
    run = airflow.trigger("kill_submitting")
    wait_for_slow_sbatch(site, is_there=True)
    clicked_at = time.time()

    mark("failed")(run)
    wait_for_slow_sbatch(site, is_there=False)
    end = clicked_at + LIMIT_SECONDS
    while (live := jobs_named(site, "kill_submitting", "PENDING,RUNNING")) and time.time() < end:
        time.sleep(0.3)

    print(f"\n{'submitting: mark failed':32} {time.time() - clicked_at:.1f} s after the click")
    assert not live
    time.sleep(3)
    assert not jobs_named(site, "kill_submitting", "PENDING,RUNNING,COMPLETED")


def jobs_named(site: SlurmHook, name: str, states: str) -> list[str]:
    command = f"squeue --me --noheader --states={states} --format=%j"
    return [line for line in site.run(command).text.splitlines() if line.startswith(name)]


def wait_for_slow_sbatch(site: SlurmHook, *, is_there: bool) -> None:
    end = time.monotonic() + START_SECONDS
    find = "ps -u $(id -u) -o args= | grep -c '[.]csc-slow/sbatch'"
    while (site.run(find).text != "0") is not is_there:
        assert time.monotonic() < end
        time.sleep(0.3)
