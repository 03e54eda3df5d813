"""
SSHOperator with ``sbatch --wait``: a worker process and a connection for each job, all the time.

    python -m benchmarks.peers.blocking LOG_FILE COMMAND

Each thing that is added is one worker, forked as Airflow's LocalExecutor does; see `serving`.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from airflow.providers.ssh.operators.ssh import SSHOperator

from benchmarks.serving import tell


def main(log_file: str, command: str) -> None:
    """Fork workers as told, until the parent says the end."""
    workers: list[int] = []
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("end"):
            break
        workers += [fork(log_file, command) for _ in order.get("add", ())]
        tell(added=len(workers))
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    for pid in workers:
        os.waitpid(pid, 0)


def fork(log_file: str, command: str) -> int:
    """Start a worker that waits for one job."""
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = os.open(log_file, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    status = 1
    try:
        wait = SSHOperator(
            task_id="wait", ssh_conn_id="ssh_default", command=command, cmd_timeout=None
        )
        wait.execute({})
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
