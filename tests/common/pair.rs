//! Two real daemons on loopback with file-backed disks in a temporary folder.
//!
//! Every pair has two loopback addresses of its own, so that pairs never meet, whatever else runs
//! on the machine. Everything ends with the pair: processes by their ids, files with their folder.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use twinblk::control::status::HeldStatus;
use twinblk::control::{Client, ResourceStatus};

use super::nbd::{NbdClient, Refused};

pub const RESOURCE: &str = "r0";
pub const REPLICATION_PORT: u16 = 7788;
const NBD_PORT: u16 = 10809;

/// No step of a test takes this long on the slowest machine; a test that waits longer has failed.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at a state that is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub struct PairOptions {
    pub protocol: char,
    pub size_bytes: u64,
    /// Lines for the `net` section.
    pub net: String,
    /// Lines for the `disk` section.
    pub disk: String,
    /// External metadata in files of their own.
    pub external_metadata: bool,
    /// A primary becomes a block device of the machine.
    pub attach: bool,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            protocol: 'C',
            size_bytes: 64 << 20,
            net: String::new(),
            disk: String::new(),
            external_metadata: false,
            attach: false,
        }
    }
}

#[derive(Debug)]
pub struct Node {
    pub name: &'static str,
    pub address: Ipv4Addr,
    pub run_dir: PathBuf,
    pub disk: PathBuf,
    config: PathBuf,
    log: PathBuf,
    daemon: Option<Child>,
}

#[derive(Debug)]
pub struct Pair {
    pub alice: Node,
    pub bob: Node,
    options: PairOptions,
    folder: TempDir,
}

/// Two addresses that no other pair has: 127.x.y.z by process id (22 bits at most, of which the
/// low 16 are used) and by the number of the pair in the process (at most 16 at a time).
fn addresses() -> [Ipv4Addr; 2] {
    static PAIRS: AtomicU32 = AtomicU32::new(0);
    let pair = PAIRS.fetch_add(1, Ordering::Relaxed) % 16;
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = |host: u32| {
        let last = pair << 2 | host;
        Ipv4Addr::new(127, high, low, last as u8 | 128)
    };
    [address(1), address(2)]
}

impl Pair {
    /// Disks, metadata and configuration; no daemon yet.
    pub fn prepare(options: PairOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("twinblk-pair-").tempdir().expect("folder");
        let [first, second] = addresses();
        let config = folder.path().join("drbd.conf");
        let node = |name: &'static str, address| Node {
            name,
            address,
            run_dir: folder.path().join(format!("run-{name}")),
            disk: folder.path().join(format!("{name}.img")),
            config: config.clone(),
            log: folder.path().join(format!("{name}.log")),
            daemon: None,
        };
        let (alice, bob) = (node("alice", first), node("bob", second));
        let mut pair = Self { alice, bob, options, folder };
        std::fs::write(&config, pair.config_text()).expect("configuration");
        for node in [&pair.alice, &pair.bob] {
            let file = File::create(&node.disk).expect("disk");
            file.set_len(pair.options.size_bytes).expect("sparse file");
            if pair.options.external_metadata {
                let file = File::create(pair.metadata_path(node.name)).expect("metadata file");
                file.set_len(4 << 20).expect("sparse file");
            }
            node.succeed(&["create-md", "--force", RESOURCE]);
        }
        pair.alice.start();
        pair.bob.start();
        pair
    }

    /// Up and connected, both Inconsistent.
    pub fn connected(options: PairOptions) -> Self {
        let pair = Self::prepare(options);
        for node in [&pair.alice, &pair.bob] {
            node.succeed(&["up", RESOURCE]);
        }
        for node in [&pair.alice, &pair.bob] {
            node.succeed(&["wait-connect", RESOURCE]);
        }
        pair
    }

    /// Alice is Primary, everything is in sync.
    pub fn in_sync(options: PairOptions) -> Self {
        let pair = Self::connected(options);
        pair.alice.succeed(&["primary", "--force", RESOURCE]);
        pair.wait_in_sync();
        pair
    }

    pub fn wait_in_sync(&self) {
        for node in [&self.alice, &self.bob] {
            node.wait("connected and UpToDate/UpToDate", |status| {
                status.connection.as_str() == "Connected"
                    && status.disk.as_str() == "UpToDate"
                    && status.peer_disk.as_str() == "UpToDate"
            });
        }
    }

    fn metadata_path(&self, node: &str) -> PathBuf {
        self.folder.path().join(format!("{node}.md"))
    }

    fn config_text(&self) -> String {
        let host = |node: &Node| {
            let metadata = if self.options.external_metadata {
                self.metadata_path(node.name).display().to_string()
            } else {
                "internal".to_owned()
            };
            format!(
                "    on {name} {{
        device /dev/drbd0;
        disk {disk};
        meta-disk {metadata};
        address {address}:{REPLICATION_PORT};
        nbd {{ listen {address}:{NBD_PORT}; attach {attach}; }}
    }}
",
                name = node.name,
                disk = node.disk.display(),
                address = node.address,
                attach = if self.options.attach { "yes" } else { "no" },
            )
        };
        format!(
            "resource {RESOURCE} {{
    net {{
        protocol {protocol};
        connect-int 1;
        ping-int 1;
        {net}
    }}
    disk {{
        {disk}
    }}
{alice}{bob}}}
",
            protocol = self.options.protocol,
            net = self.options.net,
            disk = self.options.disk,
            alice = host(&self.alice),
            bob = host(&self.bob),
        )
    }

    /// Changes the configuration of both; who is up already does not notice.
    pub fn rewrite_config(&self, change: impl FnOnce(String) -> String) {
        std::fs::write(&self.alice.config, change(self.config_text())).expect("configuration");
    }

    /// Compares the data areas of the two disks; call it while nothing is being written.
    pub fn differing_blocks(&self) -> u64 {
        let size = self.alice.status().size_bytes;
        assert!(size > 0, "a known size");
        let open = |node: &Node| File::open(&node.disk).expect("disk");
        let (alice, bob) = (open(&self.alice), open(&self.bob));
        let (mut left, mut right) = ([0; 4096], [0; 4096]);
        let mut differing = 0;
        for offset in (0..size).step_by(4096) {
            let length = (size - offset).min(4096) as usize;
            alice.read_exact_at(&mut left[..length], offset).expect("alice's data");
            bob.read_exact_at(&mut right[..length], offset).expect("bob's data");
            differing += u64::from(left[..length] != right[..length]);
        }
        differing
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in [&self.alice, &self.bob] {
                let log = std::fs::read_to_string(&node.log).unwrap_or_default();
                let start = log.len().saturating_sub(12_000);
                let tail = log.get(start..).unwrap_or(&log);
                eprintln!("--- log of {} ---\n{tail}", node.name);
            }
        }
    }
}

impl Node {
    /// A node outside of a pair, with a configuration of its own; no daemon yet.
    pub fn new(name: &'static str, address: Ipv4Addr, folder: &Path, disk: PathBuf) -> Self {
        Self {
            name,
            address,
            run_dir: folder.join(format!("run-{name}")),
            disk,
            config: folder.join(format!("{name}.conf")),
            log: folder.join(format!("{name}.log")),
            daemon: None,
        }
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn is_running(&self) -> bool {
        self.daemon.is_some()
    }

    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "{} runs", self.name);
        let log = File::options().create(true).append(true).open(&self.log).expect("log");
        let mut command = self.command(&["daemon"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().expect("the daemon's program"));
        let limit = Instant::now() + STEP_LIMIT;
        while Client::connect(&self.run_dir).is_err() {
            let daemon = self.daemon.as_mut().expect("just started");
            if let Some(status) = daemon.try_wait().expect("a child") {
                panic!("the daemon of {} ended: {status}\n{}", self.name, self.log());
            }
            assert!(Instant::now() < limit, "the daemon of {} did not start", self.name);
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL: as if the power had failed, but for the page cache.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon to kill");
        daemon.kill().expect("our child");
        daemon.wait().expect("our child");
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon to end");
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our child");
        let limit = Instant::now() + STEP_LIMIT;
        while daemon.try_wait().expect("our child").is_none() {
            if Instant::now() > limit {
                let _ = daemon.kill();
                panic!("the daemon of {} did not end", self.name);
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    pub fn process_id(&self) -> u32 {
        self.daemon.as_ref().expect("a running daemon").id()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_twinblk"));
        command.arg("-c").arg(&self.config).arg("--run-dir").arg(&self.run_dir);
        command.arg("--node").arg(self.name).args(arguments);
        command
    }

    /// Runs a verb to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program");
        let collect = |mut stream: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = stream.read_to_end(&mut text);
                text
            })
        };
        let stdout = collect(Box::new(child.stdout.take().expect("piped")));
        let stderr = collect(Box::new(child.stderr.take().expect("piped")));
        let limit = Instant::now() + STEP_LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().expect("our child") {
                break status;
            }
            if Instant::now() > limit {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{}: {arguments:?} did not end in time", self.name);
            }
            std::thread::sleep(LOOK_PAUSE);
        };
        let join = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().expect("a reader");
        Output { status, stdout: join(stdout), stderr: join(stderr) }
    }

    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{}: {arguments:?} failed: {}\n{}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a verb that must be refused; returns the exit code and what it said.
    pub fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!output.status.success(), "{}: {arguments:?} succeeded: {text}", self.name);
        (output.status.code().unwrap_or(-1), text)
    }

    /// The state of the resource, if it is up.
    pub fn try_status(&self) -> Option<ResourceStatus> {
        let mut client = Client::connect(&self.run_dir).ok()?;
        client.status(Some(RESOURCE)).ok()?.ok()?.pop()
    }

    pub fn status(&self) -> ResourceStatus {
        self.try_status().unwrap_or_else(|| panic!("{} has no status", self.name))
    }

    /// Looks until the state is as wanted.
    pub fn wait(
        &self,
        wanted: &str,
        mut done: impl FnMut(&ResourceStatus) -> bool,
    ) -> ResourceStatus {
        let limit = Instant::now() + STEP_LIMIT;
        loop {
            let status = self.try_status();
            if let Some(status) = &status
                && done(status)
            {
                return status.clone();
            }
            assert!(
                Instant::now() < limit,
                "{}: waited in vain for {wanted}; last: {status:?}",
                self.name
            );
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    pub fn nbd_address(&self) -> SocketAddr {
        SocketAddr::from((self.address, NBD_PORT))
    }

    pub fn uri(&self) -> String {
        format!("nbd://{}/{RESOURCE}", self.nbd_address())
    }

    pub fn try_nbd(&self) -> Result<NbdClient, Refused> {
        NbdClient::connect(self.nbd_address(), RESOURCE)
    }

    pub fn nbd(&self) -> NbdClient {
        self.try_nbd().unwrap_or_else(|error| panic!("{}: no NBD: {error:?}", self.name))
    }

    /// No client, no work under way: whatever is still held then has leaked.
    pub fn wait_idle(&self) {
        self.wait("no client and nothing held", |status| {
            status.nbd.clients.is_empty() && status.held == HeldStatus::default()
        });
    }

    /// Clients go away a moment after their sockets close.
    pub fn wait_without_clients(&self) {
        self.wait("no NBD client", |status| status.nbd.clients.is_empty());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// A program that a test needs; `None` when it is not there, said on one line.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| Path::new(path).is_file());
    if found.is_none() {
        println!("skipped: {name} is not installed");
    }
    found
}
