//! Four namespaces and a bridge, gone with the value, also when a test fails.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Begins the name of every namespace; then the process and a number.
const PREFIX: &str = "twinblk-";
pub const VIRTUAL: &str = "172.16.22.219";
const LOOK_PAUSE: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    A,
    B,
    /// Watches.
    O,
    /// The bridge.
    S,
}

impl Host {
    pub fn address(self) -> &'static str {
        match self {
            Self::A => "172.16.22.221",
            Self::B => "172.16.22.222",
            Self::O => "172.16.22.220",
            Self::S => unreachable!("a bridge without address"),
        }
    }
}

pub struct Lab {
    name: String,
    pub folder: TempDir,
}

impl Lab {
    /// `None`, with the reason printed, where it cannot be had.
    pub fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root, so no network namespaces");
            return None;
        }
        if !is_there("ip") {
            println!("skipped: no ip (iproute2)");
            return None;
        }
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let lab = Self { name, folder: TempDir::new().expect("a temporary folder") };
        let first = run("ip", &["netns", "add", &lab.namespace(Host::S)]);
        if !first.status.success() {
            let error = String::from_utf8_lossy(&first.stderr).trim().to_owned();
            println!("skipped: no network namespaces: {error}");
            return None;
        }
        // Snooping and the spanning tree eat or delay the first adverts (vrrp.md 6.1).
        lab.ip(Host::S, "link add br0 type bridge mcast_snooping 0 forward_delay 0");
        lab.ip(Host::S, "link set br0 up");
        for host in [Host::A, Host::B, Host::O] {
            must("ip", &["netns", "add", &lab.namespace(host)]);
            let (port, other) = (port(host), lab.namespace(host));
            lab.ip(Host::S, &format!("link add {port} type veth peer name eth0 netns {other}"));
            lab.ip(Host::S, &format!("link set {port} master br0 up"));
            lab.ip(host, "link set lo up");
            lab.ip(host, &format!("addr add {}/24 dev eth0", host.address()));
            lab.ip(host, "link set eth0 up");
        }
        Some(lab)
    }

    pub fn namespace(&self, host: Host) -> String {
        format!("{}-{host:?}", self.name)
    }

    /// `ip -n NAMESPACE ...`
    pub fn ip(&self, host: Host, words: &str) -> String {
        let namespace = self.namespace(host);
        let mut all = vec!["-n", &namespace];
        all.extend(words.split(' '));
        must("ip", &all)
    }

    pub fn run_in(&self, host: Host, words: &str) -> String {
        let namespace = self.namespace(host);
        let mut all = vec!["netns", "exec", &namespace];
        all.extend(words.split(' '));
        must("ip", &all)
    }

    pub fn link(&self, host: Host, is_up: bool) {
        self.ip(host, if is_up { "link set eth0 up" } else { "link set eth0 down" });
    }

    /// The cable between a host and the bridge.
    pub fn carrier(&self, host: Host, is_up: bool) {
        let state = if is_up { "up" } else { "down" };
        self.ip(Host::S, &format!("link set {} {state}", port(host)));
    }

    pub fn holds_address(&self, host: Host) -> bool {
        self.holds(host, VIRTUAL)
    }

    pub fn holds(&self, host: Host, address: &str) -> bool {
        self.ip(host, "-o addr show dev eth0").contains(&format!(" {address}/"))
    }

    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in [Host::A, Host::B, Host::O, Host::S] {
            run("ip", &["netns", "del", &self.namespace(host)]);
        }
    }
}

fn port(host: Host) -> String {
    format!("port{host:?}")
}

/// Namespaces of test processes that are no more, with the nodes that still run in them.
fn sweep() {
    let listing = run("ip", &["netns", "list"]);
    for line in String::from_utf8_lossy(&listing.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let Some((process, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'))
        else {
            continue;
        };
        let is_number = process.chars().all(|c| c.is_ascii_digit());
        if is_number && !Path::new(&format!("/proc/{process}")).exists() {
            let ids = run("ip", &["netns", "pids", name]);
            for id in String::from_utf8_lossy(&ids.stdout).lines() {
                if let Some(id) = id.trim().parse().ok().and_then(Pid::from_raw) {
                    let _ = kill_process(id, Signal::KILL);
                }
            }
            run("ip", &["netns", "del", name]);
        }
    }
}

fn run(program: &str, words: &[&str]) -> Output {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn must(program: &str, words: &[&str]) -> String {
    let output = run(program, words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn is_there(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&folders).collect();
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    folders.iter().any(|folder| folder.join(program).exists())
}

/// Looks until it holds; the time it took.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK_PAUSE);
    }
    start.elapsed()
}
