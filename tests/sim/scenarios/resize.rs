//! A device that grows.

use twinblk::engine::effect::{DiskAction, Effect};
use twinblk::engine::event::Verb;
use twinblk_proto::packet::{Packet, ReplicationProtocol};
use twinblk_proto::units::BLOCK_SECTORS;

use super::stage::{PRIMARY, Stage};
use crate::random::{Random, Stream};
use crate::subject::Subject;
use crate::swarm::{Growth, Swarm};

const FROM: u64 = 3000 * BLOCK_SECTORS;
const TO: u64 = 8000 * BLOCK_SECTORS;

const fn resize(assume_clean: bool) -> Verb {
    Verb::Resize { sectors: Some(0), assume_peer_has_space: false, assume_clean }
}

/// In sync, node 0 Primary, at its first size; both disks grew.
fn grown_disks<E: Subject>(internal: bool, assume_clean: bool) -> Stage<E> {
    let growth = Growth { from_sectors: FROM, internal, assume_clean };
    let quiet = Swarm::quiet(ReplicationProtocol::C);
    let mut stage = Stage::pair_of(Swarm { device_sectors: TO, growth: Some(growth), ..quiet });
    for index in 0..20 {
        stage.write(0, index * 1000, 16);
    }
    for node in &mut stage.world.nodes {
        node.backing_sectors = TO;
    }
    stage
}

fn has_grown<E: Subject>(stage: &Stage<E>) -> bool {
    stage.world.common_sectors() == TO
}

pub fn only_what_is_new_is_resynced<E: Subject>() {
    for (asked, internal, assume_clean) in
        [(0, true, false), (1, true, false), (0, false, false), (1, false, true), (0, true, true)]
    {
        let mut stage = grown_disks::<E>(internal, assume_clean);
        stage.must(asked, resize(assume_clean));
        stage.until("both have grown", has_grown);
        stage.write(0, TO - 16, 16);
        stage.heals();
        let moved = stage.blocks_moved(1);
        if assume_clean {
            assert_eq!(moved, 0);
        } else {
            // What was written meanwhile need not be moved.
            let new = (TO - FROM) / BLOCK_SECTORS;
            assert!(moved <= new && moved >= new - 2, "{moved} of {new}");
        }
    }
}

type Moment = fn(&Effect) -> bool;

/// Either node, or both, at each step of the way; then the operator tries again.
pub fn a_power_loss_at_any_step_loses_nothing<E: Subject>() {
    let moments: [Moment; 7] = [
        |effect| matches!(effect, Effect::GrowDisk { .. }),
        |effect| matches!(effect, Effect::SendData { packet: Packet::Sizes(_), .. }),
        |effect| matches!(effect, Effect::Disk { action: DiskAction::PersistBitmap(_), .. }),
        |effect| match effect {
            Effect::Disk { action: DiskAction::PersistRecord(record), .. } => {
                record.agreed_sectors == TO
            }
            _ => false,
        },
        |effect| matches!(effect, Effect::SizeChanged { .. }),
        |effect| match effect {
            Effect::Disk { action: DiskAction::PersistRecord(record), .. } => {
                record.agreed_sectors == TO && record.generations.bitmap != 0
            }
            _ => false,
        },
        |effect| matches!(effect, Effect::ReplyCommand { .. }),
    ];
    let mut random = Random::new(1, Stream::Growth, 2);
    let mut reached = 0;
    for moment in moments {
        for (asked, watched) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for victims in [&[watched][..], &[0, 1]] {
                let mut stage = grown_disks::<E>(random.percent(60), false);
                stage.world.command(asked, resize(false));
                let after = random.percent(50);
                // What the watched node would have done next is lost with it.
                if !stage.reaches(watched, after, moment) {
                    continue;
                }
                reached += 1;
                for victim in victims {
                    stage.power_loss(*victim);
                }
                for victim in victims {
                    stage.restart(*victim);
                }
                stage.until("both are in sync", Stage::is_in_sync);
                stage.eventually(0, PRIMARY);
                for _ in 0..3 {
                    if !has_grown(&stage) {
                        stage.eventually(asked, resize(false));
                    }
                    stage.heals();
                }
                assert!(has_grown(&stage));
                stage.write(0, TO - 16, 16);
                stage.heals();
            }
        }
    }
    assert!(reached >= 40, "only {reached} moments came");
}

pub fn wishes_that_make_no_sense_are_refused<E: Subject>() {
    let mut stage = grown_disks::<E>(true, false);
    let code = |stage: &mut Stage<E>, node, verb| stage.ask(node, verb).expect_err("refused").code;
    let sized = |sectors| Verb::Resize {
        sectors: Some(sectors),
        assume_peer_has_space: false,
        assume_clean: false,
    };
    assert_eq!(code(&mut stage, 0, sized(TO + 8)), 111);
    stage.must(0, Verb::Secondary { force: false });
    assert_eq!(code(&mut stage, 1, resize(false)), 131);
    stage.must(1, PRIMARY);
    stage.must(1, sized(FROM + 80));
    stage.heals();
    assert_eq!(stage.world.common_sectors(), FROM + 80);
    stage.must(0, sized(FROM + 8));
    stage.heals();
    assert_eq!(stage.world.common_sectors(), FROM + 8, "smaller, because the operator says so");
    stage.must(1, Verb::Disconnect { force: false });
    assert_eq!(code(&mut stage, 1, resize(false)), -15);
}
