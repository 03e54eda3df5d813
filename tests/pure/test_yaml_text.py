"""What YAML is read, with which places, and what is refused of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_csc.yaml_text import MAX_BYTES, Mark, YamlError, parse_yaml, render_yaml

WORDS = [
    ("12:30:00", "12:30:00"),  # 45000 in YAML 1.1
    ("190:20:30.15", "190:20:30.15"),
    ("3-00:00:00", "3-00:00:00"),
    ("2026-01-01", "2026-01-01"),  # a date in YAML 1.1
    ("no", "no"),  # False in YAML 1.1
    ("on", "on"),
    ("true", True),
    ("False", False),
    ("FALSE", False),
    ("~", None),
    ("", None),
    ("0", 0),
    ("12", 12),
    ("-3", -3),
    ("1.5", 1.5),
    ("0.75", 0.75),
    ("007", "007"),
    ("0123", "0123"),  # 83 in YAML 1.1
    ("1_000", "1_000"),
    ("0x1F", "0x1F"),
    (".inf", ".inf"),
    ("!!str 12", "12"),
    ("!!int 12", 12),
    ("'12'", "12"),
    ('"true"', "true"),
    ("${HOME}", "${HOME}"),
    ("<<", "<<"),
]
# As they are read, exactly and else.
NUMBERS = [
    ("1.10", "1.10", 1.1),
    ("1.", "1.", 1.0),
    ("+5", "+5", 5),
    ("1e3", "1e3", 1000.0),
    ("1e5", "1e5", 100000.0),
    ("1.0e+20", 1e20, 1e20),
    ("1e+20", "1e+20", 1e20),
    ("1.0e+999", "1.0e+999", float("inf")),
    ("123456789012345678", 123456789012345678, 123456789012345678),
    ("12345678901234567890", 12345678901234567890, 12345678901234567890.0),
    ("9" * 5000, "9" * 5000, float("inf")),
]
CASES = [
    *((text, value, exact) for text, value in WORDS for exact in (True, False)),
    *((text, exact, True) for text, exact, _ in NUMBERS),
    *((text, plain, False) for text, _, plain in NUMBERS),
]


@pytest.mark.parametrize(("text", "value", "is_exact"), CASES)
def test_a_plain_word_is_what_its_author_means(text: str, value: Any, is_exact: bool) -> None:
    found = parse_yaml(f"a: {text}\n", is_exact=is_exact).value

    assert found == {"a": value}
    assert type(found["a"]) is type(value)  # type: ignore[index]


def test_every_key_and_item_has_a_place() -> None:
    parsed = parse_yaml("a:\n  b: 1\n  c: [2, {d: 3}]\n")

    assert parsed.value == {"a": {"b": 1, "c": [2, {"d": 3}]}}
    assert parsed.key_marks[("a", "b")] == Mark(2, 3)
    assert parsed.marks[("a", "b")] == Mark(2, 6)
    assert parsed.marks[("a", "c", 1)] == Mark(3, 10)
    assert parsed.key_marks[("a", "c", 1, "d")] == Mark(3, 11)


def test_an_alias_stands_for_its_anchor_and_a_merge_adds_what_is_not_said() -> None:
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [{z: 4}, *a]}"

    value = parse_yaml(text).value

    assert value == yaml.safe_load(text)


def test_what_is_merged_first_wins() -> None:
    assert parse_yaml("x: {<<: [{a: 1}, {a: 2, b: 2}]}").value == {"x": {"a": 1, "b": 2}}


def test_the_keys_of_a_mapping_are_text() -> None:
    assert parse_yaml("1: a\ntrue: b\n").value == {"1": "a", "true": "b"}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "mark", "words"),
    [
        ("a: 1\nb: [", Mark(2, 5), "expected the node content"),
        ("a: [1\nb: 2\n", Mark(2, 2), "no YAML"),
        ("a: 1\na: 2", Mark(2, 1), "'a' stands twice, also in line 1"),
        ("a: 1\nb: 2\na: 3\n", Mark(3, 1), "'a' stands twice, also in line 1"),
        ("a: {b: 1, b: 2}", Mark(1, 11), "'b' stands twice"),
        ("a: !!python/object/apply:os.system [x]", Mark(1, 4), "tag '!!python/object"),
        ("a: !!python/name:os.system", Mark(1, 4), "is not read"),
        ("a: !include x", Mark(1, 4), "'!include' is not read"),
        ("a: !!binary aGk=", Mark(1, 4), "is not read"),
        ("a: !!set {x, y}", Mark(1, 4), "'!!set' is not read"),
        ("a: !!int x", Mark(1, 4), "'x' is no whole number"),
        ("a: !!float x", Mark(1, 4), "'x' is no number"),
        ("a: !!bool x", Mark(1, 4), "neither true nor false"),
        ("? [a]\n: b", Mark(1, 3), "a key is a word"),
        ("{[a]: 1}", Mark(1, 2), "a key is a word"),
        ("a: 1\n---\nb: 2", Mark(2, 1), "Leave out the second '---'"),
        ("a: *b", Mark(1, 4), "needs its anchor"),
        ("a: &a [*a]", Mark(1, 4), "too deep"),
        ("a: b: c", Mark(1, 5), "in quotes"),
        ("a:\n\tb: 1", Mark(2, 1), "Indent by spaces"),
        ("<<: 1", Mark(1, 5), "takes a mapping"),
        ("a: {<<: 1}", Mark(1, 9), "'<<' takes a mapping"),
        ("ab\x07: 1", Mark(1, 3), "'\\x07' cannot be in YAML"),
        ("a: \x01\n", Mark(1, 4), "'\\x01' cannot be in YAML"),
        ("[" * 40, Mark(1, 35), "more than 32 lists"),
        ("[" * 3000, Mark(1, 35), "more than 32 lists"),
        ("a: " + "x" * MAX_BYTES, None, "larger than 256 KiB"),
    ],
)
def test_what_is_not_read_is_told_with_its_place(text: str, mark: Mark | None, words: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)

    assert words in caught.value.problem
    assert caught.value.mark == mark


def test_aliases_of_aliases_are_no_bomb() -> None:
    with pytest.raises(YamlError, match="over 20000 parts") as caught:
        parse_yaml(BOMB)

    assert caught.value.mark is not None
    assert caught.value.mark.line == 1


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


@given(st.text() | st.lists(PIECES).map("".join), st.booleans())
def test_no_text_makes_anything_but_a_value_or_a_yaml_error(text: str, is_exact: bool) -> None:
    try:
        parsed = parse_yaml(text, is_exact=is_exact)
    except YamlError:
        return
    assert () in parsed.marks or parsed.value is None


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
