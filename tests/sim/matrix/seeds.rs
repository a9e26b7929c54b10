//! The matrix at random. Environment:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `TWINBLK_MATRIX_SEEDS` | how many seeds |
//! | `TWINBLK_MATRIX_START` | the first of them |
//! | `TWINBLK_MATRIX_SEED` | this seed only |
//! | `TWINBLK_SIM_TRACE` | file for the trace of that seed |

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use twinblk::election::failover::Phase;
use twinblk_proto::packet::ReplicationProtocol;
use twinblk_proto::state::{ConnectionState, DiskState};

use super::{Policy, Setup};
use crate::node::Crash;
use crate::oracle::Invariant;
use crate::random::{Random, Stream};
use crate::seeds::{THREADS, variable, write_trace};
use crate::subject::Subject;
use crate::swarm::Swarm;
use crate::world::World;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 50;
/// Seeds that failed once, with what they found.
const REGRESSIONS: &[u64] = &[];
/// From the last trouble on: the longest pause of a service that could not be started is 5 min, and
/// a split brain is recovered step by step.
const SETTLING_US: u64 = 400_000_000;
/// It must stay settled for so long.
const REST_US: u64 = 20_000_000;
const LOOK_US: u64 = 200_000;
/// Within so many a planted bug must be found.
const SEEDS_TO_FIND: u64 = 200;

/// What runs met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub seeds: u64,
    pub kills: u64,
    pub power_losses: u64,
    pub answered: u64,
    pub stale_reads: u64,
    pub promotions: u64,
    pub split_brains: u64,
    pub simulated_s: u64,
}

impl Counted {
    pub fn crashed(&mut self, crash: Crash) {
        match crash {
            Crash::Kill => self.kills += 1,
            Crash::PowerLoss => self.power_losses += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.seeds += 1;
        self.kills += other.kills;
        self.power_losses += other.power_losses;
        self.answered += other.answered;
        self.stale_reads += other.stale_reads;
        self.promotions += other.promotions;
        self.split_brains += other.split_brains;
        self.simulated_s += other.simulated_s;
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} seeds, {} simulated s: {} answers, {} promotions, {} kills, {} power losses, {} \
             split brains (policy both), {} stale reads within the stated window",
            self.seeds,
            self.simulated_s,
            self.answered,
            self.promotions,
            self.kills,
            self.power_losses,
            self.split_brains,
            self.stale_reads,
        )
    }
}

fn drawn(seed: u64) -> (Setup, Swarm) {
    let mut random = Random::new(seed, Stream::Service, 3);
    let policy = *random.pick(&Policy::ALL);
    let drifts = random.percent(50);
    let mut drift = || if drifts { random.between(0, 40_000) as i64 - 20_000 } else { 0 };
    let drift_ppm = [drift(), drift()];
    let setup = Setup {
        priorities: *random.pick(&[[100, 90], [90, 100], [100, 100], [200, 1]]),
        preempt: random.percent(60),
        drift_ppm,
        stale_percent: *random.pick(&[0, 30, 50]),
        durable_writes: super::faults::Plan::new(seed).has_power_losses() || random.percent(30),
        think_us: *random.pick(&[20_000, 100_000]),
        ..Setup::quiet(policy)
    };
    let protocols = [ReplicationProtocol::C, ReplicationProtocol::C, ReplicationProtocol::B];
    // What B promises after a loss of power is less; it is looked at without one.
    let protocol = match setup.durable_writes {
        true => ReplicationProtocol::C,
        false => *random.pick(&protocols),
    };
    let mut swarm = setup.swarm(protocol);
    swarm.batched = random.percent(50);
    (setup, swarm)
}

struct Outcome {
    violation: Option<String>,
    counted: Counted,
    trace: Vec<String>,
}

fn run<E: Subject>(seed: u64, trace: bool) -> Outcome {
    let (_, swarm) = drawn(seed);
    run_with::<E>(seed, swarm, trace)
}

fn run_with<E: Subject>(seed: u64, swarm: Swarm, trace: bool) -> Outcome {
    let mut world = World::<E>::new(seed, swarm, crate::recorder::Detail::Outline, trace);
    world.live_through(seed);
    let mut counted = world.service().counted;
    counted.answered = world.service().clients.answered;
    counted.stale_reads = world.service().clients.stale_reads;
    counted.promotions = world.statistics.promotions;
    counted.simulated_s = world.now_us / 1_000_000;
    let violation = world.violation.as_ref().map(ToString::to_string);
    Outcome { violation, counted, trace: world.recorder.lines().to_vec() }
}

impl<E: Subject> World<E> {
    fn live_through(&mut self, seed: u64) {
        let mut random = Random::new(seed, Stream::Service, 4);
        self.start_service_clients();
        if !self.settle() {
            return;
        }
        self.start_service_faults(random.between(10_000_000, 60_000_000));
        let until_us = self.service().faults.until_us;
        if !self.pass_until(until_us) {
            return;
        }
        self.note(9, format_args!("faults stop"));
        self.calm_service();
        if !self.settle() || !self.pass_until(self.now_us + REST_US) {
            return;
        }
        if !self.is_settled() {
            let text = format!("the pair did not stay settled: {}", self.service_standing());
            return self.violate(Invariant::I11, text);
        }
        self.check_equal();
        self.check_service_history();
        if self.violation.is_none() && !self.service().clients.is_split {
            let outcome = self.oracle.finish();
            self.check(outcome);
        }
    }

    /// False: something is wrong.
    pub fn pass_until(&mut self, until_us: u64) -> bool {
        while self.agenda.next_time_us().is_some_and(|at_us| at_us < until_us) {
            if !self.step() || self.has_run_away() {
                return false;
            }
        }
        self.now_us = until_us;
        true
    }

    /// Exactly one node serves, and both have all of the data.
    pub fn settle(&mut self) -> bool {
        let give_up_us = self.now_us + SETTLING_US;
        while !self.is_settled() {
            if !self.pass_until(self.now_us + LOOK_US) {
                return false;
            }
            self.recover_split_brain();
            if self.now_us > give_up_us {
                let text = format!("the pair does not settle: {}", self.service_standing());
                self.violate(Invariant::I11, text);
                return false;
            }
        }
        true
    }

    fn is_settled(&self) -> bool {
        let serving = (0..2).filter(|node| self.is_serving(*node)).count();
        let is_good = |node: usize| {
            let state = self.nodes[node].state();
            state.connection == ConnectionState::Connected
                && [state.disk, state.peer_disk] == [DiskState::UpToDate; 2]
        };
        let others_idle = (0..2)
            .all(|node| self.is_serving(node) || self.service().seats[node].phase() == Phase::Idle);
        serving == 1 && others_idle && (0..2).all(is_good)
    }

    /// Started to the last step, and answers.
    pub fn is_serving(&self, node: usize) -> bool {
        self.answers_address(node)
            && self.nodes[node].is_running()
            && self.is_primary_role(node)
            && self.service().seats[node].phase() == Phase::Serving
    }

    pub fn service_standing(&self) -> String {
        let one = |node: usize| {
            let seat = &self.service().seats[node];
            let (phase, standing) = (seat.phase(), seat.standing);
            let waits = seat.coordinator.as_ref().and_then(|coordinator| coordinator.waits());
            let waits = waits.map(ToString::to_string);
            let (is_master, addresses) = (seat.is_master(), seat.has_addresses);
            format!(
                "[{node}: {phase:?}, VRRP {standing:?}, master {is_master}, addresses {addresses}, \
                 waits {waits:?}]"
            )
        };
        format!("{} {} {}", one(0), one(1), self.standing())
    }
}

fn outcome_of<E: Subject>(seed: u64, trace: bool) -> Result<Outcome, String> {
    match catch_unwind(AssertUnwindSafe(|| run::<E>(seed, trace))) {
        Ok(outcome) => match &outcome.violation {
            None => Ok(outcome),
            Some(violation) => {
                write_trace(&outcome.trace);
                Err(violation.clone())
            }
        },
        Err(_) => Err("panicked".to_owned()),
    }
}

fn reproduction(seed: u64, why: &str) -> String {
    let (setup, swarm) = drawn(seed);
    format!(
        "seed {seed} ({}, {:?}): {why}\n  reproduce: TWINBLK_MATRIX_SEED={seed} \
         TWINBLK_SIM_TRACE=trace.txt cargo test --test sim matrix_seeds",
        setup.policy.name(),
        swarm.settings.protocol,
    )
}

/// The evidence that the matrix is worth something: a witness that grants to both is found out.
pub fn a_witness_that_grants_to_both_is_found<E: Subject>() {
    let found = (0..SEEDS_TO_FIND).find_map(|seed| {
        let (mut setup, swarm) = drawn(seed);
        if setup.policy != Policy::Witness {
            return None;
        }
        setup.grants_all = true;
        let outcome = run_with::<E>(seed, Swarm { service: Some(setup), ..swarm }, false);
        outcome.violation.map(|violation| (seed, violation))
    });
    let (seed, violation) = found.expect("a violation");
    println!("seed {seed}: {violation}");
    assert!(violation.starts_with("I5"), "{violation}");
}

/// All seeds: I5 under exclusive policies, what clients were told, and a pair that settles.
pub fn matrix_seeds<E: Subject>() {
    if let Some(seed) = variable("TWINBLK_MATRIX_SEED") {
        match outcome_of::<E>(seed, true) {
            Ok(outcome) => {
                write_trace(&outcome.trace);
                println!("seed {seed} passes: {}", outcome.counted);
            }
            Err(why) => panic!("{}", reproduction(seed, &why)),
        }
        return;
    }
    let first = variable("TWINBLK_MATRIX_START").unwrap_or(0);
    let count = variable("TWINBLK_MATRIX_SEEDS").unwrap_or(SEEDS);
    let mut seeds = REGRESSIONS.to_vec();
    seeds.extend(first..first + count);
    let next = AtomicU64::new(0);
    let total = Mutex::new((Counted::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let outcome = outcome_of::<E>(*seed, false);
                    let mut total = total.lock().unwrap_or_else(|poison| poison.into_inner());
                    match outcome {
                        Ok(outcome) => total.0.add(&outcome.counted),
                        Err(why) => total.1.push(reproduction(*seed, &why)),
                    }
                    if total.1.len() >= 10 {
                        break;
                    }
                }
            });
        }
    });
    let (counted, failures) = total.into_inner().unwrap_or_else(|poison| poison.into_inner());
    println!("{counted}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
