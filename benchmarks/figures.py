"""Figures, rows of them, and what a part of the benchmark is made of."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured some times; ``unit`` stands behind its values."""

    samples: tuple[float, ...]
    unit: str = ""

    @property
    def median(self) -> float:
        """Return the middle sample."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """Return the lowest and the highest sample."""
        return min(self.samples), max(self.samples)

    def quantile(self, share: float) -> float:
        """Return the smallest sample that at least this share of them does not exceed."""
        ordered = sorted(self.samples)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def to_json(self) -> dict[str, Any]:
        """Return the samples, and what is commonly asked of them."""
        low, high = self.spread
        return {
            "unit": self.unit,
            "median": self.median,
            "min": low,
            "max": high,
            "samples": list(self.samples),
        }


def figure(samples: float | Sequence[float], unit: str = "") -> Figure:
    """Make a figure of one value, or of several."""
    values = samples if isinstance(samples, Sequence) else [samples]
    return Figure(tuple(float(value) for value in values), unit)


def percent(share: float) -> float:
    """Return a share of one core as the percentage that `top` shows."""
    return share * 100


@dataclass(slots=True, kw_only=True)
class Row:
    """
    What one case came to.

    ``subject`` is who was measured, ``n`` with how many jobs. A row without figures was not
    measured; its notes say why.
    """

    case: str
    subject: str
    n: int | None = None
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_broken: bool = False
    detail: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        known = {name: value.to_json() for name, value in self.figures.items()}
        return {**asdict(self), "figures": known}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Row:
        """Read what `to_json` made."""
        known = {
            name: Figure(tuple(value["samples"]), value["unit"])
            for name, value in stored["figures"].items()
        }
        return cls(**{**stored, "figures": known})


def find(rows: Sequence[Row], subject: str, n: int | None = None) -> Row | None:
    """Return the row of a subject, where it was measured."""
    for row in rows:
        if (row.subject, row.n) == (subject, n):
            return row
    return None


@dataclass(frozen=True, slots=True)
class Headline:
    """One line of the table at the end: ours beside what it is held against."""

    what: str
    ours: str
    other: str
    ratio: str
    target: str = ""
    is_met: bool | None = None

    @property
    def cells(self) -> list[str]:
        """Return the line's cells; an open target is neither met nor missed."""
        verdict = {None: "", True: "yes", False: "**no**"}[self.is_met]
        return [self.what, self.ours, self.other, self.ratio, self.target, verdict]


HEADLINE_HEAD = ("what", "ours", "against", "ratio", "target", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure; its name is unique in its part. ``seconds`` is what it should take."""

    name: str
    subject: str
    measure: Callable[[], Measured]
    n: int | None = None
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Measured:
    """What measuring a case gave."""

    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    is_broken: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a part: its head, and its lines as text."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """
    One part of the benchmark.

    ``cases`` are made when it is run, ``table``, ``headlines`` and ``plots`` of its stored rows that
    have figures, so that the page can be written anew without measuring. ``plots`` are SVG texts by name.
    """

    name: str
    about: str
    cases: Callable[[Any], list[Case]]
    table: Callable[[Sequence[Row]], Table]
    headlines: Callable[[Sequence[Row]], list[Headline]] = lambda _rows: []
    plots: Callable[[Sequence[Row]], dict[str, str]] = lambda _rows: {}
    needs_site: bool = True


def short(value: float) -> str:
    """Write a number with three digits that say something."""
    if value == 0:
        return "0"
    if abs(value) >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.3g}"


def show(one: Figure | None, *, factor: float = 1.0) -> str:
    """Write the median, and in brackets from where to where the samples go."""
    if one is None:
        return "-"
    low, high = one.spread
    middle = short(one.median * factor)
    if len(one.samples) == 1 or short(low * factor) == short(high * factor):
        return middle
    return f"{middle} ({short(low * factor)}-{short(high * factor)})"


def list_figures(rows: Sequence[Row], words: Mapping[str, str]) -> list[list[str]]:
    """Return a line for each figure: what ``words`` call it, and its value."""
    return [[text, show(row.figures[name])] for row in rows for name, text in words.items()]


def ratio(other: float, ours: float) -> float | None:
    """Return how many times ours the other is; None where ours is too small to be measured."""
    return other / ours if ours > 0 else None


def show_ratio(value: float | None) -> str:
    """Write a ratio."""
    return "-" if value is None else f"{short(value)} x"
