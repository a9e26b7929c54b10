//! Comparing both disks, and mending what differs.

use std::collections::BTreeSet;

use twinblk::engine::event::{RepairFrom, Verb};
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::{ConnectionState, DiskState};
use twinblk_proto::units::BLOCK_SECTORS;

use super::stage::{CONNECT, PRIMARY, Stage, write};
use crate::subject::Subject;
use crate::swarm::Swarm;

/// Apart, together, at the ends: a short last block, and both sides of a 512 KiB border.
const PLANTED: [u64; 7] = [0, 77, 127, 128, 300, 301, 4095];

fn swarm(protocol: ReplicationProtocol, twins: bool) -> Swarm {
    let mut swarm = Swarm::quiet(protocol);
    swarm.twins = twins;
    // The last block is short.
    swarm.device_sectors = 4096 * BLOCK_SECTORS - 3;
    swarm
}

fn pair<E: Subject>(twins: bool) -> Stage<E> {
    Stage::pair_of(swarm(ReplicationProtocol::C, twins))
}

const fn verify(repair: Option<RepairFrom>) -> Verb {
    Verb::Verify { start: None, stop: None, repair }
}

fn found<E: Subject>(stage: &Stage<E>, node: usize) -> BTreeSet<u64> {
    let engine = stage.world.nodes[node].engine.as_ref().expect("running");
    (0..4096).filter(|block| engine.is_out_of_sync(*block)).collect()
}

fn plant<E: Subject>(stage: &mut Stage<E>, node: usize) -> BTreeSet<u64> {
    for block in PLANTED {
        stage.world.plant(node, block);
    }
    PLANTED.into()
}

fn until_over<E: Subject>(stage: &mut Stage<E>) {
    stage.until("the verify is over on both", |stage| {
        (0..2).all(|node| stage.connection(node) == ConnectionState::Connected)
    });
    stage.rest(1000);
}

/// Exactly what differs, on both nodes, whichever node asks and whichever disk is bad, with one
/// block a request as with a kernel peer and with many.
pub fn verify_finds_exactly_what_differs<E: Subject>() {
    for twins in [false, true] {
        for (asking, bad) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut stage = pair::<E>(twins);
            let planted = plant(&mut stage, bad);
            stage.must(asking, verify(None));
            until_over(&mut stage);
            for node in 0..2 {
                assert_eq!(found(&stage, node), planted, "{twins} {asking} {bad}: node {node}");
                assert_eq!(stage.disk(node), DiskState::UpToDate);
                for block in &planted {
                    assert!(stage.world.nodes[node].metadata.covers(*block), "on disk");
                }
            }
        }
    }
}

/// What was found is resynced at the next connection, from the Primary.
pub fn what_verify_found_is_resynced_by_reconnecting<E: Subject>() {
    let mut stage = pair::<E>(false);
    plant(&mut stage, 1);
    stage.must(0, verify(None));
    until_over(&mut stage);
    stage.must(1, Verb::Disconnect { force: false });
    stage.must(1, CONNECT);
    stage.heals();
    let moved = stage.blocks_moved(0).max(stage.blocks_moved(1));
    assert_eq!(moved, PLANTED.len() as u64);
}

/// No false alarm while clients write to what is being compared, whoever of both serves them.
pub fn verify_is_never_wrong_about_blocks_being_written<E: Subject>() {
    for protocol in [ReplicationProtocol::A, ReplicationProtocol::B, ReplicationProtocol::C] {
        for asking in [0, 1] {
            for twins in [false, true] {
                let mut stage = Stage::<E>::pair_of(swarm(protocol, twins));
                stage.must(asking, verify(None));
                let mut requests = Vec::new();
                for round in 0..300 {
                    let place = round * 104;
                    requests.push(stage.begin(0, write(place, 24)));
                    requests.push(stage.begin(0, write(place + 5, 3)));
                    if round % 10 == 0 {
                        requests.push(stage.begin(0, crate::requests::Wish::Flush));
                    }
                    stage.world.step();
                }
                for request in requests {
                    stage.answer(request);
                }
                until_over(&mut stage);
                stage.heals();
            }
        }
    }
}

/// From the Primary by default; from the named node when there is none. Exactly the bad blocks move.
pub fn repair_mends_exactly_what_differs<E: Subject>() {
    for twins in [false, true] {
        for asking in [0, 1] {
            for bad in [0, 1] {
                let mut stage = pair::<E>(twins);
                // A copy that is bad is bad wherever it is: the operator says so.
                let from = if bad == 1 {
                    RepairFrom::Primary
                } else {
                    stage.must(0, Verb::Secondary { force: false });
                    if asking == 0 { RepairFrom::Peer } else { RepairFrom::ThisNode }
                };
                plant(&mut stage, bad);
                stage.must(asking, verify(Some(from)));
                stage.heals();
                let moved = stage.blocks_moved(0).max(stage.blocks_moved(1));
                assert_eq!(moved, PLANTED.len() as u64, "{twins} {asking} {bad}");
                let sector = PLANTED[1] * BLOCK_SECTORS;
                assert_eq!(stage.world.nodes[bad].medium.view(sector), 0, "as it was before");
            }
        }
    }
}

/// Either node may die while the bad blocks are being mended: they still are known, and mended later.
pub fn an_interrupted_repair_is_completed<E: Subject>() {
    for victim in [0, 1] {
        for asking in [0, 1] {
            let mut stage = pair::<E>(true);
            plant(&mut stage, 1);
            stage.must(asking, verify(Some(RepairFrom::Primary)));
            stage.until("the repair begins", |stage| {
                stage.connection(1) == ConnectionState::SyncTarget
            });
            stage.power_loss(victim);
            stage.restart(victim);
            stage.heals();
        }
    }
}

/// What the operator is told instead of being kept waiting.
pub fn verify_is_refused_where_it_makes_no_sense<E: Subject>() {
    let mut stage = pair::<E>(false);
    let beyond = Verb::Verify { start: Some(1 << 40), stop: None, repair: None };
    assert_eq!(stage.ask(0, beyond).expect_err("beyond the end").code, 0);
    let contrary = stage.ask(0, verify(Some(RepairFrom::Peer))).expect_err("Primary");
    assert!(contrary.detail.contains("this node is Primary"), "{contrary:?}");
    stage.must(0, Verb::Secondary { force: false });
    let nobody = stage.ask(0, verify(Some(RepairFrom::Primary))).expect_err("no Primary");
    assert!(nobody.hint.contains("--from"), "{nobody:?}");
    stage.must(0, PRIMARY);
    stage.must(1, Verb::Detach { force: false });
    assert_eq!(stage.ask(0, verify(None)).expect_err("peer without disk").code, -5);
    assert_eq!(stage.ask(1, verify(None)).expect_err("no disk").code, -4);
    stage.must(1, Verb::Attach);
    stage.must(1, Verb::Disconnect { force: false });
    assert_eq!(stage.ask(0, verify(None)).expect_err("nobody there").code, -15);

    let mut settings = swarm(ReplicationProtocol::C, false);
    settings.settings.verify_alg.clear();
    let mut stage = Stage::<E>::pair_of(settings);
    assert_eq!(stage.ask(0, verify(None)).expect_err("no algorithm").code, -14);
}

/// An interrupted verify goes on where it was; one with a stop sector ends there.
pub fn verify_goes_on_where_it_was<E: Subject>() {
    let mut stage = pair::<E>(false);
    let planted = plant(&mut stage, 1);
    let half = Verb::Verify { start: None, stop: Some(200 * BLOCK_SECTORS), repair: None };
    stage.must(0, half);
    until_over(&mut stage);
    let below: BTreeSet<u64> = planted.iter().copied().filter(|block| *block < 200).collect();
    assert_eq!(found(&stage, 0), below);
    assert_eq!(found(&stage, 1), below);
    let verified = stage.world.statistics.blocks_verified;
    assert_eq!(verified, 200);
    stage.must(0, verify(None));
    stage.until("under way", |stage| stage.world.statistics.blocks_verified > 2000);
    let number = stage.world.nodes[0].session.expect("connected");
    stage.world.break_session(number);
    stage.until("connected again", |stage| {
        (0..2).all(|node| stage.connection(node) == ConnectionState::Connected)
            && stage.world.nodes[0].session.is_some_and(|session| session != number)
    });
    stage.until("in sync", Stage::is_in_sync);
    stage.must(0, verify(None));
    until_over(&mut stage);
    let verified = stage.world.statistics.blocks_verified;
    // What was under way when the connection broke is asked for again: at most a window.
    assert!((4096..4096 + 1024).contains(&verified), "{verified} blocks compared");
    // The next begins at the beginning.
    stage.must(0, verify(None));
    until_over(&mut stage);
    assert_eq!(stage.world.statistics.blocks_verified, verified + 4096);
}
