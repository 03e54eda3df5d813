"""The outside of a measured process; `serving` is its inside."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.login_node import end_family
from benchmarks.site import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_ADD_SECONDS = 600
_END_SECONDS = 60


class Child:
    """A process on whose event loop triggers, or a peer's waits, run."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self.log = log
        self.fired: dict[int, dict[str, Any]] = {}
        self.failed: dict[int, str] = {}
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    def add(self, things: Sequence[Mapping[str, Any]], *, per_second: float | None = None) -> int:
        """Have more waited for; returns how many there are, when all have begun."""
        return int(self._ask(add=list(things), per_second=per_second)["added"])

    def memory(self) -> dict[str, Any]:
        """Return what its memory is used for; empty unless it traces."""
        answer: dict[str, Any] = self._ask(memory=True)["memory"]
        return answer

    def wait_for(self, indexes: Collection[int], seconds: float) -> None:
        """Wait for the events of these; raises when they do not come."""
        end = time.monotonic() + seconds
        while missing := [index for index in indexes if index not in self.fired]:
            if self.failed or time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(
                    f"{len(missing)} of {len(indexes)} events are missing; failed: "
                    f"{list(self.failed.items())[:3]}; log: "
                    f"{self.log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.1)

    def end(self) -> None:
        """Have it cancel what waits, and end."""
        if self._process.poll() is None:
            self._send(end=True)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, **order: Any) -> dict[str, Any]:
        self._send(**order)
        try:
            answer = self._answers.get(timeout=_ADD_SECONDS)
        except queue.Empty:
            raise RuntimeError(f"no answer to {list(order)}") from None
        if not answer:
            raise RuntimeError(f"the process is gone: {self.log.read_text()[-2000:]}")
        return answer

    def _send(self, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "fired" in message:
                self.fired[message["fired"]] = message
            elif "failed" in message:
                self.failed[message["failed"]] = message["why"]
            else:
                self._answers.put(message)
        self._answers.put({})


@contextmanager
def child(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    python: str = sys.executable,
    ssh_config: str | None = None,
) -> Iterator[Child]:
    """Start ``python -m WORDS[0] LOG_FILE WORDS[1:]`` in a home of its own; end it."""
    with tempfile.TemporaryDirectory(prefix="bench-home-") as home:
        if ssh_config is not None:
            (Path(home) / ".ssh").mkdir(mode=0o700)
            (Path(home) / ".ssh" / "config").write_text(ssh_config)
        log = Path(home) / "log"
        log.touch()
        module, *arguments = words
        with (Path(home) / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [python, "-m", module, str(log), *arguments],
                cwd=CHECKOUT,
                env={**clean_environment(home), **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        started = Child(process, log)
        try:
            yield started
            started.end()
        except BaseException:
            sys.stderr.write((Path(home) / "stderr").read_text(errors="replace")[-2000:])
            raise
        finally:
            if process.poll() is None:
                end_family(process)


def clean_environment(home: str) -> dict[str, str]:
    """Return the environment of a measured process: this one's, and no connection of anybody's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    # An installed package is compiled once, and not by each process that is measured.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {
        **kept,
        "HOME": home,
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(CHECKOUT),
    }
