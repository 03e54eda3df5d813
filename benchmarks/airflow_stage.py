"""An Airflow of the benchmark's own beside the cluster: real scheduler, triggerer and workers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.login_node import free_port, login_node
from benchmarks.site import CHECKOUT
from docker.lib.airflow_rest import Airflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.login_node import LoginNode
    from benchmarks.site import Site


@dataclass(frozen=True, slots=True)
class Stage:
    """An Airflow and where it is described, the log-in node it reaches, its triggerer's process."""

    api: Airflow
    description: Path
    node: LoginNode
    triggerer: int


@contextmanager
def airflow(site: Site, *, floor: float) -> Iterator[Stage]:
    """Run an Airflow with the DAGs of benchmarks/dags, and a log-in node for it alone."""
    with site.scratch() as scratch, login_node(site) as node, running(site) as home:
        description = home / "airflow.json"
        api = Airflow(description)
        api.set_connection(site.slurm_connection(node, work_dir=scratch / "runs", floor=floor))
        triggerer = int((home / "run" / "triggerer.pid").read_text())
        yield Stage(api, description, node, triggerer)


@contextmanager
def running(site: Site) -> Iterator[Path]:
    """Start an Airflow in a directory of its own, and stop it."""
    with tempfile.TemporaryDirectory(prefix="bench-airflow-") as directory:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("AIRFLOW")}
        settings = {
            "CLUSTER_DIR": str(site.facts["cluster_dir"]),
            "DEMO_DIR": directory,
            "AIRFLOW_PORT": str(free_port()),
            "AIRFLOW_LOG_PORT": str(free_port()),
            "AIRFLOW_VENV": sys.prefix,
            "AIRFLOW_DAGS": str(CHECKOUT / "benchmarks" / "dags"),
        }
        control = [str(CHECKOUT / "docker" / "airflow")]
        try:
            subprocess.run([*control, "up"], env={**kept, **settings}, check=True)
            yield Path(directory)
        finally:
            subprocess.run([*control, "down"], env={**kept, **settings}, check=True)
