# shellcheck shell=bash
# MariaDB: where slurmdbd keeps the accounting.

DB_SOCKET=$RUN/mariadb/mysqld.sock

mariadb_prepare() {
  make_dir "$RUN/mariadb" 0755 mysql:mysql
  make_dir "$STATE/mariadb" 0700 mysql:mysql
  render my.cnf | write_file "$ETC/my.cnf" 0644
  if [[ ! -f $STATE/mariadb/created ]]; then mariadb_create; fi
}

# The first server run does nothing but read the grants: no network, ends by itself.
mariadb_create() {
  find "$STATE/mariadb" -mindepth 1 -delete
  mariadb-install-db --defaults-file="$ETC/my.cnf" --user=mysql --skip-test-db \
    --auth-root-authentication-method=socket >>"$(log_file mariadb)" 2>&1
  mariadbd --defaults-file="$ETC/my.cnf" --user=mysql --bootstrap >>"$(log_file mariadb)" 2>&1 <<SQL
FLUSH PRIVILEGES;
CREATE DATABASE slurm;
CREATE USER 'slurm'@'%' IDENTIFIED BY '$(secret db_password 16)';
GRANT ALL ON slurm.* TO 'slurm'@'%';
SQL
  touch "$STATE/mariadb/created"
}

# shellcheck disable=SC2207  # a list of words
mariadb_command() { COMMAND=($(clock) mariadbd --defaults-file="$ETC/my.cnf" --user=mysql); }
mariadb_ready() { mariadb-admin --no-defaults --socket="$DB_SOCKET" --connect-timeout=2 ping; }
mariadb_program() { say mariadbd; }
mariadb_port() { say "$CLUSTER_DB_PORT"; }
