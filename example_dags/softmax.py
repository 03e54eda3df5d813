"""
Train a softmax classifier on several nodes; runs in the job and needs numpy only.

Training goes in rounds, one `srun` each: every task starts from the common weights and trains on
its own share of the data. After the round, one process averages what the tasks have learnt
("federated averaging"). The program knows nothing of where it was started from.

    softmax.py train ROUND EPOCHS      one task's part of a round
    softmax.py average ROUND TASKS     the end of the round
    softmax.py report TASKS            the end of the training
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

LEARNING_RATE = 0.1
BATCH_SIZE = 16


def train(number, epochs):
    rank, tasks = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    data, node = load("dataset.npz"), os.environ["SLURMD_NODENAME"]
    images, labels = data["train_images"][rank::tasks], data["train_labels"][rank::tasks]
    weights = load("model.npz")["weights"] if number > 1 else np.zeros((images.shape[1] + 1, 10))
    random = np.random.default_rng([number, rank])
    for _ in range(epochs):
        for batch in np.array_split(random.permutation(len(labels)), len(labels) // BATCH_SIZE):
            error = predict(weights, images[batch]) - np.eye(10)[labels[batch]]
            weights -= LEARNING_RATE * with_bias(images[batch]).T @ error / len(batch)
    np.savez(f"part-{rank}.npz", weights=weights, node=node)
    print(f"round {number}, {node}: trained on {len(labels)} images, {score(weights, data)}")


def average(number, tasks):
    weights = np.mean([load(f"part-{rank}.npz")["weights"] for rank in range(tasks)], axis=0)
    np.savez("model.npz", weights=weights)
    print(f"round {number}, averaged over {tasks} tasks, {score(weights, load('dataset.npz'))}")


def report(tasks):
    data, weights = load("dataset.npz"), load("model.npz")["weights"]
    metrics = {
        "test_accuracy": accuracy(weights, data["test_images"], data["test_labels"]),
        "train_accuracy": accuracy(weights, data["train_images"], data["train_labels"]),
        "test_size": len(data["test_labels"]),
        "train_size": len(data["train_labels"]),
        "nodes": [str(load(f"part-{rank}.npz")["node"]) for rank in range(tasks)],
        "job_id": os.environ["SLURM_JOB_ID"],
    }
    Path("metrics.json").write_text(json.dumps(metrics, indent=2))


def load(name):
    with np.load(name) as file:
        return {key: file[key] for key in file.files}


def with_bias(images):
    return np.hstack([images, np.ones((len(images), 1))])


def predict(weights, images):
    scores = with_bias(images) @ weights
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def accuracy(weights, images, labels):
    return float((predict(weights, images).argmax(axis=1) == labels).mean())


def score(weights, data):
    return f"test accuracy {accuracy(weights, data['test_images'], data['test_labels']):.4f}"


if __name__ == "__main__":
    command, *numbers = sys.argv[1:]
    {"train": train, "average": average, "report": report}[command](*map(int, numbers))
