"""The client of one Slurm site: what can be asked of it, each in one remote command."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError, SlurmError, UnreadableOutputError
from airflow_provider_csc.slurm.answers import Answers
from airflow_provider_csc.slurm.cancel_commands import build_kill, build_notice, read_problem
from airflow_provider_csc.slurm.commands import (
    LogRequest,
    PollRequest,
    build_poll,
    build_probe,
    build_query,
    build_read_bytes,
    build_read_file,
    build_write_file,
)
from airflow_provider_csc.slurm.framing import (
    INTERPRETER,
    Frame,
    build_program,
    parse_answer,
    quote,
)
from airflow_provider_csc.slurm.output import Answer, NoAnswer, parse_log
from airflow_provider_csc.slurm.partitions import build_show_partition, parse_limits
from airflow_provider_csc.slurm.preflight import build_test_only, parse_test_only
from airflow_provider_csc.slurm.preflight_facts import build_preflight, parse_preflight
from airflow_provider_csc.slurm.result import JobResult, build_result
from airflow_provider_csc.slurm.tres import build_ask_shares, parse_shares
from airflow_provider_csc.slurm.verdict import Evidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_csc.slurm.cancel_commands import Notice
    from airflow_provider_csc.slurm.policy import PartitionLimits
    from airflow_provider_csc.slurm.preflight import Forecast
    from airflow_provider_csc.slurm.preflight_facts import PreflightFacts
    from airflow_provider_csc.slurm.site_facts import SiteFacts
    from airflow_provider_csc.slurm.submit_commands import SubmitRequest
    from airflow_provider_csc.slurm.tres import Share
    from airflow_provider_csc.transport.base import Transport

_COMMAND_SECONDS = 60.0
_FACTS_SECONDS = 180.0  # five commands of 30 seconds at the most
_PREFLIGHT_SECONDS = 120.0  # three commands of 20 seconds at the most, two of 15, and df
_MAX_SCRIPT_BYTES = 4 * 1024 * 1024


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

    Every method is one remote command; `submitter` puts several together to one submission. All
    raise `TransportError` when the site cannot be reached, and `UnreadableOutputError` when its
    answer is not whole.
    """

    def __init__(self, transport: Transport, *, login_setup: str = "") -> None:
        self._transport = transport
        self._setup = login_setup

    async def ask(
        self, body: str, *, timeout: float = _COMMAND_SECONDS, in_one_go: bool = False
    ) -> dict[str, Frame]:
        """Run a program of `slurm.commands` and return its frames; see `framing.build_program`."""
        mark = f"@{secrets.token_hex(8)}"
        program = build_program(body, mark=mark, setup=self._setup, in_one_go=in_one_go)
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

    async def partition_limits(self, name: str) -> PartitionLimits:
        """Return what a partition allows; nothing is known of one that Slurm does not know."""
        return parse_limits((await self.ask(build_show_partition(name)))["partition"])

    async def preflight_facts(self, base_dir: str, further: str = "") -> PreflightFacts:
        """Return what the site says of itself that matters to any job."""
        program = build_preflight(base_dir, further)
        return parse_preflight(await self.ask(program, timeout=_PREFLIGHT_SECONDS))

    async def test_only(self, request: SubmitRequest) -> Forecast:
        """
        Ask sbatch what would become of a job; none is submitted.

        :raises SubmitRejectedError: for what it would refuse.
        """
        program = build_test_only(request.options, request.batch)
        return parse_test_only((await self.ask(program))["test"])

    async def shares(self, job_id: str) -> list[Share]:
        """
        Return what each run of a job was given and for how long.

        :raises UnreadableOutputError: where accounting does not say.
        """
        frames = await self.ask(build_ask_shares(job_id))
        return parse_shares(frames["shares"], job_id)

    async def site_facts(self) -> SiteFacts:
        """Return what a profile can be compared with."""
        from airflow_provider_csc.slurm.site_facts import (  # noqa: PLC0415 - few need it
            build_site_facts,
            parse_site_facts,
        )

        return parse_site_facts(await self.ask(build_site_facts(), timeout=_FACTS_SECONDS))

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

    async def cancel(
        self, job_ids: Sequence[str], *, notice: Notice | None = None, run_dirs: Sequence[str] = ()
    ) -> None:
        """
        Cancel jobs; one that has ended already is no error.

        With a notice, those that run only get its signal; the mark in their run directories makes
        them end when its time is over.

        :raises SlurmError: when scancel could not do it.
        """
        program = build_notice(job_ids, notice, run_dirs) if notice else build_kill(job_ids)
        frames = await self.ask(program)
        if problem := read_problem(frames):
            raise SlurmError(
                f"scancel could not cancel {', '.join(job_ids)}: {problem}",
                job_ids=list(job_ids),
                stderr=frames["scancel"].text,
            )


def _version(text: str) -> str:
    """Read ``slurm 23.11.4`` and Debian's ``slurm-wlm 22.05.8``."""
    return text.rsplit(maxsplit=1)[-1] if text else ""
