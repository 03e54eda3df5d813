"""
YAML, read with where everything stands, and written.

What is read is what people mean who write YAML by hand (its version 1.2): ``on``, ``no`` and
``12:30`` are text, and so is a number that would lose something, as 1.10 and 007. PyYAML's
``safe_load`` reads whatever is written here as the same value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from airflow_provider_csc.configs.documents import (
    MAX_DEPTH,
    Document,
    Mark,
    Path,
    Problem,
    unmoved,
)
from airflow_provider_csc.notation import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_csc.errors import ConfigError

MAX_BYTES = 256 * 1024
"""Which PyYAML reads in a few seconds, whatever it is."""

MAX_NODES = 20_000
"""With each alias counted as what it stands for."""

_TAG = "tag:yaml.org,2002:"
_ERRORS = (yaml.YAMLError, ValueError, OverflowError, RecursionError)


class _Loader(yaml.SafeLoader):
    """Decides what a plain word is as YAML 1.2 does, and does not go deeper than it may."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as in the base class
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH + 2:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            problem = f"there are more than {MAX_DEPTH} lists and mappings within each other"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), list(_first))


def parse_yaml(
    text: str, *, name: str = "configs", trace: Callable[[Mark], Mark] = unmoved
) -> Document:
    """
    Read the one document of a text.

    :raises ConfigError: with file, line and column: for what is no YAML, for a key that stands
        twice, for tags (``!!python``), for several documents, and for what is too large or too
        deep, also where only aliases make it so.
    """
    empty = Document(name=name, value=None, trace=trace)
    if len(text.encode(errors="replace")) > MAX_BYTES:
        text = f"the text is larger than {MAX_BYTES // 1024} KiB. Is it a configuration?"
        raise empty.error([Problem(path=(), text=text)])
    try:
        node = _compose(text)
        builder = _Builder()
        value = builder.build(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = _mark(error.problem_mark) if error.problem_mark else None
        raise _at(empty, mark, _explain(error)) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))
        said = f"the character {shown(text[error.position])} cannot be in YAML. Leave it out."
        raise _at(empty, mark, said) from error
    except _ERRORS as error:
        raise empty.error([Problem(path=(), text=f"it is no YAML: {error}")]) from error
    return Document(
        name=name,
        value=value,
        marks=builder.marks,
        key_marks=builder.key_marks,
        trace=trace,
    )


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    return node


def _at(document: Document, mark: Mark | None, text: str) -> ConfigError:
    marks: dict[Path, Mark] = {(): mark} if mark else {}
    placed = Document(name=document.name, value=None, marks=marks, trace=document.trace)
    return placed.error([Problem(path=(), text=text)])


def _mark(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


_REMEDIES = {
    "expected a single document": "Leave out the second '---', and what follows it.",
    "found character '\\t'": "Indent by spaces.",
    "mapping values are not allowed": "Put text with ': ' in it in quotes.",
    "found undefined alias": "An alias (*name) needs its anchor (&name) before it.",
}


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "it cannot be read"
    # Where several documents are, PyYAML tells it the other way round.
    told = f"{error.context}, {problem}" if error.context and error.context != problem else problem
    remedy = next((remedy for start, remedy in _REMEDIES.items() if start in told), "")
    return f"it is no YAML as is read here: {told}. {remedy}".rstrip()


@dataclass(slots=True)
class _Builder:
    """Makes values of PyYAML's nodes, and notes where each of them stands."""

    marks: dict[Path, Mark] = field(default_factory=dict)
    key_marks: dict[Path, Mark] = field(default_factory=dict)
    count: int = 0

    def build(self, node: yaml.Node, path: Path) -> object:
        self.count += 1
        if self.count > MAX_NODES:
            raise _refusal(node, f"with what its aliases stand for it has over {MAX_NODES} parts")
        if len(path) > MAX_DEPTH:
            raise _refusal(node, "with what its aliases stand for it is too deep")
        # What `<<` adds is built last, and stands where the mapping has not said the same.
        self.marks.setdefault(path, _mark(node.start_mark))
        kind = node.tag.removeprefix(_TAG)
        match node:
            case yaml.ScalarNode() if kind in _SCALARS:
                return _SCALARS[kind](node)
            case yaml.SequenceNode() if kind == "seq":
                return [self.build(each, (*path, n)) for n, each in enumerate(node.value)]
            case yaml.MappingNode() if kind == "map":
                return self._build_mapping(node, path)
        tag = node.tag.replace(_TAG, "!!")
        raise _refusal(node, f"the tag {shown(tag)} is not read. Leave it out")

    def _build_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                continue
            key = _read_key(key_node)
            if key in found:
                before = self.key_marks[(*path, key)]
                text = f"the key {shown(key)} stands twice, also in line {before.line}"
                raise _refusal(key_node, text)
            self.key_marks.setdefault((*path, key), _mark(key_node.start_mark))
            found[key] = self.build(value_node, (*path, key))
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                for each in self._read_merged(value_node, path):
                    for key, value in each.items():
                        found.setdefault(key, value)
        return found

    def _read_merged(self, node: yaml.Node, path: Path) -> list[dict[str, object]]:
        """Return the mappings that ``<<`` adds to one, first those that win."""
        value = self.build(node, path)
        given = value if isinstance(value, list) else [value]
        mappings = [each for each in given if isinstance(each, dict)]
        if len(mappings) < len(given):
            raise _refusal(node, "'<<' takes a mapping, or a list of mappings")
        return mappings


def _read_key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag.removeprefix(_TAG) not in _SCALARS:
        raise _refusal(node, "a key is a word here, and not a list, a mapping or a tag")
    return str(node.value)


def _refusal(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


def _read_number(node: yaml.ScalarNode, kind: Callable[[str], int | float]) -> object:
    """Return a number where that, written again, gives the same text; else the text."""
    number = kind(node.value)
    told = repr(number)
    # PyYAML writes 1.0e+20 for what Python writes as 1e+20.
    is_same = node.value in (told, told.replace("e", ".0e"))
    return number if is_same else node.value


def _read_bool(node: yaml.ScalarNode) -> bool:
    word = node.value.lower()
    if word not in ("true", "false"):
        raise _refusal(node, f"{shown(node.value)} is neither true nor false")
    return bool(word == "true")


_SCALARS: dict[str, Callable[[yaml.ScalarNode], object]] = {
    "str": lambda node: str(node.value),
    "int": lambda node: _read_number(node, int),
    "float": lambda node: _read_number(node, float),
    "bool": _read_bool,
    "null": lambda _node: None,
    "merge": lambda node: str(node.value),
}


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such, and nothing as an alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - as in the base class
        return True


_ODD = re.compile("[\x85\u2028\u2029\ufeff]")


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML loses the breaks of other alphabets, unless it has to escape them (tried on 6.0.3).
    style = '"' if _ODD.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


def _represent_other(dumper: yaml.SafeDumper, value: object) -> yaml.ScalarNode:
    return dumper.represent_scalar(f"{_TAG}str", str(value))


_Dumper.add_representer(str, _represent_text)
_Dumper.add_multi_representer(object, _represent_other)


def render_yaml(value: object) -> str:
    """
    Return the text of a value, which `parse_yaml` and ``yaml.safe_load`` read.

    What YAML has no word for, as a timedelta, is written as Python shows it.
    """
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=96,
    )
    return text
