//! The kernel's node: drbdadm for what it does, /proc/drbd for what it says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::pair::RESOURCE;

pub const DEVICE: &str = "/dev/drbd0";

const LIMIT: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(30);

#[derive(Debug)]
pub struct Kernel {
    pub config: PathBuf,
}

/// The two lines of /proc/drbd. A resource that is not there is Unconfigured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelStatus {
    pub connection: String,
    pub role: String,
    pub peer_role: String,
    pub disk: String,
    pub peer_disk: String,
    pub protocol: String,
    counters: Vec<(String, u64)>,
}

impl KernelStatus {
    /// `ns`, `nr`, ..., `oos`: KiB or plain counts, as the kernel gives them.
    pub fn counter(&self, name: &str) -> u64 {
        let found = self.counters.iter().find(|(key, _)| key == name);
        found.map_or_else(|| panic!("no {name} in {self:?}"), |(_, value)| *value)
    }
}

fn parse(text: &str) -> KernelStatus {
    let mut status =
        KernelStatus { connection: "Unconfigured".to_owned(), ..KernelStatus::default() };
    let Some((_, text)) = text.split_once("\n 0: ") else { return status };
    for (index, word) in text.split_whitespace().enumerate() {
        let pair = |value: &str| {
            let (own, peer) = value.split_once('/').expect("two states");
            (own.to_owned(), peer.to_owned())
        };
        match word.split_once(':') {
            Some(("cs", value)) => status.connection = value.to_owned(),
            Some(("ro", value)) => (status.role, status.peer_role) = pair(value),
            Some(("ds", value)) => (status.disk, status.peer_disk) = pair(value),
            // A progress bar, or the next device.
            Some((key, _)) if key.parse::<u32>().is_ok() => break,
            Some((key, value)) => {
                if let Ok(number) = value.parse() {
                    status.counters.push((key.to_owned(), number));
                }
            }
            None if index == 3 => status.protocol = word.to_owned(),
            None => {}
        }
    }
    status
}

impl Kernel {
    pub fn new(folder: &Path) -> Self {
        succeed(Command::new("modprobe").arg("drbd"));
        Self { config: folder.join("kernel.conf") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("drbdadm");
        command.arg("-c").arg(&self.config).args(arguments).stdin(Stdio::null());
        command
    }

    pub fn succeed(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }

    /// Runs drbdadm and says how it ended.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("drbdadm")
    }

    pub fn status(&self) -> KernelStatus {
        parse(&std::fs::read_to_string("/proc/drbd").expect("/proc/drbd"))
    }

    pub fn wait(&self, wanted: &str, done: impl Fn(&KernelStatus) -> bool) -> KernelStatus {
        let limit = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if done(&status) {
                return status;
            }
            assert!(Instant::now() < limit, "kernel: waited in vain for {wanted}: {status:?}");
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// current, bitmap, history: without the lowest bit, which tells a role.
    pub fn generations(&self) -> [u64; 4] {
        let text = self.succeed(&["get-gi", RESOURCE]);
        let line = text.lines().find(|line| line.contains(':')).expect("a line of identifiers");
        let numbers = line.split(':').take(4);
        let numbers = numbers.map(|word| u64::from_str_radix(word, 16).expect("hexadecimal") & !1);
        numbers.collect::<Vec<_>>().try_into().expect("four identifiers")
    }

    /// Lines that no well-behaved peer causes.
    pub fn complaints(&self) -> Vec<String> {
        const WORDS: [&str; 9] = [
            "ASSERT",
            "BUG",
            "WARNING",
            "magic",
            "unexpected",
            "Unexpected",
            "unknown packet",
            concat!("FIX", "ME"),
            "sent early",
        ];
        let log = self.log();
        let bad = log.lines().filter(|line| WORDS.iter().any(|word| line.contains(word)));
        bad.map(str::to_owned).collect()
    }

    /// What DRBD logged.
    pub fn log(&self) -> String {
        let output = Command::new("dmesg").output().expect("dmesg");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| line.contains("drbd")).collect::<Vec<_>>().join("\n")
    }
}

/// Runs a program that must succeed; returns its standard output.
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}{errors}", output.status);
    said.into_owned()
}

/// Runs in and outside of guests: it needs none.
#[test]
fn proc_drbd_is_understood() {
    let text = [
        "version: 8.4.11 (api:1/proto:86-101)",
        "srcversion: F73C",
        " 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----",
        "    ns:65492 nr:0 dw:0 dr:65492 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:44",
        "\t[===>...] sync'ed: 99.9% (44/65492)K",
    ]
    .join("\n");
    let status = parse(&text);
    assert_eq!((status.connection.as_str(), status.protocol.as_str()), ("SyncSource", "C"));
    assert_eq!((status.role.as_str(), status.peer_role.as_str()), ("Primary", "Secondary"));
    assert_eq!((status.disk.as_str(), status.peer_disk.as_str()), ("UpToDate", "Inconsistent"));
    assert_eq!((status.counter("ns"), status.counter("oos")), (65492, 44));
    assert_eq!(parse("version: 8.4.11\n").connection, "Unconfigured");
}
