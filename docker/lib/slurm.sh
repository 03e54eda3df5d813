# shellcheck shell=bash
# slurmdbd, slurmctld, one slurmd per node, and the accounts they know.

PARTITIONS="small test gpu down restricted"

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
  # shellcheck disable=SC2034  # used by render
  local NODE_LINES NODE_LIST GPU_NODE_LIST LAST_GPU=$((CLUSTER_GPUS_PER_NODE - 1))
  NODE_LINES=$(node_lines)
  NODE_LIST=$(comma "$CLUSTER_NODES")
  GPU_NODE_LIST=$(comma "$CLUSTER_GPU_NODES")
  make_dir "$RUN/slurm" 0755 slurm:slurm
  render slurm.conf | write_file "$ETC/slurm.conf" 0644
  make_dir "$STATE/gpu" 0755
  (cd "$STATE/gpu" && seq -f 'gpu%g' 0 "$LAST_GPU" | xargs touch)
  render gres.conf | write_file "$ETC/gres.conf" 0644
  slurm_default_conf
}

# Shells without SLURM_CONF find the machine's first cluster.
slurm_default_conf() {
  local link=/etc/slurm/slurm.conf
  [[ -e $link ]] || { make_dir /etc/slurm 0755 && ln -sfn "$SLURM_CONF" "$link"; }
}

slurmdbd_prepare() {
  # shellcheck disable=SC2034  # used by render
  local DB_PASSWORD
  DB_PASSWORD=$(secret db_password 16)
  slurm_configure
  render slurmdbd.conf | write_file "$ETC/slurmdbd.conf" 0600 slurm:slurm
}
slurmdbd_command() { COMMAND=(slurmdbd -D); }
slurmdbd_ready() { timeout 5 sacctmgr -n -P show cluster; }
slurmdbd_program() { say slurmdbd; }
slurmdbd_port() { say "$CLUSTER_DBD_PORT"; }

slurmctld_prepare() {
  slurm_configure
  make_dir "$STATE/slurmctld" 0700 slurm:slurm
  slurm_accounts
}
slurmctld_command() { COMMAND=(slurmctld -D -f "$SLURM_CONF"); }
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
slurmd_command() { COMMAND=(slurmd -D -N "$1" -f "$SLURM_CONF"); }
slurmd_program() { say slurmd; }
slurmd_port() { awk -v node="NodeName=$1" '$1 == node {sub(".* Port=", ""); print $1}' "$SLURM_CONF" 2>/dev/null; }

# A node that a crash left down or drained is put back into service.
slurmd_ready() {
  case $(timeout 5 sinfo -h -N -n "$1" -p small -o %T) in
    idle | mixed | allocated | completing) ;;
    down | drained | draining | down\*) scontrol update nodename="$1" state=resume && false ;;
    *) false ;;
  esac
}
