"""The suite must see what a careless submitter does; it runs over the cluster the tests share."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.cluster import CHECKOUT, Cluster
from tests.chaos.faults import Names
from tests.chaos.processes import Forks
from tests.chaos.proxy import Proxy
from tests.chaos.scenarios import sbatch_lies, worker_killed
from tests.chaos.stage import Options, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.chaos.report import Row

pytestmark = pytest.mark.cluster


async def perform(scenario: Callable[[Stage], Awaitable[None]], directory: Path) -> Row:
    """Play a scenario that leaves the daemons alone, with the naive submitter."""
    cluster = Cluster.shared_by_tests()
    (directory / "outcomes").mkdir()
    environment = {"AIRFLOW_HOME": str(directory), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    async with (
        Forks(directory, environment, None, workers=8) as forks,
        Proxy(target=cluster.facts["ssh_port"]) as proxy,
    ):
        stage = Stage(
            name=scenario.__name__.replace("_", "-"),
            options=Options(
                seed=random.randrange(10**6), scale=0.5, short=True, kind="naive", source=CHECKOUT
            ),
            cluster=cluster,
            forks=forks,
            names=Names(directory / "hosts"),
            rng=random.Random(1),
            proxy=proxy,
            directory=cluster.shared("ledger"),
        )
        try:
            await scenario(stage)
            return await stage.reckon(0)
        finally:
            await stage.close()


async def cut_while_waiting(stage: Stage) -> None:
    """Cut connections that have come beyond the submission."""
    stage.proxy.cut_after = lambda: stage.rng.randint(5000, 12000)
    await stage.run([stage.plan(n, seconds=4) for n in range(8)])
    stage.faults += stage.proxy.cuts


@pytest.mark.parametrize(
    ("scenario", "kinds"),
    [
        (worker_killed, {"duplicates"}),
        (sbatch_lies, {"duplicates"}),
        (cut_while_waiting, {"false successes"}),
    ],
)
def test_a_naive_submitter_does_not_pass(
    scenario: Callable[[Stage], Awaitable[None]], kinds: set[str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="chaos-naive-") as directory:
        row = asyncio.run(perform(scenario, Path(directory)))

    assert row.faults > 0
    assert kinds <= {name for name, found in row.findings.items() if found}
