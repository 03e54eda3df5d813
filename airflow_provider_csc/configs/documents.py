"""What was read of a configuration, where its parts stand, and the error for what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.yaml_text import MAX_DEPTH, Mark, Path, YamlError, parse_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """
    Something that is wrong with a part of a document.

    ``text`` is a sentence about it, and what to do. Of a key that itself is wrong, ``is_key``.
    """

    path: Path
    text: str
    value: object = None
    is_key: bool = False


def unmoved(mark: Mark) -> Mark:
    """Return a place as it is: no template has moved anything."""
    return mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """
    A value, and where its parts stand, if it came from a text.

    ``trace`` leads from a place in what templates made of the text to the text itself.
    """

    name: str
    value: object
    marks: Mapping[Path, Mark] = field(default_factory=dict)
    key_marks: Mapping[Path, Mark] = field(default_factory=dict)
    trace: Callable[[Mark], Mark] = unmoved

    def locate(self, problem: Problem) -> Mark | None:
        """Return where a part stands; of one that is missing, where what should hold it does."""
        marks = {**self.marks, **self.key_marks} if problem.is_key else self.marks
        for length in range(len(problem.path), -1, -1):
            if mark := marks.get(problem.path[:length]):
                return self.trace(mark)
        return None

    def error(self, problems: Sequence[Problem]) -> ConfigError:
        """Return one error for all that is wrong; its details are those of what comes first."""
        found = [(problem, self.locate(problem)) for problem in problems]
        found.sort(key=lambda each: each[1] or Mark(0, 0))
        lines = [_describe(self.name, problem, mark) for problem, mark in found]
        count = f"{self.name}: {len(lines)} problems.\n" if len(lines) > 1 else ""
        first, mark = found[0]
        return ConfigError(
            count + "\n".join(lines),
            field=render_path(first.path),
            value=first.value,
            file=self.name,
            line=mark.line if mark else None,
            column=mark.column if mark else None,
        )


def read_document(text: str, *, name: str, trace: Callable[[Mark], Mark] = unmoved) -> Document:
    """
    Read the YAML of a text.

    :raises ConfigError: with file, line and column, for what is not read.
    """
    try:
        parsed = parse_yaml(text)
    except YamlError as error:
        marks: dict[Path, Mark] = {(): error.mark} if error.mark else {}
        empty = Document(name=name, value=None, marks=marks, trace=trace)
        raise empty.error([Problem(path=(), text=error.problem)]) from error
    return Document(
        name=name,
        value=parsed.value,
        marks=parsed.marks,
        key_marks=parsed.key_marks,
        trace=trace,
    )


def _describe(name: str, problem: Problem, mark: Mark | None) -> str:
    place = f"{name}:{mark.line}:{mark.column}" if mark else name
    where = render_path(problem.path)
    return f"{place}: {where}: {problem.text}" if where else f"{place}: {problem.text}"


# What they hold is named by who writes it, and not by this package.
_FREE = ("options", "env", "resources")


def render_path(path: Path) -> str:
    """Return a path as people write it: ``venv.modules[0]``, ``options['mem']``."""
    text = str(path[0]) if path else ""
    for part in path[1:]:
        is_name = isinstance(part, str) and part.isidentifier() and path[0] not in _FREE
        text += f".{part}" if is_name else f"[{part!r}]"
    return text


def has_template(text: str) -> bool:
    """Whether there is anything for Jinja in a text."""
    return any(begin in text for begin in ("{{", "{%", "{#"))


def walk_strings(value: object, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """
    Yield every text in a value that is no key, and the path to it.

    :raises RecursionError: where there are more than `MAX_DEPTH` things within each other.
    """
    if len(path) > MAX_DEPTH:
        raise RecursionError
    match value:
        case str():
            yield path, value
        case dict():
            for key, each in value.items():
                yield from walk_strings(each, (*path, str(key)))
        case list() | tuple():
            for number, each in enumerate(value):
                yield from walk_strings(each, (*path, number))
        case _:
            return


def map_strings(value: object, change: Callable[[Path, str], object], path: Path = ()) -> object:
    """Return a value with every text in it changed, save keys."""
    if len(path) > MAX_DEPTH:
        raise RecursionError
    match value:
        case str():
            return change(path, value)
        case dict():
            return {
                key: map_strings(each, change, (*path, str(key))) for key, each in value.items()
            }
        case list():
            return [map_strings(each, change, (*path, n)) for n, each in enumerate(value)]
        case tuple():
            return tuple(map_strings(each, change, (*path, n)) for n, each in enumerate(value))
        case _:
            return value
