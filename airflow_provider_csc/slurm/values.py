"""
Slurm's times, sizes and counts: ``parse_*`` reads them, ``format_*`` writes them.

Sources: sbatch(1) and sacct(1), Slurm 22.05 to 25.11, and their readers (src/common: parse_time.c,
proc_args.c). What Slurm refuses is refused here with a remedy. What it takes is taken, except for
numbers that it would wrap round or misread without a word.
"""

from __future__ import annotations

import re
from datetime import timedelta

from airflow_provider_csc.notation import NotationError, is_whole_number, number_text, shown

UNLIMITED = None
"""The time limit that ``UNLIMITED`` and ``INFINITE`` name; a number of seconds is any other."""

_INT_MAX = 2**31 - 1  # Slurm counts in C ints and wraps round beyond
_LARGEST_BYTES = 2**63
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}

_TIME = re.compile(
    r"(?P<days>[0-9]+)-(?:(?P<hours>[0-9]+)(?::(?P<minutes>[0-9]+)(?::(?P<seconds>[0-9]+))?)?)?"
    r"|(?P<h>[0-9]+):(?P<m>[0-9]+):(?P<s>[0-9]+)"
    r"|(?P<only_minutes>[0-9]+)(?::(?P<only_seconds>[0-9]+))?"
)
_TIME_REMEDY = (
    "Write minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED, for example "
    "'02:30:00' or '1-12:00:00'."
)


def parse_time_limit(value: str | int | timedelta) -> int | None:
    """
    Return the seconds of a time limit; a bare number is minutes, zero is UNLIMITED (sbatch(1)).

    :raises NotationError: for what Slurm does not read, and for a timedelta that is not positive.
    """
    if isinstance(value, timedelta) and value <= timedelta(0):
        raise NotationError(f"{value} is not a positive time", _TIME_REMEDY)
    return parse_delay(value) or UNLIMITED


def parse_delay(value: str | int | timedelta) -> int | None:
    """Return the seconds of a waiting time in the notation of time limits, where zero is zero."""
    seconds = _read_seconds(value)
    if seconds is not None and not 0 <= seconds <= _INT_MAX:
        problem = f"{shown(value)} is not between 0 and 68 years, the longest Slurm can count"
        raise NotationError(problem, _TIME_REMEDY)
    return seconds


def _read_seconds(value: str | int | timedelta) -> int | None:
    if isinstance(value, timedelta):
        return -(-value // timedelta(seconds=1))
    if is_whole_number(value):
        return value * 60
    text = str(value).strip()
    if text == "-1" or text.upper() in {"UNLIMITED", "INFINITE"}:
        return UNLIMITED
    match = _TIME.fullmatch(text)
    if not match:
        raise NotationError(f"{shown(value)} is not a time", _TIME_REMEDY)
    days, hours, minutes, seconds, h, m, s, only_minutes, only_seconds = (
        int(group or 0) for group in match.groups()
    )
    all_minutes = (days * 24 + hours + h) * 60 + minutes + m + only_minutes
    return all_minutes * 60 + seconds + s + only_seconds


def format_time_limit(seconds: int | None) -> str:
    """Return ``D-HH:MM:SS``, which Slurm reads in every place, or ``UNLIMITED``."""
    if seconds is None:
        return "UNLIMITED"
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}"


_DURATION = re.compile(
    r"(?:(?:(?P<days>[0-9]+)-)?(?P<hours>[0-9]+):)?(?P<minutes>[0-9]+):(?P<seconds>[0-9]+(\.[0-9]+)?)"
)


def parse_elapsed(text: str) -> float | None:
    """Return the seconds of sacct's ``[[D-]HH:]MM:SS[.mmm]``; None where sacct printed nothing."""
    text = text.strip()
    if not text:
        return None
    match = _DURATION.fullmatch(text)
    if not match:
        remedy = "sacct prints [[D-]HH:]MM:SS[.mmm], for example '1-02:03:04' or '00:01.500'."
        raise NotationError(f"{shown(text)} is not a duration", remedy)
    days, hours, minutes = (int(match[name] or 0) for name in ("days", "hours", "minutes"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(match["seconds"])


def format_elapsed(seconds: float) -> str:
    """Return whole seconds as squeue and sacct print them: ``[D-]HH:MM:SS``."""
    return format_time_limit(int(seconds)).removeprefix("0-")


_MEMORY = re.compile(r"\+?([0-9]{1,18})(?:([KMGT])B?)?", re.IGNORECASE)


def parse_memory(value: str | int) -> int:
    """
    Return the bytes of an sbatch memory size: megabytes unless a unit K, M, G or T follows.

    :raises NotationError: for anything else, also for fractions, which sbatch does not read.
    """
    match = _MEMORY.fullmatch(number_text(value))
    number, unit = match.groups(default="M") if match else ("0", "M")
    size_bytes = int(number) * _UNITS[unit.upper()]
    if not match or size_bytes >= _LARGEST_BYTES:
        remedy = "Write a whole number and K, M, G or T (or none: M), for example '1536M' or '4G'."
        raise NotationError(f"{shown(value)} is not a memory size", remedy)
    return size_bytes


def format_memory(size_bytes: int) -> str:
    """Return an sbatch memory size in the largest unit that is exact, rounded up to kilobytes."""
    for unit in "TGM":
        if size_bytes % _UNITS[unit] == 0:
            return f"{size_bytes // _UNITS[unit]}{unit}" if size_bytes else "0"
    return f"{-(-size_bytes // 1024)}K"


_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGTPE]?)[nc]?")


def parse_size(text: str) -> int | None:
    """
    Return the bytes of a size as sacct prints it; None where sacct printed nothing.

    The ``n`` or ``c`` that Slurm before 21.08 put after ReqMem (per node, per core) is passed over.
    """
    text = text.strip()
    if not text:
        return None
    match = _SIZE.fullmatch(text)
    if not match:
        remedy = "sacct prints a number and K, M, G, T, P or nothing, for example '12.50M'."
        raise NotationError(f"{shown(text)} is not a size", remedy)
    return round(float(match[1]) * _UNITS[match[2]])


def format_size(size_bytes: float) -> str:
    """Return a size for reading, to a tenth of its unit: ``512``, ``1.5G``."""
    unit = ""
    for larger in "KMGTPE":
        if size_bytes < 1024:  # noqa: PLR2004
            break
        size_bytes, unit = size_bytes / 1024, larger
    return f"{size_bytes:.1f}".removesuffix(".0") + unit


def parse_count(value: str | int, *, least: int = 1, most: int = _INT_MAX - 1) -> int:
    """Return a count as sbatch reads it: a whole number, at least ``least``."""
    text = number_text(value)
    if not re.fullmatch(r"\+?[0-9]{1,10}", text) or not least <= int(text) <= most:
        remedy = f"Write a whole number of at least {least}, for example '{max(least, 4)}'."
        raise NotationError(f"{shown(value)} is not a count", remedy)
    return int(text)


def parse_integer(value: str | int) -> int:
    """Return a whole number that may be negative, within what ``--nice`` takes (sbatch(1))."""
    text = number_text(value)
    if not re.fullmatch(r"[+-]?[0-9]{1,10}", text) or abs(int(text)) > _INT_MAX - 2:
        remedy = "Write a whole number between -2147483645 and 2147483645, for example '100'."
        raise NotationError(f"{shown(value)} is not a whole number", remedy)
    return int(text)
