# shellcheck shell=bash
# What a client needs to know, as cluster.env for shells and cluster.json for Python.

# One fact a line, "path=value". In JSON a dot nests, a port is a number and a
# listed name is a list (see facts.py); in the shell file it is upper case, with "_" for every dot and dash.
facts() {
  local pair service first=${CLUSTER_USERS%% *}
  cat <<FACTS
cluster_dir=$CLUSTER_DIR
ssh_host=$CLUSTER_SSH_ADDR
ssh_port=$CLUSTER_SSH_PORT
ssh_known_hosts=$SSH/known_hosts
ssh_host_key=$(cut -d' ' -f1,2 "$SSH/ssh_host_ed25519_key.pub")
ssh_user_ca_key=$KEYS/user_ca
s3_endpoint_url=http://$CLUSTER_RGW_ADDR:$CLUSTER_RGW_PORT
s3_region=$CLUSTER_S3_REGION
swift_auth_url=http://$CLUSTER_RGW_ADDR:$CLUSTER_RGW_PORT/auth/v1.0
$(project_facts "" "${first#*:}")
slurm_cluster_name=$CLUSTER_NAME
slurm_conf=$SLURM_CONF
slurm_version=$(slurmctld -V | cut -d' ' -f2)
slurm_partitions=$PARTITIONS
slurm_default_partition=small
slurm_nodes=$CLUSTER_NODES
slurm_gpu_nodes=$CLUSTER_GPU_NODES
slurm_gpus_per_node=$CLUSTER_GPUS_PER_NODE
slurm_node_cpus=$CLUSTER_NODE_CPUS
slurm_node_memory_mb=$CLUSTER_NODE_MEMORY
slurm_memory_limits=$(memory_limits)
module_path=$CLUSTER_DIR/modulefiles
sites_folder=$CLUSTER_DIR/sites
sites=$SITES
FACTS
  for pair in $CLUSTER_USERS; do user_facts "users.${pair%%:*}." "${pair%%:*}" "${pair#*:}"; done
  for service in $(all_services); do service_facts "services.$service." "$service"; done
}

# project_facts PREFIX ACCOUNT: the keys of a project's object store.
project_facts() {
  cat <<FACTS
$1s3_access_key=$(secret "s3_access_$2" 10)
$1s3_secret_key=$(secret "s3_secret_$2" 20)
$1swift_user=$2:swift
$1swift_key=$(secret "swift_key_$2" 20)
FACTS
}

user_facts() {
  local prefix=$1 user=$2 account=$3
  cat <<FACTS
${prefix}account=$account
${prefix}home=$(getent passwd "$user" | cut -d: -f6)
${prefix}scratch=$CLUSTER_DIR/scratch/$account
${prefix}private_key=$KEYS/$user
$(project_facts "$prefix" "$account")
FACTS
  [[ -f $KEYS/$user-certified ]] || return 0
  say "${prefix}certified_key=$KEYS/$user-certified"
  say "${prefix}certificate=$KEYS/$user-certified-cert.pub"
}

service_facts() {
  say "$1pid_file=$(pid_file "$2")"
  say "$1log_file=$(log_file "$2")"
  local port
  port=$(call "$2" port)
  [[ $port == - ]] || say "$1port=$port"
}

write_facts() {
  local lines
  lines=$(facts)
  facts_env <<<"$lines" | write_file "$CLUSTER_DIR/cluster.env" 0600
  python3 "$DOCKER_DIR/lib/facts.py" <<<"$lines" | write_file "$CLUSTER_DIR/cluster.json" 0600
}

facts_env() {
  local path value name
  while IFS='=' read -r path value; do
    name=${path//[.-]/_}
    printf '%s=%q\n' "${name^^}" "$value"
  done
}
