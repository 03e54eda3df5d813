"""What is found before a job is submitted, and how its options are read for that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.notation import NotationError
from airflow_provider_csc.slurm.values import parse_time_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_csc.slurm.preflight_facts import PreflightFacts

_NODES = re.compile(r"(?P<least>[0-9]{1,9})(?:-(?P<most>[0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What is found, why it matters, and how to mend it: a sentence each.

    Where it is not certain to be in a job's way, ``is_certain`` is False, and ``why`` says so.
    """

    what: str
    why: str
    remedy: str = ""
    is_certain: bool = True

    def __str__(self) -> str:
        return " ".join(filter(None, (self.what, self.why, self.remedy)))


def read_text(options: Mapping[str, str | bool], name: str) -> str | None:
    """Return the value of an option that has one."""
    value = options.get(name)
    return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class AskedTime:
    """
    A time that a job asks for, in seconds; None is UNLIMITED.

    Where there is a ``problem``, nobody knows: it is no time that Slurm reads, and sbatch says so.
    """

    seconds: int | None = None
    problem: str = ""


def read_time(options: Mapping[str, str | bool], name: str) -> AskedTime | None:
    """Return the time that an option gives, which in a script is unchecked; None without it."""
    text = read_text(options, name)
    if text is None:
        return None
    try:
        return AskedTime(parse_time_limit(text))
    except NotationError as error:
        return AskedTime(problem=str(error))


def name_partitions(options: Mapping[str, str | bool], facts: PreflightFacts) -> tuple[str, ...]:
    """Return those a job names, of which Slurm takes one; else the default one, if it is known."""
    named = read_text(options, "partition")
    if named:
        return tuple(each.strip() for each in named.split(",") if each.strip())
    default = facts.default_partition
    return (default,) if default else ()


def read_nodes(options: Mapping[str, str | bool]) -> tuple[int, int] | None:
    """Return how many nodes a job wants at the least and the most; None where it does not say."""
    match = _NODES.fullmatch(read_text(options, "nodes") or "")
    return (int(match["least"]), int(match["most"] or match["least"])) if match else None
