"""What has to be done so that a target holds what a source holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, get_args

from airflow_provider_csc.notation import NotationError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Compare = Literal["checksum", "time", "size", "never"]


@dataclass(frozen=True, slots=True)
class Item:
    """
    A file or an object, by its path below the tree's top.

    ``modified`` is in seconds since 1970; ``etag`` is an object's, without quotes.
    """

    path: str
    size: int
    modified: float = 0.0
    etag: str = ""


class Action(StrEnum):
    """What is done about one path."""

    COPY = "copy"
    COMPARE = "compare"
    """Copy it unless the checksums of both sides are equal; their sizes are."""
    SKIP = "skip"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """What is done about one path, and why; ``item`` is the target's where it is deleted."""

    action: Action
    item: Item
    reason: str
    existing: Item | None = None


def check_compare(value: object) -> Compare:
    """Return a way to tell whether something is there already."""
    if value not in get_args(Compare):
        raise NotationError(
            f"compare: {shown(value)} is no way to compare",
            "There are 'checksum' (size and content), 'time' (size, and not older), 'size', and "
            "'never' (transfer everything).",
        )
    return value  # type: ignore[return-value]


def make_plan(
    source: Iterable[Item],
    target: Mapping[str, Item],
    *,
    compare: Compare = "checksum",
    delete_extra: bool = False,
) -> list[Step]:
    """Return the steps in the order of the source, deletions last."""
    steps = []
    wanted: set[str] = set()
    for item in source:
        wanted.add(item.path)
        existing = target.get(item.path)
        action, reason = _decide(item, existing, compare)
        steps.append(Step(action, item, reason, existing))
    if delete_extra:
        extra = sorted(path for path in target if path not in wanted)
        steps += [Step(Action.DELETE, target[path], "not in the source") for path in extra]
    return steps


def _decide(item: Item, existing: Item | None, compare: Compare) -> tuple[Action, str]:
    match compare:
        case _ if existing is None:
            return Action.COPY, "not there"
        case "never":
            return Action.COPY, "comparing is off"
        case _ if item.size != existing.size:
            return Action.COPY, f"there it has {existing.size} bytes and not {item.size}"
        case "time" if existing.modified < item.modified:
            return Action.COPY, "newer than what is there"
        case "checksum":
            return Action.COMPARE, "there with the same size"
        case _:
            return Action.SKIP, "there with the same size"
