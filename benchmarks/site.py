"""The cluster that is measured with, its user, and the jobs the benchmark has there."""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.ours import identity_of
from benchmarks.processes import own_seconds
from docker.lib.airflow_rest import build_connections

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.login_node import LoginNode

CHECKOUT = Path(__file__).parents[1]
DEFAULT_DIR = Path("/var/lib/csc-bench")
# Nodes that claim enough processors for 200 jobs at a time, and look at them seldom: each of many
# jobs on one machine would else search all of its processes every two seconds.
_SETTINGS = {
    "CLUSTER_PORT_OFFSET": "2000",
    "CLUSTER_CEPH": "no",
    "CLUSTER_NODE_CPUS": "64",
    "CLUSTER_ACCT_FREQUENCY": "60",
}
# So many ids are named in one scancel.
_CANCEL_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster of docker/cluster, and one user of it."""

    facts: dict[str, Any]

    @classmethod
    def at(cls, directory: Path) -> Site:
        """Read the description of a cluster that is up."""
        return cls(json.loads((directory / "cluster.json").read_text()))

    @property
    def user(self) -> str:
        """Return who logs in."""
        return str(next(iter(self.facts["users"])))

    @property
    def home(self) -> Path:
        """Return the user's home."""
        return Path(self.facts["users"][self.user]["home"])

    @property
    def key_file(self) -> str:
        """Return the private key that logs the user in."""
        return str(self.facts["users"][self.user]["private_key"])

    @property
    def account(self) -> str:
        """Return the account that is charged."""
        return str(self.facts["users"][self.user]["account"])

    def as_user(self, *words: str) -> list[str]:
        """Return a command that runs as the user, with what sshd would set for the cluster."""
        known = pwd.getpwnam(self.user)
        change = ["setpriv", f"--reuid={known.pw_uid}", f"--regid={known.pw_gid}", "--init-groups"]
        variables = [
            f"HOME={self.home}",
            f"USER={self.user}",
            f"SLURM_CONF={self.facts['slurm_conf']}",
            "PATH=/usr/local/bin:/usr/bin:/bin",
        ]
        return [*change, "env", "--ignore-environment", f"--chdir={self.home}", *variables, *words]

    def run(self, *words: str, check: bool = True, stdin: str | None = None) -> str:
        """Run a command as the user; returns what it said."""
        done = subprocess.run(
            self.as_user(*words), input=stdin, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words[:3])}: {done.stdout}{done.stderr}")
        return done.stdout

    def slurm_connection(
        self, node: LoginNode, *, work_dir: Path, floor: float = 1.0
    ) -> dict[str, Any]:
        """Return ``slurm_default`` as Airflow's REST interface takes it, for a log-in node."""
        connection = build_connections(self.facts, poll_floor=floor)[0]
        extra = {
            **json.loads(connection["extra"]),
            "known_hosts": str(node.known_hosts),
            "work_dir": str(work_dir),
        }
        # What is measured is a job without what a site's profile adds.
        del extra["site"]
        host = {"host": self.facts["ssh_host"], "port": node.port}
        return {**connection, **host, "extra": json.dumps(extra)}

    def connections(self, node: LoginNode, *, work_dir: Path) -> dict[str, str]:
        """Return Airflow's connections to a log-in node, as its environment variables."""
        slurm = self.slurm_connection(node, work_dir=work_dir)
        slurm.pop("connection_id")
        plain = {
            "conn_type": "ssh",
            "host": self.facts["ssh_host"],
            "port": node.port,
            "login": self.user,
            "extra": {"key_file": self.key_file, "host_key": self.facts["ssh_host_key"]},
        }
        return {
            "AIRFLOW_CONN_SLURM_DEFAULT": json.dumps(slurm),
            "AIRFLOW_CONN_SSH_DEFAULT": json.dumps(plain),
        }

    def requests_of_user(self) -> dict[str, int]:
        """Return how many requests slurmctld had so far: of the user, and by their type."""
        environment = {**os.environ, "SLURM_CONF": self.facts["slurm_conf"]}
        done = subprocess.run(
            ["sdiag"], capture_output=True, text=True, check=True, env=environment
        )
        return parse_sdiag(done.stdout, self.user)

    def controller_seconds(self) -> float:
        """Return the processor time slurmctld has used (seconds)."""
        return own_seconds(int(Path(self.facts["services"]["slurmctld"]["pid_file"]).read_text()))

    def free_processors(self) -> int:
        """Return how many one-processor jobs can be run now."""
        text = self.run("sinfo", "--noheader", "--partition=small", "--format=%C")
        _allocated, idle, _other, _total = text.split()[0].split("/")
        return int(idle)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a directory of the user, and remove it."""
        path = self.home / f"bench-{secrets.token_hex(4)}"
        self.run("mkdir", str(path))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def jobs(self) -> Iterator[Jobs]:
        """Yield a place for jobs; at its end all that were submitted there are cancelled."""
        jobs = Jobs(self, f"bench-{secrets.token_hex(4)}")
        try:
            yield jobs
        finally:
            jobs.cancel()


def parse_sdiag(text: str, user: str) -> dict[str, int]:
    """Return the counts of sdiag's tables "by message type" and "by user", the user's as `user`."""
    by_type, _, by_user = text.partition("Remote Procedure Call statistics by user")
    pattern = r"^\s*(\S+)\s*\(\s*\d+\)\s*count:(\d+)"
    counts = {
        name: int(count)
        for name, count in re.findall(pattern, by_type, re.MULTILINE)
        if name.startswith("REQUEST_")
    }
    of_users = dict(re.findall(pattern, by_user.partition("Pending RPC")[0], re.MULTILINE))
    return {"user": int(of_users.get(user, 0)), **counts}


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job that waits; its name ends with the token, as those of this provider do."""

    job_id: str
    token: str


class Jobs:
    """Jobs whose names begin alike, so that none is left behind whoever submitted it."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self.name = name

    def submit_held(self, count: int) -> list[HeldJob]:
        """Submit jobs that wait until somebody releases them, one by one."""
        tokens = [identity_of(self.name, number).token for number in range(count)]
        loop = 'while read -r name; do sbatch "$@" --job-name="$name" || exit; done'
        names = "".join(f"{self.name}.{token}\n" for token in tokens)
        job_ids = self._site.run("bash", "-c", loop, "submit", *HELD, stdin=names).split()
        return [HeldJob(*pair) for pair in zip(job_ids, tokens, strict=True)]

    def listed(self) -> list[str]:
        """Return the ids of the jobs that are in the queue."""
        text = self._site.run("squeue", "--me", "--noheader", "--format=%i %j")
        rows = (line.split(" ", 1) for line in text.splitlines())
        return [job_id for job_id, name in rows if name.startswith(self.name)]

    def cancel(self) -> None:
        """Cancel by their ids all that were submitted under this name."""
        self.cancel_these(self.listed())

    def cancel_these(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are no error."""
        for start in range(0, len(job_ids), _CANCEL_AT_ONCE):
            chunk = job_ids[start : start + _CANCEL_AT_ONCE]
            self._site.run("scancel", *chunk, check=False)


# What all submissions ask for that are compared.
HELD = (
    "--parsable",
    "--hold",
    "--ntasks=1",
    "--mem=10M",
    "--time=01:00:00",
    "--output=/dev/null",
    "--wrap=true",
)


@contextmanager
def site_for(directory: Path | None, *, keep: bool) -> Iterator[Site]:
    """
    Yield the cluster in a directory, which must be up and is left alone.

    Without one a cluster of the benchmark's own is started, and taken down unless it is to be kept.
    """
    if directory is not None:
        yield Site.at(directory)
        return
    print(f"Starting a cluster in {DEFAULT_DIR}; docker/cluster takes half a minute.", flush=True)
    control("up")
    try:
        yield Site.at(DEFAULT_DIR)
    finally:
        if not keep:
            control("wipe")


def control(command: str) -> None:
    """Start or stop the benchmark's own cluster."""
    settings = {} if (DEFAULT_DIR / "settings.env").exists() else _SETTINGS
    environment = {**os.environ, **settings, "CLUSTER_DIR": str(DEFAULT_DIR)}
    script = CHECKOUT / "docker" / "cluster"
    done = subprocess.run(
        [str(script), command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"docker/cluster {command}: {done.stdout}{done.stderr}")
