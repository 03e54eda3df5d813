"""An Airflow of the benchmark's own beside the cluster: real scheduler, triggerer and workers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.login_node import free_port
from benchmarks.site import CHECKOUT
from docker.lib.airflow_rest import Airflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.site import Site


@contextmanager
def airflow(site: Site, *, poll_floor: float) -> Iterator[tuple[Airflow, Path]]:
    """Yield the REST interface and the directory of an Airflow with the DAGs of benchmarks/dags."""
    with tempfile.TemporaryDirectory(prefix="bench-airflow-") as directory:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("AIRFLOW")}
        settings = {
            "CLUSTER_DIR": str(site.facts["cluster_dir"]),
            "DEMO_DIR": directory,
            "AIRFLOW_PORT": str(free_port()),
            "AIRFLOW_LOG_PORT": str(free_port()),
            "AIRFLOW_VENV": sys.prefix,
            "AIRFLOW_POLL_FLOOR": str(poll_floor),
            "AIRFLOW_DAGS": str(CHECKOUT / "benchmarks" / "dags"),
        }
        control = [str(CHECKOUT / "docker" / "airflow")]
        try:
            subprocess.run([*control, "up"], env={**kept, **settings}, check=True)
            yield Airflow(Path(directory) / "airflow.json"), Path(directory)
        finally:
            subprocess.run([*control, "down"], env={**kept, **settings}, check=True)
