"""What is found to be in a job's way, by what a site says of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.errors import SubmitRejectedError
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.preflight import (
    describe_forecast,
    find_problems,
    parse_test_only,
    to_value,
)
from airflow_provider_csc.slurm.preflight_facts import (
    PreflightFacts,
    Reservation,
    Room,
    parse_preflight,
)
from airflow_provider_csc.slurm.site_facts import PartitionFacts

NOW = 1_790_000_000
HOUR = 3600
# Printed by scontrol 22.05 with SLURM_TIME_FORMAT=%s.
RESERVATION = (
    "ReservationName=maint StartTime={start} EndTime={end} Duration=04:00:00 Nodes=c[1-4] NodeCnt=4 "
    "CoreCnt=32 Features=(null) PartitionName=(null) Flags={flags} TRES=cpu=32 Users=root "
    "Groups=(null) Accounts=(null) Licenses=(null) State=INACTIVE BurstBuffer=(null) Watts=n/a "
    "MaxStartDelay=(null)"
)


# Printed by scontrol 22.05 (tests/outputs), of which the words are left out that are not read.
PARTITION = (
    "PartitionName={name} AllowAccounts=ALL Default={default} Hidden=NO MaxNodes={nodes} "
    "MaxTime={time} MinNodes=0 OverSubscribe=NO State={state} TotalNodes=4"
)


def partition(name: str, **changes: str) -> str:
    given = {"default": "NO", "nodes": "UNLIMITED", "time": "3-00:00:00", "state": "UP"}
    return PARTITION.format(name=name, **(given | changes))


def frames(**texts: str) -> dict[str, Frame]:
    given = {
        "clock": str(NOW),
        "user": "alice",
        "reservations": "No reservations in the system",
        "associations": "roihu|project_2001234||",
        "cluster": "ClusterName             = roihu",
        "partitions": partition("small", default="YES"),
        "room": "/scratch\n 1000000000 5000 lustre /scratch",
    }
    return {name: Frame(0, text.encode()) for name, text in (given | texts).items()}


def facts(**changes: Any) -> PreflightFacts:
    return PreflightFacts(**{"asked_at": NOW, "user": "alice"} | changes)


def maintenance(start: int, end: int, **changes: Any) -> Reservation:
    given = {"name": "maint", "nodes": "c[1-4]", "is_of_all_nodes": True, "node_count": 4}
    return Reservation(start=start, end=end, **given | changes)


def found(options: dict[str, str | bool], facts: PreflightFacts) -> list[str]:
    return [str(each) for each in find_problems(options, facts)]


SMALL = PartitionFacts(
    name="small",
    is_up=True,
    is_hidden=False,
    hands_out_nodes=False,
    max_seconds=72 * HOUR,
    nodes=4,
    is_default=True,
)


def test_answers_are_read() -> None:
    line = RESERVATION.format(start=NOW + 9, end=NOW + 99, flags="MAINT,IGNORE_JOBS,ALL_NODES")
    other = RESERVATION.format(start=NOW, end=NOW + 99, flags="SPEC_NODES")

    read = parse_preflight(frames(reservations=f"{line}\n{other}", balance="CPU BU: 1"))

    assert read == PreflightFacts(
        asked_at=NOW,
        user="alice",
        maintenances=(maintenance(NOW + 9, NOW + 99),),
        accounts={"project_2001234": ()},
        partitions={"small": SMALL},
        room=Room(
            path="/scratch", free_bytes=10**9, free_files=5000, kind="lustre", mount="/scratch"
        ),
        further={"balance": Frame(0, b"CPU BU: 1")},
    )


def test_what_was_not_answered_is_not_known_and_is_told() -> None:
    answers = frames() | {
        "reservations": Frame(1, b"slurm_load_reservations error: Unable to contact"),
        "associations": Frame(124, b""),
        "room": Frame(1, b"df: no such file"),
    }

    read = parse_preflight(answers)

    assert (read.maintenances, read.accounts, read.room) == (None, None, None)
    assert len(read.problems) == 3
    assert not found({"account": "x", "time": "1-00:00:00"}, read)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("reservations", ""),
        ("reservations", "something else"),
        ("associations", "something else"),
        ("partitions", ""),
        ("partitions", "PartitionName=small State=UP"),
        ("room", "/scratch"),
    ],
)
def test_an_answer_of_another_form_is_not_known(name: str, text: str) -> None:
    read = parse_preflight(frames(**{name: text}))

    assert read.problems[name].endswith(": the answer cannot be read")


def test_a_cluster_without_accounting_has_said_so() -> None:
    said = b"You are not running a supported accounting_storage plugin\nOnly 'x' is supported."

    read = parse_preflight(frames() | {"associations": Frame(1, said)})

    assert read.accounts == {}
    assert not read.problems


def test_facts_survive_being_kept() -> None:
    whole = parse_preflight(
        frames(
            reservations=RESERVATION.format(start=NOW, end=NOW + 1, flags="MAINT"),
            associations="roihu|a|small|\nroihu|a|test|0\nroihu|b||\n",
            partitions="\n".join(
                (
                    partition("small").replace("Accounts=ALL", "Accounts=a,b"),
                    partition("test").replace("AllowAccounts=ALL", "DenyAccounts=c"),
                )
            ),
            balance="CPU BU: 1",
        )
        | {"workspaces": Frame(127, b"not found")}
    )
    assert whole.partitions is not None
    assert whole.partitions["test"].denied == {"c"}
    assert whole.closed == {"a": ("test",)}
    for each in (whole, facts()):
        assert PreflightFacts.from_payload(json.loads(json.dumps(each.to_payload()))) == each


def test_an_account_that_is_open_everywhere_once_is_open_everywhere() -> None:
    read = parse_preflight(
        frames(associations="roihu|a|small|\nroihu|a||\nroihu|b|small|\nroihu|b|test|\n")
    )

    assert read.accounts == {"a": (), "b": ("small", "test")}


@given(st.dictionaries(st.sampled_from(sorted(frames())), st.text(max_size=60)))
def test_no_answer_is_an_error(texts: dict[str, str]) -> None:
    answers = frames() | {
        name: Frame(0, text.encode("utf-8", "surrogatepass")) for name, text in texts.items()
    }
    read = parse_preflight(answers)
    list(find_problems({"account": "a", "time": "1-00:00:00", "partition": "small"}, read))


def test_a_job_that_would_meet_a_maintenance_is_told_how_long_it_may_be() -> None:
    soon = facts(maintenances=(maintenance(NOW + 5 * HOUR + 30, NOW + 9 * HOUR),))

    [text] = found({"time": "1-00:00:00"}, soon)

    assert "A maintenance (maint) of all nodes is from 2026-09-21" in text
    assert "With a time of less than 0-05:00:00 it may start before." in text
    assert not found({"time": "05:00:00"}, soon)
    assert not found({}, soon)
    assert not found({"time": "UNLIMITED"}, soon)


@pytest.mark.parametrize("name", ["time", "time-min"])
@pytest.mark.parametrize("text", ["1h", "1:2:3:4", ""])
def test_of_a_time_that_slurm_does_not_read_nothing_is_said(name: str, text: str) -> None:
    soon = facts(
        maintenances=(maintenance(NOW + HOUR, NOW + 9 * HOUR),), partitions={"small": SMALL}
    )

    assert found({"partition": "small", name: text}, soon) == []
    assert found({"partition": "small", name: text, "nodes": "9"}, soon)


def test_a_maintenance_of_some_nodes_names_them() -> None:
    some = facts(
        maintenances=(maintenance(NOW - HOUR, NOW + HOUR, is_of_all_nodes=False, nodes="c1"),)
    )

    [text] = found({"time": "00:10:00"}, some)

    assert "of the nodes c1 goes on" in text


def test_a_maintenance_that_is_over_is_none() -> None:
    assert not found({"time": "1"}, facts(maintenances=(maintenance(NOW - 9, NOW - 1),)))


ACCOUNTS = {"project_1": (), "project_2": ("small", "test")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"account": "project_3"}, "alice is no member of account 'project_3'"),
        ({}, "No account is named. alice has several (project_1, project_2)"),
        ({"account": "project_2", "partition": "large"}, "It is in: small, test."),
        ({"account": "project_2", "partition": "small"}, None),
        ({"account": "PROJECT_2", "partition": "large"}, "It is in: small, test."),
        ({"account": "Project_1"}, None),
        ({"account": "project_1", "partition": "large"}, None),
    ],
)
def test_an_account_that_is_not_the_users_is_named_with_those_that_are(
    options: dict[str, str | bool], said: str | None
) -> None:
    texts = found(options, facts(accounts=ACCOUNTS))

    assert (said is None and not texts) or (said is not None and said in texts[0])


def test_a_cluster_without_accounting_has_no_accounts_to_miss() -> None:
    assert not found({"account": "x"}, facts(accounts={}))


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (Room(path="/s", free_bytes=5 * 2**20, free_files=None), "5.0 MiB left at /s"),
        (Room(path="/s", free_bytes=None, free_files=3), "Only 3 more files"),
        (Room(path="/s", free_bytes=None, free_files=None), None),
    ],
)
def test_a_full_file_system_is_told_of(room: Room, said: str | None) -> None:
    texts = found({}, facts(room=room))

    assert (said is None and not texts) or (said is not None and said in texts[0])


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (
            "roihu|a||0",
            {"account": "a"},
            "alice may submit no job for account 'a': MaxSubmitJobs is 0.",
        ),
        ("Roihu|a||0", {}, "alice may submit no job for account 'a'"),
        (
            "roihu|a|small|0\nroihu|a|test|",
            {"account": "a", "partition": "small"},
            "'a' in partition 'small':",
        ),
        ("roihu|a|small|0\nroihu|a|test|", {"account": "a", "partition": "test"}, None),
        ("roihu|a|small|0\nroihu|a|test|", {"account": "a", "partition": "small,test"}, None),
        ("roihu|a||0\nroihu|a|test|5", {"account": "a", "partition": "test"}, None),
        # Another cluster of the same slurmdbd has a row of its own.
        ("mahti|a||0\nroihu|a||", {"account": "a"}, None),
        ("roihu|a||\nmahti|a||0", {"account": "a"}, None),
        ("mahti|a||\nroihu|a||0", {"account": "a"}, "alice may submit no job for account 'a'"),
        ("mahti|a|small|0\nroihu|a||", {"account": "a", "partition": "small"}, None),
        ("mahti|b||\nroihu|a||", {"account": "b"}, "alice is no member of account 'b' here."),
        ("roihu|a||10", {"account": "a"}, None),
    ],
)
def test_an_account_that_is_closed_is_told_of(
    rows: str, options: dict[str, str | bool], said: str | None
) -> None:
    partitions = f"{partition('small', default='YES')}\n{partition('test')}"
    texts = found(options, parse_preflight(frames(associations=rows, partitions=partitions)))

    assert (said is None and not texts) or (said is not None and said in texts[0])


def test_a_job_without_a_partition_is_that_of_the_default_one() -> None:
    read = parse_preflight(frames(associations="roihu|a|test|"))

    [text] = found({"account": "a"}, read)

    assert "Account 'a' is not open to alice in partition 'small'" in text


@pytest.mark.parametrize(
    "cluster", [Frame(1, b"Unable to contact slurm controller"), Frame(0, b"")]
)
def test_of_a_cluster_whose_name_is_not_known_no_account_is_closed(cluster: Frame) -> None:
    rows = "mahti|a||0\nroihu|a||0\nmahti|b|small|0"
    read = parse_preflight(frames(associations=rows) | {"cluster": cluster})

    assert read.accounts == {"a": (), "b": ("small",)}
    assert read.closed == {}


@pytest.mark.parametrize("rows", ["", "mahti|a||"])
def test_a_user_without_an_association_is_not_a_cluster_without_accounting(rows: str) -> None:
    read = parse_preflight(frames(associations=rows))

    assert read.accounts is None
    assert read.problems == {
        "associations": "sacctmgr show associations: it names no association of alice here"
    }


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_a_directory_in_the_memory_of_the_log_in_node_is_told_of(kind: str) -> None:
    room = Room(path="/tmp/runs", free_bytes=None, free_files=None, kind=kind, mount="/tmp")

    [text] = found({}, facts(room=room))

    assert f"on /tmp, a {kind} in the log-in node's memory. Compute nodes do not see it" in text


@pytest.mark.parametrize("kind", ["ext4", "overlay", "lustre", "nfs4", ""])
def test_of_another_file_system_it_is_not_known(kind: str) -> None:
    room = Room(path="/tmp/runs", free_bytes=None, free_files=None, kind=kind, mount="/")

    assert not found({}, facts(room=room))


def test_a_maintenance_that_goes_on_is_told_whatever_the_time_limit() -> None:
    now = facts(maintenances=(maintenance(NOW - HOUR, NOW + HOUR),))

    [text] = found({}, now)

    assert "goes on" in text


def test_what_sbatch_expects_is_read() -> None:
    text = (
        f"sbatch: Job 12 to start at {NOW} using 2 processors on nodes c1 in partition small"
    ).encode()

    forecast = parse_test_only(Frame(0, text))

    assert "2026-09-21 14:13 UTC in partition small (c1)" in describe_forecast(forecast)
    assert to_value(forecast, ("--time=1",)) == {
        "options": ["--time=1"],
        "start_time": "2026-09-21T14:13:20+00:00",
        "partition": "small",
        "nodes": "c1",
    }


@pytest.mark.parametrize("status", [0, 1])
def test_what_sbatch_would_refuse_is_refused_with_a_remedy(status: int) -> None:
    said = b"allocation failure: Invalid account or account/partition combination specified"

    with pytest.raises(SubmitRejectedError, match="Check `account` and `partition`"):
        parse_test_only(Frame(status, said))


@pytest.mark.parametrize(
    ("options", "changes", "is_told"),
    [
        ({}, {}, False),
        ({"nodes": "2"}, {}, False),
        ({"nodes": "3"}, {}, True),
        ({"nodes": "1-4"}, {}, False),
        ({"nodelist": "c1"}, {}, True),
        ({"partition": "other"}, {}, True),
        ({}, {"node_count": 4}, True),
        ({}, {"node_count": None}, True),
        ({}, {"is_of_all_nodes": True}, True),
    ],
)
def test_a_maintenance_that_leaves_enough_nodes_is_in_no_jobs_way(
    options: dict[str, str | bool], changes: dict[str, Any], *, is_told: bool
) -> None:
    some = {"is_of_all_nodes": False, "nodes": "c[3-4]", "node_count": 2} | changes
    known = facts(
        maintenances=(maintenance(NOW + HOUR, NOW + 2 * HOUR, **some),), partitions={"small": SMALL}
    )

    texts = [text for text in found({"time": "1-00:00:00"} | options, known) if "A main" in text]

    assert bool(texts) == is_told
