//! Stamped blocks: who wrote what, what was answered, and whether a device still holds it.
//!
//! Every write of a block carries a stamp that grows. After any number of failures a block must
//! hold the newest answered stamp, or a newer one that was asked for; never an older one.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::nbd::{NbdClient, WRITE};

pub const BLOCK_BYTES: usize = 4096;

/// What is known of one block.
#[derive(Clone, Debug, Default)]
struct Entry {
    answered: u64,
    asked: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    blocks: BTreeMap<u64, Entry>,
    stamp: u64,
    /// Block where storms begin.
    first_block: u64,
}

/// The content of a block: recognisable, and different in every 8 bytes.
pub fn content(block: u64, stamp: u64) -> Vec<u8> {
    let words = (0..BLOCK_BYTES as u64 / 16)
        .flat_map(|word| [stamp, block.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word]);
    words.flat_map(u64::to_le_bytes).collect()
}

/// A small generator: the tests' seeds make their runs repeatable.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Ledger {
    pub fn answered_blocks(&self) -> usize {
        self.blocks.values().filter(|entry| entry.answered > 0).count()
    }

    /// Storms leave the blocks before this one alone.
    pub fn begin_at(&mut self, first_block: u64) {
        self.first_block = first_block;
    }

    fn ask(&mut self, block: u64) -> u64 {
        self.stamp += 1;
        self.blocks.entry(block).or_default().asked = self.stamp;
        self.stamp
    }

    fn answer(&mut self, block: u64, stamp: u64) {
        self.blocks.entry(block).or_default().answered = stamp;
    }

    /// Writes one block and waits for the answer.
    pub fn write(&mut self, client: &mut NbdClient, block: u64) -> io::Result<()> {
        let stamp = self.ask(block);
        client.write(block * BLOCK_BYTES as u64, &content(block, stamp))?;
        self.answer(block, stamp);
        Ok(())
    }

    /// Writes random ones of `blocks` blocks, `depth` at a time, until told to stop (then all are
    /// answered) or until the server goes away. Counts answers in `answers`.
    pub fn storm(
        &mut self,
        client: &mut NbdClient,
        blocks: u64,
        depth: usize,
        random: &mut Random,
        stop: &AtomicBool,
        answers: &AtomicU64,
    ) -> io::Result<()> {
        let mut flying: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        loop {
            while flying.len() < depth && !stop.load(Ordering::Relaxed) {
                let block = self.first_block + random.next() % blocks;
                // One write of a block at a time: two in flight have no order.
                if flying.values().any(|(other, _)| *other == block) {
                    continue;
                }
                let stamp = self.ask(block);
                let span = (block * BLOCK_BYTES as u64, BLOCK_BYTES as u32);
                let handle = client.send(WRITE, 0, span, &content(block, stamp))?;
                flying.insert(handle, (block, stamp));
            }
            if flying.is_empty() {
                return Ok(());
            }
            let answer = client.receive()?;
            let (block, stamp) = flying.remove(&answer.handle).expect("asked for");
            if answer.error != 0 {
                return Err(io::Error::from_raw_os_error(answer.error as i32));
            }
            self.answer(block, stamp);
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads every block that was ever written; returns the first complaint.
    pub fn check(&self, client: &mut NbdClient) -> Result<(), String> {
        for (&block, entry) in &self.blocks {
            let data = client
                .read(block * BLOCK_BYTES as u64, BLOCK_BYTES as u32)
                .map_err(|error| format!("block {block} cannot be read: {error}"))?;
            let stamp = u64::from_le_bytes(data[..8].try_into().expect("8 bytes"));
            if stamp == 0 && entry.answered == 0 {
                continue;
            }
            if stamp < entry.answered || stamp > entry.asked {
                return Err(format!(
                    "block {block}: stamp {stamp}, answered {}, asked {}",
                    entry.answered, entry.asked
                ));
            }
            if data != content(block, stamp) {
                return Err(format!("block {block}: a mixture of writes"));
            }
        }
        Ok(())
    }

    /// What was written but not answered may have got lost: the next answered state counts.
    pub fn adopt(&mut self, client: &mut NbdClient) {
        for (&block, entry) in &mut self.blocks {
            let data = client
                .read(block * BLOCK_BYTES as u64, BLOCK_BYTES as u32)
                .expect("a readable device");
            entry.answered = u64::from_le_bytes(data[..8].try_into().expect("8 bytes"));
            entry.asked = entry.answered;
        }
    }
}
