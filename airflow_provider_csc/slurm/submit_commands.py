"""
The shell programs of a submission: claim, submit, record; and look for what was submitted before.

Nothing runs twice, because two things are atomic on every shared file system. Who makes the run
directory submits (`mkdir`). Should a submission be thought lost and be made again, both jobs have
the same run directory, and the one whose id is linked to ``job_id`` first is the one (`ln`): the
other is cancelled by its submission, or ends by itself before it runs anything (see `batch`). In
the same way a later try gives up a claim that was left without an id: it links a text that is no
id, and whatever still comes of the claim does nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import assignments, quote, words
from airflow_provider_csc.slurm.run_dir import fill_names
from airflow_provider_csc.slurm.shell import CANCEL, PLACE, SLURM, sacct, squeue

if TYPE_CHECKING:
    from collections.abc import Sequence

# What stands in place of a job's id once a later submission has given up a claim.
GIVEN_UP = "given up for"

# Seen on 22.05: slurmdbd stores " as `, and what is not in its database's character set as ?.
_STORED_AS_IT_IS = re.compile(r"[\w .:/+=@%#(){}<>|;&*!?~^-]+", re.ASCII)

# Linux takes no longer argument than 128 KiB (execve(2), MAX_ARG_STRLEN).
_MAX_ARGUMENT = 100_000

# A submission is a few dozen steps, and each `$(...)` is a process: what bash can do by itself it
# does by itself, and functions put what they find into a variable, which they are given or which
# has a name here.
#
# What the submission itself made of the base directory is removed again when nothing comes of it;
# what was there before stays, for it may have a group and modes that a new one would not have.
# `parent VARIABLE PATH` is dirname(1), `missing VARIABLE PATH` the topmost that is not there.
PRUNE = r"""
parent() {
  local of=$2
  while [[ $of == ?*/ ]]; do of=${of%/}; done
  case $of in
    */*) of=${of%/*} ;;
    *) of=. ;;
  esac
  while [[ $of == ?*/ ]]; do of=${of%/}; done
  printf -v "$1" '%s' "${of:-/}"
}
missing() {
  local path=$2 first=
  while [ ! -e "$path" ]; do
    first=$path
    parent path "$path"
  done
  printf -v "$1" '%s' "$first"
}
prune() {
  local path=$1
  [ -n "$2" ] || return
  while { [ ! -e "$path" ] || rmdir -- "$path" 2>/dev/null; } && [ "$path" != "$2" ]; do
    parent path "$path"
  done
}
"""

# The job starts with the user's umask, since sbatch hands on its own; and where it is told to,
# since a script's own --chdir goes before the directory sbatch is in. In --output Slurm replaces %j
# and its like, and takes backslashes for escapes that turn off the replacing (tried on 22.05).
#
# `send` ends its shell: it is for `ask`. Of its own umask bash tells in a process only; Linux tells
# it in a file (since 4.7).
HELPERS = (
    r"""
put() {
  local own=$2.$HOSTNAME.$BASHPID
  printf '%s' "$3" >"$own" && chmod "$1" -- "$own" && mv -f -T -- "$own" "$2" && return
  rm -f -- "$own"
  return 1
}
enter() { cd -- "$1" && [ -w . ] && pwd; }
read_umask() {
  local key
  while read -r key user_umask && [ "$key" != Umask: ]; do :; done </proc/self/status
  user_umask=${user_umask:-$(umask)}
} 2>/dev/null
send() {
  umask "$user_umask" && cd -- "$cwd" &&
    exec timeout 150 sbatch --parsable ${work_dir:+"--chdir=$cwd"} "$@"
}
# find_id: set $id to the last line of $answer that begins with the id of a job.
find_id() {
  local line left=$answer$'\n'
  id=
  while [ -n "$left" ]; do
    line=${left%%$'\n'*}
    left=${left#*$'\n'}
    case ${line%%;*} in '' | *[!0123456789]*) ;; *) id=$line ;; esac
  done
}
pattern() {
  case $2 in
    *\\*) printf -v "$1" '%s' "${2//\\/\\\\}" ;;
    *) printf -v "$1" '%s' "${2//\%/%%}" ;;
  esac
}
# place_of DIR: set $run_started, $part (which tasks of an array it runs) and $element (token and
# index in an array of several tasks) from its identity.
place_of() {
  local text=
  element= part= run_started=
  { IFS= read -r -d '' text <"$1/@IDENTITY"; } 2>/dev/null
  [[ $text =~ \"run_started\":\ \"([^\"]*)\" ]] && run_started=${BASH_REMATCH[1]}
  [[ $text =~ \"group\":\ \"([^\"]*)\",\ \"index\":\ ([0-9]+)\} ]] &&
    element="${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
  [[ $text =~ \"array\":\ \"([^\"]*)\" ]] && part=${BASH_REMATCH[1]}
  return 0
}
earlier() { local LC_ALL=C; [ -n "$1" ] && [ -n "$2" ] && [[ $1 < $2 ]]; }
older_than_run() {
  local made
  [ -n "$run_seconds" ] && [ ! -e "$1/@IDENTITY" ] && [ -e "$1/@SCRIPT" ] || return
  made=$(stat --format=%Y -- "$1/@SCRIPT" 2>/dev/null) || return
  [ "$(($(date +%s) - made))" -gt "$((run_seconds + 60))" ]
}
cancel() {
  local said status
  case $1 in '' | *[!0-9_]*) return 0 ;; esac
  said=$(cancel_jobs "$1" 2>&1)
  status=$?
  printf '%s\n' "$said"
  case $said in *'Invalid job id'* | *'already completing or completed'*) return 0 ;; esac
  return "$status"
}
# first_id: set $first to what stands first in the run directory's record; empty where none does.
first_id() {
  first=
  { IFS= read -r first <"$run_dir/@JOB_ID"; } 2>/dev/null
}
record() {
  local own=$run_dir/@JOB_ID.$HOSTNAME.$BASHPID status
  printf '%s\n' "$1" >"$own" &&
    { ln -T -- "$own" "$run_dir/@JOB_ID" || mv -T --no-clobber -- "$own" "$run_dir/@JOB_ID"; }
  status=$?
  rm -f -- "$own"
  return "$status"
}
"""
    + CANCEL
)

# Who waits for the answer may be gone when sbatch is done; the id is recorded all the same. Files
# are replaced as a whole, for a job of this directory that was thought lost may be reading them. An
# id that could not be recorded is not made up for by the paths: `batch` reads the first line.
#
# Nobody reads in a directory that this step has just made, so there the files are written in place.
# Should the step hang so long that it is thought lost and its claim is taken over, noclobber keeps
# it from touching what the other has written (O_EXCL). The batch script comes last, and of one that
# does not fit into the disk nothing stays. Whatever it is that fails, the files are then written
# the other way, which also tells what is wrong.
_SUBMIT = r"""
submit() {
  local base new_base run_dir cwd id first user_umask output is_new=
  trap '' PIPE HUP
  read_umask
  umask 077
  place base "$base_dir"
  run_dir=$base/$token
  cwd=$run_dir
  frame run_dir 0 "$run_dir"
  if [ -n "$work_dir" ]; then
    place cwd "$work_dir"
    ask work_dir enter "$cwd" || return
  fi
  parent base "$run_dir"
  missing new_base "$base"
  frame new_base 0 "$new_base"
  set_aside && claim || return
  if [ -e "$run_dir/@CANCEL" ]; then frame killed 0 ''; return; fi
  { [ -n "$is_new" ] && ask files write_files && write_batch; } || replace_files || return
  pattern output "$run_dir"
  case $own_output in
    '') ;;
    array) options+=(--output="$output/@ARRAY_LOG") ;;
    *) options+=(--output="$output/@LOG") ;;
  esac
  ask sbatch send "${options[@]}" "$run_dir/@BATCH" "$run_dir" && find_id
  if [ -z "$id" ]; then
    printf '%s' "$answer" >"$run_dir/@NO_VERDICT"
    return
  fi
  record "$id" 2>/dev/null
  frame record "$?" ''
  first_id
  if [ -n "$first" ] && [ "${first%%;*}" != "${id%%;*}" ]; then
    ask stray cancel "${id%%;*}"
    [ ! -e "$run_dir/@CANCEL" ] || ask stray cancel "${first%%;*}"
    show_existing
    return
  fi
  if [ -e "$run_dir/@CANCEL" ]; then ask killed cancel "${id%%;*}"; fi
  [ -n "$asks_paths" ] || return
  ask paths scontrol --oneliner show job "${id%%;*}"
  [ -z "$first" ] || printf '\n%s\n' "$answer" >>"$run_dir/@JOB_ID"
}
# What a deleted DAG run of the same id left: its job must be gone before its files are replaced.
# Run directories of 0.1 do not say whose they are; their age does, by the cluster's own clock.
set_aside() {
  local ours=$run_started first id= element part run_started
  place_of "$run_dir"
  if earlier "$ours" "$run_started"; then frame newer 1 "$run_started"; return 1; fi
  earlier "$run_started" "$ours" || older_than_run "$run_dir" || return 0
  first_id
  [[ $first =~ ^[0123456789]+(_[0123456789]+)? ]] && id=${BASH_REMATCH[0]}
  ask superseded cancel "$id" || return
  ask aside mv -T -- "$run_dir" "$run_dir~$(stat --format=%Y -- "$run_dir")"
}
claim() {
  if [ -n "$takes_over" ] && [ ! -e "$run_dir/@JOB_ID" ]; then
    rm -f -- "$run_dir/@NO_VERDICT"
    ask claim mkdir -p -m 700 -- "$run_dir"
    return
  fi
  { [ -d "$base" ] || ask base mkdir -p -- "$base"; } &&
    ask claim exec mkdir -m 700 -- "$run_dir" && is_new=1 && return
  if [ ! -d "$run_dir" ]; then
    prune "$base" "$new_base"
  elif [ -e "$run_dir/@CANCEL" ] && [ ! -e "$run_dir/@JOB_ID" ]; then
    frame killed 0 ''
  else
    show_existing
  fi
  return 1
}
write_files() {
  set -C
  printf '%s' "$identity" >"$run_dir/@IDENTITY" &&
    printf '%s' "$script" >"$run_dir/@SCRIPT" &&
    { [ -z "$exports" ] || printf '%s' "$exports" >"$run_dir/@EXPORTS"; } &&
    { [ -z "$helper" ] || printf '%s' "$helper" >"$run_dir/@STAGE"; } &&
    exec chmod 700 -- "$run_dir/@SCRIPT"
}
write_batch() {
  local status
  set -C
  { printf '%s' "$batch" || { rm -f -- "$run_dir/@BATCH"; false; }; } >"$run_dir/@BATCH"
  status=$?
  set +C
  return "$status"
} 2>/dev/null
replace_files() {
  ask files put 600 "$run_dir/@IDENTITY" "$identity" &&
    ask files put 700 "$run_dir/@SCRIPT" "$script" &&
    { [ -z "$exports" ] || ask files put 600 "$run_dir/@EXPORTS" "$exports"; } &&
    { [ -z "$helper" ] || ask files put 600 "$run_dir/@STAGE" "$helper"; } &&
    ask files put 600 "$run_dir/@BATCH" "$batch"
}
show_existing() {
  local element part run_started
  place_of "$run_dir"
  frame group 0 "$element"
  frame array 0 "$part"
  ask existing cat -- "$run_dir/@JOB_ID"
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """
    Everything one submission consists of.

    ``base_dir`` and ``work_dir`` are absolute or begin with ``~``; without ``work_dir`` the job
    runs in its run directory. With ``own_output`` the log goes into the run directory, because the
    user named no other place; with ``asks_paths`` Slurm is asked where output or error go.
    ``asked`` are the options that the user, the script or the connection chose, for messages.
    ``identity`` is written beside the script (JSON); ``run_started`` is when the DAG run began (ISO
    8601): a run directory of an earlier one was left by a run of the same id that was deleted.
    ``array`` is which tasks of an array are submitted, as `array_parts.format_part` writes it;
    empty for a single job.
    ``exports`` is the file of variables that a batch script which several tasks share reads.
    ``helper`` is the program by which a job fetches and delivers files. ``architecture`` is what
    the job's environment is built for, where that is known.
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
    identity: str = "{}"
    run_started: str = ""
    array: str = ""
    exports: str = ""
    helper: str = ""
    architecture: str | None = None


def build_submit(
    request: SubmitRequest, *, takes_over: bool = False, run_seconds: float | None = None
) -> str:
    """
    Claim the run directory, write the files, submit, record the id: one remote step.

    ``takes_over`` submits in a run directory whose own submission was found to be lost. The DAG run
    began ``run_seconds`` ago, where that is known: an older run directory that does not say whose
    it is was left by a run of the same id that was deleted.
    """
    values = assignments(
        {
            "base_dir": request.base_dir,
            "token": request.token,
            "work_dir": request.work_dir or "",
            "own_output": _own_output(request),
            "asks_paths": "1" if request.asks_paths else "",
            "takes_over": "1" if takes_over else "",
            "run_started": request.run_started,
            "run_seconds": "" if run_seconds is None else f"{run_seconds:.0f}",
            "identity": request.identity,
            "script": request.script,
            "batch": request.batch,
            "exports": request.exports,
            "helper": request.helper,
        }
    )
    functions = fill_names(f"{PLACE}{SLURM}{PRUNE}{HELPERS}{_SUBMIT}")
    return f"{values}\noptions=({words(request.options)})\n{functions}\nsubmit\n"


def _own_output(request: SubmitRequest) -> str:
    if not request.own_output:
        return ""
    return "array" if request.array else "1"


# Whoever takes over removes the note that there was no verdict before anything else.
_DISCARD = r"""
if [ ! -e "$run_dir/@JOB_ID" ] && { [ -e "$run_dir/@NO_VERDICT" ] || [ ! -e "$run_dir/@BATCH" ]; }
then
  ask discard rm -rf -- "$run_dir"
  parent base "$run_dir"
  prune "$base" "$new_base"
fi
"""


def build_discard(run_dir: str, new_base: str = "") -> str:
    """
    Remove a run directory in which no job was submitted, unless somebody else is about to.

    ``new_base`` is the topmost of the directories above it that the submission had made.
    """
    values = assignments({"run_dir": run_dir, "new_base": new_base})
    return f"{values}\n{PRUNE}{fill_names(_DISCARD)}"


# A claim without an id that names an array: its job, if there is one, is an element of that. Files
# are read by the shell itself, for a look-up may be about a thousand task instances.
_LOOK_UP = r"""
exits() { cat -- "$1"/@ARRAY_EXITS 2>/dev/null; }
made() { stat --format=%Y -- "$1" 2>/dev/null; }
show() {
  local text=
  [ -r "$2" ] || { frame "$1" 1 ''; return; }
  IFS= read -r -d '' text <"$2"
  frame "$1" 0 "${text%$'\n'}"
}
look() {
  local dir=$1 suffix=$2 array= name= element part run_started
  place_of "$dir"
  frame "dir.$suffix" 0 "$dir"
  [ ! -e "$dir/@SCRIPT" ] || array=/@SCRIPT
  frame "made.$suffix" 0 "$(made "$dir$array")"
  frame "run.$suffix" 0 "$run_started"
  show "job_id.$suffix" "$dir/@JOB_ID"
  show "exit.$suffix" "$dir/@EXIT"
  show "verdict.$suffix" "$dir/@VERDICT"
  frame "group.$suffix" 0 "$element"
  array=$base/${element%% *}
  if [ -n "$part" ]; then
    frame "array.$suffix" 0 "$part"
    [ -e "$dir/@VERDICT" ] || ask "exits.$suffix" exits "$dir"
  fi
  [ ! -e "$dir/@CANCEL" ] || frame "cancel.$suffix" 0 ''
  if [ -e "$dir/@NO_VERDICT" ]; then
    frame "no_verdict.$suffix" 0 "$(made "$dir/@NO_VERDICT")"
  elif [ "$array" != "$base/" ] && [ ! -e "$dir/@JOB_ID" ]; then
    show "group_id.$suffix" "$array/@JOB_ID"
    [ ! -e "$array/@NO_VERDICT" ] || frame "no_verdict.$suffix" 0 "$(made "$array/@NO_VERDICT")"
    IFS= read -r -d '' name <"$array/@NAME"
    name=${name%$'\n'}
    names=${name:+${names:+$names,$name}}
  fi 2>/dev/null
}
look_for_all() {
  local dir name key
  for dir in "$base"/af*; do
    name=${dir##*/}
    key=${name%%.*}
    [ -n "${wanted[$key]}" ] || continue
    case ${name#"$key."} in '' | *[!0-9.]*) continue ;; esac
    [ -d "$dir" ] && look "$dir" "${is_many:+$key.}${name#"$key."}"
  done
}
declare -A wanted=()
for key in "${keys[@]}"; do wanted[$key]=1; done
look_for_all
"""


def build_look_up(*, base_dir: str, key: str, names: Sequence[str], since: int) -> str:
    """
    Ask for every submission of a task instance: run directories, then squeue, then sacct by name.

    ``since`` (seconds since 1970) bounds sacct's search, which a site's database pays for. Names
    that slurmdbd would not have stored as they are, or that sacct reads as a notation of its own
    (quotes, brackets), cannot be searched for, nor can more than fit one argument; then it is asked
    for all the user's jobs since, and the reader picks out the right ones.
    """
    return _build_look_up(base_dir, [key], names, since, is_many=False)


def build_look_ups(*, base_dir: str, keys: Sequence[str], names: Sequence[str], since: int) -> str:
    """Ask the same for many task instances at once; each frame's name then holds its key."""
    return _build_look_up(base_dir, keys, names, since, is_many=True)


def _build_look_up(
    base_dir: str, keys: Sequence[str], names: Sequence[str], since: int, *, is_many: bool
) -> str:
    listed = searchable(names)
    look = fill_names(HELPERS + _LOOK_UP)
    return f"""{PLACE}{SLURM}
keys=({words(keys)})
is_many={"1" if is_many else ""}
names={quote(listed)}
place base {quote(base_dir)}
since=$(date --date=@{since} +%FT%T)
frame clock 0 "$(date +%s)"
frame base 0 "$base"
{look}
[ "${{#names}}" -lt {_MAX_ARGUMENT} ] || names=
ask squeue {squeue()} --me
ask sacct {sacct()} --allocations --starttime="$since" ${{names:+--name="$names"}}
"""


def searchable(names: Sequence[str]) -> str:
    """Return names as ``sacct --name`` takes them, or nothing where it would not find them."""
    listed = ",".join(names)
    is_stored = all(_STORED_AS_IT_IS.fullmatch(name) for name in names)
    return listed if is_stored and len(listed) < _MAX_ARGUMENT else ""


_GIVE_UP = r"""
give_up() {
  [ -d "$run_dir" ] || return 0
  [ -e "$run_dir/@JOB_ID" ] || record "$1"
  head -n 1 -- "$run_dir/@JOB_ID" 2>/dev/null
}
"""


def build_give_up(run_dirs: Sequence[str], token: str) -> str:
    """
    Give up claims in favour of another submission: no job of theirs will run anything.

    A claim that has got an id by now is not given up; the answer is that id.
    """
    lines = [SLURM, fill_names(HELPERS + _GIVE_UP)]
    for number, run_dir in enumerate(run_dirs):
        lines += [
            f"run_dir={quote(run_dir)}",
            f"ask given_up.{number} give_up {quote(f'{GIVEN_UP} {token}')}",
        ]
    return "\n".join(lines) + "\n"


def build_show_job(job_id: str) -> str:
    """Ask slurmctld for all it knows of one job; it forgets it MinJobAge after its end."""
    return f"ask job scontrol --oneliner show job {quote(job_id)}\n"
