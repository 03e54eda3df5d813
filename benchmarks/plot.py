"""Charts as SVG, so that a page shows them and no library is needed to draw them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Point = tuple[float, float]

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 24, 44, 52
_BAR_LEFT, _BAR_HEIGHT = 140, 15
_COLOURS = ("#0b6e99", "#c2571a", "#4c7a34", "#7a4c8f", "#555555")


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis from one power of ten to another, drawn between two pixels."""

    low: int
    high: int
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> _Axis:
        known = [math.log10(value) for value in values]
        low, high = math.floor(min(known)), math.ceil(max(known))
        return cls(low, max(high, low + 1), start, end)

    def place(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def line_chart(
    title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[Point]]
) -> str:
    """Draw lines over two logarithmic axes; what is not above zero cannot be shown on them."""
    shown = {
        name: [(x, y) for x, y in sorted(points) if x > 0 and y > 0]
        for name, points in series.items()
    }
    shown = {name: points for name, points in shown.items() if points}
    everything = [point for points in shown.values() for point in points]
    if not everything:
        return ""
    across = _Axis.over((x for x, _ in everything), _LEFT, _WIDTH - _RIGHT)
    up = _Axis.over((y for _, y in everything), _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(title, x_label, y_label), *_grid(across, up)]
    for number, (name, points) in enumerate(shown.items()):
        parts += _line(name, points, across, up, number)
    return "\n".join([*parts, "</svg>\n"])


def bar_chart(title: str, label: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """Draw the values of each group as bars, each as a share of the group's highest."""
    parts: list[str] = []
    y = float(_TOP)
    for heading, values in groups.items():
        parts.append(_text(_BAR_LEFT, y + 13, "start", heading))
        y += 20
        for number, (name, value) in enumerate(values.items()):
            width = (_WIDTH - _RIGHT - _BAR_LEFT) * value / max(values.values())
            colour = _COLOURS[0] if number == 0 else _COLOURS[-1]
            parts.append(
                f'<rect x="{_BAR_LEFT}" y="{y:.1f}" width="{width:.1f}" height="{_BAR_HEIGHT}" '
                f'fill="{colour}"/>'
            )
            parts.append(_text(_BAR_LEFT - 8, y + 11, "end", name))
            parts.append(_text(_BAR_LEFT + 6, y + 11, "start", f"{value:.3g} {label}", "white"))
            y += _BAR_HEIGHT + 3
        y += 10
    return "\n".join([_page(title, y), *parts, "</svg>\n"]) if parts else ""


def _page(title: str, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{height:.0f}" fill="white"/>\n'
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>'
    )


def _frame(title: str, x_label: str, y_label: str) -> str:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return (
        f"{_page(title, _HEIGHT)}\n"
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">'
        f"{escape(x_label)}</text>\n"
        f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )


def _grid(across: _Axis, up: _Axis) -> list[str]:
    lines = []
    for tick in across.ticks:
        x = across.place(tick)
        lines.append(_rule(x, _TOP, x, _HEIGHT - _BOTTOM))
        lines.append(_text(x, _HEIGHT - _BOTTOM + 18, "middle", f"{tick:,.10g}"))
    for tick in up.ticks:
        y = up.place(tick)
        lines.append(_rule(_LEFT, y, _WIDTH - _RIGHT, y))
        lines.append(_text(_LEFT - 8, y + 4, "end", f"{tick:,.10g}"))
    return lines


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, anchor: str, text: str, colour: str = "black") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _line(name: str, points: Sequence[Point], across: _Axis, up: _Axis, number: int) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    places = [(across.place(x), up.place(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
    legend = _text(_LEFT + 10, _TOP + 16 + 17 * number, "start", name, colour)
    drawn = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    return [drawn, *dots, legend]
