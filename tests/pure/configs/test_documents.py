"""Where the parts of a configuration stand, and how what cannot be read of one is told."""

from __future__ import annotations

import pytest

from airflow_provider_csc.configs.documents import Problem, read_document
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.yaml_text import MAX_BYTES, Mark


def test_each_part_has_its_place() -> None:
    document = read_document("modules: [gcc, openmpi]\nvenv:\n  name: x\n", name="job.yaml")

    assert document.locate(Problem(path=("modules", 1), text="")) == Mark(1, 16)
    assert document.locate(Problem(path=("venv", "name"), text="")) == Mark(3, 9)
    assert document.locate(Problem(path=("venv", "name"), text="", is_key=True)) == Mark(3, 3)
    assert document.locate(Problem(path=("venv", "path"), text="")) == Mark(3, 3)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: 1\na: 2", "job.yaml:2:1: it is no YAML as is read here: the key 'a' stands twice"),
        ("ab\x07: 1", "job.yaml:1:3: the character '\\x07' cannot be in YAML"),
        ("a: " + "x" * MAX_BYTES, "job.yaml: it is larger than 256 KiB"),
    ],
)
def test_what_is_not_read_is_told_with_file_and_place(text: str, start: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(text, name="job.yaml")

    assert caught.value.message.startswith(start)
    assert caught.value.file == "job.yaml"


def test_a_place_is_traced_to_the_text_before_its_templates() -> None:
    with pytest.raises(ConfigError) as caught:
        read_document("a: [", name="job.yaml", trace=lambda mark: Mark(mark.line + 6, mark.column))

    assert caught.value.message.startswith("job.yaml:7:5: ")
    assert (caught.value.details["line"], caught.value.details["column"]) == (7, 5)
