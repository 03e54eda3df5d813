"""
A submitter as many are: plain sbatch, no token, no evidence. It proves that the judge can fail.

It submits anew at every try, takes any silence of sbatch for a failure, and calls a job done when
squeue shows it no more.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_csc.errors import CscError
from airflow_provider_csc.hooks.slurm import SlurmHook
from airflow_provider_csc.sync import run_sync

if TYPE_CHECKING:
    from airflow.sdk import Context


class NaiveSubmitOperator(BaseOperator):
    """Submit with sbatch and wait in the worker until squeue does not show the job."""

    def __init__(
        self,
        *,
        command: str,
        job_name: str,
        options: dict[str, Any],
        slurm_conn_id: str,
        **kwargs: Any,
    ) -> None:
        for name in ("deferrable", "poll_interval"):
            kwargs.pop(name, None)
        super().__init__(**kwargs)
        self.command = command
        self.job_name = job_name
        self.options = options
        self.slurm_conn_id = slurm_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        return run_sync(self._run())

    async def _run(self) -> dict[str, Any]:
        hook = SlurmHook(self.slurm_conn_id)
        words = " ".join(f"--{name}={value}" for name, value in self.options.items())
        script = f"#!/bin/bash\n{self.command}"
        async with _client(hook) as client:
            program = f"sbatch --parsable {words} --output=/dev/null --job-name={self.job_name} <<'NAIVE'\n{script}\nNAIVE\n"
            said = (await client.run(program)).text
            found = re.search(r"^\d+$", said, re.MULTILINE)
            if not found:
                raise RuntimeError(f"sbatch: {said}")
            job_id = found.group()
            while await _is_queued(client, job_id):
                await asyncio.sleep(1)
        return {"job_id": job_id}


def _client(hook: SlurmHook) -> Any:
    from airflow_provider_csc.hooks.slurm import open_client

    return open_client(hook.get_settings())


async def _is_queued(client: Any, job_id: str) -> bool:
    try:
        answer = await client.run(f"squeue --noheader --jobs={job_id} --format=%i")
    except CscError:
        return False
    return job_id in answer.text
