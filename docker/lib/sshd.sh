# shellcheck shell=bash
# The login node: sshd, its users, their keys, and a CA for user certificates.

user_names() { local pair; for pair in $CLUSTER_USERS; do say "${pair%%:*}"; done; }

# make_key PATH COMMENT: an ed25519 pair without passphrase, once.
make_key() {
  [[ ! -s $1 || ! -s $1.pub ]] || return 0
  rm -f "$1" "$1.pub"
  ssh-keygen -q -t ed25519 -N '' -C "$2" -f "$1"
}

# make_user NAME ACCOUNT: a login with a home, its project's group and scratch directory.
make_user() {
  local user=$1 account=$2
  getent group "$account" >/dev/null || groupadd "$account"
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --password '*' "$user"
  id -nG "$user" | grep -qwF "$account" || usermod --append --groups "$account" "$user"
  make_dir "$(getent passwd "$user" | cut -d: -f6)" 0700 "$user:$(id -gn "$user")"
  make_dir "$CLUSTER_DIR/scratch" 0755
  make_dir "$CLUSTER_DIR/scratch/$account" 2770 "root:$account"
}

sshd_keys() {
  local user first=${CLUSTER_USERS%%:*}
  make_key "$SSH/ssh_host_ed25519_key" "$CLUSTER_NAME"
  make_key "$KEYS/user_ca" "user CA of $CLUSTER_NAME"
  cp "$KEYS/user_ca.pub" "$SSH/user_ca.pub"
  make_dir "$SSH/authorized_keys" 0755
  for user in $(user_names); do
    make_key "$KEYS/$user" "$user"
    write_file "$SSH/authorized_keys/$user" 0644 <"$KEYS/$user.pub"
  done
  make_key "$KEYS/$first-certified" "$first, by certificate only"
  [[ -s $KEYS/$first-certified-cert.pub ]] ||
    ssh-keygen -q -s "$KEYS/user_ca" -I "$first" -n "$first" -V -5m:+3650d "$KEYS/$first-certified.pub"
  chmod 0644 "$SSH/user_ca.pub"
  say "$(known_host) $(cut -d' ' -f1,2 "$SSH/ssh_host_ed25519_key.pub")" |
    write_file "$SSH/known_hosts" 0644
}

known_host() { if [[ $CLUSTER_SSH_PORT == 22 ]]; then say "$CLUSTER_SSH_ADDR"; else say "[$CLUSTER_SSH_ADDR]:$CLUSTER_SSH_PORT"; fi; }

sshd_modules() {
  local tree=$CLUSTER_DIR/modulefiles
  make_dir "$tree" 0755
  make_dir "$CLUSTER_DIR/software/python-data/3.11/bin" 0755
  ln -sfn /usr/bin/python3 "$CLUSTER_DIR/software/python-data/3.11/bin/python3"
  cp -R "$DOCKER_DIR/config/modulefiles/." "$tree"
  # Login shells that did not come through sshd; the first cluster of the machine claims them.
  [[ -f $MODULE_PROFILE ]] ||
    say ": \"\${LMOD_SITE_MODULEPATH:=$tree}\"; export LMOD_SITE_MODULEPATH" | write_file "$MODULE_PROFILE" 0644
}
MODULE_PROFILE=/etc/profile.d/csc-cluster.sh

# What the first cluster of a machine claimed outside its directory.
release_defaults() {
  ! grep -qsF "=$CLUSTER_DIR/" "$MODULE_PROFILE" || rm "$MODULE_PROFILE"
  [[ $(readlink "$SLURM_LINK") != "$SLURM_CONF" ]] || rm "$SLURM_LINK"
}

sshd_prepare() {
  local pair
  local USER_NAMES CLOCK_ENVIRONMENT
  USER_NAMES=$(user_names | xargs)
  CLOCK_ENVIRONMENT=$(clock_variables)
  for pair in $CLUSTER_USERS; do make_user "${pair%%:*}" "${pair#*:}"; done
  sshd_keys
  sshd_modules
  make_dir /run/sshd 0755 # fixed in Debian's sshd
  render sshd_config | write_file "$ETC/sshd_config" 0644
}

sshd_command() { COMMAND=(/usr/sbin/sshd -D -e -f "$ETC/sshd_config"); }
sshd_ready() { ssh-keyscan -t ed25519 -T 3 -p "$CLUSTER_SSH_PORT" "$CLUSTER_SSH_ADDR" 2>/dev/null | grep -qF "$(cut -d' ' -f2 "$SSH/ssh_host_ed25519_key.pub")"; }
# Sessions outlive their sshd; a cluster that goes down ends them.
end_sessions() {
  local pids
  pids=$(ss -tnpH state established "sport = :$CLUSTER_SSH_PORT" | grep -o 'pid=[0-9]*' | cut -d= -f2 | xargs) || true # none
  # shellcheck disable=SC2086,SC2046  # lists
  [[ -z $pids ]] || end_processes 2 $(descendants $pids)
}

sshd_program() { say sshd; }
sshd_port() { say "$CLUSTER_SSH_PORT"; }
