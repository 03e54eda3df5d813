"""
Fork workers and triggerers that have imported Airflow and the provider already.

Reads one JSON object a line from standard input, ``{"id": ..., "role": ..., ...}``, and forks a
child that plays that role; writes ``{"id", "pid"}`` when it has, and ``{"id", "status"}`` when the
child is gone. Runs as ``python -m tests.chaos.forks DIRECTORY``; the children's output goes to
``DIRECTORY/<log>``, what they hand back to ``DIRECTORY/<id>.json``.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

from tests.chaos.roles import play


def main(directory: Path) -> None:
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.freeze()
    children: dict[int, str] = {}
    orders = b""
    tell({"ready": os.getpid()})
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            reap(children)
        if 0 in readable:
            received = os.read(0, 1 << 16)
            if not received:
                return
            *lines, orders = (orders + received).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = fork(order, directory)
                children[pid] = order["id"]
                tell({"id": order["id"], "pid": pid})


def fork(order: dict[str, Any], directory: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(directory / order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        play(order, directory)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def reap(children: dict[int, str]) -> None:
    while children:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        tell({"id": children.pop(pid), "status": os.waitstatus_to_exitcode(status)})


def tell(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
