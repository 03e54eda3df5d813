"""The schema by which editors check profiles."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from airflow_provider_csc.sites.load import list_profiles
from airflow_provider_csc.sites.schema import build_schema, read_shipped_schema, render_schema
from airflow_provider_csc.yaml_text import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = build_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def problems(validator: Draft202012Validator, text: str) -> list[str]:
    errors: Iterator[Any] = validator.iter_errors(parse_yaml(text, is_exact=False).value)
    return [error.message for error in errors]


def test_the_shipped_schema_is_that_of_the_model() -> None:
    """Write it anew with: python -m airflow_provider_csc sites schema"""
    assert read_shipped_schema() == render_schema()


@pytest.mark.parametrize("name", list_profiles())
def test_the_shipped_profiles_satisfy_it(name: str, validator: Draft202012Validator) -> None:
    path = files("airflow_provider_csc.sites") / "profiles" / f"{name}.yaml"
    assert problems(validator, path.read_text("utf-8")) == []


def test_a_file_may_say_little_and_take_away(validator: Draft202012Validator) -> None:
    text = """
    extends: lumi
    web_interface: null
    partitions: {small: {max_time: 12:00:00, max_submitted: null}, q_fiqci: null}
    """
    assert problems(validator, text) == []


@pytest.mark.parametrize(
    "text",
    [
        "titel: Mine",
        "extends: [lumi]",
        "partitions: {small: {max_tim: 1}}",
        "architecture: arm",
        "log_in: {port: 99999}",
        "log_in: {host_key_fingerprints: ['MD5:aa']}",
    ],
)
def test_a_mistake_is_found(text: str, validator: Draft202012Validator) -> None:
    assert len(problems(validator, text)) == 1
