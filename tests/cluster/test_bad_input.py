"""Bad input is named with field, value and remedy, and nothing is submitted or left behind."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.support.bad_input import (
    CASES,
    NEVER_MADE,
    PACKING_CASES,
    PAGE,
    outcome,
    packing_outcome,
    unvarying,
)
from tests.support.transfers import keys

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import SlurmConnection
    from tests.support.bad_input import Case, PackingCase

pytestmark = pytest.mark.cluster


def as_alice(command: str) -> str:
    words = ["runuser", "-u", "alice", "--", "bash", "-c", command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, slurm_connection: SlurmConnection) -> None:
    label = f"bad-{uuid4()}"
    arguments = {"job_name": label} | case.arguments
    changes = {"work_dir": f"~/{label}"} | case.connection
    arguments = arguments if case.arguments else {}
    printed = outcome(replace(case, arguments=arguments, connection=changes), slurm_connection.set)

    assert [word for word in case.words if word not in printed] == []
    assert as_alice(f"find ~ -maxdepth 1 -name {label}") == ""
    assert as_alice(f"ls -d {NEVER_MADE} 2>/dev/null || :") == ""
    # slurmctld keeps a record of some jobs it refused (state FAILED, BadConstraints); none waits.
    assert label not in as_alice("squeue --me --noheader --format=%j")
    assert unvarying(printed) in PAGE.read_text(), "run: python -m tests.support.bad_input"


@pytest.mark.parametrize("case", PACKING_CASES, ids=lambda case: case.name)
def test_bad_input_of_packing(case: PackingCase, client: Any, bucket: str, tmp_path: Path) -> None:
    made, directory = tmp_path / "made", tmp_path / "directory"
    made.mkdir()
    directory.mkdir()
    case.make(made)

    printed = packing_outcome(case, client, bucket, directory)

    assert [word for word in case.words if word not in printed] == []
    assert sorted(path.name for path in directory.rglob("*")) == sorted(
        path.name for path in made.rglob("*")
    )
    assert keys(client, bucket) == (["name.tar.zst"] if case.archive is not None else [])
    assert printed in PAGE.read_text(), "run: python -m tests.support.bad_input"
