"""
Send a directory of very many small files to Allas as one object, and unpack it again.

Run it twice: the second time nothing is sent or read, for the archive says what is in it.
"""

from pathlib import Path

from airflow.sdk import Param, dag, task

from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.transfers.allas import AllasToLocalOperator, LocalToAllasOperator

PARAMS = {
    # Bucket names are shared by all of Allas: put your project's number in.
    "bucket": Param("csc-allas-pack", type="string", minLength=3),
    "directory": Param("pack", type="string"),  # of the worker
    "files": Param(2000, type="integer", minimum=1),
}


@task
def measure(params: dict) -> str:
    """Stand in for an instrument that writes a file for each measurement."""
    allas = AllasHook()
    if not allas.check_for_bucket(params["bucket"]):
        allas.create_bucket(params["bucket"])
    top = Path(params["directory"]) / "measurements"
    for number in range(params["files"]):
        file = top / f"hour {number // 100}" / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        # A file of another time would make another archive.
        if not file.exists():
            file.write_text(f"{number} {number**2}\n")
    return str(top)


@dag(schedule=None, params=PARAMS, tags=["example"])
def allas_pack():
    send = LocalToAllasOperator(
        task_id="send",
        source=measure(),
        destination="s3://{{ params.bucket }}/measurements.tar.zst",
        pack=True,  # `tar --zstd -xf` reads it, too
    )
    fetch = AllasToLocalOperator(
        task_id="fetch",
        source="s3://{{ params.bucket }}/measurements.tar.zst",
        destination="{{ params.directory }}/unpacked",
        unpack=True,
    )
    send >> fetch


allas_pack()
