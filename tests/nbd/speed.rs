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
    println!("job                    twinblk     nbdkit   ratio (requests/s, best of {ROUNDS})");
    for (name, job) in JOBS {
        let (mut our_best, mut their_best) = (0.0_f64, 0.0_f64);
        for _ in 0..ROUNDS {
            our_best = our_best.max(measure(&ours.export_on_unix().uri, job));
            their_best = their_best.max(measure(&theirs.uri(), job));
        }
        let ratio = our_best / their_best;
        println!("{name} {our_best:>12.0} {their_best:>10.0} {ratio:>7.2}");
        assert!(ratio > 0.7, "{name}: slower than nbdkit by more than noise");
    }
}

/// Requests per second.
fn measure(uri: &str, job: &[&str]) -> f64 {
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
    let shown = run("fio", &[&common[..], job].concat());
    // Other lines may come before the object.
    let object = &shown[shown.find('{').expect("JSON")..];
    let result: serde_json::Value = serde_json::from_str(object).expect("JSON");
    let job = &result["jobs"][0];
    ["read", "write"].iter().filter_map(|way| job[way]["iops"].as_f64()).sum()
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
