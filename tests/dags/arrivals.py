"""What is seen of objects that arrive while the triggerer is stopped and killed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.lib.airflow_rest import Airflow, DagRun, RefusedError
from tests.dags.conftest import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WAIT_SECONDS = 600


# What starts the example that trains a model, which is its reader's choice.
INCOMING = """Asset(
    "incoming",
    uri="s3://BUCKET/incoming",
    watchers=[
        AssetWatcher(
            name="incoming",
            trigger=AllasObjectsTrigger("s3://BUCKET/incoming/*.npz", poll_interval=1),
        )
    ],
)
"""


def copy_dags(directory: Path, bucket: str) -> None:
    """Put the watched DAG and the examples there, with the name of the tests' bucket."""
    for source in (
        Path(__file__).parent / "event_dags/watched.py",
        CHECKOUT / "example_dags/allas_events.py",
    ):
        text = source.read_text().replace("BUCKET", bucket).replace("2001234-inbox", bucket)
        text = text.replace('/**/*.csv")', '/**/*.csv", poll_interval=1)')
        (directory / source.name).write_text(text)
    text = (CHECKOUT / "example_dags/train_from_allas.py").read_text()
    for before, after in (
        ("SCHEDULE = None", f"SCHEDULE = {INCOMING}".replace("BUCKET", bucket)),
        ("import Param, dag, task", "import Asset, AssetWatcher, Param, dag, task"),
        (
            "\n\n# None is",
            "\nfrom airflow_provider_csc.triggers.allas import AllasObjectsTrigger\n\n# None is",
        ),
        ("csc-train-from-allas", bucket),
        ("Param(5,", "Param(2,"),
        ("provide() >> train", "train"),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    (directory / "train_from_allas.py").write_text(text)


def eventually(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(1)
    return value


def keys_below(store: Any, bucket: str, prefix: str) -> list[str]:
    rows = store.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())
    return [row["Key"] for row in rows]


def stored_events(airflow: Airflow, name: str) -> list[dict[str, Any]]:
    """The payloads of an asset's events, as Airflow has stored them, in order."""
    (asset,) = [
        each
        for each in airflow.get(f"/assets?name_pattern={name}")["assets"]
        if each["name"] == name
    ]
    found: list[dict[str, Any]] = []
    path = f"/assets/events?asset_id={asset['id']}&order_by=timestamp&limit=100&offset="
    while True:
        page = eventually(partial(ask_for_events, airflow, f"{path}{len(found)}"))["asset_events"]
        found += [each["extra"]["payload"] for each in page]
        if len(page) < 100:
            return found


def ask_for_events(airflow: Airflow, path: str) -> Any:
    """Up to 3.3.2 Airflow cannot answer while a DAG run that an event has created is queued."""
    try:
        return airflow.get(path)
    except RefusedError as error:
        if error.status != HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        return None


def runs_of(airflow: Airflow, dag_id: str) -> list[DagRun]:
    found: list[dict[str, Any]] = []
    while True:
        page = airflow.get(f"/dags/{dag_id}/dagRuns?limit=100&offset={len(found)}")["dag_runs"]
        found += page
        if len(page) < 100:
            return [DagRun(airflow, dag_id, each["dag_run_id"]) for each in found]


def objects_of(run: DagRun) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = run.xcom("arrived")
    return value


@dataclass
class Arrivals:
    """Objects that are written, and the DAG runs that they start."""

    airflow: Airflow
    store: Any
    bucket: str
    versions: list[tuple[str, str]] = field(default_factory=list)
    arrived: list[dict[str, Any]] = field(default_factory=list)

    def begin(self) -> None:
        """Write the first objects when the watchers have had their first look."""
        for dag_id in ("watched", "allas_events", "train_from_allas"):
            self.airflow.wait_for_dag(dag_id)
        eventually(lambda: len(keys_below(self.store, self.bucket, ".airflow-csc/cursors/")) == 3)
        for name in ("a.csv", "deep/er/b.csv", "c.txt"):
            key = f"measurements/{name}"
            self.store.put_object(Bucket=self.bucket, Key=key, Body=b"1,2")
        self.write("old")
        eventually(lambda: self.events)

    def write(self, *names: str) -> None:
        for name in names:
            answer = self.store.put_object(
                Bucket=self.bucket,
                Key=f"watched/{name}",
                Body=os.urandom(8),
                Metadata={"writer": name},
            )
            self.versions.append((f"watched/{name}", answer["ETag"].strip('"')))

    def wait_for_event(self) -> None:
        """Return as soon as Airflow has stored a further event."""
        known = len(self.events)
        self.write(f"event-{known}")
        eventually(lambda: len(self.events) > known)

    @property
    def events(self) -> list[dict[str, Any]]:
        return stored_events(self.airflow, "watched")

    def wait(self) -> None:
        """
        Return when all that was written has arrived, and what was started has ended.

        Where Airflow has stored an event and starts no run for it, the next event does that.
        """

        def is_all_there() -> bool:
            runs = runs_of(self.airflow, "watched")
            if any(run.state() not in ("success", "failed") for run in runs):
                return False
            self.arrived = [each for run in runs for each in objects_of(run)]
            wanted = set(self.versions)
            if versions_in(self.arrived) >= wanted:
                return True
            stored = self.events
            is_idle = len(runs_of(self.airflow, "watched")) == len(runs)
            if is_idle and versions_in(one for each in stored for one in each["objects"]) >= wanted:
                self.write(f"after-{len(stored)}-events")
            return False

        eventually(is_all_there)


def versions_in(objects: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(each["key"], each["etag"]) for each in objects}
