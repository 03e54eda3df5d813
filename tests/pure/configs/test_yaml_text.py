"""What YAML is read, with which places, and what is refused of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_csc.configs.documents import Mark, Problem
from airflow_provider_csc.configs.yaml_text import MAX_BYTES, parse_yaml, render_yaml
from airflow_provider_csc.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:30:00", "12:30:00"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        ("1.10", "1.10"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("1e5", "1e5"),
        ("2026-01-01", "2026-01-01"),
        ("!!str 12", "12"),
        ("${HOME}", "${HOME}"),
        ("<<", "<<"),
    ],
)
def test_a_plain_word_is_what_its_author_means(text: str, value: Any) -> None:
    assert parse_yaml(f"a: {text}").value == {"a": value}


def test_each_part_has_its_place() -> None:
    document = parse_yaml("modules: [gcc, openmpi]\nvenv:\n  name: x\n")

    assert document.locate(Problem(path=("modules", 1), text="")) == Mark(1, 16)
    assert document.locate(Problem(path=("venv", "name"), text="")) == Mark(3, 9)
    assert document.locate(Problem(path=("venv", "name"), text="", is_key=True)) == Mark(3, 3)
    assert document.locate(Problem(path=("venv", "path"), text="")) == Mark(3, 3)


def test_an_alias_stands_for_its_anchor_and_a_merge_adds_what_is_not_said() -> None:
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [{z: 4}, *a]}"

    value = parse_yaml(text).value

    assert value == yaml.safe_load(text)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: [", "2:5", "expected the node content"),
        ("a: 1\na: 2", "2:1", "'a' stands twice, also in line 1"),
        ("a: {b: 1, b: 2}", "1:11", "'b' stands twice"),
        ("a: !!python/object/apply:os.system [x]", "1:4", "tag '!!python/object"),
        ("a: !!python/name:os.system", "1:4", "is not read"),
        ("a: !include x", "1:4", "'!include' is not read"),
        ("a: !!binary aGk=", "1:4", "is not read"),
        ("a: !!set {x}", "1:4", "is not read"),
        ("a: !!int x", "", "invalid literal"),
        ("a: !!bool x", "1:4", "neither true nor false"),
        ("? [a]\n: b", "1:3", "a key is a word"),
        ("a: 1\n---\nb: 2", "2:1", "Leave out the second '---'"),
        ("a: *b", "1:4", "needs its anchor"),
        ("a: &a [*a]", "1:4", "too deep"),
        ("a: b: c", "1:5", "in quotes"),
        ("a:\n\tb: 1", "2:1", "Indent by spaces"),
        ("<<: 1", "1:5", "takes a mapping"),
        ("ab\x07: 1", "1:3", "'\\x07' cannot be in YAML"),
        ("[" * 40, "1:35", "more than 32 lists"),
        ("a: " + "x" * MAX_BYTES, "", "larger than 256 KiB"),
        (BOMB, "yaml:1:", "over 20000 parts"),
    ],
)
def test_what_is_not_read_is_told_with_its_place(text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, name="job.yaml")

    assert caught.value.message.startswith("job.yaml:")
    assert place in caught.value.message
    assert words in caught.value.message
    assert caught.value.file == "job.yaml"


PIECES = st.sampled_from(
    [
        *"[]{}:,-?&*!|>'\"%@`#~ \n\t",
        "a: ",
        "- ",
        "&a ",
        "*a",
        "!!int ",
        "<<: ",
        "---\n",
        "\\x",
        "1.5",
    ]
)


@given(st.text() | st.lists(PIECES).map("".join))
def test_no_text_makes_anything_but_a_value_or_a_config_error(text: str) -> None:
    try:
        document = parse_yaml(text)
    except ConfigError:
        return
    assert document.locate(Problem(path=(), text="")) is not None or document.value is None


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet="ab :#-", min_size=1), inner),
    max_leaves=10,
)


@given(TREES)
@example("\x85 a\u2028\n")
def test_what_is_written_is_read_as_the_same(tree: Any) -> None:
    text = render_yaml(tree)

    assert parse_yaml(text).value == tree
    assert yaml.safe_load(text) == tree


def test_text_of_several_lines_is_written_as_such() -> None:
    assert render_yaml({"command": "a\nb\n"}) == "command: |\n  a\n  b\n"
