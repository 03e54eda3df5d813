"""
Submit the jobs of many task instances as one array, exactly once, whatever is lost on the way.

It is to `coalescing` what `submitter` is to `submission`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.client.submitter import (
    DAY,
    MAX_SUBMITS,
    RESOLVE_DELAYS,
    SUBMIT_SECONDS,
    settle,
    what_was_said,
)
from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConfigError,
    ConnectionLostError,
    SiteUnavailableError,
    SubmitRejectedError,
    SubmitUnknownError,
    TransportError,
    UnreadableOutputError,
)
from airflow_provider_csc.slurm.coalescing import read_array_answer
from airflow_provider_csc.slurm.coalescing_commands import build_discard_array, build_submit_array
from airflow_provider_csc.slurm.identity import split_token
from airflow_provider_csc.slurm.run_dir import LOG_FILE
from airflow_provider_csc.slurm.submission import NoVerdict, read_look_up
from airflow_provider_csc.slurm.submit_commands import build_look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.slurm.coalescing import Outcome, TaskArray
    from airflow_provider_csc.slurm.submission import LookUp, Previous


@dataclass(frozen=True, slots=True, kw_only=True)
class CoalescedSubmitter:
    """
    Submits one array.

    ``report`` is told, in words, what was found and decided. ``lost`` are tokens of members whose
    own claims were found to have come to nothing. ``delays`` are the seconds between two looks.
    """

    client: SlurmClient
    array: TaskArray
    report: Callable[[str], None]
    lost: frozenset[str] = frozenset()
    delays: Sequence[float] = RESOLVE_DELAYS

    async def submit(self) -> list[Outcome]:
        """
        Submit exactly once, and return what became of each member.

        :raises ConfigError: for a directory on the cluster that cannot be used.
        :raises SubmitRejectedError: when sbatch refused; nothing was left behind.
        :raises TransportError: when the site cannot be reached; nothing was submitted.
        :raises SiteUnavailableError: when it can take nothing now; nothing was submitted.
        :raises SubmitUnknownError: when it stays unknown whether there is a job; ask again later.
        """
        takes_over, known_id = False, ""
        attempts = 0
        while True:
            attempts += 1
            answer = await self._step(takes_over=takes_over, known_id=known_id)
            if not isinstance(answer, NoVerdict):
                return answer
            if attempts == MAX_SUBMITS:
                raise self._unknown(answer)
            here = self._find(await self._settle(answer))
            known_id = (here.job_id or "").partition("_")[0] if here else ""
            takes_over = here is not None and here.run_dir is not None
            self.report(
                f"It was accepted as job {known_id}."
                if known_id
                else "It was not: neither squeue nor sacct knows a job of that name. Submitting "
                "again."
            )

    async def _step(self, *, takes_over: bool, known_id: str) -> list[Outcome] | NoVerdict:
        program = build_submit_array(
            self.array, takes_over=takes_over, known_id=known_id, lost=self.lost
        )
        try:
            frames = await self.client.ask(program, timeout=SUBMIT_SECONDS)
        except (ConnectionLostError, CommandTimeoutError, UnreadableOutputError) as error:
            lost = f"{self.array.shared.base_dir}/{self.array.token}"
            return NoVerdict(run_dir=lost, message=error.message)
        try:
            return read_array_answer(frames, self.array, log_name=LOG_FILE)
        except (SubmitRejectedError, SiteUnavailableError, ConfigError) as error:
            if error.details.get("run_dir"):
                # Should this fail, the refusal is still what is to be said.
                with suppress(TransportError, UnreadableOutputError):
                    new_base = str(error.details.get("new_base", ""))
                    await self.client.ask(build_discard_array(self.array, new_base))
            if isinstance(error, SubmitRejectedError):
                asked = " ".join(self.array.shared.asked) or "no options"
                raise SubmitRejectedError(
                    f"{error.message} Asked for: {asked}.", **error.details
                ) from error
            raise

    async def _settle(self, unclear: NoVerdict) -> LookUp:
        return await settle(
            unclear,
            look_up=self._look_up,
            find=self._find,
            delays=self.delays,
            report=self.report,
            unknown=self._unknown(unclear),
        )

    async def _look_up(self) -> LookUp:
        key, *_number = split_token(self.array.token)
        since = self.array.members[0].since
        program = build_look_up(
            base_dir=self.array.shared.base_dir,
            key=key,
            names=[self.array.name],
            since=since - DAY,
        )
        seconds = max(time.time() - since, 0)
        return read_look_up(await self.client.ask(program), key, run_seconds=seconds)

    @staticmethod
    def _find(look_up: LookUp) -> Previous | None:
        return look_up.previous[-1] if look_up.previous else None

    def _unknown(self, unclear: NoVerdict) -> SubmitUnknownError:
        return SubmitUnknownError(
            f"Slurm did not say whether it accepted the array ({what_was_said(unclear)}), and it "
            f"is not known yet whether there is one named {self.array.token}. It is looked for "
            "again before anything is submitted.",
            run_dir=unclear.run_dir,
        )
