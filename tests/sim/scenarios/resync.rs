//! Healing, and what may come in its way.

use twinblk::engine::effect::Effect;
use twinblk::engine::event::Verb;
use twinblk_proto::packet::{Packet, ReplicationProtocol};
use twinblk_proto::state::{ConnectionState, DiskState};
use twinblk_proto::units::{BLOCK_SECTORS, SectorRange};

use super::crashes::degrade_and_write;
use super::stage::{CONNECT, PRIMARY, Stage};
use crate::requests::{Reply, Wish};
use crate::subject::Subject;
use crate::swarm::Swarm;

const DISCONNECT: Verb = Verb::Disconnect { force: false };
const SECONDARY: Verb = Verb::Secondary { force: false };

/// I3: half a resync is no data.
pub fn resync_target_refuses_promote<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    degrade_and_write(&mut stage, 64);
    stage.until("target", |stage| stage.connection(1) == ConnectionState::SyncTarget);
    assert_eq!(stage.disk(1), DiskState::Inconsistent);
    stage.power_loss(0);
    stage.until("the source is gone", |stage| stage.connection(1) < ConnectionState::Connected);
    let refusal = stage.ask(1, PRIMARY).expect_err("Inconsistent");
    assert_eq!(refusal.code, -2, "need access to UpToDate data: {refusal:?}");
    stage.restart(0);
    stage.heals();
}

/// I7 with the caches gone: at every moment of a resync, a block whose new data is not stable on
/// the target is still marked in durable metadata.
pub fn bitmap_bit_cleared_only_after_target_durable<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    degrade_and_write(&mut stage, 64);
    stage.until("in sync", |stage| {
        let [source, target] = &stage.world.nodes;
        for index in 0..64 {
            let sector = index * 64;
            let block = sector / BLOCK_SECTORS;
            let marked = source.metadata.covers(block) || target.metadata.covers(block);
            let stable = target.medium.stable(sector) == source.medium.view(sector);
            assert!(marked || stable, "block {block} would be lost by a power loss of the target");
        }
        stage.is_in_sync()
    });
    stage.rest(5_000);
    stage.power_loss(1);
    stage.world.check_coverage();
    stage.restart(1);
    stage.heals();
}

/// The client overwrites blocks while they are being resynced: the newer data wins on both.
pub fn write_during_resync_same_block<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    degrade_and_write(&mut stage, 64);
    stage.until("source", |stage| stage.connection(0) == ConnectionState::SyncSource);
    let mut requests = Vec::new();
    for index in 0..64 {
        let place = index * 64;
        requests.push(stage.begin(0, super::stage::write(place, 8)));
        requests.push(stage.begin(0, super::stage::write(place + 3, 2)));
    }
    for request in requests {
        stage.answer(request);
    }
    stage.heals();
}

/// After an interruption only the rest is copied.
pub fn resync_interrupted_resumes_without_full_sync<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    degrade_and_write(&mut stage, 200);
    stage.until_before(1, |effect| {
        matches!(effect, Effect::SendMeta { packet: Packet::ResyncWriteAck(_), .. })
    });
    stage.world.crash(1, crate::node::Crash::Kill);
    stage.restart(1);
    stage.heals();
    let moved = stage.blocks_moved(0).max(stage.blocks_moved(1));
    assert!(moved <= 400, "{moved} blocks were copied for 200 that differed");
}

/// Data of a session that is over never reaches the disk.
pub fn stale_session_data_ignored<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 80, 8);
    let number = stage.world.nodes[1].session.expect("connected");
    let old = stage.world.link.sessions[&number].ends[1].id;
    stage.world.break_session(number);
    stage.until("a new session", |stage| {
        stage.world.nodes[1].session.is_some_and(|session| session != number) && stage.is_in_sync()
    });
    let before = stage.world.nodes[1].medium.view(80);
    let payload = stage.world.nodes[1].slab.insert(vec![crate::stamp::stamp(77, 80)].into());
    let range = twinblk_proto::units::SectorRange::new(80, 1);
    let id = twinblk_proto::packet::BlockId(1);
    let write = twinblk_proto::packet::Write { range, id, sequence: 1, flags: 0 };
    let packet = Packet::Data(write);
    stage.world.input(
        1,
        twinblk::engine::event::Event::PacketReceived {
            session: old,
            packet,
            payload: Some(payload),
        },
    );
    stage.rest(1_000);
    assert_eq!(stage.world.nodes[1].medium.view(80), before);
    stage.heals();
}

/// A failed flush is an I/O error, never retried as if it had worked.
pub fn flush_eio_detaches<E: Subject>() {
    for node in [0, 1] {
        let mut stage = Stage::<E>::pair();
        stage.write(0, 0, 8);
        stage.world.faults.fail_disk(node, 1);
        let flush = stage.begin(0, Wish::Flush);
        stage.until("the disk is thrown out", |stage| stage.disk(node) == DiskState::Diskless);
        stage.answer(flush);
        stage.write(0, 0, 8);
        stage.must(node, Verb::Attach);
        stage.heals();
    }
}

/// At the end of a resync its source writes that it is over, then flushes, then writes that no
/// block differs any more. The flush fails: the disk may have lost those blocks, and comes back
/// with the generation of its peer. The peer has them, and gives them back, also a kernel peer.
pub fn a_source_that_failed_its_last_flush_becomes_target<E: Subject>() {
    for (source, twins) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut stage = source_fails_its_last_flush::<E>(source, twins);
        stage.must(source, Verb::Attach);
        stage.heals();
        assert_eq!(stage.world.statistics.resyncs, 2, "{source} {twins}");
    }
}

/// The same, and the disk is attached before the nodes are connected again: two twinblk nodes do
/// not leave it at equal generations, and the node whose blocks are marked is the target.
pub fn a_lone_source_that_failed_its_last_flush_becomes_target<E: Subject>() {
    for (source, leaves) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut stage = source_fails_its_last_flush::<E>(source, true);
        stage.must(leaves, DISCONNECT);
        stage.until("apart", |stage| stage.connection(source) < ConnectionState::Connected);
        stage.must(source, Verb::Attach);
        stage.must(leaves, CONNECT);
        stage.heals();
        assert_eq!(stage.world.statistics.resyncs, 2, "{source} {leaves}");
    }
}

fn source_fails_its_last_flush<E: Subject>(source: usize, twins: bool) -> Stage<E> {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.twins = twins;
    let mut stage = Stage::<E>::pair_of(swarm);
    let target = 1 - source;
    if source == 1 {
        stage.must(0, SECONDARY);
        stage.must(1, PRIMARY);
    }
    stage.must(target, DISCONNECT);
    stage.write(source, 8 * BLOCK_SECTORS, 2 * BLOCK_SECTORS as u32);
    stage.must(source, SECONDARY);
    stage.must(target, CONNECT);
    stage.until("the resync is over", |stage| {
        stage.connection(source) == ConnectionState::Connected
    });
    stage.world.faults.fail_disk(source, 1);
    stage.until("thrown out", |stage| stage.disk(source) == DiskState::Diskless);
    for block in [8, 9] {
        // What was lost.
        stage.world.plant(source, block);
    }
    stage
}

/// A Primary without a disk is served by its peer, and gets its disk back in sync.
pub fn diskless_primary_is_served_by_its_peer<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 8);
    stage.must(0, Verb::Detach { force: false });
    stage.write(0, 4, 8);
    stage.write(0, 100, 3);
    stage.does(0, Wish::Flush);
    assert_eq!(crate::stamp::write_number(stage.read(0, 0, 12)[4]), 2);
    stage.must(0, Verb::Attach);
    stage.heals();
    assert_eq!(crate::stamp::write_number(stage.world.nodes[0].medium.view(4)), 2);
}

/// I1: what a lost session left in the peer's cache is the only copy, and a flush covers it. A kernel
/// can not be asked for that without a write, so there the flush fails.
pub fn a_flush_covers_what_an_earlier_session_left<E: Subject>() {
    for (twins, killed) in [(true, false), (true, true), (false, false)] {
        let mut swarm = Swarm::quiet(ReplicationProtocol::C);
        swarm.twins = twins;
        let mut stage = Stage::<E>::pair_of(swarm);
        stage.must(0, Verb::Detach { force: false });
        stage.write(0, 0, 8);
        if killed {
            stage.world.crash(1, crate::node::Crash::Kill);
        } else {
            stage.cut_all();
        }
        stage
            .until("the Primary notices", |stage| stage.connection(0) < ConnectionState::Connected);
        if killed {
            stage.restart(1);
        } else {
            stage.heal_all();
        }
        stage.until("connected", |stage| stage.connection(0) == ConnectionState::Connected);
        let flush = stage.begin(0, Wish::Flush);
        let reply = stage.answer(flush);
        assert_eq!(matches!(reply, Reply::Done), twins, "{reply:?}");
        stage.write(0, 100, 8);
        stage.does(0, Wish::Flush);
        stage.does(0, Wish::Flush);
        stage.must(0, Verb::Attach);
        stage.heals();
    }
}

/// I1, I4: the same, after this node got its own disk back and copied what only the peer had: the copy
/// here is stable, that of the peer must be as well, or it comes back older and looks equal.
pub fn a_flush_after_the_copy_covers_the_peer_too<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.twins = true;
    let mut stage = Stage::<E>::pair_of(swarm);
    stage.must(0, Verb::Detach { force: false });
    stage.write(0, 0, 8);
    stage.cut_all();
    stage.until("the Primary notices", |stage| stage.connection(0) < ConnectionState::Connected);
    stage.heal_all();
    stage.until("connected", |stage| stage.connection(0) == ConnectionState::Connected);
    stage.must(0, Verb::Attach);
    stage.until("in sync", |stage| {
        stage.connection(0) == ConnectionState::Connected && stage.disk(0) == DiskState::UpToDate
    });
    stage.does(0, Wish::Flush);
    stage.power_loss(1);
    stage.until("the Primary notices", |stage| stage.connection(0) < ConnectionState::Connected);
    stage.restart(1);
    stage.heals();
}

/// I9: a write is slow on the disk of a Primary that is resync target, and was read at the peer
/// already. The end of the resync does not bring the old content back.
pub fn the_end_of_a_resync_takes_no_read_back<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.must(0, Verb::Detach { force: false });
    stage.write(0, 0, 512);
    stage.must(0, Verb::Attach);
    stage.until("target", |stage| stage.connection(0) == ConnectionState::SyncTarget);
    let quick_us = std::mem::replace(&mut stage.world.swarm.disk.latency_us, 400_000);
    let slow = stage.begin(0, super::stage::write(1000, 8));
    stage.until("being written here", |stage| stage.world.nodes[0].is_writing(1000));
    stage.world.swarm.disk.latency_us = quick_us;
    stage.until("written there", |stage| {
        crate::stamp::write_number(stage.world.nodes[1].medium.view(1000)) == 2
    });
    assert_eq!(crate::stamp::write_number(stage.read(0, 1000, 8)[0]), 2);
    stage.until("UpToDate", |stage| stage.disk(0) == DiskState::UpToDate);
    assert!(!stage.is_answered(slow), "still being written");
    assert_eq!(crate::stamp::write_number(stage.read(0, 1000, 8)[0]), 2);
    stage.answer(slow);
    stage.heals();
}

/// I1: half a resync holds not everything that was answered: without the peer that does, a flush of it
/// promises nothing.
pub fn a_flush_of_half_a_resync_is_an_error<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.must(0, Verb::Detach { force: false });
    for index in 0..64 {
        stage.write(0, index * 64, 8);
    }
    stage.must(0, Verb::Attach);
    stage.until("target", |stage| stage.connection(0) == ConnectionState::SyncTarget);
    stage.world.crash(1, crate::node::Crash::Kill);
    let flush = stage.begin(0, Wish::Flush);
    let reply = stage.answer(flush);
    assert!(matches!(reply, Reply::Failed(_)), "{reply:?}");
    stage.until("the source is gone", |stage| stage.connection(0) < ConnectionState::Connected);
    let flush = stage.begin(0, Wish::Flush);
    let reply = stage.answer(flush);
    assert!(matches!(reply, Reply::Failed(_)), "{reply:?}");
    stage.restart(1);
    stage.heals();
}

/// I9: a write that the source may never get is not to be seen here before it is answered, though it is
/// on this disk already and the block is in sync.
pub fn a_target_reads_behind_its_own_writes<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    // One block each 10 ms: the resync is under way when the link is cut.
    (swarm.settings.c_plan_ahead, swarm.settings.resync_rate) = (0, 400);
    let mut stage = Stage::<E>::pair_of(swarm);
    stage.must(0, Verb::Detach { force: false });
    for index in 0..64 {
        stage.write(0, index * 64, 8);
    }
    stage.must(0, Verb::Attach);
    stage.until("the first blocks are in sync", |stage| stage.blocks_moved(0) > 0);
    stage.cut_all();
    let write = stage.begin(0, super::stage::write(0, 8));
    stage.rest(50);
    let read = stage.begin(0, Wish::Read(SectorRange::new(0, 8)));
    stage.rest(50);
    assert!(!stage.is_answered(write) && !stage.is_answered(read), "only the source's copy counts");
    stage.world.crash(1, crate::node::Crash::Kill);
    assert!(matches!(stage.answer(write), Reply::Failed(_)));
    assert!(matches!(stage.answer(read), Reply::Failed(_)));
    stage.heal_all();
    stage.restart(1);
    stage.heals();
}

/// Ordinary disconnect, writes, connect: only what changed is copied.
pub fn reconnect_copies_what_changed<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.must(1, Verb::Disconnect { force: false });
    for index in 0..10 {
        stage.write(0, index * 800, 8);
    }
    stage.must(1, CONNECT);
    stage.heals();
    let moved = stage.blocks_moved(0).max(stage.blocks_moved(1));
    assert!((10..=20).contains(&moved), "{moved} blocks for 10 that differed");
}

/// The log's slots are few and the extents many: evicted extents are no longer hot, and a crash
/// resyncs only what is.
pub fn a_small_activity_log_bounds_the_resync<E: Subject>() {
    let mut swarm = crate::swarm::Swarm::quiet(twinblk_proto::packet::ReplicationProtocol::C);
    swarm.settings.al_extents = 67;
    swarm.device_sectors = 90 * twinblk_proto::units::EXTENT_SECTORS;
    let mut stage = Stage::<E>::pair_of(swarm);
    for extent in 0..90 {
        stage.write(0, extent * twinblk_proto::units::EXTENT_SECTORS, 8);
    }
    stage.power_loss(0);
    stage.world.check_coverage();
    stage.restart(0);
    stage.heals();
    let moved = stage.blocks_moved(0).max(stage.blocks_moved(1));
    // The slots, not every extent that was ever written to.
    assert!(moved <= 67 * 1024, "{moved} blocks");
}
