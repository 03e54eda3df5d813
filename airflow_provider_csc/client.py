"""The client of one Slurm site: what can be asked of it, each in one remote command."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import (
    CommandTimeoutError,
    ConfigError,
    ConnectionLostError,
    SlurmError,
    SubmitRejectedError,
    SubmitUnknownError,
    TransportError,
    UnreadableOutputError,
)
from airflow_provider_csc.slurm.answers import Answers
from airflow_provider_csc.slurm.batch import LOG_FILE
from airflow_provider_csc.slurm.commands import (
    LogRequest,
    PollRequest,
    SubmitRequest,
    build_cancel,
    build_discard,
    build_look_up,
    build_poll,
    build_probe,
    build_query,
    build_read_bytes,
    build_read_file,
    build_submit,
    build_write_file,
)
from airflow_provider_csc.slurm.framing import (
    INTERPRETER,
    Frame,
    build_program,
    parse_answer,
    quote,
)
from airflow_provider_csc.slurm.identity import TaskIdentity, build_job_name
from airflow_provider_csc.slurm.output import Answer, NoAnswer, parse_log
from airflow_provider_csc.slurm.result import JobResult, build_result
from airflow_provider_csc.slurm.submission import (
    Claimed,
    LookUp,
    NoVerdict,
    Previous,
    Submission,
    adopt,
    decide,
    read_look_up,
    read_submit_answer,
)
from airflow_provider_csc.slurm.verdict import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_csc.transport.base import Transport

_COMMAND_SECONDS = 60.0
_SUBMIT_SECONDS = 180.0  # sbatch itself retries a busy controller for a while
_RESOLVE_DELAYS = (1, 2, 4, 8, 15, 30)
# A connection may be lost again while the same submission is repeated; that ends some time.
_MAX_SUBMITS = 3
# Longer than any sbatch takes, since one goes on by itself when its connection is lost.
_STALE_CLAIM_SECONDS = 300
_MAX_SCRIPT_BYTES = 4 * 1024 * 1024
_DAY = 86_400
# What scancel says of a job that needs no cancelling any more (slurm_errno.c).
_GONE = re.compile("Invalid job id|already completing or completed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Who we are on a site and which Slurm answers there; None where Slurm did not."""

    user: str
    host: str
    home: str
    path: str
    version: str | None
    cluster: str | None
    problem: str


class SlurmClient:
    """
    Asks one site.

    Every method is one remote command, save `submit`, which needs more only when an earlier
    submission of the same task may exist. All raise `TransportError` when the site cannot be
    reached, and `UnreadableOutputError` when its answer is not whole.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        login_setup: str = "",
        resolve_delays: Sequence[float] = _RESOLVE_DELAYS,
    ) -> None:
        self._transport = transport
        self._setup = login_setup
        self._resolve_delays = resolve_delays

    async def ask(self, body: str, *, timeout: float = _COMMAND_SECONDS) -> dict[str, Frame]:
        """Run a program of `slurm.commands` and return its frames."""
        mark = f"@{secrets.token_hex(8)}"
        program = build_program(body, mark=mark, setup=self._setup)
        done = await self._transport.run(INTERPRETER, stdin=program.encode(), timeout=timeout)
        try:
            return parse_answer(done.stdout, mark=mark)
        except UnreadableOutputError as error:
            said = done.stderr[-500:].decode(errors="replace").strip()
            raise UnreadableOutputError(
                f"{error.message} Exit status {done.exit_status}; it said: {said or 'nothing'}",
                **error.details,
            ) from error

    async def close(self) -> None:
        """Release the connection."""
        await self._transport.close()

    async def probe(self) -> Probe:
        """Return who and where we are, for a person who tests a connection."""
        frames = await self.ask(build_probe())
        found = frames["sbatch"].status == 0
        user, host = (frames[name] for name in ("user", "host"))
        config = frames["config"]
        cluster = re.search(r"^ClusterName\s*=\s*(\S+)", config.text, re.MULTILINE)
        return Probe(
            user=user.text if user.status == 0 else "an unknown user",
            host=host.text if host.status == 0 else "an unnamed host",
            home=frames["home"].text,
            path=frames["path"].text,
            version=_version(frames["version"].text) if found else None,
            cluster=cluster.group(1) if found and cluster else None,
            problem="" if config.status == 0 else config.text,
        )

    async def poll(self, request: PollRequest) -> dict[str, Frame]:
        """Ask for many jobs at once; see `slurm.tracking` for what becomes of the answer."""
        return await self.ask(build_poll(request))

    async def read_script(self, field: str, path: str) -> tuple[str, str]:
        """
        Return the resolved path and the text of a script that lies on the cluster.

        :raises ConfigError: when it is missing, unreadable, too long or not text.
        """
        frames = await self.ask(build_read_file(path, _MAX_SCRIPT_BYTES + 1))
        answer = frames.get("file", frames["resolved"])
        if answer.status != 0:
            raise ConfigError(
                f"{field}: {path!r} cannot be read on the cluster ({answer.complaint})"
                ". Correct the path; nothing was submitted.",
                field=field,
                value=path,
            )
        try:
            return frames["resolved"].text, answer.data.decode().removesuffix(".")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{field}: {path!r} is not a text file in UTF-8.", field=field, value=path
            ) from error

    async def query(self, job_ids: Sequence[str]) -> dict[str, JobResult]:
        """
        Return what squeue and sacct say of jobs now, by the ids asked for.

        A job neither of them knows is left out.

        :raises SlurmError: when squeue, or sacct where it is needed, gave no answer.
        """
        answers = Answers(await self.ask(build_query(job_ids)))
        if isinstance(answers.queue, NoAnswer):
            raise SlurmError(f"squeue gave no answer: {answers.queue.reason}")
        found: dict[str, JobResult] = {}
        for job_id in job_ids:
            evidence = Evidence(
                queue=answers.queue_of(job_id), accounting=answers.accounting_of(job_id)
            )
            if isinstance(evidence.accounting, NoAnswer) and evidence.queue == Answer(()):
                raise SlurmError(f"sacct gave no answer: {evidence.accounting.reason}")
            if not evidence.is_denied:
                found[job_id] = build_result(job_id, evidence)
        return found

    async def read_bytes(self, path: str, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """
        Return at most ``limit`` bytes of a file on the cluster; a negative offset is from its end.

        :raises SlurmError: when there is no such file, or it cannot be read.
        """
        request = LogRequest(name="part", path=path, offset=offset, limit=limit)
        answer = parse_log((await self.ask(build_read_bytes(request)))["part"])
        if answer is None:
            raise SlurmError(f"{path!r} cannot be read on the cluster.", path=path)
        return answer[2]

    async def write_file(self, path: str, text: str, *, mode: int = 0o600) -> None:
        """
        Write a small text file on the cluster, as a whole or not at all.

        :raises SlurmError: when it cannot be written.
        """
        answer = (await self.ask(build_write_file(path, text, mode)))["write"]
        if answer.status != 0:
            raise SlurmError(f"{path!r} cannot be written on the cluster: {answer.text}", path=path)

    async def run(self, command: str, *, timeout: float = _COMMAND_SECONDS) -> Frame:
        """Run a shell command on the log-in node; a short one, as the site's rules demand."""
        return (await self.ask(f"ask run eval {quote(command)}", timeout=timeout))["run"]

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """
        Cancel jobs; one that has ended already is no error.

        :raises SlurmError: when scancel could not do it.
        """
        answer = (await self.ask(build_cancel(job_ids)))["scancel"]
        lines = [line for line in answer.text.splitlines() if not _GONE.search(line)]
        if answer.status != 0 and (lines or not answer.text):
            said = "\n".join(lines) or f"it ended with status {answer.status} and said nothing"
            raise SlurmError(
                f"scancel could not cancel {', '.join(job_ids)}: {said}",
                job_ids=list(job_ids),
                stderr=answer.text,
            )

    async def submit(
        self,
        request: SubmitRequest,
        identity: TaskIdentity,
        *,
        label: str,
        since: int,
        report: Callable[[str], None],
    ) -> Submission:
        """
        Submit exactly once for this task instance, or return the job that was submitted before.

        ``since`` (seconds since 1970, this machine's clock) is when the DAG run began. ``report``
        is told, in words, what was found and decided.

        :raises ConfigError: for a directory on the cluster that cannot be used.
        :raises SubmitRejectedError: when sbatch refused; nothing was left behind.
        :raises SubmitUnknownError: when it stayed unknown whether Slurm took the job.
        """
        run_seconds = max(int(time.time()) - since, 0)
        request = replace(request, run_seconds=run_seconds)
        if identity.try_number > 1:
            look_up = await self._quiet_look_up(request, identity, label=label, since=since)
            adopted = await self._apply_decision(look_up, identity, run_seconds, report)
            if adopted:
                return adopted
        attempts = 0
        while True:
            attempts += 1
            answer = await self._submit_step(request)
            if isinstance(answer, Submission):
                if answer.is_adopted:
                    report(f"This very try had submitted job {answer.job_id}; it is adopted.")
                return answer
            found = await self._resolve(
                answer, request, identity, label=label, since=since, report=report
            )
            if found:
                return found
            if attempts == _MAX_SUBMITS:
                raise _unknown(answer, identity)

    async def _look_up(
        self, request: SubmitRequest, identity: TaskIdentity, *, label: str, since: int
    ) -> LookUp:
        tries = range(1, identity.try_number + 1)
        names = [build_job_name(label, f"{identity.key}.{number}") for number in tries]
        program = build_look_up(
            base_dir=request.base_dir, key=identity.key, names=names, since=since - _DAY
        )
        return read_look_up(await self.ask(program), identity.key)

    async def _quiet_look_up(
        self, request: SubmitRequest, identity: TaskIdentity, *, label: str, since: int
    ) -> LookUp:
        """Look up, and again as long as the remote step of an earlier try may be at work."""
        busy: list[Previous] = []
        for delay in (0, *self._resolve_delays):
            await asyncio.sleep(delay)
            look_up = await self._look_up(request, identity, label=label, since=since)
            busy = [
                one
                for one in look_up.previous
                if one.try_number < identity.try_number
                and one.may_be_submitting(_STALE_CLAIM_SECONDS)
            ]
            if not busy:
                return look_up
        raise SubmitUnknownError(
            f"Try {busy[-1].try_number} of this task may still be submitting a job in "
            f"{busy[-1].run_dir}. Nothing is submitted before that is known.",
            run_dir=busy[-1].run_dir,
        )

    async def _apply_decision(
        self,
        look_up: LookUp,
        identity: TaskIdentity,
        run_seconds: int,
        report: Callable[[str], None],
    ) -> Submission | None:
        if not look_up.is_complete:
            raise SubmitUnknownError(
                "It cannot be told whether an earlier try of this task has a job: "
                f"{look_up.problem}. Nothing is submitted before that is known."
            )
        decision = decide(
            look_up,
            try_number=identity.try_number,
            first_try=identity.first_try,
            run_seconds=run_seconds,
        )
        report(decision.why)
        if decision.cancel:
            await self.cancel([each.job_id for each in decision.cancel if each.job_id])
        return _adopt(decision.adopt) if decision.adopt else None

    async def _submit_step(self, request: SubmitRequest) -> Submission | Claimed | NoVerdict:
        try:
            frames = await self.ask(build_submit(request), timeout=_SUBMIT_SECONDS)
        except (ConnectionLostError, CommandTimeoutError, UnreadableOutputError) as error:
            lost = f"{request.base_dir}/{request.token}"
            return NoVerdict(run_dir=lost, message=error.message)
        try:
            return read_submit_answer(
                frames, work_dir=request.work_dir, base_dir=request.base_dir, log_name=LOG_FILE
            )
        except (SubmitRejectedError, ConfigError) as error:
            if run_dir := error.details.get("run_dir"):
                # Should this fail, the refusal is still what is to be said.
                with suppress(TransportError, UnreadableOutputError):
                    new_base = str(error.details.get("new_base", ""))
                    await self.ask(build_discard(str(run_dir), new_base))
            if isinstance(error, SubmitRejectedError):
                asked = " ".join(request.asked) or "no options"
                raise SubmitRejectedError(
                    f"{error.message} Asked for: {asked}.", **error.details
                ) from error
            raise

    async def _resolve(
        self,
        unclear: Claimed | NoVerdict,
        request: SubmitRequest,
        identity: TaskIdentity,
        *,
        label: str,
        since: int,
        report: Callable[[str], None],
    ) -> Submission | None:
        """
        Find out by looking what became of a submission without a verdict.

        None means that nothing was submitted, so that it may be tried again. That is safe even
        when the lost program should begin only now: who makes the run directory submits.
        """
        said = _what_was_said(unclear)
        report(f"Whether the job was accepted is not known ({said}); looking for it by its name.")
        for delay in self._resolve_delays:
            await asyncio.sleep(delay)
            try:
                look_up = await self._look_up(request, identity, label=label, since=since)
            except TransportError:
                continue
            previous = next(
                (one for one in look_up.previous if one.try_number == identity.try_number), None
            )
            if previous and previous.job_id:
                report(f"It was accepted as job {previous.job_id}.")
                return _adopt(previous)
            if not look_up.is_complete:
                continue
            if previous is None:
                report("It was not; there is neither a job nor a run directory of that name.")
                return None
            if isinstance(unclear, Claimed) and (previous.age_seconds or 0) > _STALE_CLAIM_SECONDS:
                report("An earlier attempt of this try was broken off before it submitted.")
                await self.ask(build_discard(unclear.run_dir))
                return None
        raise _unknown(unclear, identity)


def _what_was_said(unclear: Claimed | NoVerdict) -> str:
    return unclear.message if isinstance(unclear, NoVerdict) else "no job id is recorded yet"


def _unknown(unclear: Claimed | NoVerdict, identity: TaskIdentity) -> SubmitUnknownError:
    return SubmitUnknownError(
        f"Slurm did not say whether it accepted the job ({_what_was_said(unclear)}), and no job "
        f"named {identity.token} was found since. A retry of this task looks for it again before "
        "it submits.",
        run_dir=unclear.run_dir,
    )


def _version(text: str) -> str:
    """Read ``slurm 23.11.4`` and Debian's ``slurm-wlm 22.05.8``."""
    return text.rsplit(maxsplit=1)[-1] if text else ""


def _adopt(previous: Previous) -> Submission:
    if previous.job_id is None:
        raise ValueError("only a submission with a job id can be adopted")
    return adopt(
        previous.job_id, previous.run_dir or "", recorded=previous.recorded, log_name=LOG_FILE
    )
