"""
Decide which jobs nobody waits for any more, and which run directories nobody needs.

Whatever is in doubt is left alone: only a positive answer about a task instance of this very
deployment makes a job an orphan, or a directory superfluous.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from airflow_provider_csc.slurm.output import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_csc.slurm.inventory import (
        Inventory,
        LiveJob,
        RunDirectory,
        RunIdentity,
    )

# airflow.utils.state.TaskInstanceState, Airflow 3.1 to 3.3. One that is in neither is unknown.
_LIVE_STATES = frozenset(
    (
        *(None, "scheduled", "queued", "running", "restarting", "deferred", "awaiting_input"),
        *("up_for_retry", "up_for_reschedule"),
    )
)
_OVER_STATES = frozenset(("success", "failed", "skipped", "upstream_failed", "removed"))

DAY = 86_400
# Without a word of its end, a job that squeue does not list must have been gone for so long.
_UNPROVEN_SECONDS = DAY


class Verdict(Enum):
    """What a job on the site is to this deployment."""

    LIVE = "live"
    ORPHAN = "orphan"
    YOUNG = "young"
    ON_PURPOSE = "left on purpose"
    FOREIGN = "foreign"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TaskKey:
    """What names a task instance for ever; ``map_index`` is -1 for one that is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    def __str__(self) -> str:
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{index} of {self.run_id}"


@dataclass(frozen=True, slots=True)
class TaskState:
    """Airflow knows the task instance; None: cleared, or not yet scheduled."""

    name: str | None


@dataclass(frozen=True, slots=True)
class NoTask:
    """Airflow answered, and has no such task instance."""


@dataclass(frozen=True, slots=True)
class NotTold:
    """Airflow could not be asked, so nothing is known; ``reason`` is why."""

    reason: str


States: TypeAlias = "Mapping[TaskKey, TaskState | NoTask | NotTold]"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobVerdict:
    """One live job, what it is to us, and why."""

    job: LiveJob
    verdict: Verdict
    why: str
    age_seconds: int | None
    task: TaskKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryVerdict:
    """One run directory, whether it may be removed, and why (not)."""

    directory: RunDirectory
    is_removable: bool
    why: str
    age_seconds: int


def key_of(identity: RunIdentity) -> TaskKey:
    """Return the task instance that a run directory belongs to."""
    return TaskKey(identity.dag_id, identity.run_id, identity.task_id, identity.map_index)


def is_distinct(deployment: str) -> bool:
    """
    Whether a deployment's name can be no other deployment's by accident.

    Every Airflow that nobody configured calls itself ``http://localhost:8080``; that one knows
    nothing of a task instance then does not mean that there is none.
    """
    if "://" not in deployment:
        return bool(deployment)
    host = urlsplit(deployment).hostname or ""
    return not (host in ("", "localhost", "::1", "0.0.0.0") or host.startswith("127."))  # noqa: S104 - compared, not bound


def read_state(task: TaskKey, answer: Mapping[str, Mapping[str, str | None]]) -> TaskState | NoTask:
    """
    Find a task instance in what Airflow answered about one DAG and one task.

    ``answer`` is by run id and then by ``task_id``, or ``task_id_<map index>`` for a mapped one
    (execution_api/routes/task_instances.py). It must be about one task id: together, ``a_1`` could
    be the second of task ``a`` as well as the task ``a_1``.
    """
    name = task.task_id if task.map_index < 0 else f"{task.task_id}_{task.map_index}"
    found = answer.get(task.run_id, {})
    return TaskState(found[name]) if name in found else NoTask()


def list_tasks(deployment: str, directories: Iterable[RunDirectory]) -> frozenset[TaskKey]:
    """Return the task instances of this deployment whose states decide about directories."""
    owners = (one.identity for one in directories)
    return frozenset(key_of(one) for one in owners if one and one.deployment == deployment)


def list_owned(inventory: Inventory) -> list[RunDirectory]:
    """Return the run directories of live jobs."""
    found = (inventory.directory_of(job.token) for job in list_live(inventory) if job.token)
    return [directory for directory in found if directory]


def list_live(inventory: Inventory) -> list[LiveJob]:
    """Return the jobs that have not ended and are not just ending; none without an answer."""
    if isinstance(inventory.jobs, NoAnswer):
        return []
    return [job for job in inventory.jobs.rows if not job.is_over and not job.is_ending]


def judge_jobs(
    inventory: Inventory, *, deployment: str, states: States, min_age: float
) -> list[JobVerdict]:
    """Judge every live job that carries a token; ``min_age`` in seconds, by the site's clock."""
    verdicts = []
    for job in list_live(inventory):
        if job.token is None:
            continue
        directory = inventory.directory_of(job.token)
        if directory and directory.is_array:
            continue  # Its elements are judged, each by its own task.
        age = inventory.clock - job.submitted if job.submitted else None
        task = key_of(directory.identity) if directory and directory.identity else None
        verdict, why = _judge_job(job, directory, deployment, states)
        if verdict is Verdict.ORPHAN and (age is None or age < min_age):
            told = "not known" if age is None else f"{age} s"
            verdict, why = Verdict.YOUNG, f"{why}; its age is {told}, below {min_age:.0f} s"
        verdicts.append(JobVerdict(job=job, verdict=verdict, why=why, age_seconds=age, task=task))
    return verdicts


def _judge_job(
    job: LiveJob, directory: RunDirectory | None, deployment: str, states: States
) -> tuple[Verdict, str]:
    if directory is None:
        return Verdict.UNKNOWN, "has no run directory below the connection's work_dir"
    if directory.identity is None:
        return Verdict.UNKNOWN, "its run directory does not say whose it is"
    if directory.identity.deployment != deployment:
        return Verdict.FOREIGN, f"belongs to deployment {directory.identity.deployment!r}"
    if directory.job_id is not None and directory.job_id != job.job_id:
        return Verdict.UNKNOWN, f"its run directory records another job, {directory.job_id}"
    if not directory.identity.waits:
        return Verdict.ON_PURPOSE, "was submitted with wait_for_completion=False"
    return _judge_task(states[key_of(directory.identity)], deployment)


def _judge_task(state: TaskState | NoTask | NotTold, deployment: str) -> tuple[Verdict, str]:
    match state:
        case NotTold(reason):
            return Verdict.UNKNOWN, f"the task's state could not be asked: {reason}"
        case NoTask() if not is_distinct(deployment):
            return Verdict.UNKNOWN, (
                f"no such task instance here, but another Airflow may be called {deployment!r} "
                "too; set [csc] deployment"
            )
        case NoTask():
            return Verdict.ORPHAN, "Airflow has no such task instance any more"
        case TaskState(name) if name in _LIVE_STATES:
            return Verdict.LIVE, f"the task is {name or 'not scheduled yet'}"
        case TaskState(name) if name in _OVER_STATES:
            return Verdict.ORPHAN, f"the task is {name}"
        case TaskState(name):
            return Verdict.UNKNOWN, f"the task's state {name!r} is not one we know"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long run directories are kept, in days by the site's clock."""

    succeeded: float
    otherwise: float


def judge_directories(
    inventory: Inventory,
    *,
    deployment: str,
    states: States,
    keep: Keep,
    ended: frozenset[str] | None = None,
) -> list[DirectoryVerdict]:
    """
    Judge every run directory that was listed.

    ``ended`` are the jobs of which sacct was asked and says that they ended; None: it was not.
    """
    verdicts = []
    for directory in inventory.directories:
        why_not = _why_kept(inventory, directory, deployment, states, keep, ended)
        age = inventory.clock - directory.modified
        verdicts.append(
            DirectoryVerdict(
                directory=directory,
                is_removable=not why_not,
                why=why_not or f"{_kind(directory)}, {age / DAY:.1f} days old",
                age_seconds=age,
            )
        )
    return verdicts


def has_succeeded(directory: RunDirectory) -> bool:
    """Whether the run directory itself tells of success; a later verdict beats the exit code."""
    if directory.is_moved_aside:
        return False
    if directory.verdict is not None:
        return directory.verdict == "COMPLETED"
    record = directory.own_exit_record
    return record is not None and record.exit_code == 0


def is_proven_over(directory: RunDirectory) -> bool:
    """Whether the run directory itself tells that its job has ended."""
    return directory.verdict is not None or directory.own_exit_record is not None


def _kind(directory: RunDirectory) -> str:
    if directory.is_moved_aside:
        return "moved aside"
    if directory.is_files:
        return "files without a run directory"
    return "succeeded" if has_succeeded(directory) else "did not succeed"


def _why_kept(
    inventory: Inventory,
    directory: RunDirectory,
    deployment: str,
    states: States,
    keep: Keep,
    ended: frozenset[str] | None,
) -> str:
    """Return why a directory is kept, or ''."""
    days = keep.succeeded if has_succeeded(directory) else keep.otherwise
    age = inventory.clock - directory.modified
    if isinstance(inventory.jobs, NoAnswer):
        return "squeue gave no answer"
    if any(_is_job_of(job, directory) for job in inventory.jobs.rows):
        return "its job is in the queue"
    if age < days * DAY:
        return "not old enough"
    return _why_unproven(directory, age, ended) or _why_needed(directory, deployment, states)


def _why_unproven(directory: RunDirectory, age: int, ended: frozenset[str] | None) -> str:
    """Return why a job that squeue does not list may still run, or ''."""
    if is_proven_over(directory):
        return ""
    if age < _UNPROVEN_SECONDS:
        return "without a word of its job's end, not old enough"
    is_told = ended is not None and directory.job_id in ended
    if ended is not None and directory.job_id and not is_told:
        return "sacct does not say that its job has ended"
    # Two clusters may share a file system, and each squeue knows its own jobs only. The task of
    # such a job is over while the job runs, so it proves nothing.
    if directory.identity and not directory.identity.waits and not is_told:
        return "its task did not wait for its job, which may run elsewhere"
    return ""


def _is_job_of(job: LiveJob, directory: RunDirectory) -> bool:
    return job.token == directory.token or job.job_id == directory.job_id


def _why_needed(directory: RunDirectory, deployment: str, states: States) -> str:
    """Return which task may still come back to a directory, or ''."""
    identity = directory.identity
    if identity is None:
        # What was moved aside is nobody's any more; its identity went with a removal cut short.
        is_nobodys = directory.is_moved_aside or directory.is_array or directory.is_files
        return "" if is_nobodys else "it does not say whose it is"
    if identity.deployment != deployment:
        return "another deployment's"
    if directory.is_moved_aside:
        return ""
    match _judge_task(states[key_of(identity)], deployment):
        case Verdict.ORPHAN, _:
            return ""
        case Verdict.LIVE, _:
            return "its task may still come back to it"
        case _, why:
            return why
