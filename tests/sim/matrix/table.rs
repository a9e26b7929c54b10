//! The matrix, row by row: node 0 serves, something happens to it, to node 1, to the witness or to a
//! link, and lasts for 20 s. Who serves then is what the table of DESIGN.md 6 says; whoever takes over
//! does so in time; and when everything is well again one node serves and both have all of the data.

use twinblk::engine::event::Verb;
use twinblk_proto::packet::ReplicationProtocol;

use super::faults::Trouble;
use super::steps::SLOWEST_US;
use super::{Policy, Setup};
use crate::node::Crash;
use crate::recorder::Detail;
use crate::subject::Subject;
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    PrimaryLosesPower,
    PrimaryIsKilled,
    SecondaryLosesPower,
    WitnessDies,
    WitnessLinkCut,
    ServiceLinkCut,
    ReplicationLinkCut,
    BothLinksCut,
    AllCut,
    PrimaryPauses,
    /// And finds neither its witness nor its role when it wakes.
    PrimaryPausesAlone,
    SecondaryPauses,
    /// Clocks 4 % apart, and the primary loses power.
    ClocksDrift,
}

use Fault::*;

/// Who answers writes while the fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Primary,
    Secondary,
    Both,
    Either,
    Nobody,
}

/// The fault, and who serves under `both`, `favour-primary` and `witness`.
const MATRIX: [(Fault, [Who; 3]); 13] = [
    (PrimaryLosesPower, [Who::Secondary, Who::Nobody, Who::Secondary]),
    (PrimaryIsKilled, [Who::Secondary, Who::Nobody, Who::Secondary]),
    (SecondaryLosesPower, [Who::Primary, Who::Primary, Who::Primary]),
    (WitnessDies, [Who::Primary, Who::Primary, Who::Primary]),
    (WitnessLinkCut, [Who::Primary, Who::Primary, Who::Primary]),
    (ServiceLinkCut, [Who::Primary, Who::Primary, Who::Primary]),
    (ReplicationLinkCut, [Who::Primary, Who::Primary, Who::Primary]),
    (BothLinksCut, [Who::Both, Who::Primary, Who::Either]),
    (AllCut, [Who::Both, Who::Primary, Who::Nobody]),
    (PrimaryPauses, [Who::Secondary, Who::Nobody, Who::Secondary]),
    (PrimaryPausesAlone, [Who::Secondary, Who::Nobody, Who::Secondary]),
    (SecondaryPauses, [Who::Primary, Who::Primary, Who::Primary]),
    (ClocksDrift, [Who::Secondary, Who::Nobody, Who::Secondary]),
];

const LASTS_US: u64 = 20_000_000;
/// Of that the end, in which whoever serves has answered writes.
const LOOK_BACK_US: u64 = 4_000_000;
/// Each cell of the matrix, with other random delays.
const SEEDS: u64 = 2;
/// Of one request to one node, with all that may be in its way.
const ANSWER_US: u64 = 200_000;

/// Three silent adverts, the skew of priority 90, on a clock that is 2 % slow; a witness; five steps.
const TAKEOVER_US: u64 = (3_000_000 + 1_000_000 * (256 - 90) / 256) * 102 / 100
    + 100_000
    + 5 * (SLOWEST_US + 20_000)
    + ANSWER_US;
/// A primary that waits for its peer's answer freezes until `ping-int` + `ping-timeout`, then asks.
const FREEZE_US: u64 = 2_500_000 + 100_000 + ANSWER_US;

impl<E: Subject> World<E> {
    fn begin_fault(&mut self, fault: Fault) {
        let adverts = (0..2).map(|from| Trouble::Adverts { from });
        let replication = (0..2).map(|from| Trouble::Replication { from });
        let witness = (0..2).map(|of| Trouble::WitnessLink { of });
        let troubles: Vec<Trouble> = match fault {
            PrimaryLosesPower | ClocksDrift => return self.crash(0, Crash::PowerLoss),
            PrimaryIsKilled => return self.crash(0, Crash::Kill),
            SecondaryLosesPower => return self.crash(1, Crash::PowerLoss),
            PrimaryPauses => return self.pause(0),
            PrimaryPausesAlone => {
                self.pause(0);
                vec![Trouble::WitnessLink { of: 0 }]
            }
            SecondaryPauses => return self.pause(1),
            WitnessDies => vec![Trouble::WitnessDead],
            WitnessLinkCut => witness.collect(),
            ServiceLinkCut => adverts.collect(),
            ReplicationLinkCut => replication.collect(),
            BothLinksCut => adverts.chain(replication).collect(),
            AllCut => adverts.chain(replication).chain(witness).collect(),
        };
        for trouble in troubles {
            self.trouble(trouble, true);
        }
    }

    /// Who answered writes lately, and still would.
    fn who_serves(&self) -> Vec<usize> {
        let wrote_us = self.service().clients.wrote_us;
        (0..2)
            .filter(|node| self.is_serving(*node) && wrote_us[*node] + LOOK_BACK_US > self.now_us)
            .collect()
    }

    fn expect_well(&self, what: &str) {
        let violation = self.violation.as_ref().map(ToString::to_string);
        assert!(
            violation.is_none(),
            "{what}: {}\n{}",
            violation.unwrap_or_default(),
            self.traced()
        );
    }

    fn traced(&self) -> String {
        crate::seeds::write_trace(self.recorder.lines());
        self.service_standing()
    }
}

/// Returns the cell's text.
fn cell<E: Subject>(fault: Fault, policy: Policy, who: Who, seed: u64) -> String {
    let what = format!("{fault:?}, {}, seed {seed}", policy.name());
    let drift_ppm = if fault == ClocksDrift { [20_000, -20_000] } else { [0, 0] };
    // Some clients are on one side of a cut, some on the other.
    let stale_percent = if matches!(fault, BothLinksCut | AllCut) { 50 } else { 0 };
    let setup = Setup { drift_ppm, stale_percent, think_us: 50_000, ..Setup::quiet(policy) };
    let swarm = setup.swarm(ReplicationProtocol::C);
    let mut world =
        World::<E>::new(seed, swarm, Detail::Outline, std::env::var("TWINBLK_SIM_TRACE").is_ok());
    world.start_service_clients();
    world.settle();
    world.pass_until(world.now_us + 2_000_000);
    world.expect_well(&what);
    assert_eq!(world.who_serves(), [0], "{what}: before\n{}", world.traced());

    let begun_us = world.now_us;
    world.service_mut().clients.longest_gap_us = 0;
    world.service_mut().clients.first_wrote_us = [None; 2];
    world.begin_fault(fault);
    world.pass_until(begun_us + LASTS_US);
    world.expect_well(&what);
    let served = world.who_serves();
    let is_right = match who {
        Who::Primary => served == [0],
        Who::Secondary => served == [1],
        Who::Both => served == [0, 1],
        Who::Either => served.len() == 1,
        Who::Nobody => served.is_empty(),
    };
    assert!(is_right, "{what}: {who:?} should serve, not {served:?}\n{}", world.traced());

    let clients = &world.service().clients;
    let took_over_us = clients.first_wrote_us[1].map(|at_us| at_us - begun_us);
    let mut text = match (&served[..], took_over_us) {
        ([], _) => "nobody".to_owned(),
        ([0], _) => {
            let gap_us = clients.longest_gap_us;
            assert!(gap_us < FREEZE_US, "{what}: no answer for {gap_us} us\n{}", world.traced());
            format!("primary, gap {:.1} s", gap_us as f64 / 1e6)
        }
        (nodes, Some(us)) => {
            assert!(us < TAKEOVER_US, "{what}: took over after {us} us\n{}", world.traced());
            let both = if nodes.len() == 2 { "both" } else { "secondary" };
            format!("{both} after {:.1} s", us as f64 / 1e6)
        }
        (nodes, None) => panic!("{what}: {nodes:?} serve, and node 1 wrote nothing"),
    };
    if policy == Policy::FavourPrimary && fault == PrimaryLosesPower {
        // "waits for the operator", who has seen that the other machine is off.
        world.command(1, Verb::Primary { force: true });
        world.pass_until(world.now_us + LASTS_US);
        world.expect_well(&what);
        assert_eq!(world.who_serves(), [1], "{what}: --force\n{}", world.traced());
        text += "; secondary by --force";
    }

    world.calm_service();
    world.settle();
    world.pass_until(world.now_us + LASTS_US);
    world.settle();
    world.check_equal();
    world.check_service_history();
    world.expect_well(&what);
    let split = world.service().counted.split_brains > 0;
    assert!(!split || !policy.is_exclusive(), "{what}: split brain\n{}", world.traced());
    assert!(split || who != Who::Both, "{what}: not noticed\n{}", world.traced());
    if split {
        text += "; split brain, recovered";
    }
    text
}

/// A Primary that was replaced wakes and meets its successor, Secondary by now, before its witness has
/// said anything. It must follow by itself: nobody tells it to connect.
pub fn a_replaced_primary_follows_whoever_replaced_it<E: Subject>() {
    let what = "replaced, and met before it knew";
    let swarm = Setup::quiet(Policy::Witness).swarm(ReplicationProtocol::C);
    let traces = std::env::var("TWINBLK_SIM_TRACE").is_ok();
    let mut world = World::<E>::new(1, swarm, Detail::Outline, traces);
    world.start_service_clients();
    world.settle();
    world.begin_fault(PrimaryPausesAlone);
    world.pass_until(world.now_us + LASTS_US);
    assert_eq!(world.who_serves(), [1], "{}", world.traced());
    world.stand_by(1, true);
    world.pass_until(world.now_us + LASTS_US);
    world.resume(0);
    world.pass_until(world.now_us + LASTS_US);
    world.expect_well(what);
    assert!(world.who_serves().is_empty(), "{}", world.traced());
    world.calm_service();
    world.settle();
    world.check_equal();
    world.check_service_history();
    world.expect_well(what);
}

/// The table of DESIGN.md 6, and what lies between its columns.
pub fn the_matrix_holds<E: Subject>() {
    println!("| fault | {} |", Policy::ALL.map(Policy::name).join(" | "));
    let lines = MATRIX.map(|(fault, row)| {
        std::thread::spawn(move || {
            let cells = std::array::from_fn::<String, 3, _>(|column| {
                let policy = Policy::ALL[column];
                let texts = (1..=SEEDS).map(|seed| cell::<E>(fault, policy, row[column], seed));
                texts.max_by_key(String::len).unwrap_or_default()
            });
            format!("| {fault:?} | {} |", cells.join(" | "))
        })
    });
    // Every row is looked at, also after one that does not hold.
    let lines = lines.map(std::thread::JoinHandle::join);
    for line in lines.iter().flatten() {
        println!("{line}");
    }
    assert!(lines.iter().all(Result::is_ok), "rows that do not hold: see above");
}
