"""
Ask Airflow whether somebody ended a task, or whether its process is merely being stopped.

Airflow stops a worker's task with the same SIGTERM, and before 3.3 a trigger with the same
cancellation, when a user marks the task and when the process is shut down or its work moved. Only
the task instance's state tells which it was: a user's click has changed it by then.
"""

from __future__ import annotations

from enum import Enum
from sys import intern
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class TaskName(TypedDict):
    """What names a task instance; ``map_index`` is -1 where the task is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


def shared_text(text: str) -> str:
    """Return a text that is one object for all who have it; thousands may wait in a process."""
    return intern(text) if type(text) is str else text


def shared_name(task: TaskName | None) -> TaskName | None:
    """Return a name that shares its parts with equal ones."""
    if task is None:
        return None
    return TaskName(
        dag_id=shared_text(task["dag_id"]),
        run_id=shared_text(task["run_id"]),
        task_id=shared_text(task["task_id"]),
        map_index=task["map_index"],
    )


class Standing(Enum):
    """How a task instance stands in Airflow's database."""

    LIVE = "live"
    ENDED = "ended"
    UNKNOWN = "unknown"


def read_standing(
    states: Mapping[str, Mapping[str, str | None]], task: TaskName, *, live: Collection[str | None]
) -> Standing:
    """
    Return how a task stands, from ``{run_id: {task: state}}`` as Airflow answers.

    ``live`` are its states while nobody has ended it; None is one that waits to be scheduled. A
    task that is not there was deleted.
    """
    index = task["map_index"]
    name = task["task_id"] if index < 0 else f"{task['task_id']}_{index}"
    tasks = states.get(task["run_id"], {})
    return Standing.LIVE if name in tasks and tasks[name] in live else Standing.ENDED


# Where a worker's process is told to stop and its job is still wanted: it is being stopped itself,
# perhaps just after it handed the task over; or Airflow missed its heartbeats, or those of its
# scheduler (the task has no state for a moment then), and has the next try take over.
WANTED_OF_WORKER: frozenset[str | None] = frozenset(
    {"running", "deferred", "up_for_retry", None, "scheduled", "queued"}
)
WANTED_OF_TRIGGER: frozenset[str | None] = frozenset({"deferred"})
# A trigger that waits before there is a job: the same try goes on with that very submission, which
# another triggerer may have woken it for; and one that was cleared sees to it in its next try.
WANTED_BEFORE_JOB = (WANTED_OF_TRIGGER | WANTED_OF_WORKER) - {None}


def ask_standing(task: TaskName, *, live: Collection[str | None]) -> Standing:
    """
    Ask Airflow's supervisor how a task stands; UNKNOWN where it does not say.

    Where no Airflow runs this process, who calls means it: ENDED. It blocks; in a triggerer call it
    through ``asgiref.sync.sync_to_async``, as Airflow's own triggers do.
    """
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415 - costs seconds

    if not _is_supervised():
        return Standing.ENDED
    index = task["map_index"]
    try:
        states: dict[str, Any] = task_runner.RuntimeTaskInstance.get_task_states(
            dag_id=task["dag_id"],
            task_ids=[task["task_id"]],
            run_ids=[task["run_id"]],
            map_index=index if index >= 0 else None,
        )
    except Exception:  # noqa: BLE001 - whatever went wrong, the state is not known
        return Standing.UNKNOWN
    return read_standing(states, task, live=live)


def was_ended(task: TaskName) -> bool:
    """Whether somebody ended a task while its worker runs; no, where Airflow does not say so."""
    return _is_supervised() and ask_standing(task, live=WANTED_OF_WORKER) is Standing.ENDED


def _is_supervised() -> bool:
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415 - costs seconds

    return getattr(task_runner, "SUPERVISOR_COMMS", None) is not None
