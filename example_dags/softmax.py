"""
Train a softmax classifier in rounds, on as many nodes as there are (needs numpy only).

Each round is one `srun`: every task trains on its own share of the data, from common weights.
Between the rounds one process averages what they learnt (federated averaging, or "local SGD").

    softmax.py train ROUND EPOCHS     one task of a round, below srun
    softmax.py average ROUND TASKS    after it
    softmax.py report TASKS           at the end
"""

import json
import os
import sys

import numpy as np

LEARNING_RATE = 0.5
BATCH = 16


def read_data():
    with np.load("dataset.npz") as data:
        return {name: data[name] for name in data.files}


def read_weights(data):
    if os.path.exists("model.npz"):
        with np.load("model.npz") as model:
            return model["weights"]
    classes = int(data["train_labels"].max()) + 1
    return np.zeros((data["train_images"].shape[1] + 1, classes))


def with_bias(images):
    return np.hstack([images, np.ones((len(images), 1))])


def predict(weights, images):
    scores = with_bias(images) @ weights
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def accuracy(weights, images, labels):
    return float((predict(weights, images).argmax(axis=1) == labels).mean())


def train(number, epochs):
    rank, tasks = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    data = read_data()
    images, labels = data["train_images"][rank::tasks], data["train_labels"][rank::tasks]
    weights = read_weights(data)
    random = np.random.default_rng([number, rank])
    for _ in range(epochs):
        order = random.permutation(len(labels))
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            error = predict(weights, images[part])
            error[np.arange(len(part)), labels[part]] -= 1
            weights -= LEARNING_RATE * with_bias(images[part]).T @ error / len(part)
    np.savez(f"part-{rank}.npz", weights=weights, node=os.environ["SLURMD_NODENAME"])
    here = accuracy(weights, data["test_images"], data["test_labels"])
    node = os.environ["SLURMD_NODENAME"]
    print(f"round {number}, {node}: {len(labels)} images, test accuracy {here:.4f}", flush=True)


def average(number, tasks):
    data = read_data()
    parts = [np.load(f"part-{rank}.npz")["weights"] for rank in range(tasks)]
    weights = np.mean(parts, axis=0)
    np.savez("model.npz", weights=weights)
    together = accuracy(weights, data["test_images"], data["test_labels"])
    print(f"round {number}, averaged: test accuracy {together:.4f}", flush=True)


def report(tasks):
    data = read_data()
    weights = read_weights(data)
    metrics = {
        "test_accuracy": accuracy(weights, data["test_images"], data["test_labels"]),
        "train_accuracy": accuracy(weights, data["train_images"], data["train_labels"]),
        "train_size": len(data["train_labels"]),
        "test_size": len(data["test_labels"]),
        "nodes": [str(np.load(f"part-{rank}.npz")["node"]) for rank in range(tasks)],
        "job_id": os.environ["SLURM_JOB_ID"],
    }
    with open("metrics.json", "w") as file:
        json.dump(metrics, file, indent=2)
    print(json.dumps(metrics))


if __name__ == "__main__":
    command, *numbers = sys.argv[1:]
    {"train": train, "average": average, "report": report}[command](*map(int, numbers))
