//! Nodes die at the worst moment.

use twinblk::engine::effect::{DiskAction, Effect};
use twinblk_proto::packet::Packet;
use twinblk_proto::state::{ConnectionState, Role};

use super::stage::{CONNECT, PRIMARY, Stage, write};
use crate::node::{Crash, Node};
use crate::oracle::generations::plain;
use crate::requests::{Reply, Wish};
use crate::stamp::{stamp, unwritten, write_number};
use crate::subject::Subject;
use crate::swarm::{Beginning, Swarm};

/// I1: what protocol C answered survives the Primary, even its cache.
pub fn ack_c_then_primary_power_loss<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 100, 24);
    stage.power_loss(0);
    stage.eventually(1, PRIMARY);
    assert_eq!(stage.read(1, 100, 24)[0], stamp(1, 100));
    stage.write(1, 108, 8);
    stage.restart(0);
    stage.heals();
}

/// The extent becomes hot just as the Primary dies; whether the transaction reached the disk or
/// not, nothing is lost and nothing differs unnoticed.
pub fn primary_crash_during_al_update<E: Subject>() {
    for submitted in [false, true] {
        let mut stage = Stage::<E>::pair();
        stage.write(0, 0, 8);
        let request = stage.begin(0, write(2 * 8192, 8));
        let logs = |effect: &Effect| {
            matches!(effect, Effect::Disk { action: DiskAction::PersistActivityLog(_), .. })
        };
        if submitted {
            stage.until_after(0, logs);
        } else {
            stage.until_before(0, logs);
        }
        stage.power_loss(0);
        assert!(matches!(stage.answer(request), Reply::Never));
        stage.restart(0);
        stage.until("in sync", Stage::is_in_sync);
        stage.must(0, PRIMARY);
        stage.read(0, 2 * 8192, 8);
        stage.heals();
    }
}

/// The write is on the Primary's disk only when it dies: the survivor never saw it, and the old
/// Primary must give it up.
pub fn primary_crash_after_local_before_peer<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 40, 8);
    stage.cut_all();
    let request = stage.begin(0, write(40, 8));
    stage.until("on the local disk", |stage| {
        write_number(stage.world.nodes[0].medium.view(40)) == 2
    });
    assert!(!stage.is_answered(request), "protocol C waits for the peer");
    stage.world.crash(0, Crash::Kill);
    // What a killed process left in its socket would still arrive over a healed link.
    stage.until("the survivor gives the connection up", |stage| {
        stage.connection(1) < ConnectionState::Connected
    });
    stage.heal_all();
    stage.eventually(1, PRIMARY);
    assert_eq!(write_number(stage.read(1, 40, 8)[0]), 1);
    stage.restart(0);
    stage.heals();
    assert_eq!(write_number(stage.world.nodes[0].medium.view(40)), 1);
}

/// Target, then source, die in the middle of a resync: the target stays Inconsistent, the source
/// keeps its bits.
pub fn peer_crash_during_resync_then_source_crash<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    degrade_and_write(&mut stage, 64);
    stage.until_before(1, |effect| {
        matches!(effect, Effect::SendMeta { packet: Packet::ResyncWriteAck(_), .. })
    });
    stage.power_loss(1);
    stage.power_loss(0);
    stage.world.start(1);
    stage.must(1, twinblk::engine::event::Verb::Attach);
    assert!(stage.ask(1, PRIMARY).is_err(), "half a resync is no data");
    stage.must(1, CONNECT);
    stage.restart(0);
    stage.heals();
    stage.must(0, PRIMARY);
    for index in 0..64 {
        stage.read(0, index * 64, 8);
    }
}

/// The peer is away, the Primary writes, the peer comes back.
pub fn degrade_and_write<E: Subject>(stage: &mut Stage<E>, writes: u64) {
    stage.cut_all();
    stage.until("the Primary notices", |stage| {
        stage.connection(0) < ConnectionState::Connected
            && stage.connection(1) < ConnectionState::Connected
    });
    for index in 0..writes {
        stage.write(0, index * 64, 8);
    }
    stage.does(0, Wish::Flush);
    stage.heal_all();
}

/// Both lose power with half an epoch in their caches: what was flushed is there, the rest may be.
pub fn both_power_loss_mid_epoch<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 16);
    stage.does(0, Wish::Flush);
    stage.write(0, 0, 8);
    let open = stage.begin(0, write(8, 8));
    stage.rest(0);
    stage.power_loss(0);
    stage.power_loss(1);
    stage.restart(1);
    stage.restart(0);
    stage.heals();
    stage.must(0, PRIMARY);
    assert!(matches!(stage.answer(open), Reply::Never));
    assert_ne!(stage.read(0, 0, 16)[0], 0, "flushed, and so the least that is there");
    stage.heals();
}

/// I10: the generation changes durably before a write that the peer misses is answered.
pub fn generation_bump_before_degraded_ack<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 8);
    stage.cut_all();
    let request = stage.begin(0, write(0, 8));
    let generation = |node: &Node<E>| plain(node.metadata.record().generations.current);
    while !stage.is_answered(request) {
        stage.until("one more step", {
            let events = stage.world.statistics.events;
            move |stage| stage.world.statistics.events > events
        });
        // The event that makes the record durable may be the one that answers.
        let bumped = generation(&stage.world.nodes[0]) != generation(&stage.world.nodes[1]);
        assert!(!stage.is_answered(request) || bumped, "answered under the old generation");
    }
    stage.power_loss(0);
    stage.heal_all();
    stage.restart(0);
    stage.heals();
}

/// The dead Primary comes back without anybody having taken over: its hot extents are synced from
/// it (session.md 6.4).
pub fn crashed_primary_resyncs_its_hot_extents<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 8);
    stage.does(0, Wish::Flush);
    stage.write(0, 8, 8);
    stage.power_loss(0);
    stage.restart(0);
    stage.heals();
    assert!(stage.world.statistics.resyncs > 0, "the log says that extent 0 may differ");
    stage.must(0, PRIMARY);
    assert_eq!(write_number(stage.read(0, 0, 8)[0]), 1);
}

/// A new disk under a node gets everything.
pub fn blank_replacement_disk_full_sync<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    for index in 0..20 {
        stage.write(0, index * 1000, 16);
    }
    stage.power_loss(1);
    let sectors = stage.world.swarm.device_sectors;
    let created = Swarm { beginning: Beginning::Created, ..stage.world.swarm.clone() };
    let blank = Node::<E>::new(2, 1, &created);
    stage.world.nodes[1].medium = blank.medium;
    stage.world.nodes[1].metadata = blank.metadata;
    assert_eq!(stage.world.nodes[1].medium.view(5), unwritten(1, 5));
    stage.restart(1);
    stage.heals();
    for sector in 0..sectors {
        assert_ne!(stage.world.nodes[1].medium.view(sector), unwritten(1, sector));
    }
}

/// Two disks that were just created: forcing one makes it the source of everything.
pub fn forced_primary_of_created_disks_syncs_all<E: Subject>() {
    let mut swarm = crate::swarm::Swarm::quiet(twinblk_proto::packet::ReplicationProtocol::C);
    swarm.beginning = Beginning::Created;
    let mut stage = Stage::<E>::new(swarm);
    stage.bring_up(0);
    stage.bring_up(1);
    stage.until("connected", |stage| stage.connection(0) == ConnectionState::Connected);
    assert!(stage.ask(1, PRIMARY).is_err(), "neither disk is good");
    stage.must(1, twinblk::engine::event::Verb::Primary { force: true });
    stage.write(1, 16, 8);
    stage.heals();
    assert_eq!(stage.role(1), Role::Primary);
    assert_eq!(stage.world.nodes[0].medium.view(0), unwritten(1, 0));
    assert_eq!(write_number(stage.world.nodes[0].medium.view(16)), 1);
}
