"""Who can be one array with whom, what is sent, and what the answer is taken for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.errors import (
    SiteUnavailableError,
    SubmitKilledError,
    SubmitRejectedError,
)
from airflow_provider_csc.slurm import coalescing
from airflow_provider_csc.slurm.coalescing import (
    Member,
    TaskArray,
    group_members,
    is_too_many,
    read_array_answer,
)
from airflow_provider_csc.slurm.coalescing_commands import build_submit_array
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.identity import TOKEN_PATTERN, TaskIdentity, parse_token
from airflow_provider_csc.slurm.plan import JobSpec, build_request, read_source
from airflow_provider_csc.slurm.submission import Claimed, Killed, NoVerdict, Submission

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTED = "2026-11-21T07:00:00+00:00"


def member(index: int, **changes: Any) -> Member:
    identity = TaskIdentity(
        dag_id="dag",
        run_id=changes.pop("run_id", "run"),
        task_id=changes.pop("task_id", "work"),
        map_index=index,
        try_number=1,
        first_try=1,
        run_started=STARTED,
    )
    base_dir = changes.pop("base_dir", "/runs")
    spec = JobSpec(**{"command": "true", "env": {"N": index}} | changes)
    request, label = build_request(
        spec,
        identity,
        script=read_source(spec, None),
        defaults={},
        base_dir=base_dir,
        is_shared=True,
    )
    return Member(request=request, identity=identity, label=label, since=5)


def sizes(members: Sequence[Member], most: int = 1000) -> list[int]:
    return [len(group) for group in group_members(members, most)]


# ---- grouping ----


def test_those_that_differ_in_variables_and_script_alone_are_together() -> None:
    members = [member(index, command=f"echo {index}") for index in (2, 0, 1)]
    (group,) = group_members(members)
    assert [one.identity.map_index for one in group] == [0, 1, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"mem": "1G"}},
        {"modules": ["gcc"]},
        {"environment": "/venv"},
        {"work_dir": "/work"},
        {"base_dir": "/other"},
        {"run_id": "another"},
        {"task_id": "another"},
        {"command": None, "script": "#!/bin/bash\n#SBATCH --nodes=2\ntrue\n"},
    ],
    ids=str,
)
def test_those_that_differ_otherwise_are_not(changes: dict[str, Any]) -> None:
    assert sizes([member(0), member(1), member(2, **changes)]) == [2, 1]


@pytest.mark.parametrize(
    "changes",
    [{"options": {"output": "/a/%j"}}, {"options": {"error": "/e"}}, {"base_dir": "/a\\b"}],
)
def test_those_whose_output_an_array_cannot_place_are_alone(changes: dict[str, Any]) -> None:
    assert sizes([member(index, **changes) for index in range(3)]) == [1, 1, 1]


def test_names_do_not_keep_apart() -> None:
    members = [member(index, job_name=f"seed {index}") for index in range(2)]
    (group,) = group_members(members)
    assert TaskArray.of(group, "n").name.startswith("dag.work.af")
    alike = [member(index, job_name="sweep") for index in range(2)]
    assert TaskArray.of(alike, "n").name.startswith("sweep.af")


def test_a_group_has_a_limit_of_members_and_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [member(index) for index in range(7)]
    assert sizes(members, 3) == [3, 3, 1]
    own = len(members[0].request.script) + len(members[0].request.exports)
    monkeypatch.setattr(coalescing, "_MAX_BYTES", 2 * own)
    assert sizes(members) == [2, 2, 2, 1]


# ---- what is sent ----


def test_a_token_of_an_array_is_new_for_each_attempt_and_looks_like_any() -> None:
    members = [member(index) for index in range(2)]
    first, second = TaskArray.of(members, "a"), TaskArray.of(members, "b")
    assert first.token != second.token
    assert TOKEN_PATTERN.fullmatch(first.token)
    assert parse_token(first.name) == first.token


def test_an_identity_names_the_array_and_stays_an_identity() -> None:
    array = TaskArray.of([member(0), member(1)], "a")
    known = json.loads(array.identity_of(1))
    own = json.loads(array.members[1].request.identity)
    assert known == own | {"group": array.token, "index": 1}


def test_a_script_that_all_have_is_sent_once() -> None:
    marker = "echo this stands in the script"
    members = [member(index, command=marker) for index in range(50)]
    assert build_submit_array(TaskArray.of(members, "a")).count(marker) == 1


def test_a_plan_survives_being_stored() -> None:
    one = member(3, options={"mem": "1G"}, env={"A": "ü\n'"})
    assert Member.from_payload(json.loads(json.dumps(one.to_payload()))) == one


def test_nothing_secret_but_what_the_batch_script_holds_is_in_a_plan() -> None:
    text = json.dumps(member(3).to_payload())
    assert set(json.loads(text)) == {"request", "identity", "label", "since", "is_fresh"}


# ---- what the answer is taken for ----


def answer(*rows: str, **frames: Frame) -> dict[str, Frame]:
    return {
        "run_dir": Frame(0, b"/runs/array"),
        "base_dir": Frame(0, b"/runs"),
        "members": Frame(0, "\n".join(rows).encode()),
        **frames,
    }


ARRAY = TaskArray.of([member(index) for index in range(3)], "a")
PLACE = f"{ARRAY.token} 0"


def read(row: str, **frames: Frame) -> Any:
    others = [f"{index}|new||{STARTED}|{ARRAY.token} {index}|9_{index}" for index in (1, 2)]
    found = read_array_answer(answer(f"0|{row}", *others, **frames), ARRAY, log_name="stdout.log")
    assert isinstance(found, list)
    assert all(isinstance(one, Submission) for one in found[1:])
    return found[0]


def test_a_new_element_is_a_submission() -> None:
    one = read(f"new||{STARTED}|{PLACE}|9_0")
    run_dir = f"/runs/{ARRAY.members[0].token}"
    assert (one.job_id, one.run_dir, one.is_adopted) == ("9_0", run_dir, False)
    assert one.stdout_path == one.stderr_path == f"{run_dir}/stdout.log"
    assert one.array_token == ARRAY.token


def test_one_that_was_submitted_before_is_adopted() -> None:
    one = read(f"old||{STARTED}|af00000000000000000000.1 4|7_4")
    assert (one.job_id, one.is_adopted) == ("7_4", True)
    assert one.array_token == "af00000000000000000000.1"
    alone = read(f"old||{STARTED}|{PLACE}|77")
    assert (alone.job_id, alone.array_token) == ("77", None)


@pytest.mark.parametrize(
    "row",
    [
        f"old||{STARTED}|{PLACE}|",
        "old||2026-11-20T07:00:00+00:00||7_4",
        "old||||7_4",
        f"old||{STARTED}||garbage",
    ],
    ids=["no id", "another run's", "nobody's", "no job id"],
)
def test_one_that_is_not_certain_has_to_be_looked_for(row: str) -> None:
    assert isinstance(read(row), Claimed)


def test_what_was_killed_or_given_up_is_no_submission() -> None:
    assert read(f"new|cancel|{STARTED}|{PLACE}|") == Killed(
        run_dir=f"/runs/{ARRAY.members[0].token}", job_id=None
    )
    assert read(f"new|cancel|{STARTED}|{PLACE}|9_0", killed=Frame(0, b"")).job_id == "9_0"
    given_up = read(f"new||{STARTED}|{PLACE}|given up for af0.2")
    assert isinstance(given_up, SubmitKilledError)


def test_a_kill_that_scancel_did_not_carry_out_is_left_to_the_task() -> None:
    one = read(f"new|cancel|{STARTED}|{PLACE}|9_0", killed=Frame(1, b"slurmctld is away"))
    assert isinstance(one, Submission)


def test_an_sbatch_without_a_verdict_is_none() -> None:
    frames = answer(sbatch=Frame(1, b"Socket timed out on send/recv operation"))
    del frames["members"]
    assert isinstance(read_array_answer(frames, ARRAY, log_name="l"), NoVerdict)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Invalid job array specification", True),
        ("AssocMaxSubmitJobLimit", True),
        ("Unable to create job record, try again", True),
        ("invalid partition specified: nope", False),
        ("Invalid account or account/partition combination specified", False),
    ],
)
def test_a_refusal_that_asks_for_less_is_known(said: str, expected: bool) -> None:
    frames = answer(sbatch=Frame(1, f"sbatch: error: Batch job submission failed: {said}".encode()))
    del frames["members"]
    with pytest.raises((SubmitRejectedError, SiteUnavailableError)) as caught:
        read_array_answer(frames, ARRAY, log_name="l")
    assert is_too_many(caught.value) is expected
    assert not is_too_many(ValueError(said))


def test_a_member_that_was_not_planned_to_be_shared_is_alone() -> None:
    plain = member(0)
    request = replace(plain.request, exports="")
    assert not replace(plain, request=request).can_coalesce
