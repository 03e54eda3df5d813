"""
Speak to a running Airflow as its web page does; needs only Python's standard library.

    airflow_rest.py AIRFLOW_JSON connect CLUSTER_JSON
    airflow_rest.py AIRFLOW_JSON run DAG_ID [CONF_JSON]

AIRFLOW_JSON is the file in which docker/airflow describes what it started.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

FINAL = ("success", "failed")
RUN_SECONDS = 900
_DATABASE_ATTEMPTS = 20


class RefusedError(Exception):
    """Airflow answered a request with an error."""

    def __init__(self, request: str, status: int, answer: str) -> None:
        super().__init__(f"{request}: {status} {answer}")
        self.status = status


class Airflow:
    """The REST interface of one Airflow, for the user that its description names."""

    def __init__(self, description: str | Path) -> None:
        facts = json.loads(Path(description).read_text())
        self.url, self._user, self._password = facts["url"], facts["user"], facts["password"]

    def call(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._request(method, f"/api/v2{path}", body, headers)

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    @cached_property
    def _token(self) -> str:
        credentials = {"username": self._user, "password": self._password}
        token: str = self._request("POST", "/auth/token", credentials, {})["access_token"]
        return token

    def _request(self, method: str, path: str, body: object, headers: dict[str, str]) -> Any:
        """Ask, and again while SQLite is locked by another of Airflow's processes."""
        for _ in range(_DATABASE_ATTEMPTS):
            try:
                return self._ask(method, path, body, headers)
            except RefusedError as error:
                if error.status != HTTPStatus.INTERNAL_SERVER_ERROR or "Database" not in str(error):
                    raise
            time.sleep(1)
        return self._ask(method, path, body, headers)

    def _ask(self, method: str, path: str, body: object, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise RefusedError(f"{method} {request.full_url}", error.code, said) from error
        return json.loads(text) if text else None

    def set_connection(self, connection: dict[str, Any]) -> None:
        """Create a connection, or change it where it is there already."""
        try:
            self.call("POST", "/connections", connection)
        except RefusedError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            self.call("PATCH", f"/connections/{connection['connection_id']}", connection)

    def wait_for_dag(self, dag_id: str, *, timeout: float = 120) -> None:
        """Wait until the DAG processor has read the file that holds a DAG."""
        end = time.monotonic() + timeout
        while not self.has_dag(dag_id):
            if time.monotonic() > end:
                said = "\n".join(one["stack_trace"] for one in self.import_errors())
                sys.exit(f"airflow: no DAG {dag_id!r} after {timeout:.0f} s\n{said}")
            time.sleep(0.5)

    def has_dag(self, dag_id: str) -> bool:
        try:
            self.get(f"/dags/{dag_id}")
        except RefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    def import_errors(self) -> list[dict[str, Any]]:
        errors: list[dict[str, Any]] = self.get("/importErrors")["import_errors"]
        return errors

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> DagRun:
        body = {"logical_date": None, "conf": conf or {}}
        answer = self.call("POST", f"/dags/{dag_id}/dagRuns", body)
        return DagRun(self, dag_id, answer["dag_run_id"])


class DagRun:
    """One run of a DAG."""

    def __init__(self, airflow: Airflow, dag_id: str, run_id: str) -> None:
        self._airflow, self.dag_id, self.run_id = airflow, dag_id, run_id
        self._path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}"

    @property
    def page(self) -> str:
        return f"{self._airflow.url}/dags/{self.dag_id}/runs/{quote(self.run_id)}"

    def state(self) -> str:
        state: str = self._airflow.get(self._path)["state"]
        return state

    def tasks(self) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = self._airflow.get(f"{self._path}/taskInstances")[
            "task_instances"
        ]
        return tasks

    def log(
        self, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> list[dict[str, Any]]:
        """Return a task's log as the page shows it, so far."""
        path = f"{self._path}/taskInstances/{task_id}/logs/{try_number}?full_content=true"
        content: list[dict[str, Any]] = self._airflow.get(f"{path}&map_index={map_index}")[
            "content"
        ]
        return content

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        path = f"{self._path}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=true"
        return self._airflow.get(path)["value"]


class Follower:
    """Prints what changes in a run: states of tasks, and new lines of their logs."""

    def __init__(self, run: DagRun) -> None:
        self._run = run
        self._states: dict[str, str] = {}
        self._seen: set[tuple[str, str, str]] = set()

    def follow(self) -> str:
        """Return the final state of the run."""
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            state = self._run.state()
            for task in self._run.tasks():
                self._show(task["task_id"], task["state"] or "waiting", task["try_number"])
            if state in FINAL:
                return state
            time.sleep(1)
        return f"not finished after {RUN_SECONDS} s"

    def _show(self, task_id: str, state: str, try_number: int) -> None:
        has_changed = self._states.get(task_id, "waiting") != state
        self._states[task_id] = state
        if state in ("running", "deferred") or (has_changed and state in (*FINAL, "up_for_retry")):
            self._show_log(task_id, try_number)
        if has_changed:
            say(f"{task_id}: {state}")

    def _show_log(self, task_id: str, try_number: int) -> None:
        for line in self._run.log(task_id, try_number=try_number):
            key = (task_id, line.get("timestamp", ""), line["event"])
            if is_for_people(line) and key not in self._seen:
                say(f"{task_id}: | " + line["event"].replace("\n", "\n" + " " * 11 + "| "))
            self._seen.add(key)


def is_for_people(line: dict[str, Any]) -> bool:
    """Tell what operators, triggers and tasks say from what Airflow says of itself."""
    source = line.get("logger") or ""
    ours = "airflow_provider_csc.operators", "airflow_provider_csc.triggers"
    sensors = "airflow_provider_csc.sensors", "task.stdout"
    return line.get("level") in ("error", "critical") or any(
        name in source for name in (*ours, *sensors)
    )


def say(text: str) -> None:
    print(f"{datetime.now().astimezone():%H:%M:%S}   {text}", flush=True)


def run_dag(airflow: Airflow, dag_id: str, conf: str = "{}") -> None:
    """Run a DAG and show how it goes; exit with a non-zero status unless it succeeds."""
    airflow.wait_for_dag(dag_id)
    run = airflow.trigger(dag_id, json.loads(conf))
    say(f"{dag_id}: started as {run.run_id}")
    state = Follower(run).follow()
    say(f"{dag_id}: {state}")
    print(run.page)
    if state != "success":
        sys.exit(1)


# One for each profile that the cluster has of itself.
SLURM_CONNECTIONS = ("slurm_default", "slurm_lumi")


def build_connections(cluster: dict[str, Any], *, poll_floor: float) -> list[dict[str, Any]]:
    """Return the examples' connections, as somebody would type them into the forms."""
    user, facts = next(iter(cluster["users"].items()))
    slurm = {
        "key_file": facts["private_key"],
        "account": facts["account"],
        "poll_interval_floor": poll_floor,
    }
    allas = {
        "endpoint": "custom",
        "endpoint_url": cluster["s3_endpoint_url"],
        "project": facts["account"],
    }
    return [
        *(
            {
                "connection_id": name,
                "conn_type": "slurm",
                "description": f"The Slurm cluster of docker/cluster, as {site}",
                "port": cluster["ssh_port"],
                "login": user,
                "extra": json.dumps({"site": site, **slurm}),
            }
            for name, site in zip(SLURM_CONNECTIONS, cluster["sites"], strict=True)
        ),
        {
            "connection_id": "allas_default",
            "conn_type": "allas",
            "description": "The Ceph object store of docker/cluster",
            "login": facts["s3_access_key"],
            "password": facts["s3_secret_key"],
            "extra": json.dumps(allas),
        },
    ]


def connect(airflow: Airflow, cluster_json: str) -> None:
    """Set the connections to the cluster as it is now."""
    cluster = json.loads(Path(cluster_json).read_text())
    floor = float(os.environ.get("AIRFLOW_POLL_FLOOR", "1"))
    for connection in build_connections(cluster, poll_floor=floor):
        airflow.set_connection(connection)


def main(arguments: list[str]) -> None:
    match arguments:
        case [description, "connect", cluster_json]:
            connect(Airflow(description), cluster_json)
        case [description, "run", dag_id, *conf]:
            run_dag(Airflow(description), dag_id, *conf)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (RefusedError, urllib.error.URLError) as problem:
        sys.exit(f"airflow: {problem}")
