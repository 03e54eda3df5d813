"""Turn the bytes a job writes into lines that a task log can show."""

from __future__ import annotations

import codecs
import re

# ECMA-48 control sequences (colours, cursor movements) and operating system commands (titles).
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_=>])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MAX_LINE = 16 * 1024


class LineReader:
    """
    Cut a stream of bytes into lines, across chunks.

    Invalid UTF-8 is shown as U+FFFD; of a line redrawn with carriage returns (a progress bar) the
    last drawing is kept; colours are removed; a line over 16 KiB is cut into several.
    """

    __slots__ = ("_is_cut", "_rest", "_undecoded")

    def __init__(self) -> None:
        # The beginning of a character whose other bytes are still to come.
        self._undecoded = b""
        self._rest = ""
        self._is_cut = False

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that ``data`` completes."""
        text = self._rest + self._decode(data)
        *lines, self._rest = text.split("\n")
        if lines:
            if self._is_cut and not lines[0].rstrip("\r"):
                del lines[0]  # All of that line was shown already.
            self._is_cut = False
        cut, self._rest = _cut(self._rest)
        self._is_cut = self._is_cut or bool(cut)
        return [piece for line in lines for piece in _clean(line)] + cut

    def flush(self) -> list[str]:
        """Return what is left when the stream has ended without a newline."""
        rest, self._rest = self._rest + self._decode(b"", is_final=True), ""
        self._is_cut = False
        return _clean(rest) if rest else []

    def _decode(self, data: bytes, *, is_final: bool = False) -> str:
        given = self._undecoded + data
        text, used = codecs.utf_8_decode(given, "replace", is_final)
        self._undecoded = given[used:]
        return text


def _cut(rest: str) -> tuple[list[str], str]:
    """Keep an unfinished line short: redrawings that are gone, and what is too long for a line."""
    if len(rest) < _MAX_LINE:
        return [], rest
    redrawn = rest.rstrip("\r").rfind("\r")
    if redrawn >= 0:
        rest = rest[redrawn:]
    whole = len(rest) - len(rest) % _MAX_LINE
    return _clean(rest[:whole]) if whole else [], rest[whole:]


def _clean(line: str) -> list[str]:
    last_drawing = line.rstrip("\r").rpartition("\r")[2]
    text = _CONTROLS.sub("", _ESCAPES.sub("", last_drawing)).expandtabs()
    return [text[start : start + _MAX_LINE] for start in range(0, len(text), _MAX_LINE)] or [""]
