//! Cuts, split brain, and who may be Primary.

use twinblk::engine::effect::ClientError;
use twinblk::engine::event::Verb;
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::{ConnectionState, Role};
use twinblk_proto::units::SectorRange;

use super::stage::{CONNECT, PRIMARY, Stage, write};
use crate::link::Socket;
use crate::requests::{Reply, Wish};
use crate::stamp::write_number;
use crate::subject::Subject;
use crate::swarm::Swarm;

/// Both nodes were Primary while apart, and wrote: write 1 before, write 2 on node 0, 3 on node 1.
fn split<E: Subject>() -> Stage<E> {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 8);
    stage.cut_all();
    stage.until("both notice", |stage| {
        (0..2).all(|node| stage.connection(node) < ConnectionState::Connected)
    });
    stage.eventually(1, PRIMARY);
    stage.write(0, 0, 8);
    stage.write(1, 0, 16);
    stage.must(0, Verb::Secondary { force: false });
    stage.must(1, Verb::Secondary { force: false });
    stage
}

fn gave_up<E: Subject>(stage: &Stage<E>) -> bool {
    let states = [stage.connection(0), stage.connection(1)];
    states.contains(&ConnectionState::StandAlone)
        && states.iter().all(|state| *state < ConnectionState::WFReportParams)
}

/// I5: nothing is merged silently, and the data of both stays as it is.
pub fn split_brain_detected_on_both<E: Subject>() {
    let mut stage = split::<E>();
    stage.heal_all();
    stage.until("they refuse each other", gave_up);
    stage.rest(10_000);
    assert!(gave_up(&stage));
    assert_eq!(write_number(stage.world.nodes[0].medium.view(0)), 2);
    assert_eq!(write_number(stage.world.nodes[1].medium.view(0)), 3);
}

/// I8: the node that was told to discard loses its changes, and no other.
pub fn discard_my_data_only_overwrites_victim<E: Subject>() {
    for victim in 0..2 {
        let mut stage = split::<E>();
        stage.heal_all();
        stage.until("they refuse each other", gave_up);
        stage.rest(5_000);
        for node in 0..2 {
            if stage.connection(node) != ConnectionState::StandAlone {
                stage.must(node, Verb::Disconnect { force: true });
            }
        }
        stage.world.oracle.discard_granted = Some(victim);
        stage.must(1 - victim, CONNECT);
        stage.must(victim, Verb::Connect { discard_my_data: true, dry_run: false });
        stage.heals();
        let survivor_wrote = if victim == 0 { 3 } else { 2 };
        for node in 0..2 {
            assert_eq!(write_number(stage.world.nodes[node].medium.view(0)), survivor_wrote);
        }
    }
}

/// While they see each other, there is one Primary.
pub fn a_second_primary_is_refused<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    let refusal = stage.ask(1, PRIMARY).expect_err("node 0 is Primary");
    assert_eq!(refusal.code, -1, "{refusal:?}");
    assert_eq!(stage.role(1), Role::Secondary);
    stage.heals();
}

/// Both are asked to become Primary at the same moment: at most one does.
pub fn concurrent_promotions_leave_one_primary<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.must(0, Verb::Secondary { force: false });
    let commands = [stage.world.command(0, PRIMARY), stage.world.command(1, PRIMARY)];
    stage.until("both outcomes", |stage| {
        (0..2).all(|node| stage.world.outcome(node, commands[node]).is_some())
    });
    let primaries = (0..2).filter(|node| stage.role(*node) == Role::Primary).count();
    assert!(primaries <= 1);
    stage.heals();
}

/// Packets flow in one direction only: both notice, the Primary goes on alone, and they heal.
pub fn one_way_cut_ends_the_session<E: Subject>() {
    for from in 0..2 {
        let mut stage = Stage::<E>::pair();
        stage.world.cut(&[(from, Socket::Data), (from, Socket::Meta)]);
        let request = stage.begin(0, write(0, 8));
        assert!(matches!(stage.answer(request), Reply::Done));
        stage.until("both notice", |stage| {
            (0..2).all(|node| stage.connection(node) < ConnectionState::Connected)
        });
        stage.heal_all();
        stage.heals();
    }
}

/// Only one of the two sockets stands still.
pub fn one_socket_cut_ends_the_session<E: Subject>() {
    for socket in Socket::BOTH {
        let mut stage = Stage::<E>::pair();
        stage.world.cut(&[(0, socket), (1, socket)]);
        let request = stage.begin(0, write(0, 8));
        assert!(matches!(stage.answer(request), Reply::Done));
        stage.heal_all();
        stage.heals();
    }
}

/// The Primary sleeps past every timeout, the other is promoted, the old one wakes up: two
/// Primaries that both wrote are not merged.
pub fn pause_primary_past_timeouts_then_resume<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 8);
    stage.world.pause(0);
    let request = stage.begin(0, write(0, 8));
    stage.until("the Secondary notices", |stage| stage.connection(1) < ConnectionState::Connected);
    stage.eventually(1, PRIMARY);
    stage.write(1, 0, 8);
    stage.world.resume(0);
    stage.answer(request);
    stage.rest(20_000);
    let survivors = [0, 1].map(|node| write_number(stage.world.nodes[node].medium.view(0)));
    assert_eq!(survivors, [2, 3], "each keeps its own");
}

/// The role moves in peace, there and back.
pub fn switchover_and_back<E: Subject>() {
    for protocol in [ReplicationProtocol::A, ReplicationProtocol::B, ReplicationProtocol::C] {
        let mut stage = Stage::<E>::pair_of(Swarm::quiet(protocol));
        for round in 0..4 {
            let holder = round % 2;
            stage.write(holder, 0, 24);
            stage.write(holder, 5, 3);
            stage.must(holder, Verb::Secondary { force: false });
            stage.must(1 - holder, PRIMARY);
            let seen = stage.read(1 - holder, 0, 24);
            assert_eq!(write_number(seen[5]), 2 * (round as u64 + 1));
        }
        stage.heals();
    }
}

/// Neither disk nor peer: an error, at once and not an eternal wait (`on-no-data io-error`).
pub fn no_data_is_an_error<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    stage.write(0, 0, 8);
    stage.must(0, Verb::Detach { force: false });
    stage.cut_all();
    let request = stage.begin(0, Wish::Read(SectorRange::new(0, 8)));
    let reply = stage.answer(request);
    assert!(matches!(reply, Reply::Failed(ClientError::Io)), "{reply:?}");
    let request = stage.begin(0, write(0, 8));
    let reply = stage.answer(request);
    assert!(matches!(reply, Reply::Failed(ClientError::Io)), "{reply:?}");
    stage.heal_all();
    stage.eventually(0, Verb::Attach);
    stage.heals();
}

/// A Secondary serves nobody.
pub fn a_secondary_answers_no_client<E: Subject>() {
    let mut stage = Stage::<E>::pair();
    let request = stage.begin(1, Wish::Read(SectorRange::new(0, 8)));
    let reply = stage.answer(request);
    assert!(matches!(reply, Reply::Failed(ClientError::NotPrimary)), "{reply:?}");
    let request = stage.begin(1, write(0, 8));
    let reply = stage.answer(request);
    assert!(matches!(reply, Reply::Failed(ClientError::NotPrimary)), "{reply:?}");
    stage.heals();
}
