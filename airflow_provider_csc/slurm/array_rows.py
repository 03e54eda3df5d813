"""Which rows of squeue, sacct and scontrol are of which task of an array."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_csc.slurm.array_parts import ArrayPart, name_task
from airflow_provider_csc.slurm.arrays import ArraySpec, array_of, parse_array
from airflow_provider_csc.slurm.batch import parse_exit_records
from airflow_provider_csc.slurm.output import AccountingRow, Answer, ControllerRow, QueueRow
from airflow_provider_csc.slurm.verdict import Evidence, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Row = TypeVar("Row", QueueRow, AccountingRow, ControllerRow)
# 123_4, a step of it (123_4.batch), and all that waits (123_[5-9%2]).
_TASK = re.compile(r"\d+_(?:(?P<index>\d+)|\[(?P<spec>[^\]]+)\])")


def rows_by_task(rows: Iterable[Row]) -> dict[int, Answer[Row]]:
    """
    Return the rows of each task, by Slurm's ids.

    Tasks that wait, or were cancelled before they ran, share one row; what a task has itself counts
    before it.
    """
    own: dict[int, list[Row]] = {}
    shared: dict[int, Answer[Row]] = {}
    for row in rows:
        match = _TASK.match(row.job_id)
        if match is None:
            continue
        if match["index"]:
            own.setdefault(int(match["index"]), []).append(row)
        else:
            shared |= dict.fromkeys(parse_array(match["spec"]), Answer((row,)))
    return {**shared, **{index: Answer(tuple(found)) for index, found in own.items()}}


def rows_of_array(rows: Iterable[Row], job_id: str) -> Answer[Row]:
    """
    Return the rows of the array as such, without the id of any task.

    So sacct may show what was cancelled before it ran (seen on 22.05, after ``scancel
    --state=PENDING``). They are evidence only of tasks that are not known to have run.
    """
    return Answer(tuple(row for row in rows if row.job_id == job_id))


def find_completed(
    job_id: str,
    part: ArrayPart,
    queued: Sequence[QueueRow],
    accounted: Sequence[AccountingRow],
    records: bytes,
) -> ArraySpec:
    """
    Return which tasks of a job are proven to have completed, whoever took note of it.

    ``records`` are the exit records of its run directory, one in each line.
    """
    exits = parse_exit_records(records)
    queue, accounting = rows_by_task(queued), rows_by_task(accounted)

    def is_complete(task_id: int) -> bool:
        slurm_id = task_id - part.shift
        evidence = Evidence(
            queue=queue.get(slurm_id, Answer(())),
            accounting=accounting.get(slurm_id, Answer(())),
            exit_record=exits.get(name_task(job_id, task_id, part.shift)),
        )
        return judge(evidence.without_old_record()).state.is_success

    return array_of(filter(is_complete, part.spec))
