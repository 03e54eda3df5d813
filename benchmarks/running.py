"""Run the cases of a part one after the other; every row is on disk as soon as it is measured."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.conditions import conditions, noise
from benchmarks.figures import Case, Measured, Part, Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.site import Site

RESULTS = Path(__file__).parent / "results"
TRIALS = Path(__file__).parents[1] / "build" / "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured; `trial` is for seeing that it works, and gives no figures."""

    is_trial: bool = False
    seed: int = 0
    # Seconds between two questions, the same for all who ask.
    interval: float = 10.0
    windows: int = 3
    window_intervals: int = 4
    repeats: int = 3

    @classmethod
    def for_trial(cls, seed: int) -> Settings:
        """Return what takes little time."""
        return cls(is_trial=True, seed=seed, interval=3.0, windows=2, window_intervals=2, repeats=2)

    def pick(self, full: Any, trial: Any) -> Any:
        """Return one of two sizes."""
        return trial if self.is_trial else full


@dataclass(frozen=True, slots=True)
class Bench:
    """What cases are made from."""

    settings: Settings
    site: Site | None

    @property
    def cluster(self) -> Site:
        """Return the cluster, where the part asked for one."""
        assert self.site is not None
        return self.site


@dataclass(slots=True)
class Results:
    """The rows of one part, in a file."""

    part: str
    conditions: dict[str, Any]
    rows: list[Row]
    is_complete: bool = False

    @property
    def measured(self) -> list[Row]:
        """Return the rows that have figures."""
        return [row for row in self.rows if row.figures]

    @classmethod
    def read(cls, path: Path) -> Results | None:
        """Read a file; None where there is none."""
        if not path.exists():
            return None
        stored = json.loads(path.read_text())
        rows = [Row.from_json(row) for row in stored["rows"]]
        return cls(stored["part"], stored["conditions"], rows, stored["is_complete"])

    def write(self, path: Path) -> None:
        """Write the file as a whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = {
            "part": self.part,
            "is_complete": self.is_complete,
            "conditions": self.conditions,
            "rows": [row.to_json() for row in self.rows],
        }
        new = path.with_suffix(".new")
        new.write_text(json.dumps(stored, indent=1) + "\n")
        new.rename(path)


def path_of(part: str, *, is_trial: bool) -> Path:
    """Return where a part's results are."""
    return (TRIALS if is_trial else RESULTS) / f"{part}.json"


def run_part(part: Part, bench: Bench, *, resume: bool) -> Results:
    """Measure what is not there yet."""
    path = path_of(part.name, is_trial=bench.settings.is_trial)
    facts = bench.site.facts if bench.site else None
    results = Results(part.name, conditions(asdict(bench.settings), facts), [])
    if resume and (before := Results.read(path)) and _same(before, results):
        results = before
        results.rows = [row for row in before.rows if not row.is_broken]
    known = {row.case for row in results.rows}
    left = [case for case in part.cases(bench) if case.name not in known]
    print(f"\n== {part.name}: {part.about} {_expectation(left, len(known))}", flush=True)
    for case in left:
        results.rows.append(measure(case))
        results.write(path)
    results.is_complete = not any(row.is_broken for row in results.rows)
    results.write(path)
    return results


def _same(before: Results, now: Results) -> bool:
    """Whether rows of before may stand beside those of now."""
    asked = Settings.__dataclass_fields__
    return all(before.conditions.get(name) == now.conditions[name] for name in asked)


def _expectation(cases: Iterable[Case], known: int) -> str:
    minutes = sum(case.seconds for case in cases) / 60
    kept = f"; {known} cases are there already" if known else ""
    return f"(about {minutes:.0f} min{kept})"


def measure(case: Case) -> Row:
    """Measure one case, with the noise before and after it."""
    print(f"   {case.name} ...", end=" ", flush=True)
    before, began = noise(), time.monotonic()
    try:
        measured = case.measure()
    except Exception as error:  # noqa: BLE001 - the others are still worth measuring
        traceback.print_exc()
        measured = Measured(notes=[f"{case.name}: not measured, it broke: {error!r}"[:500]])
        measured.is_broken = True
    seconds = time.monotonic() - began
    row = Row(
        case=case.name,
        subject=case.subject,
        n=case.n,
        figures=measured.figures,
        notes=measured.notes,
        is_broken=measured.is_broken,
        detail=measured.detail,
        noise={"before": before, "after": noise()},
        seconds=round(seconds, 1),
    )
    print(f"{seconds:.0f} s", flush=True)
    for note in row.notes:
        print(f"      {note}", flush=True)
    return row
