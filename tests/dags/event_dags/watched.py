"""What tests.dags.test_allas_events kills the triggerer of, which puts the name of its bucket in."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider_csc.assets.allas import read_objects
from airflow_provider_csc.triggers.allas import AllasObjectsTrigger

inbox = Asset(
    "watched",
    uri="s3://BUCKET/watched",
    watchers=[
        AssetWatcher(
            name="watched",
            trigger=AllasObjectsTrigger(
                "s3://BUCKET/watched/*",
                objects_per_event=2,
                metadata=True,
                cursor="killed",
                poll_interval=1,
            ),
        )
    ],
)


@dag(schedule=[inbox], max_active_runs=1)
def watched() -> None:
    @task(inlets=[inbox])
    def arrived() -> list[Any]:
        return read_objects(inbox)

    arrived()


watched()
