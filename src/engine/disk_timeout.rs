//! A disk that does not answer (`disk-timeout`, behaviour.md 4): given up as by a forced detach.
//!
//! What it still has under way counts as failed here, at once. The driver keeps the memory of each
//! operation until the kernel lets go of it, takes no result of it, and opens no disk before: what
//! comes late overwrites nothing and is acknowledged to nobody. (DRBD's manual calls the option
//! dangerous because the kernel's pages belong to somebody else by then.)

use super::Engine;
use super::effect::{Effect, NoteLevel};
use super::event::{DiskFailure, DiskOpId, IoErrorPolicy, Time, Timer};
use super::handler::Handler;

impl Engine {
    fn disk_timeout_ms(&self) -> u64 {
        u64::from(self.settings.disk_timeout) * 100
    }

    /// An operation begins.
    pub(super) fn watch_disk(&mut self) {
        let limit_ms = self.disk_timeout_ms();
        if limit_ms > 0 && self.disk_due.is_none() {
            self.look_at_disk(self.now.after_ms(limit_ms));
        }
    }

    pub(super) fn disk_timeout_changed(&mut self) {
        self.disk_due = None;
        if !self.ops.is_empty() {
            self.watch_disk();
        }
    }

    fn look_at_disk(&mut self, at: Time) {
        self.disk_due = Some(at);
        self.emit(Effect::SetTimer { timer: Timer::DiskTimeout, at });
    }

    pub(super) fn disk_timer(&mut self) {
        let Some(planned) = self.disk_due.take() else { return };
        let limit_ms = self.disk_timeout_ms();
        let oldest = self.ops.iter().map(|(_, (_, since))| *since).min();
        let (Some(oldest), true) = (oldest, limit_ms > 0) else { return };
        let due = oldest.after_ms(limit_ms);
        if self.now < due {
            return self.look_at_disk(due);
        }
        if self.now >= planned.after_ms(limit_ms / 2) {
            // This process was stopped meanwhile, and with it whatever hears of the disk.
            return self.look_at_disk(self.now.after_ms(limit_ms));
        }
        let text = format!("the disk did not finish a request within {limit_ms} ms (disk-timeout)");
        self.note(NoteLevel::Error, text.clone());
        if self.settings.on_io_error == IoErrorPolicy::CallHandler {
            self.run_handler(Handler::LocalIoError);
        }
        self.fail_disk(&text);
        self.drop_operations("the disk was given up (disk-timeout)");
    }

    /// Treats every operation under way as failed; the driver will not report them.
    pub(super) fn drop_operations(&mut self, why: &str) {
        for key in self.ops.keys() {
            let failure = DiskFailure { errno: 5, text: why.to_owned() };
            self.disk_completed(DiskOpId(key), Err(failure));
        }
    }
}
