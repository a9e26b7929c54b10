//! What an operator does between failures: verify, pause a resync, resume it. And, when all is quiet,
//! differences planted on one disk, which a verify must find, exactly those, and mend.

use std::collections::BTreeSet;

use twinblk::engine::event::{RepairFrom, Verb};
use twinblk_proto::units::BLOCK_SECTORS;

use crate::oracle::Invariant;
use crate::subject::Subject;
use crate::world::World;

/// Blocks that one verify of a seed compares: enough for many windows, few enough for many seeds.
const BLOCKS_PER_VERIFY: u64 = 2_000;

impl<E: Subject> World<E> {
    /// A step of the faults' actor; draws from a stream of its own.
    pub fn maintain(&mut self) {
        let random = &mut self.faults.maintenance;
        let node = random.below(2) as usize;
        let (verify, pause) =
            (random.chance(self.swarm.rates.verify), random.chance(self.swarm.rates.pause_sync));
        let blocks = self.swarm.device_sectors / BLOCK_SECTORS;
        let first = random.below(blocks);
        let repair = random.percent(20).then_some(RepairFrom::Primary);
        let resume = random.percent(60);
        if !self.nodes[node].is_running() {
            return;
        }
        if verify {
            let start = Some(first * BLOCK_SECTORS);
            let stop = Some((first + BLOCKS_PER_VERIFY) * BLOCK_SECTORS);
            self.command(node, Verb::Verify { start, stop, repair });
        }
        if pause {
            self.command(node, if resume { Verb::ResumeSync } else { Verb::PauseSync });
        }
    }

    /// False when something is wrong.
    pub fn plant_and_mend(&mut self) -> bool {
        let blocks = self.swarm.device_sectors.div_ceil(BLOCK_SECTORS);
        let random = &mut self.faults.maintenance;
        let around = random.below(blocks);
        let planted: BTreeSet<u64> = (0..random.between(1, 9))
            .map(|_| (around + random.skewed(0, BLOCKS_PER_VERIFY / 2)) % blocks)
            .collect();
        let (asking, chosen) = (random.below(2) as usize, random.below(2) as usize);
        // A Primary's data cannot be replaced, so that is not where the rot is.
        let primary = (0..2).find(|node| self.nodes[*node].is_primary());
        let bad = primary.map_or(chosen, |primary| 1 - primary);
        let from = match primary {
            Some(_) => RepairFrom::Primary,
            None if bad == asking => RepairFrom::Peer,
            None => RepairFrom::ThisNode,
        };
        let before: Vec<u64> = self.differences().collect();
        if !before.is_empty() {
            self.violate(Invariant::I4, format!("at rest, blocks {before:?} differ"));
            return false;
        }
        self.note(bad, format_args!("rots in blocks {planted:?}"));
        for block in &planted {
            self.plant(bad, *block);
        }
        self.found.clear();
        let first = planted.first().expect("one at least");
        let last = planted.last().expect("one at least");
        let verb = Verb::Verify {
            start: Some(first * BLOCK_SECTORS),
            stop: Some((last + 1) * BLOCK_SECTORS),
            repair: Some(from),
        };
        let command = self.command(asking, verb);
        let give_up_us = self.now_us + self.swarm.healing_ms * 1000;
        loop {
            if !self.step() || self.has_run_away() {
                return false;
            }
            let outcome = self.outcome(asking, command);
            if let Some(Err(refusal)) = outcome {
                let text = format!("verify is refused: {refusal:?}");
                self.violate(Invariant::I11, text);
                return false;
            }
            if self.found == planted && self.has_healed() && self.differences().next().is_none() {
                return true;
            }
            if self.now_us > give_up_us {
                let text = format!(
                    "planted {planted:?}, found {:?}, left {:?}: {}",
                    self.found,
                    self.differences().collect::<Vec<u64>>(),
                    self.standing()
                );
                self.violate(Invariant::I4, text);
                return false;
            }
        }
    }

    fn differences(&self) -> impl Iterator<Item = u64> + use<E> {
        let sectors = self.nodes[0].medium.differences(&self.nodes[1].medium);
        let blocks: BTreeSet<u64> =
            sectors.into_iter().map(|sector| sector / BLOCK_SECTORS).collect();
        blocks.into_iter()
    }
}
