"""What processes cost: processor time, memory, and how many there were."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
# struct acct_v3 of linux/acct.h, of which the ids count here.
_RECORD = struct.Struct("<BBHIIIIIIf16x16s")


def family(pid: int) -> set[int]:
    """Return a process and all its descendants; those that end meanwhile are left out."""
    found = {pid}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children = (thread / "children").read_text().split()
            found = found.union(*(family(int(child)) for child in children))
    return found


def family_seconds(pid: int) -> float:
    """
    Return the processor time (seconds) of a process and all its descendants, ended ones included.

    Who ends hands its time on to the parent that waits for it, so that none is lost or doubled.
    """
    return sum(_seconds(each) for each in family(pid))


def _seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # cutime and cstime, of the children that were waited for (proc(5)).
        return own_seconds(pid) + sum(int(value) for value in fields[13:15]) / TICKS
    except OSError:  # it has ended
        return 0.0


def own_seconds(pid: int) -> float:
    """Return the processor time (seconds) of one process alone, to the nanosecond."""
    # clock_getcpuclockid(3) makes this number of a process id.
    return time.clock_gettime((~pid << 3) | 2)


def family_memory(pid: int) -> tuple[float, float]:
    """Return resident and proportional memory (MB) of a process and its descendants."""
    resident = proportional = 0
    for each in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
            resident += _kilobytes("Rss", text)
            proportional += _kilobytes("Pss", text)
    return resident / 1000, proportional / 1000


def _kilobytes(name: str, text: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def connections_to(port: int) -> int:
    """Return how many TCP connections to a local port are established."""
    local, established = f":{port:04X}", "01"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return sum(row[1].endswith(local) and row[3] == established for row in rows)


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended, by the kernel's record."""

    pid: int
    parent: int
    command: str


class ProcessAccounting:
    """The kernel's record of every process of the machine that ends: acct(2), for root only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._libc = ctypes.CDLL(None, use_errno=True)

    def start(self) -> bool:
        """Begin; False where this kernel, or its guard, does not let us."""
        self._path.touch()
        return bool(self._libc.acct(os.fsencode(self._path)) == 0)

    def stop(self) -> None:
        """End; the record stays."""
        self._libc.acct(None)

    @property
    def size(self) -> int:
        """Return where the next record will begin (bytes)."""
        return self._path.stat().st_size

    def read(self, start: int) -> list[Ended]:
        """Return what ended since the record was of this size."""
        with self._path.open("rb") as file:
            file.seek(start)
            data = file.read()
        whole = len(data) // _RECORD.size * _RECORD.size
        return [_read_record(fields) for fields in _RECORD.iter_unpack(data[:whole])]


def _read_record(fields: tuple[int, ...]) -> Ended:
    *_, pid, parent, _begun, _elapsed, command = fields
    name = bytes(command).rstrip(b"\0").decode(errors="replace")  # type: ignore[call-overload]
    return Ended(pid, parent, name)


def descendants(ended: list[Ended], ancestors: set[int]) -> list[Ended]:
    """Return those that descend from known processes, over parents that ended themselves."""
    parents = {each.pid: each.parent for each in ended}

    def is_ours(pid: int) -> bool:
        seen: set[int] = set()
        while pid not in seen:
            if pid in ancestors:
                return True
            seen.add(pid)
            pid = parents.get(pid, 0)
        return False

    return [each for each in ended if is_ours(each.parent)]
