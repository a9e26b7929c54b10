//! I/O that waits (I14), and what a Primary without its peer makes sure of (I5).

use twinblk::engine::event::{FencingPolicy, NoDataPolicy, RequestId, Verb};
use twinblk::engine::handler::Handler;
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::{ConnectionState, DiskState, Role};
use twinblk_proto::units::SectorRange;

use super::stage::{CONNECT, PRIMARY, Stage, write};
use crate::requests::{Reply, Wish};
use crate::subject::Subject;
use crate::swarm::Swarm;

fn fencing_pair<E: Subject>(fencing: FencingPolicy, code: i32) -> Stage<E> {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.settings.fencing = fencing;
    swarm.settings.handlers = [Handler::FencePeer, Handler::UnfencePeer].into_iter().collect();
    let mut stage = Stage::pair_of(swarm);
    stage.world.programs.codes.insert(Handler::FencePeer, code);
    stage
}

fn fenced<E: Subject>(stage: &Stage<E>, node: usize) -> usize {
    let ran = (node, Handler::FencePeer);
    stage.world.programs.ran.iter().filter(|found| **found == ran).count()
}

#[track_caller]
fn stays_open<E: Subject>(stage: &mut Stage<E>, requests: &[RequestId]) {
    stage.rest(5_000);
    for request in requests {
        assert!(!stage.is_answered(*request), "{request:?} was answered");
    }
}

#[track_caller]
fn are_done<E: Subject>(stage: &mut Stage<E>, requests: &[RequestId]) {
    for request in requests {
        let reply = stage.answer(*request);
        assert!(matches!(reply, Reply::Done | Reply::Content(_)), "{request:?}: {reply:?}");
    }
}

/// By command: nothing is answered, nothing is lost, and the peer may come and go meanwhile.
pub fn suspended_io_waits_for_resume<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 8);
    let under_way = stage.begin(0, write(64, 8));
    stage.must(0, Verb::SuspendIo);
    let requests = [
        under_way,
        stage.begin(0, write(8, 8)),
        stage.begin(0, Wish::Read(SectorRange::new(0, 8))),
        stage.begin(0, Wish::Flush),
    ];
    stays_open(&mut stage, &requests);
    stage.cut_all();
    stays_open(&mut stage, &requests);
    stage.heal_all();
    stage.until("in sync again", Stage::is_in_sync);
    stays_open(&mut stage, &requests);
    stage.must(0, Verb::ResumeIo);
    are_done(&mut stage, &requests);
    stage.heals();
}

/// A Primary that loses its peer answers nothing until the peer is fenced.
pub fn a_lost_peer_is_fenced_before_anything_is_answered<E: Subject>() {
    for code in [3, 4, 5, 7] {
        let mut stage = fencing_pair::<E>(FencingPolicy::ResourceAndStonith, code);
        stage.write(0, 0, 8);
        let request = stage.begin(0, write(64, 8));
        stage.power_loss(1);
        stage.until("frozen", |stage| stage.world.nodes[0].state().suspended_fencing);
        assert!(!stage.is_answered(request));
        are_done(&mut stage, &[request]);
        assert_eq!(fenced(&stage, 0), 1);
        let state = stage.world.nodes[0].state();
        assert!(state.peer_disk <= DiskState::Outdated, "{state:?}");
        stage.write(0, 128, 8);
        stage.restart(1);
        stage.heals();
        let unfenced = (0, Handler::UnfencePeer);
        assert!(stage.world.programs.ran.contains(&unfenced));
    }
}

/// A handler that does not work leaves I/O frozen; the peer's return, or the operator, ends that.
pub fn a_broken_fence_leaves_io_frozen<E: Subject>() {
    let mut stage = fencing_pair::<E>(FencingPolicy::ResourceAndStonith, 1);
    stage.write(0, 0, 8);
    let before = stage.world.nodes[0].metadata.record().generations.current;
    let request = stage.begin(0, write(64, 8));
    stage.cut_all();
    stays_open(&mut stage, &[request]);
    assert_eq!(stage.world.nodes[0].metadata.record().generations.current, before, "I10 can wait");
    stage.heal_all();
    are_done(&mut stage, &[request]);
    stage.heals();
    // The same, and the operator knows better.
    let request = stage.begin(0, write(72, 8));
    stage.cut_all();
    stays_open(&mut stage, &[request]);
    stage.must(0, Verb::ResumeIo);
    are_done(&mut stage, &[request]);
    stage.heal_all();
    stage.heals();
}

/// I5: after a cut one node goes on, and the other is not promoted.
pub fn a_fenced_node_is_not_promoted<E: Subject>() {
    let mut stage = fencing_pair::<E>(FencingPolicy::ResourceAndStonith, 4);
    stage.cut_all();
    stage.until("the loss on both", |stage| {
        [0, 1].iter().all(|node| stage.connection(*node) < ConnectionState::Connected)
    });
    stage.write(0, 0, 8);
    // The cluster manager tells the other: the peer is Primary.
    stage.world.programs.codes.insert(Handler::FencePeer, 6);
    let refusal = stage.ask(1, PRIMARY).expect_err("it is not fenced");
    assert_eq!(refusal.code, -2, "{refusal:?}");
    assert!(refusal.detail.contains("fencing: the peer is Primary"), "{refusal:?}");
    assert_eq!(stage.disk(1), DiskState::Outdated, "outdated itself");
    let refusal = stage.ask(1, PRIMARY).expect_err("Outdated");
    assert_eq!(refusal.code, -2, "{refusal:?}");
    stage.heal_all();
    stage.heals();
}

/// The Primary dies; the other fences it and takes over with everything that was answered.
pub fn promotion_fences_first<E: Subject>() {
    for fencing in [FencingPolicy::ResourceOnly, FencingPolicy::ResourceAndStonith] {
        let mut stage = fencing_pair::<E>(fencing, 7);
        stage.write(0, 0, 8);
        stage.power_loss(0);
        stage.until("the loss", |stage| stage.connection(1) < ConnectionState::Connected);
        stage.must(1, PRIMARY);
        assert_eq!(fenced(&stage, 1), 1);
        assert_eq!(stage.role(1), Role::Primary);
        stage.write(1, 8, 8);
        stage.restart(0);
        stage.heals();
    }
}

/// Restarted alone a disk is only Consistent: what the peer did meanwhile is not known.
pub fn a_restarted_node_asks_before_it_is_promoted<E: Subject>() {
    let mut stage = fencing_pair::<E>(FencingPolicy::ResourceOnly, 1);
    stage.write(0, 0, 8);
    stage.power_loss(1);
    stage.power_loss(0);
    stage.restart(0);
    assert_eq!(stage.disk(0), DiskState::Consistent);
    let refusal = stage.ask(0, PRIMARY).expect_err("nobody says what the peer did");
    assert_eq!(refusal.code, -2, "{refusal:?}");
    stage.world.programs.codes.insert(Handler::FencePeer, 4);
    stage.must(0, PRIMARY);
    assert_eq!(stage.disk(0), DiskState::UpToDate);
    stage.write(0, 8, 8);
    stage.restart(1);
    stage.heals();
}

/// Who leaves a Primary that fences is Outdated from then on (session.md 5.3).
pub fn a_graceful_disconnect_outdates_the_secondary<E: Subject>() {
    for leaver in [1, 0] {
        let mut stage = fencing_pair::<E>(FencingPolicy::ResourceAndStonith, 1);
        stage.write(0, 0, 8);
        stage.must(leaver, Verb::Disconnect { force: false });
        assert_eq!(stage.disk(1), DiskState::Outdated);
        let state = stage.world.nodes[0].state();
        assert_eq!((state.peer_disk, state.suspended_fencing), (DiskState::Outdated, false));
        assert_eq!(fenced(&stage, 0), 0, "no need to ask");
        stage.write(0, 8, 8);
        assert!(stage.ask(1, PRIMARY).is_err());
        stage.must(leaver, CONNECT);
        stage.heals();
    }
}

/// on-no-data-accessible suspend-io: a diskless Primary whose peer dies waits for either disk.
pub fn requests_wait_for_data<E: Subject>() {
    for by_attach in [false, true] {
        let mut swarm = Swarm::quiet(ReplicationProtocol::C);
        swarm.settings.on_no_data = NoDataPolicy::SuspendIo;
        let mut stage = Stage::<E>::pair_of(swarm);
        stage.write(0, 0, 8);
        if by_attach {
            stage.power_loss(1);
            stage.until("the loss", |stage| stage.connection(0) < ConnectionState::Connected);
            stage.write(0, 8, 8);
            stage.must(0, Verb::Detach { force: true });
        } else {
            stage.must(0, Verb::Detach { force: false });
            stage.write(0, 8, 8);
            stage.power_loss(1);
            stage.until("the loss", |stage| stage.connection(0) < ConnectionState::Connected);
        }
        let requests = [
            stage.begin(0, write(16, 8)),
            stage.begin(0, Wish::Read(SectorRange::new(0, 8))),
            stage.begin(0, Wish::Flush),
        ];
        stays_open(&mut stage, &requests);
        if by_attach {
            stage.must(0, Verb::Attach);
        } else {
            stage.restart(1);
        }
        are_done(&mut stage, &requests);
        if by_attach {
            stage.restart(1);
        } else {
            stage.must(0, Verb::Attach);
        }
        stage.heals();
    }
}
