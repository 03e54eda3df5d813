"""
JSON as every program reads it alike (RFC 8259, and what I-JSON, RFC 7493, adds).

Python's own module is more generous: it reads and writes NaN, reads 1e999 as infinity, keeps the
last of two equal keys, and turns keys that are no strings into such.
"""

from __future__ import annotations

import json
import math
from typing import Final

MAX_DEPTH: Final = 200
"""Arrays and objects inside each other; Python's reader gives up at about a thousand."""


class JsonError(ValueError):
    """A text that is no such JSON, or a value that none can be made of."""


def parse_json(data: bytes) -> object:
    """Read a JSON text in UTF-8; raises JsonError."""
    try:
        value: object = json.loads(
            data.decode(),
            object_pairs_hook=_build_object,
            parse_constant=_refuse_constant,
            parse_float=_read_float,
        )
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise JsonError(f"it is nested more than {MAX_DEPTH} deep") from None
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"it is no JSON: {error}") from error
    return value


def render_json(value: object) -> str:
    """
    Return the JSON text of a value, compact and on one line; raises JsonError.

    Objects keep the order of their keys; tuples become arrays.
    """
    _check(value, "the value", MAX_DEPTH)
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError as error:
        raise JsonError(f"it has half a character (surrogate) at {error.start}") from error
    except ValueError as error:  # an integer of more digits than Python writes
        raise JsonError(str(error)) from error
    return text


def render_sorted(value: object) -> str:
    """Return the same text for all values that are equal as JSON, whatever the order of keys."""
    return json.dumps(value, sort_keys=True)


def _build_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"an object in it has the key {twice!r} twice")
    return found


def _refuse_constant(name: str) -> object:
    raise JsonError(f"{name} is no number in JSON")


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise JsonError(f"the number {text[:40]} is too large")
    return number


def _check(value: object, place: str, depth: int) -> None:
    if depth < 0:
        raise JsonError(f"it is nested more than {MAX_DEPTH} deep, or contains itself")
    match value:
        case None | bool() | int() | str():
            return
        case float():
            if not math.isfinite(value):
                raise JsonError(f"{place} is {value}, which JSON cannot say")
        case list() | tuple():
            for position, each in enumerate(value):
                _check(each, f"[{position}] of {place}" if depth == MAX_DEPTH else place, depth - 1)
        case dict():
            for name, each in value.items():
                if not isinstance(name, str):
                    raise JsonError(f"{place} has the key {name!r}; keys are strings in JSON")
                _check(each, repr(name), depth - 1)
        case _:
            raise JsonError(f"{place} is of type {type(value).__name__}, which JSON does not have")
