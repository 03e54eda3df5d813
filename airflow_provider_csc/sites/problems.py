"""What is said of a profile's file that cannot be: where it stands, and what to write."""

from __future__ import annotations

import difflib
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    from airflow_provider_csc.yaml_text import Path

_MOST_TOLD = 10


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: lines and columns are counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Document:
    """
    What one file says, or several that extend each other, and where each key and item stands.

    The path ``()`` is the document's own.
    """

    values: Any
    places: dict[Path, Place]


def profile_error(place: Place, field: str, value: object, remedy: str) -> ConfigError:
    """Return the error for a value that cannot be."""
    # A mapping that is wrong as a whole would hide what is said of it.
    what = "this" if isinstance(value, (dict, list)) else shown(value)
    return ConfigError(
        f"Site profile {place}: {field}: {what} cannot be. {remedy}",
        **_details(place, field, value),
    )


def _details(place: Place, field: str, value: object) -> dict[str, Any]:
    return {
        "field": field,
        "value": value,
        "path": place.file,
        "line": place.line,
        "column": place.column,
    }


def explain(model: type[BaseModel], document: Document, error: ValidationError) -> ConfigError:
    """Return one error for all that pydantic found; its details are those of the first."""
    problems = error.errors(include_url=False)
    errors = [_describe(model, document, problem) for problem in problems[:_MOST_TOLD]]
    more = len(problems) - len(errors)
    texts = [each.message for each in errors] + ([f"And {more} more."] if more else [])
    return ConfigError("\n".join(texts), **errors[0].details)


def _describe(model: type[BaseModel], document: Document, problem: ErrorDetails) -> ConfigError:
    # Of a key that is wrong itself pydantic says "[key]".
    path = tuple(part for part in problem["loc"] if part != "[key]")
    place = next(
        document.places[path[:end]]
        for end in range(len(path), -1, -1)
        if path[:end] in document.places
    )
    field = ".".join(str(part) for part in path) or "profile"
    if problem["type"] == "extra_forbidden":
        return _unknown(place, field, path, _known_fields(model, path[:-1]))
    if problem["type"] == "missing":
        return ConfigError(
            f"Site profile {place}: {field}: it is missing.",
            **_details(place, field, None),
        )
    remedy = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return profile_error(place, field, problem["input"], f"{remedy[:1].upper()}{remedy[1:]}.")


def _unknown(
    place: Place, field: str, path: tuple[str | int, ...], known: Sequence[str]
) -> ConfigError:
    name = str(path[-1])
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
    return ConfigError(
        f"Site profile {place}: {field}: there is no such field. {hint}",
        **_details(place, field, name),
    )


def _known_fields(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Return what may be said at a path that leads to a model, by the annotations of its fields."""
    at: Any = model
    for part in path:
        at = at.model_fields[part].annotation if hasattr(at, "model_fields") else _inner(at)
        at = next((each for each in (at, *typing.get_args(at)) if _leads_on(each)), at)
    return sorted(at.model_fields) if hasattr(at, "model_fields") else []


def _leads_on(annotation: Any) -> bool:
    return hasattr(annotation, "model_fields") or typing.get_origin(annotation) in (dict, tuple)


def _inner(annotation: Any) -> Any:
    """Return what a dict or a tuple holds."""
    arguments = [each for each in typing.get_args(annotation) if each is not Ellipsis]
    return arguments[-1]
