"""``@task.slurm`` as Airflow handles it: parsing, mapping, rendering, running, resuming."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowTaskTimeout,
)
from airflow.sdk import DAG, task

from airflow_provider_csc.decorators import slurm as decorators
from airflow_provider_csc.errors import (
    ConfigError,
    JobExitCodeError,
    JobFunctionError,
    JobNoResultError,
    JobSignalError,
)
from airflow_provider_csc.slurm.policy import SlurmRetryPolicy
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from tests.support import fake_site as faults
from tests.support.steps import FaultySite, default_site, deferred_by, event_of, kept
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTOR = 3
RESULT_FILE = "/result.json"


class Site(FaultySite):
    def lose_reading(self, times: int = 1) -> None:
        self.lose(faults.refuse, times, command=RESULT_FILE)

    def end_of(self, trigger: SlurmJobTrigger) -> dict[str, Any]:
        """The event of a trigger whose job ends by itself."""
        (job_id,) = trigger.job_ids
        while not (job := self.fake.jobs[job_id])["ended"]:
            time.sleep(0.05)
        code, signal = int(job["code"]), int(job["signal"])
        result = JobResult(
            job_id=job_id,
            state=job["state"],
            exit_code=128 + signal if signal else code,
            signal=signal or None,
            run_dir=trigger.run_dir,
            stdout_path=trigger.stdout_path,
        )
        return event_of(trigger, result)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with default_site(monkeypatch, Site) as site:
        yield site


def operator_of(decorated: Any, *args: Any, **kwargs: Any) -> Any:
    """The operator that a call of a decorated function makes in a DAG."""
    with DAG("test_dag", schedule=None):
        return decorated(*args, **kwargs).operator


def run(site: Site, operator: Any, context: Any = None) -> Any:
    """Execute, let the job end, and resume."""
    context = context or build_context(operator)
    deferred = deferred_by(lambda: operator.execute(context))
    assert isinstance(deferred.trigger, SlurmJobTrigger)
    return operator.execute_complete(context, site.end_of(deferred.trigger))


@task.slurm(deferrable=True)
def add(a: int, b: int = 2) -> dict[str, int]:
    print("adding")
    return {"sum": (a + b) * FACTOR}


def test_a_function_returns_what_it_returned_on_the_cluster(site: Site) -> None:
    operator = operator_of(add, 1, b=3)
    context = build_context(operator)

    assert run(site, operator, context) == {"sum": 12}

    (job,) = site.fake.jobs.values()
    assert Path(job["stdout"]).read_text() == "adding\n"
    facts = context["ti"].xcoms["slurm_job"]
    assert facts["job_id"] == context["ti"].xcoms["job_id"]
    assert (facts["state"], facts["resubmissions"]) == ("COMPLETED", [])


def test_it_is_an_ordinary_decorator_of_airflow() -> None:
    with DAG("test_dag", schedule=None) as dag:

        @task
        def numbers() -> list[int]:
            return [1, 2]

        first = add.override(task_id="first", retries=4)(1)
        second = add(first["sum"])
        add(second)
        third = add.expand(a=numbers())

    assert set(dag.task_ids) == {"numbers", "first", "add", "add__1", "add__2"}
    assert dag.get_task("first").retries == 4
    assert dag.get_task("add").upstream_task_ids == {"first"}
    assert third.operator.upstream_task_ids == {"numbers"}
    assert third.operator.operator_name == dag.get_task("add").operator_name == "@task.slurm"
    assert dag.get_task("add").multiple_outputs is True


def test_what_it_depends_on_is_no_edge_even_of_a_mapped_task() -> None:
    with DAG("test_dag", schedule=None) as dag:
        first = add.override(task_id="first")(1)

        @task.slurm(depends_on=first)
        def f(a: int) -> int:
            return a

        f.expand(a=[1, 2])
        f.override(task_id="g", depends_on={"afterany": [first]}).expand(a=[1, 2])
        f.override(task_id="h", depends_on=first.operator)(1)
        f.override(task_id="i", depends_on=[first]).partial().override(retries=3).expand(a=[1])

    assert [dag.get_task(name).upstream_task_ids for name in "fghi"] == [set()] * 4
    assert dag.get_task("f").partial_kwargs["depends_on"] == "first"
    assert dag.get_task("g").partial_kwargs["depends_on"] == {"afterany": ["first"]}
    assert dag.get_task("h").depends_on == "first"
    assert dag.get_task("i").partial_kwargs["depends_on"] == ["first"]
    assert dag.get_task("i").partial_kwargs["retries"] == 3


def test_multiple_outputs_may_be_said() -> None:
    @task.slurm(multiple_outputs=False)
    def f() -> dict[str, int]:
        return {}

    assert operator_of(f).multiple_outputs is False


def test_without_arguments_it_decorates_too() -> None:
    @task.slurm
    def f() -> None:
        """Do nothing."""

    operator = operator_of(f)

    assert (operator.task_id, operator.doc_md) == ("f", "Do nothing.")


def test_each_mapped_instance_runs_with_its_own_argument(site: Site) -> None:
    with DAG("test_dag", schedule=None):
        mapped = add.partial(b=1).expand(a=[10, 20, 30]).operator
    values = []
    for index in range(3):
        context = {
            **build_context(mapped, map_index=index, run_id="mapped"),
            "run_id": "mapped",
            "expanded_ti_count": 3,
        }
        context["ti"].task = mapped
        kwargs, _ = mapped._expand_mapped_kwargs(context)
        operator = mapped.unmap(kwargs)
        values.append(run(site, operator, context))

    assert values == [{"sum": 33}, {"sum": 63}, {"sum": 93}]
    assert len(site.fake.jobs) == 3


def test_arguments_and_the_interpreter_are_templated(site: Site) -> None:
    @task.slurm(deferrable=True, python="{{ params.python }}", env={"DAY": "{{ ds }}"})
    def shows(day: str, *, file: str, more: Any) -> Any:
        import os

        return [day, file, more, os.environ["DAY"]]

    operator = operator_of(shows, "{{ ds }}", file="{{ ds }}.sh", more=[{"x": "{{ ds }}"}])
    context = {
        **build_context(operator),
        "ds": "2026-11-21",
        "params": {"python": "python3"},
    }
    operator.resolve_template_files()
    operator.render_template_fields(context)

    day = "2026-11-21"
    assert run(site, operator, context) == [day, f"{day}.sh", [{"x": day}], day]


def test_what_a_function_names_of_the_context_is_given_to_it(site: Site) -> None:
    @task.slurm(deferrable=True)
    def named(x: int, ds: Any = None, params: Any = None, run_id: Any = None) -> Any:
        return [x, ds, params, run_id]

    operator = operator_of(named, 1)
    context = {
        **build_context(operator),
        "ds": "2026-11-21",
        "run_id": "r",
        "params": {"n": 3},
    }

    assert run(site, operator, context) == [1, "2026-11-21", {"n": 3}, "r"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"command": "true"}, "command: what @task.slurm runs is the function"),
        ({"script": "#!/bin/bash"}, "script: what"),
        ({"remote_script": "/x"}, "remote_script: what"),
        ({"wait_for_completion": False}, "wait_for_completion"),
        ({"options": {"array": "0-3"}}, r"options\['array'\].*expand"),
        ({"serializer": "dill"}, "serializer: 'dill'"),
        ({"python": []}, "python:"),
        ({"options": {"memm": "1G"}}, "'mem'"),
    ],
)
def test_what_makes_no_sense_is_an_error_of_the_dag_file(
    arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        operator_of(task.slurm(**arguments)(add.function), 1)


def test_a_function_that_cannot_run_there_is_an_error_of_the_dag_file() -> None:
    def wants_ti(ti: Any = None) -> None:
        pass

    for function in (wants_ti, lambda: 1):
        with pytest.raises(ConfigError):
            task.slurm(function)
        with pytest.raises(ConfigError):
            task.slurm(python="python3")(function)


def test_an_argument_that_cannot_be_sent_fails_without_a_retry(site: Site) -> None:
    operator = operator_of(add, {1, 2})

    with pytest.raises(AirflowFailException, match="argument a is of type set"):
        operator.execute(build_context(operator))
    assert site.fake.jobs == {}


# ---- what goes wrong ----


@task.slurm(deferrable=True, retries=1)
def fails(how: str) -> Any:
    import os
    import signal

    if how == "raise":
        raise ValueError("bad " + how)
    if how == "exit":
        os._exit(0)
    if how == "exit 3":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGSEGV)
    return float("nan")


def test_what_a_function_raises_is_the_tasks_error(site: Site) -> None:
    with pytest.raises(JobFunctionError, match="fails raised ValueError: bad raise") as caught:
        run(site, operator_of(fails, "raise"))

    error = caught.value
    assert (error.exception_type, error.exception_message) == ("ValueError", "bad raise")
    assert f'File "{__file__}"' in error.traceback
    assert 'raise ValueError("bad " + how)' in str(error)
    assert (error.failure, error.exit_code) == ("exit_code", 1)


def test_a_result_that_is_no_json_fails_without_a_retry(site: Site) -> None:
    with pytest.raises(AirflowFailException, match=r"result is nan.*A result is JSON"):
        run(site, operator_of(fails, "nan"))


def test_a_job_without_a_result_is_no_success(site: Site) -> None:
    with pytest.raises(JobNoResultError, match=r"no result\.json"):
        run(site, operator_of(fails, "exit"))


@pytest.mark.parametrize(("how", "error"), [("exit 3", JobExitCodeError), ("kill", JobSignalError)])
def test_a_job_that_failed_without_a_word_has_its_own_error(
    site: Site, how: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        run(site, operator_of(fails, how))

    assert type(caught.value) is error


def test_a_policy_decides_about_functions_too(site: Site) -> None:
    decorated = fails.override(on_failure=SlurmRetryPolicy(user_errors="fail"))

    with pytest.raises(AirflowFailException, match="ValueError: bad raise"):
        run(site, operator_of(decorated, "raise"))


def completed(site: Site, *args: Any, **arguments: Any) -> tuple[Any, Any, dict[str, Any]]:
    operator = operator_of(add.override(**arguments), *args)
    context = build_context(operator)
    trigger = deferred_by(lambda: operator.execute(context)).trigger
    assert isinstance(trigger, SlurmJobTrigger)
    return operator, context, site.end_of(trigger)


@pytest.mark.parametrize("left", [b"", b'{"value": ', b"\x80\x04N.", b"{}"])
def test_half_a_result_is_no_success(site: Site, left: bytes) -> None:
    operator, context, event = completed(site, 1)
    (Path(event["results"][0]["run_dir"]) / "result.json").write_bytes(left)

    with pytest.raises(JobNoResultError, match=r"result\.json .* cannot be read"):
        operator.execute_complete(context, event)


def test_a_result_may_be_seen_late(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, context, event = completed(site, 1)
    run_dir = Path(event["results"][0]["run_dir"])
    for name in ("result.json", "exit.json"):
        (run_dir / name).rename(run_dir / f"{name}.late")
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        if len(asked) == 3:
            for name in ("result.json", "exit.json"):
                (run_dir / f"{name}.late").rename(run_dir / name)

    monkeypatch.setattr(decorators.asyncio, "sleep", sleep)

    assert operator.execute_complete(context, event) == {"sum": 9}
    assert asked == list(decorators._DELAYS[:3])


def test_a_run_directory_that_is_gone_is_no_success(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, context, event = completed(site, 1)
    monkeypatch.setattr(decorators, "_DELAYS", (0.01, 0.01))
    run_dir = Path(event["results"][0]["run_dir"])
    run_dir.rename(run_dir.with_name("elsewhere"))

    with pytest.raises(JobNoResultError, match="gone"):
        operator.execute_complete(context, event)


def test_a_file_system_that_is_away_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, context, event = completed(site, 1)
    monkeypatch.setattr(decorators, "_DELAYS", (0.01, 0.01))
    base = Path(event["results"][0]["run_dir"]).parent
    base.rename(base.with_name("elsewhere"))

    deferred = deferred_by(lambda: operator.execute_complete(context, event))
    base.with_name("elsewhere").rename(base)

    assert "cannot be looked at" in deferred.trigger.serialize()[1]["reason"]
    held = kept(deferred)
    assert operator.execute_fetch(context, {"status": "up"}, **held) == {"sum": 9}


def test_a_result_that_is_there_and_cannot_be_read_is_waited_for(site: Site) -> None:
    operator, context, event = completed(site, 1)
    (Path(event["results"][0]["run_dir"]) / "result.json").chmod(0)

    deferred = deferred_by(lambda: operator.execute_complete(context, event))

    assert "is there and cannot be read" in deferred.trigger.serialize()[1]["reason"]


def test_a_result_waits_for_a_site_that_is_away(site: Site) -> None:
    operator, context, event = completed(site, 1)
    site.lose_reading(2)

    deferred = deferred_by(lambda: operator.execute_complete(context, event))
    for _ in range(2):
        trigger = deferred.trigger
        assert isinstance(trigger, SlurmSiteTrigger)
        assert deferred.method_name == "execute_fetch"
        held = kept(deferred)
        again = operator_of(add, 1)
        if site.plans:
            step = {"event": {"status": "up"}, **held}
            deferred = deferred_by(
                lambda step=step, again=again: again.execute_fetch(context, **step)
            )

    assert trigger.token is None, "there is no job to kill any more"
    assert "the result of job" in str(trigger.reason)
    assert trigger.not_before is not None
    assert again.execute_fetch(context, {"status": "up"}, **held) == {"sum": 9}
    assert context["ti"].xcoms["slurm_job"]["state"] == "COMPLETED"


def test_the_tasks_own_limit_holds_while_a_result_waits(site: Site) -> None:
    operator, context, event = completed(site, 1, execution_timeout=timedelta(seconds=100))
    site.lose_reading()

    deferred = deferred_by(lambda: operator.execute_complete(context, event))
    held = kept(deferred)

    assert deferred.trigger.serialize()[1]["deadline"] > time.time()
    with pytest.raises(AirflowTaskTimeout, match="its result was not read"):
        operator.execute_fetch(context, {"status": "deadline"}, **held)


def test_a_failure_does_not_wait_for_its_traceback(site: Site) -> None:
    operator = operator_of(fails, "raise")
    context = build_context(operator)
    trigger = deferred_by(lambda: operator.execute(context)).trigger
    assert isinstance(trigger, SlurmJobTrigger)
    event = site.end_of(trigger)
    site.lose_reading()

    with pytest.raises(JobExitCodeError) as caught:
        operator.execute_complete(context, event)
    assert type(caught.value) is JobExitCodeError


def test_a_submission_that_had_to_wait_is_rendered_when_it_is_made(site: Site) -> None:
    site.lose(faults.refuse)
    operator = operator_of(add, 1)
    context = build_context(operator)
    deferred = deferred_by(lambda: operator.execute(context))
    held = kept(deferred)

    again = operator_of(add, 1)
    trigger = deferred_by(lambda: again.execute_again(context, {"status": "up"}, **held)).trigger

    assert isinstance(trigger, SlurmJobTrigger)
    assert again.execute_complete(context, site.end_of(trigger)) == {"sum": 9}
