//! Tests of the simulator itself, with an engine that is trivial: a world without faults passes,
//! planted bugs are found, and a seed always tells the same story.

use crate::fake::Fake;
use crate::random::Random;
use crate::random::Stream;
use crate::recorder::Detail;
use crate::run::{run, run_sabotaged};
use crate::sabotage::Sabotage;
use crate::swarm::{Beginning, Rates, Swarm};
use twinblk_proto::packet::ReplicationProtocol;

/// A drawn world in which nothing goes wrong, of a kind that the trivial engine masters: it has no
/// overlap control, so clients make one request at a time.
fn calm_world(seed: u64) -> Swarm {
    let mut swarm = Swarm::drawn(seed);
    swarm.settings.protocol = ReplicationProtocol::C;
    swarm.beginning = Beginning::InSync;
    swarm.rates = Rates::NONE;
    swarm.workload.clients = 1;
    swarm.workload.depth = 1;
    swarm.workload.requests = 200;
    swarm.workload.think_us = 2_000;
    swarm.workload.flush_percent = 10;
    swarm.workload.zero_percent = 10;
    swarm
}

#[test]
fn a_world_without_faults_passes() {
    for seed in 0..20 {
        let outcome = run::<Fake>(seed, calm_world(seed), Detail::Outline, false);
        assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
        assert!(outcome.statistics.requests >= 50, "seed {seed}: {}", outcome.statistics);
    }
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 0..5 {
        let once = run::<Fake>(seed, calm_world(seed), Detail::Everything, false);
        let again = run::<Fake>(seed, calm_world(seed), Detail::Everything, false);
        assert_eq!(once.hash, again.hash, "seed {seed}");
    }
    let one = run::<Fake>(1, calm_world(1), Detail::Everything, false);
    let other = run::<Fake>(2, calm_world(2), Detail::Everything, false);
    assert_ne!(one.hash, other.hash);
}

#[test]
fn planted_bugs_are_found_even_without_crashes() {
    for sabotage in [
        Sabotage::AnswerWriteAtOnce,
        Sabotage::AnswerFlushAtOnce,
        Sabotage::AcknowledgeEarly,
        Sabotage::DropFlush,
        Sabotage::DropFua,
        Sabotage::DropPeerZeroes,
        Sabotage::DropPeerWrites,
    ] {
        let found = (0..30).find_map(|seed| {
            let mut swarm = calm_world(seed);
            swarm.workload.fua_percent = 20;
            let sabotage = Some(sabotage);
            run_sabotaged::<Fake>(seed, swarm, sabotage, Detail::Outline, false).violation
        });
        let found = found.unwrap_or_else(|| panic!("{sabotage:?} was not noticed"));
        println!("{sabotage:?}: {found}");
    }
}

#[test]
fn draws_of_one_stream_do_not_move_another() {
    let mut link = Random::new(7, Stream::Link, 0);
    let first = link.next();
    let mut disk = Random::new(7, Stream::Disk, 0);
    disk.next();
    assert_eq!(Random::new(7, Stream::Link, 0).next(), first);
    assert_ne!(disk.next(), first);
    assert!((0..1000).all(|_| (3..=9).contains(&disk.skewed(3, 9))));
}
