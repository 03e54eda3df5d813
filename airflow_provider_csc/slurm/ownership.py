"""Tell the job a task submitted from a stranger with the same id, also after a restart."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_csc.slurm.output import AccountingRow, QueueRow

if TYPE_CHECKING:
    from collections.abc import Mapping

Row = TypeVar("Row", QueueRow, AccountingRow)


@dataclass(slots=True)
class Memory:
    """
    What identifies a job besides its id, and must be known to whoever watches it next.

    ``submitted`` is when it was last put into the queue (a requeue changes that, tried on 22.05),
    ``started`` its present start, both by the cluster's clock; ``queued_before`` how many seconds
    it had queued before its last requeue.
    """

    submitted: int | None = None
    started: int | None = None
    name: str = ""
    queued_before: int = 0

    def note_row(self, row: QueueRow) -> bool:
        """Take in a live row of the job; whether it was requeued since the last one."""
        was, self.name = self.submitted, row.name
        if row.submitted is None:
            return False
        is_requeued = was is not None and row.submitted > was
        if was is not None and is_requeued:
            self.queued_before += max((self.started or row.submitted) - was, 0)
            self.started = None
        self.submitted = row.submitted
        if row.nodes and row.started and row.started >= row.submitted:
            self.started = row.started
        return is_requeued


def own_rows(rows: tuple[Row, ...], token: str, memory: Memory) -> tuple[Row, ...]:
    """
    Leave out rows of a stranger that was given the same id.

    A slurmctld that was killed gives the ids of the newest jobs out again (seen on 22.05). What
    this provider submitted bears its token in its name; once seen so, the time of its submission,
    or the name somebody gave it since, identifies it.
    """
    jobs = [row for row in rows if not getattr(row, "step", None)]
    is_ours = any(row.name.endswith(token) for row in jobs)
    is_known = any(
        (row.submitted and row.submitted == memory.submitted)
        or (memory.name and row.name == memory.name)
        for row in jobs
    )
    is_provisional = any(getattr(row, "is_provisional", False) for row in jobs)
    return rows if is_ours or is_known or is_provisional else ()


def write_memories(memories: Mapping[str, Memory]) -> str:
    """Return one line that `read_memories` reads; empty where nothing is known."""
    known = {job_id: asdict(memory) for job_id, memory in memories.items() if memory.submitted}
    return json.dumps(known, separators=(",", ":"), sort_keys=True) if known else ""


def read_memories(text: str) -> dict[str, Memory]:
    """Return what an earlier watcher knew, by job id; nothing for a line that is not whole."""
    try:
        return {
            str(job_id): Memory(
                submitted=_number(fields["submitted"]),
                started=_number(fields["started"]),
                name=str(fields["name"]),
                queued_before=_number(fields["queued_before"]) or 0,
            )
            for job_id, fields in json.loads(text).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _number(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise TypeError(value)
    return value
