"""What tests of the real cluster share: where it is and whom to log in as."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

DEFAULT_DIR = "/var/lib/csc-cluster"


@pytest.fixture(scope="session")
def cluster() -> dict[str, Any]:
    """The running cluster as docker/cluster describes it; a missing one is a failure."""
    path = Path(os.environ.get("CLUSTER_DIR", DEFAULT_DIR)) / "cluster.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        pytest.fail(f"No cluster is described in {path}. Start it with: make cluster-up")
    return description
