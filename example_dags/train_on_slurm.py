"""
Train a model on two nodes of a Slurm cluster; its data comes from Allas and its results go there.

Airflow holds the keys to Allas, the cluster gets none: the job is handed URLs that open exactly
three objects and expire. The model is published when it is good enough, by a threshold that you
may change when you trigger the DAG.
"""

import json
from io import BytesIO
from pathlib import Path

from airflow.sdk import Param, dag, task

from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator
from airflow_provider_csc.sensors.slurm import SlurmJobSensor

PROGRAM = Path(__file__).with_name("softmax.py")
URL_LIFETIME = 6 * 3600  # seconds; the job must have started, run and stored its results by then

PARAMS = {
    # Bucket names are shared by all users of Allas: put your project's number in.
    "bucket": Param("csc-train-on-slurm", type="string", minLength=3),
    "rounds": Param(4, type="integer", minimum=1),
    "epochs": Param(5, type="integer", minimum=1, description="Passes over the data per round"),
    "minimum_accuracy": Param(0.9, type="number", minimum=0, maximum=1),
}


@task
def upload_dataset(params: dict, run_id: str) -> str:
    """Put 1797 images of handwritten digits into Allas, and return where this run's objects lie."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, stratify=labels, random_state=0)
    names = ("train_images", "test_images", "train_labels", "test_labels")
    file = BytesIO()
    np.savez_compressed(file, **dict(zip(names, parts, strict=True)))

    allas = AllasHook()
    if not allas.check_for_bucket(params["bucket"]):
        allas.create_bucket(params["bucket"])
    allas.load_bytes(file.getvalue(), f"{run_id}/dataset.npz", params["bucket"], replace=True)
    return run_id


@task
def hand_over(folder: str, params: dict) -> str:
    """Lay the program and the URLs down on the cluster, and return the directory."""
    allas, slurm = AllasHook(), SlurmHook()

    def url(method: str, name: str) -> str:
        key = {"Bucket": params["bucket"], "Key": f"{folder}/{name}"}
        return allas.generate_presigned_url(method, key, expires_in=URL_LIFETIME)

    def transfer(method: str, name: str, option: str) -> str:
        return f'fail\nsilent\nshow-error\n{option} = "{name}"\nurl = "{url(method, name)}"\n'

    made = slurm.run(
        "umask 077 && mkdir -p ~/airflow-runs && mktemp -d ~/airflow-runs/train.XXXXXX"
    )
    directory = made.text.strip()
    slurm.write_file(f"{directory}/softmax.py", PROGRAM.read_text())
    download = transfer("get_object", "dataset.npz", "output")
    uploads = [
        transfer("put_object", name, "upload-file") for name in ("model.npz", "metrics.json")
    ]
    slurm.write_file(f"{directory}/download.curl", download)
    slurm.write_file(f"{directory}/upload.curl", "next\n".join(uploads))
    return directory


def train(**arguments) -> SlurmSubmitOperator:
    return SlurmSubmitOperator(
        task_id="train",
        script="train_on_slurm.sh",
        modules=["python-data"],  # Python with numpy, as at CSC
        options={"nodes": 2, "ntasks_per_node": 1, "cpus_per_task": 1, "mem": "500M", "time": "10"},
        poll_interval=2,  # the connection's floor holds too: 5 s, unless an admin set another
        deferrable=True,  # wait in the triggerer, not in a worker's slot
        **arguments,
    )


@task
def read_metrics(folder: str, params: dict) -> dict:
    metrics = json.loads(AllasHook().read_key(f"{folder}/metrics.json", params["bucket"]))
    print(f"Trained on {metrics['nodes']}: {metrics['test_accuracy']:.4f} of the test images right")
    return metrics


@task.branch
def is_good_enough(metrics: dict, params: dict) -> str:
    return "publish" if metrics["test_accuracy"] >= params["minimum_accuracy"] else "reject"


@task
def publish(folder: str, params: dict) -> str:
    """Copy the model, inside Allas, to the place where users of it look."""
    bucket = params["bucket"]
    AllasHook().copy_object(f"{folder}/model.npz", "published/model.npz", bucket, bucket)
    return f"s3://{bucket}/published/model.npz"


@task
def reject(metrics: dict, params: dict) -> None:
    print(f"Not published: {metrics['test_accuracy']:.4f} is below {params['minimum_accuracy']}")


@dag(schedule=None, params=PARAMS, tags=["example"], doc_md=__doc__)
def train_on_slurm():
    folder = upload_dataset()
    trained = train()
    metrics = read_metrics(folder)
    hand_over(folder) >> trained >> metrics
    is_good_enough(metrics) >> [publish(folder), reject(metrics)]


@dag(schedule=None, params=PARAMS, tags=["example"], doc_md=__doc__)
def train_on_slurm_with_sensor():
    """The same, where one task submits the job and another waits for it."""
    folder = upload_dataset()
    submitted = train(wait_for_completion=False)
    waited = SlurmJobSensor(
        task_id="wait_for_training",
        job_id="{{ ti.xcom_pull('train', key='job_id') }}",
        poke_interval=2,
        deferrable=True,
    )
    metrics = read_metrics(folder)
    hand_over(folder) >> submitted >> waited >> metrics
    is_good_enough(metrics) >> [publish(folder), reject(metrics)]


train_on_slurm()
train_on_slurm_with_sensor()
