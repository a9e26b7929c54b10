//! One seed from beginning to end: a phase with faults, then none, and the cluster must heal.

use std::fmt::Write;

use twinblk_proto::state::{ConnectionState, DiskState};

use crate::oracle::{Floor, Invariant, Violation};
use crate::recorder::{Detail, Statistics};
use crate::sabotage::Sabotage;
use crate::subject::Subject;
use crate::swarm::Swarm;
use crate::world::World;

/// A world that makes more events than this has a loop in it.
const EVENTS_PER_SEED: u64 = 3_000_000;
/// How long a healed world is left alone before it is looked at: longer than any idle timer.
const REST_US: u64 = 15_000_000;

#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<Violation>,
    pub statistics: Statistics,
    pub hash: u64,
    pub trace: Vec<String>,
}

pub fn run<E: Subject>(seed: u64, swarm: Swarm, detail: Detail, trace: bool) -> Outcome {
    run_sabotaged::<E>(seed, swarm, None, detail, trace)
}

pub fn run_sabotaged<E: Subject>(
    seed: u64,
    swarm: Swarm,
    sabotage: Option<Sabotage>,
    detail: Detail,
    trace: bool,
) -> Outcome {
    let mut world = World::<E>::new(seed, swarm, detail, trace);
    world.sabotage = sabotage;
    world.live();
    let mut statistics = world.statistics.clone();
    statistics.simulated_s = world.now_us / 1_000_000;
    Outcome {
        violation: world.violation.clone(),
        statistics,
        hash: world.recorder.hash(),
        trace: world.recorder.lines().to_vec(),
    }
}

impl<E: Subject> World<E> {
    fn live(&mut self) {
        let until_us = self.faults.until_us;
        while self.agenda.next_time_us().is_some_and(|at_us| at_us < until_us) {
            if !self.step() || self.has_run_away() {
                return;
            }
        }
        self.note(9, format_args!("faults stop"));
        self.calm_down();
        self.heal_completely();
    }

    pub fn has_run_away(&mut self) -> bool {
        if self.statistics.events < EVENTS_PER_SEED {
            return false;
        }
        self.violate(Invariant::I12, "events without end");
        true
    }

    /// I11: without faults, the cluster reaches Connected and UpToDate.
    fn heal_completely(&mut self) {
        let give_up_us = self.now_us + self.swarm.healing_ms * 1000;
        let mut look_us = self.now_us;
        loop {
            if !self.step() || self.has_run_away() {
                return;
            }
            if self.now_us >= look_us {
                if self.has_healed() {
                    break;
                }
                look_us = self.now_us + 10_000;
            }
            if self.now_us > give_up_us {
                let text = format!("the cluster does not heal: {}", self.standing());
                return self.violate(Invariant::I11, text);
            }
        }
        let rested_us = self.now_us + REST_US;
        while self.now_us < rested_us {
            if !self.step() {
                return;
            }
        }
        if self.swarm.plants && !self.plant_and_mend() {
            return;
        }
        self.look_at_the_end();
    }

    pub fn has_healed(&self) -> bool {
        self.has_grown()
            && self.clients.budget == 0
            && self.pending.is_empty()
            && self.nodes.iter().all(|node| {
                let state = node.state();
                state.connection == ConnectionState::Connected
                    && state.disk == DiskState::UpToDate
                    && state.peer_disk == DiskState::UpToDate
                    && node.engine.as_ref().is_some_and(|engine| engine.out_of_sync_blocks() == 0)
            })
    }

    pub fn standing(&self) -> String {
        let mut text = String::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let state = node.state();
            let out_of_sync = node.engine.as_ref().map_or(0, E::out_of_sync_blocks);
            let _ = write!(
                text,
                "[{index}: {}/{} {} {}/{}, {out_of_sync} out of sync, {} payloads, {:?}] ",
                state.role,
                state.peer,
                state.connection,
                state.disk,
                state.peer_disk,
                node.slab.len(),
                node.metadata.record().generations,
            );
        }
        let _ =
            write!(text, "{} requests open, {} to make", self.pending.len(), self.clients.budget);
        text
    }

    fn look_at_the_end(&mut self) {
        for node in &self.nodes {
            self.statistics.blocks_moved += node.engine.as_ref().map_or(0, E::resync_blocks_moved);
        }
        if !self.has_healed() {
            let text = format!("the cluster did not stay healed: {}", self.standing());
            return self.violate(Invariant::I11, text);
        }
        for node in 0..2 {
            let held = self.nodes[node].slab.ids();
            if !held.is_empty() {
                let text = format!("node {node} never released payloads {held:?}");
                return self.violate(Invariant::Contract, text);
            }
        }
        self.check_equal();
        self.check_coverage();
        let touched: Vec<u64> = self.oracle.lineage(0).touched().collect();
        for node in 0..2 {
            for sector in &touched {
                let value = self.nodes[node].medium.view(*sector);
                if let Err(text) = self.oracle.admits(0, *sector, value, Floor::Answered) {
                    let text = format!("at the end, on node {node}: {text}");
                    return self.violate(Invariant::I2, text);
                }
            }
        }
        let outcome = self.oracle.finish();
        self.check(outcome);
    }
}
