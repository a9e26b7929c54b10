//! Two nodes that mirror a disk, with a service on it, their witness and a client, set up from the
//! files in `examples/`. What the machine at hand has not is replaced: the disk by a file, and the
//! kernel's nbd driver by nbdfuse and a loop device, which a mount helper sets up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::Client;
use super::host::{Host, wait_until};
use super::network::{Net, Network};
use super::service::{DATA, MOUNT_HELPERS, Service};

pub const VIRTUAL: &str = "172.16.22.219";
/// The last byte of the addresses of both nodes, and of the third host.
const NUMBERS: [u8; 2] = [221, 222];
const THIRD: u8 = 100;
const DISK_BYTES: u64 = 96 << 20;
/// A machine that does other things as well is three times slower.
pub const STEP: Duration = Duration::from_secs(60);
/// Inside a host.
const RUN: &str = "/run/twinblk";

/// Programs without which there is no lab, and their packages.
const NEEDED: [(&str, &str); 9] = [
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("bash", "bash"),
    ("ip", "iproute2"),
    ("nbdfuse", "libnbd-bin"),
    ("losetup", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
    ("curl", "curl"),
];

pub struct Lab {
    pub service: Service,
    pub nodes: [Node; 2],
    pub third: Host,
    pub network: Network,
    witness: Option<Child>,
    folder: TempDir,
}

pub struct Node {
    pub name: &'static str,
    pub host: Host,
    service: Service,
    number: u8,
    daemon: Option<Child>,
    folder: PathBuf,
}

/// Why there can be no lab.
fn missing(service: Service) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root, so no hosts".to_owned());
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("no FUSE".to_owned());
    }
    let mut all = NEEDED.into_iter().chain(service.needed().iter().copied());
    let (program, package) = all.find(|(program, _)| !is_there(program))?;
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
    pub fn new(service: Service) -> Option<Self> {
        if let Some(why) = missing(service) {
            println!("skipped: {why}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("twinblk-e2e-").tempdir().expect("a folder");
        let network = Network::new()?;
        let mut nodes = Vec::new();
        for (name, number) in service.nodes().into_iter().zip(NUMBERS) {
            let host = Host::boot(name)?;
            network.connect(&host, number, &Net::BOTH);
            let folder = folder.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            nodes.push(Node { name, host, service, number, daemon: None, folder });
        }
        let third = Host::boot("third")?;
        network.connect(&third, THIRD, &[Net::Service]);
        let nodes: [Node; 2] = nodes.try_into().unwrap_or_else(|_| unreachable!("two"));
        let mut lab = Self { service, nodes, third, network, witness: None, folder };
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

    /// Every process of the host goes on, and those at its door with them: nsenter stops with what it
    /// has started.
    pub fn resume(&self, index: usize) {
        let node = &self.nodes[index];
        node.host.resume();
        if let Some(daemon) = &node.daemon {
            let _ = kill_process(Pid::from_child(daemon), Signal::CONT);
        }
    }

    /// keepalived.conf is followed on both nodes, and a client counts what the first one answers.
    pub fn serving(service: Service) -> Option<(Self, Client)> {
        let mut lab = Self::new(service)?;
        for node in &mut lab.nodes {
            node.stop_daemon();
        }
        let started = Instant::now();
        for node in &mut lab.nodes {
            node.start_failover();
        }
        let client = lab.client();
        client.wait_for(lab.nodes[0].name, started, STEP);
        client.wait_for_rows(20, STEP);
        lab.wait_ready();
        Some((lab, client))
    }

    /// Until both could serve: in sync, and no check fails.
    pub fn wait_ready(&self) {
        for node in &self.nodes {
            wait_until("both are UpToDate", STEP, || {
                let said = node.try_twinblk(&["dstate", "r0"]);
                said.is_ok_and(|said| said.trim() == "UpToDate/UpToDate")
            });
            wait_until("both are fit", STEP, || {
                let said = node.try_twinblk(&["--json", "status", "r0"]).unwrap_or_default();
                said.contains("MASTER") || said.contains("BACKUP")
            });
        }
    }

    fn configure(&self) {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let example = example.join(self.service.example());
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
            let [device, start, stop, check] = self.service.lines();
            let keepalived = replaced(
                &read(&format!("{name}/keepalived.conf")),
                &[
                    (device, &format!("mount {RUN}/r0.nbd {DATA} nbdfuse noatime")),
                    (start, &format!("{folder}/start")),
                    (stop, &format!("{folder}/stop")),
                    (&format!("/usr/local/sbin/{check}"), &format!("{folder}/check")),
                ],
            );
            fs::write(node.file("keepalived.conf"), keepalived).expect("written");
            node.script("check", &read(check));
            self.service.write_files(name, &node.folder);
            node.script("start", &self.service.start_script(name, &node.folder));
            node.script("stop", &self.service.stop_script(&node.folder));
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
        node.host.shell(&self.service.first_script(&node.folder));
        wait_until("the device is free", STEP, || node.try_twinblk(&["secondary", "r0"]).is_ok());
    }

    pub fn client(&self) -> Client {
        Client::start(&self.third, self.service)
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
        let daemons = self.nodes.iter_mut().map(|node| &mut node.daemon);
        for child in daemons.chain([&mut self.witness]).flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

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

    fn prepare(&self) {
        fs::File::create(self.file("disk"))
            .and_then(|file| file.set_len(DISK_BYTES))
            .expect("a disk");
        self.prepare_run();
        self.twinblk(&["create-md", "--force", "r0"]);
    }

    fn prepare_run(&self) {
        self.host.shell(&format!("mkdir -p {RUN} /run/nginx /run/mysqld"));
        self.host.shell(MOUNT_HELPERS);
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

    pub fn start_failover(&mut self) {
        let file = self.file("keepalived.conf").display().to_string();
        self.start_daemon(&["--keepalived", &file]);
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

    /// By hand, as the daemon does.
    pub fn start_service(&self) {
        self.host.shell(&format!("mount -t nbdfuse -o noatime {RUN}/r0.nbd {DATA}"));
        self.host.succeed(&[&self.file("start").display().to_string()]);
    }

    pub fn stop_service(&self) {
        self.host.succeed(&[&self.file("stop").display().to_string()]);
        self.host.shell(&format!("umount {DATA}"));
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
        self.host.shell(self.service.rows_command())
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
