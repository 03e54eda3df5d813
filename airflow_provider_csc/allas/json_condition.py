"""
What a JSON document must say: values at paths, compared and never executed.

``{"status": "done"}`` asks for equality, ``{"epoch": {">=": 10}}`` for a comparison, and
``{"run": {"state": "ended"}}`` looks inside, as ``{"run.state": "ended"}`` does. All must hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeGuard

from airflow_provider_csc.notation import NotationError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_DOCUMENT_BYTES: Final = 1024**2
"""A larger object is not read: it is no status file."""

_ABSENT: Final = object()


def _equals(value: object, wanted: object) -> bool:
    """Compare as JSON does: 1 is 1.0, and neither is true."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, Mapping) and isinstance(wanted, Mapping):
        return value.keys() == wanted.keys() and all(_equals(value[k], wanted[k]) for k in value)
    if _is_list(value) and _is_list(wanted):
        return len(value) == len(wanted) and all(map(_equals, value, wanted))
    return value == wanted


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _order(value: object, wanted: object) -> int | None:
    """Return -1, 0 or 1; None for what has no order."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return None
    if isinstance(value, (int, float)) and isinstance(wanted, (int, float)):
        return (value > wanted) - (value < wanted)
    if isinstance(value, str) and isinstance(wanted, str):
        return (value > wanted) - (value < wanted)
    return None


def _is_among(value: object, listed: object) -> bool:
    return _is_list(listed) and any(_equals(value, one) for one in listed)


_OPERATORS: Final[dict[str, Callable[[object, object], bool]]] = {
    "==": _equals,
    "!=": lambda value, wanted: not _equals(value, wanted),
    "<": lambda value, wanted: _order(value, wanted) == -1,
    "<=": lambda value, wanted: _order(value, wanted) in (-1, 0),
    ">": lambda value, wanted: _order(value, wanted) == 1,
    ">=": lambda value, wanted: _order(value, wanted) in (0, 1),
    "in": _is_among,
    "contains": lambda value, wanted: _is_among(wanted, value),
    "exists": lambda value, wanted: (value is not _ABSENT) is wanted,
}


@dataclass(frozen=True, slots=True)
class _Test:
    path: tuple[str, ...]
    name: str
    wanted: object

    def unmet(self, document: object) -> str | None:
        value = _find(document, self.path)
        is_met = _OPERATORS[self.name](value, self.wanted)
        if is_met and (value is not _ABSENT or self.name == "exists"):
            return None
        where = ".".join(self.path)
        if value is _ABSENT:
            return f"{where} is not there"
        said = f"{where} is {_describe(value)}"
        return f"{said}, not {self.name} {_describe(self.wanted)}"


@dataclass(frozen=True, slots=True)
class Condition:
    """Tests of a document, all of which must hold."""

    tests: tuple[_Test, ...]

    def unmet(self, document: object) -> str | None:
        """Say what does not hold yet; None where all does."""
        return next(filter(None, (test.unmet(document) for test in self.tests)), None)


def parse_condition(given: object) -> Condition:
    """Read a condition as it is written in a DAG; raises NotationError."""
    if not isinstance(given, Mapping) or not given:
        raise NotationError(
            f"{shown(given)} is no condition on a JSON document",
            'For example: {"status": "done", "epoch": {">=": 10}}',
        )
    return Condition(tuple(_parse(given, ())))


def read_document(data: bytes) -> object:
    """Parse a JSON document; raises NotationError for what is none."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotationError(f"it is no JSON document ({error})") from None


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no value of JSON")


def _parse(given: Mapping[object, object], path: tuple[str, ...]) -> Iterator[_Test]:
    for key, wanted in given.items():
        if not isinstance(key, str) or not key:
            raise NotationError(f"{shown(key)} is no key of a JSON object", "Keys are text.")
        here = (*path, key)
        if not isinstance(wanted, Mapping):
            yield _Test(here, "==", wanted)
            continue
        names = [name for name in wanted if name in _OPERATORS]
        if len(names) not in (0, len(wanted)) or not wanted:
            raise NotationError(
                f"the condition on {'.'.join(here)} mixes comparisons with keys, or is empty",
                f"Comparisons are {', '.join(_OPERATORS)}.",
            )
        if not names:
            yield from _parse(wanted, here)
        for name in names:
            yield _Test(here, name, _check_operand(here, name, wanted[name]))


def _check_operand(path: tuple[str, ...], name: str, wanted: object) -> object:
    where = f"the comparison {name!r} of {'.'.join(path)}"
    if name == "in" and not _is_list(wanted):
        raise NotationError(f"{where} needs a list, not {shown(wanted)}")
    if name == "exists" and not isinstance(wanted, bool):
        raise NotationError(f"{where} needs true or false, not {shown(wanted)}")
    if name in ("<", "<=", ">", ">=") and _kind(wanted) not in ("number", "text"):
        raise NotationError(f"{where} needs a number or a text, not {shown(wanted)}")
    return wanted


def _find(document: object, path: Sequence[str]) -> object:
    """Follow a path; a key with dots in it is taken as it is where there is such a key."""
    for key in path:
        whole = _step(document, key)
        if whole is _ABSENT and "." in key:
            whole = document
            for part in key.split("."):
                whole = _step(whole, part)
        document = whole
    return document


def _step(document: object, key: str) -> object:
    if isinstance(document, Mapping):
        return document.get(key, _ABSENT)
    if isinstance(document, list) and key.isdecimal() and int(key) < len(document):
        return document[int(key)]
    return _ABSENT


def _kind(value: object) -> str:
    match value:
        case bool():
            return "truth value"
        case int() | float():
            return "number"
        case str():
            return "text"
        case None:
            return "null"
        case _:
            return "list or object"


def _describe(value: object) -> str:
    return f"the {_kind(value)} {shown(value)}" if value is not None else "null"
