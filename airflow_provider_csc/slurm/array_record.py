"""
What became of the tasks of an array, over all jobs that ran some of them.

A record is small where tasks ended alike: it is kept by states, each with the ids that are in it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import NotationError, is_whole_number
from airflow_provider_csc.slurm.array_parts import name_task
from airflow_provider_csc.slurm.arrays import ArraySpec, array_of, format_array, read_ids
from airflow_provider_csc.slurm.states import STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COMPLETED = "COMPLETED"
UNKNOWN = "UNKNOWN"
# Of so many tasks that failed it is kept how; of the others their state.
_MAX_DETAILS = 200
# Of a larger array the result lists only the tasks that failed, and no more of them.
_MAX_LISTED = 1000
_NAMED_FAILURES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnd:
    """
    How one task of an array ended.

    ``job_id`` and ``shift`` are of the job that ran it last, ``log`` where its output is.
    ``failure`` is the value of a `FailureReason`.
    """

    job_id: str
    state: str
    shift: int = 0
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    nodes: str | None = None
    log: str | None = None
    failure: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether the evidence says COMPLETED."""
        return self.state == COMPLETED


_DETAILS = ("exit_code", "signal", "reason", "nodes", "log", "failure")


@dataclass(slots=True)
class ArrayRecord:
    """The tasks that have ended, by their ids."""

    ends: dict[int, TaskEnd] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many tasks ended in each state, the successful ones first."""
        return order_counts(Counter(end.state for end in self.ends.values()))

    @property
    def failed(self) -> dict[int, TaskEnd]:
        """What did not complete, in the order of the ids."""
        return {each: end for each, end in sorted(self.ends.items()) if not end.is_success}

    @property
    def completed(self) -> ArraySpec:
        """The ids of the tasks that completed."""
        return array_of(each for each, end in self.ends.items() if end.is_success)

    def successes(self) -> ArrayRecord:
        """Return what need not be run again."""
        return ArrayRecord({each: end for each, end in self.ends.items() if end.is_success})

    def within(self, whole: ArraySpec) -> ArrayRecord:
        """Leave out tasks that the array does not have any more."""
        wanted = set(whole)
        return ArrayRecord({each: end for each, end in self.ends.items() if each in wanted})

    def merged(self, later: ArrayRecord) -> ArrayRecord:
        """Return both; what ran later counts."""
        return ArrayRecord({**self.ends, **later.ends})

    def add_completed(self, job_id: str, task_ids: Iterable[int], shift: int) -> None:
        """Note that one job completed some tasks."""
        end = TaskEnd(job_id=job_id, state=COMPLETED, shift=shift, exit_code=0)
        self.ends |= dict.fromkeys(task_ids, end)

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values, of a size that depends on how differently tasks ended."""
        alike: dict[tuple[str, int, str], list[int]] = defaultdict(list)
        for index, end in self.ends.items():
            alike[end.job_id, end.shift, end.state].append(index)
        details = {
            str(each): {name: getattr(end, name) for name in _DETAILS}
            for each, end in islice(self.failed.items(), _MAX_DETAILS)
        }
        return {
            "ended": [[*key, format_array(array_of(ids))] for key, ids in sorted(alike.items())],
            "details": details,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any] | None) -> ArrayRecord:
        """Read what `to_payload` made, also when another version added fields to it."""
        record = cls()
        known = payload or {}
        for job_id, shift, state, text in known.get("ended", ()):
            code = 0 if state == COMPLETED else None
            end = TaskEnd(job_id=job_id, shift=shift, state=state, exit_code=code)
            record.ends |= dict.fromkeys(read_ids(text), end)
        names = {each.name for each in fields(TaskEnd)}
        for text, given in known.get("details", {}).items():
            more = {name: value for name, value in given.items() if name in names}
            record.ends[int(text)] = TaskEnd(**{**asdict(record.ends[int(text)]), **more})
        return record

    def to_xcom(self, whole: ArraySpec) -> dict[str, Any]:
        """
        Return what a task's result says of its array; about 70 bytes for each task that is listed.

        Of an array of more than 1000 tasks only those that failed are listed, at most 1000 of them,
        and ``completed`` has the ids of the others.
        """
        value: dict[str, Any] = {"spec": format_array(whole), "counts": self.counts}
        shown = self.ends if len(self.ends) <= _MAX_LISTED else self.failed
        value["tasks"] = {
            str(each): _describe_in_xcom(each, end)
            for each, end in islice(sorted(shown.items()), _MAX_LISTED)
        }
        if shown is not self.ends:
            value["completed"] = format_array(self.completed)
        return value


def _describe_in_xcom(index: int, end: TaskEnd) -> dict[str, Any]:
    value = {
        "job_id": name_task(end.job_id, index, end.shift),
        "state": end.state,
        "exit_code": end.exit_code,
    }
    more = {name: getattr(end, name) for name in ("signal", "reason", "nodes", "log")}
    return value if end.is_success else value | {name: each for name, each in more.items() if each}


_NOTE = "completed "


def format_note(record: ArrayRecord) -> str:
    """Return the line of a run directory that says which tasks need not be run again."""
    return f"{_NOTE}{format_array(record.completed)}".rstrip()


def parse_note(text: str) -> ArraySpec | None:
    """Read the ids that `format_note` wrote down; None for text that is no such line."""
    if not f"{text} ".startswith(_NOTE):
        return None
    try:
        return read_ids(text[len(_NOTE) :].strip())
    except NotationError:
        return None


_ORDER = {name: at for at, name in enumerate([COMPLETED, "FAILED"])}


def order_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts of states as a reader wants them: ended, running, waiting."""
    phases = {"ended": 0, "unknown": 1, "running": 2, "queued": 3}

    def rank(name: str) -> tuple[int, int, str]:
        state = STATES.get(name)
        phase = phases[state.phase.value] if state else 1
        return phase, _ORDER.get(name, len(_ORDER)), name

    return {name: counts[name] for name in sorted(counts, key=rank) if counts[name]}


def describe_counts(job_id: str, counts: Mapping[str, int]) -> str:
    """Say how far an array is: ``Array 123: 100 tasks: 40 COMPLETED, 60 PENDING.``."""
    told = ", ".join(f"{number} {name}" for name, number in order_counts(counts).items())
    return f"Array {job_id}: {sum(counts.values())} tasks: {told or 'none'}."


FailureLimit = int | float | None
"""How many tasks may fail: a number, a part of the array below 1, or None for any."""


def check_failure_limit(value: object) -> None:
    """
    Refuse what is no limit of failures.

    :raises ConfigError: naming it, and what can be written.
    """
    is_count = is_whole_number(value) and value >= 0
    is_part = isinstance(value, float) and 0 <= value < 1
    if value is not None and not is_count and not is_part:
        raise ConfigError(
            f"max_failed_tasks: {value!r} is no limit. Give how many tasks of the array may fail "
            "(0, 5), which part of them (0.1), or None for all.",
            field="max_failed_tasks",
            value=value,
        )


def failures_allowed(limit: FailureLimit, size: int) -> int:
    """Return how many of an array's tasks may fail."""
    if limit is None:
        return size
    return limit if isinstance(limit, int) else math.floor(limit * size)


def is_tolerable(record: ArrayRecord, whole: ArraySpec, limit: FailureLimit) -> bool:
    """
    Whether an array that has ended counts as a success.

    Each of its tasks must have ended with evidence of how: none may be unknown.
    """
    states = {end.state for end in record.ends.values()}
    is_whole = all(each in record.ends for each in whole)
    is_known = UNKNOWN not in states
    return is_whole and is_known and len(record.failed) <= failures_allowed(limit, len(whole))


def describe_failures(record: ArrayRecord, limit: FailureLimit, size: int) -> str:
    """Say which tasks failed, and how many were allowed to."""
    failed = record.failed
    named = "; ".join(
        _describe_failure(each, end) for each, end in islice(failed.items(), _NAMED_FAILURES)
    )
    rest = array_of(islice(failed, _NAMED_FAILURES, None))
    more = f"; and {len(rest)} more: {_cut(format_array(rest))}" if rest else ""
    if UNKNOWN in record.counts:
        bound = "What became of some of them is not known, which max_failed_tasks cannot allow"
    else:
        bound = f"max_failed_tasks={limit} allows {failures_allowed(limit, size)}"
    return f"{bound}. Failed: {named}{more}."


def _describe_failure(index: int, end: TaskEnd) -> str:
    how = f" by signal {end.signal}" if end.signal else f" with exit code {end.exit_code}"
    told = how if end.signal or end.exit_code else ""
    log = f", log {end.log}" if end.log else ""
    return f"task {index} ({name_task(end.job_id, index, end.shift)}) {end.state}{told}{log}"


_SHOWN = 200


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
