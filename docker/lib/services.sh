# shellcheck shell=bash
# Start, watch and stop one service, whatever it is.
#
# A service is a name; its kind is the name without a node suffix. Each kind
# defines, in its own file:
#   <kind>_prepare   write configuration and make directories
#   <kind>_command   set COMMAND to the program, run in the foreground
#   <kind>_ready     succeed when it can be used (that it holds its port is known by then)
#   <kind>_program   print the process name (/proc/PID/comm)
#   <kind>_port      print its port, or "-"
#   <kind>_after_start, <kind>_after_stop   (optional) what only the cluster's own start and stop do
# Each gets the node's name as its argument when there is one.

# In the order of starting; stopping goes the other way.
all_services() {
  local node
  printf '%s\n' munge mariadb slurmdbd slurmctld
  for node in $CLUSTER_NODES; do say "slurmd-$node"; done
  say sshd
  [[ $CLUSTER_CEPH != yes ]] || printf '%s\n' ceph-mon ceph-mgr ceph-osd radosgw
}

# Not with `grep -q`: it ends at the first match, and under pipefail the writer's SIGPIPE is a "no".
require_service() {
  [[ $'\n'$(all_services)$'\n' == *$'\n'"$1"$'\n'* ]] || die "no service '$1'; there are: $(all_services | xargs)"
}

# call SERVICE WHAT: run <kind>_<WHAT>, with the node for a node's service.
call() {
  local service=$1 what=$2
  "$(kind_of "$service")_$what" "${service#slurmd-}"
}

kind_of() { case $1 in slurmd-*) say slurmd ;; *) say "${1//-/_}" ;; esac; }
has_hook() { declare -F "$(kind_of "$1")_$2" >/dev/null; }

pid_file() { say "$RUN/$1.pid"; }
log_file() { say "$LOG/$1.log"; }

# service_pid SERVICE: print the id of the running process, or fail.
# The id counts only while it still is our program: ids are reused.
service_pid() {
  local service=$1 pid program
  pid=$(cat "$(pid_file "$service")" 2>/dev/null) || return 1
  [[ -n $pid ]] || return 1
  program=$(cat "/proc/$pid/comm" 2>/dev/null) || return 1
  [[ $program == "$(call "$service" program)" ]] || return 1
  grep -qzsF -- "$CLUSTER_DIR/" "/proc/$pid/cmdline" "/proc/$pid/environ" || return 1
  say "$pid"
}

process_letter() { sed 's/^.*) \(.\) .*/\1/' "/proc/$1/stat" 2>/dev/null || say X; }
process_alive() { [[ $(process_letter "$1") != [XZ] && -d /proc/$1 ]]; }
process_stopped() { [[ $(process_letter "$1") == T ]]; }

# A clean environment: what the caller has set must not reach the jobs. The working
# directory marks what a daemon leaves behind (end_jobs looks for it).
in_clean_environment() {
  COMMAND=(env --ignore-environment --chdir="$CLUSTER_DIR" PATH="$DAEMON_PATH" LANG=C.UTF-8 HOME=/ SLURM_CONF="$SLURM_CONF" "${COMMAND[@]}")
}
spawn() {
  local service=$1
  call "$service" command
  in_clean_environment
  setsid "${COMMAND[@]}" </dev/null >>"$(log_file "$service")" 2>&1 9>&- &
  say "$!" >"$(pid_file "$service")"
}
DAEMON_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

start_service() {
  local service=$1 pid
  if pid=$(service_pid "$service"); then
    ! process_stopped "$pid" || kill -CONT "$pid"
  else
    call "$service" prepare
    spawn "$service"
    wait_ready "$service"
    ! has_hook "$service" after_start || call "$service" after_start
    say "started $service"
    return
  fi
  wait_ready "$service"
}

wait_ready() {
  local service=$1 pid deadline=$((SECONDS + CLUSTER_READY_TIMEOUT))
  pid=$(cat "$(pid_file "$service")")
  until is_ready "$service"; do
    process_alive "$pid" || not_ready "$service" "ended while starting"
    ((SECONDS < deadline)) || not_ready "$service" "not ready after $CLUSTER_READY_TIMEOUT s"
    sleep 0.1
  done
}

is_ready() { holds_port "$1" && call "$1" ready >/dev/null 2>&1; }

# holds_port SERVICE: a program of another cluster may answer on the same port, and must not pass for ours.
holds_port() {
  local port pid
  port=$(call "$1" port)
  [[ $port != - ]] || return 0
  pid=$(service_pid "$1") && ss -ltnpH "sport = :$port" | grep -F "pid=$pid," >/dev/null
}

not_ready() {
  local service=$1 why=$2 log
  log=$(log_file "$service")
  say "cluster: $service: $why; the end of $log:" >&2
  grep . "$log" | tail -n 15 | sed 's/^/    /' >&2
  exit 1
}

# stop_service SERVICE [SECONDS]: ask, wait so long, then insist.
stop_service() {
  local service=$1 pid
  if pid=$(service_pid "$service"); then
    kill -CONT "$pid" 2>/dev/null || true
    end_processes "${2:-$CLUSTER_STOP_TIMEOUT}" "$pid"
    say "stopped $service"
  fi
  rm -f "$(pid_file "$service")"
  ! has_hook "$service" after_stop || call "$service" after_stop
}

# end_processes SECONDS PID...: SIGTERM, and SIGKILL for those alive after so long.
end_processes() {
  local deadline=$((SECONDS + $1)) pid
  shift
  for pid in "$@"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "$@"; do
    while process_alive "$pid"; do
      ((SECONDS < deadline)) || kill -KILL "$pid" 2>/dev/null || true
      sleep 0.05
    done
  done
}

# descendants PID...: the processes and all that they started.
descendants() {
  local children
  children=$(ps -o pid= --ppid "${*// /,}" | xargs) || true # none
  say "$*"
  # shellcheck disable=SC2086  # a list
  [[ -z $children ]] || descendants $children
}

signal_service() {
  local service=$1 signal=$2 pid
  pid=$(service_pid "$service") || die "$service is not running"
  kill "-$signal" "$pid"
  # It dies when the machine has time for it; who starts it anew at once must not find it alive.
  [[ $signal != KILL ]] || while process_alive "$pid"; do sleep 0.05; done
  say "$service: SIG$signal to $pid"
}

# service_state SERVICE: up, paused, unready or down.
service_state() {
  local service=$1 pid
  if ! pid=$(service_pid "$service"); then
    say down
  elif process_stopped "$pid"; then
    say paused
  elif is_ready "$service"; then
    say up
  else
    say unready
  fi
}
