//! From a resource's own words to the status of the control socket.

use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::units::{BLOCK_BYTES, BLOCK_SECTORS, SECTOR_BYTES};

use super::translate::Plan;
use crate::config::view::Endpoint;
use crate::control::ResourceStatus;
use crate::control::status::{
    Counters, FrozenStatus, GenerationStatus, HeldStatus, NbdClientStatus, NbdStatus, NodeStatus,
    PrimaryTimes, ResyncStatus, SplitBrainStatus, VerdictStatus, VerifiedStatus, VerifyStatus,
};
use crate::driver::{ClientSnapshot, Snapshot};
use crate::engine::event::{DeviceRecord, Generations};
use crate::engine::status::{Progress, Status, Verified, VerifyProgress};
use crate::engine::verdict::{Direction, SplitBrain, Verdict};

/// Word that stands for the resource in hints of the engine, which does not know its name.
const NAME_PLACE: &str = "RES";

pub(super) fn status(plan: &Plan, snapshot: &Snapshot) -> ResourceStatus {
    let (engine, me) = (&snapshot.engine, &plan.view.me);
    let name = plan.setup.name.clone();
    let mut own = engine.generations.map(generations).unwrap_or_default();
    if let Some(record) = &engine.record {
        own = flags(own, record);
    }
    let mut status = ResourceStatus {
        reason: with_name(&engine.reason, &name),
        hint: with_name(&engine.hint, &name),
        protocol: protocol(engine.protocol).to_owned(),
        device: me.device.clone(),
        minor: me.minor,
        size_bytes: snapshot.size_bytes,
        backing_disk: me.disk.display().to_string(),
        backend: snapshot.backend.to_owned(),
        direct_io: snapshot.direct_io,
        out_of_sync_bytes: engine.out_of_sync_blocks * BLOCK_BYTES,
        resync: engine.progress.as_ref().map(resync),
        verify: engine.verify.as_ref().map(verify),
        verified: engine.verified.as_ref().map(verified),
        counters: counters(plan, engine),
        generations: own,
        peer_generations: engine.peer_generations.map(generations),
        nbd: NbdStatus {
            uris: plan.uris(),
            clients: snapshot.clients.iter().map(client).collect(),
        },
        local: node(me),
        peer: node(&plan.view.peer),
        protocol_version: engine.agreed.map_or(0, |(version, _)| version),
        held: HeldStatus {
            payloads: snapshot.payloads_held as u64,
            requests: snapshot.requests_open as u64,
            disk_actions: snapshot.disk_actions as u64,
            peer_writes: engine.peer_writes_open,
        },
        frozen: engine.frozen.as_ref().map(|(why, until, since_us)| FrozenStatus {
            why: why.clone(),
            until: with_name(until, &name),
            for_s: since_us / 1_000_000,
        }),
        is_replaced: engine.is_replaced,
        handlers_running: engine.handlers_running.iter().map(ToString::to_string).collect(),
        name,
        ..ResourceStatus::default()
    };
    status.last_primary =
        PrimaryTimes { from_s: snapshot.roles.promoted_s, until_s: snapshot.roles.demoted_s };
    status.verdict = engine.verdict.as_ref().map(verdict);
    status.split_brain = engine.split_brain.as_ref().map(|found| split_brain(found, &status));
    status.set_state(engine.state);
    status
}

fn verdict(verdict: &Verdict) -> VerdictStatus {
    let direction = match verdict.direction {
        Direction::NoSync => "none",
        Direction::Source => "source",
        Direction::Target => "target",
        Direction::Refused => "refused",
    };
    VerdictStatus {
        direction: direction.to_owned(),
        least_bytes: verdict.least_blocks * BLOCK_BYTES,
        most_bytes: verdict.most_blocks * BLOCK_BYTES,
        why: verdict.why.clone(),
    }
}

fn split_brain(found: &SplitBrain, status: &ResourceStatus) -> SplitBrainStatus {
    let name = &status.name;
    let gives_way = format!("twinblk resolve {name} --discard-local");
    let keeps = |node: &NodeStatus| format!("twinblk resolve {name} --keep {}", node.name);
    SplitBrainStatus {
        local_changed_bytes: found.my_changed_blocks * BLOCK_BYTES,
        peer_changed_bytes: found.peer_changed_blocks * BLOCK_BYTES,
        local_was_primary: found.i_was_primary,
        peer_was_primary: found.peer_was_primary,
        keep_local: [keeps(&status.local), gives_way.clone()],
        keep_peer: [gives_way, keeps(&status.peer)],
    }
}

/// A text of the engine with the resource's name in its place.
pub(super) fn with_name(text: &str, name: &str) -> String {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(NAME_PLACE) {
        let (before, found) = rest.split_at(at);
        let after = &found[NAME_PLACE.len()..];
        out += before;
        let is_part = before.ends_with(is_word) || after.starts_with(is_word);
        out += if is_part { NAME_PLACE } else { name };
        rest = after;
    }
    out + rest
}

fn protocol(protocol: ReplicationProtocol) -> &'static str {
    match protocol {
        ReplicationProtocol::A => "A",
        ReplicationProtocol::B => "B",
        ReplicationProtocol::C => "C",
    }
}

fn node(endpoint: &Endpoint) -> NodeStatus {
    NodeStatus { name: endpoint.host.clone(), address: endpoint.address.to_string() }
}

fn client(client: &ClientSnapshot) -> NbdClientStatus {
    NbdClientStatus {
        peer: client.peer.clone(),
        since_s: client.since.as_secs(),
        requests: client.requests,
        in_flight: client.in_flight,
        flushes: client.asked.flushes,
        fuas: client.asked.fuas,
        zeroes: client.asked.zeroes,
        is_kernel: client.is_kernel,
    }
}

/// Rate and remaining time follow from what was done lately: a resync that stands still has neither.
fn resync(progress: &Progress) -> ResyncStatus {
    let done = progress.total_blocks.saturating_sub(progress.left_blocks);
    let left = progress.left_blocks * BLOCK_BYTES;
    let rate = progress.bytes_per_s;
    ResyncStatus {
        done_fraction: match progress.total_blocks {
            0 => 1.0,
            total => done as f64 / total as f64,
        },
        left_bytes: left,
        total_bytes: progress.total_blocks * BLOCK_BYTES,
        rate_bytes_per_s: rate,
        eta_s: (rate > 0).then(|| left.div_ceil(rate)),
        received_blocks: done,
        written_blocks: done,
        ..ResyncStatus::default()
    }
}

fn verify(progress: &VerifyProgress) -> VerifyStatus {
    // The same arithmetic, on blocks compared instead of blocks moved.
    let like = resync(&Progress {
        total_blocks: progress.total_blocks,
        left_blocks: progress.total_blocks.saturating_sub(progress.done_blocks),
        failed_blocks: 0,
        elapsed_us: progress.elapsed_us,
        bytes_per_s: progress.bytes_per_s,
    });
    VerifyStatus {
        done_fraction: if progress.total_blocks == 0 { 0.0 } else { like.done_fraction },
        left_bytes: like.left_bytes,
        total_bytes: like.total_bytes,
        rate_bytes_per_s: like.rate_bytes_per_s,
        eta_s: like.eta_s,
        found_bytes: progress.found_blocks * BLOCK_BYTES,
    }
}

fn verified(verified: &Verified) -> VerifiedStatus {
    VerifiedStatus {
        from_sector: verified.from_block * BLOCK_SECTORS,
        to_sector: verified.to_block * BLOCK_SECTORS,
        found_bytes: verified.found_blocks * BLOCK_BYTES,
        complete: verified.complete,
    }
}

fn counters(plan: &Plan, engine: &Status) -> Counters {
    let counted = &engine.counters;
    let kib = |sectors: u64| sectors * SECTOR_BYTES / 1024;
    Counters {
        ns: kib(counted.net_sent),
        nr: kib(counted.net_received),
        dw: kib(counted.disk_written),
        dr: kib(counted.disk_read),
        al: counted.log_writes,
        bm: counted.bitmap_writes,
        lo: engine.disk_operations,
        pe: 0,
        ua: engine.peer_writes_open,
        ap: engine.requests_open,
        ep: engine.epochs_open,
        wo: if plan.setup.engine.disk_flushes { "f" } else { "n" }.to_owned(),
        oos: engine.out_of_sync_blocks * BLOCK_BYTES / 1024,
        resync_blocks_moved: counted.resync_blocks,
        resync_blocks_equal: counted.resync_equal_blocks,
    }
}

fn generations(generations: Generations) -> GenerationStatus {
    let Generations { current, bitmap, history: [history_younger, history_older] } = generations;
    GenerationStatus { current, bitmap, history_younger, history_older, ..Default::default() }
}

fn flags(status: GenerationStatus, record: &DeviceRecord) -> GenerationStatus {
    GenerationStatus {
        consistent: record.consistent,
        was_up_to_date: record.was_up_to_date,
        primary: record.primary,
        connected: record.connected,
        full_sync: record.full_sync,
        peer_outdated: record.peer_outdated,
        crashed_primary: record.crashed_primary,
        ..status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_takes_its_place_and_no_other() {
        let name = |text| with_name(text, "r0");
        assert_eq!(name("twinblk secondary RES first"), "twinblk secondary r0 first");
        assert_eq!(name("twinblk down RES, then: up RES"), "twinblk down r0, then: up r0");
        assert_eq!(name("PRES RESET RES_1"), "PRES RESET RES_1");
        assert_eq!(name(""), "");
    }

    #[test]
    fn progress_has_a_rate_as_soon_as_something_moved() {
        let half = Progress {
            total_blocks: 1000,
            left_blocks: 500,
            failed_blocks: 0,
            elapsed_us: 1_000_000,
            bytes_per_s: 500 * BLOCK_BYTES,
        };
        let status = resync(&half);
        assert!((status.done_fraction - 0.5).abs() < 1e-9);
        assert_eq!((status.rate_bytes_per_s, status.eta_s), (500 * BLOCK_BYTES, Some(1)));
        let begun = resync(&Progress { left_blocks: 1000, elapsed_us: 0, bytes_per_s: 0, ..half });
        assert_eq!((begun.rate_bytes_per_s, begun.eta_s), (0, None));
    }
}
