"""Tables on the terminal, and the generated parts of docs/performance.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.conditions import describe_noise
from benchmarks.figures import HEADLINE_HEAD, Table
from benchmarks.running import RESULTS, Results, path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.figures import Part

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_SAID = ("date", "processor", "cores", "memory_gb", "kernel", "load_before", "Slurm", "Airflow")
_SAID_TOO = ("SSH provider", "asyncssh", "Python", "OpenSSH", "seed", "interval", "commit")


def render_table(table: Table) -> str:
    """Return a Markdown table, with columns that are aligned on the terminal too."""
    lines = [[str(cell) for cell in line] for line in (table.head, *table.lines)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]

    def render(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([render(lines[0]), rule, *(render(line) for line in lines[1:])])


def render_conditions(results: Results) -> str:
    """Return one sentence: the machine, the versions, the noise."""
    known = results.conditions
    said = ", ".join(f"{name} {_value(known.get(name))}" for name in (*_SAID, *_SAID_TOO))
    rows = [row.noise for row in results.rows]
    return f"Conditions: {said}. Noise: {describe_noise(rows)}."


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(f"{each:.1f}" for each in value)
    return str(value)


def render_part(part: Part, results: Results) -> str:
    """Return what stands on the page of one part."""
    lines = [render_conditions(results), "", render_table(part.table(results.measured))]
    notes = dict.fromkeys(note for row in results.rows for note in row.notes)
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    for name in part.plots(results.measured):
        lines += ["", f"![{name}](../benchmarks/results/{name}.svg)"]
    return "\n".join(lines)


def render_summary(parts: Iterable[Part], results: dict[str, Results]) -> str:
    """Return the one table of all parts: ours beside the others, and the targets."""
    lines = [
        headline.cells
        for part in parts
        if part.name in results
        for headline in part.headlines(results[part.name].measured)
    ]
    return render_table(Table(HEADLINE_HEAD, lines))


def read_results(parts: Iterable[Part], *, is_trial: bool) -> dict[str, Results]:
    """Return the stored results of the parts that were measured."""
    found = {part.name: Results.read(path_of(part.name, is_trial=is_trial)) for part in parts}
    return {name: results for name, results in found.items() if results}


def update_page(parts: Sequence[Part]) -> None:
    """Write the measured parts onto the page, and their plots beside their results."""
    results = read_results(parts, is_trial=False)
    text = PAGE.read_text()
    for part in parts:
        if part.name in results and results[part.name].is_complete:
            text = replace_block(text, part.name, render_part(part, results[part.name]))
            for name, drawing in part.plots(results[part.name].measured).items():
                (RESULTS / f"{name}.svg").write_text(drawing)
    whole = {name: found for name, found in results.items() if found.is_complete}
    if whole:
        text = replace_block(text, "summary", render_summary(parts, whole))
    PAGE.write_text(text)


def replace_block(text: str, name: str, block: str) -> str:
    """Put a block between its marks."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        raise ValueError(f"the page has no marks {begin} and {end}")
    before, _, rest = text.partition(begin)
    _old, _, after = rest.partition(end)
    return f"{before}{begin}\n{block}\n{end}{after}"
