"""What a check of a connection says of each thing, found or not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.sites.load import load_profile
from airflow_provider_csc.sites.remarks import Remark, Result, remark_on
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.preflight_facts import PreflightFacts, Reservation, Room
from airflow_provider_csc.slurm.site_facts import PartitionFacts
from tests.pure.sites.test_preflight import answers

if TYPE_CHECKING:
    from airflow_provider_csc.sites.model import SiteProfile

SMALL = PartitionFacts(
    name="small",
    is_up=True,
    is_hidden=False,
    hands_out_nodes=False,
    max_seconds=3 * 86_400,
    is_default=True,
)
OPTIONS: dict[str, str | bool] = {"account": "project_1", "time": "0-01:00:00"}
ROIHU = load_profile("roihu-cpu")


def facts(**changes: Any) -> PreflightFacts:
    room = {"free_bytes": 2**40, "free_files": 10**6, "kind": "lustre", "mount": "/scratch"}
    given = {
        "asked_at": 1_790_000_000,
        "user": "alice",
        "maintenances": (),
        "accounts": {"project_1": ()},
        "partitions": {"small": SMALL},
        "room": Room(path="/scratch/project_1/alice", **room),
    }
    return PreflightFacts(**given | changes)


def said(
    known: PreflightFacts,
    profile: SiteProfile | None = None,
    options: dict[str, str | bool] | None = None,
) -> dict[str, Remark]:
    remarks = list(remark_on(OPTIONS if options is None else options, known, profile))
    assert len({each.check for each in remarks}) == len(remarks)
    return {each.check: each for each in remarks}


def test_where_all_is_well_each_look_has_its_line() -> None:
    remarks = said(facts())

    assert {each.result for each in remarks.values()} == {Result.OK}
    assert {name: each.what for name, each in remarks.items()} == {
        "account": "alice may charge project_1.",
        "maintenance": "None is planned.",
        "partition": "small is UP, for jobs of at most 3-00:00:00. Open are: small.",
        "work_dir": "1.0 TiB and 1000000 files are left at /scratch/project_1/alice (lustre).",
        "shared": "lustre is seen by all nodes.",
    }


def test_a_site_with_programs_of_its_own_has_more() -> None:
    remarks = said(facts(further=answers()), ROIHU)

    assert remarks["balance"].what == (
        "project_1 has 59980 CPU BU, 970 GPU BU, 299960 Storage BU left."
    )
    assert remarks["work_dir"].what == (
        "103.0 GiB of 250.0 GiB and 389000 of 500000 files are used at /scratch/project_1."
    )
    assert {each.result for each in remarks.values()} == {Result.OK}


def test_a_finding_is_a_warning_with_its_remedy() -> None:
    remark = said(facts(), options={"account": "project_2"})["account"]

    assert remark.result is Result.WARNING
    assert remark.what == "alice is no member of account 'project_2' here."
    assert remark.why == "sbatch refuses such a job."
    assert remark.remedy.startswith("There are: project_1.")


def test_a_finding_that_is_not_certain_is_unknown() -> None:
    staffed = replace(SMALL, accounts=frozenset({"staff"}))
    remark = said(facts(partitions={"small": staffed}))["partition"]

    assert remark.result is Result.UNKNOWN
    assert remark.what == "Partition 'small' lists only the accounts staff."


@pytest.mark.parametrize(
    ("check", "question", "field"),
    [
        ("account", "associations", "accounts"),
        ("maintenance", "reservations", "maintenances"),
        ("partition", "partitions", "partitions"),
        ("work_dir", "room", "room"),
    ],
)
def test_what_was_not_answered_is_unknown_and_never_fine(
    check: str, question: str, field: str
) -> None:
    remarks = said(facts(**{field: None}, problems={question: "it failed"}))

    assert remarks[check] == Remark(check, Result.UNKNOWN, "it failed")


def test_so_is_a_balance_and_a_quota_that_cannot_be_read() -> None:
    failed = {"balance": Frame(124, b""), "workspaces": Frame(127, b"not found")}
    remarks = said(facts(further=failed), ROIHU)

    assert remarks["balance"].result is Result.UNKNOWN
    assert remarks["quota"].result is Result.UNKNOWN
    assert remarks["work_dir"].result is Result.OK


def test_without_an_account_no_balance_is_known() -> None:
    remarks = said(facts(further={}), ROIHU, {})

    assert remarks["balance"].what == "No account is named whose balance could be asked for."
    assert remarks["balance"].result is Result.UNKNOWN


def test_the_next_maintenance_is_named() -> None:
    later = Reservation(
        name="autumn", start=1_790_086_400, end=1_790_090_000, nodes="c1", is_of_all_nodes=True
    )
    remark = said(facts(maintenances=(later,)))["maintenance"]

    assert remark.result is Result.OK
    assert remark.what.startswith("The next one (autumn), of all nodes, is from 2026-09-22 14:13")


@pytest.mark.parametrize(("kind", "result"), [("tmpfs", Result.WARNING), ("ext4", None)])
def test_only_what_is_certain_is_said_of_being_shared(kind: str, result: Result | None) -> None:
    room = Room(path="/tmp/x", free_bytes=2**40, free_files=None, kind=kind, mount="/tmp")
    remark = said(facts(room=room)).get("shared")

    assert (remark and remark.result) is result


def test_a_row_has_plain_values() -> None:
    assert Remark("account", Result.OK, "fine").to_row() == {
        "check": "account",
        "result": "ok",
        "what": "fine",
        "why": "",
        "remedy": "",
    }


def test_a_balance_that_is_not_told_is_unknown() -> None:
    text = answers(cpu="N/A", gpu="N/A", storage="N/A")
    remark = said(facts(further=text), ROIHU)["balance"]

    assert remark.result is Result.UNKNOWN
    assert remark.what == "The site does not say what project_1 has left."


def test_units_that_are_overdrawn_are_a_warning_though_the_job_needs_others() -> None:
    remark = said(facts(further=answers(gpu=-6_600_000)), ROIHU)["balance"]

    assert remark.result is Result.WARNING
    assert remark.what == "project_1 is overdrawn by 6600000 GPU BU."
    assert said(facts(further=answers(gpu=0)), ROIHU)["balance"].result is Result.OK
