//! What runs on the nodes: how it is started and stopped in a host, and which example it belongs to.

use std::fs;
use std::path::Path;

use super::server;

/// Where the replicated file system is mounted.
pub const DATA: &str = "/srv";

/// Leaves the loop device's name in `$loop`, which frees itself with its last user; with it goes the
/// FUSE mount, which is out of sight by then, and nbdfuse.
const ATTACH: &str = "mkdir -p /run/attach
(setsid nbdfuse /run/attach/r0 'nbd+unix:///r0?socket=/run/twinblk/r0.nbd' </dev/null >&2 &)
for i in $(seq 200); do [ -e /run/attach/r0 ] && break; sleep 0.02; done
loop=$(losetup --find --show /run/attach/r0) || exit 1
";
const LET_GO: &str = "losetup --detach $loop; umount --lazy /run/attach";

/// To no accounts: the network of the lab is nobody else's.
const MARIADB: &str = "mariadbd --no-defaults --user=root --datadir=/srv/mysql --skip-grant-tables \
    --socket=/run/mysqld/mysqld.sock --pid-file=/run/mysqld/mysqld.pid --bind-address=0.0.0.0 \
    --innodb-flush-log-at-trx-commit=1 --innodb-buffer-pool-size=16M --innodb-log-file-size=4M";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// And the server that counts.
    Nginx,
    MariaDb,
}

impl Service {
    pub fn example(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::MariaDb => "mysql",
        }
    }

    pub fn nodes(self) -> [&'static str; 2] {
        match self {
            Self::Nginx => ["web1", "web2"],
            Self::MariaDb => ["db1", "db2"],
        }
    }

    /// Programs and their packages.
    pub fn needed(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Nginx => &[("nginx", "nginx-light"), ("fuser", "psmisc")],
            Self::MariaDb => &[("mariadbd", "mariadb-server"), ("fuser", "psmisc")],
        }
    }

    /// What is replaced in the example's keepalived.conf: the mount, the start, the stop, the name
    /// of the check.
    pub fn lines(self) -> [&'static str; 4] {
        match self {
            Self::Nginx => [
                "        mount /dev/drbd0 /srv/www ext4 noatime\n",
                "systemctl start nginx",
                "systemctl stop nginx",
                "check_ng.sh",
            ],
            Self::MariaDb => [
                "        mount /dev/drbd0 /var/lib/mysql ext4 noatime\n",
                "systemctl start mariadb",
                "systemctl stop mariadb",
                "check_mysql.sh",
            ],
        }
    }

    pub fn write_files(self, name: &str, folder: &Path) {
        if self == Self::Nginx {
            fs::write(folder.join("nginx.conf"), nginx_configuration(name)).expect("written");
        }
    }

    /// Once, on the node that is Primary: a file system with what the service needs.
    pub fn first_script(self, folder: &Path) -> String {
        let fill = match self {
            Self::Nginx => format!("mkdir {DATA}/www; echo replicated >{DATA}/www/page"),
            Self::MariaDb => format!(
                "mariadb-install-db --no-defaults --datadir={DATA}/mysql --user=root \\
    --skip-test-db --auth-root-authentication-method=normal --innodb-log-file-size=4M
mkdir {DATA}/mysql/lab
printf '%s\\n' 'create table lab.rows (n bigint primary key) engine=InnoDB;' |
    mariadbd --no-defaults --user=root --datadir={DATA}/mysql --innodb-log-file-size=4M --bootstrap"
            ),
        };
        format!(
            "exec 2>>{folder}/service.log >&2
set -ex
{ATTACH}
mkfs.ext4 -q $loop
mount $loop {DATA}
{LET_GO}
{fill}
umount {DATA}",
            folder = folder.display()
        )
    }

    /// Mounts, and starts what serves. It may be given twice.
    pub fn start_script(self, name: &str, folder: &Path) -> String {
        let program = std::env::current_exe().expect("this program");
        let (program, folder) = (program.display(), folder.display());
        let (file, own_name) = (server::FILE, server::NAME);
        let start = match self {
            Self::Nginx => format!(
                "{file}={DATA}/rows {own_name}={name} setsid {program} --exact \
    server::server_process --nocapture </dev/null >/dev/null 2>&1 &
echo $! >/run/server.pid
nginx -c {folder}/nginx.conf -e stderr"
            ),
            Self::MariaDb => format!(
                "{MARIADB} </dev/null >>{folder}/mariadb.log 2>&1 &
for i in $(seq 600); do mysqladmin --silent ping >/dev/null 2>&1 && exit 0; sleep 0.05; done
exit 1"
            ),
        };
        format!(
            "#!/bin/sh
exec 2>>{folder}/service.log
set -x
if ! mountpoint -q {DATA}; then
{ATTACH}mount -t ext4 -o noatime $loop {DATA} && mounted=yes
{LET_GO}
[ \"$mounted\" ] || exit 1
fi
{start}
"
        )
    }

    /// In order where that is possible; what does not end is ended.
    pub fn stop_script(self, folder: &Path) -> String {
        let stop = match self {
            Self::Nginx => {
                "[ -e /run/nginx.pid ] && kill -TERM $(cat /run/nginx.pid)
[ -e /run/server.pid ] && kill -KILL $(cat /run/server.pid)
rm -f /run/nginx.pid /run/server.pid"
            }
            Self::MariaDb => {
                "[ -e /run/mysqld/mysqld.pid ] && timeout 10 mysqladmin shutdown
rm -f /run/mysqld/mysqld.pid"
            }
        };
        format!(
            "#!/bin/sh
exec 2>>{folder}/service.log
set -x
{stop}
for i in $(seq 50); do
    mountpoint -q {DATA} || break
    umount {DATA} && break
    [ $i -gt 10 ] && fuser --kill --mount {DATA}
    sleep 0.05
done
! mountpoint -q {DATA} || umount --lazy {DATA}
for i in $(seq 100); do pidof nbdfuse || exit 0; sleep 0.02; done
exit 1
",
            folder = folder.display()
        )
    }

    /// Shows the numbers of all rows that are there, inside the host.
    pub fn rows_command(self) -> &'static str {
        match self {
            Self::Nginx => "cat /srv/rows",
            Self::MariaDb => "mariadb --batch --skip-column-names -e 'select n from lab.rows'",
        }
    }
}

fn nginx_configuration(name: &str) -> String {
    format!(
        "user root;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path /run/nginx/body;
    proxy_temp_path /run/nginx/proxy;
    fastcgi_temp_path /run/nginx/fastcgi;
    uwsgi_temp_path /run/nginx/uwsgi;
    scgi_temp_path /run/nginx/scgi;
    server {{
        listen 80;
        root {DATA}/www;
        location = / {{ return 204; }}
        location = /node {{ return 200 {name}; }}
    }}
}}
"
    )
}
