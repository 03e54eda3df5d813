"""
The shell programs that a site runs for us, as text.

Each is one remote command, framed as `framing` describes; `output` reads the answers. They need
bash, coreutils and Slurm's own commands, and leave nothing running.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from os.path import commonprefix
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import quote
from airflow_provider_csc.slurm.output import PUT_OFF, base_of
from airflow_provider_csc.slurm.run_dir import (
    ARRAY_EXIT_FILE,
    EXIT_FILE,
    PROGRESS_FILE,
    VERDICT_FILE,
)
from airflow_provider_csc.slurm.shell import (
    PLACE,
    SLURM,
    id_list,
    join_path,
    sacct,
    split_ids,
    squeue,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


# Not frozen, as is `PollRequest`: of both, thousands are made in each round.
@dataclass(slots=True, kw_only=True)
class LogRequest:
    """
    Read at most ``limit`` bytes of a file from ``offset``; negative: from the end.

    Nothing is answered where the file still has its ``known`` size.
    """

    name: str
    path: str
    offset: int
    limit: int
    known: int = -1


# How many bytes of all logs one remote command sends at the most, before base64.
LOG_BYTES = 4 * 1024 * 1024
# What is sent of a log counts for as much at least: reading one takes processes on the log-in node.
_LEAST_LOG_BYTES = 4096
# One stat for as many logs as fit into its arguments.
_STAT_BYTES = 60_000
# ``logs`` holds name, path, offset, limit and known size of each in turn. Only of what has changed
# there is an answer, and only what is sent of it costs processes. The room is shared: each log gets
# an equal part of it, and what short ones leave goes to the longer ones in their order.
#
# In base64, because only then the size of what could be read is known before it is sent: a log that
# breaks off in the middle (an input/output error) must not break the answer for every other job.
_READ_LOGS = (
    """
read_logs() {
  local LC_ALL=C i k path size start want cost part bytes=0
  local -a indexes=() paths=() sizes=() found=() starts=() wants=() gives=()
  for ((i = 0; i < ${#logs[@]}; i += 5)); do
    path=${logs[i + 1]}
    if [ -r "$path" ] && [ ! -d "$path" ]; then
      indexes+=("$i") paths+=("$path")
      bytes=$((bytes + ${#path} + 1))
      [ "$bytes" -lt @STAT ] || { stat_logs; bytes=0; }
    else
      frame "${logs[i]}" 1 ''
    fi
  done
  stat_logs
  give_room
  for k in "${!found[@]}"; do
    i=${found[k]}
    if [ "${gives[k]}" -eq 0 ]; then
      frame "${logs[i]}" 0 "${sizes[k]} ${starts[k]} @PUT_OFF"
    else
      frame "${logs[i]}" 0 "${sizes[k]} ${starts[k]} $(
        dd if="${logs[i + 1]}" bs=65536 skip="${starts[k]}" count="${gives[k]}" \\
          iflag=skip_bytes,count_bytes,fullblock 2>/dev/null | base64 --wrap=0)"
    fi
  done
}

# Take in the sizes of some paths; where one is gone meanwhile, of each by itself.
stat_logs() {
  local k
  local -a seen
  [ "${#paths[@]}" -gt 0 ] || return
  seen=($(stat --dereference --format=%s -- "${paths[@]}" 2>/dev/null))
  for k in "${!paths[@]}"; do
    [ "${#seen[@]}" -eq "${#paths[@]}" ] && size=${seen[k]} ||
      size=$(stat --dereference --format=%s -- "${paths[k]}" 2>/dev/null)
    note_log "${indexes[k]}"
  done
  indexes=() paths=()
}

note_log() {
  [ -n "$size" ] || { frame "${logs[$1]}" 1 ''; return; }
  [ "$size" -ne "${logs[$1 + 4]}" ] || return
  start=${logs[$1 + 2]}
  [ "$start" -ge 0 ] || { start=$((size + start)); [ "$start" -ge 0 ] || start=0; }
  want=$((size - start))
  [ "$want" -le "${logs[$1 + 3]}" ] || want=${logs[$1 + 3]}
  [ "$want" -gt 0 ] || { frame "${logs[$1]}" 0 "$size $start "; return; }
  found+=("$1") sizes+=("$size") starts+=("$start") wants+=("$want")
}

give_room() {
  [ "${#found[@]}" -gt 0 ] || return
  part=$((room / ${#found[@]}))
  [ "$part" -ge @LEAST ] || part=@LEAST
  for k in "${!found[@]}"; do
    want=${wants[k]}
    [ "$want" -le "$part" ] || want=$part
    cost=$want
    [ "$cost" -ge @LEAST ] || cost=@LEAST
    [ "$cost" -le "$room" ] && room=$((room - cost)) || want=0
    gives[k]=$want
  done
  for k in "${!found[@]}"; do
    [ "${gives[k]}" -gt 0 ] || continue
    want=$((wants[k] - gives[k]))
    [ "$want" -le "$room" ] || want=$room
    gives[k]=$((gives[k] + want)) room=$((room - want))
  done
}
""".replace("@STAT", str(_STAT_BYTES))
    .replace("@LEAST", str(_LEAST_LOG_BYTES))
    .replace("@PUT_OFF", PUT_OFF)
)


def _read_logs(requests: Sequence[LogRequest], room: int) -> str:
    # Run directories lie in one place, as a rule; of thousands it need not be said each time.
    paths = [log.path for log in requests]
    place = commonprefix(paths).rpartition("/")[0]  # noqa: RUF071 - it is cut at a slash
    wanted = "\n".join(
        f'{log.name} "$in"{quote(log.path[len(place) :])} {log.offset} {log.limit} {log.known}'
        for log in requests
    )
    return f"{_READ_LOGS}\nroom={room} in={quote(place)}\nlogs=(\n{wanted}\n)\nread_logs\n"


@dataclass(slots=True, kw_only=True)
class PollRequest:
    """
    What one round asks a site; empty parts cost nothing.

    ``queued`` are jobs that squeue is asked about, ``owned`` those among all jobs of the user whom
    we log in as, which is cheaper; ``accounted`` are for sacct, ``detailed`` for scontrol.
    ``acknowledged`` and ``verdicts`` are written into run directories.
    ``array_records`` are exit records of tasks of arrays: the name of their frame, the run
    directory, and the tasks by Slurm's ids.
    """

    queued: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()
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


@dataclass(frozen=True, slots=True)
class Question:
    """One call of a Slurm command: the frame of its answer, and the jobs it is asked about."""

    frame: str
    command: str
    job_ids: Sequence[str]


# Squeue compares each job it was sent with each id it was given, one by one; of more ids than this
# it is asked for all jobs of the user.
_MOST_LISTED = 1000


def queue_questions(request: PollRequest) -> list[Question]:
    """Return how squeue is asked: as few times as the ids fit into its argument."""
    plain = group_elements(request.queued)
    known = set(plain)
    owned = group_elements(request.owned)
    if known:
        owned = [each for each in owned if not known.intersection((each, base_of(each)))]
    questions = _questions("squeue", squeue(), plain)
    if len(owned) > _MOST_LISTED:
        # Jobs in hidden partitions it shows only of a list, or of all (src/squeue/squeue.c).
        return [*questions, Question(_MINE, f"{squeue(only_mine=True)} --all", owned)]
    # Of a single id slurmctld sends that job alone, whosever it is.
    mine = squeue(only_mine=True) if len(owned) > 1 else squeue()
    return [*questions, *_questions(_MINE, mine, owned)]


_MINE = "squeue.mine"


def accounting_questions(request: PollRequest) -> list[Question]:
    """Return how sacct is asked; of an array for no more elements than are wanted."""
    return _questions("sacct", sacct(), request.accounted)


def _questions(frame: str, command: str, job_ids: Iterable[str]) -> list[Question]:
    return [
        Question(
            f"{frame}.{number}" if number else frame, f"{command} --jobs={id_list(chunk)}", chunk
        )
        for number, chunk in enumerate(split_ids(job_ids))
    ]


def group_elements(job_ids: Iterable[str]) -> list[str]:
    """
    Return job ids with one in place of several elements of one array.

    Squeue shows of an array little more than is alive, and what waits as one row.
    """
    unique = set(job_ids)
    bases = {job_id: base_of(job_id) for job_id in unique if not job_id.isdecimal()}
    elements = Counter(base for job_id, base in bases.items() if "_" in job_id)
    for job_id, base in bases.items():
        if elements[base] > 1 or base in unique:
            unique.remove(job_id)
            unique.add(base)
    return sorted(unique)


# The frame of what scontrol says of a job is named by this and the job's id; that of what it says
# of all jobs by the name alone.
CONTROLLER_FRAME = "scontrol."
ALL_JOBS_FRAME = "scontrol"
# Of more jobs than that scontrol is asked at once, for it takes one id or none.
_MOST_DETAILED = 16

# As a whole or not at all: a full disk must not take away what was noted before.
_NOTE = """
note() { printf '%s\\n' "$2" >"$1.new" && mv -f -- "$1.new" "$1"; }
"""

# Without a process for each; as of cat, what is there is answered without the last newlines.
_READ_RECORD = """
read_record() {
  local text=
  if [ -f "$2" ] && [ -r "$2" ]; then
    IFS= read -r -d '' text <"$2"
    while [[ $text == *$'\\n' ]]; do text=${text%$'\\n'}; done
    frame "$1" 0 "$text"
  elif [ -e "$2" ]; then
    frame "$1" 1 "$2: cannot be read"
  else
    frame "$1" 1 "$2: No such file or directory"
  fi
}
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
    questions = [*queue_questions(request), *accounting_questions(request)]
    lines.extend(f"ask {question.frame} {question.command}" for question in questions)
    lines.extend(_ask_controller(sorted(set(request.detailed))))
    records = [
        *((name, join_path(run_dir, EXIT_FILE)) for name, run_dir in request.exit_records),
        *((name, join_path(run_dir, PROGRESS_FILE)) for name, run_dir in request.progress),
    ]
    if records:
        lines.append(_READ_RECORD)
    lines.extend(f"read_record {name} {quote(path)}" for name, path in records)
    if request.array_records:
        lines.append(_ARRAY_RECORDS)
    for name, run_dir, indices in request.array_records:
        numbers = " ".join(map(str, indices))
        directory, pattern = quote(run_dir), quote(ARRAY_EXIT_FILE)
        lines.append(f"ask {name} array_records {directory} {pattern} {numbers}")
    if request.logs:
        lines.append(_read_logs(request.logs, LOG_BYTES))
    return "\n".join(lines) + "\n"


def _ask_controller(job_ids: Sequence[str]) -> list[str]:
    ask = "slurm scontrol --oneliner show job"
    if len(job_ids) > _MOST_DETAILED:
        return [f"ask {ALL_JOBS_FRAME} {ask}"]
    return [f"ask {CONTROLLER_FRAME}{job_id} {ask} {quote(job_id)}" for job_id in job_ids]


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
        f"{PLACE}{_READ_FILE}\nplace path {quote(path)}\n"
        'ask resolved readlink --verbose --canonicalize-existing -- "$path" && '
        f'read_file file "$path" {limit}\n'
    )


def build_read_bytes(request: LogRequest) -> str:
    """Read a part of any file."""
    return (
        f"{PLACE}{_READ_LOGS}\nroom={max(request.limit, _LEAST_LOG_BYTES)}\n"
        f'place path {quote(request.path)}\nlogs=({request.name} "$path" {request.offset} '
        f"{request.limit} {request.known})\nread_logs\n"
    )


def build_write_file(path: str, text: str, mode: int) -> str:
    """Write a small file as a whole: under another name first, then renamed."""
    return (
        f"{PLACE}\nplace path {quote(path)}\n"
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
