"""Objects that land in a bucket start the DAG, which handles each of them in a task of its own."""

from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider_csc.assets.allas import read_objects
from airflow_provider_csc.triggers.allas import AllasObjectsTrigger

INBOX = "s3://2001234-inbox/measurements"

measurements = Asset(
    "measurements",
    uri=INBOX,
    watchers=[AssetWatcher(name="inbox", trigger=AllasObjectsTrigger(f"{INBOX}/**/*.csv"))],
)


@dag(schedule=[measurements], tags=["example"])
def allas_events():
    @task(inlets=[measurements])
    def arrived():
        return read_objects(measurements)

    @task
    def handle(measurement):
        print(f"{measurement['uri']} has {measurement['size']} bytes")

    handle.expand(measurement=arrived())


allas_events()
