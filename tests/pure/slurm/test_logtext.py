"""However a log arrives in pieces, each of its lines is shown once, as a reader would see it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.slurm.logtext import LineReader

LONGEST = 16 * 1024


def read(*chunks: bytes) -> list[str]:
    reader = LineReader()
    return [line for chunk in chunks for line in reader.feed(chunk)] + reader.flush()


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"\n\n", ["", ""]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\r\r\n", ["one"]),
        # What a terminal would show of a progress bar in the end.
        (b" 10%\r 50%\r100%\n", ["100%"]),
        (b" 10%\r 50%\r100%\r\n", ["100%"]),
        (b" 10%\r 50%", [" 50%"]),
        (b"\rone\n", ["one"]),
        # Invalid UTF-8, and none that is cut.
        (b"a\xffb\n", ["a\ufffdb"]),
        (b"\xc3\n", ["\ufffd"]),
        (b"end \xf0\x9f\x98", ["end \ufffd"]),
        ("ä日本😀\n".encode(), ["ä日本😀"]),
        (b"\xef\xbb\xbfbom\n", ["\ufeffbom"]),
        # Colours, titles, cursor movements.
        (b"\x1b[1;31mred\x1b[0m and \x1b[38;5;196mred\x1b[m\n", ["red and red"]),
        (b"\x1b]0;title\x07text\n", ["text"]),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", ["link"]),
        (b"\x1b[2K\x1b[1Gdone\x1b[?25h\n", ["done"]),
        (b"\x1bMup\x1b=\x1b>\n", ["up"]),
        (b"\x1b[31", ["[31"]),
        # What else a task log cannot show.
        (b"a\0b\x07c\x08d\x7fe\n", ["abcde"]),
        (b"a\x0bb\x0cc\n", ["abc"]),
        (b"a\tb\n", ["a       b"]),
        (b"\x1b\n", [""]),
        # Other separators of lines are none to a terminal.
        ("a\u2028b\x85c\x1cd\n".encode(), ["a\u2028b\x85cd"]),
    ],
)
def test_a_line_is_shown_as_a_terminal_would_show_it(data: bytes, lines: list[str]) -> None:
    assert read(data) == lines
    assert read(*(data[at : at + 1] for at in range(len(data)))) == lines


_PIECES = st.sampled_from(
    [
        b"word",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\t",
        b"\x1b[31m",
        b"\x1b[0m",
        b"\x1b",
        b"\x1b]0;t\x07",
        b"\x00",
        b"\xff",
        b"\xc3",
        b"\xa4",
        "ä".encode(),
        "😀".encode(),
        b"50%\r",
    ]
)
_STREAMS = st.one_of(st.binary(max_size=300), st.lists(_PIECES, max_size=60).map(b"".join))


@given(_STREAMS, st.lists(st.integers(0, 300), max_size=10))
def test_any_chunking_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(data)]
    chunks = [data[start:stop] for start, stop in itertools.pairwise(places)]
    assert read(*chunks) == read(data)


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=200)


@given(st.lists(_TEXT, max_size=20), st.lists(st.integers(0, 2000), max_size=10))
def test_nothing_of_plain_text_is_lost(lines: list[str], cuts: list[int]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    places = [0, *sorted(cuts), len(data)]
    assert read(*(data[a:b] for a, b in itertools.pairwise(places))) == lines


@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST, LONGEST + 1, 2 * LONGEST, 100_000])
@pytest.mark.parametrize("size", [1000, 4096, LONGEST, 10**6])
def test_a_long_line_is_cut_into_several_and_loses_nothing(length: int, size: int) -> None:
    line = "".join(chr(ord("a") + at % 26) for at in range(length))
    data = f"before\n{line}\nafter\n".encode()
    lines = read(*(data[at : at + size] for at in range(0, len(data), size)))
    assert lines == [
        "before",
        *(line[at : at + LONGEST] for at in range(0, length, LONGEST)),
        "after",
    ]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_line_of_just_the_longest_size_is_one(ending: bytes) -> None:
    """An empty one came after it when the newline was in the next chunk."""
    line = b"x" * LONGEST
    assert read(line, ending + b"\nnext\n") == [line.decode(), "", "next"]
    assert read(line + ending, b"\nnext\n") == [line.decode(), "", "next"]


def test_an_endless_line_needs_no_memory() -> None:
    reader = LineReader()
    shown = sum(len(line) for _ in range(200) for line in reader.feed(b"x" * 10_000))
    assert 2_000_000 - shown < LONGEST
    assert sum(map(len, reader.flush())) == 2_000_000 - shown


def test_an_endless_progress_bar_shows_its_last_drawing() -> None:
    """Every 16 KiB of it an empty line was shown."""
    reader = LineReader()
    lines = [line for n in range(20_000) for line in reader.feed(b"%5d of 20000\r" % n)]
    assert lines == []
    assert reader.feed(b"done\n") == ["done"]


def test_a_reader_can_go_on_after_its_flush() -> None:
    reader = LineReader()
    assert reader.feed(b"one \xc3") == []
    assert reader.flush() == ["one \ufffd"]
    assert reader.flush() == []
    assert reader.feed(b"two\n") == ["two"]


def test_a_large_log_is_read_quickly() -> None:
    """Far less than a second; a reader that looked at its rest again and again would need minutes."""
    data = (b"\x1b[32m" + b"x" * 90 + b"\x1b[0m\n") * 50_000
    lines = read(*(data[at : at + 65_536] for at in range(0, len(data), 65_536)))
    assert len(lines) == 50_000
