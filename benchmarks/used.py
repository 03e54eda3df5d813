"""
Run a command from a small process, and print what it used as its last line: JSON.

    python -I used.py COMMAND [ARGUMENT ...]

Linux counts the memory that a process had before it became another program, thus that of the
process it was forked from (getrusage(2), ``ru_maxrss``): of a large one it would be all there is.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> int:
    """Return the command's exit code."""
    began = time.perf_counter()
    pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    used = {"cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss / 1024}
    print(json.dumps({"seconds": seconds, **used}), flush=True)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
