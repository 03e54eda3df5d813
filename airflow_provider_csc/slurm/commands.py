"""
The shell programs that a site runs for us, as text.

Each is one remote command, framed as `framing` describes; `output` reads the answers. They need
bash, coreutils and Slurm's own commands, and leave nothing running.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.batch import (
    BATCH_FILE,
    EXIT_FILE,
    JOB_ID_FILE,
    LOG_FILE,
    PROGRESS_FILE,
    SCRIPT_FILE,
)
from airflow_provider_csc.slurm.framing import assignments, quote, words
from airflow_provider_csc.slurm.output import ACCOUNTING_FORMAT, QUEUE_FORMAT, SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What a user's own SQUEUE_PARTITION or SCANCEL_STATE leaves out would look like a job that is not
# there. Times come as strftime(3)'s %s: seconds since 1970, whatever the site's zone; the ids of a
# pending array come in full (by default they are cut after 64 characters).
_SLURM = """
slurm() {
  unset "${!SQUEUE_@}" "${!SCANCEL_@}"
  SLURM_TIME_FORMAT=%s SLURM_BITSTR_LEN=0 "$@"
}
"""
_SEPARATOR = f"$'\\x{ord(SEPARATOR):02x}'"

# Seen on 22.05: slurmdbd stores " as `, and what is not in its database's character set as ?.
_STORED_AS_IT_IS = re.compile(r"[\w .:/+=@%#(){}<>|;&*!?~^-]+", re.ASCII)

_PLACE = """
place() {
  case $1 in
    '~') printf '%s' "$HOME" ;;
    '~/'*) printf '%s' "$HOME/${1#'~/'}" ;;
    *) printf '%s' "$1" ;;
  esac
}
"""

# What the submission itself made of the base directory is removed again when nothing comes of it;
# what was there before stays, for it may have a group and modes that a new one would not have.
_PRUNE = r"""
missing() {
  local path=$1 first=
  while [ ! -e "$path" ]; do
    first=$path
    path=$(dirname -- "$path")
  done
  printf '%s' "$first"
}
prune() {
  local path=$1
  [ -n "$2" ] || return
  while { [ ! -e "$path" ] || rmdir -- "$path" 2>/dev/null; } && [ "$path" != "$2" ]; do
    path=$(dirname -- "$path")
  done
}
"""

# The job starts with the user's umask, since sbatch hands on its own; and where it is told to,
# since a script's own --chdir goes before the directory sbatch is in. In --output Slurm replaces %j
# and its like, and takes backslashes for escapes that turn off the replacing (tried on 22.05).
_SUBMIT = r"""
put() { printf '%s' "$2" >"$1"; }
enter() { cd -- "$1" && [ -w . ] && pwd; }
send() {
  umask "$user_umask" && cd -- "$cwd" &&
    timeout 150 sbatch --parsable ${work_dir:+"--chdir=$cwd"} "$@"
}
pattern() {
  case $1 in
    *\\*) printf '%s' "${1//\\/\\\\}" ;;
    *) printf '%s' "${1//\%/%%}" ;;
  esac
}
older_than_run() {
  local made
  [ -n "$run_seconds" ] && made=$(stat --format=%Y -- "$1/SCRIPT" 2>/dev/null) || return
  [ "$(($(date +%s) - made))" -gt "$((run_seconds + 60))" ]
}
submit() {
  local base new_base run_dir cwd id user_umask
  user_umask=$(umask)
  umask 077
  base=$(place "$base_dir")
  run_dir=$base/$token
  cwd=$run_dir
  frame run_dir 0 "$run_dir"
  if [ -n "$work_dir" ]; then
    cwd=$(place "$work_dir")
    ask work_dir enter "$cwd" || return
  fi
  base=$(dirname -- "$run_dir")
  new_base=$(missing "$base")
  frame new_base 0 "$new_base"
  if older_than_run "$run_dir"; then
    # Its job must be gone first: the files it would run were to be another's.
    id=$(grep -E -o '^[0-9]+' -- "$run_dir/JOB_ID" | head -n 1)
    if [ -n "$id" ]; then ask superseded scancel -- "$id" || return; fi
    ask superseded mv -- "$run_dir" "$run_dir~$(stat --format=%Y -- "$run_dir/SCRIPT")" || return
  fi
  if ! ask base mkdir -p -- "$base" || ! ask claim mkdir -- "$run_dir"; then
    if [ -d "$run_dir" ]; then
      ask existing cat -- "$run_dir/JOB_ID"
    else
      prune "$base" "$new_base"
    fi
    return
  fi
  ask files put "$run_dir/SCRIPT" "$script" &&
    ask files put "$run_dir/BATCH" "$batch" &&
    ask files chmod 700 "$run_dir/SCRIPT" || return
  [ -z "$own_output" ] || options+=(--output="$(pattern "$run_dir/LOG")")
  ask sbatch send "${options[@]}" "$run_dir/BATCH" "$run_dir" || return
  id=$(printf '%s\n' "$answer" | grep -E '^[0-9]+(;|$)' | tail -n 1)
  ask record put "$run_dir/JOB_ID" "$id"
  [ -n "$asks_paths" ] || return
  ask paths scontrol --oneliner show job "${id%%;*}"
  printf '\n%s\n' "$answer" >>"$run_dir/JOB_ID"
}
"""


def _fill(text: str) -> str:
    names = {"SCRIPT": SCRIPT_FILE, "BATCH": BATCH_FILE, "JOB_ID": JOB_ID_FILE, "LOG": LOG_FILE}
    for name, file in names.items():
        text = text.replace(f"/{name}", f"/{file}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """
    Everything one submission consists of.

    ``base_dir`` and ``work_dir`` are absolute or begin with ``~``; without ``work_dir`` the job
    runs in its run directory. With ``own_output`` the log goes into the run directory, because the
    user named no other place; with ``asks_paths`` Slurm is asked where output or error go.
    ``asked`` are the options that the user, the script or the connection chose, for messages.
    ``run_seconds`` is how long ago the DAG run began: a run directory that is older was left by a
    run of the same id that was deleted.
    """

    token: str
    base_dir: str
    work_dir: str | None
    script: str
    batch: str
    options: tuple[str, ...]
    own_output: bool
    asks_paths: bool
    asked: tuple[str, ...] = ()
    run_seconds: int | None = None


def build_submit(request: SubmitRequest) -> str:
    """Claim the run directory, write the files, submit, record the id: one remote step."""
    values = assignments(
        {
            "base_dir": request.base_dir,
            "token": request.token,
            "work_dir": request.work_dir or "",
            "own_output": "1" if request.own_output else "",
            "asks_paths": "1" if request.asks_paths else "",
            "run_seconds": "" if request.run_seconds is None else str(request.run_seconds),
            "script": request.script,
            "batch": request.batch,
        }
    )
    return (
        f"{values}\noptions=({words(request.options)})\n{_PLACE}{_PRUNE}{_fill(_SUBMIT)}\nsubmit\n"
    )


def build_discard(run_dir: str, new_base: str = "") -> str:
    """
    Remove a run directory in which no job was submitted.

    ``new_base`` is the topmost of the directories above it that the submission had made.
    """
    path = quote(run_dir)
    return f'{_PRUNE}ask discard rm -rf -- {path}\nprune "$(dirname -- {path})" {quote(new_base)}\n'


def build_look_up(*, base_dir: str, key: str, names: Sequence[str], since: int) -> str:
    """
    Ask for every submission of a task instance: run directories, then squeue, then sacct by name.

    ``since`` (seconds since 1970) bounds sacct's search, which a site's database pays for. Names
    that slurmdbd would not have stored as they are, or that sacct reads as a notation of its own
    (quotes, brackets), cannot be searched for; then it is asked for all the user's jobs since, and
    the reader picks out the right ones.
    """
    searchable = all(_STORED_AS_IT_IS.fullmatch(name) for name in names)
    by_name = f"--name={quote(','.join(names))}" if searchable else ""
    return f"""{_PLACE}{_SLURM}
base=$(place {quote(base_dir)})
since=$(date --date=@{since} +%FT%T)
frame clock 0 "$(date +%s)"
frame base 0 "$base"
for dir in "$base"/{key}.*; do
  [ -d "$dir" ] || continue
  frame "dir.${{dir##*.}}" 0 "$dir"
  made=$(stat --format=%Y -- "$dir/{SCRIPT_FILE}" 2>/dev/null) || made=$(stat --format=%Y -- "$dir")
  frame "made.${{dir##*.}}" 0 "$made"
  ask "job_id.${{dir##*.}}" cat -- "$dir/{JOB_ID_FILE}"
  ask "exit.${{dir##*.}}" cat -- "$dir/{EXIT_FILE}"
done
ask squeue {_squeue()} --me
ask sacct {_sacct()} --allocations --starttime="$since" {by_name}
"""


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
    """What one round asks a site; empty parts cost nothing."""

    queued: tuple[str, ...] = ()
    accounted: tuple[str, ...] = ()
    exit_records: tuple[tuple[str, str], ...] = ()
    progress: tuple[tuple[str, str], ...] = ()
    logs: tuple[LogRequest, ...] = ()
    acknowledged: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to ask."""
        return any(getattr(self, field.name) for field in fields(self))


def build_poll(request: PollRequest) -> str:
    """Ask squeue, sacct, exit records and new log bytes of many jobs in one remote command."""
    lines = [_SLURM, "frame clock 0 \"$(printf '%(%s)T' -1)\""]
    for run_dir, text in request.acknowledged:
        lines.append(f"printf '%s\\n' {quote(text)} >{quote(_join(run_dir, PROGRESS_FILE))}")
    if request.queued:
        lines.append(f"ask squeue {_squeue()} --jobs={_id_list(request.queued)}")
    if request.accounted:
        lines.append(f"ask sacct {_sacct()} --jobs={_id_list(request.accounted)}")
    for name, run_dir in request.exit_records:
        lines.append(f"ask {name} cat -- {quote(_join(run_dir, EXIT_FILE))}")
    for name, run_dir in request.progress:
        lines.append(f"ask {name} cat -- {quote(_join(run_dir, PROGRESS_FILE))}")
    if request.logs:
        lines.append(_READ_LOG)
    lines.extend(
        f"read_log {log.name} {quote(log.path)} {log.offset} {log.limit}" for log in request.logs
    )
    return "\n".join(lines) + "\n"


def build_cancel(job_ids: Sequence[str]) -> str:
    """Cancel jobs as scancel(1) does by default: SIGTERM, then SIGKILL after KillWait."""
    return f"{_SLURM}\nask scancel slurm scancel -- {words(job_ids)}\n"


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
        f"{_PLACE}{_READ_FILE}\npath=$(place {quote(path)})\n"
        'ask resolved readlink --verbose --canonicalize-existing -- "$path" && '
        f'read_file file "$path" {limit}\n'
    )


def build_read_bytes(request: LogRequest) -> str:
    """Read a part of any file."""
    return (
        f"{_PLACE}{_READ_LOG}\npath=$(place {quote(request.path)})\n"
        f'read_log {request.name} "$path" {request.offset} {request.limit}\n'
    )


def build_write_file(path: str, text: str, mode: int) -> str:
    """Write a small file as a whole: under another name first, then renamed."""
    return (
        f"{_PLACE}\npath=$(place {quote(path)})\n"
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


def _squeue() -> str:
    return f"slurm squeue --noheader --states=all --format={_ansi(QUEUE_FORMAT)}"


def _sacct() -> str:
    fields = ",".join(ACCOUNTING_FORMAT)
    return f"slurm sacct --noheader --parsable2 --delimiter={_SEPARATOR} --format={fields}"


def _ansi(text: str) -> str:
    return "$'" + text.replace(SEPARATOR, f"\\x{ord(SEPARATOR):02x}") + "'"


def _id_list(job_ids: Iterable[str]) -> str:
    unique = sorted(set(job_ids))
    # squeue answers an unknown id with an error when it is the only one asked for, and leaves it
    # out otherwise (src/squeue/squeue.c); asked for twice it is never the only one.
    return quote(",".join([*unique, unique[0]]))


def _join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"
