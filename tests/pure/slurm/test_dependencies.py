"""depends_on: what may stand in it, what is known of tasks and jobs, and the option it becomes."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_csc.errors import ConfigError, SlurmError, UpstreamFailedError
from airflow_provider_csc.slurm.dependencies import (
    Link,
    Needs,
    NotYet,
    Upstream,
    build_dependency,
    find_cycle,
    judge_upstream,
    read_depends_on,
    read_same_name,
)
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.result import JobResult

TOKEN = "af0123456789abcdef0123.1"


@pytest.mark.parametrize(
    ("value", "links"),
    [
        ("prepare", [Link("afterok", task_id="prepare")]),
        ("123", [Link("afterok", job_id="123")]),
        (123, [Link("afterok", job_id="123")]),
        ("123_4", [Link("afterok", job_id="123_4")]),
        ("singleton", [Link("singleton")]),
        (["a", "b", "a"], [Link("afterok", task_id="a"), Link("afterok", task_id="b")]),
        (
            {"afterany": "a", "aftercorr": ["b", "7"]},
            [
                Link("afterany", task_id="a"),
                Link("aftercorr", task_id="b"),
                Link("aftercorr", job_id="7"),
            ],
        ),
        ([], []),
        (None, []),
        ("group.prepare", [Link("afterok", task_id="group.prepare")]),
    ],
)
def test_tasks_and_jobs_are_told_apart(value: object, links: list[Link]) -> None:
    assert read_depends_on(value) == tuple(links)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"after_ok": "a"}, "'after_ok' is no kind"),
        ("", "names neither"),
        ([None], "None names neither"),
        (True, "True names neither"),
        ({"afterok": {"a": 1}}, "names neither"),
        ("0", "not a job id"),
        ("99999999999", "not a job id"),
    ],
)
def test_what_can_be_no_dependency_is_named_with_the_remedy(value: object, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        read_depends_on(value)
    assert "depends_on" in caught.value.message
    assert caught.value.field == "depends_on"


def test_a_cycle_is_found_with_its_way() -> None:
    before: dict[str, set[str]] = {"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"a"}}
    assert find_cycle("a", before.__getitem__) == ["a", "b", "d", "a"]
    assert find_cycle("c", before.__getitem__) == []
    assert find_cycle("a", lambda _name: {"a"}) == ["a", "a"]


# ---- what Airflow says ----


def judged(kind: str = "afterok", **known: Any) -> Upstream | NotYet:
    given = {"state": "deferred", "job_id": "5", "replaced": {}, "is_steady": False}
    return judge_upstream(kind, "up", **given | known)


@pytest.mark.parametrize("state", ["deferred", "success"])
def test_a_task_that_has_submitted_stands_for_its_job(state: str) -> None:
    assert judged(state=state) == Upstream(kind="afterok", name="up", job_id="5", state=state)


@pytest.mark.parametrize("state", [None, "scheduled", "queued", "up_for_retry", "restarting"])
def test_the_job_of_a_task_that_is_to_start_is_of_an_earlier_try(state: str | None) -> None:
    assert isinstance(judged(state=state), NotYet)


def test_an_id_of_a_task_that_has_just_started_may_be_of_the_try_before() -> None:
    assert isinstance(judged(state="running"), NotYet)
    assert judged(state="running", is_steady=True) == Upstream(
        kind="afterok", name="up", job_id="5", state="running"
    )


@pytest.mark.parametrize("state", ["deferred", "running"])
def test_a_task_whose_job_failed_is_waited_for_until_it_has_another(state: str) -> None:
    found = judged(state=state, replaced={"5": "FAILED"}, is_steady=True)
    assert found == NotYet(f"up ({state}, its job 5 FAILED)")
    assert isinstance(judged(state="deferred", job_id="6", replaced={"5": "FAILED"}), Upstream)


@pytest.mark.parametrize("job_id", ["$(reboot)", "5:6", "[5]", "5 6"])
def test_what_is_no_job_id_goes_nowhere_near_a_command(job_id: str) -> None:
    with pytest.raises(UpstreamFailedError, match="which is no job's id"):
        judged(job_id=job_id)


@pytest.mark.parametrize("kind", ["afterok", "aftercorr"])
@pytest.mark.parametrize("state", ["failed", "upstream_failed", "skipped", "removed"])
@pytest.mark.parametrize("job_id", [None, "5"])
def test_a_task_that_ended_without_success_can_never_be_run_after(
    kind: str, state: str, job_id: str | None
) -> None:
    with pytest.raises(UpstreamFailedError, match=f"task up ended {state}") as caught:
        judged(kind, state=state, job_id=job_id)
    assert caught.value.is_lasting


@pytest.mark.parametrize("state", ["failed", "upstream_failed", "skipped", "removed", "success"])
def test_afterany_takes_every_end(state: str) -> None:
    assert judged("afterany", state=state, job_id=None) == Upstream(
        kind="afterany", name="up", state=state
    )


@pytest.mark.parametrize("state", ["failed", "upstream_failed"])
def test_afternotok_takes_a_failure_without_a_job(state: str) -> None:
    assert isinstance(judged("afternotok", state=state, job_id=None), Upstream)


@pytest.mark.parametrize(("state", "job_id"), [("skipped", None), ("success", None)])
def test_afternotok_of_what_did_not_fail_can_never_be(state: str, job_id: str | None) -> None:
    with pytest.raises(UpstreamFailedError):
        judged("afternotok", state=state, job_id=job_id)


def test_a_job_that_succeeded_after_all_ends_the_wait_for_its_failure() -> None:
    with pytest.raises(UpstreamFailedError, match="its job 5 COMPLETED"):
        judged("afternotok", state="success", replaced={"5": "COMPLETED"})


def test_a_task_that_was_marked_a_success_is_one_without_a_job() -> None:
    found = judged(state="success", replaced={"5": "FAILED"})
    assert found == Upstream(kind="afterok", name="up", state="success")


# ---- what the site says ----


def upstream(kind: str = "afterok", job_id: str = "5", state: str = "deferred") -> Upstream:
    return Upstream(kind=kind, name="up", job_id=job_id, state=state)


def text(*upstreams: Upstream, **jobs: str) -> str:
    known = {
        name.removeprefix("job"): JobResult(job_id=name.removeprefix("job"), state=state)
        for name, state in jobs.items()
    }
    return build_dependency(Needs(upstreams=upstreams), known)


def test_live_jobs_are_left_to_slurm_by_kind() -> None:
    others = upstream(job_id="6"), upstream("afterany", "7"), upstream("afternotok", "8")
    found = text(
        upstream(), *others, job5="RUNNING", job6="PENDING", job7="RUNNING", job8="RUNNING"
    )
    assert found == "afterok:5:6,afterany:7,afternotok:8"


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("afterok", "COMPLETED"),
        ("aftercorr", "COMPLETED"),
        ("afterany", "COMPLETED"),
        ("afterany", "FAILED"),
        ("afternotok", "FAILED"),
        ("afternotok", "CANCELLED"),
    ],
)
def test_what_is_satisfied_is_left_out(kind: str, state: str) -> None:
    assert text(upstream(kind), job5=state) == ""


@pytest.mark.parametrize(
    ("kind", "state"),
    [("afterok", "FAILED"), ("afterok", "CANCELLED"), ("afternotok", "COMPLETED")],
)
def test_what_can_never_be_is_named_with_its_job_and_state(kind: str, state: str) -> None:
    with pytest.raises(UpstreamFailedError, match=rf"job 5 of up ended {state}.*{kind}") as caught:
        text(upstream(kind), job5=state)
    assert caught.value.jobs == {"5": state}
    assert not caught.value.is_lasting


def test_the_elements_of_an_array_count_as_long_as_slurm_knows_them() -> None:
    assert text(upstream("aftercorr"), job5="RUNNING") == "aftercorr:5"
    with pytest.raises(UpstreamFailedError):
        text(upstream("aftercorr"), job5="FAILED")


def test_a_job_that_nobody_knows_any_more_is_what_its_task_says() -> None:
    assert text(upstream(state="success")) == ""
    assert text(upstream(state="deferred")) == "afterok:5"
    with pytest.raises(UpstreamFailedError):
        text(upstream("afternotok", state="success"))


def test_a_task_that_a_person_marked_counts_as_marked() -> None:
    assert text(upstream(state="success"), job5="FAILED") == ""


def test_a_job_that_was_named_by_its_id_has_no_task_that_could_try_again() -> None:
    named = Upstream(kind="afterok", name="", job_id="5")
    assert text(named, job5="RUNNING") == "afterok:5"
    for jobs, words in ({"job5": "FAILED"}, "job 5 ended FAILED"), ({}, "job 5 is not known"):
        with pytest.raises(UpstreamFailedError, match=words) as caught:
            text(named, **jobs)
        assert caught.value.is_lasting


def test_jobs_of_one_name_are_those_with_the_same_readable_part() -> None:
    names = [f"9 dag.t.{TOKEN}", f"8 other.{TOKEN}", "7 dag.t", f"10 x dag.t.{TOKEN}"]
    names += [f"11 dag.t.{TOKEN}", f"11 dag.t.{TOKEN}"]
    assert read_same_name(Frame(0, "\n".join(names).encode()), "dag.t") == ["9", "11"]


def test_no_answer_is_no_empty_queue() -> None:
    with pytest.raises(SlurmError, match="squeue"):
        read_same_name(Frame(1, b"away"), "dag.t")
