"""
YAML, read with where everything stands, and written.

What is read is what people mean who write YAML by hand (its version 1.2): ``on``, ``no``,
``12:30`` and ``2026-08-31`` are text. PyYAML's ``safe_load`` reads whatever is written here as the
same value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from airflow_provider_csc.notation import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES = 256 * 1024
"""Which PyYAML reads in a few seconds, whatever it is."""

MAX_DEPTH = 32
"""Lists and mappings within each other; what is read here needs five."""

MAX_NODES = 20_000
"""With each alias counted as what it stands for."""

Path = tuple[str | int, ...]
"""Keys and positions that lead to a part of a document."""


class Mark(NamedTuple):
    """A place in a text; both count from 1."""

    line: int
    column: int


class YamlError(ValueError):
    """A text that is not read: ``problem`` is a sentence, ``mark`` its place if known."""

    def __init__(self, problem: str, mark: Mark | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.mark = mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What a text says, and where its parts stand: each of them, and the keys that lead to them."""

    value: object
    marks: Mapping[Path, Mark]
    key_marks: Mapping[Path, Mark]


_TAG = "tag:yaml.org,2002:"
_ERRORS = (yaml.YAMLError, ValueError, OverflowError, RecursionError)
# What a plain word is (yaml.org/spec/1.2.2, 10.3.2), without what only looks like a number: 0x10,
# .inf. In this order; the third is what a pattern can begin with.
_KINDS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
_PATTERNS = {name: re.compile(rf"(?:{pattern})\Z") for name, pattern, _ in _KINDS}


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


for _name, _, _first in _KINDS:
    _Loader.add_implicit_resolver(_TAG + _name, _PATTERNS[_name], list(_first))


def parse_yaml(text: str, *, is_exact: bool = True) -> Parsed:
    """
    Read the one document of a text.

    Where it ``is_exact``, a number that would lose something, as 1.10, 007 and 1e5, is text; else
    only what begins with a zero is.

    :raises YamlError: for what is no YAML, for a key that stands twice, for tags (``!!python``),
        for several documents, and for what is too large or too deep, also where only aliases make
        it so.
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise YamlError(f"it is larger than {MAX_BYTES // 1024} KiB. Is it the right file?")
    try:
        node = _compose(text)
        builder = _Builder(is_exact=is_exact)
        value = builder.build(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        found = error.problem_mark or error.context_mark
        raise YamlError(_explain(error), _mark(found) if found else None) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))
        said = f"the character {shown(text[error.position])} cannot be in YAML. Leave it out."
        raise YamlError(said, mark) from error
    except _ERRORS as error:
        raise YamlError(f"it is no YAML: {error}") from error
    return Parsed(value=value, marks=builder.marks, key_marks=builder.key_marks)


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    return node


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


@dataclass(slots=True, kw_only=True)
class _Builder:
    """Makes values of PyYAML's nodes, and notes where each of them stands."""

    is_exact: bool
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
        kind = _kind_of(node)
        match node:
            case yaml.ScalarNode() if kind in _SCALARS:
                return _read_scalar(node, is_exact=self.is_exact)
            case yaml.SequenceNode() if kind == "seq":
                return [self.build(each, (*path, n)) for n, each in enumerate(node.value)]
            case yaml.MappingNode() if kind == "map":
                return self._build_mapping(node, path)
        tag = node.tag.replace(_TAG, "!!")
        raise _refusal(node, f"the tag {shown(tag)} is not read. Leave it out")

    def _build_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            if _kind_of(key_node) == "merge":
                continue
            key = _read_key(key_node)
            if key in found:
                before = self.key_marks[(*path, key)]
                text = f"the key {shown(key)} stands twice, also in line {before.line}"
                raise _refusal(key_node, text)
            self.key_marks.setdefault((*path, key), _mark(key_node.start_mark))
            found[key] = self.build(value_node, (*path, key))
        for key_node, value_node in node.value:
            if _kind_of(key_node) == "merge":
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


def _kind_of(node: yaml.Node) -> str:
    return str(node.tag.removeprefix(_TAG))


def _read_key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or _kind_of(node) not in _SCALARS:
        raise _refusal(node, "a key is a word here, and not a list, a mapping or a tag")
    return str(node.value)


def _refusal(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


_SCALARS = (*_PATTERNS, "str")
# What is said of a word that is not what its tag says, as in '!!int x'.
_WRONG = {
    "bool": "neither true nor false",
    "int": "no whole number",
    "float": "no number",
    "null": "not null",
    "merge": "not '<<'",
}
# Of more digits Python makes no int.
_LONGEST_INT = 4000
# Which any program reads as the same number.
_LONGEST_PLAIN_INT = 18
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")


def _read_scalar(node: yaml.ScalarNode, *, is_exact: bool) -> object:
    kind, text = _kind_of(node), str(node.value)
    if kind in _PATTERNS and not _PATTERNS[kind].match(text):
        raise _refusal(node, f"{shown(text)} is {_WRONG[kind]}")
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" | "float":
            return _read_exactly(text, kind) if is_exact else _read_number(text)
        case _:
            return text


def _read_exactly(text: str, kind: str) -> object:
    """Return a number where that, written again, gives the same text; else the text."""
    if len(text) > _LONGEST_INT:
        return text
    number = int(text) if kind == "int" else float(text)
    told = repr(number)
    # PyYAML writes 1.0e+20 for what Python writes as 1e+20.
    is_same = text == (told if kind == "int" or "." in told else told.replace("e", ".0e"))
    return number if is_same else text


def _read_number(text: str) -> object:
    if _LEADING_ZERO.match(text):
        return text
    digits = text.lstrip("-+")
    return int(text) if digits.isdecimal() and len(digits) <= _LONGEST_PLAIN_INT else float(text)


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
