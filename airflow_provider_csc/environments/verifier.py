"""
Try an environment from inside: the far end of `build_script`, which ships this file's text.

It needs Python 3.8 and its standard library, and imports nothing of this package. It reads what is
wanted from its one argument (JSON), imports it, and prints lines that begin with ``python``,
``own`` (a distribution of the environment), ``inherited`` (one that it only sees), ``imported`` or
``problem``; the exit status is 1 when there is a problem.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import sysconfig
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def main(wanted: dict[str, Any]) -> int:
    """Print what there is; return the exit status."""
    # What an import prints is for the log, and never read as one of our lines.
    facts = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    own, inherited = find_distributions()
    version = ".".join(str(part) for part in sys.version_info[:3])
    lines = [f"python {version}"]
    for kind, found in (("own", own), ("inherited", inherited)):
        lines += [f"{kind} {describe(found[name])}" for name in sorted(found)]
    problems = list(find_missing(wanted, own, inherited))
    for name in modules_wanted(wanted, {**inherited, **own}):
        problem = try_import(name)
        lines += [] if problem else [f"imported {name}"]
        problems += [problem] if problem else []
    lines += [f"problem {problem}" for problem in problems]
    with facts:
        facts.write("\n".join([*lines, ""]))
    return 1 if problems else 0


def find_distributions() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the distributions of this environment, and those of another that it sees, by name."""
    paths = {os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    own: dict[str, Any] = {}
    inherited: dict[str, Any] = {}
    for each in metadata.distributions():
        name = normal(each.metadata["Name"] or "")
        place = os.path.realpath(str(each.locate_file("")))
        # The first that is found is the one that is imported.
        if name and name not in own and name not in inherited:
            (own if place in paths else inherited)[name] = each
    return own, inherited


def normal(name: str) -> str:
    """Return a distribution's name as all write it that mean the same (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def describe(one: Any) -> str:
    """Return a line for a requirements file."""
    name = one.metadata["Name"]
    text = one.read_text("direct_url.json")
    origin = json.loads(text) if text else {}
    url = origin.get("url")
    if not url:
        return f"{name}=={one.version}"
    revision = origin.get("vcs_info")
    if revision:
        url = f"{revision['vcs']}+{url}@{revision['commit_id']}"
    return f"{name} @ {url}"


def find_missing(
    wanted: dict[str, Any], own: dict[str, Any], inherited: dict[str, Any]
) -> Iterator[str]:
    """Yield what was asked for and is not there; what has a condition need not be."""
    for name, is_conditional in wanted["distributions"]:
        if normal(name) not in own and normal(name) not in inherited and not is_conditional:
            yield f"{name} is not installed"


def modules_wanted(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return what must be importable: what is named, else all of what was asked for."""
    if wanted["imports"] is not None:
        return list(wanted["imports"])
    asked = [found[normal(name)] for name, _ in wanted["distributions"] if normal(name) in found]
    return sorted({module for one in asked for module in modules_of(one)})


def modules_of(one: Any) -> set[str]:
    """Return the names under which a distribution is imported; private ones are its own affair."""
    found = set()
    for path in one.files or ():
        if path.name.endswith((".py", ".so")):
            found.add(path.parts[0] if len(path.parts) > 1 else path.name.partition(".")[0])
    return {name for name in found if name.isidentifier() and not name.startswith("_")}


def try_import(name: str) -> str | None:
    """Import a module; return why it cannot be."""
    try:
        importlib.import_module(name)
    # Whatever it raises, it is not usable, and the others are still to be tried.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        told = " ".join(str(error).split())[:500]
        return f"{name} cannot be imported: {type(error).__name__}: {told}"
    return None


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if path]
    sys.exit(main(json.loads(sys.argv[1])))
