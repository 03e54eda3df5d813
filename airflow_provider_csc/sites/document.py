"""
A YAML text as plain values, with the place where each of them stands.

YAML 1.1 reads ``12:00:00`` as 43200, ``no`` as false and ``2026-08-31`` as a date. Here, as in YAML
1.2, they are text, which the fields of a profile read by themselves.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

_MOST_VALUES = 100_000  # what anchors stand for counts as often as it is named
_STR, _INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float"))
# The core schema of YAML 1.2 (yaml.org/spec/1.2.2, 10.3.2), without what only looks like a number:
# 0123, 0x10, .inf. Numbers of more than 18 digits are no int, which would take long to read.
_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    _INT: (r"[-+]?(0|[1-9][0-9]{0,17})", list("-+0123456789")),
    _FLOAT: (
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
    "tag:yaml.org,2002:merge": (r"<<", ["<"]),
}
_CONTAINERS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: lines and columns are counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class DocumentError(ValueError):
    """A text that is no such document: ``problem``, and ``place``, where it is known."""

    def __init__(self, problem: str, place: Place) -> None:
        super().__init__(f"{place}: {problem}")
        self.problem = problem
        self.place = place


@dataclass(frozen=True, slots=True)
class Document:
    """
    Plain values, and the places of each key and item by the keys that lead to it.

    The path ``()`` is the document's own.
    """

    values: Any
    places: dict[Path, Place] = field(default_factory=dict)


def read_document(text: str, file: str) -> Document:
    """
    Read one YAML document of plain values.

    :raises DocumentError: for what is no YAML, a tag, a key that stands twice or is no text.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=_loader_class())
    except RecursionError as error:
        raise DocumentError("This is nested too deeply", Place(file, 1, 1)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DocumentError(f"This is no YAML: {problem}", place) from error
    reader = _Reader(file)
    values = reader.read(node, ()) if node is not None else None
    return Document(values, reader.places)


@functools.cache
def _loader_class() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Tells kinds of scalars apart as YAML 1.2 does."""

        yaml_implicit_resolvers = {}  # noqa: RUF012 - as in PyYAML's own resolvers

    for tag, (pattern, first) in _SCALARS.items():
        Loader.add_implicit_resolver(tag, re.compile(rf"(?:{pattern})\Z"), first)
    return Loader


class _Reader:
    """Makes plain values of nodes, and notes where they stand."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.places: dict[Path, Place] = {}
        self._count = 0
        self._open: list[yaml.Node] = []

    def read(self, node: yaml.Node, path: Path) -> Any:
        import yaml

        self.places.setdefault(path, self._place(node))
        self._count += 1
        if self._count > _MOST_VALUES:
            raise DocumentError("This stands for too many values", self._place(node))
        if any(each is node for each in self._open):
            raise DocumentError("This alias stands for what it is a part of", self._place(node))
        if isinstance(node, yaml.ScalarNode):
            return self._read_scalar(node)
        self._check_tag(node)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._read_mapping(node, path)
            return [self.read(each, (*path, at)) for at, each in enumerate(node.value)]
        finally:
            self._open.pop()

    def _read_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged = {**self._read_merged(value_node, path), **merged}
                continue
            key = self._read_key(key_node)
            if key in values:
                first = self.places[(*path, key)].line
                raise DocumentError(
                    f"The key {key!r} stands twice, first in line {first}", self._place(key_node)
                )
            self.places[(*path, key)] = self._place(key_node)
            values[key] = self.read(value_node, (*path, key))
        return {**merged, **values}

    def _read_merged(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        value = self.read(node, (*path, "<<"))
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise DocumentError("'<<' takes an alias of a mapping", self._place(node))
        return {key: each for part in reversed(parts) for key, each in part.items()}

    def _read_key(self, node: yaml.Node) -> str:
        import yaml

        if not isinstance(node, yaml.ScalarNode):
            raise DocumentError("A key is one word", self._place(node))
        self._check_tag(node)
        return str(node.value)

    def _read_scalar(self, node: yaml.ScalarNode) -> str | int | float | bool | None:
        self._check_tag(node)
        match node.tag.rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return bool(node.value.lower() == "true")
            case "int":
                return int(node.value)
            case "float":
                return float(node.value)
            case _:
                return str(node.value)

    def _check_tag(self, node: yaml.Node) -> None:
        import yaml

        is_known = node.tag in _CONTAINERS | {_STR}
        # What the resolver says of a plain scalar is no tag; '!!int abc' is one.
        if not is_known and not (isinstance(node, yaml.ScalarNode) and _is_plain(node)):
            raise DocumentError(f"Tags such as {node.tag!r} are not read", self._place(node))

    def _place(self, node: yaml.Node) -> Place:
        return Place(self._file, node.start_mark.line + 1, node.start_mark.column + 1)


def _is_plain(node: yaml.ScalarNode) -> bool:
    """Whether a scalar is written as its kind is, without quotes or a tag."""
    pattern, _ = _SCALARS.get(node.tag, (r"(?!)", []))
    return bool(re.fullmatch(pattern, node.value)) and not node.style
