//! Split brain and the policies: who loses is what the policy says, and without one nobody does (I8;
//! session.md 3.3). Node 0 was Primary when they parted, node 1 was promoted later.

use twinblk::engine::event::{RoleConflictPolicy, Settings, Verb};
use twinblk::engine::verdict::Direction;
use twinblk_proto::packet::{ReplicationProtocol, SplitBrainPolicy as P};
use twinblk_proto::state::{ConnectionState, Role};

use super::stage::{CONNECT, PRIMARY, Stage};
use crate::stamp::write_number;
use crate::subject::Subject;
use crate::swarm::Swarm;

const DISCONNECT: Verb = Verb::Disconnect { force: false };
const SECONDARY: Verb = Verb::Secondary { force: false };

struct Story {
    settings: Settings,
    /// Who is Primary when they meet.
    primaries: [bool; 2],
    /// Blocks that each wrote while apart.
    changes: [u64; 2],
}

fn plain() -> Settings {
    Settings { ..Swarm::quiet(ReplicationProtocol::C).settings }
}

/// Apart, with a history each; both StandAlone.
fn parted<E: Subject>(story: &Story) -> Stage<E> {
    let mut swarm = Swarm::quiet(ReplicationProtocol::C);
    swarm.settings = story.settings.clone();
    let mut stage = Stage::<E>::pair_of(swarm);
    stage.write(0, 0, 8);
    // Stable on the peer, or it would count as changed.
    stage.rest(1_000);
    stage.must(1, DISCONNECT);
    stage.must(0, DISCONNECT);
    stage.must(1, PRIMARY);
    for node in 0..2 {
        for block in 0..story.changes[node] {
            stage.write(node, 800 * (1 + node as u64) + block * 16, 8);
        }
        if !story.primaries[node] {
            stage.must(node, SECONDARY);
        }
    }
    stage
}

/// They meet; `loser`: whose changes are gone afterwards.
fn meet<E: Subject>(story: &Story, loser: Option<usize>) {
    let mut stage = parted::<E>(story);
    stage.world.oracle.discard_granted = loser;
    stage.must(0, CONNECT);
    stage.must(1, CONNECT);
    let Some(loser) = loser else {
        stage.until("they refuse each other", |stage| {
            (0..2).any(|node| stage.connection(node) == ConnectionState::StandAlone)
        });
        stage.rest(3_000);
        for node in 0..2 {
            assert!(stage.connection(node) < ConnectionState::Connected);
            for block in 0..story.changes[node] {
                let sector = 800 * (1 + node as u64) + block * 16;
                assert!(write_number(stage.world.nodes[node].medium.view(sector)) > 1, "kept");
            }
        }
        assert_eq!(stage.world.statistics.resyncs, 0);
        return;
    };
    stage.until("in sync", Stage::is_in_sync);
    stage.rest(2_000);
    for node in 0..2 {
        let medium = &stage.world.nodes[node].medium;
        for (writer, changes) in story.changes.into_iter().enumerate() {
            for block in 0..changes {
                let number = write_number(medium.view(800 * (1 + writer as u64) + block * 16));
                assert_eq!(number > 1, writer != loser, "node {node}, changes of {writer}");
            }
        }
    }
    assert_eq!(stage.world.statistics.resyncs, 1);
    assert!((0..2).filter(|node| stage.role(*node) == Role::Primary).count() <= 1);
    stage.heals();
}

/// after-sb-0pri, every policy.
pub fn policies_without_a_primary<E: Subject>() {
    for (policy, changes, loser) in [
        (P::Disconnect, [3, 0], None),
        (P::DiscardYoungerPrimary, [1, 9], Some(1)),
        (P::DiscardOlderPrimary, [9, 1], Some(0)),
        (P::DiscardZeroChanges, [0, 3], Some(0)),
        (P::DiscardZeroChanges, [3, 0], Some(1)),
        (P::DiscardZeroChanges, [3, 1], None),
        (P::DiscardLeastChanges, [3, 1], Some(1)),
        (P::DiscardLeastChanges, [1, 3], Some(0)),
        (P::Consensus, [3, 1], None),
    ] {
        let settings = Settings { after_sb_0pri: policy, ..plain() };
        meet::<E>(&Story { settings, primaries: [false; 2], changes }, loser);
    }
}

/// after-sb-1pri, every policy, from both sides; after-sb-0pri discards the changes of node 1.
pub fn policies_with_one_primary<E: Subject>() {
    use RoleConflictPolicy::{Disconnect, Violently};
    for (policy, primary, conflict, loser) in [
        (P::Disconnect, 0, Disconnect, None),
        (P::Consensus, 0, Disconnect, Some(1)),
        (P::Consensus, 1, Disconnect, None),
        (P::DiscardSecondary, 0, Disconnect, Some(1)),
        (P::DiscardSecondary, 1, Disconnect, Some(0)),
        (P::Violently, 0, Disconnect, Some(1)),
        (P::Violently, 1, Disconnect, None),
        (P::Violently, 1, RoleConflictPolicy::CallPriLost, None),
        (P::Violently, 1, Violently, Some(1)),
        (P::CallPriLost, 0, Disconnect, Some(1)),
        (P::CallPriLost, 1, Disconnect, Some(1)),
    ] {
        let settings = Settings {
            after_sb_0pri: P::DiscardYoungerPrimary,
            after_sb_1pri: policy,
            rr_conflict: conflict,
            ..plain()
        };
        let primaries = [primary == 0, primary == 1];
        meet::<E>(&Story { settings, primaries, changes: [2, 4] }, loser);
    }
}

/// after-sb-2pri: without two-primaries, one of them must step down.
pub fn policies_with_two_primaries<E: Subject>() {
    for (policy, zero, conflict, loser) in [
        (P::Disconnect, P::DiscardYoungerPrimary, RoleConflictPolicy::Violently, None),
        (P::Violently, P::DiscardYoungerPrimary, RoleConflictPolicy::Disconnect, None),
        (P::Violently, P::DiscardYoungerPrimary, RoleConflictPolicy::Violently, None),
        (P::CallPriLost, P::Disconnect, RoleConflictPolicy::Disconnect, None),
        (P::CallPriLost, P::DiscardYoungerPrimary, RoleConflictPolicy::Disconnect, Some(1)),
        (P::CallPriLost, P::DiscardOlderPrimary, RoleConflictPolicy::Disconnect, Some(0)),
    ] {
        let settings = Settings {
            after_sb_0pri: zero,
            after_sb_2pri: policy,
            rr_conflict: conflict,
            ..plain()
        };
        meet::<E>(&Story { settings, primaries: [true; 2], changes: [2, 4] }, loser);
    }
}

/// `connect --tentative` tells what would be done, and neither disk nor states change.
pub fn a_tentative_connect_changes_nothing<E: Subject>() {
    let unsolved = Story { settings: plain(), primaries: [false; 2], changes: [2, 4] };
    let solved = Story {
        settings: Settings { after_sb_0pri: P::DiscardYoungerPrimary, ..plain() },
        ..unsolved
    };
    for (story, asked, direction) in [
        (&unsolved, 0, Direction::Refused),
        (&solved, 0, Direction::Source),
        (&solved, 1, Direction::Target),
    ] {
        let mut stage = parted::<E>(story);
        let records = [0, 1].map(|node: usize| *stage.world.nodes[node].metadata.record());
        stage.must(1 - asked, CONNECT);
        let tentative = Verb::Connect { discard_my_data: false, dry_run: true };
        stage.must(asked, tentative.clone());
        stage.until("the answer", |stage| stage.connection(asked) == ConnectionState::StandAlone);
        stage.rest(3_000);
        let engine = stage.world.nodes[asked].engine.as_ref().expect("runs");
        let verdict = engine.verdict().expect("a verdict");
        assert_eq!(verdict.direction, direction, "{verdict:?}");
        if direction != Direction::Refused {
            assert_eq!((verdict.least_blocks, verdict.most_blocks), (4, 6));
        }
        assert_eq!(stage.connection(1 - asked), ConnectionState::WFConnection, "goes on waiting");
        let now = [0, 1].map(|node: usize| *stage.world.nodes[node].metadata.record());
        assert_eq!(now, records);
        let refusal = stage.ask(1 - asked, tentative).expect_err("it is connecting");
        assert_eq!(refusal.code, 125);
    }
}
