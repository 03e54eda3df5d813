"""Profiles of the real cluster: logging in by them, running by them, comparing them with it."""

from __future__ import annotations

import json
import platform
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_csc.__main__ import main
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from tests.support.task import run_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.cluster

OTHER = f"SHA256:{'A' * 43}"


@pytest.fixture
def sites(
    cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Write a profile of the test's own into a folder that goes before the cluster's."""
    (tmp_path / "sites").mkdir()
    monkeypatch.setenv(
        "AIRFLOW__CSC__SITES_FOLDER", f"{tmp_path / 'sites'}:{cluster['sites_folder']}"
    )

    def write(name: str, text: str) -> None:
        (tmp_path / "sites" / f"{name}.yaml").write_text(text)

    return write


@pytest.fixture
def connect(
    cluster: dict[str, Any],
    sites: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., SlurmHook]:
    """Define ``slurm_default`` by a site, a log-in and a key alone, in a home without known hosts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")

    def define(site: str, **extra: Any) -> SlurmHook:
        values = {"site": site, "key_file": cluster["users"]["alice"]["private_key"], **extra}
        connection = {"conn_type": "slurm", "login": "alice", "extra": values}
        monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", json.dumps(connection))
        return SlurmHook()

    return define


def host_key_fingerprint(cluster: dict[str, Any]) -> str:
    key = subprocess.run(
        ["ssh-keygen", "-l", "-E", "sha256", "-f", "-"],
        input=cluster["ssh_host_key"],
        capture_output=True,
        text=True,
        check=True,
    )
    return key.stdout.split()[1]


# Logging in.


@pytest.mark.parametrize("site", ["testcluster", "testcluster-lumi"])
def test_a_site_a_log_in_and_a_key_are_enough(site: str, connect: Callable[..., SlurmHook]) -> None:
    is_well, text = connect(site).test_connection()
    assert is_well, text
    assert text.startswith("Logged in as alice")


def test_a_host_key_of_another_fingerprint_is_refused(
    cluster: dict[str, Any], sites: Callable[..., None], connect: Callable[..., SlurmHook]
) -> None:
    prints = f"extends: testcluster\nlog_in: {{host_key_fingerprints: ['{OTHER}']}}\n"
    sites("other", prints)
    is_well, text = connect("other").test_connection()
    assert not is_well
    assert f"it shows ssh-ed25519 {host_key_fingerprint(cluster)}" in text
    assert f"trusted is {OTHER}" in text


def test_a_profile_may_have_several_fingerprints(
    cluster: dict[str, Any], sites: Callable[..., None], connect: Callable[..., SlurmHook]
) -> None:
    both = f"['{OTHER}', '{host_key_fingerprint(cluster)}']"
    sites("both", f"extends: testcluster\nlog_in: {{host_key_fingerprints: {both}}}\n")
    assert connect("both").test_connection()[0]


def test_the_key_of_a_jump_host_is_not_the_sites(
    cluster: dict[str, Any], connect: Callable[..., SlurmHook], tmp_path: Path
) -> None:
    """It is the same sshd here, and yet not trusted by the name of a jump host until it is known."""
    port = cluster["ssh_port"]
    hook = connect("testcluster", jump_hosts=f"alice@localhost:{port}")
    is_well, text = hook.test_connection()
    assert not is_well
    assert "The host key of localhost is unknown" in text
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(
        f"[localhost]:{port} {cluster['ssh_host_key']}\n"
    )
    assert hook.test_connection()[0]


# Running.

SCRIPT = """#!/bin/bash
echo "style=$SITE_STYLE init=$CSC_ENV_INIT_NON_INTERACTIVE set_up=$SITE_SET_UP export=$SLURM_EXPORT_ENV"
module load local-tools 2>/dev/null
echo "tools=$LOCAL_TOOLS_VERSION"
"""


def lines_of(hook: SlurmHook, **options: Any) -> list[str]:
    task = SlurmSubmitOperator(
        task_id="job",
        script=SCRIPT,
        options={"time": "00:02:00", "mem": "100M", **options},
        deferrable=True,
    )
    result = run_task(task)
    assert result["state"] == "COMPLETED"
    return hook.read_bytes(result["stdout_path"]).decode().splitlines()


def test_a_job_gets_what_one_profile_says(connect: Callable[..., SlurmHook]) -> None:
    assert lines_of(connect("testcluster")) == ["style= init=yes set_up= export=ALL", "tools="]


def test_the_same_job_gets_what_another_profile_says(connect: Callable[..., SlurmHook]) -> None:
    hook = connect("testcluster-lumi")
    assert lines_of(hook) == ["style=lumi init= set_up=testcluster-lumi export=", "tools=1.0"]


NEEDS = """
from airflow.sdk import DAG
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator

with DAG("portable", schedule=None):
    task = SlurmSubmitOperator(
        task_id="job",
        command="true",
        job_resources={"gpus_per_node": 1, "cpus_per_task": 1, "time": "00:02:00"},
        deferrable=True,
    )
"""


@pytest.mark.parametrize(
    ("site", "partition", "wanted"),
    [
        ("testcluster", "gpu", "gpu:gh200:1"),
        ("testcluster-lumi", "small-g", "gpu:1"),
    ],
)
def test_one_dag_runs_under_both_profiles(
    site: str, partition: str, wanted: str, connect: Callable[..., SlurmHook]
) -> None:
    hook = connect(site)
    namespace: dict[str, Any] = {}
    exec(NEEDS, namespace)
    result = run_task(namespace["task"])
    assert (result["state"], result["partition"]) == ("COMPLETED", partition)
    assert "gres/gpu=1" in hook.run(f"sacct -X -n -P -o AllocTRES -j {result['job_id']}").text
    shown = hook.run(f"scontrol --oneliner show job {result['job_id']}").text
    assert f"TresPerNode=gres:{wanted}" in shown.split()


def test_a_retired_site_takes_no_job_and_answers(
    sites: Callable[..., None], connect: Callable[..., SlurmHook]
) -> None:
    sites("old", "extends: testcluster\nretired: {since: 2026-07-31, successor: testcluster}\n")
    hook = connect("old", work_dir="~/never-made")
    task = SlurmSubmitOperator(task_id="job", command="true", deferrable=True)
    with pytest.raises(AirflowFailException, match=r"since 2026-07-31.*'testcluster'"):
        run_task(task)
    is_well, text = hook.test_connection()
    assert is_well
    assert "takes no jobs since 2026-07-31" in text
    assert hook.run("ls -d ~/never-made").status != 0


# Comparing.


def check(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code: Any = 0
    try:
        main(["sites", "check", "slurm_default", *options])
    except SystemExit as end:
        code = end.code
    return (code, *capsys.readouterr())


@pytest.mark.parametrize("site", ["testcluster", "testcluster-lumi"])
def test_the_clusters_own_profiles_are_true(
    site: str, connect: Callable[..., SlurmHook], capsys: pytest.CaptureFixture[str]
) -> None:
    connect(site)
    code, out, err = check(capsys)
    assert (code, out) == (0, "")
    assert f"nothing else than the profile {site!r}" in err


PLANTED = """
extends: testcluster
cluster: another
jobs: {max_array_size: 5}
partitions:
  small: {max_time: 1-00:00:00, max_nodes: 2, memory_per_node: 32G, cores_per_node: 4}
  gpu: {gpus: {type: a100, per_node: 8}}
  gone: {}
other_partitions: [down, restricted, standard]
"""


def test_planted_differences_are_found(
    sites: Callable[..., None],
    connect: Callable[..., SlurmHook],
    capsys: pytest.CaptureFixture[str],
) -> None:
    sites("planted", PLANTED)
    connect("planted")
    code, out, _ = check(capsys, "--output", "json")
    assert code == 1
    assert {row["field"]: (row["profile"], row["live"]) for row in json.loads(out)} == {
        "cluster": ("another", "testcluster"),
        "jobs.max_array_size": ("5", "10001"),
        "partitions.gone": ("there", "not there"),
        "partitions.small-g": ("not there", "there"),
        "partitions.small.max_time": ("1-00:00:00", "3-00:00:00"),
        "partitions.small.max_nodes": ("2", "no limit"),
        "partitions.small.cores_per_node": ("4", "8"),
        "partitions.small.memory_per_node": ("32G", "16000M"),
        "partitions.gpu.gpus.per_node": ("8", "4"),
        "partitions.gpu.gpus.type": ("a100", "gh200"),
    }


def test_a_difference_is_a_line(
    sites: Callable[..., None],
    connect: Callable[..., SlurmHook],
    capsys: pytest.CaptureFixture[str],
) -> None:
    sites("planted", "extends: testcluster\npartitions: {test: {max_time: 1:00:00}}\n")
    connect("planted")
    code, out, _ = check(capsys, "--output", "plain")
    assert code == 1
    assert [line.split() for line in out.splitlines()] == [
        ["field", "profile", "live"],
        ["partitions.test.max_time", "0-01:00:00", "0-00:15:00"],
    ]


def test_an_architecture_that_differs_is_found(
    sites: Callable[..., None],
    connect: Callable[..., SlurmHook],
    capsys: pytest.CaptureFixture[str],
) -> None:
    sites("arm", "extends: testcluster\narchitecture: aarch64\n")
    connect("arm")
    _, out, _ = check(capsys, "--output", "json")
    rows = {row["field"]: (row["profile"], row["live"]) for row in json.loads(out)}
    assert rows["partitions.small.architecture"] == ("aarch64", platform.machine())


def test_a_command_that_fails_is_no_difference(
    connect: Callable[..., SlurmHook], capsys: pytest.CaptureFixture[str]
) -> None:
    connect("testcluster", login_setup="PATH=/no/such")
    code, out, err = check(capsys)
    assert (code, out) == (2, "")
    assert "No answer from scontrol show partition" in err
