//! What runs on the nodes: how it is started and stopped in a host, and which example it belongs to.

use std::fs;
use std::path::Path;

use super::server;

/// Where the replicated file system is mounted.
pub const DATA: &str = "/srv";

/// `mount -t nbdfuse SOCKET POINT`: nbdfuse, a loop device on its file, ext4 on that. The loop device
/// frees itself with its last user; with it goes the FUSE mount, which is out of sight by then, and
/// with that nbdfuse, whose end the unmount waits for.
pub const MOUNT_HELPERS: &str = r#"
mkdir -p /run/sbin/upper /run/sbin/work
mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir=/run/sbin/upper,workdir=/run/sbin/work /usr/sbin
cat >/usr/sbin/mount.nbdfuse <<'END'
#!/bin/sh
# SOCKET POINT [-o OPTIONS]
device=$1 point=$2; shift 2
options=; while getopts no:sfv flag; do [ $flag = o ] && options=$OPTARG; done
folder=$(mktemp -d /run/nbdfuse.XXXXXX)
setsid nbdfuse --pidfile /run/nbdfuse.pid $folder/r0 "nbd+unix:///r0?socket=$device"     </dev/null >>/run/nbdfuse.log 2>&1 &
for i in $(seq 200); do [ -e $folder/r0 ] && break; sleep 0.02; done
loop=$(losetup --find --show $folder/r0) || exit 32
if [ -e /run/make-file-system ]; then mkfs.ext4 -q $loop; rm /run/make-file-system; fi
mount -t ext4 -o "uhelper=nbdfuse${options:+,$options}" $loop $point
code=$?
losetup --detach $loop
umount --lazy $folder
exit $code
END
cat >/usr/sbin/umount.nbdfuse <<'END'
#!/bin/sh
umount --internal-only "$@" || exit
for i in $(seq 200); do pidof nbdfuse >/dev/null || exit 0; sleep 0.01; done
END
chmod +x /usr/sbin/mount.nbdfuse /usr/sbin/umount.nbdfuse
"#;

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

    /// What is replaced in the example's keepalived.conf: the mount, the start and the stop; and the
    /// name of the check.
    pub fn lines(self) -> [&'static str; 4] {
        match self {
            Self::Nginx => [
                "mount /dev/drbd0 /srv/www ext4 noatime",
                "systemctl start nginx",
                "systemctl stop nginx",
                "check_ng.sh",
            ],
            Self::MariaDb => [
                "mount /dev/drbd0 /var/lib/mysql ext4 noatime",
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
touch /run/make-file-system
mount -t nbdfuse /run/twinblk/r0.nbd {DATA}
{fill}
umount {DATA}",
            folder = folder.display()
        )
    }

    /// What `systemctl start` would do.
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
{start}
"
        )
    }

    /// What `systemctl stop` would do.
    pub fn stop_script(self, folder: &Path) -> String {
        let stop = match self {
            Self::Nginx => {
                "[ -e /run/nginx.pid ] && kill -TERM $(cat /run/nginx.pid)
[ -e /run/server.pid ] && kill -KILL $(cat /run/server.pid)
rm -f /run/nginx.pid /run/server.pid
for i in $(seq 100); do pidof nginx >/dev/null || exit 0; sleep 0.02; done"
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
exit 0
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
