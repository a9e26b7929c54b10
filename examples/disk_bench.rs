//! Measures the disk module: 4 KiB random writes at depth 32 in one file.
//!
//! ```text
//! cargo run --release --example disk_bench -- backends FILE   each backend, as ratio to io_uring
//! cargo run --release --example disk_bench -- fio FILE        this module as ratio to fio
//! ```
//!
//! FILE is made if missing, and overwritten. Rounds alternate between the candidates, since a
//! shared machine changes its mind from minute to minute; the median of the rounds' ratios is shown.
//! Processor time includes the kernel's workers for this process.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use twinblk::buffer::BufferPool;
use twinblk::disk::{BackendChoice, Disk, DiskOptions, Operation};

const FILE_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: usize = 4096;
const DEPTH: usize = 32;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, path] = &arguments[..] else { bail!("usage: disk_bench backends|fio FILE") };
    let path = Path::new(path);
    fill(path)?;
    let mine = |backend| move || random_writes(path, backend);
    match what.as_str() {
        "backends" => compare(&mut [
            ("io_uring", Box::new(mine(BackendChoice::IoUring))),
            ("inline", Box::new(mine(BackendChoice::Inline))),
            ("threads", Box::new(mine(BackendChoice::Threads))),
        ]),
        "fio" => compare(&mut [
            ("fio io_uring", Box::new(|| fio(path, &[]))),
            ("fio, fixed", Box::new(|| fio(path, &["--fixedbufs=1", "--registerfiles=1"]))),
            ("this", Box::new(mine(BackendChoice::IoUring))),
        ]),
        _ => bail!("backends or fio"),
    }
}

/// Written once, so that no round pays for allocating blocks.
fn fill(path: &Path) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == FILE_BYTES) {
        return Ok(());
    }
    let mut file = File::create(path)?;
    std::io::copy(&mut std::io::Read::take(std::io::repeat(1), FILE_BYTES), &mut file)?;
    file.sync_all()?;
    Ok(())
}

type Candidate<'a> = (&'static str, Box<dyn Fn() -> Result<Outcome> + 'a>);

#[derive(Clone, Copy)]
struct Outcome {
    per_second: f64,
    processor_us: f64,
}

fn compare(candidates: &mut [Candidate<'_>]) -> Result<()> {
    let mut outcomes = vec![Vec::new(); candidates.len()];
    for round in 0..ROUNDS {
        for (index, (name, run)) in candidates.iter().enumerate() {
            outcomes[index].push(run().with_context(|| format!("{name}, round {round}"))?);
        }
    }
    for ((name, _), mine) in candidates.iter().zip(&outcomes) {
        let rate = median(mine.iter().map(|outcome| outcome.per_second));
        let processor_us = median(mine.iter().map(|outcome| outcome.processor_us));
        // Of rounds side by side: they met the same weather.
        let share = median(
            mine.iter().zip(&outcomes[0]).map(|(one, first)| one.per_second / first.per_second),
        );
        println!("{name:14} {rate:9.0}/s  {share:.2} of the first  {processor_us:5.1} us each");
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// User and system time of this process so far (proc(5), `stat`; 100 ticks a second).
fn processor_us() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("no command in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? * 10_000.0)
}

fn random_writes(path: &Path, backend: BackendChoice) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pool = BufferPool::with_arena();
        let options = DiskOptions { backend, ..DiskOptions::default() };
        let mut disk = Disk::open(path, &options, &pool)?;
        let blocks = disk.size_bytes() / BLOCK_BYTES as u64;
        let mut state = 88_172_645_463_325_252_u64;
        let mut submit = |disk: &mut Disk| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let offset = state % blocks * BLOCK_BYTES as u64;
            let payload = pool.take(BLOCK_BYTES).freeze();
            disk.submit(0, Operation::Write { offset, payload, durable: false });
        };
        for _ in 0..DEPTH {
            submit(&mut disk);
        }
        disk.kick();
        let mut completions = Vec::new();
        let mut count = 0_u64;
        let processor_before = processor_us()?;
        let start = Instant::now();
        while start.elapsed() < ROUND {
            disk.ready().await;
            disk.completions(&mut completions);
            for completion in completions.drain(..) {
                completion.result?;
                count += 1;
                submit(&mut disk);
            }
            disk.kick();
        }
        let per_second = count as f64 / start.elapsed().as_secs_f64();
        Ok(Outcome {
            per_second,
            processor_us: (processor_us()? - processor_before) / count as f64,
        })
    })
}

fn fio(path: &Path, extra: &[&str]) -> Result<Outcome> {
    let output = Command::new("fio")
        .args(["--name=raw", "--ioengine=io_uring", "--direct=1", "--rw=randwrite", "--bs=4k"])
        .args(["--norandommap", "--randrepeat=0", "--time_based", "--output-format=json"])
        .arg(format!("--iodepth={DEPTH}"))
        .arg(format!("--runtime={}", ROUND.as_secs()))
        .arg(format!("--size={FILE_BYTES}"))
        .arg(format!("--filename={}", path.display()))
        .args(extra)
        .output()
        .context("fio")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let job = &report["jobs"][0];
    let number = |value: &serde_json::Value| value.as_f64().context("fio's report lacks a number");
    let per_second = number(&job["write"]["iops"])?;
    let share = (number(&job["usr_cpu"])? + number(&job["sys_cpu"])?) / 100.0;
    Ok(Outcome { per_second, processor_us: share * 1e6 / per_second })
}
