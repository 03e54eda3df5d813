"""
What waiting costs: N deferred jobs through the real scheduler and triggerer.

    python benchmarks/waiting.py [N] [SECONDS]

Starts an Airflow of its own beside the running cluster, submits N jobs (default 50) as mapped
tasks, waits until all are deferred, and then looks for SECONDS (default 60) at the connections the
triggerer holds, the remote commands sshd starts for it, the worker slots in use, and processor
time. Prints one table; the conditions stand above it.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT))

from docker.lib.airflow_rest import Airflow  # noqa: E402 - it is no installed package

if TYPE_CHECKING:
    from collections.abc import Iterator

CLUSTER = json.loads(
    (Path(os.environ.get("CLUSTER_DIR", "/var/lib/csc-cluster")) / "cluster.json").read_text()
)
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    jobs, seconds = [*given, *(50, 60)[len(given) :]]
    with airflow() as (api, home):
        measure(api, home, jobs, seconds)


@contextmanager
def airflow() -> Iterator[tuple[Airflow, Path]]:
    """An Airflow that runs the benchmark's DAG."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        settings = {
            "DEMO_DIR": directory,
            "AIRFLOW_PORT": str(free_port()),
            "AIRFLOW_LOG_PORT": str(free_port()),
            "AIRFLOW_VENV": sys.prefix,
            "AIRFLOW_POLL_FLOOR": "5",
            "AIRFLOW_DAGS": str(CHECKOUT / "benchmarks" / "dags"),
        }
        environment = {**os.environ, **settings}
        control = [str(CHECKOUT / "docker" / "airflow")]
        try:
            subprocess.run([*control, "up"], env=environment, check=True)
            yield Airflow(Path(directory) / "airflow.json"), Path(directory)
        finally:
            subprocess.run([*control, "down"], env=environment, check=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def measure(api: Airflow, home: Path, jobs: int, seconds: int) -> None:
    api.wait_for_dag("waiting")
    begun = time.monotonic()
    run = api.trigger("waiting", {"jobs": jobs})
    mapped = f"/dags/waiting/dagRuns/{run.run_id}/taskInstances?limit=1000"

    def states() -> list[str]:
        tasks = api.get(mapped)["task_instances"]
        return [task["state"] for task in tasks if task["task_id"] == "job"]

    wait_until(lambda: states().count("deferred") == jobs, 600)
    deferred_after = time.monotonic() - begun
    triggerers = family(int((home / "run" / "triggerer.pid").read_text()))

    before = sample(triggerers)
    most_connections, most_running, asked = 0, 0, sessions()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        most_connections = max(most_connections, connections(triggerers))
        most_running = max(most_running, states().count("running"))
        time.sleep(2)
    asked = sessions() - asked
    after = sample(triggerers)
    still = states().count("deferred")

    print(
        f"\nconditions: {os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f};"
        f" Airflow, Slurm, sshd on the same machine; poll interval and floor 5 s; {seconds} s"
    )
    print(f"deferred jobs                              {jobs} (at the end of the window {still})")
    print(f"from trigger to all deferred               {deferred_after:.0f} s")
    print(f"SSH connections of the triggerer, at most  {most_connections}")
    print(f"remote commands per minute                 {asked * 60 / seconds:.0f}")
    print(f"worker slots held, at most                 {most_running}")
    print(f"processor time of the triggerer            {(after - before) / seconds:.1%} of a core")
    cancel_all()


def wait_until(condition: object, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            sys.exit("benchmark: the jobs were not all deferred in time")
        time.sleep(1)


def family(pid: int) -> set[int]:
    """A process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {pid}.union(*(family(int(child)) for child in children))


def sample(pids: set[int]) -> float:
    """Processor seconds used so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def connections(pids: set[int]) -> int:
    words = ["ss", "--tcp", "--numeric", "--processes", "--no-header", "state", "established"]
    listing = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    port = f":{CLUSTER['ssh_port']}"
    lines = [line for line in listing.splitlines() if line.split()[3].endswith(port)]
    return sum(any(f"pid={pid}," in line for pid in pids) for line in lines)


def sessions() -> int:
    """How many commands sshd has started so far, by its log (LogLevel VERBOSE)."""
    return Path(CLUSTER["services"]["sshd"]["log_file"]).read_text().count("Starting session")


def cancel_all() -> None:
    """End the benchmark's jobs, and nobody else's; the names begin with the DAG's."""
    mine = "squeue --user=alice --noheader --format='%i %j' | sed -n 's/ waiting[.]job[.].*//p'"
    subprocess.run(["bash", "-c", f"{mine} | xargs --no-run-if-empty scancel"], check=False)


if __name__ == "__main__":
    main()
