"""Which paths patterns mean."""

from __future__ import annotations

import pytest

from airflow_provider_csc.allas.selection import selector
from airflow_provider_csc.notation import NotationError

PATHS = ["a.csv", "b.txt", "raw/c.csv", "raw/deep/d.csv", "logs/e.log", ".hidden/f.csv"]


@pytest.mark.parametrize(
    ("include", "exclude", "meant"),
    [
        (None, None, PATHS),
        (None, [], PATHS),
        ([], None, []),
        (["*.csv"], None, ["a.csv", "raw/c.csv", "raw/deep/d.csv", ".hidden/f.csv"]),
        (["/*.csv"], None, ["a.csv"]),
        (["raw/"], None, ["raw/c.csv", "raw/deep/d.csv"]),
        (["*.csv"], ["raw/"], ["a.csv", ".hidden/f.csv"]),
        (None, [".*", "*.log"], ["a.csv", "b.txt", "raw/c.csv", "raw/deep/d.csv"]),
        (["raw/*", "!raw/deep/"], None, ["raw/c.csv"]),
        (["**/d.csv"], None, ["raw/deep/d.csv"]),
    ],
)
def test_patterns_mean_what_they_do_in_gitignore(
    include: list[str] | None, exclude: list[str] | None, meant: list[str]
) -> None:
    is_meant = selector(include, exclude)
    assert [path for path in PATHS if is_meant(path)] == meant


@pytest.mark.parametrize("value", ["*.csv", [1], [None]])
def test_what_is_no_list_of_patterns_is_refused(value: object) -> None:
    for name in ("include", "exclude"):
        with pytest.raises(NotationError, match=f"{name}: .*list of patterns"):
            selector(**{"include": None, "exclude": None, name: value})  # type: ignore[arg-type]
