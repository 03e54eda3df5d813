"""
Ask a site what a project may still use, and how full its disk areas are.

The programs are CSC's ``csc-projects`` and ``csc-workspaces`` (user guide, computing/index.md and
computing/disk.md) and LUMI's ``lumi-allocations``. They print for people: Perl may complain of the
locale before, colours may be in between, and a project's title may hold anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.errors import UnreadableOutputError
from airflow_provider_csc.notation import shown
from airflow_provider_csc.sites.model import BalanceCommand, WorkspaceCommand
from airflow_provider_csc.slurm.framing import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_csc.slurm.framing import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """One kind of units that a project may use; None is what the site does not say."""

    unit: str
    budget: float | None
    used: float | None
    remaining: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What a project may still use. ``updated`` is when the site says it counted, in its words."""

    project: str
    purses: tuple[Purse, ...]
    updated: str | None = None

    def find(self, unit: str) -> Purse | None:
        """Return the purse of a unit, as `Billing.unit` names it."""
        return next((each for each in self.purses if each.unit == unit), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """One disk area; None is what the site does not say, or does not limit."""

    path: str
    project: str | None
    used_bytes: int | None
    quota_bytes: int | None
    used_files: int | None
    quota_files: int | None
    purge_days: int | None


def build_ask_balance(command: BalanceCommand, project: str, *, seconds: int | None = None) -> str:
    """Ask what a project may still use, for so many seconds at the most."""
    return f"ask balance {_limit(seconds)}env LC_ALL=C {command.value} -p {quote(project)}\n"


def build_ask_workspaces(
    command: WorkspaceCommand = WorkspaceCommand.CSC_WORKSPACES, *, seconds: int | None = None
) -> str:
    """Ask how full the user's disk areas are, for so many seconds at the most."""
    return f"ask workspaces {_limit(seconds)}env LC_ALL=C {command.value}\n"


def _limit(seconds: int | None) -> str:
    return f"timeout {seconds} " if seconds else ""


def read_balance(frame: Frame, command: BalanceCommand, project: str) -> Balance:
    """
    Return what a project may still use.

    :raises UnreadableOutputError: when the program failed, printed something else, or says nothing
        of that project.
    """
    if frame.status != 0:
        raise _unreadable(command.value, f"it ended with status {frame.status}: {frame.complaint}")
    found = _PARSERS[command](frame.text)
    known = next((each for each in found if each.project == project), None)
    if known is None:
        raise _unreadable(command.value, f"it says nothing of {project!r}")
    return known


def read_workspaces(frame: Frame) -> list[Workspace]:
    """
    Return how full the user's disk areas are, as ``csc-workspaces`` says.

    :raises UnreadableOutputError: when the program failed, or printed something else.
    """
    command = WorkspaceCommand.CSC_WORKSPACES.value
    if frame.status != 0:
        raise _unreadable(command, f"it ended with status {frame.status}: {frame.complaint}")
    return parse_csc_workspaces(frame.text)


_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in _ESCAPE.sub("", text).split("\n")]


_PROJECT = re.compile(r"Project:\s+(?P<name>[A-Za-z0-9][\w.-]*)(\s|$)")
_AMOUNT = r"-?[0-9]{1,18}(?:\.[0-9]{1,6})?|N/A|n/a|-"
_PURSE = re.compile(
    rf"(?P<unit>[A-Za-z]+ BU):\s+(?P<budget>{_AMOUNT})\s+(?P<used>{_AMOUNT})"
    rf"\s+(?P<remaining>{_AMOUNT})"
)
_UPDATED = re.compile(r"(?:Project info|Data) updated:\s+(?P<when>[0-9][0-9 :.T-]*)")


def parse_csc_projects(text: str) -> list[Balance]:
    """
    Read what ``csc-projects`` prints.

    :raises UnreadableOutputError: for anything else.
    """
    parts: list[tuple[str, list[str]]] = []
    for line in _without_titles(_lines(text)):
        if match := _PROJECT.match(line):
            parts.append((match["name"], []))
        elif parts:
            parts[-1][1].append(line)
    if not parts:
        raise _unreadable("csc-projects", _describe(text))
    return [_parse_project(name, lines) for name, lines in parts]


def _parse_project(name: str, lines: list[str]) -> Balance:
    purses = tuple(
        Purse(
            unit=match["unit"],
            budget=_amount(match["budget"]),
            used=_amount(match["used"]),
            remaining=_amount(match["remaining"]),
        )
        for match in map(_PURSE.fullmatch, lines)
        if match
    )
    if not purses:
        raise _unreadable("csc-projects", f"it says nothing of the budget of {name!r}")
    updated = next((match["when"].strip() for match in map(_UPDATED.match, lines) if match), None)
    return Balance(project=name, purses=purses, updated=updated)


def _without_titles(lines: list[str]) -> Iterator[str]:
    """Yield the lines that no person wrote; a title, of any text, ends where ``Start:`` stands."""
    is_title = False
    for line in lines:
        is_title = line.startswith("Title:") or (is_title and not line.startswith("Start:"))
        if not is_title:
            yield line


def _amount(text: str) -> float | None:
    return float(text) if text[-1].isdecimal() else None


_ALLOCATION = re.compile(
    rf"(?P<used>{_AMOUNT})/(?P<budget>{_AMOUNT})\s+\(\s*[^()]*\)\s+(?P<what>core|gpu|TB)/hours",
    re.IGNORECASE,
)
_UNITS = {"core": "core-hours", "gpu": "GPU-hours", "tb": "TB-hours"}
_ROW = re.compile(r"(?P<project>[A-Za-z0-9][\w.-]*)\s*\|(?P<cells>.*)")


def parse_lumi_allocations(text: str) -> list[Balance]:
    """
    Read what ``lumi-allocations`` prints; what remains is what was allocated less what was used.

    :raises UnreadableOutputError: for anything else.
    """
    found: list[Balance] = []
    updated = None
    for line in _lines(text):
        if match := _UPDATED.match(line):
            updated = match["when"].strip()
        row = _ROW.fullmatch(line)
        if row and row["project"] != "Project":
            purses = tuple(map(_parse_allocation, row["cells"].split("|")))
            found.append(Balance(project=row["project"], purses=purses, updated=updated))
    if not found:
        raise _unreadable("lumi-allocations", _describe(text))
    return found


def _parse_allocation(cell: str) -> Purse:
    match = _ALLOCATION.fullmatch(cell.strip())
    if not match:
        raise _unreadable("lumi-allocations", f"{shown(cell.strip())} is no allocation")
    used, budget = _amount(match["used"]), _amount(match["budget"])
    return Purse(
        unit=_UNITS[match["what"].lower()],
        budget=budget,
        used=used,
        remaining=None if used is None or budget is None else budget - used,
    )


_PARSERS: dict[BalanceCommand, Callable[[str], list[Balance]]] = {
    BalanceCommand.CSC_PROJECTS: parse_csc_projects,
    BalanceCommand.LUMI_ALLOCATIONS: parse_lumi_allocations,
}

_QUANTITY = r"[0-9]{1,15}(?:\.[0-9]{1,6})?(?:[kKMGTP]i?B?|B)?|n/a|N/A|-"
_AREA = re.compile(
    rf"(?P<path>/\S+)\s+(?P<used>{_QUANTITY})/(?P<quota>{_QUANTITY})"
    rf"\s+(?P<files>{_QUANTITY})/(?P<most>{_QUANTITY})(?:\s+(?P<purge>[0-9]{{1,5}}d|n/a|N/A|-))?"
)


def parse_csc_workspaces(text: str) -> list[Workspace]:
    """
    Read what ``csc-workspaces`` prints: sizes count by 1024, files by 1000.

    :raises UnreadableOutputError: for anything else.
    """
    found: list[Workspace] = []
    project = None
    for line in _lines(text):
        if match := _PROJECT.match(line):
            project = match["name"]
        elif match := _AREA.fullmatch(line):
            purge = match["purge"] or ""
            used_bytes, quota_bytes = _quantities(match["used"], match["quota"], base=1024)
            used_files, quota_files = _quantities(match["files"], match["most"], base=1000)
            found.append(
                Workspace(
                    path=match["path"],
                    project=project,
                    used_bytes=used_bytes,
                    quota_bytes=quota_bytes,
                    used_files=used_files,
                    quota_files=quota_files,
                    purge_days=int(purge[:-1]) if purge.endswith("d") else None,
                )
            )
    if not found:
        raise _unreadable("csc-workspaces", _describe(text))
    return found


_PREFIX = re.compile(r"(?P<number>[0-9.]+)(?P<prefix>[KMGTP]?)i?B?", re.IGNORECASE)


def _quantities(used: str, quota: str, *, base: int) -> tuple[int | None, int | None]:
    """Read ``4.4G`` of ``15G``, or ``7.2`` of ``10TB``, where the first has the second's unit."""
    first, second = _PREFIX.fullmatch(used), _PREFIX.fullmatch(quota)
    shared = second["prefix"] if second else ""
    has_unit = first is not None and not used[-1].isdecimal()
    return (
        _scale(first["number"], first["prefix"] if has_unit else shared, base) if first else None,
        _scale(second["number"], shared, base) if second else None,
    )


def _scale(number: str, prefix: str, base: int) -> int:
    return round(float(number) * float(base) ** " KMGTP".index(prefix.upper() or " "))


def _describe(text: str) -> str:
    lines = [line for line in _lines(text) if line]
    return f"it printed {shown(lines[-1])}" if lines else "it printed nothing"


def _unreadable(command: str, problem: str) -> UnreadableOutputError:
    return UnreadableOutputError(
        f"What {command} prints is not as it is documented: {problem}. Look at it on the log-in "
        "node; until it can be read, what it tells is not known.",
        command=command,
    )
