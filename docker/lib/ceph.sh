# shellcheck shell=bash
# Ceph: one mon, one mgr, one OSD in memory, and the gateway that speaks S3 and Swift.

CEPH_CONF=$ETC/ceph.conf
CEPH_DATA=$STATE/ceph
CEPH_SERVICES="ceph-mon ceph-mgr ceph-osd radosgw"

ceph_cli() { timeout 10 ceph --conf "$CEPH_CONF" --name client.admin --connect-timeout 5 "$@"; }
# ceph_daemon PROGRAM ID: the command line of a daemon in the foreground.
ceph_daemon() { COMMAND=("$1" --foreground --conf "$CEPH_CONF" --name "$2" --setuser ceph --setgroup ceph); }

ceph_configure() {
  local CEPH_FSID OSD_PORT_LAST=$((CLUSTER_OSD_PORT + 19))
  CEPH_FSID=$(ceph_fsid)
  make_dir "$CEPH_DATA" 0755 ceph:ceph
  make_dir "$RUN/ceph" 0755 ceph:ceph
  render ceph.conf | write_file "$CEPH_CONF" 0644
}

ceph_fsid() {
  [[ -s $SECRETS/ceph_fsid ]] || write_file "$SECRETS/ceph_fsid" 0600 </proc/sys/kernel/random/uuid
  cat "$SECRETS/ceph_fsid"
}

ceph_mon_prepare() {
  ceph_configure
  if [[ ! -f $CEPH_DATA/mon/done ]]; then ceph_mon_create; fi
}

ceph_mon_create() {
  local map=$CEPH_DATA/monmap
  rm -rf "$CEPH_DATA/mon"
  make_dir "$CEPH_DATA/mon" 0755 ceph:ceph
  monmaptool --create --clobber --fsid "$(ceph_fsid)" --addv a "[v2:$CLUSTER_MON_ADDR:$CLUSTER_MON_PORT]" "$map"
  ceph-mon --conf "$CEPH_CONF" --mkfs --id a --monmap "$map" --setuser ceph --setgroup ceph
  touch "$CEPH_DATA/mon/done"
} >>"$(log_file ceph-mon)" 2>&1

ceph_mon_command() { ceph_daemon ceph-mon mon.a; }
ceph_mon_ready() { ceph_cli mon stat; }
ceph_mon_program() { say ceph-mon; }
ceph_mon_port() { say "$CLUSTER_MON_PORT"; }

ceph_mgr_prepare() {
  ceph_configure
  make_dir "$CEPH_DATA/mgr" 0755 ceph:ceph
}
ceph_mgr_command() { ceph_daemon ceph-mgr mgr.a; }
ceph_mgr_ready() { ceph_cli mgr stat | grep -q '"available": true'; }
ceph_mgr_program() { say ceph-mgr; }
ceph_mgr_port() { say -; }

ceph_osd_prepare() {
  ceph_configure
  if [[ ! -f $CEPH_DATA/osd/done ]]; then ceph_osd_create; fi
}

ceph_osd_create() {
  rm -rf "$CEPH_DATA/osd"
  make_dir "$CEPH_DATA/osd" 0755 ceph:ceph
  ceph_cli osd create
  ceph-osd --conf "$CEPH_CONF" --id 0 --mkfs --setuser ceph --setgroup ceph
  touch "$CEPH_DATA/osd/done"
} >>"$(log_file ceph-osd)" 2>&1

ceph_osd_command() { ceph_daemon ceph-osd osd.0; }
ceph_osd_ready() { ceph_cli osd stat | grep -q ' 1 up'; }
ceph_osd_program() { say ceph-osd; }
ceph_osd_port() { say -; }

# The memory store writes itself to disk when it is stopped, the file
# "collections" last. Removed while the OSD runs, it tells a clean stop from a kill.
ceph_osd_after_start() { rm -f "$CEPH_DATA/osd/collections"; }
ceph_osd_lost() { [[ -f $CEPH_DATA/osd/done && ! -f $CEPH_DATA/osd/collections ]] && ! service_pid ceph-osd >/dev/null; }

# An OSD that lost its memory cannot be mended: Ceph begins again, empty, with the same keys.
ceph_recover() {
  local service
  ceph_osd_lost || return 0
  say "ceph-osd lost its data; the object store starts again, empty"
  for service in radosgw ceph-mgr ceph-mon; do stop_service "$service" 0; done
  rm -rf "$CEPH_DATA"
}

radosgw_prepare() {
  ceph_configure
  make_dir "$CEPH_DATA/rgw" 0755 ceph:ceph
  if [[ ! -f $CEPH_DATA/users-done ]]; then radosgw_users; fi
}

# Each project has S3 keys and a Swift user, as on Allas.
radosgw_users() {
  local pair account
  for pair in $CLUSTER_USERS; do
    account=${pair#*:}
    rgw_admin user info --uid "$account" || rgw_admin user create --uid "$account" --display-name "$account" \
      --access-key "$(secret "s3_access_$account" 10)" --secret-key "$(secret "s3_secret_$account" 20)"
    rgw_admin subuser create --uid "$account" --subuser "$account:swift" --access full \
      --key-type swift --secret "$(secret "swift_key_$account" 20)"
  done
  touch "$CEPH_DATA/users-done"
} >>"$(log_file radosgw)" 2>&1
rgw_admin() { radosgw-admin --conf "$CEPH_CONF" --name client.rgw "$@" >/dev/null; }

radosgw_command() { ceph_daemon radosgw client.rgw; }
radosgw_ready() { true; } # it listens only when it can serve
radosgw_program() { say radosgw; }
radosgw_port() { say "$CLUSTER_RGW_PORT"; }

# run_ceph: all four in the foreground of one container. They share one address, and the OSD its memory
# with nobody: it is stopped properly, or the objects are gone.
run_ceph() {
  lock
  make_layout
  trap 'stop_ceph && exit 0' TERM INT
  start_ceph
  while ceph_runs; do
    sleep 2 &
    wait "$!" || true # interrupted by a signal
  done
  stop_ceph
  die "one of $CEPH_SERVICES has ended; logs in $LOG"
}
ceph_runs() {
  local service
  for service in $CEPH_SERVICES; do service_pid "$service" >/dev/null || return 1; done
}
stop_ceph() {
  local service
  # shellcheck disable=SC2086  # a list
  for service in $(printf "%s\n" $CEPH_SERVICES | tac); do stop_service "$service"; done
}
