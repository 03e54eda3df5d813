# shellcheck shell=bash
# The programs, from Debian's packages, installed only when one is missing.

PACKAGES="slurm-wlm slurmdbd munge mariadb-server openssh-server openssh-client
  ceph-base ceph-mon ceph-mgr ceph-osd radosgw lmod python3 iproute2 util-linux procps"
PROGRAMS="slurmctld slurmd slurmdbd munged mariadbd mariadb-install-db sshd ssh-keygen
  ceph ceph-mon ceph-mgr ceph-osd radosgw radosgw-admin python3 ss setpriv"

programs_present() {
  local program
  for program in $PROGRAMS; do command -v "$program" >/dev/null || return 1; done
  [[ -e /usr/share/lmod/lmod/init/bash ]]
}

install_packages() {
  programs_present && return
  command -v apt-get >/dev/null || die "programs are missing and there is no apt-get: this script knows Debian 12 only"
  make_dir "$LOG" 0755
  say "installing packages (log: $(log_file packages))"
  without_daemons apt_install >>"$(log_file packages)" 2>&1 || not_ready packages "apt-get failed"
  programs_present || die "packages are installed, yet a program of these is missing: $PROGRAMS"
}

apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update
  # shellcheck disable=SC2086  # a list
  apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold \
    -o Dpkg::Options::=--force-unsafe-io $PACKAGES </dev/null
}
