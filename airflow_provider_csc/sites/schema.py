"""The JSON schema of a profile's file, by which editors check one while it is written."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

FILE = "site-profile.schema.json"
"""The name of the schema as it is shipped, beside this module."""


def build_schema() -> dict[str, Any]:
    """
    Return the schema of a file.

    A file may say less than a whole profile does: what it extends may say the rest, and null takes
    something away.
    """
    from airflow_provider_csc.sites.model import SiteProfile  # noqa: PLC0415 - needs pydantic

    schema = SiteProfile.model_json_schema(mode="validation")
    for each in (schema, *schema["$defs"].values()):
        _let_fields_be_left_out(each)
    extends = {"type": "string", "description": "Name of a profile, to which this is added."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Site profile of airflow-provider-csc",
        "properties": {"extends": extends, **schema["properties"]},
    }


def _let_fields_be_left_out(schema: dict[str, Any]) -> None:
    if "properties" not in schema:
        return
    schema.pop("required", None)
    schema["properties"] = {name: _or_null(about) for name, about in schema["properties"].items()}


def _or_null(about: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of a field, without what only repeats its name, and with null."""
    kind = {key: value for key, value in about.items() if key not in ("title", "default")}
    told = {"description": kind.pop("description")} if "description" in kind else {}
    for values in ("additionalProperties", "patternProperties"):
        if isinstance(kind.get(values), dict):
            kind[values] = _values_or_null(kind[values], values)
    kinds = kind.get("anyOf", [kind])
    return {**told, "anyOf": kinds if _NULL in kinds else [*kinds, _NULL]}


def _values_or_null(about: dict[str, Any], keyword: str) -> dict[str, Any]:
    if keyword == "patternProperties":
        return {pattern: {"anyOf": [each, _NULL]} for pattern, each in about.items()}
    return {"anyOf": [about, _NULL]}


_NULL = {"type": "null"}


def render_schema() -> str:
    """Return the schema as text."""
    return json.dumps(build_schema(), indent=2, ensure_ascii=False) + "\n"


def read_shipped_schema() -> str:
    """Return the text of the schema that is part of this package."""
    return (files("airflow_provider_csc.sites") / FILE).read_text("utf-8")
