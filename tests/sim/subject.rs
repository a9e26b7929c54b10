//! What the simulator needs of an engine: exactly the calls that the driver makes, and the windows
//! that `status` looks through.

use twinblk::engine::effect::Effects;
use twinblk::engine::event::{DeviceRecord, Event, Settings, Time};
use twinblk::engine::verdict::Verdict;
use twinblk_proto::state::State;

pub trait Subject {
    fn new(settings: Settings) -> Self;
    /// Called before each `handle`: keeps a small stock of random numbers in the engine.
    fn stock_random(&mut self, source: &mut dyn FnMut() -> u64);
    fn handle(&mut self, now: Time, event: Event, effects: &mut Effects);
    /// Called at the end of a batch of events.
    fn settle(&mut self, now: Time, effects: &mut Effects);
    fn state(&self) -> State;
    fn record(&self) -> DeviceRecord;
    fn device_sectors(&self) -> u64;
    fn out_of_sync_blocks(&self) -> u64;
    fn is_out_of_sync(&self, block: u64) -> bool;
    fn resync_blocks_moved(&self) -> u64;
    fn verdict(&self) -> Option<Verdict>;
    fn resync_blocks_equal(&self) -> u64;
    /// Its policy said that the other node went on.
    fn is_replaced(&self) -> bool {
        false
    }
    /// It tells its operator of a split brain.
    fn has_split_brain(&self) -> bool {
        false
    }
}

impl Subject for twinblk::engine::Engine {
    fn new(settings: Settings) -> Self {
        Self::new(settings)
    }

    fn stock_random(&mut self, source: &mut dyn FnMut() -> u64) {
        self.stock_random(source);
    }

    fn handle(&mut self, now: Time, event: Event, effects: &mut Effects) {
        self.handle(now, event, effects);
    }

    fn settle(&mut self, now: Time, effects: &mut Effects) {
        self.settle(now, effects);
    }

    fn state(&self) -> State {
        self.state()
    }

    fn record(&self) -> DeviceRecord {
        self.record()
    }

    fn device_sectors(&self) -> u64 {
        self.device_sectors()
    }

    fn out_of_sync_blocks(&self) -> u64 {
        self.out_of_sync_blocks()
    }

    fn is_out_of_sync(&self, block: u64) -> bool {
        self.is_out_of_sync(block)
    }

    fn resync_blocks_moved(&self) -> u64 {
        self.resync_blocks_moved()
    }

    fn verdict(&self) -> Option<Verdict> {
        self.status().verdict
    }

    fn resync_blocks_equal(&self) -> u64 {
        self.resync_blocks_equal()
    }

    fn is_replaced(&self) -> bool {
        self.status().is_replaced
    }

    fn has_split_brain(&self) -> bool {
        self.status().split_brain.is_some()
    }
}
