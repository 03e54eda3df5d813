"""
A job that writes lines, each with the time of its writing.

    writer.py BEGIN SECONDS BYTES_PER_SECOND TICK_SECONDS

Begins at an instant (seconds since 1970), so that many of them write at the same time. For any
Python 3.
"""

from __future__ import annotations

import sys
import time

LINE = 100


def main(begin: float, seconds: float, rate: float, tick: float) -> None:
    """Write until the time is over."""
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
    main(*(float(word) for word in sys.argv[1:]))
