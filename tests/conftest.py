"""
Put every test session into an Airflow home of its own.

Airflow reads its home, and boto3 its files and variables, when they are imported, so the
environment is set before any test module is. Nothing is imported here that would do so.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOME = pytest.StashKey[tempfile.TemporaryDirectory[str]]()

SLOW = (
    # Each of these has an Airflow of its own.
    "dags/test_allas_events",
    "dags/test_remote_logs",
    # One Airflow does these one after the other, and is killed at last.
    "dags/test_example_dags",
    "dags/test_costs",
    "dags/test_kill",
    "cluster/test_staging",
    "cluster/test_slurm_operator",
    "cluster/test_allas_faults",
    "cluster/test_arrays",
    "cluster/test_costs",
    "cluster/test_environments",
    "cluster/test_slurm_sensor",
    "cluster/test_allas_packing",
    "cluster/test_outages",
    "cluster/test_slurm_trigger",
    "cluster/test_policy",
    "cluster/test_chains",
    "cluster/test_certificates",
    "cluster/test_pending",
    "cluster/test_python_task",
    "cluster/test_sites",
    "cluster/test_allas_transfer",
    "cluster/test_allas_sensor",
    "cluster/test_reaper",
    # These need a processor rather than time.
    "clients/test_gatherer",
    "cluster/test_coalescing",
    "cluster/",
    "chaos/",
)
HERMETIC = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    # What one test's site says is nothing to the next.
    "AIRFLOW__CSC__PREFLIGHT_SECONDS": "0",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def pytest_configure(config: pytest.Config) -> None:
    # How long an example takes says something about the machine, not about what is tested.
    hypothesis.settings.register_profile("untimed", hypothesis.settings(), deadline=None)
    hypothesis.settings.load_profile("untimed")
    home = tempfile.TemporaryDirectory(prefix="airflow-home-")
    config.stash[_HOME] = home
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "AWS_"))]:
        del os.environ[name]
    os.environ.update(HERMETIC, AIRFLOW_HOME=home.name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left with one at the end."""

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((n for n, slow in enumerate(SLOW) if path.startswith(slow)), len(SLOW))

    items.sort(key=rank)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_HOME].cleanup()


@pytest.fixture(scope="session", autouse=True)
def _triggers_fire_at_once() -> Iterator[None]:
    """Leave the pause for Airflow's scheduler out where the tests play the scheduler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_provider_csc.triggers._settling.SETTLE_SECONDS", 0)
        yield
