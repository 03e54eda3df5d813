from __future__ import annotations

import pytest

from airflow_provider_csc.allas.faults import REMEDIES, explain


@pytest.mark.parametrize("code", REMEDIES)
def test_a_known_code_is_named_and_explained(code: str) -> None:
    text = explain(code, "the server's words", 403)
    assert text.startswith(f"{code}: ")
    assert text.endswith(".")


NOT_S3 = "which is no answer of an S3 service. Check the endpoint URL."


@pytest.mark.parametrize(
    ("code", "message", "status", "text"),
    [
        ("InternalError", "try again", 500, "InternalError: try again"),
        ("InternalError", "", 500, "InternalError"),
        ("404", "Not Found", 404, f"HTTP status 404: Not Found, {NOT_S3}"),
        ("502", "502", 502, f"HTTP status 502, {NOT_S3}"),
        ("", "", 404, f"HTTP status 404, {NOT_S3}"),
    ],
)
def test_an_unknown_code_comes_with_the_servers_own_words(
    code: str, message: str, status: int, text: str
) -> None:
    assert explain(code, message, status) == text
