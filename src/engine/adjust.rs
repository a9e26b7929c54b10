//! `adjust`: settings that change while the resource runs (behaviour.md 7.1).
//!
//! What the nodes told each other when they connected stays until they connect anew: the one that
//! changed it alone would count on what the other does not do. The size and the activity log belong
//! to the disk that is attached.

use super::Engine;
use super::event::Settings;

impl Engine {
    pub(super) fn adjust(&mut self, wanted: Settings) {
        let old = &self.settings;
        let mut new = wanted;
        if self.session.is_some() {
            new.protocol = old.protocol;
            new.after_sb_0pri = old.after_sb_0pri;
            new.after_sb_1pri = old.after_sb_1pri;
            new.after_sb_2pri = old.after_sb_2pri;
            new.integrity_alg = old.integrity_alg.clone();
            new.verify_alg = old.verify_alg.clone();
            new.csums_alg = old.csums_alg.clone();
            new.use_rle = old.use_rle;
        }
        new.user_sectors = old.user_sectors;
        new.al_extents = old.al_extents;
        self.settings = new;
        self.disk_timeout_changed();
    }
}
