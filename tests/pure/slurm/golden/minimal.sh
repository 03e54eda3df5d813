#!/bin/bash --login

# Written by airflow-provider-csc. The script it runs lies unmodified beside it.
csc_run_dir=$1
rm -f -- "$csc_run_dir"/exit.json
csc_started=$(date +%s)

finish() {
  local record=$csc_run_dir/exit.json
  printf '{"job_id": "%s", "exit_code": %d, "started": %d, "ended": %d, "node": "%s"}\n' \
    "$SLURM_JOB_ID" "$1" "$csc_started" "$(date +%s)" "${SLURMD_NODENAME:-$HOSTNAME}" \
    >"$record.new" && mv -f -- "$record.new" "$record"
  exit "$1"
}
prepare() {
  "$@" && return
  local status=$?
  printf 'airflow-provider-csc: on %s this failed with status %d: %s\n' \
    "$HOSTNAME" "$status" "$*" >&2
  finish "$status"
}

start() {
  trap - INT QUIT

  exec -- "$1"
}

csc_child=
hand_on() { csc_interrupted=1; [ -z "$csc_child" ] || kill -s "$1" "$csc_child" 2>/dev/null; }
for csc_name in HUP INT QUIT TERM USR1 USR2 URG XCPU; do
  trap "hand_on $csc_name" "$csc_name"
done
start "$csc_run_dir"/script <&0 &
csc_child=$!
csc_interrupted=1
while [ -n "$csc_interrupted" ]; do
  csc_interrupted=
  wait "$csc_child" 2>/dev/null
  csc_status=$?
done
finish "$csc_status"
