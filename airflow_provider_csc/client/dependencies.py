"""Put what a job depends on into its submission, as the site sees it at that moment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import (
    ConfigError,
    CscError,
    SiteUnavailableError,
    SlurmError,
)
from airflow_provider_csc.slurm.dependencies import (
    SINGLETON_BEGIN,
    build_depend,
    build_dependency,
    build_own_queue,
    join_dependencies,
    read_same_name,
)
from airflow_provider_csc.slurm.script_options import read_script_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_csc.client.slurm import SlurmClient
    from airflow_provider_csc.slurm.dependencies import Needs
    from airflow_provider_csc.slurm.result import JobResult
    from airflow_provider_csc.slurm.submission import Submission
    from airflow_provider_csc.slurm.submit_commands import SubmitRequest


@dataclass(slots=True, kw_only=True)
class Linker:
    """Links one submission to the jobs it depends on; ``label`` is its job's readable name."""

    client: SlurmClient
    needs: Needs
    label: str
    report: Callable[[str], None]
    _text: str = ""
    _same_name: list[str] = field(default_factory=list)
    _is_linked: bool = False

    async def prepare(self, request: SubmitRequest) -> SubmitRequest:
        """
        Return the submission with ``--dependency``, without what is satisfied already.

        :raises ConfigError: when the script has a dependency of its own.
        :raises UpstreamFailedError: when a job ended otherwise than is asked.
        :raises SiteUnavailableError: when the site does not tell; nothing was submitted.
        """
        _check_script(request.script)
        try:
            jobs = await self._ask()
            self._same_name = await self._ask_same_name() if self.needs.is_singleton else []
        except SlurmError as error:
            raise SiteUnavailableError(
                f"What became of the jobs that this one depends on is not known: {error.message} "
                "Nothing was submitted."
            ) from error
        same = f"afterany:{':'.join(self._same_name)}" if self._same_name else ""
        self._text = join_dependencies(build_dependency(self.needs, jobs), same)
        self._is_linked = True
        return self._add(request)

    def _add(self, request: SubmitRequest) -> SubmitRequest:
        options = list(request.options)
        if self._text:
            self.report(f"The job depends on others: {self._text}.")
            options.append(f"--dependency={self._text}")
        else:
            self.report("Nothing is left that the job would have to wait for.")
        if self.needs.is_singleton and not any(each.startswith("--begin=") for each in options):
            options.append(SINGLETON_BEGIN)
        added = options[len(request.options) :]
        return replace(request, options=tuple(options), asked=(*request.asked, *added))

    async def _ask(self) -> dict[str, JobResult]:
        return await self.client.query(self.needs.job_ids) if self.needs.job_ids else {}

    async def _ask_same_name(self) -> list[str]:
        return read_same_name((await self.client.ask(build_own_queue()))["queue"], self.label)

    async def keep_alone(self, submission: Submission) -> None:
        """Let a singleton wait also for those of its name that were submitted beside it."""
        if not (self._is_linked and self.needs.is_singleton) or submission.is_adopted:
            return
        try:
            known = {*self._same_name, submission.job_id}
            found = await self._ask_same_name()
            others = [
                one for one in found if one not in known and int(one) < int(submission.job_id)
            ]
            if not others:
                return
            text = join_dependencies(self._text, f"afterany:{':'.join(others)}")
            answer = (await self.client.ask(build_depend(submission.job_id, text)))["update"]
            problem = answer.complaint if answer.status != 0 else ""
        except CscError as error:
            problem = error.message
        if problem:
            self.report(
                f"Another job of the same name may run beside job {submission.job_id}: {problem}"
            )


def _check_script(script: str) -> None:
    own = read_script_options(script).options.get("dependency")
    if own is not None:
        raise ConfigError(
            f"depends_on: the script has a dependency of its own, '#SBATCH --dependency={own}'. "
            "Leave one of them out. Nothing was submitted.",
            field="depends_on",
            value=own,
        )
