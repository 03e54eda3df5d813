"""What is asked of a site while a job stages files."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import SlurmError, UnreadableOutputError
from airflow_provider_csc.slurm.run_dir import STAGE_RECEIPTS_FILE
from airflow_provider_csc.slurm.shell import join_path
from airflow_provider_csc.staging.commands import (
    Look,
    build_clean,
    build_is_there,
    build_issue,
    build_look,
    read_file,
    read_look,
)
from airflow_provider_csc.staging.receipts import Receipts, parse_receipts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.client.slurm import SlurmClient

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StagingDir:
    """The run directory of a job that stages; each method is a remote command."""

    client: SlurmClient
    run_dir: str

    async def look(self, job_id: str) -> Look:
        """Return how far the staging is."""
        return read_look(await self.client.ask(build_look(self.run_dir, job_id)))

    async def issue(self, record: Mapping[str, Any], manifest: str) -> None:
        """
        Give the job its URLs.

        :raises SlurmError: when they cannot be written.
        """
        # Of many inputs these are megabytes.
        program = await asyncio.to_thread(build_issue, self.run_dir, record, manifest)
        frames = await self.client.ask(program)
        if frames["write"].status != 0:
            raise SlurmError(
                f"The URLs cannot be written into {self.run_dir}: {frames['write'].complaint}",
                run_dir=self.run_dir,
            )

    async def receipts(self) -> Receipts:
        """
        Return what the job says it has done; empty where it has said nothing.

        :raises SlurmError: when that cannot be read.
        """
        path, data = join_path(self.run_dir, STAGE_RECEIPTS_FILE), b""
        while True:
            try:
                part = await self.client.read_bytes(path, offset=len(data), limit=_READ_BYTES)
            except UnreadableOutputError:
                raise
            except SlurmError:
                if read_file((await self.client.ask(build_is_there(path)))["file"]) is None:
                    return Receipts()
                raise
            data += part
            if len(part) < _READ_BYTES:
                return await asyncio.to_thread(parse_receipts, data)

    async def clean(self) -> None:
        """Remove URLs, and what has no use any more."""
        await self.client.ask(build_clean(self.run_dir))
