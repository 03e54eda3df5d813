# shellcheck shell=bash
# The one place for configuration. Every setting is an environment variable;
# what the first `up` used is kept in $CLUSTER_DIR/settings.env and holds for
# later commands, unless the environment says otherwise.

CLUSTER_DIR=${CLUSTER_DIR:-/var/lib/csc-cluster}

declare -A SAVED_SETTINGS=()
declare -a SETTINGS=()

read_saved_settings() {
  local name value
  [[ -f $CLUSTER_DIR/settings.env ]] || return 0
  while IFS='=' read -r name value; do
    SAVED_SETTINGS[$name]=$value
  done <"$CLUSTER_DIR/settings.env"
}

# setting NAME DEFAULT: environment first, then what was saved, then the default.
setting() {
  local name=$1 default=$2
  if [[ -z ${!name:-} ]]; then
    printf -v "$name" '%s' "${SAVED_SETTINGS[$name]:-$default}"
  fi
  SETTINGS+=("$name")
}

save_settings() {
  local name
  for name in "${SETTINGS[@]}"; do
    printf '%s=%s\n' "$name" "${!name}"
  done | write_file "$CLUSTER_DIR/settings.env" 0644
}

read_saved_settings

# Ports. A second cluster on the same machine needs only another CLUSTER_DIR
# and another CLUSTER_PORT_OFFSET.
setting CLUSTER_PORT_OFFSET 0
setting CLUSTER_SSH_PORT $((2222 + CLUSTER_PORT_OFFSET))
setting CLUSTER_RGW_PORT $((7480 + CLUSTER_PORT_OFFSET))
setting CLUSTER_CTLD_PORT $((6817 + CLUSTER_PORT_OFFSET))
setting CLUSTER_DBD_PORT $((6819 + CLUSTER_PORT_OFFSET))
setting CLUSTER_NODE_PORT $((6820 + CLUSTER_PORT_OFFSET)) # c1 listens on this + 1
setting CLUSTER_DB_PORT $((6830 + CLUSTER_PORT_OFFSET))
setting CLUSTER_MON_PORT $((6840 + CLUSTER_PORT_OFFSET))
setting CLUSTER_OSD_PORT $((6841 + CLUSTER_PORT_OFFSET)) # first of a range of 20

# Host names and addresses: one machine here, one container per service elsewhere.
# %n in CLUSTER_NODE_ADDR becomes the node's name.
setting CLUSTER_BIND 127.0.0.1
setting CLUSTER_CTLD_HOST localhost
setting CLUSTER_CTLD_ADDR 127.0.0.1
setting CLUSTER_DBD_HOST localhost
setting CLUSTER_DBD_ADDR 127.0.0.1
setting CLUSTER_DB_ADDR 127.0.0.1
setting CLUSTER_NODE_HOST localhost
setting CLUSTER_NODE_ADDR 127.0.0.1
setting CLUSTER_SSH_ADDR 127.0.0.1
setting CLUSTER_MON_ADDR 127.0.0.1
setting CLUSTER_RGW_ADDR 127.0.0.1
setting CLUSTER_RGW_BIND "$CLUSTER_BIND"

# Slurm.
setting CLUSTER_NAME testcluster
setting CLUSTER_NODES "c1 c2 c3 c4"
setting CLUSTER_GPU_NODES "c3 c4"
setting CLUSTER_GPUS_PER_NODE 4
setting CLUSTER_NODE_CPUS 8
setting CLUSTER_NODE_MEMORY 16000
setting CLUSTER_MIN_JOB_AGE 60     # seconds a finished job stays in squeue
setting CLUSTER_KILL_WAIT 5        # seconds from SIGTERM to SIGKILL
setting CLUSTER_SLURMD_TIMEOUT 30  # seconds until a silent node is DOWN
setting CLUSTER_MAX_ARRAY 10001
setting CLUSTER_MAX_JOBS 50000
setting CLUSTER_ACCT_FREQUENCY 2   # seconds between samples of a job's memory and CPU time
setting CLUSTER_MEMORY_LIMITS auto # cgroup, sampling, or what the machine allows
setting CLUSTER_FIRST_JOB $((1000 + CLUSTER_PORT_OFFSET))
setting CLUSTER_CRED_EXPIRE 120    # seconds; also how long a requeued job waits (slurm.conf(5), cred_expire)
setting CLUSTER_MAX_STARTUPS 10:30:100 # of sshd; the default is OpenSSH's own
# Seconds by which the clock of all services is off; other than 0 needs libfaketime.
setting CLUSTER_CLOCK_OFFSET 0

# People: user:account pairs. The first user also gets a key that only a certificate opens.
setting CLUSTER_USERS "alice:project_2001234 bob:project_2005678"

# Object store; CLUSTER_CEPH=no leaves it out.
setting CLUSTER_CEPH yes
setting CLUSTER_MEMSTORE_BYTES $((4 * 1024 ** 3))
# Seconds after which, and how often, the memory of deleted objects is given back.
setting CLUSTER_GC_SECONDS 15
setting CLUSTER_S3_REGION us-east-1

# Seconds one service may take to become ready.
setting CLUSTER_READY_TIMEOUT 60
# Seconds one service may take to end before it is killed.
setting CLUSTER_STOP_TIMEOUT 20

ETC=$CLUSTER_DIR/etc
RUN=$CLUSTER_DIR/run
LOG=$CLUSTER_DIR/log
STATE=$CLUSTER_DIR/state
SECRETS=$CLUSTER_DIR/secrets
KEYS=$CLUSTER_DIR/keys
SSH=$CLUSTER_DIR/ssh
export SLURM_CONF=$ETC/slurm.conf
