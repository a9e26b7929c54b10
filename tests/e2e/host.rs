//! A pretend machine: network, mounts, processes, host name of its own. Killing its first process is
//! pulling the plug: everything in it ends at once, but for what the shared kernel has cached.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const BOOT_LIMIT: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// No command of a test takes this long.
const COMMAND_LIMIT_S: &str = "90";

/// The first process: collects those whose parents have ended.
const FIRST: &str = "hostname \"$0\"; mount --make-rprivate /; mount -t tmpfs tmpfs /run; \
     mount -t sysfs sysfs /sys 2>/dev/null; ip link set lo up; : > /run/booted; \
     while :; do sleep 3600 & wait $!; done";

pub struct Host {
    pub name: &'static str,
    /// `unshare`, whose only child is the host's first process.
    unshare: Child,
    first: u32,
}

impl Host {
    /// `None`, with the reason printed, where it cannot be had.
    pub fn boot(name: &'static str) -> Option<Self> {
        let flags = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"];
        // A test program that is killed takes its hosts with it.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(flags)
            .args(["--mount-proc", "bash", "-c", FIRST, name])
            .process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let unshare = command.spawn().expect("unshare runs");
        let mut host = Self { name, unshare, first: 0 };
        let limit = Instant::now() + BOOT_LIMIT;
        while !host.has_booted() {
            let ended = host.unshare.try_wait().expect("our child");
            if ended.is_some() || Instant::now() > limit {
                println!("skipped: no namespaces: unshare {ended:?}");
                return None;
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        Some(host)
    }

    fn has_booted(&mut self) -> bool {
        let id = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let child = children.ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
        self.first = child.unwrap_or(0);
        self.first != 0 && Path::new(&format!("/proc/{}/root/run/booted", self.first)).exists()
    }

    /// For `ip link ... netns`.
    pub fn first_process(&self) -> u32 {
        self.first
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.first.to_string(), "-m", "-u", "-n", "-i", "-p", "--"]);
        command.arg(program).stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        let mut command = self.command("timeout");
        command.args(["--kill-after=5", COMMAND_LIMIT_S]).args(words);
        command.output().expect("nsenter runs")
    }

    pub fn succeed(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {words:?}: {}\n{said}{errors}",
            self.name,
            output.status
        );
        said
    }

    pub fn shell(&self, text: &str) -> String {
        self.succeed(&["sh", "-c", text])
    }

    /// Starts something that goes on; its output goes to a file outside.
    pub fn start(&self, mut command: Command, log: &Path) -> Child {
        let log = File::options().create(true).append(true).open(log).expect("a log");
        command.stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
        command.spawn().expect("nsenter runs")
    }

    /// Every process of the host stands still, or goes on.
    pub fn pause(&self) {
        self.signal_all(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let own = fs::read_link(format!("/proc/{}/ns/pid", self.first)).expect("a namespace");
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse() else { continue };
            if fs::read_link(entry.path().join("ns/pid")).is_ok_and(|other| other == own) {
                let _ = kill_process(Pid::from_raw(id).expect("a number"), signal);
            }
        }
    }

    /// SIGKILL to a process by its number inside, as `pidof` or a file told it.
    pub fn kill_inside(&self, process: &str) {
        self.succeed(&["kill", "-9", process]);
    }

    /// The plug is pulled.
    pub fn kill(&mut self) {
        if let Some(first) = i32::try_from(self.first).ok().and_then(Pid::from_raw) {
            let _ = kill_process(first, Signal::KILL);
        }
        let _ = self.unshare.wait();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK_PAUSE);
    }
    start.elapsed()
}
