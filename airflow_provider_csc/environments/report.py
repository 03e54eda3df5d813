"""What a build wrote down of itself: the evidence that an environment is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_csc.environments.layout import MARK

_LATEST = 2**37  # seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """
    An environment that is complete.

    ``files`` counts what it takes of a quota of files, directories among them; ``seconds`` is how
    long the build took, ``built`` when it ended (seconds since 1970, the node's clock).
    """

    content_hash: str
    job_id: str
    architecture: str
    python: str
    files: int
    bytes: int
    seconds: int
    built: int
    recipe: Mapping[str, Any]


def parse_record(data: bytes | str) -> Record | None:
    """Read a record; None for what is not one whole record as a build writes it."""
    try:
        told = json.loads(data)
        record = Record(
            content_hash=_text(told["hash"]),
            job_id=_text(told["job_id"]),
            architecture=_text(told["architecture"]),
            python=_text(told["python"]),
            files=_number(told["files"]),
            bytes=_number(told["bytes"]),
            seconds=_number(told["seconds"]),
            built=_number(told["built"]),
            recipe=told["recipe"],
        )
        is_ours = told["made_by"] == MARK and isinstance(record.recipe, Mapping)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if is_ours and record.built < _LATEST else None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value
