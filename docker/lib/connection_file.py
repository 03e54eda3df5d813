"""
Write the two connections to the stack's cluster, as `airflow connections import` reads them.

    connection_file.py CLUSTER_JSON inside
    connection_file.py CLUSTER_JSON outside SSH_PORT KEY_FILE S3_ENDPOINT_URL

Inside is an Airflow of the same stack; outside is one on the machine that runs the containers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from airflow_rest import build_connections

POLL_FLOOR = 1
KEY_FILE = "/run/secrets/slurm_key"


def connect_inside(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name the site: its profile is mounted beside the key."""
    return _build(cluster, {"key_file": KEY_FILE}, {})


def connect_outside(
    cluster: dict[str, Any], ssh_port: str, key_file: str, s3_endpoint_url: str
) -> dict[str, dict[str, Any]]:
    """Name no site, for its profile is unknown there: the host key stands in the connection."""
    slurm = {"key_file": key_file, "host_key": cluster["ssh_host_key"], "site": None}
    connections = _build(cluster, slurm, {"endpoint_url": s3_endpoint_url})
    connections["slurm_default"] |= {"host": "127.0.0.1", "port": int(ssh_port)}
    # The others are the same cluster as another site.
    return {name: connections[name] for name in ("slurm_default", "allas_default")}


def _build(
    cluster: dict[str, Any], slurm: dict[str, Any], allas: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    connections = {}
    for connection in build_connections(cluster, poll_floor=POLL_FLOOR):
        conn_id = connection.pop("connection_id")
        changes = slurm if connection["conn_type"] == "slurm" else allas
        extra = json.loads(connection["extra"]) | changes
        connection["extra"] = {name: value for name, value in extra.items() if value is not None}
        connection["description"] = "The cluster of docker/compose.yaml"
        connections[conn_id] = connection
    return connections


def main(arguments: list[str]) -> None:
    match arguments:
        case [cluster_json, "inside"]:
            connections = connect_inside(json.loads(Path(cluster_json).read_text()))
        case [cluster_json, "outside", *where] if len(where) == 3:  # noqa: PLR2004
            connections = connect_outside(json.loads(Path(cluster_json).read_text()), *where)
        case _:
            sys.exit(__doc__)
    print(json.dumps(connections, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
