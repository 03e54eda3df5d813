#!/bin/bash --login

# Written by airflow-provider-csc. The script it runs lies unmodified beside it.
csc_run_dir=$1
csc_script=$csc_run_dir/script
# The tasks of an array are one job here; each has its own record.
csc_id=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
csc_self=$SLURM_JOB_ID
csc_record=$csc_run_dir/exit.json
if [ -n "${SLURM_ARRAY_TASK_ID-}" ]; then
  csc_self=${csc_id}_$SLURM_ARRAY_TASK_ID
  csc_record=$csc_run_dir/exit.$SLURM_ARRAY_TASK_ID.json
fi
if [ -n "$2" ]; then
  mapfile -t -s "$SLURM_ARRAY_TASK_ID" -n 1 csc_line <"$1/members"
  csc_run_dir=${csc_line[0]}
  if [ -z "$csc_run_dir" ] || [ ! -d "$csc_run_dir" ]; then
    printf 'airflow-provider-csc: on %s element %s has no run directory.\n' \
      "$HOSTNAME" "$SLURM_ARRAY_TASK_ID" >&2
    exit 1
  fi
  csc_id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  csc_self=$csc_id
  csc_record=$csc_run_dir/exit.json
  csc_log=$1/$SLURM_ARRAY_TASK_ID.log
  csc_script=$csc_run_dir/script
  [ -e "$csc_script" ] || csc_script=$1/script
  if [ . -ef "$1" ]; then
    cd -- "$csc_run_dir" || exit 1
    SLURM_SUBMIT_DIR=$PWD
  fi
fi
# A submission that was thought lost may have been made again: the job whose id stands first runs.
csc_first=$csc_run_dir/job_id
if [ ! -e "$csc_first" ] && printf '%s\n' "$csc_id" >"$csc_first.$csc_self"; then
  ln -T -- "$csc_first.$csc_self" "$csc_first" 2>/dev/null
fi
rm -f -- "$csc_first.$csc_self"
read -r csc_first 2>/dev/null <"$csc_first" || csc_first=$csc_id
[ ! -e "$csc_run_dir"/cancel ] || csc_first='none: it was killed'
if [ -n "$csc_first" ] && [ "${csc_first%%;*}" != "$csc_id" ]; then
  printf 'airflow-provider-csc: job %s does nothing; the job of this submission is %s.\n' \
    "$csc_id" "$csc_first" >&2
  scancel "$csc_id"
  exit 1
fi
if [ -n "$2" ] && [ ! "$csc_log" -ef "$csc_run_dir"/stdout.log ]; then
  ln -f -- "$csc_log" "$csc_run_dir"/stdout.log 2>/dev/null ||
    ln -f -s -- "$csc_log" "$csc_run_dir"/stdout.log
fi
rm -f -- "$csc_record"
csc_started=$(date +%s)
csc_child=
csc_starting=
csc_late=
csc_ender=
csc_handed=0
csc_signals=(HUP INT QUIT TERM USR1 USR2 URG XCPU)

size_of() {
  if [ -f "/proc/$$/fd/$1" ]; then stat -L -c %s -- "/proc/$$/fd/$1" 2>/dev/null; fi || printf -1
}
# Where the log of a task of an array is, nobody can ask later; of other jobs it is known.
log_of() {
  local path=
  [ "$csc_self" = "$SLURM_JOB_ID" ] || path=$(readlink -- "/proc/$$/fd/$1")
  case $path in *[\"\\[:cntrl:]]*) ;; /*) printf '"%s": "%s", ' "$2" "$path" ;; esac
}
finish() {
  local record=$csc_record stdout_bytes stderr_bytes
  trap '' "${csc_signals[@]}"
  trap - EXIT
  [ -z "$csc_ender" ] || kill -s KILL "$csc_ender" 2>/dev/null
  stdout_bytes=$(size_of 1)
  stderr_bytes=$(size_of 2)
  printf '{"job_id": "%s", "exit_code": %d, "started": %d, "ended": %d, "node": "%s", ' \
    "$csc_self" "$1" "$csc_started" "$(date +%s)" "${SLURMD_NODENAME:-$HOSTNAME}" \
    >"$record.new" &&
    printf '%s%s' "$(log_of 1 stdout)" "$(log_of 2 stderr)" >>"$record.new" &&
    printf '"stdout_bytes": %d, "stderr_bytes": %d, "restarts": %d, "signals": %d}\n' \
      "${stdout_bytes:--1}" "${stderr_bytes:--1}" "${SLURM_RESTART_COUNT:-0}" "$csc_handed" \
      >>"$record.new" && mv -f -- "$record.new" "$record"
  exit "$1"
}
hand_on() {
  csc_interrupted=1
  csc_handed=$((csc_handed + 1))
  if [ -n "$csc_child" ]; then
    kill -s "$1" "$csc_child" 2>/dev/null
    end_in_time
  elif [ -n "$csc_starting" ]; then
    csc_late=$1
  elif [ "$1" != URG ]; then
    finish "$((128 + $(kill -l "$1")))"
  fi
}
# A kill of the task leaves a file with the seconds of grace; should the one who left it die
# meanwhile, this ends the job. `read` waits without a process of its own that would outlive it.
end_in_time() {
  local grace=0
  [ -z "$csc_ender" ] && [ -e "$csc_run_dir"/cancel ] || return
  read -r grace <"$csc_run_dir"/cancel
  {
    trap '' "${csc_signals[@]}"
    read -r -t "$grace" <> <(:)
    scancel "$csc_self" || kill -s KILL "$csc_child"
  } </dev/null >/dev/null 2>&1 &
  csc_ender=$!
}
prepare() {
  "$@" && return
  local status=$?
  printf 'airflow-provider-csc: on %s this failed with status %d: %s\n' \
    "$HOSTNAME" "$status" "$*" >&2
  finish "$status"
}
trap 'finish "$?"' EXIT
for csc_name in "${csc_signals[@]}"; do
  trap "hand_on $csc_name" "$csc_name"
done

if ! type module >/dev/null 2>&1; then
  printf 'airflow-provider-csc: %s has no `module` command in a login shell.\n' "$HOSTNAME" >&2
  finish 127
fi

prepare module load gcc
start() {
  trap - INT QUIT
  unset "${!SLURM_ARRAY_@}"
  . "$csc_run_dir"/exports.sh || exit
  exec -- "$1"
}

csc_starting=1
start "$csc_script" <&0 &
csc_child=$!
[ -z "$csc_late" ] || hand_on "$csc_late"
csc_interrupted=1
while [ -n "$csc_interrupted" ]; do
  csc_interrupted=
  wait "$csc_child" 2>/dev/null
  csc_status=$?
done
finish "$csc_status"
