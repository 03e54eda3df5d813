"""The table of a run: on the terminal, as JSON, and on the page docs/reliability.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNTS = ("duplicates", "lost jobs", "false successes", "false failures", "orphans")
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"
HEAD = ("scenario", "submissions", "faults", *COUNTS, "s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    What one scenario came to.

    ``findings`` are the words behind each count, ``notes`` say what no count does.
    """

    scenario: str
    submissions: int
    faults: int
    tasks: int
    seconds: float
    findings: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def cells(self) -> list[str]:
        counts = [str(len(self.findings.get(name, ()))) for name in COUNTS]
        return [
            self.scenario,
            str(self.submissions),
            str(self.faults),
            *counts,
            f"{self.seconds:.0f}",
        ]

    @classmethod
    def broken(cls, scenario: str, why: str) -> Row:
        """A scenario that could not be played to its end proves nothing."""
        return cls(
            scenario=scenario,
            submissions=0,
            faults=0,
            tasks=0,
            seconds=0,
            findings={"lost jobs": [f"the scenario itself broke: {why}"]},
        )

    @property
    def all_findings(self) -> list[str]:
        return [f"{name}: {each}" for name, found in self.findings.items() for each in found]

    @property
    def is_clean(self) -> bool:
        return not any(self.findings.values())


def total(rows: Sequence[Row]) -> Row:
    """Add rows up."""
    return Row(
        scenario="all",
        submissions=sum(row.submissions for row in rows),
        faults=sum(row.faults for row in rows),
        tasks=sum(row.tasks for row in rows),
        seconds=sum(row.seconds for row in rows),
        findings={
            name: [finding for row in rows for finding in row.findings.get(name, ())]
            for name in COUNTS
        },
    )


def render_line(cells: Sequence[str]) -> str:
    """Return one line of the table as it grows on the terminal."""
    widths = [len(name) for name in HEAD[1:]]
    numbers = (f"{cell:>{max(width, 5)}}" for cell, width in zip(cells[1:], widths, strict=True))
    return f"{cells[0]:22}" + "  ".join(numbers)


def render_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table, columns aligned for the terminal."""
    lines = [list(HEAD), *(row.cells for row in rows)]
    if len(rows) > 1:
        lines.append(total(rows).cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]

    def render(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = (
        "|"
        + "|".join(
            "-" * (width + 2) if not column else "-" * (width + 1) + ":"
            for column, width in enumerate(widths)
        )
        + "|"
    )
    return "\n".join([render(lines[0]), rule, *(render(line) for line in lines[1:])])


def render_figures(rows: Sequence[Row]) -> str:
    """Return the one line that counts."""
    sums = total(rows)
    counts = ", ".join(f"{len(sums.findings[name])} {name}" for name in COUNTS[:-1])
    return (
        f"{sums.submissions} submissions, {sums.faults} faults injected: {counts}, "
        f"{len(sums.findings['orphans'])} orphans after kill"
    )


def write(directory: Path, rows: Sequence[Row], conditions: dict[str, Any]) -> None:
    """Write results.json and table.md."""
    directory.mkdir(parents=True, exist_ok=True)
    results = {"conditions": conditions, "rows": [asdict(row) for row in rows]}
    (directory / "results.json").write_text(json.dumps(results, indent=1))
    said = ", ".join(f"{name} {value}" for name, value in conditions.items())
    notes = "".join(f"\n`{row.scenario}`: {note}\n" for row in rows for note in row.notes)
    text = f"{render_figures(rows)}.\n\nConditions: {said}.\n\n{render_table(rows)}\n{notes}"
    (directory / "table.md").write_text(text)


def update_page(table: Path, page: Path = PAGE) -> None:
    """Put the table of the last run onto the page."""
    text = page.read_text()
    before, _, rest = text.partition(_BEGIN)
    _old, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{table.read_text()}{_END}{after}")
