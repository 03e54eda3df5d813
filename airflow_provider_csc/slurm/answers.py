"""One answer of a site about many jobs, read once and looked up by job id."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_csc.slurm.commands import CONTROLLER_FRAME
from airflow_provider_csc.slurm.output import (
    AccountingRow,
    Answer,
    ControllerRow,
    NoAnswer,
    QueueRow,
    belongs_to,
    parse_accounting,
    parse_controller,
    parse_queue,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame


class Answers:
    """One answer of a site, read once for all who asked."""

    def __init__(self, frames: Mapping[str, Frame]) -> None:
        self.clock = int(frames["clock"].text)
        self.frames = frames
        self.queue = parse_queue(frames["squeue"]) if "squeue" in frames else None
        self.accounting = parse_accounting(frames["sacct"]) if "sacct" in frames else None
        self._queue_index = _index(self.queue)
        self._accounting_index = _index(self.accounting)

    def queue_of(self, job_id: str) -> Answer[QueueRow]:
        """Return squeue's rows of one job; it must have answered."""
        return Answer(_select(self._queue_index, job_id))

    def accounting_of(self, job_id: str) -> Answer[AccountingRow] | NoAnswer | None:
        """Return sacct's rows of one job and its steps, or that it was not asked or not heard."""
        if not isinstance(self.accounting, Answer):
            return self.accounting
        return Answer(_select(self._accounting_index, job_id))

    def controller_of(self, job_id: str) -> Answer[ControllerRow] | NoAnswer | None:
        """Return scontrol's rows of one job, or that it was not asked or not heard."""
        frame = self.frames.get(f"{CONTROLLER_FRAME}{job_id}")
        return parse_controller(frame) if frame else None


Row = TypeVar("Row", QueueRow, AccountingRow)
_BASE_ID = re.compile(r"\d+")


def _index(answer: Answer[Row] | NoAnswer | None) -> dict[str, list[Row]]:
    index: dict[str, list[Row]] = {}
    for row in answer.rows if isinstance(answer, Answer) else ():
        index.setdefault(_base_of(row.job_id), []).append(row)
    return index


def _base_of(job_id: str) -> str:
    found = _BASE_ID.match(job_id)
    return found.group() if found else job_id


def _select(index: dict[str, list[Row]], job_id: str) -> tuple[Row, ...]:
    rows: Sequence[Row] = index.get(_base_of(job_id), ())
    return tuple(row for row in rows if belongs_to(row.job_id, job_id))
