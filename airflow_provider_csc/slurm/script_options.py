"""
What a batch script sets by itself: its ``#SBATCH`` lines, read as sbatch reads them.

Source: src/sbatch/opt.c, Slurm 22.05 to 25.11 (``_opt_batch_script``, ``get_argument``), and GNU
getopt_long, to which sbatch hands the words of all the lines as one command line.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.slurm.option_table import ALIASES, OPTIONS, SHORT_FORMS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_csc.slurm.option_table import Option

# Why some options cannot stay in a script: no command line of ours can undo them.
_REFUSED = {
    "autocomplete": "sbatch would print and submit nothing",
    "clusters": "a connection stands for one cluster; use one connection for each",
    "external": "it asks for a job that has no script",
    "test-only": "sbatch would submit nothing",
    "wait": "sbatch would wait for the job, and waiting is done here",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptOptions:
    """
    The options of a script's first component, by long name, with their text unchecked.

    ``lines`` are its ``#SBATCH`` lines as written. ``unreadable`` are words among them that are not
    in this provider's table (a site's plugins add options) or that sbatch itself would refuse.
    ``is_heterogeneous`` tells that ``#SBATCH hetjob`` lines split the job into components.
    """

    lines: tuple[str, ...] = ()
    options: Mapping[str, str | bool] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    is_heterogeneous: bool = False


def read_script_options(script: str) -> ScriptOptions:
    """Read the ``#SBATCH`` lines above a script's first command; none is ever refused."""
    lines = list(_directive_lines(script))
    contents = [_DIRECTIVE.sub("", line, count=1) for line in lines]
    separators = [i for i, content in enumerate(contents) if _COMPONENT.match(content)]
    words: deque[str] = deque()
    unreadable: list[str] = []
    for content in contents[: separators[0] if separators else None]:
        try:
            words.extend(tuple(_split_words(content)))
        except ValueError:
            unreadable.append(content.strip())
    return ScriptOptions(
        lines=tuple(lines),
        options=_read_words(words, unreadable),
        unreadable=tuple(unreadable),
        is_heterogeneous=bool(separators),
    )


def check_script_options(found: ScriptOptions, *, script_field: str = "script") -> None:
    """
    Check that a script leaves to this provider what must be left to it.

    :raises ConfigError: for ``#SBATCH --wait``, ``--test-only``, ``--clusters`` and their like.
    """
    for name in found.options:
        if name in _REFUSED:
            remedy = f"Take '--{name}' out of its #SBATCH lines."
            raise ConfigError(
                f"{script_field}: #SBATCH --{name} cannot be used: {_REFUSED[name]}. {remedy}",
                field=script_field,
                value=shown(found.options[name]),
                remedy=remedy,
            )


# sbatch also reads #SLURM, and says that it should be #SBATCH. No space need follow.
_DIRECTIVE = re.compile(r"#(?:SBATCH|SLURM)")
_COMPONENT = re.compile(r"\s*(?:hetjob|packjob)(?![^ \t\v\f\r])", re.IGNORECASE)
_IS_COMMAND = re.compile(r"[ \t\v\f\r]*[^ \t\v\f\r#]")


def _directive_lines(script: str) -> Iterator[str]:
    for line in script.split("\n"):
        if _DIRECTIVE.match(line):
            yield line
        elif _IS_COMMAND.match(line):
            return


_SPACE = re.compile(r"[ \t\v\f\r]*")
_DOUBLE = r'"((?:\\.|[^"\\])*)"'
_SINGLE = r"'((?:\\.|[^'\\])*)'"
_PLAIN = r"""((?:\\.|[^ \t\v\f\r#"'\\])+)"""
_PIECE = re.compile(rf"{_DOUBLE}|{_SINGLE}|{_PLAIN}|\\$", re.DOTALL)
_WORD = re.compile(rf"(?:{_PIECE.pattern})+", re.DOTALL)


def _split_words(content: str) -> Iterator[str]:
    r"""
    Split a line as sbatch does: both quotes group, ``\`` escapes in either, ``#`` ends the line.

    An empty word, as ``""``, also ends the line, and so does ``hetjob``. A backslash before a space
    keeps it in the word, as since Slurm 24.05; before, the word ended there.

    :raises ValueError: for an unmatched quote or a word that begins with a colon; sbatch exits.
    """
    at = _skip_space(content, 0)
    while at < len(content) and content[at] != "#" and not _COMPONENT.match(content, at):
        match = _WORD.match(content, at)
        if not match or content[at] == ":":
            raise ValueError(content)
        word = _PIECE.sub(_unquote, match.group())
        if not word:
            return
        yield word
        at = _skip_space(content, match.end())


def _skip_space(content: str, at: int) -> int:
    match = _SPACE.match(content, at)
    return match.end() if match else at


def _unquote(piece: re.Match[str]) -> str:
    return re.sub(r"\\(.)", r"\1", piece[1] or piece[2] or piece[3] or "", flags=re.DOTALL)


def _read_words(words: deque[str], unreadable: list[str]) -> dict[str, str | bool]:
    """Read words as getopt_long does; what it stops at, and what it does not know, is put aside."""
    options: dict[str, str | bool] = {}
    while words:
        word = words.popleft()
        if word in {"-", "--"} or not word.startswith("-"):
            unreadable += words if word == "--" else [word, *words]
            break
        read = _read_long if word.startswith("--") else _read_short
        found = read(word, words)
        options.update(found)
        if not found:
            unreadable.append(word)
            if words and "=" not in word and not words[0].startswith("-"):
                unreadable.append(words.popleft())  # most likely its value
    return options


def _read_long(word: str, words: deque[str]) -> dict[str, str | bool]:
    name, equals, value = word.removeprefix("--").partition("=")
    option = _find(name)
    if option is None:
        return {}
    if equals:
        return {} if option.kind is Kind.FLAG else {option.name: value}
    return _read_value(option, "", words)


def _read_short(word: str, words: deque[str]) -> dict[str, str | bool]:
    """Read one word of short options: ``-p small``, ``-psmall``, ``-Hn4``."""
    options: dict[str, str | bool] = {}
    for at, letter in enumerate(word[1:], start=2):
        if letter not in SHORT_FORMS:
            return {}
        option = OPTIONS[SHORT_FORMS[letter]]
        if option.kind is not Kind.FLAG:
            return options | _read_value(option, word[at:], words)
        options[option.name] = True
    return options


def _read_value(option: Option, attached: str, words: deque[str]) -> dict[str, str | bool]:
    if attached:
        return {option.name: attached}
    if option.kind is Kind.FLAG or option.is_value_optional:
        return {option.name: True}
    return {option.name: words.popleft()} if words else {}


def _find(name: str) -> Option | None:
    """Return the option of that name, or the only one whose name begins so, as getopt does."""
    if name in OPTIONS or name in ALIASES:
        return OPTIONS[ALIASES.get(name, name)]
    matches = [option for each, option in OPTIONS.items() if name and each.startswith(name)]
    return matches[0] if len(matches) == 1 else None
