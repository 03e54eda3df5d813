"""
Parse one DAG file twice, as Airflow's DAG processor does, and print the seconds as JSON.

    python -m benchmarks.parse_once FILE

``airflow`` is the import of what the DAG processor has before it forks, ``first`` the first parsing,
which imports the operators, ``again`` a second one in the same process, which does not.
"""

from __future__ import annotations

import json
import sys
import time


def main(path: str) -> None:
    """Parse, and print."""
    began = time.perf_counter()
    from airflow.dag_processing.dagbag import DagBag

    loaded = time.perf_counter()
    seconds = [parse(DagBag, path) for _ in range(2)]
    print(json.dumps({"airflow": loaded - began, "first": seconds[0], "again": seconds[1]}))


def parse(dag_bag: type, path: str) -> float:
    """Return the seconds that one parsing takes."""
    began = time.perf_counter()
    bag = dag_bag(path)
    passed = time.perf_counter() - began
    (found,) = bag.dags.values()
    if len(found.tasks) != 100:  # noqa: PLR2004
        raise RuntimeError(f"{len(found.tasks)} tasks; {bag.import_errors}")
    return passed


if __name__ == "__main__":
    main(sys.argv[1])
