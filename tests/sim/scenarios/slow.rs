//! A disk, and a link, that are too slow.

use twinblk::engine::event::{CongestionPolicy, RequestId, Verb};
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::{ConnectionState, DiskState};

use super::stage::{CONNECT, PRIMARY, Stage, write};
use crate::requests::Reply;
use crate::subject::Subject;
use crate::swarm::Swarm;

/// disk-timeout: the disk is given up, the client told, and the disk can be attached again; what it
/// was still working on by then is over.
pub fn a_disk_that_never_answers_is_given_up<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.settings.disk_timeout = 10;
    let mut stage = Stage::<E>::pair_of(swarm);
    stage.power_loss(1);
    stage.until("the loss", |stage| stage.connection(0) < ConnectionState::Connected);
    stage.write(0, 0, 8);
    let usual_us = stage.world.swarm.disk.latency_us;
    stage.world.swarm.disk.latency_us = 5_000_000;
    let request = stage.begin(0, write(8, 8));
    stage.until("given up", |stage| stage.disk(0) == DiskState::Diskless);
    assert!(matches!(stage.answer(request), Reply::Failed(_)), "there is no other disk");
    stage.world.swarm.disk.latency_us = usual_us;
    stage.must(0, Verb::Attach);
    stage.write(0, 8, 8);
    stage.restart(1);
    stage.heals();
}

/// With a peer nobody notices: it serves what the disk does not.
pub fn a_slow_disk_is_replaced_by_the_peer<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.settings.disk_timeout = 10;
    let mut stage = Stage::<E>::pair_of(swarm);
    stage.write(0, 0, 8);
    stage.world.faults.stall_disk(0);
    let request = stage.begin(0, write(8, 8));
    stage.until("given up", |stage| stage.disk(0) == DiskState::Diskless);
    assert!(matches!(stage.answer(request), Reply::Done));
    stage.read(0, 0, 16);
    stage.world.faults.disks_go_on();
    stage.must(0, Verb::Attach);
    stage.heals();
}

fn congested<E: Subject>() -> (Stage<E>, Vec<RequestId>) {
    let mut swarm = Swarm::quiet(ReplicationProtocol::A);
    swarm.settings.on_congestion = CongestionPolicy::PullAhead;
    swarm.settings.congestion_fill_sectors = 64;
    let mut stage = Stage::pair_of(swarm);
    stage.write(0, 0, 8);
    stage.world.link.quality.latency_us = 20_000;
    let requests = (0..64).map(|index| stage.begin(0, write(index * 16, 8))).collect();
    stage.until("ahead", |stage| stage.connection(0) == ConnectionState::Ahead);
    (stage, requests)
}

fn are_done<E: Subject>(stage: &mut Stage<E>, requests: Vec<RequestId>) {
    for request in requests {
        let reply = stage.answer(request);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }
}

/// The Primary answers at the speed of its disk, and the peer catches up.
pub fn a_congested_primary_goes_ahead<E: Subject>() {
    let (mut stage, requests) = congested::<E>();
    stage.until("behind", |stage| stage.connection(1) == ConnectionState::Behind);
    assert_eq!(stage.disk(1), DiskState::Outdated);
    assert!(stage.ask(1, Verb::Primary { force: false }).is_err(), "the peer is Primary");
    are_done(&mut stage, requests);
    assert_eq!(stage.connection(0), ConnectionState::Ahead, "until the link was free for a while");
    stage.heals();
    assert!(stage.blocks_moved(1) >= 32, "{} blocks", stage.blocks_moved(1));
}

/// Whoever goes away meanwhile, by whatever way: the Primary's data wins.
pub fn nobody_is_left_behind<E: Subject>() {
    let (mut stage, requests) = congested::<E>();
    are_done(&mut stage, requests);
    stage.cut_all();
    stage.until("the loss", |stage| stage.connection(0) < ConnectionState::Connected);
    stage.heal_all();
    stage.heals();
    let (mut stage, requests) = congested::<E>();
    are_done(&mut stage, requests);
    stage.until("behind", |stage| stage.connection(1) == ConnectionState::Behind);
    stage.power_loss(1);
    stage.write(0, 4096, 8);
    stage.restart(1);
    stage.heals();
    let (mut stage, requests) = congested::<E>();
    are_done(&mut stage, requests);
    stage.until("behind", |stage| stage.connection(1) == ConnectionState::Behind);
    stage.power_loss(0);
    stage.until("the loss", |stage| stage.connection(1) < ConnectionState::Connected);
    let refusal = stage.ask(1, PRIMARY).expect_err("it misses answered writes");
    assert_eq!(refusal.code, -2, "{refusal:?}");
    stage.restart(0);
    stage.heals();
}

/// on-congestion disconnect: the operator decides when to connect again.
pub fn a_congested_primary_disconnects<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::A);
    swarm.settings.on_congestion = CongestionPolicy::Disconnect;
    swarm.settings.congestion_fill_sectors = 64;
    let mut stage = Stage::<E>::pair_of(swarm);
    stage.world.link.quality.latency_us = 20_000;
    let requests = (0..64).map(|index| stage.begin(0, write(index * 16, 8))).collect();
    stage.until("gone", |stage| stage.connection(0) == ConnectionState::StandAlone);
    are_done(&mut stage, requests);
    stage.must(0, CONNECT);
    stage.heals();
}
