"""What a task says of its costs, and what a limit on them refuses before anything is submitted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_provider_csc import run_costs, upstreams
from airflow_provider_csc.errors import ConfigError, JobOutOfMemoryError, UnreadableOutputError
from airflow_provider_csc.hooks import _stats
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators._costs import costing_tasks
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.operators.slurm_billing import SlurmBillingSummaryOperator
from airflow_provider_csc.run_costs import KEY, TaskCost
from airflow_provider_csc.slurm.policy import SlurmRetryPolicy
from airflow_provider_csc.slurm.result import JobResult
from airflow_provider_csc.upstreams import Instance
from tests.support.steps import FaultySite, default_site, event_of, submitted
from tests.support.task import build_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from airflow_provider_csc.triggers.slurm import SlurmJobTrigger
    from airflow_provider_csc.upstreams import RunName

# A core costs 1 unit an hour, and so do 2 GiB of memory.
PROFILE = """
name: here
title: Here
partitions:
  small: {max_time: 3-00:00:00, max_nodes: 1, cores_per_node: 64, billing: cores}
  whole: {sharing: nodes, cores_per_node: 64, memory_per_node: 128G, billing: cores}
billing:
  cores: {unit: BU, highest_of: [{of: cores}, {of: memory_gib, per: 2}]}
"""
OPTIONS = {"partition": "small", "time": "02:00:00", "cpus_per_task": 4, "mem": "8G", "hold": True}
# 4 cores or 8 GiB are 4 units an hour.
WORST = 8.0


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultySite]:
    (tmp_path / "here.yaml").write_text(PROFILE)
    monkeypatch.setenv("AIRFLOW__CSC__SITES_FOLDER", str(tmp_path))
    with default_site(monkeypatch, FaultySite) as site:
        connect(monkeypatch, site="here")
        yield site


def connect(monkeypatch: pytest.MonkeyPatch, **extra: str) -> None:
    connection = {"conn_type": "slurm", "host": "fake", "login": "somebody", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(connection))


def operator(**arguments: Any) -> SlurmSubmitOperator:
    given = {"task_id": "job", "command": "true", "deferrable": True}
    options = OPTIONS | arguments.pop("options", {})
    return SlurmSubmitOperator(**given | {"options": options} | arguments)


def shares(hours: float, tres: str = "billing=4,cpu=4,mem=8G,node=1") -> list[list[Any]]:
    return [["small", tres, int(hours * 3600)]]


def finish(task: SlurmSubmitOperator, context: Any, trigger: SlurmJobTrigger, **fields: Any) -> Any:
    """Resume the task with what its trigger says became of the job."""
    (job_id,) = trigger.job_ids
    known = {"state": "COMPLETED", "partition": "small", "run_dir": trigger.run_dir}
    result = JobResult(**{"job_id": job_id} | known | fields)
    return task.execute_complete(context, event_of(trigger, result))


def live(site: FaultySite) -> list[str]:
    return list(site.fake.jobs)


# ---- said before and after ----


def test_a_job_is_priced_before_and_after(
    site: FaultySite, capsys: pytest.CaptureFixture[str]
) -> None:
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    value = finish(task, context, trigger, shares=shares(0.5))
    said = capsys.readouterr().out

    assert "The job costs at most 8 BU, if it runs for its whole 02:00:00." in said
    assert f"Job {value['job_id']} used 2 BU." in said
    assert value["billing_units"] == {"estimated": WORST, "actual": 2.0, "unit": "BU"}


def test_the_costs_are_an_xcom_of_their_own_for_others_of_the_run(site: FaultySite) -> None:
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    before = context["ti"].xcoms[KEY]
    assert (before["units"], before["expected"], before["estimated"]) == (WORST, WORST, WORST)

    finish(task, context, trigger, shares=shares(0.5))
    after = context["ti"].xcoms[KEY]
    assert (after["units"], after["expected"], after["actual"]) == (2.0, 0.0, 2.0)
    assert after["unit"] == "BU"
    assert run_costs.is_cost(json.loads(json.dumps(after)))


def test_without_a_site_nothing_is_priced(
    site: FaultySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch)
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    assert finish(task, context, trigger, shares=shares(1))["billing_units"] is None
    assert KEY not in context["ti"].xcoms


def test_what_is_not_known_is_not_a_number(
    site: FaultySite, capsys: pytest.CaptureFixture[str]
) -> None:
    task = operator(options={"mem": None})
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    value = finish(task, context, trigger, without_accounting=True)
    said = capsys.readouterr().out
    assert "What the job can cost is not known: how much memory" in said
    assert "used is not known: the site keeps no accounting." in said
    assert value["billing_units"] == {"estimated": None, "actual": None, "unit": None}


@pytest.mark.parametrize("named", [True, False])
def test_what_has_no_price_here_is_not_told_at_each_task(
    site: FaultySite,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    named: bool,
) -> None:
    """A job that names no partition where there are prices, or any where there are none."""
    if named:
        (tmp_path / "free.yaml").write_text("title: Free\n")
        connect(monkeypatch, site="free")
    partition = "small" if named else None
    task = operator(options={"partition": partition})
    submitted(lambda: task.execute(build_context(task)))
    assert "can cost" not in capsys.readouterr().out

    limited = operator(options={"partition": partition}, max_billing_units=1)
    with pytest.raises(AirflowFailException, match="is not known"):
        limited.execute(build_context(limited))
    assert "What the job can cost is not known: " in capsys.readouterr().out


def test_a_job_that_fails_has_cost_something_too(site: FaultySite) -> None:
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    with pytest.raises(JobOutOfMemoryError):
        finish(task, context, trigger, state="OUT_OF_MEMORY", shares=shares(1))
    assert context["ti"].xcoms[KEY]["actual"] == 4.0


def test_the_site_is_asked_about_all_runs_of_a_job_that_was_requeued(site: FaultySite) -> None:
    # It is held, or it would begin, and end, by itself.
    task = operator(options={"hold": True})
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    asked = site.fake.calls("sacct")
    site.fake.change(trigger.job_ids[0], state="COMPLETED", started="1000", ended="4600")
    value = finish(task, context, trigger, shares=shares(0.5), restarts=1)
    assert site.fake.calls("sacct") == asked + 1
    # The fake says cpu=1,mem=100M of each job.
    assert value["billing_units"]["actual"] == 1.0


def test_the_whole_of_an_array_is_priced(site: FaultySite) -> None:
    task = operator(options={"array": "0-9"})
    context = build_context(task)
    submitted(lambda: task.execute(context))
    assert context["ti"].xcoms[KEY]["estimated"] == 10 * WORST


def test_advice_goes_into_result_and_log(
    site: FaultySite, capsys: pytest.CaptureFixture[str]
) -> None:
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    used = {
        "elapsed_seconds": 3600,
        "cpus": 16,
        "cpu_efficiency": 0.0625,
        "granted_memory_bytes": 64 * 2**30,
        "memory_efficiency": 0.0484375,
    }
    value = finish(task, context, trigger, **used, shares=shares(1))
    said = capsys.readouterr().out
    assert value["advice"] == ["used 3.1 of 64 GiB; ask for 4", "1 of 16 cores busy"]
    assert "ask for 4; 1 of 16 cores busy." in said

    whole = finish(task, context, trigger, **used, shares=shares(1), partition="whole")
    assert whole["advice"] == []


def test_figures_are_sent_to_airflows_stats(
    site: FaultySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, Any] = {}

    def send(_kind: str, name: str, value: object, tags: dict[str, str]) -> None:
        said[name] = (value, tags.get("unit"), tags["task_id"])

    monkeypatch.setattr(_stats, "_send", send)
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    finish(task, context, trigger, shares=shares(0.5), cpu_efficiency=0.5, elapsed_seconds=1800)
    assert said["slurm.billing_units.estimated"] == (WORST, "BU", "job")
    assert said["slurm.billing_units.actual"] == (2.0, "BU", "job")
    assert said["slurm.job.cpu_efficiency"] == (0.5, None, "job")
    assert said["slurm.job.run_duration"][0].total_seconds() == 1800


# ---- max_billing_units ----


def test_a_job_within_its_limit_is_submitted(site: FaultySite) -> None:
    task = operator(max_billing_units=WORST)
    submitted(lambda: task.execute(build_context(task)))
    assert len(live(site)) == 1


@pytest.mark.parametrize("limit", [7.9, "7.9"])
def test_a_job_that_could_cost_more_is_not_submitted(site: FaultySite, limit: float | str) -> None:
    task = operator(max_billing_units=limit)
    with pytest.raises(AirflowFailException) as caught:
        task.execute(build_context(task))
    assert str(caught.value) == (
        "max_billing_units: 7.9 is the limit, and this job costs at most 8 BU, if it runs for its "
        "whole 02:00:00, which is more than 7.9 BU. It would fit with options['time'] of at most "
        "01:58:00 or at most 3 cores and 7 GiB of memory; or raise the limit. Nothing was "
        "submitted."
    )
    assert live(site) == []
    assert not (site.fake.home / "airflow-runs").exists()


def test_a_script_on_the_cluster_is_priced_by_its_own_lines(site: FaultySite) -> None:
    script = site.fake.home / "job.sh"
    script.write_text("#!/bin/bash\n#SBATCH --cpus-per-task=9\ntrue\n")
    options = {"cpus_per_task": None}
    task = operator(
        command=None, remote_script=str(script), options=options, max_billing_units=17.9
    )
    with pytest.raises(AirflowFailException, match="at most 18 BU"):
        task.execute(build_context(task))
    assert live(site) == []


def test_a_limit_on_what_cannot_be_priced_refuses_and_says_what_is_missing(
    site: FaultySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = operator(options={"mem": None}, max_billing_units=100)
    with pytest.raises(AirflowFailException, match=r"not known: how much memory .*\['mem'\]"):
        task.execute(build_context(task))
    connect(monkeypatch)
    with pytest.raises(AirflowFailException, match="'slurm_default' names no site"):
        operator(max_billing_units=100).execute(build_context(task))
    assert live(site) == []


def test_jobs_that_are_submitted_together_are_checked_before(site: FaultySite) -> None:
    task = operator(coalesce=True, max_billing_units=7.9, options={"hold": None})
    with pytest.raises(AirflowFailException, match="at most 8 BU"):
        task.execute(build_context(task))


def end(site: FaultySite, trigger: SlurmJobTrigger) -> None:
    """Let the fake site say that a job is over."""
    site.fake.change(trigger.job_ids[0], state="FAILED", started="1000", ended="4600")


OOM = {"state": "OUT_OF_MEMORY", "shares": shares(0.75), "requested_memory": "8G"}


def test_an_escalation_is_bounded_by_what_is_left(site: FaultySite) -> None:
    """3 units are spent, and with 16 GiB the next job can cost 16: 19 in all."""
    policy = SlurmRetryPolicy(out_of_memory=2, memory_factor=2)
    task = operator(max_billing_units=18.9, on_failure=policy)
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    end(site, trigger)
    with pytest.raises(AirflowFailException, match="has spent 3 BU already"):
        finish(task, context, trigger, **OOM)
    assert live(site) == trigger.job_ids


def test_an_escalation_within_the_limit_is_submitted_and_both_jobs_count(site: FaultySite) -> None:
    policy = SlurmRetryPolicy(out_of_memory=2, memory_factor=2)
    task = operator(max_billing_units=19, on_failure=policy)
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    end(site, trigger)
    again = submitted(lambda: finish(task, context, trigger, **OOM))
    value = finish(task, context, again, shares=shares(1, "cpu=4,mem=16G,node=1"))
    assert value["billing_units"] == {"estimated": 16.0, "actual": 11.0, "unit": "BU"}


def test_after_a_job_of_unknown_cost_its_worst_case_counts(site: FaultySite) -> None:
    policy = SlurmRetryPolicy(infrastructure=2)
    task = operator(max_billing_units=15.9, on_failure=policy)
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    end(site, trigger)
    with pytest.raises(AirflowFailException, match="has spent 8 BU already"):
        finish(task, context, trigger, state="NODE_FAIL", without_accounting=True)


def test_a_job_is_counted_once_however_often_its_end_is_looked_at(site: FaultySite) -> None:
    task = operator()
    context = build_context(task)
    trigger = submitted(lambda: task.execute(context))
    (job_id,) = trigger.job_ids
    result = JobResult(job_id=job_id, state="COMPLETED", partition="small", shares=shares(1))
    attempt = task._price_after(context, result, _attempt(trigger))
    assert task._price_after(context, result, attempt) is attempt
    assert dict(attempt.costs) == {job_id: (4.0, 1)}


def _attempt(trigger: SlurmJobTrigger) -> Any:
    from airflow_provider_csc.slurm.attempt import Attempt

    return Attempt.from_payload(trigger.attempt)


@pytest.mark.parametrize("value", [0, -1, True, "many", float("nan"), {"BU": 5}])
def test_a_limit_that_is_none_is_refused_while_the_dag_is_parsed(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_billing_units: .* is no number of billing units"):
        operator(max_billing_units=value)


@pytest.mark.parametrize("value", [0, {}, {"BU": 0}, {"BU": None}, []])
def test_so_is_one_of_a_dag_run(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_billing_units_per_run: .* as {'CPU BU': 500}"):
        operator(max_billing_units_per_run=value)


def test_a_limit_may_be_a_template() -> None:
    task = operator(
        max_billing_units="{{ params.most }}", max_billing_units_per_run={"BU": "{{ 2 * 4 }}"}
    )
    task.render_template_fields({"params": {"most": 5}})  # type: ignore[typeddict-item]
    assert (task.max_billing_units, task.max_billing_units_per_run) == ("5", {"BU": "8"})


# ---- max_billing_units_per_run ----


def cost(task_id: str, units: float, *, index: int = -1, **more: Any) -> TaskCost:
    known: dict[str, Any] = {
        "task_id": task_id,
        "map_index": index,
        "try_number": 1,
        "job_id": "7",
        "unit": "BU",
        "units": units,
        "expected": 0.0,
        "estimated": units,
        "actual": units,
        "unknown": [],
    }
    return TaskCost(**{**known, **more})


class Run:
    """What the tasks of a DAG run have said of their costs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.costs: list[TaskCost] = []
        self.asked: set[str] = set()
        self.states: upstreams.States = {}
        monkeypatch.setattr(run_costs, "ask_costs", self._ask)
        monkeypatch.setattr(upstreams, "ask_states", lambda _run, _ids: self.states)

    def _ask(self, _run: RunName, task_ids: Iterable[str]) -> list[TaskCost]:
        self.asked = set(task_ids)
        return self.costs


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


@pytest.mark.parametrize("limit", [20, "20", {"BU": 20}, {"BU": "20", "GPU BU": 1}])
def test_a_dag_run_stays_within_its_limit(site: FaultySite, run: Run, limit: Any) -> None:
    task = operator(max_billing_units_per_run=limit)
    context = build_context(task)
    # What this task said itself is not of another.
    run.costs = [cost("other", 12), cost("job", 8, expected=8.0), cost("gpu", 99, unit="GPU BU")]
    submitted(lambda: task.execute(context))

    run.costs = [cost("other", 12.1)]
    with pytest.raises(AirflowFailException, match=r"other jobs .* take up to 12\.1 BU"):
        task.execute(build_context(task))
    assert len(live(site)) == 1


def test_where_only_running_jobs_stand_in_the_way_a_retry_may_do(
    site: FaultySite, run: Run
) -> None:
    task = operator(max_billing_units_per_run=20)
    context = build_context(task)
    run.costs = [cost("other", 18, expected=8.0)]
    with pytest.raises(ConfigError, match="A retry may find that they cost less"):
        task.execute(context)
    assert live(site) == []
    # What is not submitted is not reserved, either.
    assert context["ti"].xcoms[KEY]["units"] == 0


def test_another_job_of_unknown_cost_refuses(site: FaultySite, run: Run) -> None:
    run.costs = [cost("other", 0, unit=None, unknown=["other"])]
    with pytest.raises(AirflowFailException, match="what other costs is not known"):
        operator(max_billing_units_per_run=20).execute(build_context(operator()))


def test_who_is_asked_are_the_tasks_that_submit_jobs(site: FaultySite, run: Run) -> None:
    with DAG("dag", schedule=None, default_args={"max_billing_units_per_run": 20}) as dag:
        task = operator(task_id="one")
        SlurmSubmitOperator.partial(task_id="many", options=OPTIONS).expand(command=["a", "b"])
        SlurmBillingSummaryOperator(task_id="sum")
    assert costing_tasks(dag) == ["one", "many"]
    assert task.max_billing_units_per_run == 20
    submitted(lambda: task.execute(build_context(task)))
    assert run.asked == {"one", "many"}


class Store(dict[str, Any]):
    """Airflow 3.3's store of a task's state, which a retry finds as it was left."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def test_what_earlier_tries_cost_counts_where_airflow_keeps_it(site: FaultySite, run: Run) -> None:
    store = Store()
    task = operator(max_billing_units_per_run=10)
    context = build_context(task, run_id="kept") | {"task_state_store": store}
    trigger = submitted(lambda: task.execute(context))
    with pytest.raises(JobOutOfMemoryError):
        finish(task, context, trigger, state="OUT_OF_MEMORY", shares=shares(1))

    end(site, trigger)
    again = build_context(task, run_id="kept", try_number=2) | {"task_state_store": store}
    with pytest.raises(AirflowFailException, match="take up to 4 BU"):
        task.execute(again)
    assert again["ti"].xcoms[KEY]["units"] == 4.0


# ---- the sum ----


def test_the_sum_of_a_dag_run_is_returned_and_shown(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.costs = [
        cost("prepare", 2.5, estimated=8.0),
        cost("train", 1.5, index=0),
        cost("train", 3, index=1),
        cost("gpu", 10, unit="GPU BU", expected=10.0, actual=0.0),
    ]
    run.states = {
        "prepare": {Instance("prepare", -1): "success"},
        "train": {Instance("train", index): "failed" for index in range(3)},
        "later": {Instance("later", -1): None},
    }
    task = SlurmBillingSummaryOperator(task_id="sum", task_ids=["prepare", "train", "gpu", "later"])
    found = task.execute(build_context(task))  # type: ignore[arg-type]
    said = capsys.readouterr().out

    assert found["units"] == {
        "BU": {"actual": 7.0, "at_most": 7.0},
        "GPU BU": {"actual": None, "at_most": 10.0},
    }
    assert [each["task_id"] for each in found["tasks"]] == ["prepare", "train", "train", "gpu"]
    assert found["unknown"] == ["train[2]"]
    assert json.loads(json.dumps(found)) == found
    assert "train[1]  1    7    3" in said
    assert "Together: 7 BU, of at most 7 BU." in said
    assert "nothing is known: train[2]." in said


def test_it_runs_whatever_became_of_the_others() -> None:
    assert SlurmBillingSummaryOperator(task_id="sum").trigger_rule == "all_done"
    assert SlurmBillingSummaryOperator(task_id="s", trigger_rule="always").trigger_rule == "always"


# ---- what is left ----

ALLOCATIONS = """\
Data updated: 2025-10-10 12:05:41
Project             |          CPU (used/allocated)|            GPU (used/allocated)
------------------------------------------------------------------------------------
{project}   |      175/1500  (11.7%) core/hours|  5/0    (N/A) gpu/hours
"""


@pytest.fixture
def counting(site: FaultySite, tmp_path: Path) -> FaultySite:
    """A site with LUMI's program, which shows how it was called."""
    (tmp_path / "here.yaml").write_text(f"{PROFILE}\ncommands: {{balance: lumi-allocations}}\n")
    program = site.fake._bin / "lumi-allocations"
    text = ALLOCATIONS.format(project="$2")
    program.write_text(f"#!/bin/bash\necho 'perl: warning: locale' >&2\ncat <<END\n{text}END\n")
    program.chmod(0o755)
    site.fake.give(program)
    return site


def test_the_site_tells_what_a_project_has_left(
    counting: FaultySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, site="here", account="project_462000963")
    for project in (None, "project_465"):
        found = SlurmHook().balance(project)
        assert found.project == (project or "project_462000963")
        cpu, gpu = found.purses
        assert (cpu.unit, cpu.remaining, gpu.budget) == ("core-hours", 1325, 0)


def test_who_has_no_account_or_no_such_program_is_told(
    counting: FaultySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="account: whose balance"):
        SlurmHook().balance()
    connect(monkeypatch)
    with pytest.raises(ConfigError, match="names no site with a program"):
        SlurmHook().balance("project_1")


def test_a_program_that_is_not_there_is_no_balance_of_nothing(
    counting: FaultySite,
) -> None:
    (counting.fake._bin / "lumi-allocations").unlink()
    with pytest.raises(UnreadableOutputError, match="status 127"):
        SlurmHook().balance("project_1")
