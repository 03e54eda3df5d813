# shellcheck shell=bash
# munge: how Slurm's programs know who is calling. Own key and own socket.

MUNGE_SOCKET=$RUN/munge/munge.socket

munge_prepare() {
  make_dir "$RUN/munge" 0755 munge:munge
  make_dir "$STATE/munge" 0700 munge:munge
  [[ -s $STATE/munge/key ]] || head -c 128 /dev/urandom | write_file "$STATE/munge/key" 0400 munge:munge
}

munge_command() {
  # shellcheck disable=SC2207  # a list of words
  COMMAND=(setpriv --reuid munge --regid munge --clear-groups $(clock)
    munged --foreground --force --num-threads=10 --socket="$MUNGE_SOCKET" --key-file="$STATE/munge/key"
    --seed-file="$STATE/munge/seed" --pid-file="$RUN/munge/munged.pid" --log-file="$STATE/munge/munged.log")
}

munge_ready() { munge --socket="$MUNGE_SOCKET" --no-input | unmunge --socket="$MUNGE_SOCKET"; }
munge_program() { say munged; }
munge_port() { say -; }
