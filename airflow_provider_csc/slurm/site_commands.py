"""The shell program that asks whether a site can take a job now, and how its answer is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.output import is_without_accounting, parse_accounting
from airflow_provider_csc.slurm.shell import PLACE, SLURM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_csc.slurm.framing import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAnswer:
    """What is wrong with Slurm, and with each run directory; empty where nothing is."""

    slurm: str = ""
    directories: Mapping[str, str] = field(default_factory=dict)

    def problem_with(self, directory: str) -> str:
        """Return why no job can be submitted with a directory now; empty where one can."""
        return self.slurm or self.directories[directory]


# A whole block is written, because a full disk or quota still takes the name of an empty file.
_TRY_WRITING = """
try_writing() {
  local path file status
  umask 077
  place path "$1"
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


def read_site_probe(frames: Mapping[str, Frame], base_dirs: Sequence[str]) -> SiteAnswer:
    """Return why Slurm, or which of the directories, can take no job now."""
    problem = _explain("squeue gave no answer", frames["controller"])
    accounting = frames["accounting"]
    if not problem and not is_without_accounting(parse_accounting(accounting)):
        problem = _explain("sacct gave no answer", accounting)
    directories = {
        path: _explain(f"{path} cannot be written", frames[f"dir{number}"])
        for number, path in enumerate(base_dirs)
    }
    return SiteAnswer(slurm=problem, directories=directories)


def _explain(what: str, frame: Frame) -> str:
    if frame.status == 0:
        return ""
    return f"{what}: {frame.complaint or f'status {frame.status}'}"
