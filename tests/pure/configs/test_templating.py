"""Templates are rendered before YAML is read, and what is wrong is told where it was written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_csc.configs import Configs, JobConfig
from airflow_provider_csc.configs.reading import read_model
from airflow_provider_csc.configs.templating import render_text
from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.yaml_text import Mark


def test_a_text_is_rendered_as_a_whole() -> None:
    text = "modules:\n{% for each in wanted %}\n  - {{ each }}\n{% endfor %}\n"

    configs = read_model(Configs, text, context={"wanted": ["gcc", "cuda"]})

    assert configs.modules == ["gcc", "cuda"]


def test_of_a_mapping_each_text_is_rendered_and_no_key() -> None:
    said = {"env": {"DAY": "{{ ds }}"}, "command": ["run", "{{ ds }}"]}

    job = read_model(JobConfig, said, context={"ds": "2026-11-21"})

    assert job.model_dump() == {"env": {"DAY": "2026-11-21"}, "command": ["run", "2026-11-21"]}


def test_what_was_rendered_before_is_not_rendered_again() -> None:
    job = read_model(JobConfig, "command: 'echo {{ x }}'", is_rendered=True)

    assert job.command == "echo {{ x }}"


TEXT = """\
{# a comment
   of two lines #}
modules:
{% for each in ["a", "b"] %}
  - {{ each }}
{% endfor %}
{%- if true %}

venv: {name: "{{ word }}", path: "{{ long }}/x", pth: 1}
{% endif %}
"""


@pytest.mark.parametrize(
    ("wanted", "mark"),
    [("- b", Mark(5, 3)), ("pth", Mark(9, 35)), ("venv", Mark(9, 1)), ("modules", Mark(3, 1))],
)
def test_a_place_is_traced_to_the_line_that_was_written(wanted: str, mark: Mark) -> None:
    rendered = render_text(TEXT, {"word": "x", "long": "/users"}, name="x")
    before = rendered.text[: rendered.text.index(wanted)]
    place = Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))

    found = rendered.trace(place)

    assert found.line == mark.line
    # Behind a template the column is that of the template.
    assert found.column == min(mark.column, 15)


def test_an_error_names_the_line_that_was_written() -> None:
    with pytest.raises(ConfigError) as caught:
        read_model(Configs, TEXT, context={"word": "x", "long": "/users"}, name="job.yaml")

    assert caught.value.message == (
        "job.yaml:9:15: venv.pth: there is no key 'pth'. Did you mean 'path'?"
    )


def test_a_template_that_reads_its_own_text_has_its_lines_as_rendered() -> None:
    text = "{% set block %}a\nb\n{% endset %}env: {X: {{ block | length }}}\nzzz: 1"

    with pytest.raises(ConfigError, match=":2:1: zzz:"):
        read_model(JobConfig, text)


def test_a_template_that_makes_more_lines_each_time_has_its_lines_as_rendered() -> None:
    text = "{% set b %}\n\n{% endset %}{{ b }}{{ b }}{{ b ~ '' }}# {{ b | length }}\nzzz: 1"

    with pytest.raises(ConfigError, match=":8:1: zzz:"):
        read_model(JobConfig, text)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: {{ x }}", 2, "'x' is undefined. Hand it in with context="),
        ("a: 1\nb: {{ params.x }}", 2, "has no attribute 'x'"),
        ("a: 1\n\nb: {% if %}", 3, "Expected an expression"),
        ("a: {{ 1 / 0 }}", 1, "division by zero"),
        ("a: {{ ''.__class__.__mro__ }}", 1, "unsafe"),
        ("a: {{ range(10 ** 9) }}", 1, "Range too big"),
        ("{% for i in range(99999) %}{{ 'x' * 100 }}{% endfor %}", None, "of text"),
        ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, None, "nested"),
    ],
)
def test_what_cannot_be_rendered_is_told_with_its_line(
    text: str, line: int | None, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_model(Configs, text, name="job.yaml", context={"params": {}})

    assert words in caught.value.message
    assert caught.value.line == line


def test_what_cannot_be_rendered_in_a_mapping_is_told_with_its_field() -> None:
    with pytest.raises(ConfigError, match=r"configs: modules\[0\]: .*'x' is undefined"):
        read_model(Configs, {"modules": ["{{ x }}"]})


PIECES = st.sampled_from(
    ["{{", "}}", "{%", "%}", "-%}", "{#", "#}", "if x", "for", " x ", "endif", "|", "\n", "a: "]
)


@given(st.text() | st.lists(PIECES).map("".join))
def test_no_text_makes_anything_but_a_model_or_a_config_error(text: str) -> None:
    try:
        read_model(Configs, text, context={"x": 1})
    except ConfigError as error:
        assert error.message.startswith("configs")  # noqa: PT017 - either will do


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)
FIELDS = st.sampled_from(
    ["modules", "venv", "command", "options", "env", "inputs", "resources", "x"]
)


@given(
    st.dictionaries(
        FIELDS, VALUES | st.dictionaries(st.sampled_from(["name", "path", "mem"]), VALUES)
    )
)
def test_no_mapping_makes_anything_but_a_model_or_a_config_error(said: dict[str, Any]) -> None:
    try:
        read_model(JobConfig, said)
    except ConfigError as error:
        assert error.message.startswith("configs")  # noqa: PT017 - either will do
