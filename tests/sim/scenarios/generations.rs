//! What each event does to the generation identifiers on disk (session.md 2.3).

use twinblk::engine::event::{Generations, Verb};
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::ConnectionState;

use super::stage::{CONNECT, PRIMARY, Stage};
use crate::oracle::generations::plain;
use crate::subject::Subject;
use crate::swarm::{Beginning, Swarm};

const DISCONNECT: Verb = Verb::Disconnect { force: false };
const SECONDARY: Verb = Verb::Secondary { force: false };

fn of<E: Subject>(stage: &Stage<E>, node: usize) -> Generations {
    stage.world.nodes[node].metadata.record().generations
}

/// Promotion and demotion while connected change bit 0 of the current identifier, nothing else.
pub fn a_promotion_while_connected_is_one_bit<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    let before = of(&stage, 1);
    let primary = of(&stage, 0);
    assert_eq!((primary.current, before.current & 1), (before.current | 1, 0));
    stage.must(0, SECONDARY);
    assert_eq!(of(&stage, 0), before);
    stage.heals();
}

/// A Primary that loses its peer begins a generation, marked as begun by a Primary; its peer
/// changes nothing. Reconnected, both hold the same, the sync identifier in the history.
pub fn a_lost_peer_begins_a_generation_and_a_resync_ends_it<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    let (old, peers) = (of(&stage, 0), of(&stage, 1));
    stage.must(1, DISCONNECT);
    stage.write(0, 0, 8);
    let new = of(&stage, 0);
    assert_ne!(plain(new.current), plain(old.current));
    assert_eq!((new.current & 1, new.bitmap, new.history), (1, old.current, old.history));
    assert_eq!(of(&stage, 1), peers);
    stage.must(1, CONNECT);
    stage.until("the target has begun", |stage| {
        stage.connection(1) == ConnectionState::SyncTarget && of(stage, 1).current != peers.current
    });
    let sync = plain(of(&stage, 0).bitmap);
    assert_ne!(sync, plain(new.bitmap), "the base was rotated away");
    assert_eq!(plain(of(&stage, 1).current), sync, "half of two generations");
    stage.heals();
    let [source, target] = [0, 1].map(|node| of(&stage, node));
    assert_eq!(source.current, new.current);
    assert_eq!(plain(target.current), plain(source.current));
    assert_eq!((source.bitmap, target.bitmap), (0, 0));
    assert_eq!(source.history.map(plain), [sync, plain(old.current)]);
    assert_eq!(target.history.map(plain), source.history.map(plain));
}

/// Promoted alone: a new generation, and the base says that nobody here was Primary in it. After a
/// crash as Primary it says the opposite (session.md 3.3: who was Primary at the split).
pub fn a_promotion_alone_begins_a_generation<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    let old = of(&stage, 1);
    stage.power_loss(0);
    stage.eventually(1, PRIMARY);
    let new = of(&stage, 1);
    assert_eq!((new.bitmap, new.history), (old.current & !1, old.history));
    assert_eq!(new.current & 1, 1);
    // The crashed Primary, alone and promoted again.
    stage.power_loss(1);
    stage.world.start(0);
    stage.must(0, Verb::Attach);
    stage.until("the crash is on record", |stage| {
        stage.world.nodes[0].metadata.record().crashed_primary
    });
    assert_eq!(of(&stage, 0).current, old.current | 1, "an attach changes nothing");
    stage.must(0, PRIMARY);
    assert_eq!(of(&stage, 0).bitmap, old.current | 1);
    // A second promotion continues what the first began.
    let before = of(&stage, 0);
    stage.must(0, SECONDARY);
    stage.must(0, PRIMARY);
    assert_eq!(of(&stage, 0), before);
}

/// Nobody was Primary when the link went away: nothing is new, and nothing is resynced.
pub fn two_secondaries_part_without_a_trace<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.must(0, SECONDARY);
    let before = [0, 1].map(|node| of(&stage, node));
    stage.must(0, DISCONNECT);
    stage.must(0, CONNECT);
    stage.heals();
    assert_eq!([0, 1].map(|node| of(&stage, node)), before);
    assert_eq!(stage.world.statistics.resyncs, 0);
}

/// A crashed Primary that comes back to a Secondary: the same generation, and it is source.
pub fn a_crashed_primary_keeps_its_generation<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 8);
    let old = of(&stage, 0);
    stage.power_loss(0);
    stage.restart(0);
    stage.until("a resync", |stage| stage.world.statistics.resyncs == 1);
    stage.heals();
    for node in 0..2 {
        assert_eq!(plain(of(&stage, node).current), plain(old.current));
        assert!(!stage.world.nodes[node].metadata.record().crashed_primary);
    }
}

/// Forced promotion of a created disk: a new generation, and the peer gets everything.
pub fn a_forced_promotion_begins_a_generation<E: Subject>() {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.beginning = Beginning::Created;
    let mut stage = Stage::<E>::new(swarm);
    stage.bring_up(0);
    stage.bring_up(1);
    stage.until("connected", |stage| stage.connection(0) == ConnectionState::Connected);
    stage.must(0, Verb::Primary { force: true });
    stage.heals();
    let [forced, other] = [0, 1].map(|node| of(&stage, node));
    assert!(forced.current > 5 && forced.current & 1 == 1, "{forced:?}");
    assert_eq!(plain(other.current), plain(forced.current));
    assert_eq!((forced.bitmap, other.bitmap), (0, 0));
}
