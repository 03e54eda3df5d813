"""
Train a model on two nodes of a Slurm cluster; its data comes from Allas and its results go there.

Airflow holds the keys of Allas. The job gets none: it is handed URLs that open three objects for a
few hours. The model is published when it is good enough, by a threshold that you may change when
you trigger the DAG.
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
URL_SECONDS = 6 * 3600  # the job must have waited, run and stored its results by then

PARAMS = {
    # Bucket names are shared by all of Allas: put your project's number in.
    "bucket": Param("csc-train-on-slurm", type="string", minLength=3),
    "rounds": Param(10, type="integer", minimum=1),
    "epochs": Param(5, type="integer", minimum=1, description="Passes over the data per round"),
    "minimum_accuracy": Param(0.9, type="number", minimum=0, maximum=1),
}


@task
def upload_dataset(params: dict, run_id: str) -> str:
    """Put 1797 images of handwritten digits into Allas; return the prefix of this run's objects."""
    # Imported here, because Airflow reads the file's top level again and again.
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, stratify=labels, random_state=0)
    names = "train_images", "test_images", "train_labels", "test_labels"
    file = BytesIO()
    np.savez_compressed(file, **dict(zip(names, parts, strict=True)))

    allas = AllasHook()
    if not allas.check_for_bucket(params["bucket"]):
        allas.create_bucket(params["bucket"])
    allas.load_bytes(file.getvalue(), f"{run_id}/dataset.npz", params["bucket"], replace=True)
    return run_id


@task
def hand_over(prefix: str, params: dict) -> str:
    """Lay the program and the URLs down on the cluster; return the directory."""
    allas, slurm = AllasHook(), SlurmHook()

    def transfer(method: str, option: str, name: str) -> str:
        key = {"Bucket": params["bucket"], "Key": f"{prefix}/{name}"}
        url = allas.generate_presigned_url(method, key, expires_in=URL_SECONDS)
        return f'fail\nsilent\nshow-error\n{option} = "{name}"\nurl = "{url}"\n'

    # A URL is as good as a key while it is valid: it travels in files that only their owner can
    # read, never in an XCom, an environment variable or the job's script.
    made = slurm.run("mkdir -p ~/airflow-runs && mktemp -d ~/airflow-runs/train.XXXXXX")
    if made.status != 0:
        raise RuntimeError(made.text)
    directory = made.text
    slurm.write_file(f"{directory}/softmax.py", PROGRAM.read_text())
    slurm.write_file(f"{directory}/download.curl", transfer("get_object", "output", "dataset.npz"))
    names = "model.npz", "metrics.json"
    uploads = "next\n".join(transfer("put_object", "upload-file", name) for name in names)
    slurm.write_file(f"{directory}/upload.curl", uploads)
    return directory


@task
def take_away(directory: str) -> None:
    """Remove what was handed over, whatever became of the job."""
    SlurmHook().run(f"rm -r '{directory}'")


def train(**arguments) -> SlurmSubmitOperator:
    return SlurmSubmitOperator(
        task_id="train",
        script="train_on_slurm.sh",
        modules=["python-data"],  # Python with numpy, as CSC's computers have it
        options={"nodes": 2, "ntasks_per_node": 1, "mem": "500M", "time": "00:10:00"},
        poll_interval=2,  # the connection's floor holds too
        deferrable=True,  # wait in the triggerer, not in a worker's slot
        **arguments,
    )


@task
def read_metrics(prefix: str, params: dict) -> dict:
    metrics = json.loads(AllasHook().read_key(f"{prefix}/metrics.json", params["bucket"]))
    print(f"Job {metrics['job_id']} on {metrics['nodes']}: accuracy {metrics['test_accuracy']:.4f}")
    return metrics


@task.branch
def is_good_enough(metrics: dict, params: dict) -> str:
    return "publish" if metrics["test_accuracy"] >= params["minimum_accuracy"] else "reject"


@task
def publish(prefix: str, params: dict) -> str:
    """Copy the model, inside Allas, to where its users look for it."""
    bucket = params["bucket"]
    AllasHook().copy_object(f"{prefix}/model.npz", "published/model.npz", bucket, bucket)
    return f"s3://{bucket}/published/model.npz"


@task
def reject(metrics: dict, params: dict) -> None:
    print(f"Not published: {metrics['test_accuracy']:.4f} is below {params['minimum_accuracy']}")


@dag(schedule=None, params=PARAMS, tags=["example"], doc_md=__doc__)
def train_on_slurm():
    prefix = upload_dataset()
    directory = hand_over(prefix)
    trained = train()
    metrics = read_metrics(prefix)
    directory >> trained >> metrics
    trained >> take_away(directory).as_teardown(setups=directory)
    is_good_enough(metrics) >> [publish(prefix), reject(metrics)]


@dag(schedule=None, params=PARAMS, tags=["example"], doc_md=__doc__)
def train_on_slurm_with_sensor():
    """Do the same with two tasks: one submits the job, another waits for it."""
    prefix = upload_dataset()
    directory = hand_over(prefix)
    submitted = train(wait_for_completion=False)
    trained = SlurmJobSensor(
        task_id="wait_for_training",
        job_id="{{ ti.xcom_pull('train', key='job_id') }}",
        poke_interval=2,
        deferrable=True,
    )
    metrics = read_metrics(prefix)
    directory >> submitted >> trained >> metrics
    trained >> take_away(directory).as_teardown(setups=directory)
    is_good_enough(metrics) >> [publish(prefix), reject(metrics)]


train_on_slurm()
train_on_slurm_with_sensor()
