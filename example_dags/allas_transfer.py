"""
Send a directory to Allas, copy it there, and read it back: verified, and only what is new.

Run it twice: the second time nothing is transferred, for what is there unchanged stays.
"""

from pathlib import Path

from airflow.sdk import Param, dag, task

from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.transfers.allas import (
    AllasCopyOperator,
    AllasToLocalOperator,
    LocalToAllasOperator,
)

PARAMS = {
    # Bucket names are shared by all of Allas: put your project's number in.
    "bucket": Param("csc-allas-transfer", type="string", minLength=3),
    "directory": Param("transfer", type="string"),  # of the worker
}


@task
def prepare(params: dict) -> str:
    """Write some files, and see that there is a bucket."""
    top = Path(params["directory"]) / "measurements"
    for number in range(1, 4):
        (top / f"day {number}").mkdir(parents=True, exist_ok=True)
        (top / f"day {number}" / "values.csv").write_text(f"day,value\n{number},{number**2}\n")
        (top / f"day {number}" / "notes.log").write_text("not to be sent\n")
    allas = AllasHook()
    if not allas.check_for_bucket(params["bucket"]):
        allas.create_bucket(params["bucket"])
    return str(top)


@dag(schedule=None, params=PARAMS, tags=["example"])
def allas_transfer():
    send = LocalToAllasOperator(
        task_id="send",
        source=prepare(),
        destination="s3://{{ params.bucket }}/measurements/",
        exclude=["*.log"],  # as in .gitignore
    )
    copy = AllasCopyOperator(
        task_id="copy",
        source="s3://{{ params.bucket }}/measurements/",
        destination="s3://{{ params.bucket }}/published/",
    )
    fetch = AllasToLocalOperator(
        task_id="fetch",
        source="s3://{{ params.bucket }}/published/",
        destination="{{ params.directory }}/published",
    )
    send >> copy >> fetch


allas_transfer()
