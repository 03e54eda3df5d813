"""
Cancel jobs and have Slurm confirm it, within the seconds that a killed task is given.

A worker has about 5 s between SIGTERM and SIGKILL, a triggerer 30 s (``[triggerer]
on_kill_timeout``). So the cancellation is the first thing that is sent, over an open connection
where there is one; what follows only finds out whether it had its effect.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from airflow_provider_csc.errors import CscError, SlurmError
from airflow_provider_csc.slurm.cancel_commands import (
    build_cancel_submission,
    build_kill,
    build_notice,
    read_cancelled_submission,
    read_notice,
    read_problem,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.transport.base import SiteSettings

PATIENCE_SECONDS = 25.0
_COMMAND_SECONDS = 8.0
_RETRY_SECONDS = 1.0
_CONFIRM_SECONDS = 1.0


class KillLog(Protocol):
    """What is needed of a task's logger."""

    def info(self, message: str, /, *args: object) -> object:
        """Log at INFO."""

    def log(self, level: int, message: str, /, *args: object) -> object:
        """Log at a level of `logging`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KillReport:
    """
    What became of a kill.

    ``job_ids`` are the jobs it was about, ``live`` those still there with their last known state
    (``?`` where Slurm did not say). ``is_asked`` tells whether the site took the cancellation, and
    ``problem`` what it, or the way to it, said last.
    """

    job_ids: tuple[str, ...]
    live: dict[str, str] = field(default_factory=dict)
    is_asked: bool = True
    problem: str = ""

    @property
    def is_confirmed(self) -> bool:
        """Whether Slurm says of each job that it is gone."""
        return self.is_asked and not self.live


async def kill_jobs(
    settings: SiteSettings,
    job_ids: Sequence[str],
    log: KillLog,
    *,
    run_dirs: Sequence[str] = (),
    grace: float = 0.0,
    signal: str | None = None,
    client: SlurmClient | None = None,
    patience: float = PATIENCE_SECONDS,
) -> KillReport:
    """
    Cancel jobs and ask until Slurm confirms it, for at most ``patience`` seconds.

    What goes wrong is logged and reported, never raised.
    With ``grace`` (seconds) running jobs get a signal first (``signal`` is the user's ``--signal``
    option, by default TERM), and what is left of them is cancelled when the grace is over. A grace
    beyond ``patience`` is kept by the mark in ``run_dirs``, which the job's wrapper honours.
    ``client`` is one that is open already; it stays open.
    """
    jobs = tuple(dict.fromkeys(job_ids))
    async with _client_of(settings, client) as known:
        kill = _Kill(known, log, patience)
        return await kill.jobs(jobs, tuple(run_dirs), grace, signal)


async def kill_submission(
    settings: SiteSettings,
    *,
    base_dir: str,
    token: str,
    log: KillLog,
    identity: str = "",
    grace: float = 0.0,
    client: SlurmClient | None = None,
    patience: float = PATIENCE_SECONDS,
) -> KillReport:
    """
    Keep a submission that is under way from becoming a job, or cancel the job.

    What goes wrong is logged and reported, never raised.
    ``base_dir`` is the connection's work directory (absolute or below ``~``), ``token`` names the
    submission; ``identity`` says whose it is (JSON), so that a later DAG run of the same id knows
    that this is not its own. The mark it leaves is looked at by the submission before and after
    ``sbatch``.
    """
    async with _client_of(settings, client) as known:
        return await _Kill(known, log, patience).submission(base_dir, token, identity, grace)


@asynccontextmanager
async def _client_of(
    settings: SiteSettings, client: SlurmClient | None
) -> AsyncIterator[SlurmClient]:
    if client is not None:
        yield client
        return
    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.transport.ssh import SshTransport

    own = SlurmClient(SshTransport(settings.ssh), login_setup=settings.login_setup)
    try:
        yield own
    finally:
        await own.close()


class _Kill:
    """One kill, and the time it has."""

    def __init__(self, client: SlurmClient, log: KillLog, patience: float) -> None:
        self._client = client
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._end = self._began + patience
        self._problem = ""

    async def jobs(
        self, job_ids: tuple[str, ...], run_dirs: tuple[str, ...], grace: float, option: str | None
    ) -> KillReport:
        notice = read_notice(grace, option)
        if notice is None:
            first = build_kill(job_ids)
        else:
            first = build_notice(job_ids, notice, run_dirs)
            self._log.info(
                "Job %s has %.0f s to end (SIG%s).",
                ", ".join(job_ids), notice.seconds, notice.signal.upper().removeprefix("SIG"),
            )  # fmt: skip
        if not await self._insist(lambda: self._send(first)):
            return self._tell(KillReport(job_ids=job_ids, is_asked=False, problem=self._problem))
        live = await self._confirm(job_ids, self._began + grace if notice else None)
        return self._tell(KillReport(job_ids=job_ids, live=live, problem=self._problem))

    async def submission(
        self, base_dir: str, token: str, identity: str, grace: float
    ) -> KillReport:
        found: tuple[str, ...] = ()

        async def stop() -> None:
            nonlocal found
            program = build_cancel_submission(
                base_dir=base_dir, token=token, identity=identity, grace=grace
            )
            frames = await self._client.ask(program, timeout=_COMMAND_SECONDS)
            found = read_cancelled_submission(frames)
            _raise_problem(read_problem(frames))

        is_asked = await self._insist(stop)
        if not is_asked and not found:
            return self._tell(
                KillReport(job_ids=(), is_asked=False, problem=self._problem), f"submission {token}"
            )
        if not found:
            self._log.info("Submission %s is stopped; it had become no job.", token)
            return KillReport(job_ids=())
        live = await self._confirm(found, None)
        return self._tell(
            KillReport(job_ids=found, live=live, is_asked=is_asked, problem=self._problem)
        )

    async def _send(self, program: str) -> None:
        frames = await self._client.ask(program, timeout=_COMMAND_SECONDS)
        _raise_problem(read_problem({"scancel": frames["scancel"]}))

    async def _confirm(self, job_ids: tuple[str, ...], hard_at: float | None) -> dict[str, str]:
        """Ask until the jobs are gone, cancel again when a grace is over; return what is left."""
        live = dict.fromkeys(job_ids, "?")

        async def look() -> None:
            nonlocal live
            found = await self._client.query(job_ids)
            live = {one.job_id: one.state for one in found.values() if not one.is_final}

        while await self._insist(look) and live:
            if hard_at is not None and self._loop.time() >= hard_at:
                hard_at = None
                await self._insist(lambda: self._send(build_kill(list(live))))
            if self._loop.time() + _CONFIRM_SECONDS >= self._end:
                break
            await asyncio.sleep(_CONFIRM_SECONDS)
        return live

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something until it is done or the time is over; tell which."""
        while True:
            try:
                async with asyncio.timeout_at(self._end):
                    await work()
            except TimeoutError:
                self._problem = self._problem or "no answer in time"
                return False
            except CscError as error:
                self._problem = error.message
            else:
                self._problem = ""
                return True
            if self._loop.time() + _RETRY_SECONDS >= self._end:
                return False
            await asyncio.sleep(_RETRY_SECONDS)

    def _tell(self, report: KillReport, what: str = "") -> KillReport:
        """Say in the task's log what became of it."""
        seconds = self._loop.time() - self._began
        what = what or f"job {', '.join(report.job_ids)}"
        if report.is_confirmed:
            self._log.info("Cancelled %s; Slurm confirms it (%.1f s).", what, seconds)
        elif report.live and report.is_asked:
            states = ", ".join(f"{job_id} ({state})" for job_id, state in report.live.items())
            self._log.log(
                logging.WARNING,
                "Slurm took the cancellation, but after %.0f s this is still there: %s. %s",
                seconds, states, _remedy(report),
            )  # fmt: skip
        else:
            self._log.log(
                logging.ERROR,
                "The site did not take the cancellation of %s within %.0f s: %s. %s",
                what, seconds, report.problem or "no answer", _remedy(report),
            )  # fmt: skip
        return report


def _remedy(report: KillReport) -> str:
    command = f"`scancel {' '.join(report.job_ids)}`" if report.job_ids else "scancel"
    return f"Look whether it ends; cancel it with {command}, or have the reaper look for it."


def _raise_problem(problem: str) -> None:
    if problem:
        raise SlurmError(f"it was refused: {problem}", stderr=problem)
