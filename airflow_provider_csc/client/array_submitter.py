"""
Submit what is still to do of a job array, as much of it as the site takes at once.

What earlier jobs of the same generation completed is known from the cluster: from the verdicts in
their run directories, and where there is none, from squeue, sacct and exit records.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError, SlurmError
from airflow_provider_csc.slurm.array_logs import resolve_pattern
from airflow_provider_csc.slurm.array_parts import (
    ArrayPart,
    build_show_array_limits,
    choose_part,
    describe_part,
    needs_shift,
    parse_limits,
    parse_part,
    subtract,
)
from airflow_provider_csc.slurm.array_record import ArrayRecord
from airflow_provider_csc.slurm.arrays import format_array
from airflow_provider_csc.slurm.options import read_arguments
from airflow_provider_csc.slurm.queue_limits import build_show_limits, read_limits, read_scope
from airflow_provider_csc.slurm.run_dir import ARRAY_LOG_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_csc.client.submitter import Submitter
    from airflow_provider_csc.slurm.array_parts import ArrayLimits
    from airflow_provider_csc.slurm.arrays import ArraySpec
    from airflow_provider_csc.slurm.submission import Previous, Submission
    from airflow_provider_csc.slurm.submit_commands import SubmitRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySubmitter:
    """
    Submits one job of an array.

    ``submitter`` is for the array as a whole; ``plan`` makes the request of a part of it. ``ended``
    is what has ended in this try, which is not run again. ``waits`` is false where nobody waits to
    submit a second part, ``keeps_ids`` true where Slurm must know the tasks by the author's ids.
    """

    submitter: Submitter
    plan: Callable[[ArrayPart], SubmitRequest]
    ended: ArrayRecord
    waits: bool = True
    keeps_ids: bool = False

    async def submit(self) -> Submission:
        """
        Submit exactly once, or return the job that was submitted before; see `Submitter.submit`.

        :raises ConfigError: for an array that needs several jobs when nobody waits for the first,
            and for ids that Slurm cannot know where it must.
        :raises SlurmError: when all of it has ended in this try, and none of its jobs is known.
        """
        whole = parse_part(self.submitter.request.array).spec
        adopted: Submission | None = None
        mine: tuple[Previous, ...] = ()
        if not self.submitter.is_fresh:
            adopted, decision = await self.submitter.look_back()
            mine = decision.mine
        earlier = collect(mine).within(whole)
        if adopted is not None:
            # One that was found by its name alone does not say which tasks it runs.
            part = adopted.array or ArrayPart(spec=subtract(whole, earlier.ends))
            return self._complete(adopted, part, earlier, whole)
        todo = subtract(whole, earlier.merged(self.ended).ends)
        if not todo:
            # Nobody took note of that: the task concludes with the last job that did something.
            last = _last_that_completed(mine)
            self.submitter.report("Every task of the array has completed; nothing is submitted.")
            found = await self.submitter.adopt(last)
            return self._complete(found, found.array or ArrayPart(spec=whole), earlier, whole)
        part = await self._choose(todo, whole)
        submitter = replace(self.submitter, request=self.plan(part), is_fresh=True)
        found = await submitter.submit()
        return self._complete(found, found.array or part, earlier, whole)

    async def _choose(self, todo: ArraySpec, whole: ArraySpec) -> ArrayPart:
        limits = await self._ask_limits()
        if self.keeps_ids:
            _check_ids(todo, limits)
        part = choose_part(todo, limits)
        if not self.waits and len(part.spec) < len(todo):
            raise ConfigError(
                f"wait_for_completion: this array has {len(todo)} tasks, which are more than the "
                f"site takes at once ({limits}). The others would have to be submitted later, by a "
                "task that waits. Leave wait_for_completion out, or ask for fewer tasks. Nothing "
                "was submitted.",
                field="wait_for_completion",
                value=False,
            )
        self._describe(part, todo, whole, limits)
        return part

    def _describe(
        self, part: ArrayPart, todo: ArraySpec, whole: ArraySpec, limits: ArrayLimits
    ) -> None:
        if len(todo) < len(whole):
            self.submitter.report(
                f"Of {len(whole)} tasks {len(whole) - len(todo)} need not be run again."
            )
        if text := describe_part(part, todo, limits):
            self.submitter.report(text)

    async def _ask_limits(self) -> ArrayLimits:
        scope = read_scope(self.submitter.request.asked, "")
        program = build_show_limits(scope) + build_show_array_limits()
        frames = await self.submitter.client.ask(program)
        return parse_limits(frames, read_limits(frames, scope))

    def _complete(
        self, found: Submission, part: ArrayPart, earlier: ArrayRecord, whole: ArraySpec
    ) -> Submission:
        stdout, stderr = self._patterns(found.run_dir)
        return replace(
            found,
            array=part,
            earlier=earlier,
            whole=whole,
            stdout_path=stdout,
            stderr_path=stderr,
        )

    def _patterns(self, run_dir: str) -> tuple[str, str]:
        """Return where the tasks' output goes, as patterns of sbatch."""
        request = self.submitter.request
        asked = read_arguments(request.asked)
        start = request.work_dir or run_dir
        stdout, stderr = (
            resolve_pattern(value, start) if isinstance(value, str) else None
            for value in (asked.get("output"), asked.get("error"))
        )
        default = f"{run_dir}/{ARRAY_LOG_FILE}" if run_dir else ""
        return stdout or default, stderr or stdout or default


def _check_ids(todo: ArraySpec, limits: ArrayLimits) -> None:
    if limits.max_id is not None and needs_shift(todo, limits):
        raise ConfigError(
            f"depends_on: 'aftercorr' pairs the tasks of two arrays by the ids that Slurm knows, "
            f"and Slurm takes only ids below MaxArraySize ({limits.max_id}) here; "
            f"{format_array(todo)} has higher ones. Use 'afterok', or ids below it. Nothing was "
            "submitted.",
            field="depends_on",
            value="aftercorr",
        )


def _last_that_completed(mine: Sequence[Previous]) -> Previous:
    """Return the newest job that completed tasks of the array."""
    last = next((each for each in reversed(mine) if each.completed and each.array), None)
    if last is None:
        raise SlurmError(
            "Every task of the array has ended in this try, and the site knows of none of its jobs "
            "any more (were its run directories removed?). Nothing is submitted; a retry submits "
            "what did not complete."
        )
    return last


def collect(previous: Sequence[Previous]) -> ArrayRecord:
    """Return what earlier submissions of a generation completed, each task by the newest job."""
    record = ArrayRecord()
    for each in previous:
        if each.array is not None and each.job_id is not None:
            record.add_completed(each.job_id, each.completed, each.array.shift)
    return record
