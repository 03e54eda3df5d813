"""
The shell programs that submit the jobs of many task instances as one array.

One remote command, and few processes whatever their number: a claim is an entry of one `mkdir`, the
files are written by bash itself, the ids are linked by one `cp`. What is atomic for a single
submission is so here, and by the same means (see `submit_commands`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_csc.slurm.framing import assignments, words
from airflow_provider_csc.slurm.run_dir import fill_names
from airflow_provider_csc.slurm.shell import PLACE, SLURM
from airflow_provider_csc.slurm.submit_commands import HELPERS, PRUNE, searchable

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow_provider_csc.slurm.coalescing import TaskArray

# Everything below the base directory is named relative to it. An element writes its log to a name
# with its index, which is all that Slurm can put into a path; the job itself gives it its name in
# the run directory (see `batch`). The batch script is written last: with it the array is ready.
_SUBMIT_ARRAY = r"""
submit_array() {
  local base new_base run_dir cwd id= user_umask
  local -a created=() indices=() executables=()
  local -A mine=() chosen=()
  trap '' PIPE HUP
  read_umask
  umask 077
  place base "$base_dir"
  run_dir=$base/$array
  cwd=$run_dir
  frame base_dir 0 "$base"
  frame run_dir 0 "$run_dir"
  if [ -n "$work_dir" ]; then
    place cwd "$work_dir"
    ask work_dir enter "$cwd" || return
  fi
  missing new_base "$base"
  frame new_base 0 "$new_base"
  ask base mkdir -p -- "$base" && ask base cd -- "$base" && cd -- "$base" || return
  claim_members || return
  if [ "${#indices[@]}" -gt 0 ]; then
    if [ ! -e "$array/@BATCH" ]; then
      ask files write_members && ask files write_array || { drop_claims; return; }
    fi
    rm -f -- "$array/@NO_VERDICT"
    submit_elements || return
    record_members
  fi
  tell_members
}
claim_members() {
  local line token problem= index
  while IFS= read -r line; do
    case $line in
      "mkdir: created directory '"*) token=${line#*\'} mine[${token%\'}]=1 ;;
      *': File exists') ;;
      *) problem+=$line$'\n' ;;
    esac
  done < <(LC_ALL=C mkdir --verbose --mode=700 -- "${tokens[@]}" 2>&1)
  if [ -n "$problem" ]; then
    [ "${#mine[@]}" -eq 0 ] || rmdir -- "${!mine[@]}"
    prune "$base" "$new_base"
    frame claim 1 "$problem"
    return 1
  fi
  for index in "${!tokens[@]}"; do
    token=${tokens[index]}
    if [ -z "${mine[$token]}" ]; then
      is_ours "$token" "$index" || continue
      mine[$token]=1
    fi
    [ -e "$token/@CANCEL" ] || { indices+=("$index"); chosen[$index]=1; }
  done
}
# A claim that was made for this very array, or one whose own submission was found to be lost.
is_ours() {
  [ ! -e "$1/@JOB_ID" ] || [ -n "$takes_over" ] || return
  place_of "$1"
  { [ -n "$takes_over" ] && [ "$element" = "$array $2" ]; } || [ -n "${lost[$1]}" ]
}
# Nothing was submitted for them, and nobody else has them; what a kill has marked stays.
drop_claims() {
  local index
  local -a dirs=("./$array")
  for index in "${indices[@]}"; do
    [ -e "${tokens[index]}/@CANCEL" ] || dirs+=("./${tokens[index]}")
  done
  rm -rf -- "${dirs[@]}"
  prune "$base" "$new_base"
}
write_members() {
  local index dir
  mkdir -p -m 700 -- "$array" || return
  for index in "${indices[@]}"; do
    dir=${tokens[index]}
    printf '%s' "${identities[index]}" >"$dir/@IDENTITY" &&
      printf '%s' "${exports[index]}" >"$dir/@EXPORTS" || return
    if [ -n "${scripts[index]}" ]; then
      printf '%s' "${scripts[index]}" >"$dir/@SCRIPT" || return
      executables+=("$dir/@SCRIPT")
    fi
  done
  [ "${#executables[@]}" -eq 0 ] || chmod 700 -- "${executables[@]}"
}
write_array() {
  put 700 "$run_dir/@SCRIPT" "$script" &&
    put 600 "$run_dir/@NAME" "$searched"$'\n' &&
    list_members >"$run_dir/@MEMBERS" &&
    put 600 "$run_dir/@BATCH" "$batch"
}
list_members() {
  local token
  for token in "${tokens[@]}"; do printf '%s\n' "$base/$token" || return; done
}
# ranges: the indices as --array takes them.
ranges() {
  local index first= last= text=
  for index in "${indices[@]}" ''; do
    [ -n "$last" ] && [ "$index" = "$((last + 1))" ] && { last=$index; continue; }
    if [ -n "$first" ]; then
      text+=,$first
      [ "$first" = "$last" ] || text+=-$last
    fi
    first=$index last=$index
  done
  printf '%s' "${text#,}"
}
submit_elements() {
  local first output
  first_id
  id=${first:-$known_id}
  if [ -z "$id" ]; then
    pattern output "$run_dir"
    ask sbatch send "${options[@]}" --array="$(ranges)" --output="$output/%a.log" \
      "$run_dir/@BATCH" "$run_dir" members && find_id
  fi
  if [ -z "$id" ]; then
    printf '%s' "$answer" >"$run_dir/@NO_VERDICT"
    return 1
  fi
  ask record record "$id"
  id=${id%%;*}
}
# A tree of the ids, which cp links into the run directories: what stands there already stays.
record_members() {
  local index own=$array/ids
  local -a names=()
  for index in "${indices[@]}"; do names+=("$own/${tokens[index]}"); done
  rm -rf -- "$own"
  mkdir -p -m 700 -- "${names[@]}" &&
    for index in "${indices[@]}"; do
      printf '%s\n' "${id}_$index" >"$own/${tokens[index]}/@JOB_ID" || break
    done &&
    cp --recursive --link --no-clobber -- "$own/." . 2>/dev/null
  for index in "${indices[@]}"; do
    [ -s "${tokens[index]}/@JOB_ID" ] ||
      run_dir=$base/${tokens[index]} record "${id}_$index"
  done
  rm -rf -- "$own"
}
tell_members() {
  local index token how ended first told= element run_started
  local -a strays=() killed=()
  for index in "${!tokens[@]}"; do
    token=${tokens[index]} how=old ended= first=
    { read -r first <"$token/@JOB_ID"; } 2>/dev/null
    place_of "$token"
    if [ -n "${mine[$token]}" ]; then
      how=new
      if [ -n "$id" ] && [ -n "${chosen[$index]}" ]; then
        first=${first:-${id}_$index}
        [ "${first%%;*}" = "${id}_$index" ] || strays+=("${id}_$index")
      fi
    fi
    if [ -e "$token/@CANCEL" ]; then
      ended=cancel
      case $first in '' | *[!0-9_]*) ;; *) [ "$how" = old ] || killed+=("$first") ;; esac
    fi
    told+="$index|$how|$ended|$run_started|$element|$first"$'\n'
  done
  [ "${#strays[@]}" -eq 0 ] || ask stray cancel_jobs "${strays[@]}"
  [ "${#killed[@]}" -eq 0 ] || ask killed cancel_jobs "${killed[@]}"
  frame members 0 "$told"
}
"""


def build_submit_array(
    array: TaskArray,
    *,
    takes_over: bool = False,
    known_id: str = "",
    lost: Collection[str] = (),
) -> str:
    """
    Claim the run directories, write the files, submit the array, record the ids: one remote step.

    ``takes_over`` goes on with what this very array has claimed before; ``known_id`` is its job,
    where that was found meanwhile, so that only the ids are to be recorded. ``lost`` are tokens of
    members whose claims were left by a submission that came to nothing.
    """
    shared = array.shared
    values = assignments(
        {
            "base_dir": shared.base_dir,
            "array": array.token,
            "work_dir": shared.work_dir or "",
            "takes_over": "1" if takes_over else "",
            "known_id": known_id,
            "searched": searchable([array.name]),
            "script": shared.script,
            "batch": shared.batch,
        }
    )
    members = array.members
    # A script like the first one's lies in the array's directory alone.
    scripts = ["" if one.request.script == shared.script else one.request.script for one in members]
    lists = {
        "tokens": [member.token for member in members],
        "identities": [array.identity_of(index) for index in range(len(members))],
        "exports": [member.request.exports for member in members],
        "scripts": scripts,
        "options": list(array.options),
    }
    functions = fill_names(f"{PLACE}{SLURM}{PRUNE}{HELPERS}{_SUBMIT_ARRAY}")
    declared = "\n".join(f"{name}=({words(each)})" for name, each in lists.items())
    found = " ".join(f"[{token}]=1" for token in lost)
    return f"{values}\n{declared}\ndeclare -A lost=({found})\n{functions}\nsubmit_array\n"


_DISCARD_ARRAY = r"""
discard_array() {
  local base token element run_started
  local -a indices=()
  place base "$base_dir"
  cd -- "$base" || return
  [ ! -e "$array/@JOB_ID" ] && [ -e "$array/@NO_VERDICT" ] || return
  for index in "${!tokens[@]}"; do
    place_of "${tokens[index]}" && [ "$element" = "$array $index" ] &&
      [ ! -e "${tokens[index]}/@JOB_ID" ] && indices+=("$index")
  done
  drop_claims
}
"""


def build_discard_array(array: TaskArray, new_base: str = "") -> str:
    """Remove the directory of an array that was refused, and the claims that were made for it."""
    values = assignments(
        {
            "base_dir": array.shared.base_dir,
            "array": array.token,
            "new_base": new_base,
        }
    )
    tokens = words([member.token for member in array.members])
    functions = fill_names(f"{PLACE}{SLURM}{PRUNE}{HELPERS}{_SUBMIT_ARRAY}{_DISCARD_ARRAY}")
    return f"{values}\ntokens=({tokens})\n{functions}\nask discard discard_array\n"
