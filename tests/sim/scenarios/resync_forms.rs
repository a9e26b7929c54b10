//! Ways to ask for a block, and ways to hold a resync on.

use twinblk::engine::effect::Effect;
use twinblk::engine::event::Verb;
use twinblk_proto::packet::{Packet, ReplicationProtocol};
use twinblk_proto::state::ConnectionState;
use twinblk_proto::units::SectorRange;

use super::stage::{CONNECT, Stage};
use crate::node::Crash;
use crate::requests::Wish;
use crate::subject::Subject;
use crate::swarm::Swarm;

const DISCONNECT: Verb = Verb::Disconnect { force: false };

/// Node 1 is away while node 0 writes to `changed` blocks, and zeroes `equal` that are zero already.
fn write_alone<E: Subject>(stage: &mut Stage<E>, changed: u64, equal: u64) {
    stage.must(1, DISCONNECT);
    for index in 0..changed {
        stage.write(0, index * 16, 8);
    }
    for index in 0..equal {
        let range = SectorRange::new(16_000 + index * 16, 8);
        stage.does(0, Wish::Zero { range, may_unmap: false, fua: false });
    }
}

fn moved<E: Subject>(stage: &Stage<E>) -> [u64; 2] {
    [stage.blocks_moved(0), stage.blocks_moved(1)]
}

/// csums-alg: what both have is not sent.
pub fn checksums_spare_what_is_equal<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.settings.csums_alg = "sha1".to_owned();
    let mut stage = Stage::<E>::pair_of(swarm);
    write_alone(&mut stage, 150, 100);
    stage.must(1, CONNECT);
    stage.heals();
    assert_eq!(moved(&stage), [150; 2]);
    for node in &stage.world.nodes {
        assert_eq!(node.engine.as_ref().map(E::resync_blocks_equal), Some(100));
    }
}

/// A target that dies between the digest and its answer asks again.
pub fn checksum_resync_survives_crashes<E: Subject>() {
    for victim in [0, 1] {
        for asks in [true, false] {
            let mut swarm = Swarm::quiet(ReplicationProtocol::C);
            swarm.settings.csums_alg = "sha1".to_owned();
            let mut stage = Stage::<E>::pair_of(swarm);
            write_alone(&mut stage, 150, 100);
            let command = stage.world.command(1, CONNECT);
            stage.until_before(if asks { 1 } else { 0 }, move |effect| match effect {
                Effect::SendData { packet: Packet::ChecksumResyncRequest(..), .. } => asks,
                Effect::SendMeta { packet: Packet::ResyncIsInSync(_), .. } => !asks,
                _ => false,
            });
            assert!(stage.world.outcome(1, command).is_some());
            // What came after the effect is lost, so its node cannot live on.
            stage.power_loss(if asks { 1 } else { 0 });
            stage.restart(if asks { 1 } else { 0 });
            stage.world.crash(victim, Crash::Kill);
            stage.restart(victim);
            stage.heals();
        }
    }
}

/// Zeroes are named, not sent.
pub fn zeroes_are_not_sent<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.thin = true;
    let mut stage = Stage::<E>::pair_of(swarm);
    write_alone(&mut stage, 0, 100);
    stage.must(1, CONNECT);
    stage.until_before(0, |effect| {
        assert!(
            !matches!(effect, Effect::SendData { packet: Packet::ResyncReply(_), .. }),
            "{effect:?}"
        );
        matches!(effect, Effect::SendData { packet: Packet::ResyncDeallocated(_), .. })
    });
    stage.power_loss(0);
    stage.restart(0);
    stage.heals();
}

/// Paused from either node, before it begins and in the middle: nothing moves, clients are served,
/// and it goes on where it was.
pub fn a_paused_resync_waits_and_goes_on<E: Subject>() {
    for pausing in [0, 1] {
        let mut swarm = Swarm::quiet(ReplicationProtocol::C);
        // Little under way, or the pause comes when all is asked for.
        swarm.settings.max_buffers = 32;
        let mut stage = Stage::<E>::pair_of(swarm);
        write_alone(&mut stage, 1500, 0);
        stage.must(pausing, Verb::PauseSync);
        assert_eq!(stage.ask(pausing, Verb::PauseSync).expect_err("is set").code, 134);
        stage.must(1, CONNECT);
        let paused = |stage: &Stage<E>| {
            stage.connection(0) == ConnectionState::PausedSyncS
                && stage.connection(1) == ConnectionState::PausedSyncT
        };
        stage.until("paused from the beginning", paused);
        stage.rest(5_000);
        assert!(paused(&stage));
        assert_eq!(moved(&stage), [0; 2]);
        let told = stage.ask(1 - pausing, Verb::ResumeSync).expect_err("not paused here");
        assert_eq!(told.code, 157, "{told:?}");
        stage.must(pausing, Verb::ResumeSync);
        stage.until("under way", |stage| moved(stage)[0] > 200);
        stage.must(1 - pausing, Verb::PauseSync);
        stage.until("paused in the middle", paused);
        // What was asked for is answered; then it is quiet.
        stage.rest(1_000);
        let before = moved(&stage);
        assert!(before[0] < 1500, "{before:?}: the pause came too late");
        stage.write(0, 30_000, 8);
        stage.rest(5_000);
        assert_eq!(moved(&stage), before);
        stage.must(1 - pausing, Verb::ResumeSync);
        stage.heals();
        assert_eq!(stage.ask(pausing, Verb::ResumeSync).expect_err("is clear").code, 135);
        assert_eq!(moved(&stage), [1500; 2], "nothing twice");
    }
}

/// A resync waits for another resource as long as it is told to.
pub fn a_resync_waits_for_another_resource<E: Subject>() {
    for node in [0, 1] {
        let mut stage = Stage::<E>::pair();
        write_alone(&mut stage, 100, 0);
        stage.must(node, Verb::AwaitOthers { waits: true });
        stage.must(1, CONNECT);
        stage.until("paused", |stage| {
            stage.connection(0) == ConnectionState::PausedSyncS
                && stage.connection(1) == ConnectionState::PausedSyncT
        });
        stage.rest(3_000);
        assert_eq!(moved(&stage), [0; 2]);
        stage.must(node, Verb::AwaitOthers { waits: false });
        stage.heals();
        assert_eq!(moved(&stage), [100; 2]);
    }
}

/// The connection breaks again and again: what was moved is not moved again, but for what was under
/// way, at most a window each time.
pub fn interruptions_do_not_start_over<E: Subject>() {
    const BLOCKS: u64 = 1500;
    const WINDOW_BLOCKS: u64 = (32 << 20) / 4096;
    for checksums in [false, true] {
        let mut swarm = Swarm::quiet(ReplicationProtocol::C);
        if checksums {
            swarm.settings.csums_alg = "sha1".to_owned();
        }
        // As between real nodes: a break after the last acknowledgement is no full resync.
        swarm.twins = true;
        // Little under way, or the first window would take it all.
        swarm.settings.max_buffers = 32;
        let mut stage = Stage::<E>::pair_of(swarm);
        write_alone(&mut stage, BLOCKS, 0);
        stage.must(1, CONNECT);
        let mut breaks = 0;
        for goal in [100, 400, 700, 1000, 1300] {
            stage.until("further", |stage| moved(stage)[1] > goal || stage.is_in_sync());
            if let Some(number) = stage.world.nodes[0].session {
                stage.world.break_session(number);
                breaks += 1;
                stage.until("broken", |stage| stage.world.nodes[0].session != Some(number));
            }
        }
        stage.heals();
        for node in &stage.world.nodes {
            let engine = node.engine.as_ref().expect("running");
            // What was moved and not acknowledged is found equal when checksums are asked for.
            let count = engine.resync_blocks_moved() + engine.resync_blocks_equal();
            assert!(count >= BLOCKS, "{count}");
            assert!(count <= BLOCKS + breaks * WINDOW_BLOCKS.min(300), "{count} blocks moved");
        }
    }
}
