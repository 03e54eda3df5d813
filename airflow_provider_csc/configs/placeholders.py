"""
Placeholders: ``(csc-user)`` in a path or a name stands for what is known when it is used.

A placeholder is a name between round brackets: small letters, digits and single hyphens, beginning
with a letter, without a space. So ``(copy 2)``, ``(A)``, ``()`` and ``(>=2)`` are none, and neither
is a name after ``$`` (a shell's command), after a backslash, or after another bracket.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow_provider_csc.configs.documents import Problem, map_strings, walk_strings
from airflow_provider_csc.configs.keys import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_csc.yaml_text import Path

_PLACEHOLDER = re.compile(r"(?<![$(\\])\(([a-z][a-z0-9]*(?:-[a-z0-9]+)*)\)")

KNOWN = {
    "csc-user": "the log-in of the Slurm connection",
    "project": "the account of the Slurm connection",
    "host": "the host of the Slurm connection",
    "dag-id": "the DAG's id",
    "run-id": "the id of the DAG run",
    "task-id": "the task's id",
    "map-index": "the mapped task's number, -1 for others",
    "try-number": "the number of the try",
    "key": "what names a task instance for its jobs, the same in each of its tries",
    "id": "Slurm's id of the job, which nobody knows before it is submitted; take (key), and in "
    "a command $SLURM_JOB_ID or in options.output %j",
}
"""What each stands for. Whoever loads a configuration may add more, in its context."""

# Brackets are the shell's there.
_PROGRAMS = ("command", "script")


def open_names(value: object) -> list[str]:
    """Return the names of the placeholders in a value, each once, in order."""
    found = (name for path, text in _texts(value) for name in _PLACEHOLDER.findall(text))
    return list(dict.fromkeys(found))


def _texts(value: object) -> Iterable[tuple[Path, str]]:
    return (each for each in walk_strings(value) if not _is_program(each[0]))


def _is_program(path: Path) -> bool:
    return bool(path) and path[0] in _PROGRAMS


def fill(
    value: object, values: Mapping[str, str], *, must_close: bool = False
) -> tuple[object, list[Problem]]:
    """
    Return a value with its placeholders filled in, and what is wrong with them.

    With ``must_close`` none may be left. To fill in again what was filled in changes nothing.
    """
    problems: list[Problem] = []

    def change(path: Path, text: str) -> str:
        if _is_program(path):
            return text
        names = _PLACEHOLDER.findall(text)
        problems.extend(_check(path, text, names, values, must_close=must_close))
        filled = _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)
        left = {name for name in names if name not in values}
        if made := [name for name in _PLACEHOLDER.findall(filled) if name not in left]:
            says = f"filled in it is {filled!r}, in which ({made[0]}) would be a placeholder again"
            problems.append(Problem(path=path, text=f"{says}. Write it otherwise.", value=text))
        return filled

    return map_strings(value, change), problems


def _check(
    path: Path, text: str, names: Iterable[str], values: Mapping[str, str], *, must_close: bool
) -> Iterable[Problem]:
    for name in dict.fromkeys(names):
        if name not in values and (must_close or name not in KNOWN):
            says = _describe(name, values)
            yield Problem(path=path, text=f"the placeholder ({name}) {says}", value=text)


def _describe(name: str, values: Mapping[str, str]) -> str:
    if name in KNOWN:
        return f"is not known here: it is {KNOWN[name]}."
    known = [*KNOWN, *(each for each in values if each not in KNOWN)]
    near = nearest_name(name, known)
    hint = f"Did you mean ({near})?" if near else f"Known are {', '.join(known)}."
    return f"is unknown. {hint}"


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known placeholder that looks most like one that is not."""
    by_key = {each.replace("-", "_"): each for each in known}
    found = nearest(name, by_key)
    return by_key[found] if found else None


def values_of(context: Mapping[str, object] | None) -> dict[str, str]:
    """
    Return what a context says for placeholders, by their names.

    Texts and numbers count, with ``-`` for ``_``; of Airflow's context also what is known of the
    task instance. ``id`` there is none of Slurm's.
    """
    if context is None:
        return {}
    ti = context.get("ti")
    known = ("dag_id", "run_id", "task_id", "map_index", "try_number")
    told = {name: getattr(ti, name, None) for name in known} if ti is not None else {}
    named = {**told, **context}
    return {
        str(name).replace("_", "-"): str(value)
        for name, value in named.items()
        # By its own type: Airflow's context holds what is only fetched when it is looked at.
        if issubclass(type(value), (str, int)) and not isinstance(value, bool)
    }
