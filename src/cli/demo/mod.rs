//! `twinblk demo`: the main job in one command, without root and without a configuration. Two
//! daemons of this program on loopback, real data through NBD, a primary killed in the middle of the
//! writing, the other promoted, everything that was acknowledged read back, the dead node healed.
//!
//! | file | what |
//! | --- | --- |
//! | `pair` | the two daemons, their configuration and their folder |
//! | `client` | a small NBD client that keeps many writes in flight |
//! | `ledger` | what was written where, and what was acknowledged |
//! | `screen` | what is shown while it runs |

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use twinblk_proto::state::{ConnectionState, DiskState};

mod client;
mod ledger;
mod pair;
mod screen;

use client::NbdClient;
use ledger::{Ledger, Verdict};
use pair::{Node, Pair};
use screen::Screen;

use crate::control::outcome::exit;
use crate::control::{Command, ResourceStatus};

/// Size of each backing file; sparse, so that only what is written takes space.
const DISK_BYTES: u64 = 512 << 20;
/// Part of the device that is written to. A crashed Primary resyncs every 4 MiB extent that was in
/// its activity log, so writes all over the device would hide that a resync moves only a part.
const WORKING_SET_BYTES: u64 = 64 << 20;
/// Blocks acknowledged before the primary is killed: seconds of work, in the middle of a run.
const WRITES_BEFORE_KILL: u64 = 6000;
/// Blocks that the survivor writes alone, so that there is something to heal.
const WRITES_ALONE: u64 = 1500;
/// Longest wait for anything; the demo takes far less.
const LIMIT: Duration = Duration::from_secs(60);

/// What the demo found.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct Findings {
    acknowledged_blocks: u64,
    lost_blocks: u64,
    in_flight_at_kill: u64,
    failover_ms: u64,
    differing_when_alone_blocks: u64,
    resync_moved_blocks: u64,
    device_blocks: u64,
    differing_blocks: u64,
    seconds: f64,
}

/// Runs the demo; `keep` leaves the pair running.
pub(super) fn run(keep: bool, json: bool) -> u8 {
    let mut screen = Screen::new(json);
    match play(keep, &mut screen) {
        Ok(findings) => {
            let good = findings.lost_blocks == 0 && findings.differing_blocks == 0;
            if json {
                println!("{}", serde_json::to_string_pretty(&findings).unwrap_or_default());
            }
            if good { exit::OK } else { exit::OTHER }
        }
        Err(error) => {
            screen.clear();
            eprintln!("twinblk demo: {error:#}");
            exit::OTHER
        }
    }
}

fn play(keep: bool, screen: &mut Screen) -> Result<Findings> {
    let began = Instant::now();
    let mut pair = Pair::prepare(DISK_BYTES)?;
    let result = acts(&mut pair, screen, began);
    match &result {
        Ok(_) if keep => pair.leave_running(screen),
        Ok(_) => pair.shut_down()?,
        // The logs say why; the folder stays.
        Err(_) => pair.keep_folder(screen),
    }
    result
}

fn acts(pair: &mut Pair, screen: &mut Screen, began: Instant) -> Result<Findings> {
    pair.alpha.start()?;
    pair.beta.start()?;
    for node in [&pair.alpha, &pair.beta] {
        node.perform(Command::Up)?;
    }
    node_wait(&pair.alpha, "the connection", |s| s.connection == ConnectionState::Connected)?;
    pair.alpha.perform(Command::Primary { force: true })?;
    screen.follow_resync(&pair.beta, LIMIT)?;
    wait_healthy(pair)?;
    screen.line("two daemons on loopback, first sync done: UpToDate/UpToDate, protocol C");

    // 1. Write, and kill the primary in the middle of it.
    let mut ledger = Ledger::new(pair.alpha.status()?.size_bytes.min(WORKING_SET_BYTES));
    let mut client = NbdClient::connect(pair.alpha.nbd, pair::RESOURCE)?;
    while ledger.acknowledged() < WRITES_BEFORE_KILL {
        ledger.write_some(&mut client)?;
        screen.states(&[&pair.alpha, &pair.beta], ledger.acknowledged());
    }
    let killed_at = pair.alpha.kill(|| ledger.write_until_error(&mut client))?;
    drop(client);
    let acknowledged = ledger.acknowledged();
    let in_flight = ledger.in_flight();
    screen.line(&format!(
        "alpha was Primary and got SIGKILL: {acknowledged} writes acknowledged, {in_flight} in flight"
    ));

    // 2. Promote the other and read everything back.
    node_wait(&pair.beta, "beta to miss its peer", |s| s.connection < ConnectionState::Connected)?;
    pair.beta.perform(Command::Primary { force: false })?;
    let failover_ms = killed_at.elapsed().as_millis() as u64;
    screen.line(&format!("beta is Primary {failover_ms} ms after the kill, without --force"));
    let mut client = NbdClient::connect(pair.beta.nbd, pair::RESOURCE)?;
    let Verdict { lost, first_lost } = ledger.verify(&mut client)?;
    screen.line(&format!("read back on beta: {acknowledged} acknowledged blocks, {lost} lost"));
    if let Some(problem) = first_lost {
        screen.line(&problem);
    }

    // 3. The survivor goes on alone; then the dead node comes back.
    ledger.settle();
    let goal = ledger.acknowledged() + WRITES_ALONE;
    while ledger.acknowledged() < goal {
        ledger.write_some(&mut client)?;
        screen.states(&[&pair.beta], ledger.acknowledged());
    }
    ledger.drain(&mut client)?;
    client.flush()?;
    let alone = pair.beta.status()?.out_of_sync_bytes / ledger::BLOCK_BYTES;
    screen.line(&format!(
        "beta went on alone: {WRITES_ALONE} more writes, {} marked out of sync",
        screen::size(alone * ledger::BLOCK_BYTES)
    ));
    let before = pair.beta.status()?.counters.resync_blocks_moved;
    pair.alpha.start()?;
    pair.alpha.perform(Command::Up)?;
    screen.follow_resync(&pair.alpha, LIMIT)?;
    wait_healthy(pair)?;
    let status = pair.beta.status()?;
    let moved = status.counters.resync_blocks_moved - before;
    let device_blocks = status.size_bytes / ledger::BLOCK_BYTES;
    screen.line(&format!(
        "alpha came back: the resync moved {} of {} (its activity log and what beta wrote)",
        screen::size(moved * ledger::BLOCK_BYTES),
        screen::size(status.size_bytes)
    ));

    // 4. Both disks, byte by byte.
    client.flush()?;
    client.disconnect()?;
    let differing_blocks = pair.differing_blocks(status.size_bytes)?;
    screen.line(&format!("both disks compared byte by byte: {differing_blocks} blocks differ"));
    let findings = Findings {
        acknowledged_blocks: acknowledged,
        lost_blocks: lost,
        in_flight_at_kill: in_flight,
        failover_ms,
        differing_when_alone_blocks: alone,
        resync_moved_blocks: moved,
        device_blocks,
        differing_blocks,
        seconds: began.elapsed().as_secs_f64(),
    };
    screen.line(&format!(
        "done in {:.1} s: {} lost, {} differing",
        findings.seconds, findings.lost_blocks, findings.differing_blocks
    ));
    Ok(findings)
}

fn wait_healthy(pair: &Pair) -> Result<()> {
    for node in [&pair.alpha, &pair.beta] {
        node_wait(node, "both disks to be UpToDate", |s| {
            s.connection == ConnectionState::Connected
                && s.disk == DiskState::UpToDate
                && s.peer_disk == DiskState::UpToDate
        })?;
    }
    Ok(())
}

/// Watches a node until it is as wanted.
fn node_wait(node: &Node, what: &str, wanted: impl Fn(&ResourceStatus) -> bool) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut last = None;
    let mut client = node.control()?;
    client
        .follow(Some(pair::RESOURCE), Command::Watch, None, |mut resources| {
            let Some(status) = resources.pop() else { return Instant::now() < deadline };
            let done = wanted(&status);
            last = Some(status);
            !done && Instant::now() < deadline
        })
        .with_context(|| format!("watching {}", node.name))?;
    match last {
        Some(status) if wanted(&status) => Ok(()),
        Some(status) => bail!(
            "waited {LIMIT:?} for {what} on {}: {} {}/{}: {}",
            node.name,
            status.connection,
            status.disk,
            status.peer_disk,
            status.reason
        ),
        None => bail!("{} says nothing about its resource", node.name),
    }
}
