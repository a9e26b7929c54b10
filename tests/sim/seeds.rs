//! Many seeds. Environment:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `TWINBLK_SEED` | run this seed only |
//! | `TWINBLK_SIM_SEEDS` | how many fresh seeds |
//! | `TWINBLK_SIM_START` | the first of them |
//! | `TWINBLK_SIM_TRACE` | file for the trace of a failing seed |

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::recorder::{Detail, Statistics};
use crate::run::{Outcome, run, run_sabotaged};
use crate::sabotage::Sabotage;
use crate::subject::Subject;
use crate::swarm::{FIRST_GROWING, FIRST_MAINTAINED, FIRST_SLOW, FIRST_WITNESSED, Swarm};

/// Seeds that failed once, with what they found.
const REGRESSIONS: &[u64] = &[
    1_000_011, // I3: mirrored writes reached a target whose record still said Consistent
    1_000_037, // I10: answered before the peer of a lost disk had its new generation
    1_000_062, // I10: answered before a new generation when the peer failed to write
    1_000_064, // I9: a promotion and an attach crossed, decided by different roles
    1_000_074, // I7: the source's own copy was in its cache when its bits were cleared
    1_000_089, // I11: resync data waited for a client that waited for it
    1_000_196, // I7: a log kept for a diskless Primary lost its flag before its bits
    1_000_059, // I8: a Primary went on from its own disk in a generation that its peer had left
    1_000_195, // I11: a full sync pushed its target's generation out of the history
    1_000_248, // I7: a write for a diskless Primary was applied after its bitmap was sent
    1_000_272, // I10: no generation for a peer that came back diskless to a frozen Primary
    1_000_283, // I10: a target that may have finished was still taken for Inconsistent
    1_000_337, // I9: a diskless Primary read from its peer past its own write, answered under B
    3_000_069, // the oracle took a write that a promotion had seen for one made twice
    3_000_204, // I11: a disk stayed Negotiating when its connection was lost
    2_000_238, // the oracle missed a promotion during which a write arrived
    2_000_107, // the operator never connected a Primary whose own disk is too old to attach
    3_000_366, // I11: a full sync begun again and again pushed its target out of the history
    3_000_477, // I11: the same
    4_000_007, // I8: a disk that was not good kept the log of a diskless Primary
    4_000_022, // the oracle forgot that a flush was answered in a new generation
    4_000_047, // I1: a copy on a peer that left counted when the own disk was given up
    4_000_054, // I11: a discarded disk that heard of no resync was unrelated afterwards
    4_000_082, // I11: an acknowledgement cleared bits of a disk that was exchanged meanwhile
    4_000_188, // the oracle looked at the promotion of a node without any data
    4_000_256, // I11: a generation that its disk never wrote kept that disk out
    4_000_322, // I1: a write for a source that lost its disk went to its stale target
    4_000_391, // I11: a demotion in a node where nothing else happened waited for ever
    4_000_399, // I11: as 4_000_256, with the peer connected
    2_000_005, // I10: a source crashed before it heard of the end, and was promoted alone
    2_000_081, // I10: the same
    1_000_924, // I9: the end of a resync took back what was read at the peer
    2_000_043, // I11: blocks stayed marked on a source that failed its last flush
    2_000_296, // the oracle made a fork answer for a write under way on the other node
    2_000_949, // the oracle made a node answer for writes begun on the other while it was promoted
    2_000_608, // the oracle took a read during a promotion for one after it
    3_000_249, // the oracle knew a Primary as served by its peer only from the first resync block
    4_000_205, // I1: a flush did not cover what a lost session left in the only copy's cache
    6_000_268, // the oracle did not count a promotion that a crash followed at once
    6_000_307, // the operator left a replaced Primary frozen when the other was demoted
];
/// Fresh seeds of an ordinary test run.
const FRESH: u64 = 300;
/// Where fresh seeds begin unless told otherwise; regressions are found anywhere.
const FIRST_FRESH: u64 = 1_000_000;
/// Runs that a planted bug may take to be found.
const SEEDS_PER_BUG: u64 = 400;
/// The cores of the machine that gates changes.
pub const THREADS: usize = 2;

pub fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs a seed; a panic of the engine counts as a failure of it.
fn outcome_of<E: Subject>(seed: u64, detail: Detail, trace: bool) -> Result<Outcome, String> {
    let attempt = AssertUnwindSafe(|| run::<E>(seed, Swarm::drawn(seed), detail, trace));
    match catch_unwind(attempt) {
        Ok(outcome) => match &outcome.violation {
            None => Ok(outcome),
            Some(violation) => {
                write_trace(&outcome.trace);
                Err(violation.to_string())
            }
        },
        Err(_) => Err("the engine panicked".to_owned()),
    }
}

pub fn write_trace(lines: &[String]) {
    if let Ok(path) = std::env::var("TWINBLK_SIM_TRACE")
        && !lines.is_empty()
    {
        match std::fs::write(&path, lines.join("\n")) {
            Ok(()) => println!("trace: {path}"),
            Err(error) => println!("no trace: {path}: {error}"),
        }
    }
}

fn reproduction(seed: u64, why: &str) -> String {
    format!(
        "seed {seed}: {why}\n  reproduce: TWINBLK_SEED={seed} TWINBLK_SIM_TRACE=trace.txt cargo \
         test --test sim seeds"
    )
}

/// All seeds of this run hold every invariant.
pub fn seeds_hold_every_invariant<E: Subject>() {
    if let Some(seed) = variable("TWINBLK_SEED") {
        let trace = std::env::var("TWINBLK_SIM_TRACE").is_ok();
        match outcome_of::<E>(seed, Detail::Outline, trace) {
            Ok(outcome) => println!("seed {seed} passes: {}", outcome.statistics),
            Err(why) => panic!("{}", reproduction(seed, &why)),
        }
        return;
    }
    let first = variable("TWINBLK_SIM_START").unwrap_or(FIRST_FRESH);
    let count = variable("TWINBLK_SIM_SEEDS").unwrap_or(FRESH);
    let mut seeds = REGRESSIONS.to_vec();
    seeds.extend(first..first + count);
    seeds.extend(FIRST_MAINTAINED..FIRST_MAINTAINED + count / 5);
    seeds.extend(FIRST_SLOW..FIRST_SLOW + count / 5);
    seeds.extend(FIRST_GROWING..FIRST_GROWING + count / 5);
    seeds.extend(FIRST_WITNESSED..FIRST_WITNESSED + count / 5);
    let next = AtomicU64::new(0);
    let total = Mutex::new((Statistics::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let outcome = outcome_of::<E>(*seed, Detail::Outline, false);
                    let mut total = total.lock().unwrap_or_else(|poison| poison.into_inner());
                    match outcome {
                        Ok(outcome) => total.0.add(&outcome.statistics),
                        Err(why) => total.1.push(reproduction(*seed, &why)),
                    }
                    if total.1.len() >= 10 {
                        break;
                    }
                }
            });
        }
    });
    let (statistics, failures) = total.into_inner().unwrap_or_else(|poison| poison.into_inner());
    println!("{statistics}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The same seed twice: the same events, the same effects, at the same times.
pub fn seeds_are_deterministic<E: Subject>() {
    for seed in FIRST_FRESH..FIRST_FRESH + 8 {
        let [once, again] =
            [(); 2].map(|()| run::<E>(seed, Swarm::drawn(seed), Detail::Everything, false).hash);
        assert_eq!(once, again, "seed {seed}");
    }
}

/// The evidence that the simulator is worth its name: each planted bug is found.
pub fn planted_bugs_are_found<E: Subject>() {
    let next = AtomicU64::new(0);
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(sabotage) =
                    Sabotage::ALL.get(next.fetch_add(1, Ordering::Relaxed) as usize)
                {
                    match find::<E>(*sabotage) {
                        Some((seed, why)) => println!("{sabotage:?}: seed {seed}: {why}"),
                        None => missed
                            .lock()
                            .unwrap_or_else(|poison| poison.into_inner())
                            .push(*sabotage),
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap_or_else(|poison| poison.into_inner());
    assert!(missed.is_empty(), "not found within {SEEDS_PER_BUG} seeds each: {missed:?}");
}

fn find<E: Subject>(sabotage: Sabotage) -> Option<(u64, String)> {
    (0..SEEDS_PER_BUG).find_map(|seed| {
        let run =
            || run_sabotaged::<E>(seed, Swarm::drawn(seed), Some(sabotage), Detail::Outline, false);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(outcome) => outcome.violation.map(|violation| (seed, violation.to_string())),
            Err(_) => Some((seed, "the engine's own assertion".to_owned())),
        }
    })
}
