"""
Which tasks of an array one job runs: what is still to do, within what a site takes at once.

Ids are those the author wrote. Slurm takes only ids below its MaxArraySize; a job with higher ones
is submitted with lower ids, and its wrapper gives the script those it was promised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from airflow_provider_csc.notation import NotationError, shown
from airflow_provider_csc.slurm.arrays import ArraySpec, array_of, format_array, parse_array

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from airflow_provider_csc.slurm.framing import Frame
    from airflow_provider_csc.slurm.queue_limits import QueueLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPart:
    """The tasks of one job; the ids that Slurm knows them by are lower by ``shift``."""

    spec: ArraySpec
    shift: int = 0

    @property
    def slurm_spec(self) -> str:
        """The text for ``--array``."""
        if not self.shift:
            return format_array(self.spec)
        lower = array_of((each - self.shift for each in self.spec), self.spec.throttle)
        return format_array(lower)


def name_task(job_id: str, index: int, shift: int) -> str:
    """Return the id by which Slurm knows one task of a job."""
    return f"{job_id}_{index - shift}"


_PART = re.compile(r"(?P<spec>\S+)( shifted by (?P<shift>[0-9]{1,8}))?")


def format_part(part: ArrayPart) -> str:
    """Return the text that `parse_part` reads; it is a stored format."""
    shifted = f" shifted by {part.shift}" if part.shift else ""
    return f"{format_array(part.spec)}{shifted}"


def parse_part(text: str) -> ArrayPart:
    """
    Read what `format_part` made; a plain array specification is one without a shift.

    :raises NotationError: for any other text.
    """
    match = _PART.fullmatch(text.strip())
    if match is None:
        raise NotationError(f"{shown(text)} is not an array", "Write it as '0-99%10'.")
    return ArrayPart(spec=parse_array(match["spec"]), shift=int(match["shift"] or 0))


def subtract(whole: ArraySpec, ended: Container[int]) -> ArraySpec:
    """Return what is left of an array, with its throttle."""
    left = [each for each in whole if each not in ended]
    if len(left) == len(whole):
        return whole
    return array_of(left, whole.throttle)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLimits:
    """
    What a site takes at once; None is no limit, or one that is not known.

    ``max_id`` is one above the highest id (MaxArraySize), ``max_tasks`` the number of tasks in one
    array, ``max_queued`` that of a user's jobs in the queue, where each task counts.
    """

    max_id: int | None = None
    max_tasks: int | None = None
    max_queued: int | None = None

    @property
    def most(self) -> int | None:
        """How many tasks one job can have."""
        known = (self.max_id, self.max_tasks, self.max_queued)
        return min((each for each in known if each is not None), default=None)

    def __str__(self) -> str:
        told = {
            "MaxArraySize": self.max_id,
            "max_array_tasks": self.max_tasks,
            "MaxSubmit": self.max_queued,
        }
        return ", ".join(f"{name}={each}" for name, each in told.items() if each is not None)


def choose_part(todo: ArraySpec, limits: ArrayLimits) -> ArrayPart:
    """
    Return the first job of those that run an array, in the order of the ids.

    What Slurm takes as it stands is taken first; only higher ids are shifted, to begin with 0.
    """
    if not limits.most or (len(todo) <= limits.most and not needs_shift(todo, limits)):
        return ArrayPart(spec=todo)
    first = next(iter(todo))
    shift = 0 if limits.max_id is None or first < limits.max_id else first
    bound = None if limits.max_id is None else shift + limits.max_id
    within = takewhile(lambda each: bound is None or each < bound, todo)
    return ArrayPart(spec=array_of(islice(within, limits.most), todo.throttle), shift=shift)


def needs_shift(todo: ArraySpec, limits: ArrayLimits) -> bool:
    """Whether Slurm takes some of the ids only as lower ones."""
    return limits.max_id is not None and max(each[-1] for each in todo.ranges) >= limits.max_id


def describe_part(part: ArrayPart, todo: ArraySpec, limits: ArrayLimits) -> str:
    """Say why a job runs only a part, or under which ids; empty where there is nothing to say."""
    told = []
    if len(part.spec) < len(todo):
        told.append(
            f"{len(todo)} tasks are more than this site takes at once ({limits}): this job runs "
            f"{len(part.spec)} of them, {format_array(replace(part.spec, throttle=None))}; the "
            "others follow in jobs of their own, one after the other."
        )
    if part.shift:
        told.append(
            f"Slurm's ids of these tasks are lower by {part.shift}, because they must be below "
            f"MaxArraySize ({limits.max_id}); the script finds the ids it was promised."
        )
    return " ".join(told)


def promise(whole: ArraySpec, part: ArrayPart) -> dict[str, str]:
    """
    Return the variables that tell a script of the whole array where its job runs only a part.

    They are words of bash; the step is that of the first range that has one, as by Slurm (22.05).
    """
    if not part.shift and list(part.spec) == list(whole):
        return {}
    ids = list(whole)
    step = next((each.step for each in whole.ranges if each.step > 1), 1)
    return {
        "SLURM_ARRAY_TASK_ID": f"$((SLURM_ARRAY_TASK_ID + {part.shift}))",
        "SLURM_ARRAY_TASK_MIN": str(ids[0]),
        "SLURM_ARRAY_TASK_MAX": str(ids[-1]),
        "SLURM_ARRAY_TASK_COUNT": str(len(ids)),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }


def build_show_array_limits() -> str:
    """Ask the controller for its own limits of arrays."""
    return "ask config scontrol show config\n"


_CONFIG = {"max_id": r"^MaxArraySize\s*=\s*(\d+)", "max_tasks": r"\bmax_array_tasks=(\d+)"}


def parse_limits(frames: Mapping[str, Frame], queue_limits: Iterable[QueueLimit]) -> ArrayLimits:
    """
    Put the controller's limits and those on jobs in the queue together.

    What a source does not tell is no limit, for Slurm refuses what is too much. Nor is a limit of
    0: no part is short enough for that, and the refusal says so.
    """
    config = frames["config"].text if frames["config"].status == 0 else ""
    found = {name: re.search(pattern, config, re.MULTILINE) for name, pattern in _CONFIG.items()}
    values = {name: int(match[1]) or None for name, match in found.items() if match}
    queued = [each.limit for each in queue_limits if each.limit]
    return ArrayLimits(**values, max_queued=min(queued, default=None))
