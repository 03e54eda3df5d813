"""What only a site's own profile lets be found before a job is submitted."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_csc.sites.load import load_profile
from airflow_provider_csc.sites.preflight import (
    build_questions,
    find_problems,
    find_unknown,
)
from airflow_provider_csc.slurm.framing import Frame, build_program, parse_answer
from airflow_provider_csc.slurm.preflight_facts import PreflightFacts, Room
from airflow_provider_csc.slurm.site_facts import PartitionFacts

if TYPE_CHECKING:
    from airflow_provider_csc.sites.model import SiteProfile

# As the CSC user guide shows them (docs/computing/index.md, disk.md).
PROJECTS = """\
Project: project_1        Owner: Kalle
Title: "Modeling"
Start: 2019-08-20 End: 2029-10-23 Status: open
Billing units      Budget        Used      Remain
--------------      ------        ----      ------
CPU BU:             60000          20       {cpu}
GPU BU:              1000          30       {gpu}
Storage BU:        300000          40       {storage}
"""
WORKSPACES = """\
/users/alice                    4.4G/15G         24K/150K        n/a
Project: project_1 "Project X"
/scratch                         1.0G/2.0G         1K/500k       180d
/scratch/project_1                {size}/250G      {files}/500k       180d
"""
ROIHU = load_profile("roihu-cpu")
OPTIONS: dict[str, str | bool] = {
    "account": "project_1",
    "partition": "small",
    "time": "0-02:00:00",
    "cpus-per-task": "16",
    "mem": "16G",
}
# 16 cores for two hours, at 0.75.
COST = 24


def answers(**changes: Any) -> dict[str, Frame]:
    given = {"cpu": 59980, "gpu": 970, "storage": 299960, "size": "103G", "files": "389K"} | changes
    texts = {"balance": PROJECTS.format(**given), "workspaces": WORKSPACES.format(**given)}
    return {name: Frame(0, text.encode()) for name, text in texts.items()}


def room_at(path: str, kind: str = "lustre") -> Room:
    return Room(path=path, free_bytes=10**12, free_files=10**6, kind=kind, mount="/scratch")


def facts(path: str = "/scratch/project_1/alice", **changes: Any) -> PreflightFacts:
    room = room_at(path)
    return PreflightFacts(**{"asked_at": 1, "room": room, "further": answers()} | changes)


def found(
    facts: PreflightFacts,
    options: dict[str, str | bool] | None = None,
    profile: SiteProfile = ROIHU,
    architecture: str | None = None,
) -> list[str]:
    asked = OPTIONS if options is None else options
    return [str(each) for each in find_problems(asked, facts, profile, architecture)]


# ---- what is asked ----


def test_a_site_is_asked_what_its_profile_has_programs_for() -> None:
    text = build_questions(ROIHU, {"account": "project_1"})

    assert "csc-projects -p project_1\n" in text
    assert "csc-workspaces\n" in text
    assert all("timeout 15 " in line for line in text.splitlines() if "csc-" in line)


def test_without_an_account_no_balance_is_asked_for() -> None:
    assert "csc-projects" not in build_questions(ROIHU, {})


def test_another_site_is_asked_nothing_more() -> None:
    assert build_questions(load_profile("generic"), OPTIONS) == ""
    # What lumi-quota prints is not read.
    assert "lumi-quota" not in build_questions(load_profile("lumi"), OPTIONS)


def test_the_log_in_nodes_own_variables_are_asked_for() -> None:
    program = build_program(build_questions(ROIHU, {}), mark="@x")
    done = subprocess.run(
        ["bash", "-c", program], env={"TMPDIR": "/local a"}, capture_output=True, check=True
    )

    frame = parse_answer(done.stdout, mark="@x")["local_disks"]

    assert frame.text == "LOCAL_SCRATCH=\nTMPDIR=/local a"


# ---- balance ----


def test_a_site_with_all_of_it_has_no_finding() -> None:
    assert found(facts()) == []
    assert find_unknown(OPTIONS, facts(), ROIHU) == {}


def test_a_job_that_can_cost_more_than_is_left_is_told() -> None:
    [text] = found(facts(further=answers(cpu=COST - 1)))

    assert text.startswith(
        "The job costs at most 24 CPU BU, if it runs for its whole 02:00:00, and project_1 has 23 "
        "CPU BU left."
    )
    assert found(facts(further=answers(cpu=COST))) == []


@pytest.mark.parametrize("left", [0, -20])
def test_a_project_with_nothing_left_is_told_once(left: int) -> None:
    [text] = found(facts(further=answers(cpu=left)))

    assert text.startswith("project_1 has no CPU BU left. sbatch refuses jobs that are charged")


def test_the_units_of_other_jobs_do_not_matter() -> None:
    assert found(facts(further=answers(gpu=0))) == []


def test_without_units_of_storage_no_job_is_taken() -> None:
    [text] = found(facts(further=answers(storage=-1)))

    assert text.startswith("project_1 has no Storage BU left. sbatch refuses every job")


def test_a_job_that_names_no_partition_is_that_of_the_default_one() -> None:
    named = {name: value for name, value in OPTIONS.items() if name != "partition"}
    small = PartitionFacts(
        name="small", is_up=True, is_hidden=False, hands_out_nodes=False, is_default=True
    )

    [text] = found(facts(further=answers(cpu=1), partitions={"small": small}), named)

    assert "at most 24 CPU BU" in text
    assert found(facts(further=answers(cpu=1)), named) == []


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (Frame(127, b"env: 'csc-projects': No such file or directory"), "status 127: env: 'csc-"),
        (Frame(124, b""), "status 124"),
        (Frame(0, b"motd"), "it printed 'motd'"),
        (Frame(0, answers()["balance"].data.replace(b"t_1", b"t_2")), "nothing of 'project_1'"),
    ],
)
def test_a_balance_that_cannot_be_read_is_not_known(frame: Frame, said: str) -> None:
    unread = facts(further=answers() | {"balance": frame})

    assert found(unread) == []
    assert said in find_unknown(OPTIONS, unread, ROIHU)["balance"]


# ---- quota ----


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"size": "250G"},
            "The quota of /scratch/project_1, 250.0 GiB, is nearly used up, as far as csc-",
        ),
        (
            {"size": "260G"},
            "260.0 GiB are used of the quota of /scratch/project_1, 250.0 GiB. The job's log",
        ),
        (
            {"files": "500K"},
            "The quota of /scratch/project_1, 500000 files, is nearly used up, as far as csc-",
        ),
        (
            {"files": "501K"},
            "501000 files are used of the quota of /scratch/project_1, 500000. A job has",
        ),
        ({"size": "249G"}, None),
        ({"files": "n/a"}, None),
    ],
)
def test_a_quota_that_is_used_up_is_told(changes: dict[str, str], said: str | None) -> None:
    texts = found(facts(further=answers(**changes)))

    assert (said is None and not texts) or (said is not None and texts[0].startswith(said))


FULL = Room(path="/elsewhere", free_bytes=0, free_files=None, kind="lustre", mount="/")


@pytest.mark.parametrize(
    ("changes", "count"),
    [({"size": "250G"}, 2), ({"files": "500K"}, 2), ({"size": "251G"}, 1), ({}, 0)],
)
def test_where_a_quota_is_rounded_the_file_system_counts_too(
    changes: dict[str, str], count: int
) -> None:
    inside = Room(path="/scratch/project_1", free_bytes=0, free_files=None, kind="lustre")
    texts = found(facts(room=inside, further=answers(**changes)))

    assert len(texts) == count
    assert sum("0 B left at /scratch/project_1" in text for text in texts) == (count == 2)


def test_the_file_system_counts_where_no_quota_is_known() -> None:
    [text] = found(facts(room=FULL))
    assert "0 B left at /elsewhere" in text

    inside = Room(path="/scratch/project_1", free_bytes=0, free_files=None)
    assert found(facts(room=inside)) == []
    unread = answers() | {"workspaces": Frame(124, b"")}
    [text] = found(facts(room=inside, further=unread))
    assert "0 B left" in text
    assert "workspaces" in find_unknown(OPTIONS, facts(further=unread), ROIHU)


# ---- architecture ----


def test_an_environment_for_another_architecture_is_told() -> None:
    [text] = found(facts(), architecture="aarch64")

    assert text.startswith(
        "The environment is built for aarch64, and the nodes of partition small are x86_64, as the "
        "profile 'roihu-cpu' says. The job ends when it activates it."
    )
    assert found(facts(), architecture="x86_64") == []


@pytest.mark.parametrize("named", ["gpumedium", "small,gpumedium"])
def test_of_a_partition_that_the_profile_does_not_have_nothing_is_known(named: str) -> None:
    elsewhere = OPTIONS | {"partition": named}

    assert found(facts(), elsewhere, architecture="aarch64") == []


# ---- what compute nodes do not see ----


@pytest.mark.parametrize(
    ("path", "variables", "said"),
    [
        ("/local/alice/runs", "LOCAL_SCRATCH=\nTMPDIR=/local/alice/", "below /local/alice, which"),
        ("/local_scratch/1/runs", "LOCAL_SCRATCH=/local_scratch/1\nTMPDIR=", "/local_scratch/1"),
        ("/local/alicia", "LOCAL_SCRATCH=\nTMPDIR=/local/alice", None),
        ("/scratch/x", "LOCAL_SCRATCH=\nTMPDIR=", None),
        ("/scratch/x", "LOCAL_SCRATCH=\nTMPDIR=/", None),
    ],
)
def test_a_disk_that_each_node_has_for_itself_is_told(
    path: str, variables: str, said: str | None
) -> None:
    answered = {"local_disks": Frame(0, variables.encode())}
    texts = found(facts(room=room_at(path, "xfs"), further=answered))

    assert (said is None and not texts) or (said is not None and said in texts[0])


def test_so_is_one_that_the_profile_names_by_its_path() -> None:
    [text] = found(facts(room=room_at("/tmp/runs", "xfs")), profile=load_profile("lumi"))

    assert "below /tmp, which each node of LUMI has for itself" in text


@pytest.mark.parametrize("kind", ["lustre", "nfs4"])
def test_a_file_system_that_is_made_to_be_shared_is_no_nodes_own(kind: str) -> None:
    assert not found(facts(room=room_at("/tmp/runs", kind)), profile=load_profile("lumi"))


@pytest.mark.parametrize(
    ("variables", "count"),
    [("TMPDIR=\nLOCAL_SCRATCH=", 0), ("LOCAL_SCRATCH=/local", 0), ("TMPDIR=/local", 1)],
)
def test_a_variable_that_only_jobs_have_leaves_no_path(variables: str, count: int) -> None:
    partition = ROIHU.partitions["small"]
    assert partition.local_disk is not None
    disk = partition.local_disk.model_copy(update={"path": "$TMPDIR/scratch"})
    small = partition.model_copy(update={"local_disk": disk})
    profile = ROIHU.model_copy(update={"partitions": {"small": small}})
    room = "/local/scratch/x" if count else "/scratch/x"
    answered = {"local_disks": Frame(0, variables.encode())}

    texts = found(facts(room=room_at(room, "xfs"), further=answered), profile=profile)

    assert len(texts) == count


def test_a_directory_in_memory_is_told_once() -> None:
    room = Room(path="/tmp/runs", free_bytes=None, free_files=None, kind="tmpfs", mount="/tmp")

    [text] = found(facts(room=room), profile=load_profile("lumi"))

    assert "a tmpfs in the log-in node's memory" in text
