# shellcheck shell=bash
# Files, secrets and messages.

say() { printf '%s\n' "$*"; }

die() {
  printf 'cluster: %s\n' "$*" >&2
  exit 1
}

# write_file PATH MODE [OWNER]: standard input becomes the file, at once or not at all.
write_file() {
  local path=$1 mode=$2 owner=${3:-root:root} new
  new=$(mktemp "$path.XXXXXX")
  cat >"$new"
  chown "$owner" "$new"
  chmod "$mode" "$new"
  mv -f "$new" "$path"
}

# make_dir PATH MODE [OWNER]
make_dir() {
  mkdir -p "$1"
  chown "${3:-root:root}" "$1"
  chmod "$2" "$1"
}

# render TEMPLATE: print it with every @NAME@ replaced by the variable NAME.
render() {
  local text name
  text=$(<"$DOCKER_DIR/config/$1")
  while [[ $text =~ @([A-Z_]+)@ ]]; do
    name=${BASH_REMATCH[1]}
    text=${text//"@$name@"/"${!name}"}
  done
  printf '%s\n' "$text"
}

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# secret NAME BYTES: print the secret, made on first use and kept until the wipe.
secret() {
  local file=$SECRETS/$1
  [[ -s $file ]] || random_hex "$2" | write_file "$file" 0600
  cat "$file"
}

# clock: words before a command that shift its clock. Not before one that becomes another user and
# then starts a program (setpriv, sshd): libfaketime's shared memory belongs to the first user.
clock() {
  local words
  words=$(clock_variables)
  [[ -z $words ]] || say "env $words"
}
clock_variables() {
  [[ $CLUSTER_CLOCK_OFFSET == 0 ]] ||
    printf 'LD_PRELOAD=%s FAKETIME=%+d FAKETIME_DONT_FAKE_MONOTONIC=1' "$FAKETIME_LIBRARY" "$CLUSTER_CLOCK_OFFSET"
}
FAKETIME_LIBRARY=/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketimeMT.so.1

make_layout() {
  make_dir "$CLUSTER_DIR" 0755
  local dir
  for dir in "$ETC" "$RUN" "$LOG" "$STATE" "$SSH"; do make_dir "$dir" 0755; done
  for dir in "$SECRETS" "$KEYS"; do make_dir "$dir" 0700; done
}

# The services run as users of their own and have sockets in the directory.
check_cluster_dir() {
  [[ $CLUSTER_DIR =~ ^/[A-Za-z0-9._/-]+$ && ${#CLUSTER_DIR} -le 60 ]] ||
    die "CLUSTER_DIR is '$CLUSTER_DIR': it must be an absolute path of letters, digits, '.', '_' and '-', at most 60 long"
}

check_cluster_dir_open() {
  setpriv --reuid nobody --clear-groups test -x "$CLUSTER_DIR" ||
    die "CLUSTER_DIR is '$CLUSTER_DIR': the services' users cannot enter it; choose another or open its parents (chmod o+x)"
}

# without_daemons COMMAND: Debian asks policy-rc.d before it starts a daemon; answer no.
without_daemons() {
  local policy=/usr/sbin/policy-rc.d
  [[ ! -e $policy ]] || mv -n "$policy" "$policy.kept"
  (
    trap 'rm -f "$policy"; [[ ! -e $policy.kept ]] || mv "$policy.kept" "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
    "$@"
  )
}
