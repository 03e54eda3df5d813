from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from airflow_provider_csc.allas import endpoints
from airflow_provider_csc.allas.connection import ADDRESSING_STYLES, FORM_FIELDS
from airflow_provider_csc.get_provider_info import ALLAS_CONNECTION


@pytest.mark.parametrize("endpoint", endpoints.PRESETS.values(), ids=lambda e: e.name)
def test_a_preset_is_a_bare_https_url(endpoint: endpoints.Endpoint) -> None:
    parts = urlsplit(endpoint.url)
    assert (parts.scheme, parts.path, parts.query) == ("https", "", "")
    assert parts.hostname


def test_presets_are_what_csc_documents() -> None:
    assert {name: e.url for name, e in endpoints.PRESETS.items()} == {
        "allas": "https://a3s.fi",
        "lumi-o": "https://lumidata.eu",
    }


def test_the_largest_object_in_parts_needs_parts_larger_than_the_least() -> None:
    assert endpoints.MAX_PARTS * endpoints.MIN_PART_BYTES < (
        endpoints.RECOMMENDED_MAX_OBJECT_BYTES
    ), "with the least part size an object within CSC's advice may not fit"
    assert endpoints.MAX_PARTS * endpoints.MAX_SINGLE_PUT_BYTES > (
        endpoints.RECOMMENDED_MAX_OBJECT_BYTES
    )


def test_the_form_offers_exactly_what_the_code_understands() -> None:
    form = ALLAS_CONNECTION["conn-fields"]
    assert tuple(sorted(form)) == tuple(sorted(FORM_FIELDS))
    assert form["endpoint"]["schema"]["enum"] == [*endpoints.PRESETS, endpoints.CUSTOM]
    assert tuple(form["addressing_style"]["schema"]["enum"]) == ADDRESSING_STYLES
