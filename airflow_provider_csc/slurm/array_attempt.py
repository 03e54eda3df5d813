"""What one try knows of its array, from one job of it to the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.slurm.array_parts import subtract
from airflow_provider_csc.slurm.array_record import ArrayRecord
from airflow_provider_csc.slurm.array_result import most_telling
from airflow_provider_csc.slurm.arrays import NO_TASKS, ArraySpec, format_array, read_ids
from airflow_provider_csc.slurm.result import JobResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.slurm.array_parts import ArrayPart


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayAttempt:
    """
    The array as it was asked for, the tasks that have ended, and the failure that tells most.

    Running tasks hold it in their `Attempt`: never rename, add only with a default.
    """

    whole: ArraySpec = NO_TASKS
    record: ArrayRecord = field(default_factory=ArrayRecord)
    telling: JobResult | None = None

    @property
    def todo(self) -> ArraySpec:
        """What has not ended yet."""
        return subtract(self.whole, self.record.ends)

    def is_decided_by(self, part: ArrayPart) -> bool:
        """
        Whether the array is what becomes of one job of it: all that has not completed is in it.

        Not of one whose ids Slurm knows by other numbers, which nobody else can know.
        """
        return not part.shift and not subtract(
            self.whole, {*self.record.successes().ends, *part.spec}
        )

    def with_result(self, result: JobResult) -> ArrayAttempt:
        """Take in what became of one job of the array."""
        own = ArrayRecord.from_payload(result.array)
        known = [each for each in (self.telling, replace(result, array=None)) if each is not None]
        record = self.record.merged(own).within(self.whole)
        return replace(self, record=record, telling=most_telling(known))

    def without_failures(self) -> ArrayAttempt:
        """Return it as it is when what failed is to be run again."""
        return replace(self, record=self.record.successes(), telling=None)

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "whole": format_array(self.whole),
            "record": self.record.to_payload(),
            "telling": self.telling.to_payload() if self.telling else None,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any] | None) -> ArrayAttempt:
        """Read what `to_payload` made."""
        known = payload or {}
        telling = known.get("telling")
        return cls(
            whole=read_ids(known.get("whole", "")),
            record=ArrayRecord.from_payload(known.get("record")),
            telling=JobResult.from_payload(telling) if telling else None,
        )
