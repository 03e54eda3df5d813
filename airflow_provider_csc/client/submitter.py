"""
Submit a job exactly once, whatever is lost on the way.

What a site says of a submission is decided on in `slurm.submission`; here it is asked.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConfigError,
    ConnectionLostError,
    SiteUnavailableError,
    SlurmError,
    SubmitKilledError,
    SubmitRejectedError,
    SubmitUnknownError,
    TransportError,
    UnreadableOutputError,
)
from airflow_provider_csc.slurm.identity import build_job_name, build_token
from airflow_provider_csc.slurm.run_dir import LOG_FILE
from airflow_provider_csc.slurm.submission import (
    Claimed,
    Decision,
    Killed,
    LookUp,
    NoVerdict,
    Previous,
    Submission,
    adopt,
    decide,
    read_look_up,
    read_submit_answer,
)
from airflow_provider_csc.slurm.submit_commands import (
    GIVEN_UP,
    SubmitRequest,
    build_discard,
    build_give_up,
    build_look_up,
    build_show_job,
    build_submit,
)
from airflow_provider_csc.slurm.verdict import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.slurm.identity import TaskIdentity
    from airflow_provider_csc.slurm.result import JobResult

SUBMIT_SECONDS = 180.0  # sbatch itself retries a busy controller for a while
RESOLVE_DELAYS = (1, 2, 4, 8, 15, 15, 15)
BRIEF_DELAYS = (1, 2)
# A connection may be lost again while the same submission is repeated; that ends some time.
MAX_SUBMITS = 3
DAY = 86_400
_NAMED_RESUBMISSIONS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """
    Submits one job of one task instance.

    ``label`` is the readable part of the job's name. ``since`` (seconds since 1970, this machine's
    clock) is when the DAG run began. ``report`` is told, in words, what was found and decided.
    ``is_fresh`` is true for the very first submission of a task instance, before which there can
    be nothing to find but its run directory. ``prepare`` completes the request right before it is
    submitted, once it is known that no job was found; it may raise, and then nothing is submitted.
    ``delays`` are the seconds between two looks.
    """

    client: SlurmClient
    request: SubmitRequest
    identity: TaskIdentity
    label: str
    since: int
    report: Callable[[str], None]
    is_fresh: bool = False
    delays: Sequence[float] = RESOLVE_DELAYS
    prepare: Callable[[SubmitRequest], Awaitable[SubmitRequest]] | None = None

    async def submit(self) -> Submission:
        """
        Submit exactly once for this task instance, or return the job that was submitted before.

        :raises ConfigError: for a directory on the cluster that cannot be used.
        :raises SubmitRejectedError: when sbatch refused; nothing was left behind.
        :raises SubmitKilledError: when the task was killed meanwhile; no job is left.
        :raises TransportError: when the site cannot be reached; nothing was submitted.
        :raises SiteUnavailableError: when it can take nothing now; nothing was submitted.
        :raises SubmitUnknownError: when it stays unknown whether there is a job; ask again later.
        """
        if not self.is_fresh:
            found, _ = await self.look_back()
            if found:
                return found
        if self.prepare:
            request = await self.prepare(self.request)
            return await replace(self, request=request, is_fresh=True, prepare=None).submit()
        takes_over = False
        attempts = 0
        while True:
            attempts += 1
            answer = await self._step(takes_over=takes_over)
            if isinstance(answer, Killed):
                raise killed_error(answer)
            if isinstance(answer, Submission):
                return self._accept(answer)
            here = self._present(await self._settle(answer))
            if here and here.job_id:
                self.report(f"It was accepted as job {here.job_id}.")
                return await self.adopt(here)
            if attempts == MAX_SUBMITS:
                raise self._unknown(answer)
            takes_over = here is not None and here.run_dir is not None
            self.report(
                "It was not: neither squeue nor sacct knows a job of that name. Submitting "
                + ("again, in the same run directory." if takes_over else "again.")
            )

    def _accept(self, submission: Submission) -> Submission:
        if submission.is_adopted:
            self.report(
                f"This very try had submitted job {submission.job_id} already; it is adopted."
            )
        return replace(submission, asked=self.request.asked)

    async def look_back(self) -> tuple[Submission | None, Decision]:
        """
        Look for what came before; adopt it, or see to it that none of it lives.

        :raises SubmitUnknownError: when that cannot be told, or not be seen to, now.
        """
        while True:
            look_up = await self._look_up_quietly()
            decision = decide(look_up, self.identity, run_seconds=self._run_seconds())
            here = self._present(look_up)
            if self.prepare and here and here.job_id and not here.is_given_up:
                # It need not be prepared any more.
                self.report(f"This very try had submitted job {here.job_id} already; adopted.")
                return await self.adopt(here), decision
            if not decision.give_up or await self._give_up(decision.give_up):
                break
        self.report(decision.why)
        if decision.cancel:
            await self._cancel_earlier(decision)
        return await self.adopt(decision.adopt) if decision.adopt else None, decision

    def _run_seconds(self) -> float:
        return max(time.time() - self.since, 0)

    def _present(self, look_up: LookUp) -> Previous | None:
        """Return this very submission, not one that a deleted run of the same id made."""
        here = look_up.find(self.identity.number)
        if here and here.is_of_another_run(self.identity.run_started, self._run_seconds()):
            return None
        return here

    async def _give_up(self, claims: Sequence[Previous]) -> bool:
        """See to it that no job comes of claims without an id; False if one has got an id."""
        run_dirs = [each.run_dir for each in claims if each.run_dir]
        frames = await self.client.ask(build_give_up(run_dirs, self.request.token))
        for run_dir, frame in zip(run_dirs, frames.values(), strict=True):
            last = frame.text.rpartition("\n")[2]
            if frame.status != 0:
                raise SubmitUnknownError(
                    f"An earlier try may have a job in {run_dir}, and it could not be written "
                    f"there that it is not wanted: {frame.complaint}. Nothing is submitted before.",
                    run_dir=run_dir,
                )
            if last and not last.startswith(GIVEN_UP):
                return False
            self.report(f"No job id was ever recorded in {run_dir}; that submission is given up.")
        return True

    async def _cancel_earlier(self, decision: Decision) -> None:
        """Cancel jobs and wait until they are gone: two of one task must not run side by side."""
        job_ids = [each.job_id for each in decision.cancel if each.job_id]
        live: list[str] = []
        try:
            await self.client.cancel(job_ids)
            for delay in self.delays:
                found = await self.client.query(job_ids)
                live = [f"{one.job_id} ({one.state})" for one in found.values() if _lives(one)]
                if not live:
                    return
                await asyncio.sleep(delay)
        except SlurmError as error:
            raise SubmitUnknownError(
                f"Job {', '.join(job_ids)} of before has to be cancelled first. {error.message}",
                run_dir=None,
            ) from error
        raise SubmitUnknownError(
            f"Job {', '.join(live)} of before was cancelled and is still there. Nothing is "
            "submitted before it is gone.",
            run_dir=None,
        )

    async def _look_up(self) -> LookUp:
        program = build_look_up(
            base_dir=self.request.base_dir,
            key=self.identity.key,
            names=names_of(self.identity, self.label),
            since=self.since - DAY,
        )
        return read_look_up(
            await self.client.ask(program), self.identity.key, run_seconds=self._run_seconds()
        )

    async def _look_up_quietly(self) -> LookUp:
        """Look up, and again as long as the remote step of an earlier submission may be at work."""
        busy: list[Previous] = []
        for delay in (0, *self.delays):
            await asyncio.sleep(delay)
            look_up = await self._look_up()
            if not look_up.is_complete:
                raise SubmitUnknownError(
                    "It cannot be told whether an earlier try of this task has a job: "
                    f"{look_up.problem}. Nothing is submitted before that is known.",
                    run_dir=None,
                )
            busy = [
                one
                for one in look_up.previous
                if one.number < self.identity.number and one.may_be_submitting
            ]
            if not busy:
                return look_up
        raise SubmitUnknownError(
            f"Try {busy[-1].number[0]} of this task may still be submitting a job in "
            f"{busy[-1].run_dir}. Nothing is submitted before that is known.",
            run_dir=busy[-1].run_dir,
        )

    async def _settle(self, unclear: Claimed | NoVerdict) -> LookUp:
        return await settle(
            unclear,
            look_up=self._look_up,
            find=self._present,
            delays=self.delays,
            report=self.report,
            unknown=self._unknown(unclear),
        )

    async def _step(self, *, takes_over: bool) -> Submission | Claimed | NoVerdict | Killed:
        program = build_submit(self.request, takes_over=takes_over, run_seconds=self._run_seconds())
        try:
            frames = await self.client.ask(program, timeout=SUBMIT_SECONDS, in_one_go=True)
        except (ConnectionLostError, CommandTimeoutError, UnreadableOutputError) as error:
            lost = f"{self.request.base_dir}/{self.request.token}"
            return NoVerdict(run_dir=lost, message=error.message)
        try:
            return read_submit_answer(
                frames,
                work_dir=self.request.work_dir,
                base_dir=self.request.base_dir,
                log_name=LOG_FILE,
            )
        except (SubmitRejectedError, SiteUnavailableError, ConfigError) as error:
            if run_dir := error.details.get("run_dir"):
                # Should this fail, the refusal is still what is to be said.
                with suppress(TransportError, UnreadableOutputError):
                    new_base = str(error.details.get("new_base", ""))
                    await self.client.ask(build_discard(str(run_dir), new_base))
            if isinstance(error, SubmitRejectedError):
                asked = " ".join(self.request.asked) or "no options"
                raise SubmitRejectedError(
                    f"{error.message} Asked for: {asked}.",
                    **error.details,
                    asked=self.request.asked,
                    array=self.request.array,
                ) from error
            raise

    async def adopt(self, previous: Previous) -> Submission:
        """Return an earlier submission that has a job as the one to go on with."""
        if previous.job_id is None:
            raise ValueError("only a submission with a job id can be adopted")
        recorded = previous.recorded
        if previous.run_dir is None:
            # Its run directory is gone; slurmctld may still know where the job writes to.
            frames = await self.client.ask(build_show_job(previous.job_id))
            recorded = frames["job"].text if frames["job"].status == 0 else ""
        return replace(
            adopt_previous(previous, recorded), asked=self.request.asked, array=previous.array
        )

    def _unknown(self, unclear: Claimed | NoVerdict) -> SubmitUnknownError:
        return SubmitUnknownError(
            f"Slurm did not say whether it accepted the job ({what_was_said(unclear)}), and it is "
            f"not known yet whether there is one named {self.request.token}. It is looked for "
            "again before anything is submitted.",
            run_dir=unclear.run_dir,
        )


def names_of(identity: TaskIdentity, label: str) -> list[str]:
    """Return the names that the jobs of this try, and of those before, may have."""
    present, resubmission = identity.number
    # How many jobs a policy made of an earlier try is not known where their directories are
    # gone; those that squeue knows are found in any case.
    numbers = [
        (number, again) for number in range(1, present) for again in range(_NAMED_RESUBMISSIONS + 1)
    ]
    numbers += [(present, again) for again in range(resubmission + 1)]
    return [build_job_name(label, build_token(identity.key, number)) for number in numbers]


def adopt_previous(previous: Previous, recorded: str) -> Submission:
    """Return a submission that a look-up found; ``recorded`` is what is known of its files."""
    job_id = previous.job_id or ""
    found = adopt(job_id, previous.run_dir or "", recorded=recorded, log_name=LOG_FILE)
    group = previous.group
    return replace(found, array_token=group.token_of(job_id) if group else None)


async def settle(
    unclear: Claimed | NoVerdict,
    *,
    look_up: Callable[[], Awaitable[LookUp]],
    find: Callable[[LookUp], Previous | None],
    delays: Sequence[float],
    report: Callable[[str], None],
    unknown: SubmitUnknownError,
) -> LookUp:
    """
    Look until it is known whether a submission without a verdict was accepted.

    :raises SubmitUnknownError: ``unknown``, when it is not, after a minute.
    :raises UnreadableOutputError: when the log-in shell never gave a whole answer.
    """
    unreadable: UnreadableOutputError | None = None
    report(
        f"Whether the job was accepted is not known ({what_was_said(unclear)}); looking for it by "
        "its name."
    )
    for delay in delays:
        await asyncio.sleep(delay)
        try:
            found = await look_up()
        except TransportError:
            unreadable = None
            continue
        except UnreadableOutputError as error:
            unreadable = error
            continue
        unreadable = None
        here = find(found)
        if here and here.job_id:
            return found
        if found.is_complete and not (here and here.may_be_submitting):
            return found
    raise unreadable or unknown


def _lives(job: JobResult) -> bool:
    """Whether squeue shows it; one that a slurmctld forgot stays RUNNING in sacct for ever."""
    return not job.is_final and job.state != UNKNOWN.name


def what_was_said(unclear: Claimed | NoVerdict) -> str:
    """Return why it is not known whether there is a job."""
    return unclear.message if isinstance(unclear, NoVerdict) else "no job id is recorded yet"


def killed_error(killed: Killed) -> SubmitKilledError:
    """Return the error for a submission that a kill came before."""
    what = f"job {killed.job_id} was cancelled" if killed.job_id else "nothing was submitted"
    return SubmitKilledError(
        f"The task was killed while its job was being submitted; {what}.",
        run_dir=killed.run_dir,
        job_id=killed.job_id,
    )
