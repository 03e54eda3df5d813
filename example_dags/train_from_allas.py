"""
Train a model from data that lies in Allas; the job fetches and delivers it itself, without a key.

The job reads its inputs when it starts and writes its outputs when it ends, by URLs that Airflow
issues then. They become assets, so that other DAGs can run when a model is there.
"""

import json
from io import BytesIO
from pathlib import Path

from airflow.sdk import Param, dag, task

from airflow_provider_csc.hooks.allas import AllasHook
from airflow_provider_csc.operators.slurm import SlurmSubmitOperator

# None is by hand; an asset, or a list of them, runs the DAG whenever there is new data.
SCHEDULE = None

PROGRAM = Path(__file__).with_name("softmax.py")

PARAMS = {
    # Bucket names are shared by all of Allas: put your project's number in.
    "bucket": Param("csc-train-from-allas", type="string", minLength=3),
    "rounds": Param(5, type="integer", minimum=1),
}

SCRIPT = """#!/bin/bash
set -euo pipefail
for round in $(seq {{ params.rounds }}); do
  srun python3 code/softmax.py train "$round" 5
  python3 code/softmax.py average "$round" "$SLURM_NTASKS"
done
python3 code/softmax.py report "$SLURM_NTASKS"
"""


@task
def provide(params: dict) -> None:
    """Stand in for who delivers data: 1797 images of handwritten digits, and the program."""
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
    allas.load_bytes(file.getvalue(), "incoming/digits.npz", params["bucket"], replace=True)
    allas.load_file(PROGRAM, "code/softmax.py", params["bucket"], replace=True)


@task
def read_metrics(params: dict, run_id: str) -> dict:
    metrics = json.loads(AllasHook().read_key(f"models/{run_id}/metrics.json", params["bucket"]))
    print(f"Job {metrics['job_id']} on {metrics['nodes']}: accuracy {metrics['test_accuracy']:.4f}")
    return metrics


@dag(schedule=SCHEDULE, params=PARAMS, tags=["example"], doc_md=__doc__)
def train_from_allas():
    train = SlurmSubmitOperator(
        task_id="train",
        script=SCRIPT,
        modules=["python-data"],  # Python with numpy, as CSC's computers have it
        options={"nodes": 2, "ntasks_per_node": 1, "mem": "500M", "time": "00:10:00"},
        inputs=[
            {"url": "s3://{{ params.bucket }}/incoming/digits.npz", "path": "dataset.npz"},
            "s3://{{ params.bucket }}/code/",
        ],
        outputs=[
            "s3://{{ params.bucket }}/models/{{ run_id }}/model.npz",
            "s3://{{ params.bucket }}/models/{{ run_id }}/metrics.json",
        ],
        poll_interval=2,  # the connection's floor holds too
        deferrable=True,  # wait in the triggerer, not in a worker's slot
    )
    provide() >> train >> read_metrics()


train_from_allas()
