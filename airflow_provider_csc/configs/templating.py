"""
Jinja in a configuration: rendered before anything is read, in a sandbox, with nothing undefined.

The sandbox keeps a template from what it was not given. It does not keep it from using up memory
and time: a template is its author's program, wherever it lies.

A text is rendered as a whole, of a mapping every text by itself. What is wrong with it is told
where it stands in the text that was written, and not in what templates made of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import SandboxedEnvironment

from airflow_provider_csc.configs.documents import Document, Problem, has_template, map_strings
from airflow_provider_csc.yaml_text import MAX_BYTES, Mark, Path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_csc.errors import ConfigError

# An expression in a template raises what Python does; SyntaxError where Jinja makes code of it that
# Python does not take (twenty loops within each other).
_ERRORS: Final = (
    *(TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    *(RuntimeError, MemoryError, SyntaxError, AssertionError),
)
_FILE: Final = "<template>"
"""What Jinja says of the place of a template that came from no file."""

# Characters that no YAML may have.
_MARKER: Final = re.compile("\x01([0-9]+)\x02")
# What counts as the end of a line in YAML 1.1.
_BREAK: Final = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


@dataclass(frozen=True)
class Rendered:
    """What templates made of a text, and the way back."""

    source: str
    text: str
    variables: Mapping[str, object]

    def trace(self, mark: Mark) -> Mark:
        """Return where in the source something stands, or the template that made it."""
        lines, written = _BREAK.split(self.text), self.source.split("\n")
        line = self._origins[mark.line - 1]
        if line > len(written):
            return mark
        pairs = zip(written[line - 1], lines[mark.line - 1], strict=False)
        alike = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        return Mark(line, min(mark.column, alike + 1))

    @cached_property
    def _origins(self) -> list[int]:
        """The line of the source that each line came from; rendered again, with all lines named."""
        lines = _BREAK.split(self.text)
        try:
            told = _render(_name_lines(self.source), self.variables)
        except _ERRORS:
            told = ""
        if _MARKER.sub("", told) != self.text:
            # A template that looks at its own text, or makes another one each time.
            return list(range(1, len(lines) + 1))
        found: list[int] = []
        for line in _BREAK.split(told):
            numbers = _MARKER.findall(line)
            found.append(int(numbers[-1]) if numbers else 0)
        return _fill_gaps(found, last=self.source.count("\n") + 1)


def render_text(text: str, variables: Mapping[str, object], *, name: str) -> Rendered:
    """
    Return a text with its templates rendered.

    :raises ConfigError: with the line, for what cannot be rendered, is undefined, or grows too
        large.
    """
    source = re.sub("\r\n?", "\n", text)
    if len(source) > MAX_BYTES:  # which its reader refuses
        return Rendered(source, source, variables)
    try:
        return Rendered(source, _render(source, variables), variables)
    except _ERRORS as error:
        marks: dict[Path, Mark] = {(): Mark(line, 1)} if (line := _line_of(error)) else {}
        document = Document(name=name, value=None, marks=marks)
        raise _refusal(document, (), error) from error


def render_values(value: object, variables: Mapping[str, object], *, name: str) -> object:
    """
    Return a value with every text in it rendered, save keys.

    :raises ConfigError: with the field.
    """

    def change(path: Path, text: str) -> str:
        try:
            return _render(text, variables) if has_template(text) else text
        except _ERRORS as error:
            raise _refusal(Document(name=name, value=value), path, error) from error

    return map_strings(value, change)


@cache
def _environment() -> SandboxedEnvironment:
    return SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def _render(text: str, variables: Mapping[str, object]) -> str:
    template = _environment().from_string(text)
    pieces, size = [], 0
    for piece in template.generate(variables):
        size += len(piece)
        # Lines that are named are longer.
        if size > 4 * MAX_BYTES:
            raise ValueError(f"it makes more than {4 * MAX_BYTES // 1024} KiB of text")
        pieces.append(piece)
    return "".join(pieces)


def _name_lines(source: str) -> str:
    """Return a template that writes the number of each of its own lines at its end."""
    position, made = 0, ""
    for line, kind, token in _environment().lex(source):
        start = source.find(token, position)
        made += source[position:start]
        made += "\n".join(_numbered(token, line)) if kind == "data" else token
        position = start + len(token)
    return made + source[position:]


def _numbered(token: str, line: int) -> Iterator[str]:
    lines = token.split("\n")
    for number, each in enumerate(lines[:-1]):
        yield f"{each}\x01{line + number}\x02"
    yield lines[-1]


def _fill_gaps(found: list[int], *, last: int) -> list[int]:
    """Let a line without a number be where the next one is; what is last, where the text ends."""
    following = last
    for position in range(len(found) - 1, -1, -1):
        following = found[position] = found[position] or following
    return found


def _line_of(error: BaseException) -> int | None:
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    line, traceback = None, error.__traceback__
    while traceback is not None:
        # Jinja writes its own lines into the traceback.
        if traceback.tb_frame.f_code.co_filename == _FILE:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _refusal(document: Document, path: Path, error: BaseException) -> ConfigError:
    said = str(error) or type(error).__name__
    text = f"it cannot be rendered: {said}. Correct the template."
    if isinstance(error, UndefinedError):
        text = f"it cannot be rendered: {said}. Hand it in with context=, or correct the name."
    return document.error([Problem(path=path, text=text)])
