"""A singleton that is submitted at the same moment as another one waits for it all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from airflow_provider_csc.client.dependencies import Linker
from airflow_provider_csc.slurm.dependencies import Needs, Upstream
from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.submission import Submission
from airflow_provider_csc.slurm.submit_commands import SubmitRequest

if TYPE_CHECKING:
    from airflow_provider_csc.client.slurm import SlurmClient

pytestmark = pytest.mark.asyncio

TOKEN = "af0123456789abcdef0123.1"
REQUEST = SubmitRequest(
    token=TOKEN,
    base_dir="~/runs",
    work_dir=None,
    script="#!/bin/bash\ntrue\n",
    batch="",
    options=("--hold",),
    own_output=True,
    asks_paths=False,
)
OURS = Submission(job_id="8", run_dir="/r", stdout_path="/r/o", stderr_path="/r/o")


class FakeClient:
    """Answers with a queue that a test fills, and keeps what scontrol was told."""

    def __init__(self) -> None:
        self.queue: list[int] = []
        self.updates: list[str] = []
        self.is_update_refused = False

    async def ask(self, program: str) -> dict[str, Frame]:
        if "scontrol update" in program:
            self.updates.append(program.splitlines()[-1])
            return {"update": Frame(int(self.is_update_refused), b"Job is no longer pending")}
        lines = "\n".join(f"{job} nightly.{TOKEN}" for job in self.queue)
        return {"queue": Frame(0, lines.encode())}


def linker(client: FakeClient, told: list[str]) -> Linker:
    needs = Needs(upstreams=(Upstream(kind="singleton", name=""),))
    typed = cast("SlurmClient", client)
    return Linker(client=typed, needs=needs, label="nightly", report=told.append)


async def test_one_that_came_in_between_is_waited_for() -> None:
    client, told = FakeClient(), list[str]()
    client.queue = [5]
    link = linker(client, told)
    request = await link.prepare(REQUEST)
    assert request.options == ("--hold", "--dependency=afterany:5", "--begin=now+15")
    client.queue = [5, 7, 8, 9]
    await link.keep_alone(OURS)
    assert client.updates == [
        "ask update slurm scontrol update JobId=8 Dependency=afterany:5,afterany:7"
    ]


async def test_where_nobody_came_in_between_nothing_is_changed() -> None:
    client = FakeClient()
    link = linker(client, [])
    assert (await link.prepare(REQUEST)).options == ("--hold", "--begin=now+15")
    client.queue = [8, 9]
    await link.keep_alone(OURS)
    assert client.updates == []


async def test_one_that_cannot_be_held_back_any_more_is_reported() -> None:
    client, told = FakeClient(), list[str]()
    client.is_update_refused = True
    link = linker(client, told)
    await link.prepare(REQUEST)
    client.queue = [7, 8]
    await link.keep_alone(OURS)
    assert told[-1].startswith("Another job of the same name may run beside job 8")
