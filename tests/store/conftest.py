"""What tests of records share: a little store, and a proxy before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.little_store import LittleStore, serve_store

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def store() -> Iterator[LittleStore]:
    with serve_store() as served:
        yield served
