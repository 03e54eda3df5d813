"""What a YAML text becomes, where its values stand, and what is refused in it."""

from __future__ import annotations

import pytest

from airflow_provider_csc.sites.document import DocumentError, Place, read_document


def values(text: str) -> object:
    return read_document(text, "f.yaml").values


def refusal(text: str) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        read_document(text, "f.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12:00:00", "12:00:00"),  # 43200 in YAML 1.1
        ("190:20:30.15", "190:20:30.15"),
        ("3-00:00:00", "3-00:00:00"),
        ("2026-08-31", "2026-08-31"),  # a date in YAML 1.1
        ("no", "no"),  # False in YAML 1.1
        ("0123", "0123"),  # 83 in YAML 1.1
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("0", 0),
        ("-7", -7),
        ("0.75", 0.75),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("9" * 5000, float("inf")),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text: str, expected: object) -> None:
    found = values(f"x: {text}\n")
    assert found == {"x": expected}
    assert type(found["x"]) is type(expected)  # type: ignore[index]


def test_every_key_and_item_has_a_place() -> None:
    document = read_document("a:\n  b: 1\n  c: [2, {d: 3}]\n", "f.yaml")
    assert document.values == {"a": {"b": 1, "c": [2, {"d": 3}]}}
    assert document.places[("a", "b")] == Place("f.yaml", 2, 3)
    assert document.places[("a", "c", 1, "d")] == Place("f.yaml", 3, 11)


def test_what_is_merged_gives_way_to_what_is_said() -> None:
    text = "one: &one {a: 1, b: 1}\ntwo: {b: 2}\nboth: {<<: [*one], b: 3, c: 3}\n"
    assert values(text)["both"] == {"a": 1, "b": 3, "c": 3}  # type: ignore[index]


def test_what_is_merged_first_wins() -> None:
    text = "x: {<<: [{a: 1}, {a: 2, b: 2}]}"
    assert values(text) == {"x": {"a": 1, "b": 2}}


def test_the_keys_of_a_mapping_are_text() -> None:
    assert values("1: a\ntrue: b\n") == {"1": "a", "true": "b"}


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "'a' stands twice, first in line 1"),
        ("a: {b: 1, b: 2}\n", 1, 11, "'b' stands twice"),
        ("a: !!python/object/apply:os.system [true]\n", 1, 4, "python/object"),
        ("a: !mine 1\n", 1, 4, "'!mine'"),
        ("a: !!int twelve\n", 1, 4, "Tags"),
        ("a: !!set {b, c}\n", 1, 4, "Tags"),
        ("a: [1\nb: 2\n", 2, 2, "no YAML"),
        ("a: *b\n", 1, 4, "no YAML"),
        ("a: 1\n---\nb: 2\n", 2, 1, "no YAML"),
        ("a: \x01\n", 1, 1, "no YAML"),
        ("{[a]: 1}", 1, 2, "one word"),
        ("a: {<<: 1}", 1, 9, "'<<' takes"),
        ("a: &a [*a]\n", 1, 4, "part of"),
        ("[" * 3000, 1, 1, "deeply"),
    ],
)
def test_what_is_no_plain_document_is_refused_where_it_stands(
    text: str, line: int, column: int, words: str
) -> None:
    error = refusal(text)
    assert words in error.problem
    assert error.place == Place("f.yaml", line, column)


def test_aliases_of_aliases_are_no_bomb() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "too many" in refusal("\n".join(lines)).problem
