"""docs/sites.md shows every field of a profile there is, as the model has it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from airflow_provider_csc.sites.load import list_profiles, load_profile
from tests.support.site_fields import PAGE, render_fields, shown_fields

if TYPE_CHECKING:
    from pathlib import Path


def test_the_page_shows_the_fields_of_the_model() -> None:
    """Write them anew with: python -m tests.support.site_fields"""
    assert shown_fields() == render_fields()


def test_every_field_says_what_it_is() -> None:
    for row in render_fields().splitlines()[2:]:
        _, name, kind, text, _ = re.split(r"(?<!\\)\|", row)
        assert kind.strip(), name
        assert text.strip(" ."), name


def test_the_page_names_every_shipped_profile() -> None:
    text = PAGE.read_text()
    assert [name for name in list_profiles() if f"`{name}`" not in text] == []


EXAMPLES = re.findall(r"```yaml\n(# (\w+\.yaml)\n.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize(("text", "name"), EXAMPLES)
def test_an_example_of_the_page_is_a_profile(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text.replace("SHA256:...", f"SHA256:{'A' * 43}"))
    assert load_profile(name.removesuffix(".yaml"), [str(tmp_path)])


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 2
