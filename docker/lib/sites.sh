# shellcheck shell=bash
# The cluster's own site profiles, and the modules that one of them names.

SITES="testcluster testcluster-lumi"

write_sites() {
  local site HOST_KEY_FINGERPRINT ARCHITECTURE
  HOST_KEY_FINGERPRINT=$(ssh-keygen -l -E sha256 -f "$SSH/ssh_host_ed25519_key.pub" | cut -d' ' -f2)
  ARCHITECTURE=$(uname -m)
  make_dir "$CLUSTER_DIR/sites" 0755
  for site in $SITES; do render "sites/$site.yaml" | write_file "$CLUSTER_DIR/sites/$site.yaml" 0644; done
  make_dir "$CLUSTER_DIR/more-modulefiles" 0755
  cp -R "$DOCKER_DIR/config/more-modulefiles/." "$CLUSTER_DIR/more-modulefiles"
}
