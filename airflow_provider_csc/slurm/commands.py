"""
The shell programs that a site runs for us, as text.

Each is one remote command, framed as `framing` describes; `output` reads the answers. They need
bash, coreutils and Slurm's own commands, and leave nothing running.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.run_dir import (
    ARRAY_EXIT_FILE,
    EXIT_FILE,
    PROGRESS_FILE,
    VERDICT_FILE,
)
from airflow_provider_csc.slurm.shell import PLACE, SLURM, id_list, join_path, sacct, squeue

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest:
    """Read at most ``limit`` bytes of a file from ``offset``; negative: from the end."""

    name: str
    path: str
    offset: int
    limit: int


# In base64, because only then the size of what could be read is known before it is sent: a log that
# breaks off in the middle (an input/output error) must not break the answer for every other job.
_READ_LOG = """
read_log() {
  local LC_ALL=C size start take
  size=$(stat --dereference --format=%s -- "$2" 2>/dev/null) && [ -r "$2" ] && [ ! -d "$2" ] ||
    { frame "$1" 1 ''; return; }
  start=$3
  [ "$start" -ge 0 ] || { start=$((size + start)); [ "$start" -ge 0 ] || start=0; }
  take=$((size - start))
  [ "$take" -ge 0 ] || take=0
  [ "$take" -le "$4" ] || take=$4
  frame "$1" 0 "$size $start $([ "$take" -eq 0 ] || dd if="$2" bs=65536 skip="$start" \\
    count="$take" iflag=skip_bytes,count_bytes,fullblock 2>/dev/null | base64 --wrap=0)"
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollRequest:
    """
    What one round asks a site; empty parts cost nothing.

    ``detailed`` are jobs that scontrol is asked about, ``acknowledged`` and ``verdicts`` what is
    written into run directories. ``array_records`` are exit records of tasks of arrays: the name of
    their frame, the run directory, and the tasks by Slurm's ids.
    """

    queued: tuple[str, ...] = ()
    accounted: tuple[str, ...] = ()
    detailed: tuple[str, ...] = ()
    exit_records: tuple[tuple[str, str], ...] = ()
    array_records: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    progress: tuple[tuple[str, str], ...] = ()
    logs: tuple[LogRequest, ...] = ()
    acknowledged: tuple[tuple[str, str], ...] = ()
    verdicts: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to ask."""
        return any(getattr(self, field.name) for field in fields(self))


# The frame of what scontrol says of a job is named by this and the job's id.
CONTROLLER_FRAME = "scontrol."

# As a whole or not at all: a full disk must not take away what was noted before.
_NOTE = """
note() { printf '%s\\n' "$2" >"$1.new" && mv -f -- "$1.new" "$1"; }
"""


# A task that has no record yet is left out.
_ARRAY_RECORDS = """
array_records() {
  local directory=$1 pattern=$2 index paths=()
  shift 2
  for index; do paths+=("$directory/${pattern/'%a'/"$index"}"); done
  cat -- "${paths[@]}" 2>/dev/null
}
"""


def build_poll(request: PollRequest) -> str:
    """Ask squeue, sacct, exit records and new log bytes of many jobs in one remote command."""
    lines = [SLURM, "frame clock 0 \"$(printf '%(%s)T' -1)\""]
    notes = [
        *((join_path(run_dir, PROGRESS_FILE), text) for run_dir, text in request.acknowledged),
        *((join_path(run_dir, VERDICT_FILE), text) for run_dir, text in request.verdicts),
    ]
    if notes:
        lines.append(_NOTE)
    lines.extend(f"note {quote(path)} {quote(text)}" for path, text in notes)
    if request.queued:
        lines.append(f"ask squeue {squeue()} --jobs={id_list(request.queued)}")
    if request.accounted:
        lines.append(f"ask sacct {sacct()} --jobs={id_list(request.accounted)}")
    lines.extend(
        f"ask {CONTROLLER_FRAME}{job_id} slurm scontrol --oneliner show job {quote(job_id)}"
        for job_id in sorted(set(request.detailed))
    )
    for name, run_dir in request.exit_records:
        lines.append(f"ask {name} cat -- {quote(join_path(run_dir, EXIT_FILE))}")
    if request.array_records:
        lines.append(_ARRAY_RECORDS)
    for name, run_dir, indices in request.array_records:
        numbers = " ".join(map(str, indices))
        directory, pattern = quote(run_dir), quote(ARRAY_EXIT_FILE)
        lines.append(f"ask {name} array_records {directory} {pattern} {numbers}")
    for name, run_dir in request.progress:
        lines.append(f"ask {name} cat -- {quote(join_path(run_dir, PROGRESS_FILE))}")
    if request.logs:
        lines.append(_READ_LOG)
    lines.extend(
        f"read_log {log.name} {quote(log.path)} {log.offset} {log.limit}" for log in request.logs
    )
    return "\n".join(lines) + "\n"


_READ_FILE = """
try_file() { head --bytes=1 -- "$1" >/dev/null; }
read_file() {
  local LC_ALL=C size
  ask "$1" try_file "$2" || return
  size=$(head --bytes="$3" -- "$2" | wc --bytes)
  printf '%s %s %d %d\\n' "$mark" "$1" 0 "$((size + 1))"
  head --bytes="$size" -- "$2"
  printf '.\\n'
}
"""


def build_read_file(path: str, limit: int) -> str:
    """
    Read a small file, at most ``limit`` bytes of it, with a full stop behind it.

    It does not go through a shell variable, which could hold no NUL byte.
    """
    return (
        f"{PLACE}{_READ_FILE}\npath=$(place {quote(path)})\n"
        'ask resolved readlink --verbose --canonicalize-existing -- "$path" && '
        f'read_file file "$path" {limit}\n'
    )


def build_read_bytes(request: LogRequest) -> str:
    """Read a part of any file."""
    return (
        f"{PLACE}{_READ_LOG}\npath=$(place {quote(request.path)})\n"
        f'read_log {request.name} "$path" {request.offset} {request.limit}\n'
    )


def build_write_file(path: str, text: str, mode: int) -> str:
    """Write a small file as a whole: under another name first, then renamed."""
    return (
        f"{PLACE}\npath=$(place {quote(path)})\n"
        'put() { umask 077; printf \'%s\' "$2" >"$1"; }\n'
        f'ask write put "$path.new" {quote(text)} &&\n'
        f'  ask write chmod {mode:o} -- "$path.new" && ask write mv -f -- "$path.new" "$path"\n'
    )


def build_query(job_ids: Sequence[str]) -> str:
    """Ask squeue and sacct about jobs, once."""
    return build_poll(PollRequest(queued=tuple(job_ids), accounted=tuple(job_ids)))


def build_probe() -> str:
    """Ask who and where we are and which Slurm answers."""
    return """
ask user id -un
ask host uname -n
frame home 0 "$HOME"
frame path 0 "$PATH"
ask sbatch command -v sbatch
ask version sbatch --version
ask config scontrol show config
frame clock 0 "$(date +%s)"
"""
