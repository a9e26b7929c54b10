//! What was written where. Each block that is written carries its own number and version, so that a
//! lost or misplaced write names itself.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::client::NbdClient;

pub(super) const BLOCK_BYTES: u64 = 4096;
/// Writes in flight.
const DEPTH: usize = 16;

#[derive(Debug)]
pub(super) struct Ledger {
    /// Version that was acknowledged, by block; 0 = never written.
    acknowledged: Vec<u32>,
    acknowledgements: u64,
    /// Block and version of writes without answer.
    in_flight: BTreeMap<u64, (u64, u32)>,
    next_cookie: u64,
    random: u64,
}

/// What a reading of everything found.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Blocks that hold less than what was acknowledged.
    pub(super) lost: u64,
    pub(super) first_lost: Option<String>,
}

impl Ledger {
    pub(super) fn new(size_bytes: u64) -> Self {
        Self {
            acknowledged: vec![0; (size_bytes / BLOCK_BYTES) as usize],
            acknowledgements: 0,
            in_flight: BTreeMap::new(),
            next_cookie: 1,
            random: 0x9E37_79B9_7F4A_7C15,
        }
    }

    pub(super) const fn acknowledged(&self) -> u64 {
        self.acknowledgements
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.len() as u64
    }

    /// Fills the pipeline and takes one answer.
    pub(super) fn write_some(&mut self, client: &mut NbdClient) -> Result<()> {
        while self.in_flight.len() < DEPTH {
            let block = self.random_block();
            if self.in_flight.values().any(|(busy, _)| *busy == block) {
                continue;
            }
            let version = self.acknowledged[block as usize] + 1;
            let cookie = self.next_cookie;
            self.next_cookie += 1;
            self.in_flight.insert(cookie, (block, version));
            client.send_write(cookie, block * BLOCK_BYTES, &content(block, version))?;
        }
        self.take_answer(client)
    }

    fn take_answer(&mut self, client: &mut NbdClient) -> Result<()> {
        let (cookie, error) = client.answer()?;
        if error != 0 {
            bail!("a write failed with error {error}");
        }
        let Some((block, version)) = self.in_flight.remove(&cookie) else {
            bail!("an answer to a write that was not asked for");
        };
        self.acknowledged[block as usize] = version;
        self.acknowledgements += 1;
        Ok(())
    }

    /// Takes the answers that are still due.
    pub(super) fn drain(&mut self, client: &mut NbdClient) -> Result<()> {
        while !self.in_flight.is_empty() {
            self.take_answer(client)?;
        }
        Ok(())
    }

    /// The server was killed: writes on until the connection breaks.
    pub(super) fn write_until_error(&mut self, client: &mut NbdClient) -> Result<()> {
        while self.write_some(client).is_ok() {}
        Ok(())
    }

    /// Reads every block that was ever written.
    pub(super) fn verify(&self, client: &mut NbdClient) -> Result<Verdict> {
        let mut verdict = Verdict { lost: 0, first_lost: None };
        let mut found = vec![0; BLOCK_BYTES as usize];
        for (block, &version) in self.acknowledged.iter().enumerate() {
            let block = block as u64;
            let pending = self.in_flight.values().find(|(busy, _)| *busy == block);
            if version == 0 && pending.is_none() {
                continue;
            }
            client.read(block * BLOCK_BYTES, &mut found)?;
            let holds = |version: u32| match version {
                0 => found.iter().all(|&byte| byte == 0),
                version => found == content(block, version),
            };
            // A write in flight at the kill may be there or not; both are right.
            if !holds(version) && !pending.is_some_and(|(_, next)| holds(*next)) {
                verdict.lost += 1;
                verdict.first_lost.get_or_insert_with(|| {
                    format!("block {block} should hold version {version}, and does not")
                });
            }
        }
        Ok(verdict)
    }

    /// After the verification: what was in flight is nobody's business any more. Its blocks are
    /// written anew with a version that neither had.
    pub(super) fn settle(&mut self) {
        for (block, version) in std::mem::take(&mut self.in_flight).into_values() {
            self.acknowledged[block as usize] = version;
        }
    }

    /// xorshift64*: any spread over the device will do.
    fn random_block(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) % self.acknowledged.len() as u64
    }
}

/// The bytes of a version of a block: number and version over and over, mixed so that no two words
/// of a device are alike.
fn content(block: u64, version: u32) -> Vec<u8> {
    let seed = block << 20 ^ u64::from(version);
    (0..BLOCK_BYTES / 8)
        .flat_map(|word| {
            (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ word << 48 ^ seed).to_le_bytes()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_tell_blocks_and_versions_apart() {
        assert_ne!(content(1, 1), content(1, 2));
        assert_ne!(content(1, 1), content(2, 1));
        assert_eq!(content(7, 3).len() as u64, BLOCK_BYTES);
    }
}
