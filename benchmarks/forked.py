"""
Run the same work in several processes at once, and time it from the first to the last.

Standard library only: peers run in an environment of their own.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def run_forked(
    count: int, prepare: Callable[[int], Any], work: Callable[[Any], list[float]]
) -> dict[str, Any]:
    """
    Fork processes that prepare, wait for each other, and work.

    ``work`` returns the seconds of each of its steps. Returns the ``seconds`` from the gate's
    opening to the end of the last, and all ``steps``.
    """
    gate, opening = os.pipe()
    ready, arriving = os.pipe()
    answers = []
    for number in range(count):
        answer, answering = os.pipe()
        if not os.fork():
            _be_child(number, prepare, work, (gate, opening, arriving, answering))
        os.close(answering)
        answers.append(answer)
    for _ in range(count):
        if os.read(ready, 1) != b"r":
            raise RuntimeError("a process ended before it was ready")
    began = time.perf_counter()
    os.close(opening)
    steps = [json.loads(_read_all(answer) or "null") for answer in answers]
    seconds = time.perf_counter() - began
    statuses = [os.wait()[1] for _ in range(count)]
    if any(statuses) or None in steps:
        raise RuntimeError(f"processes ended with {statuses}")
    return {"seconds": seconds, "steps": [each for child in steps for each in child]}


def _be_child(
    number: int,
    prepare: Callable[[int], Any],
    work: Callable[[Any], list[float]],
    pipes: tuple[int, int, int, int],
) -> None:
    gate, opening, arriving, answering = pipes
    status = 1
    try:
        os.close(opening)
        prepared = prepare(number)
        os.write(arriving, b"r")
        os.read(gate, 1)  # ends when the parent closes the other end
        os.write(answering, json.dumps(work(prepared)).encode())
        status = 0
    finally:
        if status:
            os.write(arriving, b"x")
        os._exit(status)


def _read_all(descriptor: int) -> str:
    return b"".join(iter(lambda: os.read(descriptor, 1 << 16), b"")).decode()


def timed_steps(count: int, step: Callable[[], Any]) -> list[float]:
    """Do a step some times; returns the seconds of each."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        found.append(time.perf_counter() - began)
    return found
