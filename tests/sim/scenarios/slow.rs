//! A disk that does not answer.

use twinblk::engine::event::Verb;
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::{ConnectionState, DiskState};

use super::crashes::degrade_and_write;
use super::stage::{PRIMARY, Stage, write};
use crate::requests::Reply;
use crate::subject::Subject;
use crate::swarm::Swarm;

/// Longer than any scenario waits for something.
const FOR_EVER_US: u64 = 1_000_000_000;

fn impatient<E: Subject>() -> Stage<E> {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.settings.disk_timeout = 10;
    Stage::pair_of(swarm)
}

/// disk-timeout without a peer: the disk is given up, the client told, and the disk can be attached
/// again when it has answered at last, not before.
pub fn a_disk_that_never_answers_is_given_up<E: Subject>() {
    let mut stage = impatient::<E>();
    stage.power_loss(1);
    stage.until("the loss", |stage| stage.connection(0) < ConnectionState::Connected);
    stage.write(0, 0, 8);
    let now_us = stage.world.now_us;
    stage.world.faults.stall_disk(0, now_us + 3_000_000);
    let request = stage.begin(0, write(8, 8));
    stage.until("given up", |stage| stage.disk(0) == DiskState::Diskless);
    assert!(stage.world.now_us < now_us + 1_500_000, "after a second");
    assert!(matches!(stage.answer(request), Reply::Failed(_)), "there is no other disk");
    stage.must(0, Verb::Attach);
    assert!(stage.world.now_us > now_us + 3_000_000, "what it was doing is over");
    stage.write(0, 8, 8);
    stage.restart(1);
    stage.heals();
}

/// With a peer nobody notices: it serves what the disk does not.
pub fn a_slow_disk_is_replaced_by_the_peer<E: Subject>() {
    let mut stage = impatient::<E>();
    stage.write(0, 0, 8);
    stage.world.faults.stall_disk(0, FOR_EVER_US);
    let request = stage.begin(0, write(8, 8));
    stage.until("given up", |stage| stage.disk(0) == DiskState::Diskless);
    assert!(matches!(stage.answer(request), Reply::Done));
    stage.read(0, 0, 16);
    let refusal = stage.ask(0, Verb::Attach).expect_err("the disk has not answered");
    assert!(refusal.detail.contains("requests to answer"), "{refusal:?}");
    stage.write(0, 16, 8);
    stage.world.faults.disks_go_on();
    stage.rest(1000);
    stage.must(0, Verb::Attach);
    stage.heals();
}

/// The peer's disk: what it did not write is known to the Primary.
pub fn a_slow_disk_of_the_peer_is_left_behind<E: Subject>() {
    let mut stage = impatient::<E>();
    stage.world.faults.stall_disk(1, FOR_EVER_US);
    let request = stage.begin(0, write(8, 8));
    stage.until("given up", |stage| stage.disk(1) == DiskState::Diskless);
    assert!(matches!(stage.answer(request), Reply::Done));
    stage.write(0, 16, 8);
    stage.world.faults.disks_go_on();
    stage.rest(1000);
    stage.must(1, Verb::Attach);
    stage.heals();
}

/// A command that waits for the disk is freed by `detach --force`.
pub fn a_forced_detach_frees_what_waits_for_the_disk<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 8);
    stage.world.faults.stall_disk(0, FOR_EVER_US);
    let hanging = stage.world.command(0, Verb::Detach { force: false });
    let request = stage.begin(0, write(8, 8));
    stage.rest(5000);
    assert!(stage.world.outcome(0, hanging).is_none(), "it waits for the disk");
    stage.must(0, Verb::Detach { force: true });
    assert_eq!(stage.world.outcome(0, hanging), Some(&Ok(())));
    assert!(matches!(stage.answer(request), Reply::Done), "the peer has it");
    assert_eq!(stage.disk(0), DiskState::Diskless);
    stage.world.faults.disks_go_on();
    stage.rest(1000);
    stage.must(0, Verb::Attach);
    stage.heals();
}

/// A process that was stopped has not heard of its disk, which may well have answered.
pub fn a_stopped_process_does_not_blame_its_disk<E: Subject>() {
    let mut stage = impatient::<E>();
    let now_us = stage.world.now_us;
    stage.world.faults.stall_disk(0, now_us + 2_000_000);
    let request = stage.begin(0, write(8, 8));
    stage.rest(10);
    stage.world.pause(0);
    stage.rest(1800);
    stage.world.resume(0);
    assert!(matches!(stage.answer(request), Reply::Done));
    assert_eq!(stage.disk(0), DiskState::UpToDate);
    stage.heals();
}

/// A Primary loses its disk while the peer is only half in sync, and gets it back: nobody else has
/// the data.
pub fn a_source_gets_its_disk_back<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    degrade_and_write(&mut stage, 64);
    stage.until("source", |stage| stage.connection(0) == ConnectionState::SyncSource);
    stage.must(0, Verb::Detach { force: true });
    stage.until("both know", |stage| stage.connection(1) == ConnectionState::Connected);
    assert!(stage.ask(1, PRIMARY).is_err(), "it is half in sync");
    stage.must(0, Verb::Attach);
    stage.heals();
}
