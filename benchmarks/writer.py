"""
A job that writes lines, each with the time of its writing.

    writer.py GATE SECONDS BYTES_PER_SECOND TICK_SECONDS

Begins at the instant (seconds since 1970) that stands in a file, as soon as there is one, so that
many of them write at the same time. For any Python 3.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

LINE = 100


def main(gate: str, seconds: float, rate: float, tick: float) -> None:
    """Write until the time is over."""
    while not Path(gate).exists():
        time.sleep(1)
    begin = float(Path(gate).read_text())
    per_tick = rate * tick / LINE
    owed = 0.0
    time.sleep(max(begin - time.time(), 0))
    at = begin
    while at < begin + seconds:
        owed += per_tick
        head = f"bench {time.time():.6f} "
        sys.stdout.write((head.ljust(LINE - 1, ".") + "\n") * int(owed))
        sys.stdout.flush()
        owed -= int(owed)
        at += tick
        time.sleep(max(at - time.time(), 0))


if __name__ == "__main__":
    main(sys.argv[1], *(float(word) for word in sys.argv[2:]))
