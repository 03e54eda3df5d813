# shellcheck shell=bash
# slurmdbd, slurmctld, one slurmd per node, and the accounts they know.

PARTITIONS="small test gpu standard small-g down restricted"
CGROUPS=/sys/fs/cgroup

# comma LIST: "c1 c2" becomes "c1,c2".
comma() { say "${1// /,}"; }

node_lines() {
  local node number=0 gres
  for node in $CLUSTER_NODES; do
    number=$((number + 1))
    gres=
    [[ " $CLUSTER_GPU_NODES " != *" $node "* ]] || gres=" Gres=gpu:gh200:$CLUSTER_GPUS_PER_NODE"
    say "NodeName=$node NodeHostname=${CLUSTER_NODE_HOST//%n/$node} NodeAddr=${CLUSTER_NODE_ADDR//%n/$node}" \
      "Port=$((CLUSTER_NODE_PORT + number)) CPUs=$CLUSTER_NODE_CPUS Boards=1 SocketsPerBoard=1" \
      "CoresPerSocket=$CLUSTER_NODE_CPUS ThreadsPerCore=1 RealMemory=$CLUSTER_NODE_MEMORY$gres"
  done
}

slurm_configure() {
  local NODE_LINES NODE_LIST GPU_NODE_LIST LAST_GPU=$((CLUSTER_GPUS_PER_NODE - 1)) LIMIT_LINES
  NODE_LINES=$(node_lines)
  NODE_LIST=$(comma "$CLUSTER_NODES")
  GPU_NODE_LIST=$(comma "$CLUSTER_GPU_NODES")
  LIMIT_LINES=$(limit_lines)
  make_dir "$RUN/slurm" 0755 slurm:slurm
  render cgroup.conf | write_file "$ETC/cgroup.conf" 0644
  render slurm.conf | write_file "$ETC/slurm.conf" 0644
  make_dir "$STATE/gpu" 0755
  seq -f "$STATE/gpu/gpu%g" 0 "$LAST_GPU" | xargs -n 1 ln -sfn /dev/null
  render gres.conf | write_file "$ETC/gres.conf" 0644
  slurm_default_conf
}

# memory_limits: how a job's memory is held to --mem. Slurm 22.05 needs no systemd
# only with the controllers of cgroup v1, and must be allowed to make groups in them.
memory_limits() {
  if [[ $CLUSTER_MEMORY_LIMITS != auto ]]; then
    say "$CLUSTER_MEMORY_LIMITS"
  elif [[ -w $CGROUPS/memory/cgroup.procs && -w $CGROUPS/freezer/cgroup.procs ]]; then
    say cgroup
  else
    say sampling
  fi
}

limit_lines() {
  case $(memory_limits) in
    cgroup) printf '%s\n' ProctrackType=proctrack/cgroup TaskPlugin=task/cgroup ;;
    sampling) printf '%s\n' ProctrackType=proctrack/linuxproc TaskPlugin=task/none JobAcctGatherParams=OverMemoryKill ;;
    *) die "CLUSTER_MEMORY_LIMITS is '$CLUSTER_MEMORY_LIMITS', not auto, cgroup or sampling" ;;
  esac
}

# Shells without SLURM_CONF find the machine's first cluster.
slurm_default_conf() {
  [[ -e $SLURM_LINK ]] || { make_dir /etc/slurm 0755 && ln -sfn "$SLURM_CONF" "$SLURM_LINK"; }
}
SLURM_LINK=/etc/slurm/slurm.conf

slurmdbd_prepare() {
  local DB_PASSWORD
  DB_PASSWORD=$(secret db_password 16)
  slurm_configure
  render slurmdbd.conf | write_file "$ETC/slurmdbd.conf" 0600 slurm:slurm
}
# shellcheck disable=SC2207  # a list of words
slurmdbd_command() { COMMAND=($(clock) slurmdbd -D); }
slurmdbd_ready() { timeout 5 sacctmgr -n -P show cluster; }
slurmdbd_program() { say slurmdbd; }
slurmdbd_port() { say "$CLUSTER_DBD_PORT"; }

slurmctld_prepare() {
  slurm_configure
  make_dir "$STATE/slurmctld" 0700 slurm:slurm
  slurm_accounts
}
# shellcheck disable=SC2207  # a list of words
slurmctld_command() { COMMAND=($(clock) slurmctld -D -f "$SLURM_CONF"); }
slurmctld_ready() { timeout 5 scontrol ping | grep -q 'is UP'; }
slurmctld_program() { say slurmctld; }
slurmctld_port() { say "$CLUSTER_CTLD_PORT"; }

# Cluster, accounts and users in the accounting, before the first job.
slurm_accounts() {
  local pair user account known
  known=$(sacctmgr -n -P show assoc cluster="$CLUSTER_NAME" format=cluster,account,user)
  [[ -n $known ]] || sacctmgr -i -Q add cluster "$CLUSTER_NAME" >/dev/null
  for pair in $CLUSTER_USERS; do
    user=${pair%%:*} account=${pair#*:}
    grep -qxF "$CLUSTER_NAME|$account|$user" <<<"$known" && continue
    sacctmgr -i -Q add account "$account" Cluster="$CLUSTER_NAME" Description="$account" Organization=test || true
    sacctmgr -i -Q add user "$user" Cluster="$CLUSTER_NAME" Account="$account" DefaultAccount="$account"
  done >>"$(log_file slurmctld)"
}

slurmd_prepare() {
  slurm_configure
  make_dir "$STATE/slurmd" 0755
  make_dir "$STATE/slurmd/$1" 0755
}
# shellcheck disable=SC2207  # a list of words
slurmd_command() { COMMAND=($(clock) slurmd -D -N "$1" -f "$SLURM_CONF"); }
slurmd_program() { say slurmd; }
slurmd_port() { awk -v node="NodeName=$1" '$1 == node {sub(".* Port=", ""); print $1}' "$SLURM_CONF" 2>/dev/null; }

slurmd_ready() {
  case $(timeout 5 sinfo -h -N -n "$1" -p small -o %T) in
    idle | mixed | allocated | completing) ;;
    *) false ;;
  esac
}

# Nodes that a crash left drained or down are put back into service.
revive_nodes() {
  local node
  for node in $(timeout 5 sinfo -h -N -p small -t drain,down -o %N); do
    scontrol update nodename="$node" state=resume || true # already on its way back
  done
}

# step_daemons: the process ids of the cluster's running job steps.
step_daemons() {
  local comm
  for comm in /proc/[0-9]*/comm; do
    [[ $(cat "$comm" 2>/dev/null) == slurmstepd ]] || continue
    [[ ! ${comm%/comm}/cwd -ef $CLUSTER_DIR ]] || basename "${comm%/comm}"
  done
}

# end_jobs: cancel the queue, then make sure that no step outlives the cluster.
end_jobs() {
  local steps
  if service_pid slurmctld >/dev/null; then
    user_names | xargs -n 1 timeout 20 scancel --quiet --user || true
    wait_for_steps $((CLUSTER_KILL_WAIT + 10))
  fi
  steps=$(step_daemons | xargs)
  # shellcheck disable=SC2086,SC2046  # lists
  [[ -z $steps ]] || kill -KILL $(descendants $steps) 2>/dev/null || true
}

wait_for_steps() {
  local deadline=$((SECONDS + $1))
  while [[ -n $(step_daemons) ]] && ((SECONDS < deadline)); do sleep 0.2; done
}
