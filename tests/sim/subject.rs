//! What the simulator needs of an engine: exactly the calls that the driver makes, and the windows
//! that `status` looks through.

use twinblk::engine::effect::Effects;
use twinblk::engine::event::{DeviceRecord, Event, Settings, Time};
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
}
