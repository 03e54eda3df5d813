"""
The fields of a site profile, as docs/sites.md shows them; a test holds the page to it.

``python -m tests.support.site_fields`` writes them into the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_csc.sites.model import SiteProfile

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "sites.md"
_PLACE = re.compile(r"(?<=<!-- fields -->\n).*?(?=<!-- /fields -->)", re.DOTALL)


def render_fields() -> str:
    """Return the table."""
    rows = ["| field | written as | meaning |", "|---|---|---|"]
    schema = SiteProfile.model_json_schema(mode="validation")
    rows += [f"| `{name}` | {kind} | {text} |" for name, kind, text in _walk(schema, schema, "")]
    return "\n".join(rows) + "\n"


def _walk(
    schema: dict[str, Any], about: dict[str, Any], prefix: str
) -> Iterator[tuple[str, str, str]]:
    required = about.get("required", [])
    for name, field in about["properties"].items():
        kinds = [_resolve(schema, each) for each in field.get("anyOf", [field])]
        (kind,) = [each for each in kinds if each.get("type") != "null"]
        # Where a field says what its model does, the schema says it once.
        text = field.get("description", kind.get("description", "")).rstrip(".")
        must = " Compulsory." if name in required and name != "name" else ""
        yield f"{prefix}{name}", _word(schema, kind), f"{text}.{_default(field)}{must}"
        inner, below = _inside(schema, kind, f"{prefix}{name}")
        if inner:
            yield from _walk(schema, inner, below)


def _resolve(schema: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    reference = about.get("$ref") or next(
        (each["$ref"] for each in about.get("allOf", []) if "$ref" in each), None
    )
    return schema["$defs"][reference.rpartition("/")[2]] if reference else about


def _values(kind: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the values of a mapping are."""
    patterns = kind.get("patternProperties")
    found = next(iter(patterns.values())) if patterns else kind.get("additionalProperties")
    return found if isinstance(found, dict) else None


def _inside(
    schema: dict[str, Any], kind: dict[str, Any], name: str
) -> tuple[dict[str, Any] | None, str]:
    """Return the model that a field holds, and how its fields are reached."""
    inner, below = kind, f"{name}."
    if values := _values(kind):
        inner, below = _resolve(schema, values), f"{name}.NAME."
    elif "items" in kind:
        inner, below = _resolve(schema, kind["items"]), f"{name}[]."
    return (inner, below) if "properties" in inner else (None, "")


def _word(schema: dict[str, Any], kind: dict[str, Any]) -> str:
    if "enum" in kind:
        return ", ".join(f"`{each}`" for each in kind["enum"])
    if "examples" in kind:
        return "as " + " or ".join(f"`{each}`" for each in kind["examples"])
    if "items" in kind:
        return "list"
    if "properties" in kind or _values(kind):
        return "mapping"
    words = {"string": "text", "integer": "number", "boolean": "`true`, `false`"}
    word = "date" if kind.get("format") == "date" else kind["type"]
    return words.get(word, word)


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value in (None, "", [], {}) or isinstance(value, dict):
        return ""
    return f" Default: `{str(value).lower() if isinstance(value, bool) else value}`."


def main() -> None:
    PAGE.write_text(_PLACE.sub(lambda _: render_fields(), PAGE.read_text()))


def shown_fields() -> str:
    """Return the table as the page has it."""
    found = _PLACE.search(PAGE.read_text())
    return found.group() if found else ""


if __name__ == "__main__":
    main()
