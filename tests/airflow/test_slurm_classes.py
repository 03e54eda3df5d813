"""Operator, sensor, trigger and link as Airflow handles them: parsing, rendering, storing, resuming."""

from __future__ import annotations

import inspect
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.sdk import DAG

from airflow_provider_csc.errors import ConfigError, JobFailedError, SubmitKilledError
from airflow_provider_csc.links.slurm import build_url
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.sensors.slurm import SlurmJobSensor
from airflow_provider_csc.slurm.attempt import Attempt
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.slurm.submission import Submission
from airflow_provider_csc.triggers.slurm import SlurmJobTrigger, SlurmSiteTrigger
from airflow_provider_csc.triggers.slurm_submit import SlurmSubmitTrigger
from tests.support.task import build_context

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = {"ds": "2026-11-21", "params": {"memory": "4G"}}


def operator(**arguments: Any) -> SlurmSubmitOperator:
    return SlurmSubmitOperator(**{"task_id": "job"} | arguments)


def rendered(task: SlurmSubmitOperator) -> SlurmSubmitOperator:
    task.resolve_template_files()
    task.render_template_fields(CONTEXT)
    return task


def serialize(dag: DAG) -> dict[str, Any]:
    try:
        from airflow.serialization.serialized_objects import DagSerialization
    except ImportError:  # Airflow 3.1
        from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization
    stored: dict[str, Any] = DagSerialization.to_dict(dag)
    return stored


def payload(**fields: Any) -> dict[str, Any]:
    result = JobResult(**{"job_id": "7", "state": "COMPLETED"} | fields)
    return {"results": [json.loads(json.dumps(result.to_payload()))]}


def test_a_wrong_choice_of_sources_is_an_error_of_the_dag_file() -> None:
    with pytest.raises(ConfigError, match="exactly one of"):
        operator(command="true", script="#!/bin/bash")


def test_an_unknown_option_is_an_error_of_the_dag_file() -> None:
    with pytest.raises(ConfigError, match="'mem'"):
        operator(command="true", options={"memm": "{{ params.memory }}"})


def test_what_is_not_said_is_as_the_signature_tells() -> None:
    class Patient(SlurmSubmitOperator):
        poll_interval = 60.0

    signature = inspect.signature(SlurmSubmitOperator).parameters
    # Each operator of Airflow's has a method called dry_run.
    others = ("kwargs", "dry_run")
    defaults = {name: each.default for name, each in signature.items() if name not in others}
    for kind in (SlurmSubmitOperator, Patient):
        task = kind(task_id="job", command="true", max_failed_tasks=None)
        said = {"command": "true", "max_failed_tasks": None}
        assert {name: getattr(task, name) for name in defaults} == defaults | said


def test_a_stored_dag_has_the_button_of_each_task_be_it_mapped_or_not() -> None:
    with DAG("stored", schedule=None) as dag:
        operator(command="true")
        SlurmSubmitOperator.partial(task_id="mapped").expand(command=["true", "false"])

    tasks = json.loads(json.dumps(serialize(dag)))["dag"]["tasks"]

    links = {task["__var"]["task_id"]: task["__var"]["_operator_extra_links"] for task in tasks}
    button = {"Job files": "_link_SlurmJobLink"}
    assert links == {"job": button, "mapped": button}


def test_all_fields_a_user_may_want_to_template_are_templated() -> None:
    arguments = set(inspect.signature(SlurmSubmitOperator).parameters)
    not_templated = {
        *("kwargs", "deferrable", "poll_interval", "wait_for_completion", "stream_logs"),
        *("log_limit_bytes", "timeout", "queue_timeout", "kill_grace", "cancel_held", "on_failure"),
        *("array_logs", "max_failed_tasks", "coalesce", "coalesce_seconds"),
        *("outputs_on_failure", "staging_timeout", "preflight", "dry_run"),
    }

    assert set(SlurmSubmitOperator.template_fields) == arguments - not_templated


def test_every_argument_is_documented() -> None:
    for documented in (
        SlurmSubmitOperator,
        SlurmJobSensor,
        SlurmJobTrigger,
        SlurmSiteTrigger,
        SlurmSubmitTrigger,
    ):
        names = set(inspect.signature(documented).parameters) - {"kwargs"}
        assert {
            name for name in names if f":param {name}:" not in (documented.__doc__ or "")
        } == set()


def test_values_inside_options_lists_and_variables_are_rendered() -> None:
    task = rendered(
        operator(
            command=["python", "train.py", "{{ ds }}"],
            options={"mem": "{{ params.memory }}"},
            env={"DAY": "{{ ds }}"},
            modules=["python-data/{{ ds }}"],
        )
    )

    assert task.command == ["python", "train.py", "2026-11-21"]
    assert (task.options, task.env) == ({"mem": "4G"}, {"DAY": "2026-11-21"})
    assert task.modules == ["python-data/2026-11-21"]


@pytest.mark.parametrize("suffix", [".sh", ".sbatch", ".slurm"])
def test_a_script_may_be_the_name_of_a_template_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"train{suffix}").write_text("#!/bin/bash\necho {{ ds }}\n")

    with DAG("d", schedule=None, template_searchpath=str(tmp_path)):
        task = rendered(operator(script=f"train{suffix}"))

    assert task.script is not None
    assert task.script.splitlines() == ["#!/bin/bash", "echo 2026-11-21"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"remote_script": "/projappl/{{ ds }}/job.sh"},
        {"command": "./{{ ds }}/run.sh"},
        {"command": ["bash", "{{ ds }}.sh"]},
        {"command": "true", "env": {"FILE": "{{ ds }}.slurm"}},
    ],
)
def test_a_path_that_ends_like_a_template_file_is_not_taken_for_one(
    arguments: dict[str, Any],
) -> None:
    task = rendered(operator(**arguments))

    shown = json.dumps([task.remote_script, task.command, task.env])
    assert "2026-11-21" in shown
    assert "{{" not in shown
    assert "{#" not in shown


@pytest.mark.parametrize("text", ["n=${#files[@]}\npython train.py", "${#a} {{ ds }}"])
def test_what_jinja_reads_as_a_comment_is_an_error_and_never_cuts_a_script(text: str) -> None:
    with pytest.raises(Exception, match="comment"):
        rendered(operator(command=text))


def test_a_script_that_ends_like_a_file_name_is_a_script() -> None:
    text = "#!/bin/bash\nbash /projappl/{{ ds }}/run.sh"

    with DAG("d", schedule=None):
        task = rendered(operator(script=text))

    assert task.script == "#!/bin/bash\nbash /projappl/2026-11-21/run.sh"


def test_a_template_file_that_is_missing_is_an_error_of_the_dag_file() -> None:
    with DAG("d", schedule=None):
        task = operator(script="missing.sh")

    with pytest.raises(ConfigError, match=r"missing\.sh.*template_searchpath"):
        task.resolve_template_files()


@pytest.mark.parametrize("job_id", [[], ""])
def test_a_sensor_of_no_job_fails_rather_than_succeeds(job_id: Any) -> None:
    for deferrable in (True, False):
        sensor = SlurmJobSensor(task_id="wait", job_id=job_id, deferrable=deferrable)
        with pytest.raises(AirflowFailException, match="job_id"):
            sensor.execute(build_context(sensor))


def test_the_example_in_a_dag_costs_no_connection() -> None:
    # Nothing defines slurm_default here, so any look at it would raise.
    operator(command="true")
    SlurmJobSensor(task_id="wait", job_id="1")


def test_a_trigger_survives_being_stored() -> None:
    trigger = SlurmJobTrigger(
        slurm_conn_id="slurm_default",
        job_ids=["1", "2_3"],
        run_dir="/runs/af0.1",
        stdout_path="/runs/af0.1/stdout.log",
        stderr_path="/runs/af0.1/stdout.log",
        stream_logs=False,
        poll_interval=7.5,
        log_limit_bytes=5,
        queue_timeout=1.0,
        run_timeout=2.0,
        deadline=3.0,
        missing_seconds=4,
    )

    path, arguments = trigger.serialize()
    again = SlurmJobTrigger(**json.loads(json.dumps(arguments)))

    assert path == "airflow_provider_csc.triggers.slurm.SlurmJobTrigger"
    assert again.serialize() == (path, arguments)
    assert set(arguments) == set(inspect.signature(SlurmJobTrigger).parameters)


def test_the_stored_form_of_a_trigger_is_that_of_the_first_release() -> None:
    # Tasks that wait hold it: arguments may be added with a default, never renamed or taken away.
    trigger = SlurmJobTrigger(slurm_conn_id="c", job_ids=["1"])

    assert trigger.serialize() == (
        "airflow_provider_csc.triggers.slurm.SlurmJobTrigger",
        {
            "slurm_conn_id": "c",
            "job_ids": ["1"],
            "run_dir": None,
            "stdout_path": None,
            "stderr_path": None,
            "stream_logs": True,
            "poll_interval": 15.0,
            "log_limit_bytes": 10 * 1024 * 1024,
            "queue_timeout": None,
            "run_timeout": None,
            "deadline": None,
            "missing_seconds": 600,
            # From here on what came later.
            "kill_grace": 0.0,
            "kill_signal": None,
            "cancel_held": False,
            "attempt": None,
            "task_key": None,
            "array": None,
            "array_logs": "failed",
            "array_token": None,
            "staging": None,
        },
    )


def test_the_trigger_that_waits_for_a_site_survives_being_stored() -> None:
    arguments = {
        "slurm_conn_id": "c",
        "deadline": 5.5,
        "reason": "it is away",
        "poll_interval": 2.0,
        "base_dir": "~/runs",
        "token": "af0.1",
        "since": 1.5,
        "task_key": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1},
        "not_before": 2.5,
        "identity": "{}",
    }
    stored = SlurmSiteTrigger(**json.loads(json.dumps(arguments))).serialize()
    assert stored == ("airflow_provider_csc.triggers.slurm.SlurmSiteTrigger", arguments)
    assert set(arguments) == set(inspect.signature(SlurmSiteTrigger).parameters)


def test_the_trigger_gets_the_tasks_limits_in_seconds() -> None:
    task = operator(
        command="true",
        timeout=timedelta(minutes=1),
        queue_timeout=30,
        kill_grace=timedelta(seconds=20),
    )

    trigger = task._build_trigger(
        build_context(task, map_index=4),
        Submission(job_id="1", run_dir="/r/t", stdout_path="/r/t/o", stderr_path="/r/t/e"),
        Attempt(deadline=1.5, asked=("--signal=B:USR1@60",)),
    )

    assert (trigger.run_timeout, trigger.queue_timeout, trigger.deadline) == (60.0, 30, 1.5)
    assert (trigger.kill_grace, trigger.kill_signal) == (20.0, "B:USR1@60")
    assert trigger.task_key is not None
    assert trigger.task_key["map_index"] == 4


@pytest.mark.parametrize("name", ["timeout", "queue_timeout", "kill_grace"])
@pytest.mark.parametrize("value", [-1, "60", True, float("nan"), timedelta(seconds=-1)])
def test_a_length_of_time_that_is_none_is_refused_when_the_dag_is_parsed(
    name: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: .* is no length of time"):
        operator(command="true", **{name: value})


def test_a_policy_that_is_none_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ConfigError, match=r"^on_failure: .*from_dict"):
        operator(command="true", on_failure={"infrastructure": 2})


def test_a_completed_job_is_returned_as_a_plain_dict() -> None:
    result = operator(command="true").execute_complete({}, payload(exit_code=0, nodes="c1"))

    assert (result["job_id"], result["state"], result["nodes"]) == ("7", "COMPLETED", "c1")
    json.dumps(result)


@pytest.mark.parametrize(
    "state",
    [
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "OUT_OF_MEMORY",
        "NODE_FAIL",
        "PREEMPTED",
        "UNKNOWN",
        "RUNNING",
    ],
)
def test_any_other_end_fails_the_task_and_can_be_retried(state: str) -> None:
    with pytest.raises(JobFailedError) as caught:
        operator(command="true").execute_complete({}, payload(state=state))

    assert (caught.value.job_id, caught.value.state) == ("7", state)
    assert not isinstance(caught.value, AirflowFailException)


def test_an_event_of_a_newer_version_with_more_fields_is_understood() -> None:
    event = payload()
    event["results"][0]["something_new"] = 1

    assert operator(command="true").execute_complete({}, event)["state"] == "COMPLETED"


def test_a_failed_job_keeps_its_data_across_processes() -> None:
    import pickle

    error = JobFailedError("it failed", job_id="7", state="FAILED", exit_code=3)

    again = pickle.loads(pickle.dumps(error))

    assert (str(again), again.job_id, again.exit_code) == ("it failed", "7", 3)


def test_a_kill_before_the_job_has_an_id_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", "slurm://somebody@localhost")
    task = operator(command="true")

    task.on_kill()

    with pytest.raises(SubmitKilledError):
        task.execute(build_context(task))


def test_a_sensor_defers_to_the_operators_trigger_and_to_airflows_time_out() -> None:
    sensor = SlurmJobSensor(
        task_id="wait", job_id=["1", 2], deferrable=True, poke_interval=9, timeout=60
    )

    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(build_context(sensor))

    _path, arguments = deferred.value.trigger.serialize()
    assert (arguments["job_ids"], arguments["poll_interval"]) == (["1", "2"], 9)
    assert arguments["run_dir"] is None
    assert deferred.value.timeout == timedelta(seconds=60)


def test_a_short_time_out_leaves_time_for_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", "slurm://somebody@localhost")
    sensor = SlurmJobSensor(task_id="wait", job_id="1", deferrable=True, timeout=1)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({})
    is_old = airflow_version.startswith(("3.1.", "3.2."))
    assert deferred.value.timeout == timedelta(seconds=60 if is_old else 20)


@pytest.mark.parametrize(
    ("web", "run_dir", "url"),
    [
        (
            "https://www.roihu.csc.fi",
            "/scratch/project_1/me/af0.1",
            "https://www.roihu.csc.fi/pun/sys/dashboard/files/fs/scratch/project_1/me/af0.1",
        ),
        ("https://ood/", "/a b/ü", "https://ood/pun/sys/dashboard/files/fs/a%20b/%C3%BC"),
    ],
)
def test_the_link_leads_to_the_run_directory(web: str, run_dir: str, url: str) -> None:
    assert build_url(web, run_dir) == url


def test_operators_are_keyword_only_and_map() -> None:
    with DAG("mapped", schedule=None):
        mapped = SlurmSubmitOperator.partial(task_id="job", options={"mem": "1G"}).expand(
            command=["echo 1", "echo 2"]
        )

    assert mapped.operator_class is SlurmSubmitOperator
