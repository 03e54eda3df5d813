"""Fields of a profile that are written in Slurm's notation: times and memory sizes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from airflow_provider_csc.slurm.values import (
    format_memory,
    format_time_limit,
    parse_memory,
    parse_time_limit,
)


def _read_time(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int, timedelta)):
        raise ValueError("write a time as Slurm reads it, for example '3-00:00:00'")  # noqa: TRY004
    seconds = parse_time_limit(value)
    if seconds is None:
        raise ValueError("a limit that is none is left out")
    return seconds


def _read_memory(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("write a size as Slurm reads it, for example '744G'")  # noqa: TRY004
    return parse_memory(value)


Time = Annotated[
    int,
    BeforeValidator(_read_time),
    PlainSerializer(format_time_limit, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["3-00:00:00", "15"]}),
]
"""Seconds; in a file as sbatch's ``--time`` reads it (a bare number is minutes)."""

Memory = Annotated[
    int,
    BeforeValidator(_read_memory),
    PlainSerializer(format_memory, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["744G", "1750M"]}),
]
"""Bytes; in a file as sbatch's ``--mem`` reads it: K, M, G and T are powers of 1024."""
