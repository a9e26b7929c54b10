//! Generation identifiers: what happens to them, and who is newer (session.md 2 and 3.1).
//!
//! Bit 0 says "was Primary when this was written" and is ignored in every comparison.

use super::event::Generations;

/// Value of `current` on a disk that never took part in anything.
pub const JUST_CREATED: u64 = 4;
/// What a sync source adds to its bitmap identifier to make the sync identifier.
pub const SYNC_STEP: u64 = 0x0001_0000_0000_0000;
/// Older peers know neither the sync identifier's step nor the corrections that rest on it.
const VERSION_OF_CORRECTIONS: u32 = 91;
const VERSION_OF_SYNC_STEP: u32 = 96;

const PRIMARY_BIT: u64 = 1;

/// Whether two identifiers name the same generation.
pub const fn same(a: u64, b: u64) -> bool {
    a & !PRIMARY_BIT == b & !PRIMARY_BIT
}

const fn is_zero(value: u64) -> bool {
    value & !PRIMARY_BIT == 0
}

impl Generations {
    /// A new generation begins: the bitmap counts changes since the one before. DRBD forgets a base
    /// that is still there (forced promotion of a disk that failed while it was ahead); here it
    /// becomes history, or the peer that holds it would be taken for unrelated.
    pub fn begin(&mut self, random: u64, primary: bool) {
        self.rotate_bitmap(self.current);
        self.current = with_role(random, primary);
    }

    /// Puts `value` into the bitmap identifier and what was there into the history.
    pub fn rotate_bitmap(&mut self, value: u64) {
        if self.bitmap != 0 {
            self.history[1] = self.history[0];
            self.history[0] = self.bitmap;
        }
        self.bitmap = value;
    }

    /// Nothing is recorded any more: the peer has it all.
    pub fn clear_bitmap(&mut self) {
        if self.bitmap != 0 {
            self.rotate_bitmap(0);
        }
    }

    /// Becoming sync source: the new bitmap identifier, which `P_SYNC_UUID` carries.
    pub fn begin_as_source(&mut self, random: u64) -> u64 {
        let value = if is_zero(self.bitmap) || same(self.bitmap, JUST_CREATED) {
            random
        } else {
            self.bitmap.wrapping_add(SYNC_STEP)
        };
        self.rotate_bitmap(value);
        value
    }

    /// A target that never hears of the new identifier must be found again: without its generation
    /// among the source's, the next comparison would call the two unrelated. As the younger of the
    /// history it survives the next rotation; with a resync begun and interrupted again and again,
    /// and a promotion of the source in between, the kernel loses it.
    pub fn keep_target(&mut self, current: u64) {
        let fresh = is_zero(current) || same(current, JUST_CREATED);
        let younger = [self.current, self.bitmap, self.history[0]];
        if !fresh && !younger.into_iter().any(|one| same(one, current)) {
            self.history = [current, self.history[0]];
        }
    }

    /// The target received `P_SYNC_UUID`: half of the old and half of the new generation.
    pub fn begin_as_target(&mut self, sync: u64, primary: bool) {
        self.current = with_role(sync, primary);
        self.bitmap = 0;
    }

    /// The target holds every block of the peer: it takes over the peer's identifiers, with the
    /// sync identifier as the newest history.
    pub fn finish_as_target(&mut self, peer: &Self, primary: bool) {
        let sync = self.current;
        self.bitmap = peer.bitmap;
        self.history = peer.history;
        self.rotate_bitmap(sync);
        self.current = with_role(peer.current, primary);
        self.clear_bitmap();
    }

    /// Bit 0 of the current identifier follows the role.
    pub fn mark_role(&mut self, primary: bool) {
        self.current = with_role(self.current, primary);
    }
}

const fn with_role(value: u64, primary: bool) -> u64 {
    value & !PRIMARY_BIT | primary as u64
}

/// What the comparison says about me.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    SourceFull,
    Source,
    NoSync,
    Target,
    TargetFull,
    /// Split brain with a known common generation: automatic recovery may be tried.
    SplitBrain,
    /// Split brain without one.
    SplitBrainAmbiguous,
    Unrelated,
    /// The rule needs a feature or version that the peer does not have.
    Unsupported,
}

impl Outcome {
    /// DRBD's number for it, as in its log.
    pub const fn number(self) -> i32 {
        match self {
            Self::SourceFull => 2,
            Self::Source => 1,
            Self::NoSync => 0,
            Self::Target => -1,
            Self::TargetFull => -2,
            Self::SplitBrain => 100,
            Self::SplitBrainAmbiguous => -100,
            Self::Unrelated => -1000,
            Self::Unsupported => -1001,
        }
    }

    /// What the peer finds when it compares the same two sets.
    pub const fn mirrored(self) -> Self {
        match self {
            Self::SourceFull => Self::TargetFull,
            Self::Source => Self::Target,
            Self::Target => Self::Source,
            Self::TargetFull => Self::SourceFull,
            other => other,
        }
    }
}

/// What besides the identifiers goes into the comparison.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Agreed protocol version.
    pub version: u32,
    pub my_crashed_primary: bool,
    pub peer_crashed_primary: bool,
    pub i_am_primary: bool,
    pub peer_is_primary: bool,
    /// I accepted the meta socket: the tie breaker.
    pub resolve: bool,
    /// Rule 41 needs feature WSAME.
    pub feature_wsame: bool,
    /// Both nodes resync dirty bits under equal generations (I10); only between twinblk nodes.
    pub heal_equal_generations: bool,
    pub my_dirty_bits: u64,
    pub peer_dirty_bits: u64,
    /// An interrupted resync target: its disk is Inconsistent.
    pub i_am_inconsistent: bool,
    pub peer_is_inconsistent: bool,
}

/// The answer of [`compare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub outcome: Outcome,
    /// Number of the rule in session.md 3.1 that matched.
    pub rule: u32,
    /// My identifiers, corrected where a rule says so (34, 71).
    pub mine: Generations,
    /// My copy of the peer's, corrected likewise (35, 51).
    pub peers: Generations,
}

/// The decision table of session.md 3.1: the first rule that matches.
pub fn compare(mine: Generations, peers: Generations, with: &Circumstances) -> Comparison {
    let mut result = Comparison { outcome: Outcome::Unrelated, rule: 100, mine, peers };
    let (outcome, rule) = decide(&mut result, with);
    result.outcome = outcome;
    result.rule = rule;
    result
}

fn decide(c: &mut Comparison, with: &Circumstances) -> (Outcome, u32) {
    let (mine, peer) = (c.mine, c.peers);
    let fresh = |value: u64| same(value, JUST_CREATED) || is_zero(value);
    if same(mine.current, JUST_CREATED) && same(peer.current, JUST_CREATED) {
        return (Outcome::NoSync, 10);
    }
    if fresh(mine.current) && !same(peer.current, JUST_CREATED) {
        return (Outcome::TargetFull, 20);
    }
    if !same(mine.current, JUST_CREATED) && fresh(peer.current) {
        return (Outcome::SourceFull, 30);
    }
    if same(mine.current, peer.current) {
        return equal_generations(c, with);
    }
    if same(mine.current, peer.bitmap) {
        return (Outcome::Target, 50);
    }
    if same(mine.current, peer.history[0]) && lost_identifier(&mine, &peer, with) {
        if with.version < VERSION_OF_CORRECTIONS {
            return (Outcome::Unsupported, 51);
        }
        // The last P_SYNC_UUID was lost: undo the peer's rotation in my copy.
        c.peers.bitmap = peer.history[0];
        c.peers.history[0] = peer.history[1];
        return (Outcome::Target, 51);
    }
    // Between twinblk nodes: the source had every acknowledgement and rotated the sync identifier
    // away, the target died before it took note. Its bits went to disk only after its data, so the
    // union of both bitmaps is all that differs: no full sync.
    if with.heal_equal_generations && with.i_am_inconsistent && same(mine.current, peer.history[0])
    {
        return (Outcome::Target, 61);
    }
    if peer.history.iter().any(|&old| same(mine.current, old)) {
        return (Outcome::TargetFull, 60);
    }
    if same(mine.bitmap, peer.current) {
        return (Outcome::Source, 70);
    }
    if same(mine.history[0], peer.current) && lost_identifier(&peer, &mine, with) {
        if with.version < VERSION_OF_CORRECTIONS {
            return (Outcome::Unsupported, 71);
        }
        c.mine.bitmap = mine.history[0];
        c.mine.history[0] = mine.history[1];
        return (Outcome::Source, 71);
    }
    if with.heal_equal_generations
        && with.peer_is_inconsistent
        && same(mine.history[0], peer.current)
    {
        return (Outcome::Source, 81);
    }
    if mine.history.iter().any(|&old| same(old, peer.current)) {
        return (Outcome::SourceFull, 80);
    }
    if same(mine.bitmap, peer.bitmap) && !is_zero(mine.bitmap) {
        return (Outcome::SplitBrain, 90);
    }
    // Deliberate difference (behaviour.md 3.3): unset history slots are no common ancestor.
    let related = mine
        .history
        .iter()
        .any(|&old| !is_zero(old) && peer.history.iter().any(|&other| same(old, other)));
    if related {
        return (Outcome::SplitBrainAmbiguous, 100);
    }
    (Outcome::Unrelated, 100)
}

/// Rules 51 and 71: the source began a resync of which its target did not hear.
fn lost_identifier(target: &Generations, source: &Generations, with: &Circumstances) -> bool {
    if with.version < VERSION_OF_SYNC_STEP {
        same(target.history[0], source.history[1])
    } else {
        same(source.history[0].wrapping_add(SYNC_STEP), source.bitmap)
    }
}

/// Rules 34 to 41: both hold the same generation.
fn equal_generations(c: &mut Comparison, with: &Circumstances) -> (Outcome, u32) {
    let (mine, peer) = (c.mine, c.peers);
    if is_zero(peer.bitmap) != is_zero(mine.bitmap) && with.version < VERSION_OF_CORRECTIONS {
        return (Outcome::Unsupported, if is_zero(peer.bitmap) { 34 } else { 35 });
    }
    if is_zero(peer.bitmap) && !is_zero(mine.bitmap) {
        if same(mine.bitmap, peer.history[0]) && same(mine.history[0], peer.history[1]) {
            // I was source and missed the end.
            c.mine.clear_bitmap();
            return (Outcome::Source, 34);
        }
        return (Outcome::Source, 36);
    }
    if is_zero(mine.bitmap) && !is_zero(peer.bitmap) {
        if same(mine.history[0], peer.bitmap) && same(mine.history[1], peer.history[0]) {
            c.peers.clear_bitmap();
            return (Outcome::Target, 35);
        }
        return (Outcome::Target, 37);
    }
    let crashed = (with.my_crashed_primary, with.peer_crashed_primary);
    if crashed == (false, false) {
        return (heal(with), 40);
    }
    match (with.i_am_primary, with.peer_is_primary) {
        (false, false) => match crashed {
            (true, false) => (Outcome::Source, 40),
            (false, _) => (Outcome::Target, 40),
            (true, true) if with.resolve => (Outcome::Target, 40),
            (true, true) => (Outcome::Source, 40),
        },
        _ if !with.feature_wsame => (Outcome::Unsupported, 41),
        (true, true) => (Outcome::SplitBrainAmbiguous, 41),
        (true, false) => (Outcome::Source, 41),
        (false, true) => (Outcome::Target, 41),
    }
}

/// Equal generations and no crash. DRBD leaves set bits alone here and says so in its log; that
/// hides a difference for good, so two twinblk nodes resync them (I10). Marked on one disk only, it
/// is the one that died, or failed a flush, between the end of a resync and the write-back of its
/// bits: it may have lost those blocks, and the other has them.
fn heal(with: &Circumstances) -> Outcome {
    if !with.heal_equal_generations || (with.my_dirty_bits == 0 && with.peer_dirty_bits == 0) {
        return Outcome::NoSync;
    }
    match (with.i_am_primary, with.peer_is_primary) {
        (true, true) => Outcome::SplitBrainAmbiguous,
        (true, false) => Outcome::Source,
        (false, true) => Outcome::Target,
        (false, false) => match (with.my_dirty_bits, with.peer_dirty_bits) {
            (0, _) => Outcome::Source,
            (_, 0) => Outcome::Target,
            _ if with.resolve => Outcome::Target,
            _ => Outcome::Source,
        },
    }
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
