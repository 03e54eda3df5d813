"""The cluster of docker/, as the tests that run over it and over a `FakeSite` need it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from airflow_provider_csc.transport.base import Hop, SshSettings
from airflow_provider_csc.transport.ssh import SshTransport


class RealSite:
    """One user's view of it; the tests run as root on its log-in node."""

    def __init__(self) -> None:
        directory = Path(os.environ.get("CLUSTER_DIR", "/var/lib/csc-cluster"))
        try:
            facts = json.loads((directory / "cluster.json").read_text())
        except FileNotFoundError:
            pytest.fail(f"No cluster is described in {directory}. Start it with: make cluster-up")
        self._user = facts["users"]["alice"]
        self.home = Path(self._user["home"])
        self.account: str | None = self._user["account"]
        self.settings = SshSettings(
            target=Hop(host=facts["ssh_host"], port=facts["ssh_port"], username="alice"),
            key_file=self._user["private_key"],
            known_hosts=facts["ssh_known_hosts"],
        )

    def give(self, path: Path) -> None:
        """Make a file the user's own."""
        shutil.chown(path, "alice", "alice")

    def transport(self) -> SshTransport:
        return SshTransport(self.settings)
