//! Programs of the administrator that have a say.

use twinblk::engine::handler::Handler;
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::ConnectionState;

use super::crashes::degrade_and_write;
use super::stage::{CONNECT, Stage};
use crate::subject::Subject;
use crate::swarm::Swarm;

fn pair_with_handlers<E: Subject>() -> Stage<E> {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.settings.handlers = Handler::ALL.iter().copied().collect();
    Stage::pair_of(swarm)
}

fn ran<E: Subject>(stage: &Stage<E>, node: usize, handler: Handler) -> usize {
    stage.world.programs.ran.iter().filter(|ran| **ran == (node, handler)).count()
}

/// Both before-resync handlers end before the resync begins, and after-resync-target comes after.
pub fn a_resync_waits_for_its_handlers<E: Subject>() {
    let mut stage = pair_with_handlers::<E>();
    degrade_and_write(&mut stage, 16);
    stage.until("target", |stage| stage.connection(1) == ConnectionState::SyncTarget);
    assert_eq!(ran(&stage, 0, Handler::BeforeResyncSource), 1);
    assert_eq!(ran(&stage, 1, Handler::BeforeResyncTarget), 1);
    assert_eq!(ran(&stage, 1, Handler::AfterResyncTarget), 0);
    stage.heals();
    assert_eq!(ran(&stage, 1, Handler::AfterResyncTarget), 1);
}

/// A handler that says no keeps the resync from beginning: the node that asked it is StandAlone.
pub fn a_handler_may_refuse_a_resync<E: Subject>() {
    for (handler, node, code) in
        [(Handler::BeforeResyncTarget, 1, 1), (Handler::BeforeResyncSource, 0, 1)]
    {
        let mut stage = pair_with_handlers::<E>();
        stage.world.programs.codes.insert(handler, code);
        degrade_and_write(&mut stage, 16);
        stage.until("refused", |stage| stage.connection(node) == ConnectionState::StandAlone);
        assert_eq!(stage.world.statistics.blocks_moved, 0);
        stage.world.programs.codes.clear();
        stage.must(node, CONNECT);
        stage.heals();
    }
    let mut stage = pair_with_handlers::<E>();
    // The source's handler may say that it does not mind.
    stage.world.programs.codes.insert(Handler::BeforeResyncSource, 3);
    degrade_and_write(&mut stage, 16);
    stage.heals();
}
