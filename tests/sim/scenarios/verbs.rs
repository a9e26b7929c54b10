//! Commands that say what data is worth: invalidate, invalidate-remote, outdate, new-current-uuid
//! (session.md 5.5, 5.6; behaviour.md 1.5).

use twinblk::engine::effect::{DiskAction, Effect};
use twinblk::engine::event::Verb;
use twinblk_proto::packet::{Packet, ReplicationProtocol};
use twinblk_proto::state::{ConnectionState, DiskState};
use twinblk_proto::units::BLOCK_SECTORS;

use super::stage::{CONNECT, PRIMARY, Stage, write};
use crate::node::Crash;
use crate::oracle::generations::plain;
use crate::subject::Subject;
use crate::swarm::{Beginning, Swarm};

const DISCONNECT: Verb = Verb::Disconnect { force: false };
const SECONDARY: Verb = Verb::Secondary { force: false };

#[track_caller]
fn refused<E: Subject>(stage: &mut Stage<E>, node: usize, verb: Verb, code: i32) {
    let refusal = stage.ask(node, verb.clone()).expect_err("refused");
    assert_eq!(refusal.code, code, "{verb:?}: {refusal:?}");
    assert!(!refusal.hint.is_empty(), "the next command: {refusal:?}");
}

/// Everything is copied to `target`, by the command of either node, while the Primary writes.
pub fn invalidate_copies_everything<E: Subject>() {
    for (asked, verb, target) in [
        (1, Verb::Invalidate, 1),
        (0, Verb::Invalidate, 0),
        (0, Verb::InvalidateRemote, 1),
        (1, Verb::InvalidateRemote, 0),
    ] {
        let mut stage = Stage::<E>::pair();
        stage.write(0, 64, 64);
        let before = plain(stage.world.nodes[0].metadata.record().generations.current);
        let open: Vec<_> = (0..8).map(|index| stage.begin(0, write(index * 4096, 16))).collect();
        stage.must(asked, verb.clone());
        assert_eq!(stage.disk(target), DiskState::Inconsistent, "{verb:?}");
        assert!(stage.ask(target, Verb::Invalidate).is_err(), "one at a time");
        let late = stage.begin(0, write(9000, 24));
        for request in open.into_iter().chain([late]) {
            stage.answer(request);
        }
        assert!(stage.read(0, 64, 8)[0] != 0, "a Primary goes on serving");
        stage.heals();
        let blocks = stage.world.swarm.device_sectors / BLOCK_SECTORS;
        let moved = stage.blocks_moved(1 - target);
        assert!(moved >= blocks, "{verb:?} of {asked}: {moved} of {blocks} blocks");
        let records = [0, 1].map(|node| *stage.world.nodes[node].metadata.record());
        for record in records {
            let generations = record.generations;
            assert_eq!((plain(generations.current), generations.bitmap), (before, 0));
            assert!(!record.full_sync && record.consistent);
        }
        assert_eq!(
            records.map(|record| plain(record.generations.history[0]))[0],
            plain(records[1].generations.history[0])
        );
    }
}

/// Whatever is interrupted where, the invalidated node is the target again (I8).
pub fn an_interrupted_invalidate_goes_on_the_same_way<E: Subject>() {
    type Chosen = fn(&Effect) -> bool;
    let moments: [(usize, Chosen); 5] = [
        (1, |effect| matches!(effect, Effect::Disk { action: DiskAction::PersistBitmap(_), .. })),
        (0, |effect| matches!(effect, Effect::Disk { action: DiskAction::PersistBitmap(_), .. })),
        (0, |effect| {
            matches!(effect, Effect::SendMeta { packet: Packet::StateChangeReply(_), .. })
        }),
        (0, |effect| matches!(effect, Effect::SendData { packet: Packet::SyncUuid(_), .. })),
        (1, |effect| matches!(effect, Effect::SendData { packet: Packet::ResyncRequest(_), .. })),
    ];
    let begin = || {
        let mut stage = Stage::<E>::pair();
        stage.write(0, 64, 64);
        stage.world.command(1, Verb::Invalidate);
        stage
    };
    let mend = |mut stage: Stage<E>, victim: usize, crash: Crash| {
        match crash {
            Crash::Kill => stage.world.crash(victim, Crash::Kill),
            Crash::PowerLoss => stage.power_loss(victim),
        }
        stage.restart(victim);
        stage.until("in sync", Stage::is_in_sync);
        stage.eventually(0, PRIMARY);
        stage.read(0, 64, 64);
        stage.heals();
    };
    for crash in [Crash::Kill, Crash::PowerLoss] {
        // One of them dies at its own worst moment,
        for (node, chosen) in moments {
            let mut stage = begin();
            stage.until_before(node, chosen);
            mend(stage, node, crash);
        }
        // or at one of the other's.
        for (node, state) in [
            (1, ConnectionState::StartingSyncT),
            (0, ConnectionState::StartingSyncS),
            (1, ConnectionState::WFSyncUUID),
            (0, ConnectionState::SyncSource),
        ] {
            for victim in 0..2 {
                let mut stage = begin();
                stage.until("the moment", |stage| stage.connection(node) == state);
                mend(stage, victim, crash);
            }
        }
    }
}

/// A StandAlone Secondary gives its data up; a StandAlone Primary the peer's.
pub fn alone_one_side_is_invalidated<E: Subject>() {
    for verb in [Verb::Invalidate, Verb::InvalidateRemote] {
        let mut stage = Stage::<E>::pair();
        stage.write(0, 8, 8);
        let asked = usize::from(verb == Verb::Invalidate);
        stage.must(asked, DISCONNECT);
        if asked == 0 {
            refused(&mut stage, 0, Verb::Invalidate, -15);
        } else {
            refused(&mut stage, 1, Verb::InvalidateRemote, -15);
        }
        stage.must(asked, verb.clone());
        if asked == 1 {
            assert_eq!(stage.disk(1), DiskState::Inconsistent);
            assert!(stage.ask(1, PRIMARY).is_err(), "its data is worthless");
        }
        let record = *stage.world.nodes[asked].metadata.record();
        assert!(!record.full_sync, "the bits themselves are on disk");
        assert_eq!(record.consistent, asked == 0);
        stage.must(asked, CONNECT);
        stage.heals();
        let blocks = stage.world.swarm.device_sectors / BLOCK_SECTORS;
        assert!(stage.blocks_moved(0) >= blocks, "{verb:?}");
    }
}

/// What is not allowed is refused, with DRBD's numbers.
pub fn worthless_wishes_are_refused<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.beginning = Beginning::Created;
    let mut stage = Stage::<E>::new(swarm);
    refused(&mut stage, 0, Verb::Invalidate, 138);
    refused(&mut stage, 0, Verb::Outdate, 138);
    refused(&mut stage, 0, Verb::NewCurrentUuid { clear_bitmap: false }, 138);
    stage.bring_up(0);
    refused(&mut stage, 0, Verb::Invalidate, -15);
    refused(&mut stage, 0, Verb::NewCurrentUuid { clear_bitmap: true }, 151);
    refused(&mut stage, 0, Verb::Outdate, -16);
    stage.bring_up(1);
    stage.until("connected", |stage| stage.connection(0) == ConnectionState::Connected);
    // The kernel would declare one of two empty disks to be good.
    refused(&mut stage, 0, Verb::Invalidate, -2);
    refused(&mut stage, 0, Verb::InvalidateRemote, -2);
    refused(&mut stage, 0, Verb::NewCurrentUuid { clear_bitmap: false }, 151);
    stage.must(0, Verb::Primary { force: true });
    stage.until("in sync", Stage::is_in_sync);
    refused(&mut stage, 1, Verb::Outdate, -6);
    refused(&mut stage, 0, Verb::Outdate, -6);
    refused(&mut stage, 0, Verb::NewCurrentUuid { clear_bitmap: true }, 151);
    stage.must(1, Verb::Detach { force: false });
    refused(&mut stage, 0, Verb::InvalidateRemote, -5);
    refused(&mut stage, 1, Verb::Invalidate, 138);
    stage.must(1, Verb::Attach);
    stage.until("in sync", Stage::is_in_sync);
    stage.must(1, DISCONNECT);
    refused(&mut stage, 0, Verb::Outdate, -2);
    stage.must(1, Verb::Outdate);
    assert_eq!(stage.disk(1), DiskState::Outdated);
    let record = *stage.world.nodes[1].metadata.record();
    assert!(record.consistent && !record.was_up_to_date);
    refused(&mut stage, 1, PRIMARY, -2);
    stage.must(1, CONNECT);
    stage.until("in sync", Stage::is_in_sync);
}

/// Two new disks declared equal: no resync, one new generation, clean bitmaps (session.md 5.6).
pub fn the_first_sync_is_skipped<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.beginning = Beginning::Created;
    let mut stage = Stage::<E>::new(swarm);
    stage.bring_up(0);
    stage.bring_up(1);
    stage.until("connected", |stage| stage.connection(0) == ConnectionState::Connected);
    stage.must(1, Verb::NewCurrentUuid { clear_bitmap: true });
    stage.until("in sync", Stage::is_in_sync);
    stage.until("both know it", |stage| {
        (0..2).all(|node| stage.world.nodes[node].metadata.record().was_up_to_date)
    });
    let [a, b] = [0, 1].map(|node| stage.world.nodes[node].metadata.record().generations);
    assert_eq!((a.current, a.bitmap, b.bitmap), (b.current, 0, 0));
    assert!(a.current > 5 && stage.world.statistics.resyncs == 0);
    stage.must(0, DISCONNECT);
    stage.must(0, CONNECT);
    stage.until("in sync", Stage::is_in_sync);
    assert_eq!(stage.world.statistics.resyncs, 0);
}

/// Whoever dies while the first sync is skipped: never one good disk beside another that is not
/// known to differ.
pub fn skipping_the_first_sync_may_be_interrupted<E: Subject>() {
    type Chosen = fn(&Effect) -> bool;
    let record: Chosen =
        |effect| matches!(effect, Effect::Disk { action: DiskAction::PersistRecord(_), .. });
    let tells: Chosen =
        |effect| matches!(effect, Effect::SendData { packet: Packet::Uuids(_), .. });
    for (victim, chosen) in [(0, record), (0, tells), (1, record)] {
        let mut swarm = Swarm::quiet(ReplicationProtocol::C);
        swarm.beginning = Beginning::Created;
        let mut stage = Stage::<E>::new(swarm);
        stage.bring_up(0);
        stage.bring_up(1);
        stage.until("connected", |stage| stage.connection(0) == ConnectionState::Connected);
        stage.world.command(0, Verb::NewCurrentUuid { clear_bitmap: true });
        stage.until_before(victim, chosen);
        stage.power_loss(victim);
        stage.restart(victim);
        stage.until("connected again, and done", |stage| {
            (0..2).all(|node| stage.connection(node) == ConnectionState::Connected)
        });
        let disks = [0, 1].map(|node| stage.disk(node));
        if disks == [DiskState::Inconsistent; 2] {
            stage.must(0, Verb::NewCurrentUuid { clear_bitmap: true });
        }
        stage.until("in sync", Stage::is_in_sync);
    }
}

/// StandAlone, a new generation: the peer's is its base. On both: unrelated data (capture 57).
pub fn a_new_generation_by_command<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.must(0, SECONDARY);
    stage.must(0, DISCONNECT);
    let old = stage.world.nodes[0].metadata.record().generations;
    stage.must(0, Verb::NewCurrentUuid { clear_bitmap: false });
    let new = stage.world.nodes[0].metadata.record().generations;
    assert_eq!((new.bitmap, new.history), (old.current, old.history));
    stage.must(0, CONNECT);
    stage.heals();
    for node in 0..2 {
        if stage.connection(node) != ConnectionState::StandAlone {
            stage.must(node, DISCONNECT);
        }
        stage.must(node, DISCONNECT);
    }
    for _ in 0..3 {
        // Often enough to push every common ancestor out of the history.
        for node in 0..2 {
            stage.must(node, Verb::NewCurrentUuid { clear_bitmap: true });
        }
    }
    for node in 0..2 {
        stage.must(node, CONNECT);
    }
    stage.until("thrown out", |stage| {
        (0..2).any(|node| stage.connection(node) == ConnectionState::StandAlone)
    });
    stage.rest(3_000);
    assert!((0..2).all(|node| stage.connection(node) < ConnectionState::Connected));
    assert_eq!(stage.world.statistics.resyncs, 1, "the first connection only");
}
