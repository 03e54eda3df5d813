"""Which files of a tree are meant, by patterns as in .gitignore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.notation import NotationError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def selector(include: Sequence[str] | None, exclude: Sequence[str] | None) -> Callable[[str], bool]:
    """
    Return whether a relative path is meant: one that some pattern includes and none excludes.

    Patterns are those of .gitignore (gitignore(5), "PATTERN FORMAT"): ``*.csv`` in any directory,
    ``/raw/`` only at the top, ``logs/**``; a later ``!pattern`` takes back. No ``include`` means
    everything.
    """
    included = _compile("include", include) if include is not None else None
    excluded = _compile("exclude", exclude or ())
    return lambda path: (included is None or included(path)) and not excluded(path)


def directory_excluder(exclude: Sequence[str] | None) -> Callable[[str], bool]:
    """Return whether nothing below a directory can be meant; its path ends with a slash."""
    patterns = exclude or ()
    # What is taken back may lie anywhere below.
    if any(str(each).startswith("!") for each in patterns):
        return lambda _: False
    return _compile("exclude", patterns)


def _compile(name: str, patterns: Sequence[str]) -> Callable[[str], bool]:
    from pathspec import GitIgnoreSpec  # noqa: PLC0415 - only where something is selected

    if isinstance(patterns, str) or not all(isinstance(each, str) for each in patterns):
        raise NotationError(
            f"{name}: {shown(patterns)} is no list of patterns", "For example ['*.csv', 'raw/']."
        )
    try:
        spec = GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise NotationError(
            f"{name}: {shown(patterns)} holds no pattern as in .gitignore: {error}",
            "For example ['*.csv', 'raw/'].",
        ) from None
    return spec.match_file
