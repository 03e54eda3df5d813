"""Fields of a profile that are written in Slurm's notation, or become part of a job."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from airflow_provider_csc.errors import ConfigError
from airflow_provider_csc.slurm.batch import parse_environment
from airflow_provider_csc.slurm.options import parse_options
from airflow_provider_csc.slurm.values import (
    format_memory,
    format_time_limit,
    parse_memory,
    parse_time_limit,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def _check_options(options: dict[str, str]) -> dict[str, str]:
    with _as_value_error():
        parse_options(options)
    return options


def _check_env(env: dict[str, str]) -> dict[str, str]:
    with _as_value_error():
        parse_environment(env=env, modules=None, path=None)
    return env


def _check_module_path(path: str) -> str:
    if len(path.split()) != 1:
        raise ValueError("write one directory, without spaces")
    with _as_value_error():
        parse_environment(env=None, modules=[f"use {path}"], path=None)
    return path


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Raise what a task's own checks say as pydantic wants it."""
    try:
        yield
    except ConfigError as error:
        raise ValueError(error.message) from error


Options = Annotated[dict[str, str], AfterValidator(_check_options)]
"""Options of sbatch by their long names, checked as those of a task are."""

Environment = Annotated[dict[str, str], AfterValidator(_check_env)]
"""Variables of a job, checked as those of a task are."""

ModulePath = Annotated[str, AfterValidator(_check_module_path)]
"""A directory of module files."""
