"""
Processes that a test may kill: each is new, but what takes seconds to import is there already.

They are copies of one server process of the standard library, which has imported it and runs
nothing.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerProcess

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "airflow_provider_csc.hooks.slurm",
        "airflow_provider_csc.triggers.slurm",
        "airflow_provider_csc.hooks.allas",
        "airflow_provider_csc.transfers.allas",
    ]
)


def start(
    target: Callable[..., None], *arguments: Any, output: Path | str = os.devnull
) -> ForkServerProcess:
    """Call a function in a process of its own, in the environment of now; append what it prints."""
    with Path(output).open("ab"):
        pass  # It is there at once, as where a shell redirects to it.
    child = _context.Process(
        target=_run, args=(dict(os.environ), str(output), target, arguments), daemon=True
    )
    child.start()
    return child


def _run(
    environment: dict[str, str], output: str, target: Callable[..., None], arguments: Any
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    target(*arguments)
