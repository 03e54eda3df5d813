"""The page on why jobs wait is what the code says today."""

from __future__ import annotations

import re

import pytest

from airflow_provider_csc.slurm.pending import PENDING_TEXTS, describe_start, explain_reason
from tests.support.pending_tables import EXAMPLES, PAGE, read_codes, render


def test_the_page_is_up_to_date() -> None:
    assert render() == PAGE.read_text(), "run: python -m tests.support.pending_tables"


def test_the_page_has_every_code() -> None:
    page = PAGE.read_text()
    assert all(f"| `{code}`" in page for code, *_ in read_codes())


@pytest.mark.parametrize("pattern", PENDING_TEXTS)
def test_every_text_has_an_example_on_the_page(pattern: str) -> None:
    found = [text for text in EXAMPLES if re.fullmatch(pattern, text)]
    assert found
    assert all(explain_reason(text).is_known for text in found)


def test_the_pages_story_is_what_is_said() -> None:
    page = PAGE.read_text()
    for code in ("Priority", "Resources"):
        line = f"Job 4123 is PENDING ({code}) in medium: {explain_reason(code).explain('4123')}"
        assert line in page
    assert describe_start(1795342500, 1795342500 - 7800) in page
