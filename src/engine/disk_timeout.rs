//! A disk that does not answer (`disk-timeout`): given up as on a forced detach. The driver keeps the
//! buffers until the kernel lets go of them, and opens no disk before, so nothing that comes late can
//! hurt (DRBD's manual warns of that).

use super::Engine;
use super::effect::{Effect, NoteLevel};
use super::event::Timer;

impl Engine {
    pub(super) fn watch_disk(&mut self) {
        let limit_ms = u64::from(self.settings.disk_timeout) * 100;
        if limit_ms > 0 && !self.disk_is_watched {
            self.disk_is_watched = true;
            self.set_timer(Timer::DiskTimeout, limit_ms);
        }
    }

    pub(super) fn disk_timer(&mut self) {
        self.disk_is_watched = false;
        let limit_ms = u64::from(self.settings.disk_timeout) * 100;
        let oldest = self.ops.iter().map(|(_, (_, since))| *since).min();
        let (Some(oldest), true) = (oldest, limit_ms > 0) else { return };
        let due = oldest.after_ms(limit_ms);
        if self.now < due {
            self.disk_is_watched = true;
            return self.emit(Effect::SetTimer { timer: Timer::DiskTimeout, at: due });
        }
        let text = format!("the disk did not finish a request within {limit_ms} ms (disk-timeout)");
        self.note(NoteLevel::Error, text.clone());
        self.fail_disk(&text);
        self.drop_operations();
    }
}
