"""Rows as squeue and sacct print them, and what a real Slurm printed (tests/outputs)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_csc.slurm.framing import Frame
from airflow_provider_csc.slurm.output import ACCOUNTING_FORMAT, SEPARATOR

OUTPUTS = Path(__file__).parents[2] / "outputs" / "slurm-22.05"


@dataclass(frozen=True)
class Recording:
    """What one real command printed; see tests/outputs/record.py."""

    command: str
    job_id: str
    frame: Frame


def recorded(name: str) -> Recording:
    fields = json.loads((OUTPUTS / f"{name}.json").read_text())
    frame = Frame(fields["status"], fields["output"].encode().rstrip(b"\n"))
    return Recording(fields["command"], fields["job_id"], frame)


QUEUE_DEFAULTS = {
    "job_id": "123",
    "state": "RUNNING",
    "reason": "None",
    "partition": "small",
    "nodes": "c1",
    "submitted": "1000",
    "started": "1010",
    "ended": "N/A",
    "user": "alice",
    "name": "hello.af0123456789abcdef0123.1",
}


def queue_line(**fields: str) -> str:
    """Return a line of squeue, made by hand."""
    assert fields.keys() <= QUEUE_DEFAULTS.keys()
    return SEPARATOR.join({**QUEUE_DEFAULTS, **fields}.values())


ACCOUNTING_DEFAULTS = {
    **dict.fromkeys(ACCOUNTING_FORMAT, ""),
    "JobID": "123",
    "State": "COMPLETED",
    "ExitCode": "0:0",
    "Reason": "None",
    "Partition": "small",
    "NodeList": "c1",
    "Submit": "1000",
    "Start": "1010",
    "End": "1020",
    "ElapsedRaw": "10",
    "TotalCPU": "00:05.000",
    "AllocCPUS": "1",
    "ReqMem": "1000M",
    "NNodes": "1",
    "TimelimitRaw": "60",
    "Cluster": "testcluster",
    "User": "alice",
    "JobName": "hello.af0123456789abcdef0123.1",
}


def accounting_line(**fields: str) -> str:
    """Return a line of sacct, made by hand."""
    assert fields.keys() <= ACCOUNTING_DEFAULTS.keys()
    return SEPARATOR.join({**ACCOUNTING_DEFAULTS, **fields}.values())


def answer(*lines: str) -> Frame:
    return Frame(0, "\n".join(lines).encode())


# As recorded (squeue-no-controller, sacct-no-database, sacct-no-accounting).
NO_CONTROLLER = Frame(
    1, b"slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
)
NO_DATABASE = Frame(1, b"sacct: error: Problem talking to the database: Connection refused")
NO_ACCOUNTING = Frame(1, b"Slurm accounting storage is disabled")


def exit_record(
    *,
    job_id: str = "123",
    code: int = 0,
    started: int = 1010,
    ended: int = 1020,
    stdout_bytes: int = 0,
    stderr_bytes: int = 0,
    signals: int | None = None,
) -> bytes:
    fields: dict[str, object] = {
        "job_id": job_id,
        "exit_code": code,
        "started": started,
        "ended": ended,
        "node": "c1",
        "stdout_bytes": stdout_bytes,
        "stderr_bytes": stderr_bytes,
        "restarts": 0,
    }
    if signals is not None:
        fields["signals"] = signals
    return json.dumps(fields).encode() + b"\n"
