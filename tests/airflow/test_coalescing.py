"""The operator and its trigger where mapped instances are submitted together."""

from __future__ import annotations

import asyncio
import inspect
import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_csc.client import gatherer as gatherers
from airflow_provider_csc.client import poller as pollers
from airflow_provider_csc.client import queue_watch
from airflow_provider_csc.client.slurm import SlurmClient
from airflow_provider_csc.errors import (
    ConfigError,
    ConnectFailedError,
    JobExitCodeError,
    SubmitKilledError,
    SubmitRejectedError,
    from_payload,
)
from airflow_provider_csc.hooks import slurm as hooks
from airflow_provider_csc.slurm.coalescing import Member
from airflow_provider_csc.triggers import slurm as triggers
from airflow_provider_csc.triggers.slurm_queue import SlurmQueueTrigger
from airflow_provider_csc.triggers.slurm_submit import SlurmSubmitTrigger
from tests.support import fake_site as faults
from tests.support.fake_site import FakeSite, FaultyTransport, LocalTransport, fake_site
from tests.support.instances import Instances, operator, run_all
from tests.support.task import build_context, first_event, stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_csc.hooks.slurm import SlurmHook

ARRAY = "\nsubmit_array\n"


class Site:
    """A fake site behind ``slurm_default``, and the faults that are planned for its connection."""

    def __init__(self, fake: FakeSite) -> None:
        self.fake = fake
        self.transport = FaultyTransport(LocalTransport(fake))

    @property
    def states(self) -> dict[str, str]:
        return {job_id: job["state"] for job_id, job in self.fake.jobs.items()}

    def submit_held(self, name: str) -> str:
        """Submit a job of somebody else's, which waits."""
        client = SlurmClient(LocalTransport(self.fake))
        name = shlex.quote(name)
        program = f"cd; printf '#!/bin/sh\\n' >job; ask job sbatch --hold --job-name={name} job"
        return asyncio.run(client.ask(program))["job"].text


async def read_settings(hook: SlurmHook) -> object:
    return hook.get_settings()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    connection = {
        "conn_type": "slurm",
        "host": "fake",
        "login": "somebody",
        "extra": {"poll_interval_floor": 0.2, "web_interface": "https://ood.example"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(connection))
    with fake_site() as fake:
        site = Site(fake)
        # Airflow 3.1 reads a connection in async code inside its triggerer only.
        monkeypatch.setattr(triggers.SlurmHook, "aget_settings", read_settings)
        monkeypatch.setattr(pollers, "SshTransport", lambda _settings: site.transport)
        monkeypatch.setattr(hooks, "_open", lambda _settings: SlurmClient(site.transport))
        monkeypatch.setattr(gatherers, "RESOLVE_DELAYS", (0.05, 0.1))
        yield site


# ---- the whole way ----


def test_each_instance_has_its_own_result_of_one_array(site: Site) -> None:
    instances = Instances(4, run_id="whole", command='[ "$ME" != 2 ] || exit 5')

    results = instances.complete(run_all(instances.defer()))

    job_ids = [context["ti"].xcoms["job_id"] for context in instances.contexts]
    assert len({job_id.partition("_")[0] for job_id in job_ids}) == 1
    assert [job_id.partition("_")[2] for job_id in job_ids] == ["0", "1", "2", "3"]
    assert site.fake.calls("sbatch") == 1
    assert isinstance(results[2], JobExitCodeError)
    assert results[2].exit_code == 5
    for index in (0, 1, 3):
        assert results[index]["state"] == "COMPLETED"
        assert results[index]["job_id"] == job_ids[index]
    links = [key for key in instances.contexts[0]["ti"].xcoms if key != "job_id"]
    assert len(links) == 1


def test_an_instance_that_is_tried_again_alone_is_no_array(site: Site) -> None:
    first = Instances(2, run_id="again", command="exit 1")
    first.complete(run_all(first.defer()))
    again = Instances(1, run_id="again", command="true", try_number=2)

    (result,) = again.complete(run_all(again.defer()))

    assert result["state"] == "COMPLETED"
    assert result["job_id"].isdecimal()


def test_the_log_tells_of_the_job_and_what_it_wrote(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = Instances(2, run_id="log")
    said: list[str] = []
    (first, second) = instances.defer()
    log = type("Log", (), {})()
    log.info = lambda message, *args: said.append(message % args if args else message)
    log.log = lambda _level, message, *args: log.info(message, *args)
    monkeypatch.setattr(type(first), "log", log)

    run_all([first, second])

    assert any("one of an array of 2" in line for line in said)
    assert {"0", "1"} <= set(said)


def log_into(monkeypatch: pytest.MonkeyPatch, kind: type) -> list[str]:
    """Have the triggers of a class log into a list, which is returned."""
    said: list[str] = []
    log = type("Log", (), {})()
    log.info = lambda message, *args: said.append(message % args if args else message)
    log.log = lambda _level, message, *args: log.info(message, *args)
    monkeypatch.setattr(kind, "log", log)
    return said


TOO_LONG = {"partition": "small", "time": "4-00:00:00"}


def test_each_instance_hears_what_is_in_its_way_and_the_site_is_asked_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = Instances(4, run_id="ahead", options=TOO_LONG)
    made = instances.defer()
    said = log_into(monkeypatch, SlurmSubmitTrigger)

    instances.complete(run_all(made))

    told = [line for line in said if line.startswith("Preflight: ")]
    assert len(told) == 4
    assert "Partition 'small' gives a job at most 3-00:00:00" in told[0]
    assert site.fake.calls("sacctmgr") == 1


def test_without_a_preflight_nothing_is_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    instances = Instances(2, run_id="blind", options=TOO_LONG, preflight=False)
    made = instances.defer()
    said = log_into(monkeypatch, SlurmSubmitTrigger)

    instances.complete(run_all(made))

    assert not [line for line in said if line.startswith("Preflight: ")]
    assert site.fake.calls("sacctmgr") == 0


def test_a_preflight_that_fails_stops_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.transport.plan("room_of", faults.time_out)
    instances = Instances(3, run_id="deaf")
    made = instances.defer()
    said = log_into(monkeypatch, SlurmSubmitTrigger)

    results = instances.complete(run_all(made))

    assert [each["state"] for each in results] == ["COMPLETED"] * 3
    assert len([line for line in said if line.startswith("Preflight: not known")]) == 3


def test_a_trigger_of_an_earlier_version_looks_for_nothing(site: Site) -> None:
    (made,) = Instances(1, run_id="old").defer()
    _path, arguments = made.serialize()
    del arguments["preflight"]

    assert SlurmSubmitTrigger(**arguments).preflight is False


# ---- what cannot be ----


def test_a_refusal_fails_every_instance_for_good(site: Site) -> None:
    instances = Instances(3, run_id="refused", options={"partition": "nope"})

    results = instances.complete(run_all(instances.defer()))

    assert {type(each) for each in results} == {AirflowFailException}
    assert "nvalid partition" in str(results[0])
    assert site.states == {}


def test_an_account_that_may_submit_nothing_fails_every_instance_for_good(site: Site) -> None:
    instances = Instances(3, run_id="nothing")
    with site.fake.fault("max_submit", "0"):
        results = instances.complete(run_all(instances.defer()))

    assert {type(each) for each in results} == {AirflowFailException}
    assert "MaxSubmit of account project is 0" in str(results[0])
    assert site.states == {}


def stand_in_line(instances: Instances, events: Sequence[Any]) -> list[TaskDeferred]:
    """Do as the workers do that a refusal has woken: they wait for room."""
    found = []
    for one, context, event in zip(instances.operators, instances.contexts, events, strict=True):
        with pytest.raises(TaskDeferred) as caught:
            one.execute_complete(context, json.loads(json.dumps(event)))
        assert caught.value.method_name == "execute_again"
        found.append(caught.value)
    return found


def test_instances_that_are_refused_for_a_full_queue_wait_and_are_submitted_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_watch, "_JITTER_SECONDS", 0)
    instances = Instances(3, run_id="full")
    others = [site.submit_held(f"other {number}") for number in range(3)]
    with site.fake.fault("max_submit", "3"):
        waits = stand_in_line(instances, run_all(instances.defer()))
        line = [stored(each.trigger) for each in waits]
        assert {type(each) for each in line} == {SlurmQueueTrigger}
        assert "MaxSubmit of account project is 3, 3 are queued" in line[0].reason
        assert len({each.token for each in line}) == 3
        assert sorted(site.states) == sorted(others)
        assert list((site.fake.home / "airflow-runs").glob("*")) == []

        for job_id in others:
            site.fake.change(job_id, state="COMPLETED")
        events = run_all(line)
        assert events == [{"status": "up"}] * 3
        again = []
        for one, context, wait in zip(instances.operators, instances.contexts, waits, strict=True):
            kept = json.loads(json.dumps(wait.kwargs))
            with pytest.raises(TaskDeferred) as caught:
                one.execute_again(context, {"status": "up"}, **kept)
            again.append(stored(caught.value.trigger))
        results = instances.complete(run_all(again))

    assert [each["state"] for each in results] == ["COMPLETED"] * 3
    assert len({each["job_id"].partition("_")[0] for each in results}) == 1
    assert len(site.states) == 6


def test_a_site_that_is_away_is_waited_for_in_the_triggerer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def back(trigger: Any, _settings: object, _log: object) -> dict[str, str]:
        assert "nobody is let in" in trigger.reason
        return {"status": "up"}

    monkeypatch.setattr(triggers.SlurmSiteTrigger, "wait", back)
    site.transport.plan(ARRAY, faults.refuse)
    instances = Instances(2, run_id="away")

    results = instances.complete(run_all(instances.defer()))

    assert [each["state"] for each in results] == ["COMPLETED", "COMPLETED"]
    assert len(site.states) == 2


def test_a_deadline_while_the_site_is_away_is_a_timeout(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(*_arguments: object) -> dict[str, str]:
        return {"status": "deadline"}

    monkeypatch.setattr(triggers.SlurmSiteTrigger, "wait", late)
    site.transport.plan(ARRAY, faults.refuse)
    instances = Instances(2, run_id="late")

    results = instances.complete(run_all(instances.defer()))

    assert {type(each) for each in results} == {AirflowTaskTimeout}
    # Airflow calls on_kill then; it has to know what to stop.
    assert all(one._identity is not None for one in instances.operators)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"deferrable": False}, "deferrable=False"),
        ({"wait_for_completion": False}, "wait_for_completion=False"),
        ({"command": None, "remote_script": "/a/b.sh"}, "remote_script='/a/b.sh'"),
        ({"coalesce_seconds": -1}, "coalesce_seconds"),
    ],
)
def test_what_does_not_go_together_is_refused_in_the_dag(
    arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        operator(0, **arguments)


def test_an_array_of_arrays_is_refused(site: Site) -> None:
    task = operator(0, command=None, script="#!/bin/bash\n#SBATCH --array=0-3\ntrue\n")
    with pytest.raises(AirflowFailException, match="array"):
        task.execute(build_context(task))


# ---- kills and restarts ----


async def kill(trigger: SlurmSubmitTrigger, running: asyncio.Task[Any]) -> None:
    """As the triggerer of Airflow 3.3 does when a user ends the task."""
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await trigger.on_kill()
    await trigger.cleanup()


async def stop(site: Site) -> None:
    """End as a triggerer does; what runs on the log-in node goes on there."""
    others = [task for task in asyncio.all_tasks() if task.get_name().startswith("slurm-")]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await site.fake.settle()


async def wait_until(is_true: Any) -> None:
    async with asyncio.timeout(30):
        while not is_true():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("moment", ["window", "sbatch", "queue"])
def test_a_kill_leaves_no_job_and_the_others_alone(
    site: Site, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "_HAS_ON_KILL", True)
    instances = Instances(3, run_id=f"kill {moment}", options={"hold": True})
    made = instances.defer()
    runs = site.fake.home / "airflow-runs"

    async def main() -> None:
        running = [asyncio.ensure_future(first_event(trigger)) for trigger in made]
        if moment == "sbatch":
            await wait_until(lambda: len(list(runs.glob("*/identity.json"))) == 3)
        elif moment == "queue":
            await wait_until(lambda: len(list(runs.glob("*/job_id"))) == 4)
            await asyncio.sleep(0.5)
        else:
            await asyncio.sleep(0.1)
        await kill(made[1], running[1])
        await wait_until(lambda: list(site.states.values()).count("PENDING") == 2)
        for trigger, one in zip(made, running, strict=True):
            one.cancel()
            await trigger.cleanup()
        await asyncio.gather(*running, return_exceptions=True)
        await stop(site)

    with site.fake.fault("sbatch_is_slow", "0.5"):
        asyncio.run(main())

    states = sorted(site.states.values())
    assert states in (["PENDING", "PENDING"], ["CANCELLED", "PENDING", "PENDING"])


def test_the_end_of_the_triggerer_cancels_nothing_and_the_next_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without it, who cancels one trigger alone is a user.
    monkeypatch.setattr(triggers, "_HAS_ON_KILL", True)
    instances = Instances(3, run_id="restart", command="sleep 2; echo $ME")
    made = instances.defer()
    runs = site.fake.home / "airflow-runs"

    async def stop_half_way() -> None:
        running = [asyncio.ensure_future(first_event(trigger)) for trigger in made]
        await wait_until(lambda: len(list(runs.glob("*/job_id"))) == 4)
        for trigger, one in zip(made, running, strict=True):
            one.cancel()
            await trigger.cleanup()
        await asyncio.gather(*running, return_exceptions=True)
        await stop(site)

    asyncio.run(stop_half_way())
    before = sorted(site.states)
    again = [stored(trigger) for trigger in made]
    assert all(isinstance(trigger, SlurmSubmitTrigger) for trigger in again)
    results = instances.complete(run_all(again))  # type: ignore[arg-type]

    assert [each["state"] for each in results] == ["COMPLETED"] * 3
    assert sorted(site.states) == before == sorted(each["job_id"] for each in results)
    assert site.fake.calls("sbatch") == 1


# ---- the stored form ----


def test_the_trigger_survives_being_stored(site: Site) -> None:
    (trigger,) = Instances(1, run_id="stored").defer()

    where, arguments = trigger.serialize()
    again = SlurmSubmitTrigger(**json.loads(json.dumps(arguments)))

    assert where == "airflow_provider_csc.triggers.slurm_submit.SlurmSubmitTrigger"
    assert again.serialize() == (where, arguments)
    assert set(arguments) == set(inspect.signature(SlurmSubmitTrigger).parameters)
    member = Member.from_payload(arguments["plan"])
    assert member.to_payload() == arguments["plan"]
    assert Member.from_payload(member.to_payload() | {"from_the_future": 1}) == member


@pytest.mark.parametrize(
    "error",
    [
        SubmitRejectedError("no", is_temporary=True, run_dir=None, exit_status=1),
        SubmitKilledError("killed", job_id="1_2"),
        ConnectFailedError("away", is_lasting=True),
    ],
)
def test_an_error_survives_the_way_to_the_worker(error: Any) -> None:
    again = from_payload(json.loads(json.dumps(error.to_payload())))

    assert type(again) is type(error)
    assert (again.message, again.details) == (error.message, error.details)


def test_an_error_of_another_version_is_still_an_error() -> None:
    assert str(from_payload({"type": "NewError", "message": "m", "details": {}})) == "m"
