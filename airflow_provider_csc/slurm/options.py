"""
The options a user gives for a job, checked before anything is submitted (sbatch(1)).

``parse_options`` reads them, ``option_arguments`` writes sbatch's arguments; the caller quotes them
for the shell. What a batch script sets by itself is read in ``script_options``.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from math import inf
from pathlib import PurePath
from typing import TYPE_CHECKING

from airflow_provider_csc.notation import NotationError, shown
from airflow_provider_csc.slurm import specs, values
from airflow_provider_csc.slurm.arrays import format_array, parse_array
from airflow_provider_csc.slurm.option_names import canonical_names, config_error
from airflow_provider_csc.slurm.option_table import CONTRADICTIONS, OPTIONS, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_provider_csc.slurm.option_table import Option


def parse_options(options: Mapping[str, object]) -> dict[str, str | bool]:
    """
    Return each option's canonical text by its long name, or True for one that stands alone.

    None, False and an empty list leave an option out. Lists are joined by commas where sbatch takes
    a list. Text is kept as it is, whatever it holds but for newlines and NUL bytes.

    :raises ConfigError: names the field, the value and the remedy.
    """
    parsed: dict[str, str | bool] = {}
    for name, key in canonical_names(options).items():
        try:
            value = _parse_value(OPTIONS[name], options[key])
        except NotationError as error:
            raise config_error(key, options[key], error.problem, error.remedy) from error
        if value is not None:
            parsed[name] = value
    check_contradictions(parsed)
    _check_time_min(parsed)
    return parsed


def read_arguments(arguments: Sequence[str]) -> dict[str, str | bool]:
    """Return the parsed options from which `option_arguments` made these."""
    pairs = (argument.removeprefix("--").partition("=") for argument in arguments)
    return {name: value if equals else True for name, equals, value in pairs}


def check_contradictions(options: Mapping[str, str | bool]) -> None:
    """
    Check that no two options exclude each other, be they the user's, a script's or both.

    :raises ConfigError: names both.
    """
    for group in CONTRADICTIONS:
        given = [name for name in group if name in options]
        if len(given) > 1:
            problem = f"--{given[0]} is given as well, and sbatch takes one of {', '.join(group)}"
            raise config_error(given[1], options[given[1]], problem, "Leave one out.")


def option_arguments(options: Mapping[str, str | bool]) -> list[str]:
    """Return sbatch's arguments for parsed options, in alphabetical order, not yet quoted."""
    return [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in sorted(options.items())
    ]


def _parse_value(option: Option, value: object) -> str | bool | None:
    """Return the option's text, True when it stands alone, or None when it is left out."""
    stands_alone = option.is_value_optional or option.kind is Kind.FLAG
    word = value.strip(" ").lower() if isinstance(value, str) and stands_alone else value
    if word is None or word is False or word == "false" or word in ([], ()):
        return None
    if stands_alone and (word is True or word in ("true", "")):
        return True
    if value is True or option.kind is Kind.FLAG:
        problem = "needs a value" if value is True else f"takes no value, not {shown(value)}"
        raise NotationError(f"--{option.name} {problem}", _remedy(option))
    text = _text_of(option, value)
    if "\n" in text or "\0" in text:
        raise NotationError(f"{shown(text)} holds a newline or a NUL byte", "Write it in one line.")
    return _parse_choice(option, text) if option.choices else _READERS[option.kind](text)


def _remedy(option: Option) -> str:
    if option.kind is Kind.FLAG:
        return "Write True or False."
    if option.choices:
        return f"Write one of {', '.join(option.choices)}."
    try:
        _READERS[option.kind]("")
    except NotationError as error:
        return error.remedy
    return "Give its value as text."


_JOINED = frozenset({Kind.LIST, Kind.CHOICES, Kind.ARRAY, Kind.DEPENDENCY, Kind.GRES, Kind.GPUS})


def _text_of(option: Option, value: object) -> str:
    match value:
        case str():
            return value
        case int() | float() | PurePath() if not isinstance(value, bool):
            return str(value)
        case list() | tuple() if option.kind in _JOINED:
            return ",".join(_text_of(option, each) for each in value)
        case range() if option.kind is Kind.ARRAY:
            return format_array(parse_array(value))
        case timedelta() if option.kind in {Kind.TIME, Kind.DELAY}:
            parse = values.parse_time_limit if option.kind is Kind.TIME else values.parse_delay
            return values.format_time_limit(parse(value))
        case timedelta() | datetime() if option.kind is Kind.WHEN:
            return _moment(value)
    raise NotationError(f"{shown(value)} is a {type(value).__name__}", _remedy(option))


def _moment(value: timedelta | datetime) -> str:
    """Write a moment for sbatch: ``uts``, seconds since 1970, is the same in every time zone."""
    if isinstance(value, timedelta):
        return f"now+{max(0, round(value.total_seconds()))}"
    if value.tzinfo:
        return f"uts{int(value.timestamp())}"
    return value.isoformat(timespec="seconds")


def _parse_choice(option: Option, text: str) -> str:
    several = option.kind is Kind.CHOICES
    chosen = [each.strip().lower() for each in (text.split(",") if several else [text])]
    if not set(chosen) <= set(option.choices):
        raise NotationError(f"{shown(text)} is no choice of sbatch", _remedy(option))
    return ",".join(chosen)


def _parse_priority(text: str) -> str:
    if text.strip().upper() == "TOP":
        return "TOP"
    return str(values.parse_count(text, least=0, most=2**32 - 3))


_WHEN = re.compile(r"[0-9]|now|today|tomorrow|midnight|noon|elevenses|fika|teatime", re.IGNORECASE)


def _parse_when(text: str) -> str:
    """Return a moment as it is, for sbatch to read; only what cannot be one is refused."""
    if not _WHEN.search(text):
        remedy = "Write it as sbatch(1) shows, for example '2030-01-20T12:34:00' or 'now+1hour'."
        raise NotationError(f"{shown(text)} is not a time of day or date", remedy)
    return text.strip()


_READERS: dict[Kind, Callable[[str], str]] = {
    Kind.TEXT: str,
    Kind.LIST: str,
    Kind.WHEN: _parse_when,
    Kind.COUNT: lambda text: str(values.parse_count(text)),
    Kind.NUMBER: lambda text: str(values.parse_count(text, least=0)),
    Kind.INTEGER: lambda text: str(values.parse_integer(text)),
    Kind.PRIORITY: _parse_priority,
    Kind.TIME: lambda text: values.format_time_limit(values.parse_time_limit(text)),
    Kind.DELAY: lambda text: values.format_time_limit(values.parse_delay(text)),
    Kind.MEMORY: lambda text: values.format_memory(values.parse_memory(text)),
    Kind.ARRAY: lambda text: format_array(parse_array(text)),
    Kind.DEPENDENCY: specs.parse_dependency,
    Kind.NODES: specs.parse_nodes,
    Kind.GRES: specs.parse_gres,
    Kind.GPUS: specs.parse_gpus,
    Kind.SIGNAL: specs.parse_signal,
    Kind.SWITCHES: specs.parse_switches,
}


def _check_time_min(parsed: Mapping[str, str | bool]) -> None:
    limit, least = (str(parsed.get(name, "UNLIMITED")) for name in ("time", "time-min"))
    limit_seconds, least_seconds = map(values.parse_time_limit, (limit, least))
    if "time-min" in parsed and limit_seconds and (least_seconds or inf) > limit_seconds:
        problem = f"{least!r} is longer than the time limit, {limit!r}"
        raise config_error("time-min", least, problem, "Give at most the time limit.")
