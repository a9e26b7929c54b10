//! Writers in the background, and what they know afterwards: which write of each block was answered.
//!
//! The content of a block is `ledger::content`: it tells block and stamp. Each writer has blocks of
//! its own, so that a block has one write in flight at most.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::device::Device;
use crate::common::ledger::{BLOCK_BYTES, Random, content};

/// Nothing that is waited for here takes this long in the slowest guest.
const LIMIT: Duration = Duration::from_secs(60);
/// One in so many writes is followed by a flush.
const FLUSH_EVERY: u64 = 16;

/// Newest stamps of one block.
#[derive(Clone, Copy, Debug, Default)]
struct Stamps {
    answered: u64,
    asked: u64,
}

/// What must be on the device.
#[derive(Clone, Debug, Default)]
pub struct Written {
    blocks: BTreeMap<u64, Stamps>,
}

impl Written {
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// One block now, with a stamp above all earlier ones.
    pub fn write(&mut self, device: &mut dyn Device, block: u64) -> io::Result<()> {
        let stamps = self.blocks.entry(block).or_default();
        stamps.asked += 1;
        device.write(block * BLOCK_BYTES as u64, &content(block, stamps.asked))?;
        stamps.answered = stamps.asked;
        Ok(())
    }

    /// Writes these blocks and flushes.
    pub fn write_all(&mut self, device: &mut dyn Device, blocks: impl IntoIterator<Item = u64>) {
        for block in blocks {
            self.write(device, block).unwrap_or_else(|error| panic!("block {block}: {error}"));
        }
        device.flush().expect("a flush");
    }

    /// Reads everything back; what was asked but not answered may be there or not.
    pub fn check(&self, device: &mut dyn Device) {
        for (&block, stamps) in &self.blocks {
            let data = device
                .read(block * BLOCK_BYTES as u64, BLOCK_BYTES)
                .unwrap_or_else(|error| panic!("block {block} cannot be read: {error}"));
            let stamp = u64::from_le_bytes(data[..8].try_into().expect("8 bytes"));
            if stamp == 0 && stamps.answered == 0 {
                continue;
            }
            let right = (stamps.answered..=stamps.asked).contains(&stamp);
            assert!(right, "block {block} has stamp {stamp}, not {stamps:?}");
            assert!(data == content(block, stamp), "block {block} is a mixture of writes");
        }
    }

    /// What is on the device now counts as answered: after a failure one outcome was chosen.
    pub fn adopt(&mut self, device: &mut dyn Device) {
        for (&block, stamps) in &mut self.blocks {
            let data = device.read(block * BLOCK_BYTES as u64, 512).expect("a read");
            stamps.answered = u64::from_le_bytes(data[..8].try_into().expect("8 bytes"));
            stamps.asked = stamps.answered.max(stamps.asked);
        }
    }
}

#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    writers: Vec<JoinHandle<(Written, io::Result<()>)>>,
}

impl Load {
    /// Writes random blocks of `range`, one writer for each device (all lead to the same one).
    pub fn start(devices: Vec<Box<dyn Device>>, range: Range<u64>, known: Written) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let count = devices.len() as u64;
        let writers = devices.into_iter().zip(0_u64..).map(|(mut device, index)| {
            let (stop, answers) = (stop.clone(), answers.clone());
            let (range, mut written) = (range.clone(), known.clone());
            written.blocks.retain(|block, _| block % count == index);
            let mut random = Random(0x9e37_79b9 + index * 7919 + known.len() as u64);
            std::thread::spawn(move || {
                let mut result = Ok(());
                while result.is_ok() && !stop.load(Ordering::Relaxed) {
                    let drawn = range.start + random.next() % (range.end - range.start);
                    let block = drawn - drawn % count + index;
                    if !range.contains(&block) {
                        continue;
                    }
                    result = written.write(&mut *device, block);
                    let answered = answers.fetch_add(1, Ordering::Relaxed);
                    if result.is_ok() && answered % FLUSH_EVERY == 0 {
                        result = device.flush();
                    }
                }
                (written, result)
            })
        });
        let writers = writers.collect();
        Self { stop, answers, writers }
    }

    /// Waits until so many more writes were answered.
    pub fn wait_for(&self, more: u64) {
        let wanted = self.answers.load(Ordering::Relaxed) + more;
        let limit = Instant::now() + LIMIT;
        while self.answers.load(Ordering::Relaxed) < wanted {
            assert!(self.writers.iter().all(|writer| !writer.is_finished()), "a write failed");
            assert!(Instant::now() < limit, "writes are not answered any more");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it; no write may have failed.
    pub fn end(self) -> Written {
        let (written, result) = self.end_with_result();
        result.expect("every write answered");
        written
    }

    /// Ends it, or finds that the device went away.
    pub fn end_with_result(self) -> (Written, io::Result<()>) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut all, mut outcome) = (Written::default(), Ok(()));
        for writer in self.writers {
            let (written, result) = writer.join().expect("a writer");
            all.blocks.extend(written.blocks);
            outcome = outcome.and(result);
        }
        (all, outcome)
    }
}
