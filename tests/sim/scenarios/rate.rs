//! How fast a resync goes: as told, or as the application leaves room.

use twinblk::engine::event::Verb;
use twinblk_proto::packet::ReplicationProtocol;

use super::stage::{CONNECT, Stage, write};
use crate::subject::Subject;
use crate::swarm::Swarm;

/// Blocks that differ: 6 MiB.
const BLOCKS: u64 = 1500;

fn behind<E: Subject>(swarm: Swarm) -> Stage<E> {
    let mut stage = Stage::<E>::pair_of(swarm);
    stage.must(1, Verb::Disconnect { force: false });
    for index in 0..BLOCKS {
        stage.write(0, index * 16, 8);
    }
    stage
}

/// From the first block moved to the last.
fn resync_ms<E: Subject>(stage: &mut Stage<E>) -> u64 {
    stage.until("begun", |stage| stage.blocks_moved(1) > 0);
    let begun_us = stage.world.now_us;
    stage.until("all moved", |stage| stage.blocks_moved(1) == BLOCKS);
    let took_ms = (stage.world.now_us - begun_us) / 1000;
    stage.heals();
    took_ms
}

/// `c-plan-ahead 0; resync-rate` and `c-max-rate` are kept, whatever the window holds.
pub fn a_chosen_rate_is_kept<E: Subject>() {
    for rate_kib in [400, 4000] {
        for is_fixed in [true, false] {
            let mut swarm = Swarm::quiet(ReplicationProtocol::C);
            let settings = &mut swarm.settings;
            if is_fixed {
                settings.c_plan_ahead = 0;
                settings.resync_rate = rate_kib;
            } else {
                settings.c_max_rate = rate_kib;
                settings.c_max_rate_limits = true;
            }
            let mut stage = behind::<E>(swarm);
            stage.must(1, CONNECT);
            let expected_ms = BLOCKS * 4 * 1000 / u64::from(rate_kib);
            let took_ms = resync_ms(&mut stage);
            assert!(took_ms * 100 >= expected_ms * 90, "{took_ms} ms of {expected_ms}: too fast");
            assert!(took_ms * 100 <= expected_ms * 110, "{took_ms} ms of {expected_ms}: too slow");
        }
    }
}

/// While the application writes, a resync leaves it the disks and the link most of the time, but goes
/// on; `c-min-rate 0` does not yield, nor does a rate below the one that was asked for.
pub fn a_resync_yields_to_the_application<E: Subject>() {
    let took = |min_rate: u32, is_busy: bool| {
        let mut swarm = Swarm::quiet(ReplicationProtocol::C);
        swarm.settings.c_min_rate = min_rate;
        let mut stage = behind::<E>(swarm);
        stage.must(1, CONNECT);
        stage.until("begun", |stage| stage.blocks_moved(1) > 0);
        let begun_us = stage.world.now_us;
        while stage.blocks_moved(1) < BLOCKS {
            if is_busy {
                let request = stage.begin(0, write(30_000, 8));
                stage.answer(request);
            } else {
                let before = stage.blocks_moved(1);
                stage.until("further", |stage| stage.blocks_moved(1) > before);
            }
        }
        let took_us = stage.world.now_us - begun_us;
        stage.heals();
        took_us
    };
    let quiet = took(250, false);
    let yielding = took(250, true);
    let stubborn = took(0, true);
    let promised = took(4_000_000, true);
    assert!(yielding > 2 * quiet, "yielding {yielding} us, quiet {quiet} us");
    for (what, unyielding) in [("c-min-rate 0", stubborn), ("c-min-rate 4G", promised)] {
        assert!(yielding > 2 * unyielding, "{what}: {unyielding} us, yielding {yielding} us");
    }
}
