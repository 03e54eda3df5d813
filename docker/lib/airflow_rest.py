"""
Speak to a running Airflow as its web page does; standard library only.

    airflow_rest.py AIRFLOW_JSON health
    airflow_rest.py AIRFLOW_JSON connect CLUSTER_JSON
    airflow_rest.py AIRFLOW_JSON run DAG_ID [CONF_JSON]
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

FINAL = ("success", "failed")


class Airflow:
    """The REST interface of one Airflow, logged in as the user ``airflow.json`` names."""

    def __init__(self, description: str | Path) -> None:
        facts = json.loads(Path(description).read_text())
        self.url, self._user, self._password = facts["url"], facts["user"], facts["password"]

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def call(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._request(method, f"/api/v2{path}", body, headers)

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._request("GET", "/api/v2/monitor/health", None, {})
        return answer

    @cached_property
    def _token(self) -> str:
        credentials = {"username": self._user, "password": self._password}
        token: str = self._request("POST", "/auth/token", credentials, {})["access_token"]
        return token

    def _request(self, method: str, path: str, body: object, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json", **headers},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def set_connection(self, connection: dict[str, Any]) -> None:
        """Create it, or change it where it is there already."""
        try:
            self.call("POST", "/connections", connection)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
            self.call("PATCH", f"/connections/{connection['connection_id']}", connection)

    def wait_for_dag(self, dag_id: str, *, timeout: float = 90) -> None:
        """Wait until the DAG processor has read the file that holds it."""
        end = time.monotonic() + timeout
        while True:
            try:
                self.get(f"/dags/{dag_id}")
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
            else:
                return
            if time.monotonic() > end:
                said = "\n".join(one["stack_trace"] for one in self.import_errors())
                sys.exit(f"airflow: no DAG {dag_id!r} after {timeout:.0f} s\n{said}")
            time.sleep(0.5)

    def import_errors(self) -> list[dict[str, Any]]:
        errors: list[dict[str, Any]] = self.get("/importErrors")["import_errors"]
        return errors

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run and return its id."""
        body = {"logical_date": None, "conf": conf or {}}
        run_id: str = self.call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"]
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        state: str = self.get(f"/dags/{dag_id}/dagRuns/{quote(run_id)}")["state"]
        return state

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances"
        tasks: list[dict[str, Any]] = self.get(path)["task_instances"]
        return tasks

    def log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1) -> list[str]:
        """Return the messages of a task's log as the page shows them, so far."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/logs/{try_number}"
        content = self.get(f"{path}?full_content=true")["content"]
        return [line["event"] if isinstance(line, dict) else str(line) for line in content]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(f"{path}?deserialize=false")["value"]


def build_connections(cluster: dict[str, Any], *, poll_floor: float) -> list[dict[str, Any]]:
    """Return the two connections of the examples, as somebody would type them into the form."""
    user, facts = next(iter(cluster["users"].items()))
    slurm = {
        "key_file": facts["private_key"],
        "known_hosts": cluster["ssh_known_hosts"],
        "account": facts["account"],
        "poll_interval_floor": poll_floor,
    }
    allas = {
        "endpoint": "custom",
        "endpoint_url": cluster["s3_endpoint_url"],
        "project": facts["account"],
    }
    return [
        {
            "connection_id": "slurm_default",
            "conn_type": "slurm",
            "description": "The Slurm cluster of docker/cluster",
            "host": cluster["ssh_host"],
            "port": cluster["ssh_port"],
            "login": user,
            "extra": json.dumps(slurm),
        },
        {
            "connection_id": "allas_default",
            "conn_type": "allas",
            "description": "The Ceph object store of docker/cluster",
            "login": facts["s3_access_key"],
            "password": facts["s3_secret_key"],
            "extra": json.dumps(allas),
        },
    ]


class Follower:
    """Print what changes in a run: states of tasks, and new lines of their logs."""

    def __init__(self, airflow: Airflow, dag_id: str, run_id: str) -> None:
        self._airflow, self._dag_id, self._run_id = airflow, dag_id, run_id
        self._states: dict[str, str] = {}
        self._lines: dict[str, int] = {}

    def follow(self, *, timeout: float) -> str:
        """Return the final state of the run."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            state = self._airflow.run_state(self._dag_id, self._run_id)
            for task in self._airflow.tasks(self._dag_id, self._run_id):
                self._show(task)
            if state in FINAL:
                return state
            time.sleep(1)
        return f"unfinished after {timeout:.0f} s"

    def _show(self, task: dict[str, Any]) -> None:
        task_id, state = task["task_id"], task["state"] or "none"
        has_changed = self._states.get(task_id) != state
        if state == "deferred" or (has_changed and state in (*FINAL, "up_for_retry")):
            self._show_log(task_id, task["try_number"])
        if has_changed and state != "none":
            self._states[task_id] = state
            say(f"{task_id}: {state}")

    def _show_log(self, task_id: str, try_number: int) -> None:
        lines = self._airflow.log(self._dag_id, self._run_id, task_id, try_number=try_number)
        for line in lines[self._lines.get(task_id, 0) :]:
            say(f"{task_id} | {line}")
        self._lines[task_id] = len(lines)


def say(text: str) -> None:
    print(f"{datetime.now(UTC).astimezone():%H:%M:%S} {text}", flush=True)


def run(airflow: Airflow, dag_id: str, conf: str = "{}") -> None:
    """Run a DAG and show it; end with a non-zero status unless it succeeded."""
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, json.loads(conf))
    say(f"{dag_id}: started as {run_id}")
    state = Follower(airflow, dag_id, run_id).follow(timeout=600)
    say(f"{dag_id}: {state}, see {airflow.url}/dags/{dag_id}/runs/{quote(run_id)}")
    if state != "success":
        sys.exit(1)


def main(description: str, command: str, *arguments: str) -> None:
    airflow = Airflow(description)
    match command:
        case "health":
            print(json.dumps(airflow.health(), separators=(",", ":")))
        case "connect":
            cluster = json.loads(Path(arguments[0]).read_text())
            floor = float(os.environ.get("AIRFLOW_POLL_FLOOR", "1"))
            for connection in build_connections(cluster, poll_floor=floor):
                airflow.set_connection(connection)
        case "run":
            run(airflow, *arguments)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
