"""Servers of a test's own, which it may kill while others use those of the cluster."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from tests.support.byte_proxy import ByteProxy

if TYPE_CHECKING:
    from subprocess import Popen

_START_SECONDS = 60


class OwnServer:
    """A real server on a port of its own, with what belongs to the cluster's."""

    def __init__(self, cluster: dict[str, Any], log: Path) -> None:
        self._etc = Path(cluster["cluster_dir"]) / "etc"
        self._log = log
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process: Popen[bytes] | None = None
        self.starts = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        end = time.monotonic() + _START_SECONDS
        while not self._listens():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)
        self.starts += 1

    def behind_proxy(self) -> ByteProxy:
        """Return a way to it that counts bytes."""
        return ByteProxy(("127.0.0.1", self.port))

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


class OwnGateway(OwnServer):
    """A radosgw; buckets and users are those of the cluster's."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        conf = str(self._etc / "ceph.conf")
        return [
            *("radosgw", "--foreground", "--conf", conf, "--name", "client.rgw"),
            *("--setuser", "ceph", "--setgroup", "ceph"),
            f"--rgw_frontends=beast endpoint=127.0.0.1:{self.port}",
            # It listens to none of the objects by which gateways tell each other of changes: there,
            # Ceph waits half a minute for one that was killed, and everybody's changes with it.
            "--rgw_num_control_oids=0",
            # What the cluster's own does for both.
            "--rgw_enable_gc_threads=false",
            "--rgw_enable_lc_threads=false",
        ]


def _is_sshd(process: psutil.Process) -> bool:
    """Whether it is a session's; a child may end while it is looked at."""
    try:
        return bool(process.name().startswith("sshd"))
    except psutil.NoSuchProcess:
        return False


class OwnSshd(OwnServer):
    """An sshd; users and keys are those of the cluster's."""

    def __init__(self, cluster: dict[str, Any], log: Path) -> None:
        super().__init__(cluster, log)
        known = Path(cluster["ssh_known_hosts"]).read_text()
        self.known_hosts = known.replace(f":{cluster['ssh_port']} ", f":{self.port} ")

    def kill(self) -> None:
        """End it and its sessions, but not what these have started."""
        sessions: list[psutil.Process] = []
        if self._process is not None:
            children = psutil.Process(self._process.pid).children(recursive=True)
            sessions = [each for each in children if _is_sshd(each)]
        super().kill()
        for each in sessions:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()

    def _command(self) -> list[str]:
        return [
            "/usr/sbin/sshd",
            "-D",
            "-e",
            "-f",
            str(self._etc / "sshd_config"),
            "-p",
            str(self.port),
        ]
