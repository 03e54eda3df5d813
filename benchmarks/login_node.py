"""
A log-in node of the benchmark's own: an sshd beside the cluster's, with its settings.

Nobody else logs in there, so that all it and its children do is what is measured.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.processes import (
    ProcessAccounting,
    connections_to,
    descendants,
    family,
    family_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.site import Site

_START_SECONDS = 10


@dataclass(slots=True)
class LoginNode:
    """An sshd that runs."""

    port: int
    pid: int
    known_hosts: Path
    log: Path
    accounting: ProcessAccounting | None
    ancestors: set[int]

    def commands(self) -> int:
        """Return how many remote commands were started so far (sshd's LogLevel VERBOSE)."""
        return self.log.read_bytes().count(b"Starting session")

    def connections(self) -> int:
        """Return how many connections there are now."""
        return connections_to(self.port)

    def seconds(self) -> float:
        """Return the processor time sshd and all it started have used (seconds)."""
        return family_seconds(self.pid)

    def look(self) -> None:
        """Remember who is there, as ancestors of those who end later."""
        self.ancestors |= family(self.pid)

    def record_size(self) -> int | None:
        """Return where the record of ended processes is; None where there is none."""
        return self.accounting.size if self.accounting else None

    def ended_since(self, size: int | None) -> dict[str, int] | None:
        """Return how many processes of this sshd have ended since then, by their command."""
        if self.accounting is None or size is None:
            return None
        counts: dict[str, int] = {}
        for each in descendants(self.accounting.read(size), self.ancestors):
            counts[each.command] = counts.get(each.command, 0) + 1
        return counts


@contextmanager
def login_node(site: Site, *, path_first: Path | None = None) -> Iterator[LoginNode]:
    """Start an sshd; ``path_first`` is a directory that its commands find programs in first."""
    with tempfile.TemporaryDirectory(prefix="bench-sshd-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        port = free_port()
        config = build_config(site, port, path_first)
        (directory / "sshd_config").write_text(config)
        known_hosts = directory / "known_hosts"
        known_hosts.write_text(f"[{site.facts['ssh_host']}]:{port} {site.facts['ssh_host_key']}\n")
        log = directory / "log"
        with log.open("wb") as output:
            daemon = subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", str(directory / "sshd_config")], stderr=output
            )
        accounting = ProcessAccounting(directory / "ended")
        has_record = accounting.start()
        try:
            wait_for_port(site.facts["ssh_host"], port)
            yield LoginNode(
                port=port,
                pid=daemon.pid,
                known_hosts=known_hosts,
                log=log,
                accounting=accounting if has_record else None,
                ancestors={daemon.pid},
            )
        finally:
            if has_record:
                accounting.stop()
            end_family(daemon)


def build_config(site: Site, port: int, path_first: Path | None) -> str:
    """Return the cluster's own sshd_config with another port."""
    text = (Path(site.facts["cluster_dir"]) / "etc" / "sshd_config").read_text()
    text = re.sub(r"^Port .*$", f"Port {port}", text, flags=re.MULTILINE)
    if path_first is not None:
        path = f"PATH={path_first}:/usr/local/bin:/usr/bin:/bin"
        text = re.sub(r"^(SetEnv .*)$", rf"\1 {path}", text, flags=re.MULTILINE)
    return text


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for_port(host: str, port: int) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def end_family(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants; sessions outlive their sshd otherwise."""
    left = family(process.pid)
    process.terminate()
    process.wait(10)
    for pid in left - {process.pid}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def install_program(source: Path, directory: Path) -> None:
    """Put a program where every user can run it."""
    target = directory / source.name
    shutil.copyfile(source, target)
    target.chmod(0o755)
