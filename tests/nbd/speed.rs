//! 4 KiB requests beside `nbdkit memory`, in the same run on the same machine: only the ratio
//! means anything. Measured in release builds (`cargo test --release --test nbd speed`).

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::memory_server::MemoryServer;
use crate::tools::{find, run};

/// Rounds per server and job; the best one counts, as the machine's noise only takes away.
const ROUNDS: usize = 3;
const SECONDS_PER_RUN: &str = "--runtime=3";

const JOBS: [(&str, &[&str]); 5] = [
    ("4k randread  qd32", &["--rw=randread", "--bs=4k", "--iodepth=32"]),
    ("4k randwrite qd32", &["--rw=randwrite", "--bs=4k", "--iodepth=32"]),
    ("4k randread  qd1 ", &["--rw=randread", "--bs=4k", "--iodepth=1"]),
    ("128k write   qd8 ", &["--rw=write", "--bs=128k", "--iodepth=8"]),
    ("128k read    qd8 ", &["--rw=read", "--bs=128k", "--iodepth=8"]),
];

pub fn compare() {
    if cfg!(debug_assertions) {
        println!("skipped: speed is measured in release builds");
        return;
    }
    if find("fio").is_none() || find("nbdkit").is_none() {
        return;
    }
    let ours = MemoryServer::start(crate::SIZE_BYTES);
    let theirs = Nbdkit::start();
    println!("best of {ROUNDS}:        requests/s                  server CPU us/request");
    println!("job                   twinblk  nbdkit  ratio    twinblk  nbdkit  ratio");
    for (name, job) in JOBS {
        let (mut our_best, mut their_best) = (Figures::default(), Figures::default());
        for _ in 0..ROUNDS {
            our_best.keep(measure(&ours.export_on_unix().uri, std::process::id(), job));
            their_best.keep(measure(&theirs.uri(), theirs.process.id(), job));
        }
        let ratio = our_best.per_second / their_best.per_second;
        let cost_ratio = our_best.cpu_us / their_best.cpu_us;
        println!(
            "{name:20} {:>8.0} {:>7.0} {ratio:>6.2}   {:>8.2} {:>7.2} {cost_ratio:>6.2}",
            our_best.per_second, their_best.per_second, our_best.cpu_us, their_best.cpu_us
        );
        // What neighbours on the machine take moves requests/s by half, but CPU time little.
        assert!(cost_ratio < 1.25, "{name}: costs more than nbdkit by more than noise");
    }
}

#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    /// Of the server, per request.
    cpu_us: f64,
}

impl Default for Figures {
    fn default() -> Self {
        Self { per_second: 0.0, cpu_us: f64::INFINITY }
    }
}

impl Figures {
    fn keep(&mut self, other: Self) {
        self.per_second = self.per_second.max(other.per_second);
        self.cpu_us = self.cpu_us.min(other.cpu_us);
    }
}

fn measure(uri: &str, server: u32, job: &[&str]) -> Figures {
    let uri = format!("--uri={uri}");
    let common = [
        "--name=speed",
        "--ioengine=nbd",
        &uri,
        "--size=100m",
        "--time_based",
        SECONDS_PER_RUN,
        "--output-format=json",
    ];
    let before = cpu_us(server);
    let shown = run("fio", &[&common[..], job].concat());
    let used = cpu_us(server) - before;
    // Other lines may come before the object.
    let object = &shown[shown.find('{').expect("JSON")..];
    let result: serde_json::Value = serde_json::from_str(object).expect("JSON");
    let job = &result["jobs"][0];
    let sum = |field: &str| -> f64 {
        ["read", "write"].iter().filter_map(|way| job[way][field].as_f64()).sum()
    };
    Figures { per_second: sum("iops"), cpu_us: used / sum("total_ios") }
}

/// User and system time of a process: fields 14 and 15 of its stat, in ticks of 10 ms.
fn cpu_us(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it lives");
    let fields = stat.rsplit(") ").next().expect("a state").split(' ');
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

struct Nbdkit {
    process: Child,
    folder: tempfile::TempDir,
}

impl Nbdkit {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let process = Command::new("nbdkit")
            .args(["-f", "-U"])
            .arg(folder.path().join("socket"))
            .args(["memory", "128M"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nbdkit started");
        let server = Self { process, folder };
        let patience = Instant::now() + Duration::from_secs(10);
        while !server.folder.path().join("socket").exists() {
            assert!(Instant::now() < patience, "nbdkit does not listen");
            std::thread::yield_now();
        }
        server
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}/socket", self.folder.path().display())
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
