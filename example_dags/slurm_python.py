"""Python functions as Slurm jobs: one for each argument, at once; their results are added up."""

from airflow.sdk import dag, task

POINTS = 200_000  # goes along with the function, because the function names it


@task.slurm(
    options={"time": "00:05:00", "mem": "200M"},
    poll_interval=2,  # the connection's floor holds too
    deferrable=True,  # wait in the triggerer, not in a worker's slot
)
def count_inside(seed: int) -> dict[str, int]:
    """Count how many of some random points of a square lie in its circle."""
    import random
    import socket

    print(f"seed {seed} on {socket.gethostname()}")
    draw = random.Random(seed).random  # noqa: S311 - points, no secrets
    return {"seed": seed, "inside": sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(POINTS))}


@task
def estimate(counts: list[dict]) -> float:
    """Make an estimate of pi of all counts."""
    counts = list(counts)
    pi = 4 * sum(count["inside"] for count in counts) / (len(counts) * POINTS)
    print(f"{len(counts)} jobs say that pi is {pi}")
    return pi


@dag(schedule=None, tags=["example"], doc_md=__doc__)
def slurm_python():
    estimate(count_inside.expand(seed=[1, 2, 3]))


slurm_python()
