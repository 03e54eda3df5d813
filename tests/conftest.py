"""
Put every test session into an Airflow home of its own.

Airflow reads its home, and boto3 its files and variables, when they are imported, so the
environment is set before any test module is. Nothing is imported here that would do so.
"""

from __future__ import annotations

import os
import tempfile

import pytest

_HOME = pytest.StashKey[tempfile.TemporaryDirectory[str]]()

HERMETIC = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def pytest_configure(config: pytest.Config) -> None:
    home = tempfile.TemporaryDirectory(prefix="airflow-home-")
    config.stash[_HOME] = home
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "AWS_"))]:
        del os.environ[name]
    os.environ.update(HERMETIC, AIRFLOW_HOME=home.name)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_HOME].cleanup()
