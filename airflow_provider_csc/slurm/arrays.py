"""
The task ids of a job array: sbatch(1), ``--array``, Slurm 22.05 to 25.11.

Ranges stay ranges: the largest array a Slurm site can allow is counted without being spelt out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from heapq import merge
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from airflow_provider_csc.notation import NotationError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LARGEST_ID = 4_000_000  # slurm.conf(5): MaxArraySize is at most 4000001, and ids are below it
_ITEM = re.compile(r"([0-9]{1,8})(?:-([0-9]{1,8})(?::([0-9]{1,8}))?)?")
_REMEDY = (
    "Write ids and ranges, and '%' for how many may run at once, for example '0-99%10', '1,3,5-7' "
    f"or '0-15:4'; ids are from 0 to {_LARGEST_ID}, if the site allows that many."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """The ranges of an array as they were written, and how many tasks may run at once."""

    ranges: tuple[range, ...]
    throttle: int | None = None

    def __len__(self) -> int:
        """Count the tasks; an id that was written twice is one task."""
        if self._is_disjoint:
            return sum(map(len, self.ranges))
        marks = bytearray(max(each[-1] for each in self.ranges) + 1)
        for each in self.ranges:
            marks[each.start : each.stop : each.step] = b"\1" * len(each)
        return marks.count(1)

    def __iter__(self) -> Iterator[int]:
        """Yield every task id once, in ascending order."""
        return (task_id for task_id, _ in groupby(merge(*self.ranges)))

    def __contains__(self, task_id: object) -> bool:
        return any(task_id in each for each in self.ranges)

    @property
    def _is_disjoint(self) -> bool:
        ordered = sorted(self.ranges, key=lambda each: each.start)
        return all(before[-1] < after[0] for before, after in pairwise(ordered))


NO_TASKS = ArraySpec(ranges=())


def array_of(task_ids: Iterable[int], throttle: int | None = None) -> ArraySpec:
    """Return some task ids in few ranges, each id once and in ascending order."""
    ids = sorted(set(task_ids))
    ranges: list[range] = []
    at = 0
    while at < len(ids):
        end = at + 1
        step = ids[end] - ids[at] if end < len(ids) else 1
        while end < len(ids) and ids[end] - ids[end - 1] == step:
            end += 1
        # Two ids far from each other are no range; the second one may begin another.
        end = end if step == 1 or end - at > 2 else at + 1  # noqa: PLR2004 - a pair
        step = step if end - at > 1 else 1
        ranges.append(range(ids[at], ids[end - 1] + 1, step))
        at = end
    return ArraySpec(ranges=tuple(ranges), throttle=throttle)


def read_ids(text: str) -> ArraySpec:
    """
    Read what `format_array` made of `array_of`, also of no ids at all.

    :raises NotationError: for any other text.
    """
    return parse_array(text) if text else NO_TASKS


def format_array(spec: ArraySpec) -> str:
    """Return the text for ``--array``, in the order it was written."""
    ids = ",".join(map(_format_range, spec.ranges))
    return ids if spec.throttle is None else f"{ids}%{spec.throttle}"


def _format_range(ids: range) -> str:
    if len(ids) == 1:
        return str(ids[0])
    step = f":{ids.step}" if ids.step > 1 else ""
    return f"{ids.start}-{ids.stop - 1}{step}"


def parse_array(value: str | int | range) -> ArraySpec:
    """
    Read an array specification.

    Brackets around ids and empty items are passed over as Slurm does, and ``%0`` is no throttle.

    :raises NotationError: for negative ids, a range that ends before it begins, a step of zero, no
        ids at all, ids no site can allow, and what Slurm would misread (``%`` without a number).
    """
    if isinstance(value, range):
        return _parse_range_object(value)
    text = "" if isinstance(value, bool) else str(value)
    ids, throttles = _split_throttle(text.strip().replace("[", "").replace("]", ""))
    ranges = tuple(_parse_item(item.strip(), value) for item in ids.split(",") if item.strip())
    if not ranges:
        raise NotationError(f"{shown(value)} is an array without ids", _REMEDY)
    if len(throttles) > 1 or not all(re.fullmatch(r"[0-9]{1,9}", each) for each in throttles):
        raise NotationError(f"{shown(value)} has no number, or several, after '%'", _REMEDY)
    throttle = int(throttles[0]) if throttles else 0
    return ArraySpec(ranges=ranges, throttle=throttle or None)


def _parse_range_object(value: range) -> ArraySpec:
    if not value or value.step < 1:
        raise NotationError(f"{shown(value)} has no ids in ascending order", _REMEDY)
    return ArraySpec(ranges=(_checked(value, value),))


def _split_throttle(text: str) -> tuple[str, list[str]]:
    """Take ``%N`` out of wherever Slurm finds it, at the end of any item."""
    throttles = re.findall(r"%([^,]*)", text)
    return re.sub(r"%[^,]*", "", text), throttles


def _parse_item(item: str, value: object) -> range:
    match = _ITEM.fullmatch(item)
    if not match:
        raise NotationError(f"{shown(value)} is not an array: {shown(item)}", _REMEDY)
    first = int(match[1])
    last = int(match[2] or first)
    step = int(match[3] or 1)
    if last < first:
        raise NotationError(f"{shown(value)}: the range {item} ends before it begins", _REMEDY)
    if step == 0:
        raise NotationError(f"{shown(value)}: the range {item} has a step of zero", _REMEDY)
    return _checked(range(first, last + 1, step), value)


def _checked(ids: range, value: object) -> range:
    if ids.start < 0 or ids[-1] > _LARGEST_ID:
        raise NotationError(f"{shown(value)} has ids that no Slurm site can allow", _REMEDY)
    return ids
