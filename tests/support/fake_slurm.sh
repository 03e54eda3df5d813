#!/bin/bash
# A stand-in for sbatch, squeue, sacct, scancel and scontrol, by the name it is called under.
#
# A job is a directory beside it with a file for each of its properties; jobs run for real, as
# processes of their own. It takes options as our programs give them and prints what Slurm 22.05
# prints. Files in faults/ switch failures on. The contract tests run over it and over a real
# cluster, so that it cannot drift. It is bash, because it is called hundreds of times.

site=${0%/bin/*}
controller='Unable to contact slurm controller (connect failure)'
database='sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:localhost:6819: Connection refused
sacct: error: Sending PersistInit msg: Connection refused
Problem talking to the database: Connection refused'
properties='name state reason partition submitted started ended code signal work_dir stdout stderr
  argument second array raw split group in_queue in_accounting dependency row'
declare -A option
rest=()

fail() { printf '%s\n' "$1" >&2; exit 1; }
is_faulty() { [ -e "$site/faults/$1" ]; }
lock() { exec 9>>"$site/lock"; flock 9; }
unlock() { exec 9>&-; }
put() { printf '%s' "$3" >"$site/jobs/$1/$2"; }
now() { printf -v "$1" '%(%s)T' -1; }

# load ID: set a variable for each property.
load() {
  local property
  for property in $properties; do
    IFS= read -r -d '' "$property" <"$site/jobs/$1/$property"
  done
}

split() {
  local word
  while [ $# -gt 0 ]; do
    word=${1#--}
    case $1 in
      --) shift; break ;;
      --*=*) option[${word%%=*}]=${word#*=} ;;
      --*) option[$word]=1 ;;
      *) break ;;
    esac
    shift
  done
  rest=("$@")
}

# fill PATTERN: %j and its like; a backslash anywhere turns the replacing off.
fill() {
  local pattern=$1
  filled=
  while [ -n "$pattern" ]; do
    case $pattern in
      \\?*) filled+=${pattern:1:1}; pattern=${pattern:2}; continue ;;
      %?*)
        if [[ $1 != *\\* ]]; then
          case ${pattern:1:1} in %) filled+=% ;; j) filled+=$raw ;; a) filled+=${id#*_} ;; esac
          pattern=${pattern:2}
          continue
        fi ;;
    esac
    filled+=${pattern:0:1}
    pattern=${pattern:1}
  done
  [[ $filled == /* ]] || filled=$work_dir/$filled
}

sbatch() {
  local id base raw indices partition work_dir moment filled output
  split "$@"
  ! is_faulty controller_down ||
    fail "sbatch: error: Batch job submission failed: $controller"
  partition=${option[partition]-small}
  case $partition in
    small | test | down) ;;
    *) fail "sbatch: error: invalid partition specified: $partition
sbatch: error: Batch job submission failed: Invalid partition name specified" ;;
  esac
  if [ -n "${option[test-only]}" ]; then
    now moment
    printf 'sbatch: Job 7 to start at %s using 1 processors on nodes c1 in partition %s\n' "$moment" "$partition" >&2
    return
  fi
  ! is_faulty sbatch_says || fail "$(cat "$site/faults/sbatch_says")"
  # A test that plays an array by itself has it in the queue as one row.
  if is_faulty array_is_one_row; then indices=(''); else expand "${option[array]}"; fi
  ! is_faulty max_array || [ "${#indices[@]}" -le "$(cat "$site/faults/max_array")" ] ||
    fail 'sbatch: error: Batch job submission failed: Invalid job array specification'
  if is_faulty sbatch_is_late; then
    (sleep "$(cat "$site/faults/sbatch_is_late")"; enqueue) </dev/null >/dev/null 2>&1 &
    fail 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation'
  fi
  ! is_faulty sbatch_is_slow || sleep "$(cat "$site/faults/sbatch_is_slow")"
  is_faulty sbatch_times_out_for_nothing || enqueue
  ! is_faulty sbatch_times_out && ! is_faulty sbatch_times_out_for_nothing ||
    fail 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation'
  printf '%s\n' "$base"
}

# expand SPEC: set the indices of an array; one empty one for a job that is none.
expand() {
  local part
  indices=('')
  [ -n "$1" ] || return
  indices=()
  local bounds step spec=${1%\%*}
  for part in ${spec//,/ }; do
    bounds=${part%:*} step=1
    [ "$bounds" = "$part" ] || step=${part#*:}
    mapfile -t -O "${#indices[@]}" indices < <(seq "${bounds%-*}" "$step" "${bounds#*-}")
  done
}

count_live() { cat "$site"/jobs/*/state 2>/dev/null | grep -o -E 'PENDING|RUNNING' | wc -l; }

enqueue() {
  local index number=0 limit waits
  lock
  if is_faulty max_submit; then
    limit=$(cat "$site/faults/max_submit")
    [ "$((${#indices[@]} + $(count_live)))" -le "$limit" ] || fail "sbatch: error: AssocMaxSubmitJobLimit
sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
  fi
  base=100
  [ ! -e "$site/last" ] || IFS= read -r -d '' base <"$site/last"
  base=$((base + 1))
  printf '%s' "$((base + ${#indices[@]} - 1))" >"$site/last"
  for index in "${indices[@]}"; do
    number=$((number + 1))
    # The last element has the array's own number.
    raw=$((number == ${#indices[@]} ? base : base + number))
    id=$base${index:+_$index}
    enqueue_one
  done
  unlock
  for index in "${indices[@]}"; do
    # What it waits for is not played: a test lets it go on or end.
    waits=${option[hold]}${option[dependency]}
    ! is_faulty array_is_one_row || waits+=${option[array]}
    if [ -z "$waits" ] && [ "$partition" != down ]; then
      setsid "$site/bin/run-job" "$base${index:+_$index}" </dev/null >/dev/null 2>&1 &
    fi
  done
}

enqueue_one() {
  work_dir=${option[chdir]-$PWD}
  output=${option[output]-slurm-%j.out}
  install -D --mode=700 -- "${rest[0]}" "$site/jobs/$id/script"
  now moment
  put "$id" name "${option[job-name]-${rest[0]##*/}}"
  put "$id" state PENDING
  put "$id" reason "${option[hold]+JobHeldUser}"
  put "$id" partition "$partition"
  put "$id" submitted "$moment"
  put "$id" started ''
  put "$id" ended ''
  put "$id" code 0
  put "$id" signal 0
  put "$id" work_dir "$work_dir"
  fill "$output"
  put "$id" stdout "$filled"
  fill "${option[error]-$output}"
  put "$id" stderr "$filled"
  put "$id" argument "${rest[1]}"
  put "$id" second "${rest[2]}"
  put "$id" array "${index:+$base}"
  put "$id" raw "$raw"
  put "$id" split ''
  put "$id" group ''
  put "$id" in_queue yes
  put "$id" in_accounting yes
  put "$id" row ''
  ! is_faulty array_is_one_row || put "$id" row "${option[array]+_[${option[array]}]}"
  put "$id" dependency "${option[dependency]}"
  [ -z "${option[dependency]}" ] || put "$id" reason Dependency
}

run_job() {
  local id=$1 moment status
  lock
  load "$id"
  [ "$state" = PENDING ] || exit
  now moment
  put "$id" started "$moment"
  put "$id" group "$$"
  put "$id" state RUNNING
  unlock
  if [ -n "$array" ]; then export SLURM_ARRAY_JOB_ID=$array SLURM_ARRAY_TASK_ID=${id#*_}; fi
  cd -- "$work_dir" && SLURM_JOB_ID=$raw SLURMD_NODENAME=c1 \
    "$site/jobs/$id/script" "$argument" ${second:+"$second"} >>"$stdout" 2>>"$stderr"
  status=$?
  lock
  now moment
  put "$id" ended "$moment"
  put "$id" group ''
  if [ "$status" -gt 128 ]; then put "$id" signal "$((status - 128))"; else put "$id" code "$status"; fi
  if [ "$status" -eq 0 ]; then put "$id" state COMPLETED; else put "$id" state FAILED; fi
}

# select_jobs LIST: ids of all jobs, or of those in a list, that exist.
select_jobs() {
  local path
  selected=()
  if [ -n "$1" ]; then
    local IFS=,
    for path in $1; do
      for path in "$site/jobs/$path" "$site/jobs/$path"_*; do
        path=${path##*/}
        [ ! -d "$site/jobs/$path" ] || [[ " ${selected[*]} " == *" $path "* ]] || selected+=("$path")
      done
    done
    return
  fi
  for path in "$site"/jobs/*; do
    [ ! -d "$path" ] || selected+=("${path##*/}")
  done
}

squeue() {
  local id line format
  split "$@"
  ! is_faulty controller_down || fail "slurm_load_jobs error: $controller"
  lock
  select_jobs "${option[jobs]}"
  case ${#selected[@]},${option[jobs]} in
    0,*,*) ;;
    0,?*) fail 'slurm_load_jobs error: Invalid job id specified' ;;
  esac
  local -A pending=()
  for id in "${selected[@]}"; do
    load "$id"
    [ -n "$in_queue" ] || continue
    case ${option[states]-live},$state in
      live,PENDING | live,RUNNING) ;;
      live,*) continue ;;
    esac
    if [ -n "$array" ] && [ "$state" = PENDING ]; then
      pending[$array]+=${pending[$array]:+,}${id#*_}
    else
      show_row "$id"
    fi
  done
  # Elements that wait are one row.
  for array in "${!pending[@]}"; do
    load "${array}_${pending[$array]%%,*}"
    show_row "${array}_[${pending[$array]}]"
  done
}

show_row() {
  local id=$1
  format=${option[format]} line=
  while [ -n "$format" ]; do
    case $format in
      %i*) line+=$id$row ;;
      %F*) line+=${id%%_*} ;;
      %T*) line+=$state ;;
      %r*) line+=${reason:-None} ;;
      %P*) line+=$partition ;;
      %N*) line+=${started:+c1} ;;
      %V*) line+=$submitted ;;
      %S*) line+=${started:-N/A} ;;
      %e*) line+=${ended:-N/A} ;;
      %u*) line+=somebody ;;
      %a*) line+=project ;;
      %q*) line+=normal ;;
      %j*) line+=$name ;;
      *) line+=${format:0:1}; format=${format:1}; continue ;;
    esac
    format=${format:2}
  done
  printf '%s\n' "$line"
}

sacct() {
  local id field line moment
  split "$@"
  ! is_faulty slurmdbd_down || fail "$database"
  lock
  now moment
  select_jobs "${option[jobs]}"
  for id in "${selected[@]}"; do
    load "$id"
    [ -n "$in_accounting" ] || continue
    [ -z "${option[name]}" ] || [[ ",${option[name]}," == *",$name,"* ]] || continue
    line=
    for field in ${option[format]//,/ }; do
      case $field in
        JobID) line+=$id$row ;;
        State) [ "$state" = CANCELLED ] && line+='CANCELLED by 1001' || line+=$state ;;
        ExitCode) line+=$code:$signal ;;
        Reason) line+=${reason:-None} ;;
        Partition) line+=$partition ;;
        NodeList) [ -n "$started" ] && line+=c1 || line+='None assigned' ;;
        Submit) line+=$submitted ;;
        Start) line+=${started:-Unknown} ;;
        End) line+=${ended:-Unknown} ;;
        ElapsedRaw) line+=$((${ended:-$moment} - ${started:-$moment})) ;;
        TotalCPU) line+=00:00:00 ;;
        AllocCPUS | NNodes) line+=1 ;;
        ReqMem) line+=100M ;;
        AllocTRES) [ -z "$started" ] || line+=billing=1,cpu=1,mem=100M,node=1 ;;
        TimelimitRaw) line+=60 ;;
        Cluster) line+=fake ;;
        User) line+=somebody ;;
        JobName) line+=$name ;;
      esac
      line+=${option[delimiter]}
    done
    printf '%s\n' "${line%"${option[delimiter]}"}"
  done
}

sacctmgr() {
  local limit
  split "$@"
  ! is_faulty slurmdbd_down || fail "$database"
  limit=$(cat "$site/faults/max_submit_shown" "$site/faults/max_submit" 2>/dev/null | head -n 1)
  case ${rest[*]} in
    'show user '*) printf 'project\n' ;;
    'show associations '*) printf 'fake|project||\n' ;;
    'show assoc where user= '*) printf 'fake|project|\n' ;;
    'show assoc '*) printf 'fake|project||%s|\n' "$limit" ;;
    'show qos '*) printf 'normal|||\n' ;;
  esac
}

scancel() {
  local id moment
  split "$@"
  ! is_faulty controller_down || fail "scancel: error: $controller"
  lock
  now moment
  for id in "${rest[@]}"; do
    # One element may go by a number of its own; the array's number stands for all.
    for id in "$site/jobs/$id" "$site/jobs/$id"_* $(grep -l -x -- "$id" "$site"/jobs/*_*/raw 2>/dev/null); do
      id=${id%/raw} id=${id##*/}
      [ -d "$site/jobs/$id" ] || continue
      load "$id"
      case $state in
        PENDING | RUNNING)
          # An element that waits has no record of its own, and leaves none (22.05).
          if [[ " ${rest[*]} " == *" $id "* ]] && [ "$state-$split" = PENDING- ] && [ -n "$array" ]; then
            put "$id" in_queue ''
            put "$id" in_accounting ''
          fi
          put "$id" state CANCELLED
          put "$id" ended "$moment"
          put "$id" group ''
          [ -z "$group" ] || kill -KILL -- "-$group" ;;
      esac
    done
  done
}

show_partitions() {
  local row
  for row in 'small YES 3-00:00:00 UP' 'test NO 00:15:00 UP' 'down NO 3-00:00:00 DOWN'; do
    set -- $row
    printf 'PartitionName=%s AllowAccounts=ALL Default=%s QoS=N/A Hidden=NO MaxNodes=UNLIMITED ' "$1" "$2"
    printf 'MaxTime=%s MinNodes=0 OverSubscribe=NO State=%s TotalNodes=4\n' "$3" "$4"
  done
}

scontrol() {
  ! is_faulty controller_down || fail "$controller"
  case $* in
    'show config') printf 'ClusterName             = fake\n'; return ;;
    *' show reservation') printf 'No reservations in the system\n'; return ;;
    *' show partition') show_partitions; return ;;
  esac
  lock
  if [ "$1" = update ]; then
    for id in ${2//[!0-9_]/ }; do [ ! -d "$site/jobs/$id" ] || put "$id" split 1; done
    return
  fi
  load "${@: -1}"
  printf 'JobId=%s JobName=%s StdErr=%s StdIn=/dev/null StdOut=%s Power=\n' \
    "${@: -1}" "$name" "$stderr" "$stdout"
}

case ${0##*/} in
  run-job) run_job "$@"; exit ;;
esac
printf '%s\n' "${0##*/}" >>"$site/calls"
case $1 in
  --version) printf 'slurm-wlm 22.05.8\n' ;;
  *) "${0##*/}" "$@" ;;
esac
