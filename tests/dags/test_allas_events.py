"""Objects start DAG runs, each version in one of them, also when the triggerer is stopped or killed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
from airflow.triggers.base import BaseTrigger
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tests.dags.arrivals import Arrivals, copy_dags, eventually, objects_of, runs_of
from tests.dags.conftest import CHECKOUT, control, described, running_airflow
from tests.dags.traces import ProcessWatch, dump_database, files_below

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.lib.airflow_rest import DagRun

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not hasattr(BaseTrigger, "on_kill"), reason="the classes are tested on the oldest Airflow"
    ),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, bucket: str) -> Iterator[dict[str, str]]:
    dags = tmp_path_factory.mktemp("event-dags")
    copy_dags(dags, bucket)
    with running_airflow(AIRFLOW_DAGS=str(dags)) as settings:
        yield settings


@pytest.fixture(scope="module")
def told(settings: dict[str, str], store: Any, bucket: str) -> Arrivals:
    """All objects have arrived, after the triggerer was stopped and killed as events were stored."""
    arrivals = Arrivals(described(settings), store, bucket)
    arrivals.begin()
    for command in ("stop", "kill"):
        arrivals.wait_for_event()
        arrivals.write(f"{len(arrivals.versions)}-before-{command}")
        control(settings, command, "triggerer")
        arrivals.write(f"{len(arrivals.versions)}-after-{command}")
        control(settings, "start", "triggerer")
    arrivals.write("old", "last")
    arrivals.wait()
    return arrivals


def test_every_object_arrives_in_one_run_whatever_becomes_of_the_triggerer(told: Arrivals) -> None:
    arrived = Counter((each["key"], each["etag"]) for each in told.arrived)
    assert arrived == Counter(told.versions)


def test_an_event_that_is_stored_twice_is_marked_and_names_the_same_objects(
    told: Arrivals,
) -> None:
    first: dict[str, dict[str, Any]] = {}
    for event in told.events:
        if event["id"] in first:
            assert event == {**first[event["id"]], "is_repeat": True}
        first.setdefault(event["id"], event)
    numbers = [int(event_id.rpartition("-")[2]) for event_id in first]
    assert sorted(numbers) == list(range(1, len(first) + 1)), "an event is missing"


def test_an_event_is_bounded_and_carries_what_was_asked_for(told: Arrivals) -> None:
    assert all(1 <= len(event["objects"]) <= 2 for event in told.events)
    changes: dict[str, list[str]] = {}
    for each in told.arrived:
        assert each["metadata"] == {"writer": each["key"].removeprefix("watched/")}
        assert each["size"] == 8
        changes.setdefault(each["key"], []).append(each["change"])
    assert sorted(changes.pop("watched/old")) == ["changed", "new"]
    assert set(map(tuple, changes.values())) == {("new",)}


def test_the_example_handles_each_object_in_a_task_of_its_own(told: Arrivals, bucket: str) -> None:
    wanted = {
        f"s3://{bucket}/measurements/a.csv": 3,
        f"s3://{bucket}/measurements/deep/er/b.csv": 3,
    }

    def ended() -> list[DagRun]:
        runs = runs_of(told.airflow, "allas_events")
        is_over = all(run.state() in ("success", "failed") for run in runs)
        return runs if is_over and len(objects_of_all(runs)) == len(wanted) else []

    runs = eventually(ended)
    assert [run.state() for run in runs] == ["success"] * len(runs)
    assert {each["uri"]: each["size"] for each in objects_of_all(runs)} == wanted
    handled = [task for run in runs for task in run.tasks() if task["task_id"] == "handle"]
    assert [task["state"] for task in handled] == ["success"] * 2


def objects_of_all(runs: list[DagRun]) -> list[dict[str, Any]]:
    return [each for run in runs for each in objects_of(run)]


def test_the_asset_is_known_by_its_uri(told: Arrivals, bucket: str) -> None:
    uri = quote(f"s3://{bucket}/watched", safe="")
    (asset,) = told.airflow.get(f"/assets?uri_pattern={uri}")["assets"]
    assert asset["uri"] == f"s3://{bucket}/watched"


@dataclass
class Trained:
    """The run that a file of data started, and where something of it could have been left."""

    run: DagRun
    result: dict[str, Any]
    traces: dict[str, bytes]

    def holding(self, text: str) -> list[str]:
        return [place for place, content in self.traces.items() if text.encode() in content]


@pytest.fixture(scope="module")
def trained(told: Arrivals, settings: dict[str, str], store: Any, bucket: str) -> Trained:
    store.upload_file(str(CHECKOUT / "example_dags/softmax.py"), bucket, "code/softmax.py")
    data = BytesIO()
    images, labels = load_digits(return_X_y=True)
    names = "train_images", "test_images", "train_labels", "test_labels"
    parts = train_test_split(images / 16, labels, test_size=0.25, random_state=0)
    np.savez_compressed(data, **dict(zip(names, parts, strict=True)))
    with ProcessWatch("alice") as processes:
        store.put_object(Bucket=bucket, Key="incoming/digits.npz", Body=data.getvalue())

        def ended() -> list[DagRun]:
            runs = runs_of(told.airflow, "train_from_allas")
            return (
                runs if runs and all(run.state() in ("success", "failed") for run in runs) else []
            )

        (run,) = eventually(ended)
    assert run.state() == "success", run.log("train")
    result = run.xcom("train")
    return Trained(
        run,
        result,
        {
            "processes": b"\n".join(processes.seen),
            "database": dump_database(settings),
            **dict(files_below(Path(settings["DEMO_DIR"]))),
            **dict(files_below(Path(result["run_dir"]))),
        },
    )


def test_an_object_starts_a_training_that_fetches_it_and_delivers_a_model(
    trained: Trained, store: Any, bucket: str
) -> None:
    staged = trained.result["staged"]
    assert (staged["fetched"]["files"], staged["delivered"]["files"]) == (2, 2)
    metrics = json.loads(
        store.get_object(Bucket=bucket, Key=f"models/{trained.run.run_id}/metrics.json")[
            "Body"
        ].read()
    )
    assert metrics["job_id"] == trained.result["job_id"]
    assert 0.8 < metrics["test_accuracy"] < 1.0
    assert trained.run.xcom("read_metrics") == metrics


def test_neither_key_nor_url_is_left_anywhere(trained: Trained, cluster: dict[str, Any]) -> None:
    # What has to be found there, or nobody has looked.
    assert {"processes", "database"} <= set(trained.holding(trained.result["run_dir"]))
    assert [place for place in trained.holding("was given URLs") if place.endswith(".log")]
    assert [place for place in trained.traces if place.startswith(trained.result["run_dir"])]

    assert trained.holding(cluster["s3_secret_key"]) == []
    assert trained.holding("X-Amz-Signature=") == []
    assert trained.holding("x-amz-signature") == []
