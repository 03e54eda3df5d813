"""Under what conditions something was measured: the machine, the versions, and the noise."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

_LOOPS = 3
_LOOP_STEPS = 2_000_000


def conditions(settings: dict[str, Any], cluster: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a figure depends on, beside the code; ``settings`` are the run's own."""
    return {
        "date": time.strftime("%F %T %z"),
        "processor": _first(r"model name\s*: (.+)", Path("/proc/cpuinfo")),
        "cores": os.cpu_count(),
        "memory_gb": round(_memory_kb() / 1e6, 1),
        "kernel": platform.release(),
        "load_before": list(os.getloadavg()),
        "Slurm": cluster["slurm_version"] if cluster else None,
        "Airflow": metadata.version("apache-airflow"),
        "SSH provider": metadata.version("apache-airflow-providers-ssh"),
        "asyncssh": metadata.version("asyncssh"),
        "Python": platform.python_version(),
        "OpenSSH": _openssh(),
        "commit": _commit(),
        **settings,
    }


def noise() -> dict[str, Any]:
    """Time a loop that always does the same; on a quiet machine its seconds hardly differ."""
    return {
        "loop_seconds": [round(_loop(), 4) for _ in range(_LOOPS)],
        "load": list(os.getloadavg()),
        "busy_cpu_seconds": round(busy_seconds(), 2),
        "at": round(time.time(), 1),
    }


def _loop() -> float:
    began = time.process_time_ns(), time.perf_counter_ns()
    total = 0
    for step in range(_LOOP_STEPS):
        total ^= step
    return (time.perf_counter_ns() - began[1]) / 1e9


def busy_seconds() -> float:
    """Return how long all cores together have worked since the machine's start (seconds)."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(word) for word in words[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def describe_noise(rows: list[dict[str, Any]]) -> str:
    """Say by how much the loop's time differed over some rows' measurements."""
    loops = [
        seconds
        for row in rows
        for moment in ("before", "after")
        for seconds in row.get(moment, {}).get("loop_seconds", ())
    ]
    if not loops:
        return "not known"
    return (
        f"a fixed loop took {min(loops):.3f} s at best and {max(loops):.3f} s at worst "
        f"({max(loops) / min(loops):.2f} x)"
    )


def _first(pattern: str, path: Path) -> str | None:
    found = re.search(pattern, path.read_text())
    return found.group(1) if found else None


def _memory_kb() -> int:
    return int(_first(r"MemTotal:\s*(\d+)", Path("/proc/meminfo")) or 0)


def _openssh() -> str:
    done = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False)
    return done.stderr.strip().split(",")[0]


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty"]
    checkout = Path(__file__).parents[1]
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False)
    return done.stdout.strip()
