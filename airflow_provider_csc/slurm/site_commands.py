"""The shell program that asks whether a site can take a job now, and how its answer is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.output import is_without_accounting, parse_accounting
from airflow_provider_csc.slurm.shell import PLACE, SLURM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame

# A whole block is written, because a full disk or quota still takes the name of an empty file.
_TRY_WRITING = """
try_writing() {
  local path file status
  umask 077
  path=$(place "$1")
  while [ ! -e "$path" ]; do path=$(dirname -- "$path"); done
  file=$(mktemp -- "$path/.csc-probe.XXXXXX") || return
  printf '%4096s' x >"$file"
  status=$?
  rm -f -- "$file"
  return "$status"
}
"""


def build_site_probe(base_dirs: Sequence[str]) -> str:
    """Ask whether controller and accounting answer, and whether directories can be written."""
    lines = [
        f"{PLACE}{SLURM}{_TRY_WRITING}",
        "ask controller slurm timeout 30 squeue --me --noheader --states=RUNNING --format=%i",
        "ask accounting slurm timeout 30 sacct --noheader --allocations --starttime=now",
    ]
    lines += [f"ask dir{number} try_writing {quote(path)}" for number, path in enumerate(base_dirs)]
    return "\n".join(lines) + "\n"


def read_site_probe(frames: Mapping[str, Frame], base_dirs: Sequence[str]) -> dict[str, str]:
    """Return for each directory why a job cannot be submitted with it now; empty where it can."""
    problem = _explain("squeue gave no answer", frames["controller"])
    accounting = frames["accounting"]
    if not problem and not is_without_accounting(parse_accounting(accounting)):
        problem = _explain("sacct gave no answer", accounting)
    return {
        path: problem or _explain(f"{path} cannot be written", frames[f"dir{number}"])
        for number, path in enumerate(base_dirs)
    }


def _explain(what: str, frame: Frame) -> str:
    if frame.status == 0:
        return ""
    return f"{what}: {frame.complaint or f'status {frame.status}'}"
