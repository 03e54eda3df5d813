"""The connections that the stack's Airflow gets, and those for one outside of it."""

from __future__ import annotations

from typing import Any

from airflow_provider_csc.allas.connection import Fields, build_aws_extra
from airflow_provider_csc.transport.connection import ConnectionFields, parse_connection
from docker.lib.connection_file import connect_inside, connect_outside

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPh6mUnGKDjX8E6jTjqZq0Wn3gYtMDsWBbMJ8A4KrA6J"
CLUSTER: dict[str, Any] = {
    "ssh_port": 2222,
    "ssh_host_key": HOST_KEY,
    "sites": ["testcluster", "testcluster-lumi"],
    "s3_endpoint_url": "http://ceph:7480",
    "users": {
        "alice": {
            "private_key": "/somewhere/alice",
            "account": "project_2001234",
            "s3_access_key": "AKEY",
            "s3_secret_key": "SKEY",
        }
    },
}


def outside() -> dict[str, dict[str, Any]]:
    return connect_outside(CLUSTER, "2022", "/home/me/slurm_key", "http://172.30.77.6:7480")


def test_inside_the_key_is_a_secret_and_the_site_is_named() -> None:
    connections = connect_inside(CLUSTER)
    slurm = connections["slurm_default"]
    assert (slurm["login"], slurm["port"], "host" in slurm) == ("alice", 2222, False)
    assert slurm["extra"]["key_file"] == "/run/secrets/slurm_key"
    assert slurm["extra"]["site"] == "testcluster"
    assert connections["slurm_lumi"]["extra"]["site"] == "testcluster-lumi"
    assert connections["allas_default"]["extra"]["endpoint_url"] == "http://ceph:7480"


def test_outside_the_log_in_node_is_a_port_of_this_machine_and_its_key_is_known() -> None:
    connections = outside()
    assert connections.keys() == {"slurm_default", "allas_default"}
    slurm = connections["slurm_default"]
    assert (slurm["host"], slurm["port"]) == ("127.0.0.1", 2022)
    assert (slurm["extra"]["key_file"], slurm["extra"]["host_key"]) == (
        "/home/me/slurm_key",
        HOST_KEY,
    )
    assert "site" not in slurm["extra"]


def test_the_provider_understands_both() -> None:
    connections = outside()
    slurm, allas = connections["slurm_default"], connections["allas_default"]
    settings = parse_connection(
        ConnectionFields(
            conn_id="slurm_default",
            conn_type=slurm["conn_type"],
            host=slurm["host"],
            port=slurm["port"],
            login=slurm["login"],
            extra=slurm["extra"],
        )
    )
    assert settings.account == "project_2001234"
    found = build_aws_extra(
        Fields(
            conn_id="allas_default",
            conn_type=allas["conn_type"],
            login=allas["login"],
            password=allas["password"],
            extra=allas["extra"],
        )
    )
    assert found["endpoint_url"] == allas["extra"]["endpoint_url"]
