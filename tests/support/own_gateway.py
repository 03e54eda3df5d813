"""A gateway of a test's own to the cluster's Ceph, which it may kill while others use theirs."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.byte_proxy import ByteProxy

if TYPE_CHECKING:
    from subprocess import Popen

_START_SECONDS = 60


class OwnGateway:
    """A real radosgw on a port of its own; buckets and users are those of the cluster's."""

    def __init__(self, cluster: dict[str, Any], log: Path) -> None:
        self._conf = Path(cluster["cluster_dir"]) / "etc" / "ceph.conf"
        self._log = log
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self._process: Popen[bytes] | None = None
        self.starts = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [
            *("radosgw", "--foreground", "--conf", str(self._conf), "--name", "client.rgw"),
            *("--setuser", "ceph", "--setgroup", "ceph"),
            f"--rgw_frontends=beast endpoint=127.0.0.1:{self._port}",
            # It listens to none of the objects by which gateways tell each other of changes: there,
            # Ceph waits half a minute for one that was killed, and everybody's changes with it.
            "--rgw_num_control_oids=0",
            # What the cluster's own does for both.
            "--rgw_enable_gc_threads=false",
            "--rgw_enable_lc_threads=false",
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + _START_SECONDS
        while not self._listens():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)
        self.starts += 1

    def behind_proxy(self) -> ByteProxy:
        """Return a way to it that counts bytes."""
        return ByteProxy(("127.0.0.1", self._port))

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
            return True
        return False
