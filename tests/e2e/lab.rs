//! Two nodes that mirror a disk, with a service on it, their witness and a client, set up from the
//! files in `examples/`. What the machine at hand has not is replaced: the disk by a file, and the
//! kernel's nbd driver by nbdfuse and a loop device, which the start command sets up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use tempfile::TempDir;

use super::client::Client;
use super::host::{Host, wait_until};
use super::network::{Net, Network};
use super::server;

pub const VIRTUAL: &str = "172.16.22.219";
/// The last byte of the addresses of both nodes, and of the third host.
const NUMBERS: [u8; 2] = [221, 222];
const THIRD: u8 = 100;
const DISK_BYTES: u64 = 64 << 20;
pub const STEP: Duration = Duration::from_secs(30);
/// Inside a host.
const RUN: &str = "/run/twinblk";
pub const DATA: &str = "/srv";

/// Programs without which there is no lab, and their packages.
const NEEDED: [(&str, &str); 9] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("bash", "bash"),
    ("ip", "iproute2"),
    ("nbdfuse", "libnbd-bin"),
    ("losetup", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
];

pub struct Lab {
    pub nodes: [Node; 2],
    pub third: Host,
    pub network: Network,
    witness: Option<Child>,
    folder: TempDir,
}

pub struct Node {
    pub name: &'static str,
    pub host: Host,
    number: u8,
    daemon: Option<Child>,
    folder: PathBuf,
}

/// Why there can be no lab.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root, so no hosts".to_owned());
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("no FUSE".to_owned());
    }
    let (program, package) = NEEDED.into_iter().find(|(program, _)| !is_there(program))?;
    Some(format!("no {program} ({package})"))
}

pub fn is_there(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&folders).collect();
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    folders.iter().any(|folder| folder.join(program).exists())
}

impl Lab {
    /// Both nodes in sync, nobody Primary, nothing started. `None`, with the reason printed, where it
    /// cannot be had.
    pub fn new() -> Option<Self> {
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("twinblk-e2e-").tempdir().expect("a folder");
        let network = Network::new()?;
        let mut nodes = Vec::new();
        for (name, number) in ["web1", "web2"].into_iter().zip(NUMBERS) {
            let host = Host::boot(name)?;
            network.connect(&host, number, &Net::BOTH);
            let folder = folder.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            nodes.push(Node { name, host, number, daemon: None, folder });
        }
        let third = Host::boot("third")?;
        network.connect(&third, THIRD, &[Net::Service]);
        let nodes: [Node; 2] = nodes.try_into().unwrap_or_else(|_| unreachable!("two"));
        let mut lab = Self { nodes, third, network, witness: None, folder };
        lab.configure();
        lab.start_witness(true);
        for node in &mut lab.nodes {
            node.prepare();
            node.start_daemon(&[]);
            node.twinblk(&["up", "r0"]);
        }
        for node in &lab.nodes {
            node.twinblk(&["wait-connect", "r0"]);
        }
        // Both disks are new and equal.
        lab.nodes[0].twinblk(&["new-current-uuid", "--clear-bitmap", "r0"]);
        lab.make_file_system();
        Some(lab)
    }

    fn configure(&self) {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nginx");
        let read = |name: &str| fs::read_to_string(example.join(name)).expect("an example");
        for node in &self.nodes {
            let (name, folder) = (node.name, node.folder.display().to_string());
            let drbd = replaced(
                &read("drbd.conf"),
                &[
                    ("disk      /dev/sdb1;", &format!("disk {folder}/disk;")),
                    (
                        "meta-disk internal;",
                        &format!("meta-disk internal; nbd {{ unix {RUN}/r0.nbd; attach no; }}"),
                    ),
                ],
            );
            fs::write(node.file("drbd.conf"), drbd).expect("written");
            let keepalived = replaced(
                &read(&format!("{name}/keepalived.conf")),
                &[
                    ("        mount /dev/drbd0 /srv/www ext4 noatime\n", ""),
                    ("systemctl start nginx", &format!("{folder}/start")),
                    ("systemctl stop nginx", &format!("{folder}/stop")),
                    ("/usr/local/sbin/check_ng.sh", &format!("{folder}/check")),
                ],
            );
            fs::write(node.file("keepalived.conf"), keepalived).expect("written");
            node.script("check", &replaced(&read("check_ng.sh"), &[]));
            fs::write(node.file("nginx.conf"), nginx_configuration(name)).expect("written");
            node.script("start", &node.start_script());
            node.script("stop", &node.stop_script());
        }
    }

    pub fn start_witness(&mut self, create: bool) {
        let state = self.folder.path().join("witness").display().to_string();
        let mut command = self.third.command(env!("CARGO_BIN_EXE_twinblk"));
        command.args(["witness", "--state", &state, "--allow", "172.16.22.0/24"]);
        if create {
            command.arg("--create");
        }
        let log = self.folder.path().join("witness.log");
        self.witness = Some(self.third.start(command, &log));
        let listens = "ss -Hltn sport = :7790 | grep -q .";
        wait_until("the witness listens", STEP, || {
            self.third.run(&["sh", "-c", listens]).status.success()
        });
    }

    fn make_file_system(&self) {
        let node = &self.nodes[0];
        node.twinblk(&["primary", "r0"]);
        node.host
            .shell(&format!("{ATTACH}mkfs.ext4 -q $loop; losetup -d $loop; umount -l /run/attach"));
        wait_until("the device is free", STEP, || node.try_twinblk(&["secondary", "r0"]).is_ok());
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a node")
    }

    pub fn client(&self) -> Client {
        let address = format!("{VIRTUAL}:{}", server::PORT);
        Client::start(&self.third, address.parse().expect("an address"))
    }

    /// What nginx says behind the virtual address.
    pub fn ask_nginx(&self, path: &str) -> Option<String> {
        let url = format!("http://{VIRTUAL}{path}");
        let output = self.third.run(&["curl", "--silent", "--fail", "--max-time", "1", &url]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The host comes back with the disk that it had.
    pub fn boot(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.host = Host::boot(node.name).expect("booted before");
        node.daemon = None;
        self.network.connect(&node.host, node.number, &Net::BOTH);
        node.prepare_run();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                for name in ["daemon.log", "service.log"] {
                    let log = fs::read_to_string(node.file(name)).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    let tail = lines[lines.len().saturating_sub(70)..].join("\n");
                    eprintln!("--- {name} of {} ---\n{tail}", node.name);
                }
            }
        }
        for node in &mut self.nodes {
            node.host.kill();
        }
        self.third.kill();
        for child in self.nodes.iter_mut().map(|node| &mut node.daemon).chain([&mut self.witness]) {
            if let Some(child) = child {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Leaves the loop device's name in `$loop`. The device ends the FUSE mount with it, and nbdfuse.
const ATTACH: &str = "mkdir -p /run/attach; \
    (setsid nbdfuse /run/attach/r0 'nbd+unix:///r0?socket=/run/twinblk/r0.nbd' </dev/null >&2 &); \
    for i in $(seq 200); do [ -e /run/attach/r0 ] && break; sleep 0.02; done; \
    loop=$(losetup --find --show /run/attach/r0) || exit 1; ";

impl Node {
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn script(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    /// Mounts, then nginx and the server that counts.
    fn start_script(&self) -> String {
        let folder = self.folder.display();
        let program = std::env::current_exe().expect("this program");
        let (program, name) = (program.display(), self.name);
        let (file, own_name) = (server::FILE, server::NAME);
        format!(
            "#!/bin/sh\n\
             exec 2>>{folder}/service.log\n\
             set -x\n\
             mountpoint -q {DATA} || {{ {ATTACH} mount -t ext4 -o noatime $loop {DATA} && done=yes; \
             losetup -d $loop; umount -l /run/attach; [ \"$done\" ] || exit 1; }}\n\
             mkdir -p {DATA}/www; [ -e {DATA}/www/page ] || echo replicated >{DATA}/www/page\n\
             {file}={DATA}/rows {own_name}={name} setsid {program} --exact server::server_process \
             --nocapture </dev/null >/dev/null 2>&1 & echo $! >/run/server.pid\n\
             nginx -c {folder}/nginx.conf -e stderr\n"
        )
    }

    /// What does not end by itself is ended.
    fn stop_script(&self) -> String {
        let folder = self.folder.display();
        format!(
            "#!/bin/sh\n\
             exec 2>>{folder}/service.log\n\
             set -x\n\
             [ -e /run/nginx.pid ] && kill -9 -$(cat /run/nginx.pid) $(cat /run/nginx.pid)\n\
             [ -e /run/server.pid ] && kill -9 $(cat /run/server.pid)\n\
             rm -f /run/nginx.pid /run/server.pid\n\
             for i in $(seq 100); do mountpoint -q {DATA} || break; umount {DATA} && break; \
             fuser -k -m {DATA}; sleep 0.05; done\n\
             ! mountpoint -q {DATA} || umount -l {DATA}\n\
             for i in $(seq 100); do pidof nbdfuse || exit 0; sleep 0.02; done\n\
             exit 1\n"
        )
    }

    fn prepare(&self) {
        fs::File::create(self.file("disk"))
            .and_then(|file| file.set_len(DISK_BYTES))
            .expect("a disk");
        self.prepare_run();
        self.twinblk(&["create-md", "--force", "r0"]);
    }

    fn prepare_run(&self) {
        self.host.shell(&format!("mkdir -p {RUN} /run/nginx"));
    }

    fn program(&self) -> [String; 7] {
        let text = |text: &str| text.to_owned();
        let configuration = self.file("drbd.conf").display().to_string();
        [
            text(env!("CARGO_BIN_EXE_twinblk")),
            text("-c"),
            configuration,
            text("--run-dir"),
            text(RUN),
            text("--node"),
            text(self.name),
        ]
    }

    /// With `--keepalived FILE` for example.
    pub fn start_daemon(&mut self, options: &[&str]) {
        let [program, rest @ ..] = self.program();
        let mut command = self.host.command(program);
        command.args(rest).arg("daemon").args(options);
        self.daemon = Some(self.host.start(command, &self.file("daemon.log")));
        wait_until("the daemon answers", STEP, || self.try_twinblk(&["role", "all"]).is_ok());
    }

    /// A verb to its end.
    pub fn try_twinblk(&self, words: &[&str]) -> Result<String, String> {
        let program = self.program();
        let all: Vec<&str> =
            program.iter().map(String::as_str).chain(words.iter().copied()).collect();
        let output = self.host.run(&all);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(said) } else { Err(format!("{said}{errors}")) }
    }

    pub fn twinblk(&self, words: &[&str]) -> String {
        self.try_twinblk(words).unwrap_or_else(|why| panic!("{}: {words:?}: {why}", self.name))
    }

    pub fn daemon_process(&self) -> String {
        self.host.shell("pidof -s twinblk").trim().to_owned()
    }

    /// SIGTERM: everything is given up in order.
    pub fn stop_daemon(&mut self) {
        self.host.shell(&format!("kill {}", self.daemon_process()));
        self.daemon_ended();
    }

    /// SIGKILL, with nothing said to anybody.
    pub fn kill_daemon(&mut self) {
        self.host.kill_inside(&self.daemon_process());
        self.daemon_ended();
    }

    fn daemon_ended(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon");
        wait_until("the daemon has ended", STEP, || {
            daemon.try_wait().expect("our child").is_some()
        });
    }

    pub fn start_service(&self) {
        self.host.succeed(&[&self.file("start").display().to_string()]);
    }

    pub fn stop_service(&self) {
        self.host.succeed(&[&self.file("stop").display().to_string()]);
    }

    pub fn holds_address(&self) -> bool {
        self.host.shell("ip -o addr show dev eth0").contains(&format!(" {VIRTUAL}/"))
    }

    pub fn add_address(&self) {
        self.host.shell(&format!("ip addr add {VIRTUAL}/32 dev eth0"));
    }

    pub fn remove_address(&self) {
        self.host.shell(&format!("ip addr del {VIRTUAL}/32 dev eth0"));
    }

    pub fn is_mounted(&self) -> bool {
        self.host.run(&["mountpoint", "-q", DATA]).status.success()
    }

    /// The rows that are on the device.
    pub fn rows(&self) -> String {
        self.host.shell(&format!("cat {DATA}/rows"))
    }
}

/// Every pattern must be there: an example that changed must not change what is tested unseen.
fn replaced(text: &str, changes: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (old, new) in changes {
        assert!(text.contains(old), "the example has no '{old}'");
        text = text.replace(old, new);
    }
    text
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
