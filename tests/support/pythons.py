"""The Pythons of this machine, of which a cluster may have any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def version_of(python: Path) -> tuple[int, ...] | None:
    """Its version; None for what is no Python."""
    program = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    try:
        done = subprocess.run(
            [python, "-c", program], capture_output=True, text=True, check=False, timeout=30
        )
    except OSError:
        return None
    if done.returncode != 0:
        return None
    return tuple(int(part) for part in done.stdout.split("."))


def find_pythons() -> dict[tuple[int, ...], Path]:
    """Every minor version once, oldest first; the one that runs the tests among them."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [Path(sys.executable), Path("/usr/bin/python3")]
    candidates += pyenv.glob("versions/*/bin/python")
    found: dict[tuple[int, ...], Path] = {}
    for path in candidates:
        if version := version_of(path):
            found.setdefault(version[:2], path)
    return dict(sorted(found.items()))


PYTHONS = find_pythons()
USABLE = {version: path for version, path in PYTHONS.items() if version >= (3, 6)}
